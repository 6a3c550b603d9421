#!/usr/bin/env bash
# Sets up .venv and runs the whole suite: linters, types, tests. Arguments go to pytest.
source "$(dirname "$0")/setup.sh"
setup demo test tpu bench curate gcs s3 search onnx regions
references
converter
browser

.venv/bin/shellcheck -x -P SCRIPTDIR launch/*.sh .ci/run
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright --warnings
# A process per core: most of the time goes into compiling, which is one thread.
.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=20 "$@"
