#!/usr/bin/env bash
#SBATCH --job-name=align
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
# Trains on NVIDIA machines of a Slurm cluster, one process a node, which drives all of its GPUs
# (with a task for each GPU, add --gpus-per-task=1):
#   sbatch --nodes=4 --time=24:00:00 launch/slurm.sh --config=configs/align_b7_bert_base.py --workdir=/shared/run
# The clone lies on a file system that all nodes share, with its environment: source launch/setup.sh; setup gpu.
# Five minutes before the time is over the run is told to stop: it saves and ends with status 75, upon which (or upon 76,
# where it hung) the job queues itself again.
set -euo pipefail

if [[ -z "${SLURM_JOB_ID:-}" ]]; then
  echo "error: expected a Slurm job, found none; start it by sbatch: see the head of this file" >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:?}"

trap 'scancel --signal=TERM "$SLURM_JOB_ID"' USR1
# Where one process ends with an error the others would wait for it. --wait: the others of a run that stops need a moment.
srun --kill-on-bad-exit=0 --wait=120 .venv/bin/python -m align_jax.main "$@" &
status=0
wait "$!" || status=$?
# A trap ends the first wait; the second one is for the run.
[[ $status -gt 128 ]] && { status=0 && wait "$!" || status=$?; }
if [[ $status == 75 || $status == 76 ]]; then
  echo "status $status: queueing job $SLURM_JOB_ID again" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
