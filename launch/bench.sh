#!/usr/bin/env bash
# Benchmarks, each a ratio within one run.
source "$(dirname "$0")/setup.sh"

case "${1:---help}" in
  efficientnet | losses) ;;
  [!-]*)
    echo "error: expected efficientnet or losses, found $1" >&2
    exit 2
    ;;
  *)
    cat <<'HELP'
bash launch/bench.sh efficientnet [--rounds=6]   EfficientNet-B0 forward and backward against torch, on one core
bash launch/bench.sh losses [--rounds=3]         the three forms of the contrastive loss: time and memory at growing N
HELP
    exit 0
    ;;
esac
what="$1"
shift
setup demo test bench
if [ "$what" = efficientnet ]; then
  references
  PYTHONPATH=. exec taskset -c "${CORE:-0}" .venv/bin/python launch/bench_efficientnet.py "$@"
fi
PYTHONPATH=. exec .venv/bin/python "launch/bench_$what.py" "$@"
