"""Our own code compared with the maintained libraries that could replace it: the measurements of docs/adr/0040 to 0043.

    .venv/ml/bin/python tests/bench/libraries.py [--only PART ...] [--rounds 5]

Contenders alternate in every round. Figures are medians. CPU time is that of the measured process alone, which other
work affects little. Libraries are installed into build/peers/libraries on first use. Prints a table and writes
build/bench/libraries.json. The part `http` needs `wrk`, the part `trees` a C compiler.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parent))

import libraries_supervision
import libraries_traffic
import serving_model

from fraud.embedded.servers import valkey

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
UV: Final = str(ROOT / ".venv/tools/bin/uv")
ML: Final = ROOT / ".venv/ml/bin"
SERVING: Final = ROOT / ".venv/serving/bin"
PEERS: Final = ROOT / "build/peers/libraries"
Figures = dict[str, float]
Rounds = dict[str, dict[str, list[float]]]


def installed(name: str, python: Path, *packages: str) -> str:
    """A folder for PYTHONPATH with the packages, without their dependencies, which the environment has."""
    folder = PEERS / name
    if not (folder / ".ready").exists():
        command = [UV, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "--python", str(python)]
        subprocess.run([*command, *packages], check=True)
        (folder / ".ready").touch()
    return str(folder)


def cost(command: list[str], env: Mapping[str, str] | None = None) -> Figures:
    """Wall and CPU ms of a command that succeeds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_ms": 1e3 * cpu, "wall_ms": 1e3 * (time.perf_counter() - began)}


def serving_part(env: Mapping[str, str], *arguments: str) -> Any:  # noqa: ANN401 - JSON
    path = installed("serving", SERVING / "python", "pydantic-settings", "python-dotenv", "structlog", "granian")
    command = [str(SERVING / "python"), str(HERE / "libraries_serving.py"), *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **env, "PYTHONPATH": path}
    )
    return json.loads(done.stdout.splitlines()[-1])


def service_environment(folder: Path, store_url: str = "redis://127.0.0.1:1/0") -> dict[str, str]:
    return {
        "SERVING_REDIS_URL": store_url, "SERVING_MLFLOW_URL": "http://127.0.0.1:2", "SERVING_OPEN": "1",
        "SERVING_MODEL_CACHE": str(folder / "cache"), "SERVING_PREDICTION_LOG": str(folder / "log"),
        "SERVING_PORT": str(valkey.free_port()), "SERVING_POLL_SECONDS": "3600",
    }  # fmt: skip


def settings(folder: Path, rounds: Rounds) -> None:
    for library in ("ours", "pydantic-settings"):
        found = serving_part(service_environment(folder), "settings", library)
        print(f"{library}: SERVING_PORTS (misspelt) gives: {found.pop('misspelt')}")
        keep(rounds, f"settings {library}", found)


def logs(_: Path, rounds: Rounds) -> None:
    for library, us in serving_part({}, "logs").items():
        keep(rounds, f"logs {library}", {"cpu_us_per_line": us})


def store(folder: Path, rounds: Rounds) -> None:
    with valkey.running(folder / "store") as server:
        for library, us in serving_part({}, "store", server.url).items():
            keep(rounds, f"store {library}", {"cpu_us_per_request": us})
    shutil.rmtree(folder / "store")


@contextmanager
def server(command: list[str], env: Mapping[str, str], folder: Path) -> Iterator[int]:
    """A serving process on the last core; its process id, once it is ready."""
    pinned = ["taskset", "-c", str((os.cpu_count() or 1) - 1), *command]
    path = f"{PEERS / 'serving'}:{HERE}"
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            pinned, env={**os.environ, **env, "PYTHONPATH": path}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        libraries_traffic.wait_for(int(env["SERVING_PORT"]), "/ready")
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def http(folder: Path, rounds: Rounds) -> None:
    """Serving behind three HTTP servers, 16 connections."""
    from serving import PAYMENTS, finished, wrk  # noqa: PLC0415 - its imports are for the other bench
    from serving_process import family_cpu_s  # noqa: PLC0415

    if not (folder / "cache").exists():
        with threadpool_limits(limits=1):  # more threads are slower: they wait for each other
            serving_model.write(folder / "cache")
    python = str(SERVING / "python")
    with valkey.running(folder / f"store{time.monotonic_ns()}") as shared:
        env = service_environment(folder, shared.url)
        granian = [python, "-m", "granian", "--factory", "--port", env["SERVING_PORT"], "--loop", "uvloop", "--no-ws",
                   "--log-level", "error", "--interface"]  # fmt: skip
        for name, command in (
            ("ours", [python, "-m", "fraud_serving"]),
            ("uvicorn asgi", [python, str(HERE / "libraries_serving.py"), "uvicorn-asgi"]),
            ("granian asgi", [*granian, "asgi", "libraries_serving:application"]),
            ("granian rsgi", [*granian, "rsgi", "libraries_serving:rsgi"]),
        ):
            with server(command, env, folder) as pid:
                finished(
                    wrk(int(env["SERVING_PORT"]), 16, 1, PAYMENTS, f"w{time.monotonic_ns()}", "", "1767268800"), name
                )
                before = family_cpu_s(pid)
                client = wrk(int(env["SERVING_PORT"]), 16, 2, PAYMENTS, f"h{time.monotonic_ns()}", "", "1767268800")
                figures = finished(client, name)
                cpu = family_cpu_s(pid) - before
            keep(rounds, f"http {name}", {
                "requests_per_s": figures["requests"] / figures["seconds"], "p99_ms": figures["p99_ms"],
                "cpu_us_per_request": 1e6 * cpu / figures["requests"],
            })  # fmt: skip


CLI_APP: Final = """
import importlib
from typing import Optional
from pydantic import create_model
from pydantic_settings import BaseSettings, CliApp, CliSubCommand
from fraud.job_list import JOBS
def config(job):
    return importlib.import_module(JOBS[job].module).Config
fields = {job.replace("-", "_"): (CliSubCommand[config(job)], ...) for job in JOBS}
Root = create_model("Root", __base__=BaseSettings, **fields)
CliApp.run(Root, cli_args=["--help"], cli_exit_on_error=True)
"""
TYPER: Final = """
import typer
from fraud.job_list import JOBS
app = typer.Typer(add_completion=False)
for job, (_, line) in JOBS.items():
    app.command(job, help=line)(lambda: None)
app(["--help"])
"""


def cli(_: Path, rounds: Rounds) -> None:
    """`fraud --help`: as it is, with every job as a subcommand of CliApp, and typer with the names alone."""
    python = str(ML / "python")
    keep(rounds, "cli ours", cost([str(ML / "fraud"), "--help"]))
    keep(rounds, "cli CliApp", cost([python, "-c", CLI_APP]))
    keep(rounds, "cli typer, jobs not loaded", cost([python, "-c", TYPER]))


def session(_: Path, rounds: Rounds) -> None:
    """Finding the members of a session among this machine's processes, and starting the guard that ends it."""
    import psutil  # noqa: PLC0415 - comes with dvc; Airflow has it too

    sys.path.insert(0, str(ROOT / "plugins"))
    from fraud_airflow.session import members  # noqa: PLC0415

    def by_psutil(expected: int) -> list[int]:
        found = []
        for process in psutil.process_iter(["status"]):
            try:
                if os.getsid(process.pid) == expected and process.info["status"] not in ("zombie", "dead"):
                    found.append(process.pid)
            except ProcessLookupError:
                continue
        return found

    # A job whose child ends at once and leaves a grandchild: what Spark's Python daemon does.
    job = subprocess.Popen(["sh", "-c", "(sleep 60 & sleep 60 &) ; sleep 60"], start_new_session=True)
    time.sleep(0.2)
    print(f"processes of the job: session {len(members(job.pid))}, psutil children "
          f"{1 + len(psutil.Process(job.pid).children(recursive=True))}")  # fmt: skip
    for name, find in (("ours", members), ("psutil", by_psutil)):
        cpu = time.process_time()
        for _repeat in range(20):
            assert len(find(job.pid)) == 4  # the shell, its sleep, and two processes without a parent
        keep(rounds, f"session {name}", {"cpu_ms_per_look": 1e3 * (time.process_time() - cpu) / 20})
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    keep(rounds, "session guard ours", cost([str(ML / "python"), "-I", "-S", "-c", "import subprocess, pathlib"]))
    keep(rounds, "session guard psutil", cost([str(ML / "python"), "-I", "-c", "import subprocess, pathlib, psutil"]))


def trees(folder: Path, rounds: Rounds) -> None:
    """300 trees of 15 leaves: rows/s on one core, and how many of 100,000 answers have ONNX Runtime's bits."""
    sys.path.insert(0, installed("trees", ML / "python", "treelite", "tl2cgen"))
    import tl2cgen  # noqa: PLC0415
    import treelite  # noqa: PLC0415

    from fraud.scoring.onnx_session import OnnxModel  # noqa: PLC0415
    from fraud.scoring.trees import batch_model  # noqa: PLC0415
    from fraud.training.ladder.boosting import FittedBoosting  # noqa: PLC0415

    path = folder / "forest.onnx"
    if not path.exists():
        with threadpool_limits(limits=1):
            model, _ = serving_model.fitted()
        path.write_bytes(FittedBoosting(model, ()).to_onnx())
        began = time.process_time()
        tl2cgen.export_lib(
            treelite.sklearn.import_model(model),
            toolchain="gcc",
            libpath=folder / "forest.so",
            params={"parallel_comp": 8},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"tl2cgen: {time.process_time() - began + after.ru_utime + after.ru_stime:.1f} s of CPU to compile")
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    vectors = rng.gamma(2, 50, (100_000, len(serving_model.plan_of(serving_model.THREE).vector.names))).astype(
        np.float32
    )
    onnx, ours = OnnxModel(data), batch_model(data)
    assert type(ours).__name__ == "FastTrees"
    compiled = tl2cgen.Predictor(folder / "forest.so", nthread=1)
    ours.probabilities(vectors[:1000])
    contenders: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: ours.probabilities(vectors),
        "onnx runtime": lambda: onnx.probabilities(vectors),
        "tl2cgen": lambda: compiled.predict(tl2cgen.DMatrix(vectors.astype(np.float64))).ravel(),
    }
    answers = {}
    for name, predict in contenders.items():
        began = time.process_time()
        answers[name] = predict().astype(np.float32)
        keep(rounds, f"trees {name}", {"rows_per_cpu_s": len(vectors) / (time.process_time() - began)})
    for name, found in answers.items():
        same = np.mean(found.view(np.uint32) == answers["onnx runtime"].view(np.uint32))
        largest = np.abs(found - answers["onnx runtime"]).max()
        print(f"trees {name}: {same:.4%} of answers have ONNX Runtime's bits, largest difference {largest:.1e}")


def search(_: Path, rounds: Rounds) -> None:
    subprocess.run(
        [
            str(ML / "python"),
            str(HERE / "libraries_search.py"),
            installed("search", ML / "python", "optuna", "colorlog"),
        ],
        check=True,
    )
    for name, found in json.loads((ROOT / "build/bench/libraries-search.json").read_text()).items():
        keep(rounds, f"search {name}", found)


def traffic(folder: Path, rounds: Rounds) -> None:
    for name, found in libraries_traffic.measure(folder, PEERS, UV).items():
        keep(rounds, f"traffic {name}", found)


def supervision(folder: Path, rounds: Rounds) -> None:
    for name, found in libraries_supervision.measure(folder, PEERS, UV).items():
        keep(rounds, f"supervision {name}", found)


PARTS: Final = {
    part.__name__: part for part in (settings, cli, logs, search, session, traffic, trees, supervision, store, http)
}
ONCE: Final = {"search", "traffic", "supervision"}


def keep(rounds: Rounds, name: str, found: Mapping[str, float]) -> None:
    for what, value in found.items():
        rounds[name][what].append(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rounds: Rounds = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        for name in given.only:
            for _ in range(1 if name in ONCE else given.rounds):
                PARTS[name](Path(folder), rounds)
    medians = {name: {what: statistics.median(v) for what, v in of.items()} for name, of in rounds.items()}
    ratios = {}
    for name, of in medians.items():
        print(
            f"{name:<34}"
            + "  ".join(f"{what} {value:,.3g}" if value < 100 else f"{what} {value:,.0f}" for what, value in of.items())
        )
        own = medians.get(f"{name.split()[0]} ours", {})
        ratios.update({f"{name}: {what} over ours": value / own[what] for what, value in of.items() if own.get(what)})
    path = ROOT / "build/bench/libraries.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {given.rounds} rounds"
    path.write_text(json.dumps({"machine": machine, "contenders": medians, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
