#!/usr/bin/env bash
# Benchmarks, each as a ratio within one run.
source "$(dirname "$0")/setup.sh"
setup bench test
.venv/bin/python -c 'import torch' 2>/dev/null ||
  .venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
.venv/bin/python launch/bench_efficientnet.py "$@"
