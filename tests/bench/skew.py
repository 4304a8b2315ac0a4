"""`fraud skew` on many answers to concurrent callers, with late and repeated events.

    set -a; . var/stack.env; set +a
    .venv/ml/bin/python tests/bench/skew.py [--answers 100000] [--callers 16]

Needs a running embedded stack with a Production model, and leaves its data there. Many callers send transactions of
new users through POST /predict: one in fifty is a retry, one in fifty an event of up to three days ago, and users pay
so often that windows hold many events. Then the transactions land late, in another order and some of them twice, and
`fraud ingest`, `build-features`, `materialize`, `ship-predictions` and `skew` run. Prints the counts and writes
build/bench/skew.json. Exit code 1 if anything differs.
"""

import argparse
import datetime as dt
import http.client
import json
import platform
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse

import pyarrow as pa

from fraud import declaration_file
from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, NumberColumn
from fraud.ingest.delivery import delivering
from fraud.lake import catalog
from fraud.settings import Settings

ROOT: Final = Path(__file__).parents[2]
DECLARATION: Final = declaration_file.load_of(ROOT)
USERS: Final = 400
RETRIES, LATE = 0.02, 0.02
LATE_DAYS: Final = 3


def payments(count: int, seed: int) -> list[dict[str, Any]]:
    """Transactions of the last minutes, some of them late."""
    rng, now = random.Random(seed), dt.datetime.now(dt.UTC)  # noqa: S311 - a world, not a secret
    run = f"{now:%Y%m%d%H%M%S}"
    rows = []
    for number in range(count):
        at = now - dt.timedelta(seconds=rng.uniform(0, 600))
        if rng.random() < LATE:
            at = now - dt.timedelta(days=rng.uniform(0, LATE_DAYS))
        rows.append(
            {"transaction_id": f"skew-{run}-{number}", "event_timestamp": at, "user_id": f"skew-{rng.randrange(USERS)}",
             "merchant_id": f"m{rng.randrange(300)}", "amount": round(rng.lognormvariate(3.7, 1.0) + 0.01, 2),
             **{name: declared(column, rng) for name, column in DECLARATION.columns.items()}}
        )  # fmt: skip
    return rows


def declared(column: Column, rng: random.Random) -> float | bool | str | None:
    """A value of a declared column; 15% null."""
    if rng.random() < 0.15:
        return None
    if isinstance(column, NumberColumn):
        return round(min(max(rng.expovariate(0.1), column.min), column.max), 4)
    if isinstance(column, FlagColumn):
        return rng.random() < 0.5
    if isinstance(column, CategoryColumn):
        return rng.choice(column.values or ("a", "b", "c"))
    return f"skew-{rng.randrange(USERS)}"


class Caller(threading.Thread):
    """One caller with its own connection: sends its share, and some of it again."""

    def __init__(self, url: str, rows: list[dict[str, Any]], seed: int) -> None:
        super().__init__()
        self._url, self._rows, self._rng = urlparse(url), rows, random.Random(seed)  # noqa: S311
        self.answered = self.repeated = self.degraded = 0
        self.failed: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(str(self._url.hostname), self._url.port, timeout=30)
        for row in self._rows:
            body = json.dumps({**row, "event_timestamp": row["event_timestamp"].isoformat()})
            for again in (False, *([True] if self._rng.random() < RETRIES else [])):
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                text = response.read()
                if response.status != http.client.OK:
                    self.failed.append(text.decode()[:200])
                    continue
                self.answered += 1
                self.repeated += again
                self.degraded += json.loads(text)["degraded"]
        connection.close()


def land(settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Deliver the transactions in another order, a twentieth of them twice."""
    rng = random.Random(1)  # noqa: S311
    rows = [*rows, *rng.sample(rows, len(rows) // 20)]
    rng.shuffle(rows)
    created = {"created_timestamp": dt.datetime.now(dt.UTC)}
    schema = pa.schema(catalog.transaction_columns(DECLARATION))
    table = pa.Table.from_pylist([{**row, **created} for row in rows], schema=schema)
    with delivering(settings.landing_uri) as delivery:
        delivery.add("transactions", f"{dt.datetime.now(dt.UTC):%Y-%m-%d-%H%M%S}", "bench-skew", table)


def job(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [str(ROOT / ".venv/ml/bin/fraud"), *arguments, "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--url", required=True, help="of serving")
    given = parser.parse_args()
    settings = Settings.load()
    rows = payments(given.answers, seed=1)
    callers = [Caller(given.url, rows[n :: given.callers], n) for n in range(given.callers)]
    began = time.monotonic()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    seconds = time.monotonic() - began
    sent = {name: sum(getattr(c, name) for c in callers) for name in ("answered", "repeated", "degraded")}
    failed = [text for caller in callers for text in caller.failed]
    print(f"{sent}, failed {len(failed)} {failed[:2]}, {seconds:.0f} s", flush=True)
    land(settings, rows)
    for name in ("ingest", "build-daily", "build-features", "materialize", "ship-predictions"):
        print(name, {k: v for k, v in job(name).items() if isinstance(v, int)}, flush=True)
    day = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"
    found = job("skew", f"--date={day}")
    for key in ("records", "compared", "mismatches", "skipped", "probabilities", "events_lost", "features"):
        print(f"{key:<14}{found[key]}")
    figures = {
        "machine": {"platform": platform.platform(), "callers": given.callers},
        "contenders": {"sent": {**sent, "failed": len(failed), "s": seconds}, "skew": found},
        "ratios": {"compared": found["compared"], "mismatches": found["mismatches"]},
    }
    build = ROOT / "build/bench"
    build.mkdir(parents=True, exist_ok=True)
    (build / "skew.json").write_text(json.dumps(figures, indent=1))
    sys.exit(found["verdict"] != "ok")


if __name__ == "__main__":
    main()
