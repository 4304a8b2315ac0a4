"""The record of a drill, written after every fault, so that an interrupted drill can be continued.

A drill of all faults is recorded in `build/drill.json`, a drill of chosen alerts in `build/drill-chosen.json`. Only the
first is continued, as long as the stack and the rules are the same. A record has one session per command.
"""

import json
import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from fraud.embedded.fire_drill import alerts_page
from fraud.embedded.stack import Stack

ALL: Final = "build/drill.json"
CHOSEN: Final = "build/drill-chosen.json"


@dataclass(frozen=True, slots=True)
class AlertTiming:
    """Times of one alert of one fault, in seconds of the drill's clock. None: not within the time limit."""

    alert: str
    fault: str
    detected_s: float | None
    resolved_s: float | None
    note: str = ""
    """Why the fault was not injected; "" if it was."""

    @property
    def works(self) -> bool:
        return self.detected_s is not None and self.resolved_s is not None


@dataclass(slots=True)
class Session:
    """One command of a drill. `started` is ISO 8601, UTC."""

    started: str
    seconds: float = 0.0
    load: float = 0.0
    """Of the last minute, at the end of the session's last fault."""
    fired_without_fault: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """One drill. `of` identifies the stack and the rules that it tests."""

    path: Path
    of: str
    sessions: list[Session] = field(default_factory=list)
    alerts: list[AlertTiming] = field(default_factory=list)
    complete: bool = False
    _began: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, path: Path, of: str, *, fresh: bool) -> Self:
        """Add a session to the interrupted drill of `path`; without one, or if `fresh`, to a new drill."""
        found = {} if fresh or not path.is_file() else json.loads(path.read_text())
        record = cls(path, of)
        if found.get("of") == of and not found["complete"]:
            record.sessions = [Session(**session) for session in found["sessions"]]
            record.alerts = [AlertTiming(**alert) for alert in found["alerts"]]
        record.sessions.append(Session(datetime.now(UTC).isoformat(timespec="seconds")))
        return record

    @property
    def faults(self) -> set[str]:
        """Descriptions of the faults that need not be injected again."""
        return {timing.fault for timing in self.alerts}

    @property
    def fired_without_fault(self) -> list[str]:
        return sorted({alert for session in self.sessions for alert in session.fired_without_fault})

    @property
    def seconds(self) -> float:
        """Of all sessions together."""
        return sum(session.seconds for session in self.sessions)

    def add(self, timings: Collection[AlertTiming]) -> None:
        """Add the alerts of one fault, and write the record."""
        self.alerts.extend(timings)
        self.write()

    def write(self) -> None:
        """Write the record. A killed drill leaves the one before or this one, never a part of it."""
        session = self.sessions[-1]
        session.seconds, session.load = round(time.monotonic() - self._began, 1), round(os.getloadavg()[0], 1)
        self.path.parent.mkdir(exist_ok=True)
        temporary = self.path.with_suffix(".new")
        content = {
            "of": self.of, "cpus": os.cpu_count(), "complete": self.complete,
            "sessions": [asdict(session) for session in self.sessions],
            "alerts": [asdict(timing) for timing in self.alerts],
        }  # fmt: skip
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(self.path)

    def failure(self) -> str:
        """What does not work, one line per kind; "" if every alert of the record fired and resolved."""
        silent = [t.alert for t in self.alerts if not t.note and t.detected_s is None]
        stuck = [t.alert for t in self.alerts if t.detected_s is not None and t.resolved_s is None]
        skipped = [f"{t.alert} ({t.note})" for t in self.alerts if t.note]
        kinds = (
            ("did not fire", silent), ("did not resolve", stuck),
            ("fired without a fault", self.fired_without_fault), ("not tested", skipped),
        )  # fmt: skip
        return "\n".join(f"    {kind}: {', '.join(alerts)}" for kind, alerts in kinds if alerts)

    def as_markdown(self) -> str:
        """The record as a paragraph and a table. Times are in seconds of the drill's clock."""
        working = sum(timing.works for timing in self.alerts)
        last = self.sessions[-1]
        parts = "in one run" if len(self.sessions) == 1 else f"in {len(self.sessions)} parts"
        noise = ", ".join(self.fired_without_fault) or "none"
        run, cpus = f"{parts} of together {self.seconds / 60:.0f} minutes", os.cpu_count()
        expected = len(self.alerts)
        text = (
            f"Drill of {last.started[:10]}, {run}, on {cpus} CPUs",
            f"with a load of {last.load} at its end: {working} of {expected} expected alerts fired and resolved.",
            f"Fired without a fault: {noise}.",
        )
        lines = [
            alerts_page.paragraph(text),
            "",
            "| alert | fired after | resolved after | fault |",
            "| --- | --- | --- | --- |",
        ]
        for t in self.alerts:
            note = f" ({t.note})" if t.note else ""
            lines.append(f"| {t.alert} | {_seconds(t.detected_s)} | {_seconds(t.resolved_s)} | {t.fault}{note} |")
        return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def identity(stack: Stack) -> str:
    """Identifies a stack and the rules of its checkout."""
    rules = sorted((stack.project / "infra/prometheus/rules").glob("*.yml"))
    content = b"".join(path.read_bytes() for path in rules)
    return f"{stack.mark} {sha256(content).hexdigest()[:16]}"
