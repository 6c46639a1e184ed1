#!/usr/bin/env bash
# A TPU pod slice by a queued resource: the same command on every host of it.
#
#     NAME=score ZONE=us-east5-a TYPE=v5p-32 BUCKET=gs://mine \
#         bash docs/recipes/tpu_pod.sh configs/imagenet64_edm.py imagenet64
#
# The bucket is mounted as a folder on every host, since all of them write checkpoints.
set -euo pipefail
config=${1:?a config} run=${2:?the name of the run}
: "${NAME:?}" "${ZONE:?}" "${TYPE:?}" "${BUCKET:?}"
version=${VERSION:-v2-alpha-tpuv5}

gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" \
  --zone="$ZONE" --accelerator-type="$TYPE" --runtime-version="$version"
until gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
  --format='value(state.state)' | grep -q ACTIVE; do sleep 60; done

on_all() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}
gcloud compute tpus tpu-vm scp --recurse --zone="$ZONE" --worker=all . "$NAME":score_sde
on_all "cd score_sde && pip install -e '.[tpu,tfds]'"
on_all "mkdir -p ~/runs && gcsfuse --implicit-dirs ${BUCKET#gs://} ~/runs"
on_all "cd score_sde && python -m experiments.train --distributed \
  --config=$config --workdir=\$HOME/runs/$run"
