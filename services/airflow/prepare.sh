#!/bin/sh
# Run before Airflow's components start: migrates the database, creates the pools, and creates the administrator with the
# password of .env. Then it removes database rows and task logs older than AIRFLOW_HISTORY_DAYS. Airflow tasks cannot
# access the database, so this script also runs on a schedule: docs/operations.md, "How long things are kept".
set -eu
airflow db migrate
airflow pools import "$(dirname "$0")/pools.json"
airflow users create --role Admin --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD" \
  --firstname "$AIRFLOW_ADMIN_USER" --lastname Administrator --email "$AIRFLOW_ADMIN_USER@localhost"
airflow users reset-password --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD"
days="${AIRFLOW_HISTORY_DAYS:-400}"
before="$(date --utc --date="$days days ago" +%Y-%m-%dT00:00:00+00:00)"
airflow db clean --clean-before-timestamp "$before" --skip-archive --yes --error-on-cleanup-failure
mkdir -p "$AIRFLOW_HOME/logs"
find "$AIRFLOW_HOME/logs" -mindepth 1 -type f -mtime "+$days" -delete
find "$AIRFLOW_HOME/logs" -mindepth 1 -type d -empty -mtime +1 -delete
