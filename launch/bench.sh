#!/usr/bin/env bash
# Benchmarks on one CPU core. Needs the environment that launch/test.sh builds (jax and torch).
set -euo pipefail
cd "$(dirname "$0")/.."
source .venv/bin/activate
PYTHONPATH=. exec taskset -c "${CORE:-0}" python launch/bench_efficientnet.py "$@"
