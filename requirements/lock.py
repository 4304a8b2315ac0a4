"""Write the hashed lock files from the .in files: `make lock`.

torch has a lock of its own. Its public wheels for Linux x86-64 carry CUDA, the CPU build of the same version is
published apart as 2.13.0+cpu, and either must install from the same pin: torch.txt holds the hashes of both. pip
accepts any file with a listed hash. uv matches hashes by exact version, local part included, so it is given the pin
with +cpu (Makefile). Both install with --no-deps: ml.in names what the CPU build needs, and nothing of CUDA.
"""

import os
import re
import subprocess
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".venv/tools/bin/uv"
COMPILE = [
    str(UV), "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate",
    "--no-emit-index-url", "--no-emit-find-links", "--python-version", "3.11",
]  # fmt: skip
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def compile_lock(source: Path, target: Path, *more: str) -> None:
    subprocess.run([*COMPILE, *more, str(source), "-o", str(target)], check=True, cwd=ROOT)


def lock_torch(target: Path, links: Path | None) -> None:
    """Hashes of the public wheels, of the builds in the find-links folder, and those already listed for this pin."""
    pin = target.with_suffix(".in").read_text().strip()
    text = target.read_text() if target.exists() else ""
    hashes = set(HASH.findall(text)) if text.startswith(f"{pin} ") else set()
    public = subprocess.run(
        [*COMPILE, "--no-deps", "-"], input=pin, check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    hashes.update(HASH.findall(public))
    wheels = links.glob(pin.replace("==", "-") + "[+-]*.whl") if links else ()
    hashes.update(f"sha256:{sha256(wheel.read_bytes()).hexdigest()}" for wheel in wheels)
    target.write_text(" \\\n    ".join([pin, *(f"--hash={h}" for h in sorted(hashes))]) + "\n")


def main() -> None:
    requirements = ROOT / "requirements"
    serving = ROOT / "services/serving/requirements.in"
    tracking = ROOT / "services/mlflow/requirements.in"
    ml = requirements / "ml.txt"
    folder = os.environ.get("PIP_FIND_LINKS")
    compile_lock(serving, serving.with_suffix(".txt"))
    compile_lock(requirements / "airflow.in", requirements / "airflow.txt")
    # Laid over Airflow's environment, whose packages keep their versions.
    airflow = f"--constraint={requirements / 'airflow.txt'}"
    compile_lock(requirements / "celery.in", requirements / "celery.txt", airflow)
    compile_lock(requirements / "ml.in", ml)
    # MLflow's server and its clients are one release, and so is everything they share.
    compile_lock(tracking, tracking.with_suffix(".txt"), f"--constraint={ml}")
    lock_torch(requirements / "torch.txt", Path(folder) if folder else None)
    tools = requirements / "tools.txt"
    compile_lock(requirements / "tools.in", tools)
    compile_lock(requirements / "audit.in", requirements / "audit.txt", f"--constraint={tools}")
    constraints = [f"--constraint={p}" for p in (ml, requirements / "airflow.txt", serving.with_suffix(".txt"))]
    # One set of test packages is laid over all three environments, so it must agree with each of them.
    compile_lock(requirements / "test.in", requirements / "test.txt", *constraints)


if __name__ == "__main__":
    main()
