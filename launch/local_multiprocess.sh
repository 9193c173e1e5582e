#!/usr/bin/env bash
# One run as several hosts on this machine, each with devices of its own: to try what a pod will do.
#
#   launch/local_multiprocess.sh PROCESSES DEVICES_EACH --config FILE --workdir DIR [more flags]
#
# The first host's messages come to the console, the others' are shown where one fails; a host
# that fails ends the others.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ "$1$2" =~ ^[0-9]+$ ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
processes=$1 devices=$2
shift 2
port=${PORT:-$((20000 + RANDOM % 20000))}
logs=$(mktemp -d)
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((host = processes - 1; host >= 0; host--)); do
  command=("${PYTHON:-python}" -m sacjax.main "$@" --coordinator "localhost:$port"
    --process_count "$processes" --process_id "$host")
  if [ "$host" = 0 ]; then
    "${command[@]}" &
  else
    "${command[@]}" >"$logs/host$host.log" 2>&1 &
  fi
  pids+=($!)
done

code=0
for pid in "${pids[@]}"; do
  wait "$pid" || code=$?
done
if [ "$code" != 0 ]; then
  echo "exit code $code; the other hosts' messages:" >&2
  tail -n 20 "$logs"/*.log >&2
fi
exit "$code"
