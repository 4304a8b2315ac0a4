#!/usr/bin/env bash
# Back up the deployed stack into a new folder: `make backup TO=FOLDER`.
# Copies databases, the online store, artifacts, lake, prediction log, API keys and secrets. The scheduler is paused, so
# that no job writes. Serving keeps answering; records that it appends during the backup are in the next one.
set -euo pipefail
to=$(realpath -m "${1:?usage: backup.sh FOLDER}")
cd "$(dirname "$0")/../.."
compose=(docker compose --profile full)
project=$("${compose[@]}" config --format json | sed -nE 's/^  "name": "(.*)",$/\1/p')
databases=(airflow mlflow mlflow_auth fraud feast)
volumes=(mlflow-artifacts platform predictions api-keys airflow-logs)

[[ ! -e $to ]] || { echo "$to exists; a backup needs a new folder" >&2; exit 1; }
umask 077
mkdir -p "$to.part"
# shellcheck disable=SC2329 # called by trap
resume() { [[ -z ${paused:-} ]] || "${compose[@]}" start airflow-scheduler; }
trap resume EXIT
if [[ -n $("${compose[@]}" ps --quiet airflow-scheduler) ]]; then
  "${compose[@]}" stop airflow-scheduler && paused=yes
fi

for database in "${databases[@]}"; do
  "${compose[@]}" exec -T postgres pg_dump --username=postgres --format=custom "$database" >"$to.part/$database.dump"
done
valkey() { "${compose[@]}" exec -T valkey sh -c "REDISCLI_AUTH=\"\$VALKEY_PASSWORD\" valkey-cli $*"; }
# The append-only file may be copied while it grows, but not while it is rewritten.
valkey config set auto-aof-rewrite-percentage 0 >/dev/null
deadline=$((SECONDS + 300))
until valkey info persistence | grep -q '^aof_rewrite_in_progress:0'; do
  ((SECONDS < deadline)) || { echo "the online store did not finish rewriting its append-only file" >&2; exit 1; }
  sleep 0.5
done
"${compose[@]}" exec -T valkey tar -C /data -c appendonlydir | gzip >"$to.part/valkey.tar.gz"
valkey config set auto-aof-rewrite-percentage 100 >/dev/null
for volume in "${volumes[@]}"; do
  docker run --rm --network none --read-only --cap-drop ALL --user 10001:10001 --volume "${project}_$volume:/from:ro" \
    "fraud-serving:${FRAUD_VERSION:-local}" tar -C /from -c . | gzip >"$to.part/$volume.tar.gz"
done
cp .env "$to.part/env"
git rev-parse HEAD >"$to.part/COMMIT" 2>/dev/null || echo unknown >"$to.part/COMMIT"
(cd "$to.part" && sha256sum -- * >SHA256SUMS)
mv "$to.part" "$to"
du -sh "$to"
