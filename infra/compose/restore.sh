#!/usr/bin/env bash
# Restore a backup as a new stack: `make restore FROM=FOLDER`, then `make up`.
# The project must have no volumes, so that nothing is overwritten. COMPOSE_PROJECT_NAME restores beside a running stack.
# The secrets of the backup are used if this checkout has none.
set -euo pipefail
from=$(realpath "${1:?usage: restore.sh FOLDER}")
cd "$(dirname "$0")/../.."
(cd "$from" && sha256sum --quiet --check SHA256SUMS)
[[ -e .env ]] || install -m 600 "$from/env" .env
compose=(docker compose --profile full)
project=$("${compose[@]}" config --format json | sed -nE 's/^  "name": "(.*)",$/\1/p')
if docker volume ls --quiet --filter "label=com.docker.compose.project=$project" | grep -q .; then
  echo "$project has volumes; if their data is not needed, remove them first: docker compose down --volumes" >&2
  exit 1
fi

# The service that mounts each volume of a backup.
"${compose[@]}" create --no-build postgres postgres-roles valkey mlflow serving-a airflow-prepare serving-keys
"${compose[@]}" up --detach --no-build --wait postgres
"${compose[@]}" run --rm --no-deps --no-TTY postgres-roles
for dump in "$from"/*.dump; do
  database=$(basename "$dump" .dump)
  "${compose[@]}" exec -T postgres pg_restore --username=postgres --dbname="$database" --exit-on-error <"$dump"
  echo "$database"
done
for archive in "$from"/*.tar.gz; do
  volume=$(basename "$archive" .tar.gz)
  image=fraud-serving:${FRAUD_VERSION:-local} user=10001:10001
  [[ $volume != valkey ]] || user=999:999
  gzip -dc "$archive" | docker run --rm --interactive --network none --read-only --cap-drop ALL --user "$user" \
    --volume "${project}_$volume:/to" "$image" tar -C /to --no-same-permissions -x
  echo "$volume"
done
"${compose[@]}" stop postgres
