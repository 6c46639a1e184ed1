#!/usr/bin/env bash
# Several nodes under SLURM, one process for each GPU, which find each other.
#
#     sbatch --nodes=2 docs/recipes/slurm.sh configs/cifar10_edm.py /shared/runs/cifar10
#
# SLURM sends SIGTERM two minutes before the time is over; training saves, and the job
# puts itself into the queue again until it is done.
#SBATCH --job-name=score_sde
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail
config=${1:?a config} workdir=${2:?a folder that all nodes see}
srun python -m experiments.train --distributed --config="$config" --workdir="$workdir" &
step=$!
trap 'kill -TERM "$step"' TERM  # srun hands it on to every process
wait "$step" || wait "$step"
if ! python -m experiments.status --workdir="$workdir" | grep -q ': trained'; then
  scontrol requeue "$SLURM_JOB_ID"
fi
