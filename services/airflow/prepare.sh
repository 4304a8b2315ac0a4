#!/bin/sh
# Before Airflow's components start: its database at this version, the pool that scoring takes its slot from, and the
# administrator with the password of .env.
set -eu
airflow db migrate
airflow pools set scoring 1 'one run of batch scoring at a time'
airflow pools set retraining 1 'one request for retraining at a time'
airflow users create --role Admin --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD" \
  --firstname "$AIRFLOW_ADMIN_USER" --lastname Administrator --email "$AIRFLOW_ADMIN_USER@localhost"
airflow users reset-password --username "$AIRFLOW_ADMIN_USER" --password "$AIRFLOW_ADMIN_PASSWORD"
