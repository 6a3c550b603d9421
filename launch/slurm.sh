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
# Five minutes before the time is over the job queues itself again; the run goes on from its last checkpoint.
set -euo pipefail

if [[ -z "${SLURM_JOB_ID:-}" ]]; then
  echo "error: expected a Slurm job, found none; start it by sbatch: see the head of this file" >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:?}"

again() {
  echo "time is nearly over: queueing job $SLURM_JOB_ID again" >&2
  scontrol requeue "$SLURM_JOB_ID"
}
trap again USR1
# Where one process ends with an error the others would wait for it.
srun --kill-on-bad-exit=1 .venv/bin/python -m align_jax.main "$@" &
wait "$!"
