#!/usr/bin/env bash
# Known holes in what every lock names. Exit 0: none; 1: some, printed; 69: the service does not answer, nothing was audited.
set -euo pipefail
cd "$(dirname "$0")/.."

audit() { .venv/tools/bin/pip-audit --no-deps --disable-pip --progress-spinner off "$@"; }

# A release with a hole that everybody knows. Where it is not found, nothing else would be: mirrors carry no vulnerabilities.
canary="$(mktemp)"
trap 'rm -f "$canary"' EXIT
echo 'jinja2==2.10' >"$canary"
if ! audit --requirement "$canary" 2>&1 | grep -qE 'PYSEC|CVE|GHSA'; then
  echo "audit: PyPI's vulnerability service does not answer here: NOTHING WAS AUDITED" >&2
  exit 69
fi

found=0
for lock in requirements/airflow.txt requirements/ml.txt requirements/torch.txt services/serving/requirements.txt \
  services/mlflow/requirements.txt requirements/tools.txt requirements/test.txt; do
  echo "== $lock"
  audit --strict --requirement "$lock" || found=1
done
exit "$found"
