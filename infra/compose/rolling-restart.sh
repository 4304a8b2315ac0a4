#!/usr/bin/env bash
# Replace serving's replicas one after the other, each by a container of the image that is there now: `make rolling-restart`.
# A replica ends when what it was asked is answered and logged; the next one starts when the proxy counts both again.
set -euo pipefail
cd "$(dirname "$0")/../.."
compose=(docker compose --profile full)

both_ready() {
  "${compose[@]}" exec -T proxy bash -c \
    'exec 3<>/dev/tcp/127.0.0.1/8404; printf "GET /health HTTP/1.0\r\n\r\n" >&3; grep -qE "2 ready|0 ready, 2 live" <&3'
}

for replica in serving-a serving-b; do
  "${compose[@]}" up --detach --no-deps --no-build --force-recreate --wait --wait-timeout 120 "$replica"
  deadline=$((SECONDS + 60))
  until both_ready; do
    ((SECONDS < deadline)) || { echo "the proxy does not see $replica" >&2; exit 1; }
    sleep 0.5
  done
  echo "$replica replaced"
done
