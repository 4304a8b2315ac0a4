"""The same payments through Chromium and through POST /predict, for each of the four levels, compared bit for bit.

    .venv/ml/bin/python tests/bench/edge.py [--rows 20000] [--levels 0 1 2 3] [--quick]

Payments are simulated and scored by a real server with a store and published daily tables; some arrive late. The
exported folder is loaded in headless Chromium, which has no network but the loopback interface: every other request is
aborted and counted. It gets each payment with the earlier payments of its user and device in order of arrival, and the
daily values of its merchant. Features, probabilities and verdicts are compared with those of the server. Then it is
measured: bytes of the download, time until the first answer, one score, 1,000 rows in one call; and beside them native
ONNX Runtime and the server in the same run. Prints a table and writes build/bench/edge.json.

Needs Node, Chromium and the built edge/ (make setup).
"""

import argparse
import gzip
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

import edge_world
import numpy as np
import redis
from edge_world import World
from numpy.typing import NDArray
from rest_replay import post

from fraud.core.contract import US_PER_DAY, US_PER_SECOND
from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.embedded.servers import valkey
from fraud.export.folder import new_folder, write_manifest
from fraud.export.web_folder import write_web
from fraud.registry.model_versions import ModelArtifact
from fraud.scoring.onnx_session import OnnxModel
from fraud.settings import Settings

sys.path.append(str(edge_world.ROOT / "tests/serving"))

from servers import Serving

ROOT: Final = edge_world.ROOT
PROGRAM: Final = ROOT / "edge/dist/tools/bench.mjs"
HISTORY_US: Final = 38 * US_PER_DAY
"""Earlier payments are no longer in any window."""
LATE: Final = 1 / 30
"""Share of the payments that arrive up to three hours late."""
BATCH: Final = 1_000
BOUNDS: Final = {"download_bytes": 4.5e6, "ready_ms": 1_500.0, "one_ms": 1.0, "thousand_ms": 60.0}


def requests(made: World) -> list[dict[str, Any]]:
    """The request of each payment."""
    names = [name for name in made.rows.column_names if name not in ("created_timestamp", "event_timestamp")]
    found = []
    for row, at in zip(made.rows.select(names).to_pylist(), made.event_us.tolist(), strict=True):
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // US_PER_SECOND))
        given = {name: value for name, value in row.items() if value is not None}
        found.append({**given, "event_timestamp": f"{moment}.{at % US_PER_SECOND:06d}Z"})
    return found


def arrival(made: World) -> NDArray[np.int64]:
    """The payments in order of arrival."""
    rng = np.random.default_rng(3)
    late = rng.random(len(made.event_us)) < LATE
    return np.argsort(made.event_us + late * rng.integers(0, 3 * 3_600 * US_PER_SECOND, len(late)), kind="stable")


def write_rows(made: World, order: NDArray[np.int64], chosen: set[int], path: Path) -> None:
    """The rows of the browser: each chosen payment with its history and daily values, in order of arrival."""
    bodies, entities = requests(made), {w.layout.id_column for w in made.plan.windows}
    before: dict[tuple[str, str], list[int]] = defaultdict(list)
    place = np.argsort(order).tolist()
    with path.open("w") as file:
        for position in order.tolist():
            body = bodies[position]
            keys = [(name, body[name]) for name in entities if name in body]
            if position in chosen:
                oldest = int(made.event_us[position]) - HISTORY_US
                found = {i for key in keys for i in before[key] if made.event_us[i] >= oldest}
                daily = {
                    table.entity: dict(
                        zip(
                            table.names,
                            made.daily[table.entity].get(body[table.id_column], made.default[table.entity]),
                            strict=True,
                        )
                    )
                    for table in made.plan.tables
                }
                row = {
                    "transaction": body,
                    "history": [bodies[i] for i in sorted(found, key=place.__getitem__)],
                    "daily": daily,
                }
                file.write(json.dumps(row) + "\n")
            for key in keys:
                before[key].append(position)


def publish(made: World, url: str) -> None:
    """Publish the daily tables: the same rows for every day."""
    with closing(redis.Redis.from_url(url)) as client:
        for table in made.plan.tables:
            snapshots = made.snapshots(table)
            rows = made.daily[table.entity].items()
            client.mset({table.row_key(snapshots[0].id, i): table.pack(values) for i, values in rows})
            client.hset(table.pointer_key, mapping={str(s.day): s.to_json() for s in snapshots})


def write_cache(cache: Path, model: bytes, serving: bytes) -> None:
    """The version as the verified local copy of a server."""
    digest = sha256(model).hexdigest()
    folder = cache / digest
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "serving.json").write_bytes(serving)
    tags = {"model_sha256": digest, "serving_sha256": sha256(serving).hexdigest(),
            "feature_hash": json.loads(serving)["feature_hash"]}  # fmt: skip
    recorded = {"version": "1", "run_id": "bench", "source": "local", "tags": tags}
    (cache / "served.json").write_text(json.dumps(recorded))


def http(path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)


def serve(
    home: Path, made: World, order: NDArray[np.int64], files: tuple[bytes, bytes]
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Send all payments to a server: the record of each, and the times of a request and of a batch (ms, p50)."""
    with valkey.running(home / "valkey") as store:
        publish(made, store.url)
        serving = Serving(home / "serving", store.url, None, SERVING_STORE_DEADLINE_MS="1000")
        serving.python = str(ROOT / ".venv/serving/bin/python")
        serving.environment |= {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'services/serving/src'}"}
        write_cache(serving.cache, *files)
        serving.start()
        bodies, taken = requests(made), []
        try:
            with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for position in order.tolist():
                    request = http("/predict", bodies[position])
                    began = time.perf_counter()
                    status, answer = post(line, request)
                    taken.append(time.perf_counter() - began)
                    assert status == 200, answer
                short = {"amount": 49.9, "hour_of_day": 3, "day_of_week": 2}
                batch = http("/predict/batch", {"transactions": [short] * BATCH})
                batch_ms = median_ms(lambda: post(line, batch), 11)
        finally:
            serving.close()  # writes the prediction log
        records = {r["transaction_id"]: r for r in serving.records() if r["transaction_id"] is not None}
    return records, {"predict_ms": statistics.median(taken) * 1e3, "batch_ms": batch_ms}


def median_ms(call: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found) * 1e3


def export(home: Path, plan: Plan, files: tuple[bytes, bytes]) -> Path:
    """The folder that `fraud export --target web` makes of a registered version."""
    model, serving = files
    artifact = ModelArtifact(
        "1", "bench", model, sha256(model).hexdigest(), plan.hash, float(json.loads(serving)["threshold"]), plan,
        serving, sha256(serving).hexdigest(),
    )  # fmt: skip
    with new_folder(home / "web") as folder:
        write_web(folder, artifact, Settings.model_validate({"home": home, "project": ROOT}))
        write_manifest(folder)
    return home / "web"


def base_of(plan: Plan, record: dict[str, Any]) -> dict[str, float | int | None]:
    """The base values in a prediction record."""
    values: dict[str, Any] = {"hour_of_day": record["hour_of_day"], "day_of_week": record["day_of_week"]}
    columns = {**record["columns"], "amount": record["amount"]}
    for of, source in zip(plan.vector.inputs[2:], plan.sources, strict=True):
        value = record["features"][of.name] if source.column is None else columns[source.column]
        if of.categories:
            value = of.categories.index(value) if value in of.categories else plan.unknown_code(source.column or "")
        values[of.name] = None if value is None else float(value)
    return values


def bits(value: float | None) -> str:
    return "null" if value is None else float(value).hex()


def compare(plan: Plan, rows: Path, answers: Path, records: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Counts of rows, and of those that differ between browser and server."""
    counts = dict.fromkeys(("rows", "failed", "features", "vectors", "probabilities", "verdicts", "degraded"), 0)
    vector = np.zeros((1, len(plan.vector.names)), np.float32)
    with rows.open() as given, answers.open() as got:
        for line, text in zip(given, got, strict=True):
            record = records[json.loads(line)["transaction"]["transaction_id"]]
            answer = json.loads(text)
            counts["rows"] += 1
            if "error" in answer:
                counts["failed"] += 1
                continue
            expected = base_of(plan, record)
            counts["degraded"] += record["degraded"]
            counts["features"] += {n: bits(v) for n, v in answer["features"].items()} != {
                n: bits(v) for n, v in expected.items()
            }
            plan.vector.row(vector[0], list(_typed(plan, expected)))
            counts["vectors"] += answer["vector"] != vector.astype("<f4").tobytes().hex()
            counts["probabilities"] += bits(answer["probability"]) != bits(record["fraud_probability"])
            counts["verdicts"] += answer["is_fraud"] != record["is_fraud"]
    return counts


def _typed(plan: Plan, base: dict[str, float | int | None]) -> Sequence[float | int | None]:
    """Base values in order; hour, weekday and categories are whole numbers."""
    hour, weekday, *others = plan.vector.inputs
    first = [int(base[of.name] or 0) for of in (hour, weekday)]
    return [*first, *(int(base[of.name] or 0) if of.categories else base[of.name] for of in others)]


def check_comparison(plan: Plan, rows: Path, answers: Path, records: dict[str, dict[str, Any]]) -> None:
    """Falsify one value of each kind in copies of the first answers: the comparison must find exactly these."""
    with rows.open() as given, answers.open() as got:
        few, found = list(islice(given, 4)), [json.loads(text) for text in islice(got, 4)]
    found[0]["probability"] = float(np.nextafter(np.float32(found[0]["probability"]), np.float32(1)))
    found[1]["is_fraud"] = not found[1]["is_fraud"]
    name = next(name for name, value in found[2]["features"].items() if isinstance(value, float))
    found[2]["features"][name] = float(np.nextafter(found[2]["features"][name], np.inf))
    found[3]["vector"] = found[3]["vector"][:-1] + ("1" if found[3]["vector"][-1] == "0" else "0")
    falsified = answers.with_name("falsified.jsonl")
    falsified.write_text("".join(json.dumps(row) + "\n" for row in found))
    few_rows = answers.with_name("few.jsonl")
    few_rows.write_text("".join(few))
    counts = compare(plan, few_rows, falsified, records)
    kinds = ("features", "vectors", "probabilities", "verdicts")
    if [counts[kind] for kind in kinds] != [1, 1, 1, 1]:
        raise SystemExit(f"the comparison does not find what was falsified: {counts}")


def level(home: Path, made: World, order: NDArray[np.int64], rows: Path, files: tuple[bytes, bytes]) -> dict[str, Any]:
    """Score, compare and measure one level."""
    home.mkdir()
    plan, model = Plan(parse(json.loads(files[1])["declaration"], learnt=True)), OnnxModel(files[0])
    records, server = serve(home, made, order, files)
    folder, answers = export(home, plan, files), home / "answers.jsonl"
    environment = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    run = subprocess.run(
        ["node", str(PROGRAM), str(folder), str(rows), str(answers)], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    if run.returncode:
        raise SystemExit(f"bench.mjs: {run.stderr[-2000:]}")
    browser = json.loads(run.stdout)
    check_comparison(plan, rows, answers, records)
    some = made.vectors[made.scored[:BATCH]]
    native = {
        "one_ms": median_ms(lambda: model.probabilities(some[:1]), 2_000),
        "thousand_ms": median_ms(lambda: model.probabilities(some), 30),
    }
    packed = sum(
        len(gzip.compress(path.read_bytes(), 9)) if path.suffix != ".packed" else path.stat().st_size
        for path in folder.iterdir()
    )
    return {
        "differing": compare(plan, rows, answers, records), "browser": browser, "native": native,
        "server": server, "download_gzip_bytes": packed,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="payments to compare")
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--days", type=int, default=80)
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="train fewer rounds")
    given = parser.parse_args()
    made = edge_world.world(given.users, given.days)
    scored = made.scored.tolist()
    if len(scored) < given.rows:
        raise SystemExit(f"{len(scored):,} payments after the warm-up; give more --users or --days")
    chosen, order = set(scored[-given.rows :]), arrival(made)
    versions = edge_world.versions(made, given.levels, quick=given.quick)
    found = {}
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as name:
        home = Path(name)
        rows = home / "rows.jsonl"
        write_rows(made, order, chosen, rows)
        print(f"{given.rows:,} payments with histories, {rows.stat().st_size / 1e6:.0f} MB", flush=True)
        for title, files in versions.items():
            found[title] = level(home / title, made, order, rows, files)
            show(title, found[title])
    report(found)


def show(title: str, of: dict[str, Any]) -> None:
    """One level as lines of a table."""
    counts, browser, native, server = of["differing"], of["browser"], of["native"], of["server"]
    print(
        f"{title}: {counts['rows']:,} payments; differing: "
        + ", ".join(f"{n} {counts[n]}" for n in ("failed", "features", "vectors", "probabilities", "verdicts"))
        + f"; requests off loopback: {browser['refused_requests']}"
    )
    print(f"{'':<12}{'browser':>12}{'ONNX Runtime':>15}{'/predict':>12}")
    rows = (
        ("one, p50 ms", browser["one_ms"]["p50"], native["one_ms"], server["predict_ms"]),
        ("1,000, ms", browser["thousand_ms"]["p50"], native["thousand_ms"], server["batch_ms"]),
    )
    for name, *values in rows:
        print(f"{name:<12}{values[0]:>12.3f}{values[1]:>15.3f}{values[2]:>12.3f}")
    print(
        f"ready {statistics.median(browser['ready_ms']):.0f} ms; download {browser['download_bytes'] / 1e6:.2f} MB as "
        f"served, {of['download_gzip_bytes'] / 1e6:.2f} MB with gzip; reasons {browser['explain_ms']['p50']:.1f} ms",
        flush=True,
    )


def report(found: dict[str, dict[str, Any]]) -> None:
    """Write build/bench/edge.json. Levels that another run measured are kept."""
    target = ROOT / "build/bench/edge.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        found = json.loads(target.read_text())["contenders"] | found
    worst = {
        "download_bytes": max(of["browser"]["download_bytes"] for of in found.values()),
        "ready_ms": max(statistics.median(of["browser"]["ready_ms"]) for of in found.values()),
        "one_ms": max(of["browser"]["one_ms"]["p50"] for of in found.values()),
        "thousand_ms": max(of["browser"]["thousand_ms"]["p50"] for of in found.values()),
    }
    ratios = {f"{name}_of_bound": worst[name] / bound for name, bound in BOUNDS.items()}
    ratios["differing"] = float(
        sum(of["differing"][n] for of in found.values() for n in of["differing"] if n not in ("rows", "degraded"))
    )
    ratios["requests_off_loopback"] = float(sum(of["browser"]["refused_requests"] for of in found.values()))
    machine = platform.processor() or platform.machine()
    target.write_text(json.dumps({"machine": machine, "contenders": found, "ratios": ratios}, indent=1))
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
