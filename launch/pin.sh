#!/usr/bin/env bash
# Resolves pyproject.toml, all extras together, into launch/pinned.txt: names, versions and hashes, no addresses.
# Run it after editing the dependencies, with uv on PATH, and commit what it writes.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml --all-extras --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
  --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --output-file launch/pinned.txt --upgrade "$@"
