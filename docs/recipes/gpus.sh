#!/usr/bin/env bash
# One machine with one or more GPUs, all of which are used.
#
#     bash docs/recipes/gpus.sh configs/cifar10_edm.py runs/cifar10
set -euo pipefail
config=${1:?a config} workdir=${2:?a folder}
pip install --quiet -e '.[cuda13,tfds]'
python -m experiments.prepare_data --config="$config" --workdir="$workdir"
# Again until it is done: the same command goes on from the newest checkpoint.
until python -m experiments.train --config="$config" --workdir="$workdir"; do
  code=$?
  # 2 is a mistake in the command or config, which trying again does not mend.
  if [ "$code" -eq 2 ]; then exit 2; fi
  sleep 10
done
python -m experiments.sample --workdir="$workdir"
python -m experiments.likelihood --workdir="$workdir"
