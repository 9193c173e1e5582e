#!/usr/bin/env bash
# Rehearses on this machine what happens to a run on a pod, with the workdir in a bucket.
#
#   launch/rehearse_pod.sh          needs the extra `test`; about four core minutes
#
# An undisturbed run on 4 hosts with 2 devices each. The same run, of which one host is killed by
# SIGKILL after the first checkpoint: the others end too. Then the same command again, as a scheduler
# gives it, on 2 hosts with 2 devices each. Its losses must be those of the undisturbed run to 1e-5.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python} PYTHONPATH="$PWD:${PYTHONPATH:-}"
port=$((20000 + RANDOM % 20000))
url=http://localhost:$port
export STORAGE_EMULATOR_HOST=$url TENSORSTORE_GCS_HTTP_URL=$url

"$PYTHON" launch/emulated_bucket.py "$port" 2>/dev/null &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT

options=(
  --config configs/folder.py
  --config.supervised.data.source=synthetic --config.supervised.data.examples=160
  --config.supervised.data.sample_rate=8000 --config.supervised.data.seconds=0.5
  --config.supervised.frontend.n_fft=256 --config.supervised.frontend.hop_length=128
  --config.supervised.frontend.n_mels=16 --config.supervised.model.name=small_cnn
  '--config.supervised.model.encoder={}' --config.supervised.train.batch_size=16
  --config.supervised.train.steps=40 --config.supervised.train.log_every=1
  --config.supervised.eval.batch_size=16 --config.checkpoint.every=10 --config.mesh.fsdp=2
)

echo "== undisturbed: 4 hosts with 2 devices each"
launch/local_multiprocess.sh 4 2 "${options[@]}" --workdir gs://bucket/whole

echo "== again: a host is killed by SIGKILL after the first checkpoint"
launch/local_multiprocess.sh 4 2 "${options[@]}" --workdir gs://bucket/run &
launcher=$!
trap 'kill "$server" "$launcher" 2>/dev/null || true' EXIT
saved=$url/storage/v1/b/bucket/o/run%2Fcheckpoints%2Fsupervised%2F10%2Fcommit_success.txt
until curl -fs -o /dev/null "$saved"; do
  kill -0 "$launcher" # it has ended before its first checkpoint
  sleep 0.05
done
kill -KILL "$(pgrep -P "$launcher" -f -- '--process_id 2')"
code=0
wait "$launcher" || code=$?
case $code in
  0) echo "it ended as if nothing had happened" >&2 && exit 1 ;;
  2) echo "it ended as by a mistake of the user, after which nothing is started again" >&2 && exit 1 ;;
esac

echo "== the same command, on 2 hosts with 2 devices each"
launch/local_multiprocess.sh 2 2 "${options[@]}" --workdir gs://bucket/run

"$PYTHON" - <<'CHECK'
from sacjax.report.plots import read_metrics

names = "gs://bucket/whole", "gs://bucket/run"
whole, run = (read_metrics(name, "supervised")["train/loss"] for name in names)
assert whole[0] == run[0] == list(range(1, 41)), (whole[0], run[0])
worst = max(abs(a - b) / abs(a) for a, b in zip(whole[1], run[1], strict=True))
print(f"{len(run[1])} losses, the largest relative difference is {worst:.1e}")
assert worst < 1e-5
CHECK
