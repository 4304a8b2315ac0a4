"""The nights of a soak, one after the other, with their records in `soak.json`."""

import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from tests.soak import growth, invariants, observe, resources
from tests.soak.platform import Platform
from tests.soak.resources import Usage
from tests.soak.schedule import Night, nights
from tests.soak.state import Observed
from tests.soak.world import Landing, World

from fraud.embedded.servers.airflow_api import Run, Task
from fraud.errors import BadConfigError, FraudError, UnavailableError

RATE: Final = 40.0
"""Payments a second: a day's traffic takes about ten seconds, so that a service can be killed during it."""
_TIMES: Final = 6
"""Times that the traffic of a day is sent before the soak gives up."""


class Records:
    """`soak.json`: the arguments and the record of each complete night. A soak that was interrupted continues there."""

    def __init__(self, path: Path, arguments: dict[str, Any], nights: list[dict[str, Any]]) -> None:
        self._path, self.arguments, self.nights = path, arguments, nights

    @classmethod
    def open(cls, path: Path, arguments: dict[str, Any]) -> Self:
        """The records of the folder. Raises BadConfigError when they are of a soak with other arguments."""
        if not path.is_file():
            return cls(path, arguments, [])
        found = json.loads(path.read_text())
        if found["arguments"] != arguments:
            raise BadConfigError(
                "the folder has a soak with other arguments", expected=str(found["arguments"]), got=str(arguments),
                hint=f"remove {path.parent}, or name another folder",
            )  # fmt: skip
        return cls(path, arguments, found["nights"])

    def add(self, record: dict[str, Any]) -> None:
        self.nights.append(record)
        temporary = self._path.with_suffix(".pending")
        temporary.write_text(json.dumps({"arguments": self.arguments, "nights": self.nights}, indent=1) + "\n")
        temporary.replace(self._path)

    def observed(self) -> list[tuple[list[str], Observed]]:
        """Events and observations of each night."""
        return [(record["events"], Observed.of(record["observed"])) for record in self.nights]

    def usage(self) -> list[Usage]:
        return [Usage.of(record["observed"]["usage"]) for record in self.nights]


class Soak:
    """Runs the nights that have no record. `progress` is called with each line of progress."""

    def __init__(
        self, platform: Platform, folder: Path, count: int, seed: int, records: Records,
        progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._platform, self._folder, self._records, self._progress = platform, folder, records, progress
        self._seed, self._schedule = seed, nights(count, seed)
        self._world = World(folder / "world", count, seed, platform.context.declaration)
        self._landing = Landing(platform.stack.home / "landing", self._world)

    def run(self) -> None:
        """Raises FraudError when the stack cannot be used any more."""
        self._world.write()
        self._platform.until_quiet(datetime.now(UTC))  # a soak that was interrupted may have left runs
        if not self._records.nights:
            self._night(Night(0, "on time", (), None), None)
            if not Observed.of(self._records.nights[0]["observed"]).registry.in_history:
                raise FraudError("the first candidate was not promoted", hint=f"read {self._folder / 'soak.log'}")
        before: Night | None = None
        for night in self._schedule:
            if night.number >= len(self._records.nights):
                self._night(night, before)
            before = night

    def _night(self, night: Night, before: Night | None) -> None:
        began, cpu = time.monotonic(), time.process_time()
        production = observe.registry(self._platform).in_history if night.number else ""
        sent = self._traffic(night) if night.number else None
        paid = time.monotonic()
        runs, expected = self._deliver(night, before)
        rolled_back_to = ""
        if "rollback" in night.events:
            rolled_back_to, more = self._release_and_roll_back()
            runs += more
        worked = time.monotonic()
        tasks = self._platform.tasks(runs)
        observed = self._observe(night, production, sent, runs, tasks, expected, rolled_back_to)
        wrong = invariants.broken(observed) if night.number else {}
        if unnoticed := invariants.data_drift_is_found([*self._records.observed(), (night.events, observed)]):
            wrong[invariants.data_drift_is_found.__name__] = unnoticed
        if grows := growth.bounded_growth([*self._records.usage(), Usage.of(observed.usage)]):
            wrong[growth.bounded_growth.__name__] = grows
        record = {
            "night": night.number, "day": self._world.day(night.number), "delivery": night.delivery,
            "events": night.events, "killed": str(night.kill) if night.kill else "",
            "seconds": round(time.monotonic() - began, 1), "traffic_s": round(paid - began, 1),
            "checked_s": round(time.monotonic() - worked, 1), "soak_cpu_s": round(time.process_time() - cpu, 1),
            "tasks": _seconds(tasks), "observed": observed.as_dict(), "broken": wrong,
        }  # fmt: skip
        self._records.add(record)
        self._progress(line(self._records.nights, len(self._schedule)))

    def _traffic(self, night: Night) -> dict[str, Any]:
        """Send the day's payments, and once more as a whole while serving does not answer."""
        source = self._world.file("transactions", self._world.day(night.number))
        url = f"--url={self._platform.stack.url('serving')}"
        kill = night.kill if night.kill and night.kill.phase == "day" else None
        with self._platform.killing(kill):
            for repeats in range(_TIMES):
                with suppress(UnavailableError):
                    sent = self._platform.job("traffic", f"--source={source}", url, f"--rate={RATE}")
                    return {**sent, "repeats": repeats}
        raise UnavailableError(f"serving did not answer the traffic of a day, sent {_TIMES} times")

    def _deliver(self, night: Night, before: Night | None) -> tuple[list[Run], tuple[str, ...]]:
        """Deliver, trigger ingest and wait until everything that follows has ended. Returns runs, expected failures."""
        if night.number:
            self._landing.deliver(night, before)
        else:
            self._landing.deliver_history()
        kill = night.kill if night.kill and night.kill.phase == "night" else None
        expected: tuple[str, ...] = ()
        since = datetime.now(UTC)
        with self._platform.killing(kill):
            self._platform.run("ingest_transactions", {"feed": "all"})
            if night.delivery == "damaged file":
                expected = ("ingest_transactions.ingest",)
                damaged = self._platform.until_quiet(since)
                self._landing.correct(night)
                self._platform.run("ingest_transactions", {"feed": "all"})
                self._check_damaged(damaged)
        return self._platform.until_quiet(since), expected

    def _check_damaged(self, runs: list[Run]) -> None:
        failed = _failed(self._platform.tasks(runs))
        if "ingest_transactions.ingest" not in failed:
            raise FraudError("ingest accepted a damaged file", got=f"failed tasks: {failed}")

    def _release_and_roll_back(self) -> tuple[str, list[Run]]:
        """Release the newest version, which failed a gate, with a waiver, and roll back through Airflow.

        A newest version that passed its gates was released by Airflow and is rolled back. Returns the version that
        Production must have afterwards.
        """
        now = observe.registry(self._platform)
        if now.candidate != now.in_history:
            expires = f"--waiver-expires={datetime.now(UTC).date() + timedelta(30)}"
            waiver = (f"--waive={','.join(now.failed_gates)}", "--waiver-reason=release of the soak test", expires)
            self._platform.job("promote", f"--version={now.candidate}", *waiver)
        with_release = self._platform.job("history")["changes"][-1]
        observe.served(self._platform, str(with_release["version"]))
        runs = self._platform.run("rollback_model", {"reason": "rollback of the soak test"})
        return str(with_release["replaced"]), runs

    def _observe(
        self, night: Night, production: str, sent: dict[str, Any] | None, runs: list[Run], tasks: list[Task],
        expected: tuple[str, ...], rolled_back_to: str,
    ) -> Observed:  # fmt: skip
        platform = self._platform
        unreadable = platform.job("ship-predictions")["unreadable"] if sent else 0
        nothing = {"sent": 0, "answered": 0, "degraded": 0, "resent": 0, "flagged_fraud": 0, "repeats": 0}
        paid = observe.payments(self._world.file("transactions", self._world.day(night.number)))
        killed = night.kill is not None and night.kill.service == "serving"
        return Observed(
            feeds=observe.feeds(platform.settings, self._landing), scores=observe.scores(platform.settings),
            answers=observe.answers(platform, sent or nothing, paid if sent else paid.slice(0, 0), unreadable),
            skew=observe.skew(platform), registry=observe.registry(platform),
            audit=observe.audit(platform, random.Random(f"{self._seed} {night.number}"))  # noqa: S311 - a sample
            if sent else observe.Audit(0, (), 0, ()),
            orphans=tuple(resources.orphans(platform.stack)), failed=_failed(tasks), expected_failures=expected,
            candidate_is_bad="bad candidate" in night.events, production_before=production,
            rolled_back_to=rolled_back_to, serving_killed=killed, monitors=observe.monitors(platform, runs),
            usage=resources.measure(platform.stack, self._folder / "tmp").as_dict(),
        )  # fmt: skip


def _failed(tasks: list[Task]) -> tuple[str, ...]:
    """Tasks that failed in any of their runs, by DAG and task."""
    return tuple(sorted({f"{task.run.dag}.{task.id}" for task in tasks if task.state == "failed"}))


def _seconds(tasks: list[Task]) -> dict[str, float]:
    """Seconds of each task in all of its runs, from its last start to its end, without tasks that took no time."""
    found: dict[str, float] = {}
    for task in tasks:
        name = f"{task.run.dag}.{task.id}"
        found[name] = round(found.get(name, 0.0) + task.seconds, 1)
    return {name: seconds for name, seconds in found.items() if seconds}


def line(records: list[dict[str, Any]], count: int) -> str:
    """One line about the newest night, with the time that is left."""
    record, seen = records[-1], Observed.of(records[-1]["observed"])
    usage = [Usage.of(each["observed"]["usage"]) for each in records[-2:]]
    disk = [sum(each.disk_mb.values()) for each in usage]
    times = [each["seconds"] for each in records[1:]] or [record["seconds"]]
    left = timedelta(seconds=round((count - record["night"]) * sum(times) / len(times)))
    what = [record["delivery"], *record["events"], *([f"killed {record['killed']}"] if record["killed"] else [])]
    memory = sum(service.memory_mb for service in usage[-1].services.values())
    parts = [
        f"night {record['night']}/{count} {record['day']}: {', '.join(what)}",
        f"{seen.answers.answered} answers ({seen.answers.degraded} degraded)",
        f"production {seen.registry.in_history}, newest {seen.registry.candidate}"
        + (f" failed {'+'.join(seen.registry.failed_gates)}" if seen.registry.failed_gates else ""),
        f"disk {disk[-1]:.0f} MB ({disk[-1] - disk[0]:+.1f})",
        f"rows {sum(usage[-1].rows.values()):,} ({sum(usage[-1].rows.values()) - sum(usage[0].rows.values()):+,})",
        f"memory {memory:.0f} MB", f"{record['seconds']:.0f} s, {left} left",
        "BROKEN: " + "; ".join(f"{n}: {w}" for n, w in record["broken"].items()) if record["broken"] else "ok",
    ]  # fmt: skip
    return "; ".join(parts)
