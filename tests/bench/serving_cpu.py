"""CPU time of the decision path alone, for three features and for the shipped declaration.

    .venv/ml/bin/python tests/bench/serving_cpu.py

Trains the models of serving.py, runs serving_in_process.py on each, prints a table and writes
build/bench/serving_cpu.json.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import serving_model

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = str(ROOT / ".venv/serving/bin/python")


def measured(folder: Path) -> dict[str, float]:
    """The figures of serving_in_process.py for the model in `folder`."""
    command = [PYTHON, str(Path(__file__).with_name("serving_in_process.py")), str(folder)]
    env = os.environ | {"PYTHONPATH": serving_model.sources(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    contenders: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        for name, declaration in (("three", serving_model.THREE), ("wide", serving_model.SHIPPED)):
            serving_model.write(Path(folder) / name, declaration)
            contenders[name] = measured(Path(folder) / name)
    three, wide = contenders["three"], contenders["wide"]
    ratios = {
        "wide_cpu_over_three": wide["cpu_us_per_request"] / three["cpu_us_per_request"],
        "batch1000_vs_ort": three["batch1000_vs_ort"], "wide_batch1000_vs_ort": wide["batch1000_vs_ort"],
    }  # fmt: skip
    for name, of in contenders.items():
        print(f"{name:<8}" + "  ".join(f"{what} {value:,.2f}" for what, value in of.items()))
    for name, ratio in ratios.items():
        print(f"{name:<32}{ratio:8.2f}")
    path = ROOT / "build/bench/serving_cpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "contenders": contenders, "ratios": ratios}
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
