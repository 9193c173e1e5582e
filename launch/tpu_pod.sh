#!/usr/bin/env bash
# Creates or reuses a Cloud TPU slice, installs sacjax on all of its workers and runs there until the run has ended.
#
#   NAME=sacjax ZONE=us-west4-a TYPE=v5litepod-256 BUCKET=mine launch/tpu_pod.sh --config FILE --workdir /mnt/bucket/RUN [more of sacjax.main]
#
# BUCKET is mounted at /mnt/bucket on every worker; make it with a hierarchical namespace, for a checkpoint is a folder that is renamed when it is
# whole. PROJECT (default: gcloud's own), VERSION (of the TPU's software), SPOT=1 for a preemptible slice, KEEP=1 to leave it behind. A
# slice that was taken away is made anew, and the run goes on from its last checkpoint.
set -euo pipefail

: "${NAME:?the name of the slice}" "${ZONE:?such as us-west4-a}" "${TYPE:?such as v5litepod-256}" "${BUCKET:?for data and workdir}"
version=${VERSION:-tpu-ubuntu2204-base}
where=(--zone "$ZONE" ${PROJECT:+--project "$PROJECT"})
root=$(cd "$(dirname "$0")/.." && pwd)

state() { gcloud compute tpus tpu-vm describe "$NAME" "${where[@]}" --format='value(state)' 2>/dev/null || true; }
everywhere() { gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command "$1"; }

ready() {
  case $(state) in
    READY) return ;;
    "") ;;
    *) gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet ;;
  esac
  gcloud compute tpus tpu-vm create "$NAME" "${where[@]}" --accelerator-type "$TYPE" --version "$version" ${SPOT:+--spot}
}

# shellcheck disable=SC2016
mount='export GCSFUSE_REPO=gcsfuse-$(lsb_release -c -s)
  command -v gcsfuse >/dev/null || {
    echo "deb [signed-by=/usr/share/keyrings/gcsfuse.asc] https://packages.cloud.google.com/apt $GCSFUSE_REPO main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/gcsfuse.asc >/dev/null
    sudo apt-get -q update && sudo apt-get -q install -y gcsfuse
  }
  mountpoint -q /mnt/bucket || { sudo mkdir -p /mnt/bucket && sudo chown "$USER" /mnt/bucket && gcsfuse --implicit-dirs '"$BUCKET"' /mnt/bucket; }'

arguments=$(printf '%q ' "$@")
for attempt in $(seq 1 "${ATTEMPTS:-100}"); do
  ready
  tar -czf /tmp/sacjax.tgz -C "$root" --exclude=.git --exclude=.venv --exclude=runs .
  everywhere "$mount"
  gcloud compute tpus tpu-vm scp /tmp/sacjax.tgz "$NAME:" "${where[@]}" --worker=all
  everywhere "mkdir -p sacjax && tar -xzf sacjax.tgz -C sacjax && cd sacjax && { [ -d .venv ] || python3 -m venv .venv; } &&
    .venv/bin/pip install --quiet -c constraints.txt -e '.[tpu]'"
  if everywhere "cd sacjax && .venv/bin/python -m sacjax.main --distributed $arguments"; then
    [ -n "${KEEP:-}" ] || gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
    exit 0
  fi
  echo "attempt $attempt ended; the slice is $(state); trying again in a minute" >&2
  sleep 60
done
exit 1
