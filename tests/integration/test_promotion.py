"""Changes of Production against a real registry and a real database."""

import itertools
import json
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlflow
import pytest

from fraud.cli import run_job
from fraud.core.features import definition_hash
from fraud.embedded import mlflow_server
from fraud.errors import FraudError, RefusedError
from fraud.io.model_artifact import MODEL_NAME, PRODUCTION
from fraud.io.promotion import PREVIOUS, STAGING, opened
from fraud.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_server.Server]:
    with mlflow_server.running(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


class Platform:
    """A registry of its own per test: the model name is fixed, so versions are deleted afterwards."""

    def __init__(self, server: mlflow_server.Server, home: Path) -> None:
        self.home = home
        self.settings = Settings(home=home, project=PROJECT, mlflow_url=server.url, actor="ada")
        self.client = mlflow.MlflowClient(server.url)

    def register(self, gates: str = "passed", champion: str = "", failed: str = "", staging: bool = True) -> str:
        """A version with its two files; the model's bytes need not parse here."""
        experiment = self.client.get_experiment_by_name("e")
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment("e")
        run = self.client.create_run(experiment_id)
        model = f"model of {run.info.run_id}".encode()
        serving = json.dumps({"feature_hash": definition_hash(), "threshold": 0.5}).encode()
        folder = self.home / run.info.run_id
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
        (folder / "serving.json").write_bytes(serving)
        self.client.log_artifacts(run.info.run_id, str(folder), "model")
        tags = {
            "model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(serving).hexdigest(),
            "gates": gates, "failed_gates": failed, "champion": champion, "feature_hash": definition_hash(),
        }  # fmt: skip
        source = f"runs:/{run.info.run_id}/model"
        version = self.client.create_model_version(MODEL_NAME, source, run.info.run_id, tags=tags)
        if staging:
            self.client.set_registered_model_alias(MODEL_NAME, STAGING, version.version)
        return str(version.version)

    def fraud(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and printed object of `fraud`, without the seconds that a process of its own takes to start."""
        try:
            return 0, run_job(arguments[0], list(arguments[1:])).model_dump(mode="json")
        except FraudError as error:
            told = {"error": type(error).__name__, "message": error.message, "expected": error.expected}
            return error.exit_code, told | {"came": error.came}

    def alias(self, name: str) -> str | None:
        with opened(self.settings) as promotion:
            found = promotion.version(name)
            return str(found.version) if found else None

    def stages(self) -> dict[str, str]:
        versions = self.client.search_model_versions(f"name='{MODEL_NAME}'")
        return {str(v.version): v.current_stage for v in versions}


@pytest.fixture
def platform(server: mlflow_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    here = {"FRAUD_HOME": str(tmp_path), "FRAUD_PROJECT": str(PROJECT), "FRAUD_MLFLOW_URL": server.url}
    for name, value in {**server.client_environment(), **here, "FRAUD_ACTOR": "ada"}.items():
        monkeypatch.setenv(name, value)
    platform = Platform(server, tmp_path)
    platform.client.create_registered_model(MODEL_NAME)
    yield platform
    platform.client.delete_registered_model(MODEL_NAME)


def test_first_better_and_back(platform: Platform) -> None:
    first = platform.register()
    assert platform.fraud("promote")[1] == {
        "version": first, "replaced": None, "changed": True, "actor": "ada",
        "model_sha256": platform.client.get_model_version(MODEL_NAME, first).tags["model_sha256"],
    }  # fmt: skip
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None, None)

    second = platform.register(champion=first)
    assert platform.fraud("promote")[1]["replaced"] == first
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (second, first)
    assert platform.stages() == {first: "Archived", second: "Production"}

    assert platform.fraud("promote")[1]["changed"] is False

    code, back = platform.fraud("rollback", "--reason", "false alarms")
    assert (code, back["version"], back["replaced"]) == (0, first, second)
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (first, second)
    assert platform.stages() == {first: "Production", second: "Archived"}

    code, told = platform.fraud("history")
    assert code == 0
    changes = [(c["action"], c["version"], c["replaced"], c["actor"]) for c in told["changes"]]
    assert changes == [
        ("promote", first, None, "ada"), ("promote", second, first, "ada"), ("rollback", first, second, "ada")
    ]  # fmt: skip


def test_a_failed_gate_blocks_unless_each_failed_one_is_waived(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="calibration,slices", staging=False)
    code, told = platform.fraud("promote", "--version", version)
    assert (code, told["error"]) == (3, "RefusedError")
    assert "calibration" in str(told["came"])
    waiver = ["--waiver-reason", "holiday season, agreed with risk", "--waiver-expires", "2999-01-01"]
    assert platform.fraud("promote", "--version", version, "--waive", "calibration", *waiver)[0] == 3
    assert platform.alias(PRODUCTION) is None
    code, _ = platform.fraud("promote", "--version", version, "--waive", "calibration", "--waive", "slices", *waiver)
    assert code == 0
    with opened(platform.settings) as promotion:
        entry = promotion.verify()[0].entry
    assert entry.waiver is not None
    assert (entry.waiver.person, entry.waiver.expires, entry.waiver.gates) == (
        "ada", "2999-01-01", ("calibration", "slices")
    )  # fmt: skip


def test_a_waiver_without_an_end_is_refused_at_once(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="calibration", staging=False)
    code, told = platform.fraud("promote", "--version", version, "--waive", "calibration")
    assert (code, told["error"]) == (2, "BadConfigError")


def test_gates_against_another_production_do_not_count(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    stale = platform.register(champion="", staging=False)
    code, told = platform.fraud("promote", "--version", stale)
    assert (code, told["expected"]) == (3, f"gates against version {first}")
    assert platform.alias(PRODUCTION) == first


def test_a_tampered_artefact_is_refused(platform: Platform, server: mlflow_server.Server) -> None:
    version = platform.register()
    run_id = platform.client.get_model_version(MODEL_NAME, version).run_id
    [stored] = [p for p in (server.folder / "artifacts").rglob("model.onnx") if str(run_id) in str(p)]
    stored.write_bytes(b"something else")
    code, told = platform.fraud("promote")
    assert (code, told["error"]) == (3, "RefusedError")
    assert "not what was registered" in str(told["message"])
    assert platform.alias(PRODUCTION) is None


def test_rollback_without_an_earlier_version_is_refused(platform: Platform) -> None:
    assert platform.fraud("rollback")[0] == 3
    platform.register()
    platform.fraud("promote")
    assert platform.fraud("rollback")[0] == 3


def _kill_after_alias(settings: Settings, version: str, expected_current: str | None) -> None:
    """Promote, and die like kill -9 between the alias's move and the history entry."""
    with opened(settings) as promotion:
        promotion._append = lambda *_: os._exit(9)  # type: ignore[method-assign]
        chosen = promotion._client.get_model_version(MODEL_NAME, version)
        promotion.change("promote", lambda _current, _history: chosen, actor="grace", reason="better")


def test_killed_after_the_alias_moved_the_next_one_completes_the_history(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    process = multiprocessing.get_context("spawn").Process(
        target=_kill_after_alias, args=(platform.settings, second, first)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert platform.alias(PRODUCTION) == second
    code, told = platform.fraud("history")
    assert code == 0
    last = told["changes"][-1]
    assert (last["action"], last["version"], last["replaced"], last["actor"]) == ("promote", second, first, "grace")
    assert (platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None)
    assert platform.stages() == {first: "Archived", second: "Production"}


def test_an_alias_moved_by_hand_is_recorded_as_observed(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first, staging=False)
    platform.client.set_registered_model_alias(MODEL_NAME, PRODUCTION, second)
    _, told = platform.fraud("history")
    assert [(c["action"], c["version"]) for c in told["changes"]] == [("promote", first), ("observed", second)]


def _move(settings: Settings, version: str | None) -> bool:
    with opened(settings) as promotion:
        try:
            if version is None:
                changed = promotion.change(
                    "rollback",
                    lambda _c, h: promotion._client.get_model_version(MODEL_NAME, h[-1].entry.replaced or "1"),
                    actor="ada", reason="back",
                )  # fmt: skip
            else:
                chosen = promotion._client.get_model_version(MODEL_NAME, version)
                changed = promotion.change("promote", lambda _c, _h: chosen, actor="ada", reason="up")
        except RefusedError:
            return False
        return changed is not None


def test_concurrent_changes_leave_one_production_and_a_whole_history(platform: Platform) -> None:
    first = platform.register(staging=False)
    with opened(platform.settings) as promotion:
        chosen = promotion._client.get_model_version(MODEL_NAME, first)
        promotion.change("promote", lambda _c, _h: chosen, actor="ada", reason="first")
    wanted: list[str | None] = [platform.register(staging=False) for _ in range(6)]
    wanted += [None, None]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        changed = pool.starmap(_move, [(platform.settings, version) for version in wanted])
    with opened(platform.settings) as promotion:
        recorded = promotion.verify()
    assert len(recorded) == 1 + sum(changed)
    assert sum(changed) >= 1
    for before, after in itertools.pairwise(recorded):
        assert after.entry.replaced == before.entry.version
    assert platform.alias(PRODUCTION) == recorded[-1].entry.version
    assert platform.alias(PREVIOUS) == recorded[-1].entry.replaced
    assert list(platform.stages().values()).count("Production") == 1


def test_a_changed_byte_in_the_history_is_told(platform: Platform) -> None:
    platform.register()
    platform.fraud("promote")
    with sqlite3.connect(platform.home / "control.db") as database:
        database.execute("UPDATE promotion_history SET entry = replace(entry, 'ada', 'eve')")
    code, told = platform.fraud("history")
    assert (code, told["message"]) == (3, "the promotion history was changed at entry 1")
