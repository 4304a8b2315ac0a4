"""Time, memory and sampling error of `fraud drift` on a large week, compared with a scan of all rows.

    .venv/ml/bin/python tests/bench/drift.py [--rows 5000000]

Prints a table and writes build/bench/drift.json. Each contender runs in its own process, for its peak memory.
`sampled` is `fraud drift` after the model is loaded, with Evidently's page; `plain scan` is the PSI alone, of all rows.
`worst_psi_error` is the largest difference between the two over all features.
"""

import argparse
import datetime as dt
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog

sys.path.insert(0, str(Path(__file__).parent))

import batch_data

from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.monitoring import drift
from fraud.monitoring.drift_inputs import compared, missing, values
from fraud.params import Params
from fraud.registry.model_versions import ModelArtifact
from fraud.settings import Settings
from fraud.stats.psi import psi_categorical, psi_numerical

ROOT: Final = Path(__file__).parents[2]
LAST: Final = dt.date(2026, 3, 9)
WEEK: Final = [str(LAST - dt.timedelta(days=back)) for back in reversed(range(7))]
REFERENCE: Final = "2026-01-31"
PLAN: Final = batch_data.plan_of(batch_data.THREE)
INPUTS: Final = compared(PLAN)
VERSION: Final = ModelArtifact("1", "bench", b"", "bench", PLAN.hash, 0.5, PLAN, b"", "")


def context_of(home: Path) -> Context:
    settings = Settings(home=home, project=ROOT)
    return Context(settings, Params.load(ROOT / "params.yaml"), PLAN.declaration, structlog.get_logger())


def reference_of(home: Path) -> pa.Table:
    table = Dataset(f"file://{home}/lake", "reference").read(REFERENCE)
    return table.append_column(drift.PREDICTION, pa.array(np.zeros(table.num_rows, np.float32)))


def sampled(home: Path) -> dict[str, float]:
    context = context_of(home)
    window = drift.Window(str(LAST), WEEK, {})
    current = drift._current(window, context, VERSION)
    measured, _ = drift._measure(reference_of(home), current, window, context, VERSION)
    return {name: found["psi"] for name, found in measured["features"].items()}


def plain_scan(home: Path) -> dict[str, float]:
    features = catalog.features(PLAN.stored_hash).at(f"file://{home}/lake")
    columns = sorted({"event_timestamp", *(one.column for one in INPUTS if one.column)})
    every, reference = pa.concat_tables([features.read(day, columns) for day in WEEK]), reference_of(home)
    found = {}
    for one in INPUTS:
        r, c = (column[~missing(column)] for column in (values(reference, one), values(every, one)))
        found[one.name] = psi_categorical(r.tolist(), c.tolist()) if one.categorical else psi_numerical(r, c)
    return found


CONTENDERS: Final = {"sampled": sampled, "plain scan": plain_scan}


def measure_here(contender: str, home: Path) -> None:
    """Child process: run one contender and print its figures."""
    began = time.perf_counter()
    psi = CONTENDERS[contender](home)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"s": seconds, "peak_mb": peak, "psi": psi}))


def measure(contender: str, home: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contender", contender, "--home", str(home)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        measure_here(arguments.contender, arguments.home)
        return
    with tempfile.TemporaryDirectory(prefix="fraud-bench-drift-") as name:
        home = Path(name)
        lake = f"file://{home}/lake"
        features = catalog.features(PLAN.stored_hash).at(lake)
        for day in WEEK:
            batch_data.write_features(features, day, arguments.rows // len(WEEK), PLAN)
        batch_data.write_features(Dataset(lake, "reference"), REFERENCE, 50_000, PLAN)
        found = {contender: measure(contender, home) for contender in CONTENDERS}
    error = max(abs(found["sampled"]["psi"][one.name] - found["plain scan"]["psi"][one.name]) for one in INPUTS)
    figures = {
        "machine": {"platform": platform.platform(), "rows": arguments.rows},
        "contenders": {name: {"s": f["s"], "peak_mb": f["peak_mb"]} for name, f in found.items()},
        "ratios": {
            "rows5m_s": found["sampled"]["s"],
            "rows5m_peak_mb": found["sampled"]["peak_mb"],
            "vs_plain_scan": found["plain scan"]["s"] / found["sampled"]["s"],
            "worst_psi_error": error,
        },
    }
    build = ROOT / "build/bench"
    build.mkdir(parents=True, exist_ok=True)
    (build / "drift.json").write_text(json.dumps(figures, indent=1))
    for contender, f in found.items():
        print(f"{contender:<14}{f['s']:>8.1f} s {f['peak_mb']:>10,.0f} MB")
    print("\n".join(f"{key:<20}{value:,.4f}" for key, value in figures["ratios"].items()))


if __name__ == "__main__":
    main()
