#!/usr/bin/env bash
# Trains, evaluates and exports a small ALIGN on emoji.
source "$(dirname "$0")/setup.sh"

workdir=runs/demo
args=()
for arg in "$@"; do
  case "$arg" in
    -h | --help)
      cat <<'HELP'
bash launch/demo.sh [--workdir=DIR] [--config.KEY=VALUE ...]

Makes a virtual environment in .venv (about a minute), then trains an EfficientNet + BERT dual encoder from scratch on
3,400 emoji pictures with their names, at most 10 minutes on 2 processor cores, and writes to runs/demo:
  contact_sheet.png   texts and the pictures that the model finds for them
  eval.json           recall, zero-shot accuracy, with their protocol
  card.md, card.json  the same as a result card, with intervals; two of them compare by align_jax.evaluate --compare
  export/             weights, vocabulary, preprocessing, embeddings
  metrics.jsonl, tensorboard/, checkpoints/
Run it again to continue a run that was stopped. Other arguments go to the trainer: --config.steps=50 is a quick look.
HELP
      exit 0
      ;;
    --workdir=*) workdir="${arg#--workdir=}" ;;
    *) args+=("$arg") ;;
  esac
done
setup demo
# On a processor, one device for each of two cores: the batch is split between them as between two chips of a pod, which
# is faster than two threads inside every operation. Where there is an accelerator this changes nothing.
export JAX_NUM_CPU_DEVICES="${JAX_NUM_CPU_DEVICES:-2}"
# Huge pages for what XLA allocates anew at each step: faulting it in by 4 KiB took a quarter of the time.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
.venv/bin/python -m align_jax.main --config=configs/align_demo.py --workdir="$workdir" ${args[@]+"${args[@]}"}
echo "look at $workdir/contact_sheet.png" >&2
