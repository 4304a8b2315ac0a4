#!/bin/bash
# Starts a Spark executor in a pod: infra/spark/kubernetes/executor.yaml. The driver sets the variables.
# The image has no entrypoint of Spark's own images, because Spark is installed from its Python package.
set -euo pipefail
export SPARK_HOME="${SPARK_HOME:-/opt/fraud/.venv/ml/lib/python3.11/site-packages/pyspark}"
mapfile -t options < <(env | sed -n 's/^SPARK_JAVA_OPT_[0-9]*=//p')
exec java "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$SPARK_HOME/jars/*" \
  org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
  --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
  --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
  --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
