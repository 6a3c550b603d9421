#!/usr/bin/env bash
# What is too long for the tests: all ways to compute a step, the paper's run compiled for four pods, many kills, many
# broken files, the tables of parity with other libraries.
source "$(dirname "$0")/setup.sh"

case "${1:---help}" in
  prove | hosts | plan | kill | fuzz | adapters | parity) ;;
  *)
    cat <<'HELP'
bash launch/soak.sh prove                  all ways to compute the losses and a step against plain ones, in float64 and float32
bash launch/soak.sh hosts                  two processes of two devices against four of one, bit for bit
bash launch/soak.sh plan                   configs/align_l2.py compiled for v3, v4, v5p and v6e; fails where it does not fit
bash launch/soak.sh kill [--kills=100]     a run that is killed again and again against one that is left alone
bash launch/soak.sh fuzz [--count=10000]   mutated pictures, tar and TFRecord shards, as many of each
bash launch/soak.sh adapters               our models under sentence-transformers and the command line of clip-benchmark
bash launch/soak.sh parity                 weights of transformers, timm and Keras here, and ours there, as tables; 8 GB
HELP
    [[ "${1:---help}" == -* ]] && exit 0
    echo "error: expected prove, hosts, plan, kill, fuzz, adapters or parity, found $1" >&2
    exit 2
    ;;
esac
what="$1"
shift
setup demo test tpu bench curate gcs s3
references
case "$what" in
  prove)
    PYTHONPATH=. .venv/bin/python tests/prove_losses.py --all
    PYTHONPATH=. .venv/bin/python tests/prove_step.py --all
    ;;
  hosts) .venv/bin/python -m pytest -q tests/soak_hosts.py ;;
  parity)
    export PYTHONPATH=. JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1
    .venv/bin/python tests/parity_align.py --full
    .venv/bin/python tests/parity_bert.py
    .venv/bin/python tests/parity_efficientnet.py
    ;;
  adapters) .venv/bin/python -m pytest -q tests/soak_adapters.py ;;
  kill) PYTHONPATH=. .venv/bin/python launch/soak_kill.py "$@" ;;
  fuzz) .venv/bin/python launch/soak_fuzz.py "$@" ;;
  plan)
    for topology in v3:16x32 v4:8x8x8 v5p:8x8x8 v6e:16x16; do
      .venv/bin/python -m align_jax.plan --config=configs/align_l2.py --topology="$topology" --config.mesh.fsdp=16 \
        --config.task.gather=block --json | tee /dev/stderr | tail -n 1 |
        .venv/bin/python -c 'import json, sys; sys.exit(not json.loads(sys.stdin.readline())["fits"])'
    done
    ;;
esac
