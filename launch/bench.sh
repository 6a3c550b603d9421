#!/usr/bin/env bash
# Benchmarks, each a ratio within one run.
source "$(dirname "$0")/setup.sh"

case "${1:---help}" in
  efficientnet | losses | step | loop | scaling | curate) ;;
  [!-]*)
    echo "error: expected efficientnet, losses, step, loop, scaling or curate, found $1" >&2
    exit 2
    ;;
  *)
    cat <<'HELP'
bash launch/bench.sh efficientnet [--rounds=6]   EfficientNet-B0 forward and backward against torch, on one core
bash launch/bench.sh losses [--rounds=3]         the three forms of the contrastive loss: time and memory at growing N
bash launch/bench.sh step [--rounds=10]          a training step of the demo's size against AlignModel and torch
bash launch/bench.sh loop [--rounds=3]           the training loop against its bare step
bash launch/bench.sh scaling                     bytes of the collectives of a step on 1, 2, 4 and 8 devices
bash launch/bench.sh curate [--pairs=20000]      curation of pairs with known defects: time of each step, drops by rule
HELP
    exit 0
    ;;
esac
what="$1"
shift
setup demo test bench curate
if [ "$what" = efficientnet ] || [ "$what" = step ]; then
  references
fi
if [ "$what" = efficientnet ]; then
  PYTHONPATH=. exec taskset -c "${CORE:-0}" .venv/bin/python launch/bench_efficientnet.py "$@"
fi
# As launch/demo.sh: huge pages for what is allocated anew at each step, for both sides.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
PYTHONPATH=.:tests exec .venv/bin/python "launch/bench_$what.py" "$@"
