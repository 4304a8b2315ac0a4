"""From an answer to commit, data, run and approver, against a real registry and history."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import mlflow
import pyarrow as pa
import pytest
import structlog

from fraud.audit import prediction_log, receipt
from fraud.core.features import definition_hash
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
    "prediction_id": "p-1", "transaction_id": "t-1", "user_id": "u-1", "merchant_id": "m-1",
    "merchant_category": "travel", "amount": 120.5, "distance_from_home": None, "event_us": 4_102_444_800_000_000,
    "hour_of_day": 3, "day_of_week": 2, "served_us": 4_102_444_800_100_000, "sequence": 4, "newest_us": 0,
    "history": "store", "degraded": False, "transaction_velocity_1h": 1.0, "avg_amount_7d": None,
    "unique_merchants_30d": 2, "fraud_probability": 0.4, "is_fraud": True, "threshold": 0.25, "model_version": "1",
    "model_sha256": SHA, "feature_hash": definition_hash(), "latency_us": 900,
}  # fmt: skip
"""Served in the year 2100: after whatever promotion the test makes."""


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
    tags = {
        "model_sha256": SHA, "feature_hash": definition_hash(), "threshold": "0.25", "level": "2-boosting",
        "git_commit": "c0ffee", "data_sha256": "d" * 64, "gates": "passed", "failed_gates": "",
    }  # fmt: skip
    version = client.create_model_version(MODEL_NAME, f"runs:/{run}/model", run, tags=tags)
    with opened(settings) as promotion:
        promotion.change("promote", lambda _current, _history: version, actor="ada", reason="it earns more")
    yield Context(settings, Params.load(ROOT / "params.yaml"), structlog.get_logger())
    client.delete_registered_model(MODEL_NAME)


def receipt_of(context: Context, prediction_id: str = "p-1") -> receipt.Result:
    return receipt.run(receipt.Config(prediction_id=prediction_id), context)


def in_lake(context: Context, **change: object) -> None:
    table = pa.Table.from_pylist([ANSWER | change], schema=prediction_log.SCHEMA)
    catalog.PREDICTIONS.at(context.settings.lake_uri).publish("2100-01-01", table)


def test_the_whole_chain_of_an_answer_in_the_lake(context: Context) -> None:
    in_lake(context)
    found = receipt_of(context)
    assert found.found_in.endswith("predictions/dt=2100-01-01")
    assert (found.git_commit, found.data_sha256, found.level) == ("c0ffee", "d" * 64, "2-boosting")
    assert (found.approved_by, found.approval_reason, found.problems) == ("ada", "it earns more", ())
    assert found.gate_report.endswith(f"training/{found.run_id}/gates.html")


def test_an_answer_that_was_not_shipped_yet_is_found_in_serving_s_segments(context: Context) -> None:
    folder = context.settings.prediction_log
    folder.mkdir(parents=True)
    (folder / "segment-1.jsonl").write_text(json.dumps(ANSWER) + "\n")
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
