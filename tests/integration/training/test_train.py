"""Training against a real MLflow server: first model, found again, worse, equal and better challengers, kills."""

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from onnx import TensorProto
from tests.browser import needs_edge
from tests.integration.training_platform import FRAUD, OTHER_SEED, POOR, ROOT, Platform, world

from fraud.embedded.servers import mlflow_server
from fraud.errors import BadInputError, RefusedError, UnavailableError
from fraud.job import Context
from fraud.lake import catalog
from fraud.registry import model_versions, promote, training_runs
from fraud.registry.live_declarations import live_declarations
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION, reference
from fraud.registry.promotion_log import STAGING
from fraud.training import evaluate, train
from fraud.training.dvc import data_versions, files
from fraud.training.ladder.onnx_graph import Graph


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_server.Server]:
    with mlflow_server.running(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def platform(server: mlflow_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    for name, value in server.client_environment().items():
        monkeypatch.setenv(name, value)
    found = Platform(server, tmp_path)
    found.client.create_registered_model(MODEL_NAME)
    yield found
    found.client.delete_registered_model(MODEL_NAME)


def test_first_worse_equal_and_better(platform: Platform) -> None:
    poor = platform.train(POOR)
    assert (poor.selected, poor.gates_passed, poor.champion) == ("0-rule", True, ""), poor.failed_gates
    assert platform.alias(STAGING) == poor.version
    assert platform.promote().version == poor.version

    good = platform.train()
    assert (good.gates_passed, good.champion) == (True, poor.version), good.failed_gates
    assert good.selected != "0-rule"
    assert platform.promote().replaced == poor.version

    worse = platform.train(POOR, force=True)
    assert "better_than_production" in worse.failed_gates
    with pytest.raises(RefusedError, match="did not pass its gates"):
        promote.run(promote.Config(version=int(worse.version)), platform.context())

    equal = platform.train(OTHER_SEED)
    assert not equal.reused
    assert "better_than_production" in equal.failed_gates
    assert (platform.alias(PRODUCTION), platform.alias(STAGING)) == (good.version, None)


def test_equal_inputs_find_the_version_and_its_bytes_again(platform: Platform) -> None:
    first = platform.train()
    again = platform.train()
    assert again == first.model_copy(update={"reused": True})
    assert platform.versions() == 1
    forced = platform.train(force=True)
    assert (forced.version, platform.versions()) == ("2", 2)
    tags = [platform.client.get_model_version(MODEL_NAME, version).tags for version in ("1", "2")]
    for same in ("model_sha256", "serving_sha256", "fingerprint", "threshold"):
        assert tags[0][same] == tags[1][same]


def test_a_verdict_against_a_former_production_is_renewed_not_trained_again(platform: Platform) -> None:
    poor, good = platform.train(POOR), platform.train()
    platform.client.set_registered_model_alias(MODEL_NAME, STAGING, poor.version)
    platform.promote()
    with pytest.raises(RefusedError, match="another version than the current Production"):
        promote.run(promote.Config(version=int(good.version)), platform.context())
    renewed = platform.train()
    assert (renewed.version, renewed.reused, renewed.champion) == (good.version, True, poor.version)
    assert platform.promote().version == good.version
    assert platform.train().version == good.version  # Production is not compared with itself
    with pytest.raises(RefusedError, match="is Production"):
        evaluate.run(evaluate.Config(version=int(good.version)), platform.context())


def test_what_was_registered_is_what_the_contract_says(platform: Platform) -> None:
    made = platform.train()
    version = platform.client.get_model_version(MODEL_NAME, made.version)
    assert version.source == f"runs:/{made.run_id}/model"
    expected = {
        "model_sha256", "serving_sha256", "feature_hash", "stored_hash", "threshold", "level", "fingerprint",
        "git_commit", "git_dirty", "data_sha256", "params_sha256", "lock_sha256", "seed", "gates", "champion",
        "failed_gates", "snapshot", "dvc_data_md5", "dvc_model_md5",
    }  # fmt: skip
    assert expected <= version.tags.keys()
    platform.promote()

    mlflow.set_tracking_uri(platform.settings.mlflow_url)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL_NAME}/Production")
    serving = json.loads(mlflow.artifacts.load_text(f"runs:/{made.run_id}/model/serving.json"))
    plan = model_versions.fetch(platform.settings).plan
    names = list(plan.vector.names)
    frame = pd.DataFrame(serving["golden"]["vectors"], columns=names)
    answers = model.predict(frame[sorted(names)])["fraud_probability"]
    assert answers.to_numpy() == pytest.approx(serving["golden"]["probabilities"], abs=1e-6)

    assert (plan.hash, plan.stored_hash) == (version.tags["feature_hash"], version.tags["stored_hash"])
    assert plan.declaration.canonical() == platform.declaration.canonical()
    assert [declared.hash for declared in live_declarations(platform.settings)] == [platform.declaration.hash]
    reference_values = dict(zip((given.name for given in plan.vector.inputs), serving["reference"], strict=True))
    assert reference_values["category"] in range(17)
    assert 0 <= reference_values["hour_of_day"] <= 23
    assert reference_values["amount"] > 0

    back = platform.home / "back"
    restored = catalog.TRAINING_SETS.at(f"file://{back}")
    data_versions.pull_partition(platform.settings.dvc_remote, version.tags["dvc_data_md5"], restored)
    data_versions.pull(platform.settings.dvc_remote, version.tags["dvc_model_md5"], back / "model")
    for name in ("dvc_data_md5", "dvc_model_md5"):
        assert platform.client.get_run(made.run_id).data.tags[name] == version.tags[name]
    assert hashlib.sha256((back / "model/model.onnx").read_bytes()).hexdigest() == version.tags["model_sha256"]
    snapshot = restored.verify("s1")
    assert snapshot.content_sha256 == version.tags["data_sha256"]

    sample = reference(platform.settings, made.run_id)
    assert {"fraud_probability", "event_timestamp", "avg_amount_7d"} <= set(sample.column_names)
    nested = platform.client.search_runs(
        [platform.client.get_experiment_by_name("fraud-detector").experiment_id],
        f"tags.`mlflow.parentRunId`='{made.run_id}'",
    )
    assert {run.info.run_name for run in nested} == {"0-rule", "1-logistic", "2-boosting", "3-mlp"}
    [network] = [run.info.run_id for run in nested if run.info.run_name == "3-mlp"]
    losses = platform.client.get_metric_history(network, "validation_loss")
    assert [loss.step for loss in losses] == [1, 2]
    page = Path(made.report_uri.removeprefix("file://")).read_text()
    assert all(
        gate["name"].replace("_", " ").replace("onnx", "ONNX").replace("auc", "AUC") in page for gate in made.gates
    )
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert json.loads(Path(made.report_uri.removeprefix("file://")).with_suffix(".json").read_text())["version"] == "1"
    [parity] = [gate for gate in made.gates if gate["name"] == "onnx_parity"]
    assert parity["passed"]
    assert "not compared with the browser's runtime" in parity["detail"]  # the project of this test has no edge/


@needs_edge
def test_a_model_with_other_bits_in_the_browser_fails_the_gate_of_parity(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    (platform.project / "edge").symlink_to(ROOT / "edge")
    made = platform.train(POOR)
    [parity] = [gate for gate in made.gates if gate["name"] == "onnx_parity"]
    assert (parity["passed"], parity["value"]) == (True, 0.0)
    assert "gives the same bits for" in parity["detail"]
    add = Graph.node

    def narrow_sigmoid(graph: Graph, operator: str, *inputs: str, **attributes: object) -> str:
        if operator == "Sigmoid":
            inputs = (add(graph, "Cast", *inputs, to=TensorProto.FLOAT),)
        return add(graph, operator, *inputs, **attributes)

    monkeypatch.setattr(Graph, "node", narrow_sigmoid)
    narrow = platform.train(force=True)
    [parity] = [gate for gate in narrow.gates if gate["name"] == "onnx_parity"]
    assert (parity["passed"], parity["value"]) == (False, None)
    assert "rows have another probability in the browser's runtime" in parity["detail"]


@pytest.mark.slow
def test_what_was_production_and_what_is_young_is_kept(platform: Platform) -> None:
    poor, good = platform.train(POOR), platform.train()
    platform.client.set_registered_model_alias(MODEL_NAME, STAGING, poor.version)
    platform.promote()
    old = files.run(files.Config(out=platform.home / "kept", keep_days=0), platform.context())
    assert (old.kept, old.expire) == ([poor.version], [good.version])
    pointers = {str(path.relative_to(platform.home / "kept")) for path in (platform.home / "kept").rglob("*.dvc")}
    assert pointers == {".dvc", "training_sets/snapshot=s1.dvc", f"models/{poor.version}.dvc"}
    young = files.run(files.Config(out=platform.home / "kept"), platform.context())
    assert (young.kept, young.expire) == ([poor.version, good.version], [])


def test_killed_while_training_a_rerun_ends_as_a_clean_run(platform: Platform, server: mlflow_server.Server) -> None:
    platform.context()
    with subprocess.Popen(
        [FRAUD, "train"], env=platform.environment(server), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if '"epoch"' in line)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert platform.versions() == 0
    made = platform.train()
    assert (made.version, platform.versions()) == ("1", 1)
    experiment = platform.client.get_experiment_by_name("fraud-detector").experiment_id
    deadline = time.monotonic() + 60
    while platform.client.search_runs([experiment], "attributes.status='RUNNING'"):
        assert time.monotonic() < deadline, "a killed run still counts as running"
        time.sleep(0.1)


def _die(*_measured: object) -> None:
    raise KeyboardInterrupt


def test_killed_before_the_verdict_a_rerun_judges_the_version_that_is_there(
    platform: Platform, server: mlflow_server.Server
) -> None:
    platform.context()
    with subprocess.Popen(
        [FRAUD, "train"], env=platform.environment(server), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if '"evaluation started"' in line)
        process.send_signal(signal.SIGKILL)
    assert platform.client.get_model_version(MODEL_NAME, "1").tags["gates"] == "pending"
    made = platform.train()
    assert (made.version, made.reused, platform.versions()) == ("1", True, 1)
    assert platform.client.get_model_version(MODEL_NAME, "1").tags["gates"] == "passed"


@pytest.mark.slow
def test_killed_while_registering_a_rerun_ends_as_a_clean_run(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = platform.train()
    original = platform.client.get_model_version(MODEL_NAME, clean.version).tags
    platform.client.delete_model_version(MODEL_NAME, clean.version)
    with monkeypatch.context() as broken:
        broken.setattr(training_runs.TrainingRuns, "register", _die)
        with pytest.raises(KeyboardInterrupt):
            platform.train()
    assert platform.versions() == 0
    made = platform.train()
    assert (made.reused, platform.versions()) == (False, 1)
    tags = platform.client.get_model_version(MODEL_NAME, made.version).tags
    assert {name for name in tags if tags[name] != original[name]} == set()


@pytest.mark.slow
def test_a_search_leaves_a_nested_run_for_each_trial_and_finds_the_same_again(platform: Platform) -> None:
    searching = {"training": {"search": {"trials": 2}, "boosting": {"max_iter": 20}, "mlp": {"max_epochs": 1}}}
    made = platform.train(searching)
    experiment = platform.client.get_experiment_by_name("fraud-detector").experiment_id
    runs = platform.client.search_runs([experiment], f"tags.fingerprint='{_fingerprint(platform, made)}'")
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    names = {run.info.run_id: run.info.run_name for run in runs}
    trials = [run for run in runs if " trial " in run.info.run_name]
    assert len(trials) == 1 + 3 * 3  # level 0 has no bounds
    for run in trials:
        assert names[str(parents[run.info.run_id])] == run.info.run_name.partition(" ")[0]
        assert "validation_average_precision" in run.data.metrics
    again = platform.train(searching, force=True)
    digests = [platform.client.get_model_version(MODEL_NAME, r.version).tags["model_sha256"] for r in (made, again)]
    assert digests[0] == digests[1]


def _fingerprint(platform: Platform, made: train.Result) -> str:
    return str(platform.client.get_model_version(MODEL_NAME, made.version).tags["fingerprint"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (world(12), "cannot be split"),
        (world(60, frauds=False), "one class only"),
        (world(60).slice(0, 0), "is empty"),
    ],
    ids=["short", "single-class", "empty"],
)
def test_data_that_cannot_be_trained_on_is_refused(platform: Platform, table: pa.Table, message: str) -> None:
    platform.lake(table, "s2", "2026-04-01T00:00:00+00:00")
    with pytest.raises(BadInputError, match=message):
        platform.train()
    assert platform.versions() == 0


def test_an_immature_holdout_passes_no_gate_on_it(platform: Platform) -> None:
    platform.lake(world(), "s1", "2026-03-03T00:00:00+00:00")
    made = platform.train()
    failed = {gate["name"]: gate["detail"] for gate in made.gates if not gate["passed"]}
    assert {"label_maturity", "better_than_production", "average_precision", "slices"} <= failed.keys()
    assert "younger than the label maturity" in failed["better_than_production"]
    assert platform.alias(STAGING) is None


def test_a_short_span_is_shortened_and_reported(platform: Platform) -> None:
    platform.lake(world(30, 900), "s2", "2026-04-01T00:00:00+00:00")
    made = platform.train()
    page = Path(made.report_uri.removeprefix("file://")).read_text()
    assert "its parts were shortened in proportion" in page


def test_a_tampered_production_blocks_the_comparison_and_is_named(
    platform: Platform, server: mlflow_server.Server
) -> None:
    first = platform.train(POOR)
    platform.promote()
    [stored] = (server.folder / "artifacts").rglob(f"{first.run_id}/artifacts/model/model.onnx")
    stored.write_bytes(stored.read_bytes() + b"x")
    made = platform.train()
    [gate] = [gate for gate in made.gates if gate["name"] == "better_than_production"]
    assert (gate["passed"], gate["value"]) == (False, None)
    assert "not what was registered" in gate["detail"]


def test_an_unavailable_registry_is_an_error_and_leaves_nothing(platform: Platform) -> None:
    context = platform.context()
    settings = context.settings.model_copy(update={"mlflow_url": "http://127.0.0.1:9"})
    away = Context(settings, context.params, context.declaration, context.log)
    with pytest.raises(UnavailableError):
        train.run(train.Config(), away)


LEARNING = """
columns:
  merchant_category: {type: category, learn: 2, unknown: other}
  distance_from_home: {type: number, unit: miles, min: 0, max: 12500}
entities:
  user: {id: user_id, max_events: 1024, keep: 37d}
features:
  - {name: amount, kind: request, op: column, column: amount}
  - {name: distance, kind: request, op: column, column: distance_from_home}
  - {name: avg_amount_7d, kind: window, entity: user, aggregate: mean, column: amount, window: 7d, default: amount}
  - {name: above_average, kind: request, op: difference, of: amount, minus: avg_amount_7d}
  - {name: kind, kind: request, op: column, column: merchant_category}
"""


def test_versions_with_other_features_are_compared_each_on_its_own(platform: Platform) -> None:
    """A candidate with other features and a learnt list against Production, whose features the lake has, or not."""
    first = platform.train(POOR)
    platform.promote()
    former = platform.declaration
    platform.declare(LEARNING)
    platform.lake(world(), "s2")
    without = platform.train()
    [gate] = [gate for gate in without.gates if gate["name"] == "better_than_production"]
    assert (gate["passed"], gate["value"]) == (False, None)
    assert "build-features --live" in gate["detail"]

    rows = world()
    days = rows["event_timestamp"].cast(pa.date32())
    dataset = catalog.features(former.stored_hash).at(platform.settings.lake_uri)
    for day in sorted(set(days.to_pylist())):
        dataset.publish(str(day), rows.filter(pc.equal(days, pa.scalar(day))))
    made = platform.train(OTHER_SEED)
    [gate] = [gate for gate in made.gates if gate["name"] == "better_than_production"]
    assert (made.champion, gate["passed"]) == (first.version, True), gate
    plan = model_versions.fetch(platform.settings, int(made.version)).plan
    assert len(plan.declaration.columns["merchant_category"].values) == 3
    assert plan.hash == platform.declaration.hash
    assert [d.hash for d in live_declarations(platform.settings)] == [former.hash, plan.hash]
    report = json.loads(Path(made.report_uri.removeprefix("file://")).with_suffix(".json").read_text())
    found = {feature["name"]: feature for feature in report["features"]}
    assert found.keys() == {"amount", "distance", "avg_amount_7d", "above_average", "kind"}
    assert found["distance"]["missing"] == pytest.approx(0.1, abs=0.02)
    assert found["kind"]["columns"] == 3
    assert found["above_average"]["missing"] is None
