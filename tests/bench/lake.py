"""The lake's tables beside those of another commit: publish, read, the jobs, and the log of ten years of nights.

    .venv/ml/bin/python tests/bench/lake.py [--rounds 3] [--baseline CHECKOUT] [--nights 3650] [--job-rows 2000000]

`--baseline` names a checkout of another commit, whose `fraud` is measured in the same rounds, the two alternating,
each in processes of its own. Parts: `publish` (1, 30 and 180 days of 10,000 transactions, three days replaced, one day
read by a new process, imports not counted, and read again), `jobs` (build of the features, nothing to build, reading
them; `--job-rows` transactions over 60 days), `score` (a day of a million rows, tests/bench/batch.py), `log` (a table
with `--nights` nightly commits, of this commit only: a new process that opens it, with its start and imports; that
opening alone; the next opening; commit; size; objects listed). `make bench-lake` writes build/bench/lake.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
PARTS: Final = ("publish", "jobs", "score", "log")
COMPARED: Final = (
    "publish_180_s", "read_1_of_180_ms", "build_s", "build_cpu_s", "read_features_s", "score_1m_s",
)  # fmt: skip
Figures = dict[str, float]


def measured(checkout: Path, *arguments: str) -> Figures:
    """The figures that one run of lake_parts.py prints, with the `fraud` of a checkout."""
    env = os.environ | {"PYTHONPATH": str(checkout / "src"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(HERE / "lake_parts.py"), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def scored(checkout: Path, home: Path) -> Figures:
    """Seconds of scoring a day of a million rows, warm, by the benchmark of that checkout."""
    env = os.environ | {"PYTHONPATH": str(checkout / "src"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(checkout / "tests/bench/batch.py"), "--rows", "1000000", "--rounds", "1",
               "--only-ours", "--home", str(home)]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env, cwd=checkout)
    written = json.loads((checkout / "build/bench/batch-linear.json").read_text())
    return {"score_1m_s": float(written["contenders"]["ours, 1,000,000 rows"]["s"])}


def run(given: argparse.Namespace, folder: Path) -> dict[str, Figures]:
    checkouts = {"ours": ROOT, **({"baseline": given.baseline.resolve()} if given.baseline else {})}
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(given.rounds):
        # The first of a round pays for a cold cache, so the order alternates.
        for name in sorted(checkouts, reverse=bool(number % 2)):
            for part in given.parts:
                if part == "log":
                    continue
                if part == "score":
                    figures = scored(checkouts[name], folder / f"score-{name}")
                else:
                    figures = measured(checkouts[name], part, str(folder / f"{part}-{name}"), str(given.job_rows))
                for key, value in figures.items():
                    taken[name][key].append(value)
    found = {name: {key: statistics.median(values) for key, values in rows.items()} for name, rows in taken.items()}
    if "log" in given.parts:
        found.setdefault("ours", {}).update(measured(ROOT, "log", str(folder / "log"), str(given.nights)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nights", type=int, default=3650)
    parser.add_argument("--job-rows", type=int, default=2_000_000)
    parser.add_argument("--baseline", type=Path, help="a checkout of another commit to compare with")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(given, Path(folder))
    keys = list(dict.fromkeys(key for figures in found.values() for key in figures))
    for key in keys:
        print(f"{key:<32}", *(f"{name} {figures[key]:>12,.4g}" for name, figures in found.items() if key in figures))
    figures: dict[str, Any] = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores", "contenders": found,
        "ratios": {
            f"{key}_over_baseline": found["ours"][key] / found["baseline"][key]
            for key in COMPARED if "baseline" in found and key in found["ours"] and key in found["baseline"]
        },
    }  # fmt: skip
    for key, ratio in figures["ratios"].items():
        print(f"{key:<32} {ratio:.3f}")
    out = ROOT / "build/bench/lake.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
