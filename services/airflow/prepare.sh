#!/bin/sh
# Before Airflow's components start: its database at this version, the pool that scoring takes its slot from, and the
# administrator with the password of .env. Then what is older than AIRFLOW_HISTORY_DAYS goes: rows of its database and
# task logs. No task could do that, Airflow gives tasks no way to its database; so this is run again on a schedule:
# docs/operations.md, "How long things are kept".
set -eu
airflow db migrate
airflow pools set scoring 1 'one run of batch scoring at a time'
airflow pools set retraining 1 'one request for retraining at a time'
airflow users create --role Admin --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD" \
  --firstname "$AIRFLOW_ADMIN_USER" --lastname Administrator --email "$AIRFLOW_ADMIN_USER@localhost"
airflow users reset-password --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD"
days="${AIRFLOW_HISTORY_DAYS:-400}"
before="$(date --utc --date="$days days ago" +%Y-%m-%dT00:00:00+00:00)"
airflow db clean --clean-before-timestamp "$before" --skip-archive --yes --error-on-cleanup-failure
mkdir -p "$AIRFLOW_HOME/logs"
find "$AIRFLOW_HOME/logs" -mindepth 1 -type f -mtime "+$days" -delete
find "$AIRFLOW_HOME/logs" -mindepth 1 -type d -empty -mtime +1 -delete
