"""The quiet hour: usual traffic without a fault, while the stack's own Prometheus is read. No alert may fire.

The rules, windows and waits are the committed ones. The payments are those of the demo's simulated cardholders on the
first day that the lake does not have, for which the online store has the daily snapshots: a day of payments in an hour.
They stay in the online histories.
"""

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from fraud.embedded import processes
from fraud.embedded.fire_drill import alerts_page
from fraud.embedded.processes import Process, ServiceFailedError
from fraud.embedded.stack import Stack
from fraud.errors import BadConfigError, FraudError
from fraud.lake import catalog
from fraud.uris import uri_of

RESULT: Final = "build/quiet-hour.json"
READ_EVERY_S: Final = 5.0
NEEDED: Final = ("serving", "valkey", "prometheus", "alertmanager")
_TRAFFIC: Final = "quiet-hour-traffic"
_WATCHDOG: Final = "Watchdog"


class NotQuietError(FraudError):
    """An alert fired without a fault, or was pending at the end."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """The result. Names of alerts are those of Watchdog excepted."""

    started: str
    """ISO 8601, UTC."""
    minutes: float
    load: float
    """Of the last minute, at the end."""
    reads: int
    """How often the alerts were read, one every READ_EVERY_S."""
    fired: Mapping[str, int]
    """Alert -> reads in which it fired."""
    pending: Mapping[str, int]
    """Alert -> reads in which its condition held for less than its wait."""
    pending_at_end: tuple[str, ...]
    traffic: Mapping[str, Any]
    """The result of `fraud traffic`."""

    def failure(self) -> str:
        """Why the hour was not quiet; "" if it was."""
        kinds = (("fired", sorted(self.fired)), ("pending at the end", sorted(self.pending_at_end)))
        return "; ".join(f"{kind}: {', '.join(alerts)}" for kind, alerts in kinds if alerts)

    def as_markdown(self) -> str:
        """The result as a paragraph."""
        sent = self.traffic
        pending = ", ".join(f"{alert} (in {reads} reads)" for alert, reads in sorted(self.pending.items()))
        parts = (
            f"{self.started[:10]}, {self.minutes:.0f} minutes, {os.cpu_count()} CPUs, load {self.load} at the end:",
            f"{sent['sent']:,} payments sent to `POST /predict` ({sent['per_second']} a second), {sent['answered']:,}",
            f"answered, {sent['refused']} refused for their contents, {sent['failed']} failed, {sent['degraded']}",
            f"degraded, p99 {sent['p99_ms']:.0f} ms. {self.reads} reads of the alerts, one every {READ_EVERY_S:.0f} s.",
            f"Fired: {', '.join(sorted(self.fired)) or 'none'}. Pending: {pending or 'none'}.",
        )
        return alerts_page.paragraph(parts)


class QuietHour:
    """Traffic for a number of minutes. Raises BadConfigError when the stack does not run or an alert fires already."""

    def __init__(self, stack: Stack, progress: Callable[[str], None]) -> None:
        self._stack, self._progress = stack, progress
        missing = [name for name in NEEDED if processes.running_process(name, stack.run) is None]
        if missing:
            raise BadConfigError(
                "the quiet hour needs a running stack", got=f"not running: {missing}", hint="make demo DETACH=1"
            )
        if firing := self._alerts()["firing"]:
            raise BadConfigError("alerts fire already", got=str(sorted(firing)), hint="make status")

    def run(self, minutes: float) -> Quiet:
        """Send a day of payments within `minutes` and read the alerts. Writes RESULT and the documentation.

        Raises NotQuietError at the end.
        """
        processes.stop(_TRAFFIC, self._stack.run)
        source, count = self._simulated()
        rate = count / (minutes * 60)
        log = self._stack.log(_TRAFFIC)
        log.unlink(missing_ok=True)
        command = [
            self._stack.program("ml", "fraud"), "traffic", f"--source={source}", f"--url={self._stack.url('serving')}",
            f"--rate={rate}", "--json",
        ]  # fmt: skip
        self._progress(f"{count} payments in about {minutes:.0f} minutes: no alert may fire")
        started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        sender = processes.start(_TRAFFIC, command, self._stack.environment("ml"), self._stack.run, log)
        try:
            reads, fired, pending, last = self._watch(sender)
        finally:
            processes.stop(_TRAFFIC, self._stack.run)
        minutes = round((time.monotonic() - began) / 60, 1)
        load = round(os.getloadavg()[0], 1)
        result = Quiet(started, minutes, load, reads, fired, pending, tuple(sorted(last)), _result(log))
        self._write(result)
        if failure := result.failure():
            raise NotQuietError("the hour was not quiet", got=failure, hint=f"read {self._stack.project / RESULT}")
        return result

    def _simulated(self) -> tuple[Path, int]:
        """A folder with the payments of the day after the lake's newest one, and their number.

        A longer simulation of the same cardholders has the same days before. Raises BadConfigError for a stack with
        other data, and when the day was sent before: a second answer to a payment is a repetition of the first.
        """
        state = self._stack.home / "demo.json"
        demo: dict[str, Any] = json.loads(state.read_text()) if state.is_file() else {"command": [""]}
        days = catalog.TRANSACTIONS.at(uri_of(self._stack.home / "lake")).partitions()
        if demo["command"][0] != "simulate" or not days:
            raise BadConfigError("the quiet hour needs a demo of simulated transactions", hint="make demo DETACH=1")
        day = date.fromisoformat(days[-1]) + timedelta(days=1)
        out = self._stack.home / "quiet-hour" / str(day)
        if out.exists():
            raise BadConfigError(f"the payments of {day} were sent before", hint="make demo with another FRAUD_HOME")
        length = (day - date.fromisoformat(demo["result"]["first_day"])).days + 1
        flags = [flag for flag in demo["command"] if not flag.startswith(("--days=", "--hold-back-days="))]
        command = [
            self._stack.program("ml", "fraud"), *flags, f"--days={length}", "--hold-back-days=1",
            f"--out={uri_of(out)}", "--json",
        ]  # fmt: skip
        self._progress(f"simulating the payments of {day}")
        log = self._stack.log("quiet-hour-simulate")
        printed = processes.run_step("simulate", command, self._stack.environment("ml"), log, self._stack.project)
        return out / "held_back", int(json.loads(printed.splitlines()[-1])["held_back_transactions"])

    def _watch(self, sender: Process) -> tuple[int, dict[str, int], dict[str, int], set[str]]:
        """Read the alerts until the traffic has ended.

        Returns the number of reads, those in which each alert fired and was pending, and what is pending at the end.
        """
        fired, pending = Counter[str](), Counter[str]()
        for reads in itertools.count(1):
            found = self._alerts()
            for state, seen in (("firing", fired), ("pending", pending)):
                for alert in sorted(found[state] - seen.keys()):
                    self._progress(f"{state}: {alert}")
                seen.update(found[state])
            if not processes.is_running(sender):
                return reads, dict(fired), dict(pending), found["pending"]
            time.sleep(READ_EVERY_S)
        raise AssertionError  # count does not end

    def _alerts(self) -> dict[str, set[str]]:
        """State -> names of alerts in it."""
        url = f"{self._stack.url('prometheus')}/api/v1/alerts"
        answer = httpx.get(url, timeout=30).raise_for_status().json()["data"]["alerts"]
        names: dict[str, set[str]] = {"firing": set(), "pending": set()}
        for alert in answer:
            if alert["labels"]["alertname"] != _WATCHDOG:
                names[alert["state"]].add(alert["labels"]["alertname"])
        return names

    def _write(self, result: Quiet) -> None:
        path = self._stack.project / RESULT
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(result), indent=1) + "\n")
        self._progress(result.as_markdown())
        page = alerts_page.write_result(self._stack.project, "quiet hour", result.as_markdown())
        self._progress(f"the result is in {page}")


def _result(log: Path) -> dict[str, Any]:
    """The result that `fraud traffic --json` printed. Raises ServiceFailedError without one."""
    for line in reversed(log.read_text().splitlines()):
        if line.startswith("{") and "per_second" in line:
            found: dict[str, Any] = json.loads(line)
            return found
    raise ServiceFailedError(_TRAFFIC, "ended without a result", log)
