"""`make soak NIGHTS=30`: simulated nights on a small world, with faults, and invariants after each of them.

The embedded stack runs with its real scheduler. A night is a day of payments through POST /predict, the delivery of the
day's files, and the DAG runs that follow from it. The days of the world are those of the simulation: the next day comes
when the night before has ended. A soak that was interrupted continues with the same command.

Writes soak.json, report.json and report.html to the folder. Exit code 1 if an invariant broke.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Final

from tests.soak import report
from tests.soak.platform import log_to, running
from tests.soak.soak import Records, Soak

from fraud.errors import FraudError

_STARTED: Final = time.monotonic()


def progress(line: str) -> None:
    print(f"{time.monotonic() - _STARTED:6.0f} s  {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1, help="of the world, the faults and the samples")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    given = parser.parse_args()
    if given.nights < 1:
        parser.error("--nights must be at least 1")
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled like Ctrl-C: the stack is stopped
    try:
        records = Records.open(folder / "soak.json", {"nights": given.nights, "seed": given.seed})
        if len(records.nights) <= given.nights:
            _run(given, folder, records)
    except FraudError as error:
        print(f"\nfailed: {error}\nlog: {folder / 'soak.log'}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        progress("interrupted; the same command continues with the night that was not complete")
        sys.exit(128 + signal.SIGINT)
    found = report.result(records.arguments, records.nights)
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "report.html").write_text(report.page(found, records.nights))
    print(report.as_text(found))
    progress(f"report: {folder / 'report.html'}")
    sys.exit(0 if found["ok"] else 1)


def _run(given: argparse.Namespace, folder: Path, records: Records) -> None:
    log = log_to(folder / "soak.log")
    progress(f"{given.nights} nights, {len(records.nights)} complete with night 0; log: {folder / 'soak.log'}")
    with running(folder, log, keep=given.keep) as platform:
        progress("the stack is ready")
        Soak(platform, folder, given.nights, given.seed, records, progress).run()


if __name__ == "__main__":
    main()
