"""A second Prometheus over the running stack with accelerated rules: the committed rules with shorter durations.

Windows and waits are divided; thresholds and counts are not changed. A window is at least SHORTEST_S long, because a
shorter rate has too few samples.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from fraud.embedded import processes
from fraud.embedded.stack import Stack

NAME: Final = "drill-prometheus"
FASTER: Final = 720
"""Divisor of all durations: a day takes two minutes."""
SHORTEST_S: Final = 10.0
SHORTEST_WAIT_S: Final = 10.0
"""Shortest `for` of a rule: three scrapes. One late scrape on a busy machine must not fire the alert."""
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOW: Final = re.compile(r"\[(\d+)([smhd])\]")
_WAIT: Final = re.compile(r"^(\s*for: )(\d+)([smhd])$", re.MULTILINE)


def faster(rules: str) -> str:
    """A rule file with its windows and waits divided by FASTER."""

    def window(found: re.Match[str]) -> str:
        seconds = int(found[1]) * _SECONDS[found[2]] / FASTER
        return f"[{round(max(seconds, SHORTEST_S) * 1000)}ms]"

    def wait(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _SECONDS[found[3]] / FASTER
        return f"{found[1]}{round(max(seconds, SHORTEST_WAIT_S) * 1000)}ms"

    return _WAIT.sub(wait, _WINDOW.sub(window, rules))


class Watch:
    """The drill's Prometheus. `targets` are scrape jobs -> ports on this machine."""

    def __init__(self, folder: Path, stack: Stack, program: str, port: int, targets: Mapping[str, int]) -> None:
        self._url = f"http://127.0.0.1:{port}"
        (folder / "rules").mkdir(parents=True, exist_ok=True)
        (folder / "targets").mkdir(exist_ok=True)
        committed = stack.project / "infra/prometheus"
        for path in (committed / "rules").glob("*.yml"):
            (folder / "rules" / path.name).write_text(faster(path.read_text()))
        config = (committed / "prometheus.yml").read_text()
        config = re.sub(r"(interval|timeout): [45]s", r"\1: 1s", config)
        config = re.sub(r"(interval|timeout): 1[05]s", r"\1: 3s", config)
        (folder / "prometheus.yml").write_text(config)
        self.targets = folder / "targets"
        for job, target in {**targets, "prometheus": port}.items():
            self.point(job, [target])
        self._run = stack.run
        command = [
            program,
            "--enable-feature=expand-external-labels",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--web.external-url={self._url}",
        ]
        processes.start(NAME, command, stack.environment("ml"), self._run, folder / "prometheus.log")

    def point(self, job: str, ports: list[int]) -> None:
        """Replace the targets of a scrape job. `ports` are on this machine."""
        group = [{"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"environment": "drill"}}]
        new = self.targets / f".{job}.new"
        new.write_text(json.dumps(group if ports else []))
        new.replace(self.targets / f"{job}.json")

    def is_ready(self) -> bool:
        """Whether the server answers and has evaluated its rules once."""
        try:
            return httpx.get(f"{self._url}/-/ready", timeout=2).is_success and "Watchdog" in self.firing()
        except httpx.TransportError:
            return False

    def firing(self) -> set[str]:
        """Names of the firing alerts."""
        answer = httpx.get(f"{self._url}/api/v1/alerts", timeout=5).raise_for_status().json()
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"] if alert["state"] == "firing"}

    def value(self, expression: str) -> float | None:
        """The first value of an instant query. None without a result."""
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": expression}, timeout=5)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    def close(self) -> None:
        """End the server."""
        processes.stop(NAME, self._run)
