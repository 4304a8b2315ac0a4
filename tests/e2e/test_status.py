"""`fraud status` on real servers: a healthy platform, and one fault after the other."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

import httpx
import mlflow
import pyarrow as pa
import pytest
import redis
import structlog
from tests.infra.conftest import ROOT, tool
from tests.infra.test_against_prometheus import fill_jobs, fill_lake, fill_reports, query_series
from tests.serving.backends import build

from fraud import declaration_file
from fraud.cli import run_job
from fraud.core.daily import Snapshot
from fraud.core.plan import tables
from fraud.embedded.servers import alertmanager, child, mlflow_server, valkey
from fraud.embedded.sockets import free_port
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.job_runs import recorded
from fraud.params import Params
from fraud.registry import model_versions
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import opened
from fraud.settings import Settings
from fraud.status.problems import problems
from fraud.status.reading import read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # six servers start
PASSWORD: Final = "test-only"
NEXT_DAY: Final = "2026-01-03"
"""The day after those of the lake."""
DEADLINE_S: Final = 240.0
LONG: Final = "--deadline=120"
"""Longer than a busy machine needs to answer."""
FEATURES_FILE: Final = "feature_repo/features.yaml"


class Server:
    """A process that is started with a log, and ended."""

    def __init__(self, name: str, folder: Path, command: list[str], env: dict[str, str]) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Platform:
    """Servers of a platform with one version in production. `env` is the environment of `fraud`."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home, self.declaration = home, declaration_file.load_of(ROOT)
        self._stack = stack
        self.servers: dict[str, Server] = {}
        registry = stack.enter_context(mlflow_server.running(home / "mlflow"))
        self.store = valkey.start(home / "valkey", PASSWORD)
        stack.callback(child.stop, self.store.pid)
        ports = {name: free_port() for name in ("serving", "platform", "prometheus", "alertmanager")}
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self.env = registry.client_environment() | {
            "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT), "FRAUD_MLFLOW_URL": registry.url,
            "FRAUD_REDIS_URL": self.store.url, "FRAUD_SERVING_URL": self.urls["serving"],
            "FRAUD_PROMETHEUS_URL": self.urls["prometheus"], "FRAUD_ALERTMANAGER_URL": self.urls["alertmanager"],
            "FRAUD_DOCS_URL": "http://docs.example", "FRAUD_ACTOR": "ada",
        }  # fmt: skip
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in self.env.items():
            patch.setenv(name, value)
        self.settings = Settings.load()
        self.version = self._register()
        self._promote()
        self._fill()
        self._start(ports)

    def _register(self) -> str:
        folder = self.home / "model"
        build(folder, FEATURES_FILE, -1.0)
        model, serving = (folder / "model.onnx").read_bytes(), (folder / "serving.json").read_bytes()
        client = mlflow.MlflowClient(self.settings.mlflow_url)
        run_id = client.create_run(client.create_experiment("status")).info.run_id
        client.log_artifacts(run_id, str(folder), "model")
        client.create_registered_model(MODEL_NAME)
        tags = {
            "model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(serving).hexdigest(),
            "threshold": "0.5", "level": "tiny", "feature_hash": self.declaration.hash,
        }  # fmt: skip
        return str(client.create_model_version(MODEL_NAME, f"runs:/{run_id}/model", run_id, tags=tags).version)

    def _promote(self) -> None:
        with opened(self.settings) as promotion:
            version = model_versions.find(self.settings, int(self.version))
            promotion.change("promote", lambda *_: version, actor="ada", reason="first")

    def _fill(self) -> None:
        fill_lake(self.home)
        fill_reports(self.home)
        fill_jobs(self.home)
        with redis.Redis.from_url(self.store.url) as client:
            for table in tables(self.declaration):
                catalog.daily(table).at(self.settings.lake_uri).publish(NEXT_DAY, pa.table({"x": [1]}))
                day = (datetime.fromisoformat(NEXT_DAY) - datetime(1970, 1, 1)).days  # noqa: DTZ001 - a difference of days
                client.hset(table.pointer_key, NEXT_DAY, Snapshot(day, "s1", list(table.empty)).to_json())

    def _start(self, ports: dict[str, int]) -> None:
        serving = {
            "SERVING_PORT": str(ports["serving"]), "SERVING_OPEN": "1", "SERVING_REDIS_URL": self.store.url,
            "SERVING_MLFLOW_URL": self.settings.mlflow_url, "SERVING_POLL_SECONDS": "1",
            "SERVING_PREDICTION_LOG": str(self.home / "predictions"), "SERVING_MODEL_CACHE": str(self.home / "models"),
            # With the default of 20 ms, answers would be degraded on a machine that does other work.
            "SERVING_STORE_DEADLINE_MS": "500",
        }  # fmt: skip
        self._server("serving", [str(ROOT / ".venv/serving/bin/python"), "-m", "fraud_serving"], serving)
        fraud = str(Path(sys.executable).with_name("fraud"))
        self._server("platform", [fraud, "export-metrics", f"--port={ports['platform']}"], {})
        folder = self.home / "alertmanager"
        folder.mkdir()
        (folder / "alertmanager.yml").write_text(alertmanager.configuration(ROOT / "infra/alertmanager"))
        program = alertmanager.binary() or tool("alertmanager", "prometheus-alertmanager")
        self._server(
            "alertmanager",
            [
                program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{ports['alertmanager']}", "--cluster.listen-address=",
            ],
            {},
        )  # fmt: skip
        config = (ROOT / "infra/prometheus/prometheus.yml").read_text()
        config = config.replace(" 5s", " 2s").replace(" 4s", " 2s").replace(" 15s", " 5s").replace(" 10s", " 5s")
        (self.home / "prometheus.yml").write_text(config.replace("rules/*.yml", f"{ROOT}/infra/prometheus/rules/*.yml"))
        (self.home / "targets").mkdir()
        for job, port in ports.items():
            group = [{"targets": [f"127.0.0.1:{port}"], "labels": {"environment": "test"}}]
            (self.home / "targets" / f"{job}.json").write_text(json.dumps(group))
        self._server(
            "prometheus",
            [
                tool("prometheus", "prometheus"), "--enable-feature=expand-external-labels",
                f"--config.file={self.home}/prometheus.yml", f"--storage.tsdb.path={self.home}/tsdb",
                f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
            ],
            {},
        )  # fmt: skip

    def _server(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.servers[name] = Server(name, self.home, command, env)
        self._stack.callback(self.servers[name].stop)

    def predict(self) -> dict[str, Any]:
        """One answer to a payment of now."""
        body = {
            "amount": 20.0, "merchant_category": "grocery", "user_id": "u", "merchant_id": "m",
            "transaction_id": f"t{time.monotonic_ns()}", "event_timestamp": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        answer = httpx.post(f"{self.urls['serving']}/predict", json=body, timeout=60)
        assert answer.status_code == httpx.codes.OK, answer.text
        return cast("dict[str, Any]", answer.json())

    def status(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and object of `fraud status --json`, in this process, which has imported everything."""
        result = run_job("status", list(arguments))
        return result.exit_code, json.loads(result.model_dump_json())

    def command(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and printed object of the command `fraud status --json`."""
        fraud = str(Path(sys.executable).with_name("fraud"))
        ended = subprocess.run([fraud, "status", "--json", *arguments], capture_output=True, text=True, check=False)
        assert ended.stdout, ended.stderr
        return ended.returncode, json.loads(ended.stdout)

    def problems(self, *arguments: str) -> list[str]:
        """What is wrong. The exit code is 1 exactly when something is."""
        code, found = self.status(*arguments)
        assert code == (1 if found["problems"] else 0)
        assert found["ok"] is not bool(found["problems"])
        return [problem["text"] for problem in found["problems"]]


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.2)


def answers(query: str, platform: Platform) -> bool:
    url = platform.urls["prometheus"]
    try:
        return httpx.get(f"{url}/-/ready", timeout=30).is_success and bool(query_series(url, query))
    except httpx.TransportError:
        return False


def alert_names(platform: Platform) -> set[str]:
    try:
        found = httpx.get(f"{platform.urls['alertmanager']}/api/v2/alerts", timeout=30).json()
    except httpx.TransportError:
        return set()
    return {alert["labels"]["alertname"] for alert in found}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with ExitStack() as stack:
        running = Platform(tmp_path_factory.mktemp("platform"), stack)
        model = f'serving_model_info{{version="{running.version}"}}'
        until(lambda: answers(model, running), f"a model is served; logs: {running.home}")
        running.predict()
        until(lambda: answers("rate(model_predictions_total[5m])", running), "two scrapes of serving")

        def share() -> bool:
            running.predict()
            return answers("serving:degraded:ratio_rate5m == 0", running)

        until(share, "a rate of answers")
        until(lambda: "Watchdog" in alert_names(running), "Alertmanager has the first alert")
        yield running


def test_a_healthy_platform_is_ok(platform: Platform) -> None:
    code, found = platform.command(LONG)
    assert found["problems"] == []
    assert (code, found["ok"]) == (0, True)
    facts = found["facts"]
    assert [(s["version"], s["processes"], s["share"]) for s in facts["served"]] == [(platform.version, 1, 1.0)]
    assert facts["production"]["version"] == platform.version
    assert facts["ready"] == {"ready": True, "version": platform.version, "store_connected": True}
    assert [(p["action"], p["version"], p["actor"]) for p in facts["promotions"]] == [
        ("promote", platform.version, "ada")
    ]
    assert {d["dataset"]: d["newest_day"] for d in facts["datasets"]}["scores"] == "2026-01-02"
    assert {s["day"] for s in facts["online_snapshots"]} == {NEXT_DAY}
    assert facts["skew"] == {"day": "2026-01-02", "compared": 3, "mismatches": {}, "events_lost": 0}
    assert facts["traffic"]["degraded_share"] == 0.0
    assert [change.partition(": ")[2] for change in found["changes"]] == [
        f"version {platform.version} is the first in production (promote by ada: first)",
        f"version {platform.version} was registered, level tiny",
    ]
    report = run_job("status", [LONG]).as_text()
    assert report.startswith("ok: no problem was found\n")
    assert "http://docs.example" not in report


def test_skew_is_a_problem(platform: Platform) -> None:
    report = platform.home / "reports/skew/2026-01-02/skew.json"
    before = report.read_text()
    counts = {"equal": 1, "mismatch": 2, "missing": 0, "extra": 0}
    report.write_text(json.dumps(json.loads(before) | {"features": {"amount": counts}}))
    found = platform.problems(LONG)
    report.write_text(before)
    assert "skew on 2026-01-02: served values differ from recomputed ones: 2 of amount" in found


def test_scores_that_do_not_follow_the_features_are_a_problem(platform: Platform) -> None:
    features = catalog.features(platform.declaration.stored_hash)
    features.at(platform.settings.lake_uri).publish(NEXT_DAY, pa.table({"x": [1]}))
    context = Context(
        platform.settings, Params.load(ROOT / "params.yaml"), platform.declaration, structlog.get_logger()
    )
    text = "the newest scores are of 2026-01-02, the features they are computed from of 2026-01-03"
    now = datetime.now(UTC)
    for hours, late in ((0, False), (3, True)):
        facts = read(context, now + timedelta(hours=hours), 120.0)
        assert (text in [problem.text for problem in problems(facts)]) is late
    catalog.SCORES.at(platform.settings.lake_uri).publish(NEXT_DAY, pa.table({"x": [1]}))
    facts = read(context, now + timedelta(hours=3), 120.0)
    assert not [problem for problem in problems(facts) if "scores" in problem.text]


def test_an_alert_that_fires_is_a_problem_with_its_runbook(platform: Platform) -> None:
    """Half of the rows of the last ingest are in quarantine: the alert has no waiting time."""
    with recorded(platform.settings.job_runs_uri, "ingest", structlog.get_logger()) as record:
        record({"accepted": 50, "quarantined": 50, "duplicates": 0})
    until(lambda: "QuarantineRateHigh" in alert_names(platform), "the alert arrives")
    code, found = platform.status(LONG)
    fill_jobs(platform.home)
    assert code == 1
    (alert,) = [problem for problem in found["problems"] if "QuarantineRateHigh" in problem["text"]]
    assert "50% of the delivered rows are in quarantine" in alert["text"]
    assert alert["runbook"] == "http://docs.example/runbooks/QuarantineRateHigh.md"


def test_a_server_that_hangs_is_a_problem_within_the_deadline_and_the_others_are_shown(platform: Platform) -> None:
    process = platform.servers["alertmanager"].process
    process.send_signal(signal.SIGSTOP)
    try:
        code, found = platform.command("--deadline=40")
    finally:
        process.send_signal(signal.SIGCONT)
    assert code == 1
    texts = [problem["text"] for problem in found["problems"]]
    assert [text for text in texts if text.startswith("Alertmanager cannot be read: ")]
    assert found["facts"]["alerts"] is None
    assert found["facts"]["served"]


def test_answers_without_the_online_store_are_a_problem(platform: Platform) -> None:
    os.kill(platform.store.pid, signal.SIGSTOP)
    try:

        def degraded() -> bool:
            assert platform.predict()["degraded"]
            return answers("serving:degraded:ratio_rate5m > 0.01", platform)

        until(degraded, "the share of degraded answers rises")
        found = platform.problems(LONG)
    finally:
        os.kill(platform.store.pid, signal.SIGCONT)
    assert "the service online-store is down" in found
    assert [text for text in found if text.endswith("of the answers are degraded (limit 1%)")]


def test_serving_that_does_not_answer_is_a_problem(platform: Platform) -> None:
    platform.servers["serving"].stop()
    until(lambda: answers('up{job="serving"} == 0', platform), "Prometheus misses serving")
    found = platform.problems(LONG)
    assert "0 of 1 serving replicas answer Prometheus" in found
    assert [text for text in found if text.startswith("serving cannot be read: ConnectError")]


def test_a_prometheus_that_is_down_is_a_problem_and_the_others_are_shown(platform: Platform) -> None:
    platform.servers["prometheus"].stop()
    code, found = platform.status(LONG)
    assert code == 1
    texts = [problem["text"] for problem in found["problems"]]
    assert [text for text in texts if text.startswith("Prometheus cannot be read: ConnectError")]
    assert found["facts"]["traffic"] is None
    assert found["facts"]["production"]["version"] == platform.version
