#!/usr/bin/env bash
# Replace serving's replicas one by one with containers of the current image: `make rolling-restart`.
# A replica ends after it has answered and logged its accepted requests. The next one is replaced when the proxy counts both.
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
    ((SECONDS < deadline)) || { echo "the proxy does not reach $replica" >&2; exit 1; }
    sleep 0.5
  done
  echo "$replica replaced"
done
