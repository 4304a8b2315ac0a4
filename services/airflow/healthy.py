"""Health check of a container with an Airflow component: exit code 0, or 1 with the reason. Standard library only.

FRAUD_COMPONENT is the name of the component in the API server's health report. The report contains each component's
last heartbeat in the database, so it also finds a scheduler that runs but does not schedule.
"""

import json
import os
import sys
import urllib.request


def main() -> None:
    component = os.environ["FRAUD_COMPONENT"]
    url = f"{os.environ['FRAUD_AIRFLOW_URL']}/api/v2/monitor/health"
    try:
        with urllib.request.urlopen(url, timeout=8) as answer:  # noqa: S310 - the platform's own address
            health = json.load(answer)
    except OSError as error:
        sys.exit(f"{url}: {error}")
    expected = ("metadatabase",) if component == "api-server" else (component.replace("-", "_"),)
    if unhealthy := [name for name in expected if (health.get(name) or {}).get("status") != "healthy"]:
        sys.exit(f"not healthy: {', '.join(unhealthy)}")


if __name__ == "__main__":
    main()
