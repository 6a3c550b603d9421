#!/usr/bin/env bash
# Trains on a Google Cloud TPU slice: creates it, installs this clone on all of its hosts, runs, and starts again after
# a preemption until the run has finished.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -lt 1 || "$1" == -h || "$1" == --help ]]; then
  cat <<'HELP'
bash launch/tpu_vm.sh NAME --config=configs/align_l2.py --workdir=/mnt/shared/run [--config.KEY=VALUE ...]

The work directory must be the same folder on all hosts: a mounted bucket or NFS.
Makes the TPU slice NAME if it does not exist, copies this clone to each host, installs it there and trains. A slice that
was preempted is deleted and made again, and the run goes on from its last checkpoint. Set in the environment:
  ZONE     us-central2-b, ...
  TYPE     v4-1024, v5p-512, ... (the accelerator type)
  PROJECT  the Google Cloud project; the one of gcloud's configuration unless set
  VERSION  the runtime version; tpu-ubuntu2204-base, for v2 to v4, unless set; v2-alpha-tpuv5 for v5p, v2-alpha-tpuv6e ..
  SPOT     1 for a spot slice
  KEEP     1 to leave the slice running when the run has finished
  TRIES    how often to start at most; 100 unless set
Needs gcloud, logged in. What a slice costs is not known here: `python -m align_jax.plan --price=...` estimates it.
HELP
  exit 0
fi
name="$1"
shift
: "${ZONE:?set ZONE, such as us-central2-b}" "${TYPE:?set TYPE, such as v4-1024}"
command -v gcloud >/dev/null || {
  echo "error: expected gcloud on the path, found none; install the Google Cloud CLI" >&2
  exit 2
}
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
options=(--accelerator-type="$TYPE" --version="${VERSION:-tpu-ubuntu2204-base}")
[[ -n "${SPOT:-}" ]] && options+=(--spot)

state() { gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format='value(state)' 2>/dev/null || true; }
everywhere() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"; }

ready() {
  local found
  found="$(state)"
  if [[ "$found" == PREEMPTED || "$found" == TERMINATED || "$found" == FAILED ]]; then
    gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
    found=""
  fi
  if [[ -z "$found" ]]; then
    gcloud compute tpus tpu-vm create "$name" "${where[@]}" "${options[@]}"
  fi
}

# Steps are joined by &&: inside a condition the shell does not stop at a failure by itself.
install() {
  local archive python='command -v python3.11 >/dev/null || { sudo apt-get update && sudo apt-get install -y python3.11 python3.11-venv; }'
  archive="$(mktemp --suffix=.tar.gz)" && git archive --format=tar.gz --output="$archive" HEAD &&
    gcloud compute tpus tpu-vm scp "$archive" "$name:align_jax.tar.gz" "${where[@]}" --worker=all && rm -f "$archive" &&
    everywhere "$python" &&
    everywhere "mkdir -p align_jax && tar -xzf align_jax.tar.gz -C align_jax && cd align_jax && source launch/setup.sh && setup tpu"
}

# Each host finds its place by the machine's metadata (align_jax/hosts/place.py). Arguments arrive as they were given.
printf -v arguments ' %q' "$@"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
# gcloud does not hand on which status a host's command had: the hosts say it.
train() {
  everywhere "cd align_jax && .venv/bin/python -m align_jax.main$arguments; s=\$?; echo align_jax: status \$s; exit \$s" |
    tee "$log"
}
for ((try = 1; try <= ${TRIES:-100}; try++)); do
  echo "start $try of at most ${TRIES:-100}" >&2
  if ready && install && train; then
    [[ -n "${KEEP:-}" ]] || gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
    exit 0
  fi
  sleep 60 # a slice that is being preempted still says READY at first
  # 75: told to stop, and saved; 76: hung. Both go on from the last checkpoint.
  if [[ "$(state)" == READY ]] && ! grep -qE '^align_jax: status 7[56]' "$log"; then
    echo "error: the run failed on a slice that is well; its output above says why. $name is left running" >&2
    exit 1
  fi
done
echo "error: not finished after ${TRIES:-100} starts" >&2
exit 1
