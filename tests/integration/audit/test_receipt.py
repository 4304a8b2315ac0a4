"""From an answer to commit, data, run and approver, against a real registry and history."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import mlflow
import pytest
import structlog
from tests.served_answers import THREE, TWO_ENTITIES, line

from fraud.audit import prediction_log, receipt, version_tree
from fraud.embedded.servers import mlflow_server
from fraud.errors import BadInputError
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import opened
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
SHA = sha256(b"a model").hexdigest()
ANSWER = {
    "prediction_id": "p-1", "transaction_id": "t-1", "user_id": "u-1", "merchant_id": "m-1", "amount": 120.5,
    "channel": "app", "country": "pl", "distance": None, "terminal_id": "x-9", "in_person": False,
    "event_us": 4_102_444_800_000_000, "hour_of_day": 3, "day_of_week": 2, "served_us": 4_102_444_800_100_000,
    "sequence_card": 4, "newest_us_card": 0, "sequence_terminal": 0, "newest_us_terminal": 0,
    "snapshot_shop": "2100-01-01-0123456789ab", "history": "store", "degraded": False, "card_count_1h": 1.0,
    "card_count_7d": 2.0, "card_max_distance_30d": None, "card_in_person_7d": 0.5, "card_same_channel": 1.0,
    "terminal_cards_1d": 0.0, "terminal_mean_7d": None, "shop_count_7d": 12.0, "shop_mean_30d": 30.5,
    "shop_fraud_rate_7d": 0.01, "fraud_probability": 0.4, "is_fraud": True, "threshold": 0.25, "model_version": "1",
    "model_sha256": SHA, "feature_hash": TWO_ENTITIES.hash, "latency_us": 900,
}  # fmt: skip
"""Served in the year 2100: after whatever promotion the test makes. The country is one that training did not see."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_server.Server]:
    with mlflow_server.running(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def context(server: mlflow_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """Version 1 is registered, and in production, promoted by Ada."""
    for name, value in server.client_environment().items():
        monkeypatch.setenv(name, value)
    settings = Settings(home=tmp_path, project=ROOT, mlflow_url=server.url, actor="ada")
    client = mlflow.MlflowClient(server.url)
    client.create_registered_model(MODEL_NAME)
    run = client.create_run("0").info.run_id
    facts = {"feature_hash": TWO_ENTITIES.hash, "declaration": json.loads(TWO_ENTITIES.canonical()), "threshold": 0.25}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.onnx").write_bytes(b"a model")
    (tmp_path / "model/serving.json").write_text(json.dumps(facts))
    client.log_artifacts(run, str(tmp_path / "model"), "model")
    (tmp_path / "gates.json").write_text(json.dumps({"gates": [], "gates_passed": True, "opponent": "none"}))
    client.log_artifact(run, str(tmp_path / "gates.json"), "report")
    training = {"parts": {}, "levels": [], "selected": 0}
    (tmp_path / "training.json").write_text(json.dumps(training))
    client.log_artifact(run, str(tmp_path / "training.json"))
    tags = {
        "model_sha256": SHA, "serving_sha256": sha256((tmp_path / "model/serving.json").read_bytes()).hexdigest(),
        "feature_hash": TWO_ENTITIES.hash, "threshold": "0.25", "level": "2-boosting",
        "git_commit": "c0ffee", "data_sha256": "d" * 64, "gates": "passed", "failed_gates": "",
    }  # fmt: skip
    version = client.create_model_version(MODEL_NAME, f"runs:/{run}/model", run, tags=tags)
    with opened(settings) as promotion:
        promotion.change("promote", lambda _current, _history: version, actor="ada", reason="it earns more")
    yield Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())
    client.delete_registered_model(MODEL_NAME)


def receipt_of(context: Context, prediction_id: str = "p-1") -> receipt.Result:
    return receipt.run(receipt.Config(prediction_id=prediction_id), context)


def in_lake(context: Context, **change: object) -> None:
    table = prediction_log.table_of([ANSWER | change], THREE)
    catalog.PREDICTIONS.at(context.settings.lake_uri).publish("2100-01-01", table)


def test_the_whole_chain_of_an_answer_in_the_lake(context: Context) -> None:
    in_lake(context)
    found = receipt_of(context)
    assert found.found_in.endswith("predictions/dt=2100-01-01")
    assert (found.git_commit, found.data_sha256, found.level) == ("c0ffee", "d" * 64, "2-boosting")
    assert (found.approved_by, found.approval_reason, found.problems) == ("ada", "it earns more", ())
    assert found.gate_report.endswith(f"training/{found.run_id}/gates.html")


@pytest.mark.parametrize("trace", ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None])
def test_the_trace_of_the_request_is_in_the_receipt(context: Context, trace: str | None) -> None:
    in_lake(context, traceparent=trace)
    assert receipt_of(context).traceparent == (trace or "")


def test_columns_features_by_group_sequences_and_snapshots_are_those_of_the_version_s_declaration(
    context: Context,
) -> None:
    """The project's declaration is another one."""
    in_lake(context)
    found = receipt_of(context)
    assert found.feature_hash == TWO_ENTITIES.hash
    assert found.columns == {
        "amount": 120.5, "channel": "app", "country": "pl", "distance": None, "in_person": False, "terminal_id": "x-9",
    }  # fmt: skip
    assert found.features["card"] == {
        "card_count_1h": 1.0, "card_count_7d": 2.0, "card_max_distance_30d": None, "card_in_person_7d": 0.5,
        "card_same_channel": 1.0,
    }  # fmt: skip
    assert found.features["shop"] == {"shop_count_7d": 12.0, "shop_mean_30d": 30.5, "shop_fraud_rate_7d": 0.01}
    assert found.features["terminal"] == {"terminal_cards_1d": 0.0, "terminal_mean_7d": None}
    assert found.features["time"] == {"hour_of_day": 3, "day_of_week": 2}
    assert (found.features["amount"], found.features["country"]) == ({"amount": 120.5}, {"country": "pl"})
    assert found.sequences == {"card": 4, "terminal": 0}
    assert found.snapshots == {"shop": "2100-01-01-0123456789ab"}


def test_a_version_without_a_declaration_is_a_problem_and_the_record_is_shown_as_it_is(
    context: Context, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient(context.settings.mlflow_url)
    [version] = client.search_model_versions(f"name='{MODEL_NAME}'")
    (tmp_path / "model/serving.json").write_text('{"feature_hash": "0"}')
    client.log_artifacts(version.run_id, str(tmp_path / "model"), "model")
    digest = sha256((tmp_path / "model/serving.json").read_bytes()).hexdigest()
    client.set_model_version_tag(MODEL_NAME, version.version, "serving_sha256", digest)
    in_lake(context)
    found = receipt_of(context)
    reason = "fraud-detector version 1 contains no feature declaration that can be read"
    assert found.problems == (f"features not known: {reason}",)
    assert (found.features, found.columns["terminal_id"], found.columns["shop_count_7d"]) == ({}, "x-9", 12.0)
    tree = version_tree.run(version_tree.Config(version="1"), context).as_text()
    assert f"no feature declaration, so its answers cannot be replayed: {reason}" in tree


def test_the_tree_of_a_version_summarizes_its_declaration(context: Context) -> None:
    tree = version_tree.run(version_tree.Config(version="1"), context).as_text()
    for text in (f"hash               {TWO_ENTITIES.hash}", "channel, country, distance, in_person, terminal_id",
                 "feature declaration, 21 inputs of the model", "7 features of card, terminal", "3 features of shop",
                 "values of country  de, fr, other"):  # fmt: skip
        assert text in tree, text


def test_an_answer_that_was_not_shipped_yet_is_found_in_serving_s_segments(context: Context) -> None:
    folder = context.settings.prediction_log
    folder.mkdir(parents=True)
    (folder / "segment-1.jsonl").write_bytes(line(ANSWER, TWO_ENTITIES))
    assert receipt_of(context).found_in == str(folder / "segment-1.jsonl")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_sha256": "0" * 64}, "model_sha256"),
        ({"threshold": 0.5}, "threshold"),
        ({"served_us": 1_000_000}, "was not in production at the time of the answer"),
    ],
)
def test_a_link_that_does_not_hold_is_named(context: Context, change: dict[str, object], problem: str) -> None:
    in_lake(context, **change)
    [found] = receipt_of(context).problems
    assert problem in found


def test_an_answer_by_the_rule_has_no_model_behind_it(context: Context) -> None:
    in_lake(context, model_version="rule", model_sha256="")
    assert (receipt_of(context).run_id, receipt_of(context).level[:4]) == ("", "defa")


def test_an_unknown_id_is_refused(context: Context) -> None:
    with pytest.raises(BadInputError, match="no prediction p-9"):
        receipt_of(context, "p-9")
