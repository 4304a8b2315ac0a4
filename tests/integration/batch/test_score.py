"""`fraud score` on a real Spark and a real registry: what it writes, what it refuses, what a kill leaves behind."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest

from fraud.core.features import definition_hash
from fraud.engines.arrow_vector import vectors
from fraud.engines.onnx_session import OnnxModel
from fraud.engines.scoring import INPUT, Scorer
from fraud.errors import BadInputError, RefusedError
from fraud.io.lake import Dataset
from fraud.io.model_artifact import MODEL_NAME, PRODUCTION
from fraud.jobs import Context, score

DAY = dt.date(2026, 3, 9)
Make = Callable[..., Any]


def bytes_below(dataset: Dataset) -> dict[str, bytes]:
    root = Path(dataset.uri.removeprefix("file://"))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def config(**flags: object) -> score.Config:
    return score.Config.model_validate(flags)


def until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


@pytest.mark.usefixtures("spark")
def test_a_day_is_scored_row_by_row_as_without_spark_and_a_rerun_changes_nothing(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    model = linear_model()
    version = register(model, 0.2)
    whole = features_of(DAY, 5_000)
    features.publish(str(DAY), (whole.slice(start, 1_500) for start in range(0, 5_000, 1_500)))
    result = score.run(config(date=str(DAY)), context)

    published = scores.read(str(DAY))
    expected = OnnxModel(model).probabilities(vectors(whole))
    assert published["transaction_id"].to_pylist() == whole["transaction_id"].to_pylist()
    assert published["fraud_probability"].to_numpy().tobytes() == expected.tobytes()
    assert published["is_fraud"].to_pylist() == (expected.astype(np.float64) >= 0.2).tolist()
    assert set(published["model_version"].to_pylist()) == {version}
    assert (result.rows, result.rejected, result.flagged) == (5_000, 0, int((expected >= 0.2).sum()))
    scores.verify(str(DAY))

    before = bytes_below(scores)
    again = score.run(config(date=str(DAY)), context)
    assert [day.changed for day in again.days] == [False]
    assert "spark_start" not in again.seconds
    forced = score.run(config(date=str(DAY), force=True), context)
    assert forced.days == again.days
    assert bytes_below(scores) == before


@pytest.mark.usefixtures("spark")
def test_without_a_date_the_newest_day_and_the_week_before_catch_up(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    for back in range(10):
        features.publish(str(DAY - dt.timedelta(days=back)), features_of(DAY - dt.timedelta(days=back), 50))
    first = score.run(config(), context)
    assert [day.day for day in first.days] == [str(DAY - dt.timedelta(days=back)) for back in reversed(range(7))]
    old = str(DAY - dt.timedelta(days=2))
    features.publish(old, features_of(DAY - dt.timedelta(days=2), 60))
    version = register(linear_model(bias=-3.0))
    second = score.run(config(), context)
    assert {day.day: day.changed for day in second.days} == {old: True, str(DAY): True}
    assert second.model_version == version
    kept = scores.manifest(str(DAY - dt.timedelta(days=1)))
    assert kept is not None
    assert kept.made_from["model_version"] != version  # what was decided then stays as it was decided


@pytest.mark.usefixtures("spark")
def test_a_what_if_leaves_the_scores_alone(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    version = register(linear_model())
    register(linear_model(bias=-3.0))
    features.publish(str(DAY), features_of(DAY, 50))
    result = score.run(config(date=str(DAY), version=int(version)), context)
    assert result.model_version == version
    assert scores.partitions() == []
    assert Dataset(context.settings.lake_uri, f"what_if/version={version}").read(str(DAY)).num_rows == 50


@pytest.mark.usefixtures("spark")
def test_rows_that_cannot_be_scored_are_counted_and_empty_and_one_row_days_are_days(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    days = [str(DAY - dt.timedelta(days=back)) for back in (2, 1, 0)]
    damaged = features_of(DAY, 10)
    amounts = pa.array([None, float("nan"), *damaged["amount"].to_pylist()[2:]])
    features.publish(days[0], features_of(DAY, 0))
    features.publish(days[1], features_of(DAY, 1))
    features.publish(days[2], damaged.set_column(damaged.column_names.index("amount"), "amount", amounts))
    result = score.run(config(**{"from": days[0], "to": days[2]}), context)
    assert [(day.rows, day.rejected) for day in result.days] == [
        (0, {}), (1, {}), (8, {"amount is null": 1, "amount is not finite": 1}),
    ]  # fmt: skip
    assert scores.read(days[0]).num_rows == 0


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("damage", ["truncated", "gone", "another column"])
def test_damaged_features_are_named_and_nothing_is_published(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make,
    damage: str,
) -> None:  # fmt: skip
    register(linear_model())
    table = features_of(DAY, 1_000)
    features.publish(str(DAY), table.rename_columns({"amount": "Amount"}) if damage == "another column" else table)
    path = Path(features.object_uris(str(DAY))[0].removeprefix("file://"))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if damage == "gone":
        path.unlink()
    with pytest.raises(BadInputError, match=path.name):
        score.run(config(date=str(DAY)), context)
    assert scores.partitions() == []


@pytest.mark.usefixtures("spark")
def test_a_transaction_twice_in_a_day_is_refused_across_objects(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    table = features_of(DAY, 100)
    features.publish(str(DAY), iter([table, table.slice(7, 1)]))
    with pytest.raises(BadInputError, match="transaction_id twice"):
        score.run(config(date=str(DAY)), context)
    assert scores.partitions() == []


def test_without_a_production_model_it_says_so_and_writes_nothing(
    context: Context, features: Dataset, scores: Dataset, features_of: Make
) -> None:
    features.publish(str(DAY), features_of(DAY, 10))
    with pytest.raises(RefusedError, match="no production version") as refused:
        score.run(config(), context)
    assert "fraud promote" in str(refused.value)
    assert scores.partitions() == []


def test_model_bytes_that_were_not_registered_are_refused(
    context: Context, register: Make, features: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model(), tampered=True)
    features.publish(str(DAY), features_of(DAY, 10))
    with pytest.raises(RefusedError, match=r"model\.onnx .* is not what was registered"):
        score.run(config(), context)


def test_no_features_at_all_is_an_error_that_says_what_to_run(
    context: Context, register: Make, linear_model: Make
) -> None:
    register(linear_model())
    with pytest.raises(BadInputError, match="no features"):
        score.run(config(), context)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_process_and_no_half_day_and_a_rerun_is_as_if_nothing_happened(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make,
    blow: signal.Signals, tmp_path: Path,
) -> None:  # fmt: skip
    register(linear_model())
    slices = [features_of(DAY, 40_000).slice(start, 200) for start in range(0, 40_000, 200)]
    features.publish(str(DAY), iter(slices))
    scorer = Scorer(OnnxModel(linear_model()), "1", definition_hash(), 0.2)
    expected = [
        f"{scores.uri}/dt={DAY}/{Dataset(f'file://{tmp_path}/other', 'scores').put(str(DAY), scored).name}"
        for scored, _ in (scorer.score(table.select(INPUT.names).cast(INPUT)) for table in slices)
    ]
    settings = context.settings
    env = {
        **os.environ, "FRAUD_HOME": str(settings.home), "FRAUD_PROJECT": str(settings.project),
        "FRAUD_MLFLOW_URL": settings.mlflow_url, "FRAUD_SPARK_MASTER": "local[1]",
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as sink:
        job = subprocess.Popen(
            [str(Path(sys.executable).with_name("fraud")), "score"], env=env, stderr=sink, start_new_session=True
        )
    folder = Path(scores.uri.removeprefix("file://")) / f"dt={DAY}"
    until(lambda: any(folder.glob("*.parquet")), 90)  # the workers are at it
    session = job.pid
    job.send_signal(blow)
    assert job.wait(timeout=60) != 0
    until(lambda: not _members(session), 30)
    assert scores.partitions() == []

    score.run(config(), context)
    assert scores.object_uris(str(DAY)) == expected


def _members(session: int) -> list[int]:
    """Processes of a session, from /proc: JVM and workers of the job included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.usefixtures("spark")
def test_the_version_is_resolved_once_whatever_happens_to_the_alias(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = register(linear_model())
    second = register(linear_model(bias=-3.0))
    client = mlflow.MlflowClient(context.settings.mlflow_url)
    client.set_registered_model_alias(MODEL_NAME, PRODUCTION, first)
    table = features_of(DAY, 400)
    features.publish(str(DAY), (table.slice(start, 100) for start in range(0, 400, 100)))
    put = Dataset.partitions

    def swap_then_list(self: Dataset) -> list[str]:
        client.set_registered_model_alias(MODEL_NAME, PRODUCTION, second)
        return put(self)

    monkeypatch.setattr(Dataset, "partitions", swap_then_list)
    score.run(config(), context)
    assert set(scores.read(str(DAY))["model_version"].to_pylist()) == {first}
