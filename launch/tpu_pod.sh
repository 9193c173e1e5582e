#!/usr/bin/env bash
# Creates or reuses a Cloud TPU slice, installs sacjax on all its workers and runs there to the end.
#
#   NAME=sacjax ZONE=us-west4-a TYPE=v5litepod-256 BUCKET=mine \
#     launch/tpu_pod.sh --config FILE --workdir gs://mine/RUN [more of sacjax.main]
#
# BUCKET is mounted at /mnt/bucket on every worker, to read data from; the workdir is written into a
# bucket without a mount. PROJECT (default: gcloud's own), VERSION
# (of the TPU's software), SPOT=1 for a preemptible slice, KEEP=1 to leave it behind.
#
# A slice that was taken away is made anew, and the run goes on from its last checkpoint: at most
# ATTEMPTS times (100). Any other failure is tried again at most FAILURES times in a row (3). A
# mistake in the command or config (exit code 2), and a first slice that cannot be made, end it at
# once. At its end the slice is deleted, for it costs money.
set -euo pipefail

: "${NAME:?the name of the slice}" "${ZONE:?such as us-west4-a}"
: "${TYPE:?such as v5litepod-256}" "${BUCKET:?for data}"
version=${VERSION:-tpu-ubuntu2204-base}
where=(--zone "$ZONE" ${PROJECT:+--project "$PROJECT"})
root=$(cd "$(dirname "$0")/.." && pwd)
log=$(mktemp)
package=$(mktemp --suffix .tgz)
trap 'rm -f "$log" "$package"' EXIT

tpu() { gcloud compute tpus tpu-vm "$1" "$NAME" "${where[@]}" "${@:2}"; }
state() { tpu describe --format='value(state)' 2>/dev/null || true; }
everywhere() { tpu ssh --worker=all --command "$1"; }
delete() { tpu delete --quiet; }

ready() {
  case $(state) in
    READY) return ;;
    "") ;;
    *) delete || return ;;
  esac
  tpu create --accelerator-type "$TYPE" --version "$version" ${SPOT:+--spot}
}

# shellcheck disable=SC2016
mount='export GCSFUSE_REPO=gcsfuse-$(lsb_release -c -s)
  command -v gcsfuse >/dev/null || {
    key=/usr/share/keyrings/gcsfuse.asc
    packages=https://packages.cloud.google.com/apt
    echo "deb [signed-by=$key] $packages $GCSFUSE_REPO main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    curl -fsS $packages/doc/apt-key.gpg | sudo tee $key >/dev/null
    sudo apt-get -q update && sudo apt-get -q install -y gcsfuse
  }
  mountpoint -q /mnt/bucket || {
    sudo mkdir -p /mnt/bucket && sudo chown "$USER" /mnt/bucket &&
      gcsfuse --implicit-dirs '"$BUCKET"' /mnt/bucket
  }'

install() {
  tar -czf "$package" -C "$root" --exclude=.git --exclude=.venv --exclude=runs . &&
    everywhere "$mount" &&
    gcloud compute tpus tpu-vm scp "$package" "$NAME:sacjax.tgz" "${where[@]}" --worker=all &&
    everywhere "mkdir -p sacjax && tar -xzf sacjax.tgz -C sacjax && cd sacjax &&
      { [ -d .venv ] || python3 -m venv .venv; } &&
      .venv/bin/pip install --quiet -c constraints.txt -e '.[tpu,gcs]'"
}

# Each worker says how its run ended: gcloud's own code is that of one of them, and where one has
# found a mistake the others end by other codes.
arguments=$(printf '%q ' "$@")
train() {
  everywhere "cd sacjax && .venv/bin/python -m sacjax.main --distributed $arguments
    code=\$?; echo \"sacjax ended with exit code \$code\"; exit \$code" 2>&1 | tee "$log"
}

failures=0 had=
for attempt in $(seq 1 "${ATTEMPTS:-100}"); do
  code=0
  # `set -e` does not reach into these: each of their commands hands on its failure.
  if ready; then
    had=1
    if install; then
      train || code=$?
      ! grep -q 'sacjax ended with exit code 2$' "$log" || code=2
    else
      code=1
    fi
  elif [ -n "$had" ]; then
    code=1 # such as no capacity just now
  else
    exit 1
  fi
  if [ "$code" = 0 ] || [ "$code" = 2 ]; then
    [ "$code" = 0 ] || echo "a mistake in the command or config, told above: not tried again" >&2
    [ -n "${KEEP:-}" ] || delete
    exit "$code"
  fi
  now=$(state)
  if [ "$now" != READY ] || [ "$code" = 75 ]; then
    failures=0
  elif [ $((++failures)) -ge "${FAILURES:-3}" ]; then
    echo "failed $failures times in a row on a slice that is there: given up" >&2
    [ -n "${KEEP:-}" ] || delete
    exit "$code"
  fi
  echo "attempt $attempt ended with exit code $code; the slice is ${now:-gone}; trying again" >&2
  sleep "${PAUSE:-60}"
done
echo "given up after ${ATTEMPTS:-100} attempts" >&2
exit 1
