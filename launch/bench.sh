#!/usr/bin/env bash
# Benchmarks on one CPU core, each a ratio within one run: EfficientNet-B0 forward and backward against torch.
source "$(dirname "$0")/setup.sh"
setup demo test bench
references
PYTHONPATH=. exec taskset -c "${CORE:-0}" .venv/bin/python launch/bench_efficientnet.py "$@"
