"""Delta Lake, Iceberg and the manifests that the lake had before: the measurements of docs/adr/0045.

    .venv/ml/bin/python tests/bench/table_formats.py [--rounds 5] [--nights 365 3650] [--manifests CHECKOUT]

`--manifests` names a checkout of the commit before, whose `fraud.lake.dataset` is measured too. Every contender gets
the same Parquet objects, named by their content: what differs is how they are committed and found. The libraries are
installed into build/peers/table_formats on first use. Contenders alternate in every round; figures are medians.
Prints a table and writes build/bench/table_formats.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
UV: Final = str(ROOT / ".venv/tools/bin/uv")
ENVIRONMENT: Final = ROOT / "build/peers/table_formats"
PACKAGES: Final = (
    "deltalake==1.6.6", "pyiceberg[sql-sqlite,pyarrow,pyiceberg-core]==0.12.0", "polars==2.1.0", "duckdb==2.0.1",
    "pyarrow>=25,<26", "numpy", "fsspec", "pydantic>=2.14",
)  # fmt: skip
Figures = dict[str, float]


def installed() -> str:
    """The Python of an environment with the packages, which is made once."""
    python = str(ENVIRONMENT / "bin/python")
    if not (ENVIRONMENT / ".ready").exists():
        for command in (
            [UV, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(ENVIRONMENT)],
            [UV, "pip", "install", "--quiet", "--python", python, *PACKAGES],
        ):
            subprocess.run(command, check=True)
        (ENVIRONMENT / ".ready").touch()
    return python


def measured(python: str, checkout: Path | None, *arguments: str) -> Figures:
    """The figures that one run of table_formats_contenders.py prints."""
    env = os.environ | {"PYTHONPATH": str(checkout / "src") if checkout else "", "PYTHONWARNINGS": "ignore"}
    command = [python, str(HERE / "table_formats_contenders.py"), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def run(rounds: int, nights: list[int], checkout: Path | None) -> dict[str, Figures]:
    python = installed()
    formats = ["delta", "iceberg", *(["manifests"] if checkout else [])]
    taken: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        for name in formats:
            where = checkout if name == "manifests" else None
            taken.setdefault(name, []).append(measured(python, where, "publish", name))
    found = {name: medians(rows) for name, rows in taken.items()}
    logs = ["delta", "delta_without_checkpoints", "iceberg", "iceberg_as_it_is", *(["manifests"] if checkout else [])]
    for name in logs:
        where = checkout if name == "manifests" else None
        for n in nights:
            if name == "iceberg_as_it_is" and n > 365:
                continue  # a commit rewrites the metadata of every earlier one: hours
            found.setdefault(name, {}).update(measured(python, where, "log", name, str(n)))
    return found


def medians(rows: list[Figures]) -> Figures:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show(found: dict[str, Figures]) -> None:
    keys = list(dict.fromkeys(key for figures in found.values() for key in figures))
    width = max(map(len, keys))
    print(f"{'':{width}}", *(f"{name:>26}" for name in found))
    for key in keys:
        cells = (f"{figures[key]:26,.4g}" if key in figures else f"{'-':>26}" for figures in found.values())
        print(f"{key:{width}}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nights", type=int, nargs="+", default=[365, 3650])
    parser.add_argument("--manifests", type=Path, help="a checkout of the commit before the lake was stored in Delta")
    given = parser.parse_args()
    found = run(given.rounds, given.nights, given.manifests)
    show(found)
    figures: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "contenders": found,
        "ratios": {
            f"commit_180_{name}_over_delta": found[name]["commit_180_s"] / found["delta"]["commit_180_s"]
            for name in ("iceberg", "manifests")
            if name in found
        },
    }
    target = ROOT / "build/bench/table_formats.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
