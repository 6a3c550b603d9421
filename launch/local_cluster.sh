#!/usr/bin/env bash
# Runs a command as several processes on this machine, as a cluster would: each with processor devices of its own.
set -euo pipefail

usage() {
  cat <<'HELP'
bash launch/local_cluster.sh [--port=8482] PROCESSES DEVICES COMMAND [ARGUMENT ...]

Starts COMMAND once for each process, with DEVICES processor devices and the variables that a launcher sets. Each line of
output begins with the number of its process. When one fails, all end. For example, four devices in two processes:
  bash launch/local_cluster.sh 2 2 .venv/bin/python -m align_jax.main --config=configs/align_demo.py --workdir=runs/two
HELP
}

port=8482
[[ "${1:-}" == --port=* ]] && port="${1#--port=}" && shift
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  usage
  exit 0
fi
if [[ $# -lt 3 || ! "$1" =~ ^[1-9][0-9]*$ || ! "$2" =~ ^[1-9][0-9]*$ ]]; then
  echo "error: expected the numbers of processes and devices, and a command; see --help" >&2
  exit 2
fi
processes="$1" devices="$2"
shift 2

pids=()
# SIGKILL: a process that waits for another hears nothing else.
stop() { kill -KILL "${pids[@]}" 2>/dev/null || true; }
trap stop EXIT
for ((process = 0; process < processes; process++)); do
  JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices" JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" \
    JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$process" \
    "$@" > >(sed -u "s/^/$process: /") 2> >(sed -u "s/^/$process: /" >&2) &
  pids+=($!)
done
declare -A running
for pid in "${pids[@]}"; do running[$pid]=1; done
while ((${#running[@]})); do
  # Those that hear of a failure have some time to say so themselves.
  wait -n -p ended "${!running[@]}" || { status=$? && sleep 5 && exit "$status"; }
  unset "running[$ended]"
done
