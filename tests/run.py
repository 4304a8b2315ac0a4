"""Run every part of the test suite in its environment, and print one summary.

Airflow's part runs at the same time as the first one, on the second core; its output is printed at its end. Serving's
part runs alone, because its tests have deadlines.
"""

import argparse
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
ELSEWHERE: Final = {"airflow": ("tests/dags",), "serving": ("tests/serving",)}
NO_TESTS: Final = ("tests/bench",)  # measurements: make bench
_NOTHING_COLLECTED: Final = 5
_SLOWEST: Final = 15


class Outcome(NamedTuple):
    """One part's counts."""

    part: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    ok: bool
    slowest: list[tuple[float, str]]


def parts() -> dict[str, tuple[str, ...]]:
    """Environment -> folders. Folders without another environment run in the ML one."""
    taken = {folder for folders in ELSEWHERE.values() for folder in folders} | set(NO_TESTS)
    folders = sorted(f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if path.is_dir())
    return {"ml": tuple(f for f in folders if f not in taken and "__" not in f), **ELSEWHERE}


def run(environment: str, folders: tuple[str, ...], marker: str, output: IO[str] | None = None) -> Outcome:
    """Run pytest on the folders with tests. Its output goes to `output`; None: the terminal."""
    tested = [folder for folder in folders if any((ROOT / folder).rglob("test_*.py"))]
    report = ROOT / "build" / f"junit-{environment}.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    started = time.monotonic()
    command = [str(ROOT / ".venv" / environment / "bin/python"), "-m", "pytest", "-q", "-m", marker]
    code = (
        subprocess.run(
            [*command, f"--junit-xml={report}", *tested], cwd=ROOT, check=False, stdout=output, stderr=output
        ).returncode
        if tested
        else _NOTHING_COLLECTED
    )
    slowest: list[tuple[float, str]] = []
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    if report.is_file():
        for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314 - our own file
            for name in counts:
                counts[name] += int(suite.get(name, "0"))
            slowest += [
                (float(case.get("time", "0")), f"{case.get('classname')}::{case.get('name')}")
                for case in suite.iter("testcase")
            ]
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    ok = code in (0, _NOTHING_COLLECTED)
    return Outcome(environment, passed, failed, counts["skipped"], time.monotonic() - started, ok, slowest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--slow", dest="marker", action="store_const", const="slow and not long", help="those marked slow"
    )
    which.add_argument("--long", dest="marker", action="store_const", const="long", help="those marked long")
    parser.set_defaults(marker="not slow and not long")
    marker = parser.parse_args().marker
    started = time.monotonic()
    of = parts()
    aside = ROOT / "build" / "test-airflow.log"
    aside.parent.mkdir(exist_ok=True)
    with aside.open("w") as output, ThreadPoolExecutor(max_workers=1) as pool:
        beside = pool.submit(run, "airflow", of["airflow"], marker, output)
        first = run("ml", of["ml"], marker)
        outcomes = [first, beside.result()]
    print(aside.read_text())
    outcomes.append(run("serving", of["serving"], marker))
    print(f"\nthe {_SLOWEST} slowest, seconds")
    for seconds, name in sorted((case for o in outcomes for case in o.slowest), reverse=True)[:_SLOWEST]:
        print(f"{seconds:>8.1f}  {name}")
    print("\nenvironment  passed  failed  skipped  seconds")
    for o in outcomes:
        print(f"{o.part:<11}{o.passed:>8}{o.failed:>8}{o.skipped:>9}{o.seconds:>9.0f}{'' if o.ok else '  FAILED'}")
    total = [sum(column) for column in zip(*(o[1:4] for o in outcomes), strict=True)]
    # The last line repeats pytest's summary.
    words = [f"{total[1]} failed"] * bool(total[1]) + [f"{total[0]} passed"]
    words += [f"{total[2]} skipped"] * bool(total[2])
    print(f"\n===== {', '.join(words)} in {time.monotonic() - started:.2f}s =====")
    sys.exit(0 if all(o.ok for o in outcomes) else 1)


if __name__ == "__main__":
    main()
