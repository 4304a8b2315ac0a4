"""`fraud score --input --output`: a file scored without Spark or a lake, equal to the partition of the same rows."""

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from fraud.core.plan import Plan
from fraud.declaration_file import load_of
from fraud.errors import BadConfigError, BadInputError, UnavailableError
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context
from fraud.scoring import score, scored_file
from fraud.scoring.onnx_session import OnnxModel

DAY = dt.date(2026, 3, 9)
Make = Callable[..., Any]


def run(context: Context, source: Path, target: Path, **flags: object) -> score.Result:
    return score.run(score.Config.model_validate({"input": source, "output": target, **flags}), context)


@pytest.fixture
def version(register: Make, linear_model: Make) -> str:
    made: str = register(linear_model())
    return made


@pytest.mark.usefixtures("version")
def test_rows_with_window_features_are_scored_as_they_stand(
    context: Context, features_of: Make, linear_model: Make, tmp_path: Path
) -> None:
    table = features_of(DAY, 3_000)
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    pq.write_table(shuffled, tmp_path / "in.parquet")
    result = run(context, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert (result.rows, result.rejected, result.days) == (3_000, 0, [])
    assert (result.window_features, result.daily_features) == ("columns of the file", "the version has none")
    assert out["transaction_id"].equals(shuffled["transaction_id"])
    expected = OnnxModel(linear_model()).probabilities(vectors(shuffled, Plan(context.declaration)))
    assert out["fraud_probability"].to_numpy().tobytes() == expected.tobytes()
    before = (tmp_path / "out.parquet").read_bytes()
    run(context, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == before


@pytest.mark.usefixtures("version")
def test_without_window_features_they_are_those_of_the_files_own_rows(context: Context, tmp_path: Path) -> None:
    """A user pays at 10:00 and 10:30: the second one has velocity 1. The file has it first, gzipped CSV."""
    lines = [
        "transaction_id,event_timestamp,user_id,merchant_id,merchant_category,amount,distance_from_home",
        "b,2026-03-09T10:30:00Z,u,m1,travel,100,", "a,2026-03-09T10:00:00Z,u,m2,grocery,100,3.5",
        "c,2026-03-09T10:30:00Z,v,m1,no such category,100,1",
    ]  # fmt: skip
    with pa.CompressedOutputStream(str(tmp_path / "in.csv.gz"), "gzip") as file:
        file.write("\n".join(lines).encode())
    result = run(context, tmp_path / "in.csv.gz", tmp_path / "out.csv")
    assert result.window_features == "computed from the rows of the file"
    out = csv.read_csv(tmp_path / "out.csv")
    assert out["transaction_id"].to_pylist() == ["b", "a", "c"]
    # 0.01 * 100 + 0.5 * velocity - 4, through the logistic function.
    expected = [1 / (1 + np.exp(4 - 1 - 0.5 * velocity)) for velocity in (1, 0, 0)]
    assert out["fraud_probability"].to_pylist() == pytest.approx(expected, abs=1e-6)


WIDE = {"device_users_1d": 1.0, "merchant_count_7d": 0.5, "card_present": 0.25, "country_GB": 0.125}
"""Weights, in addition to 0.01 of the amount."""
LINES = [
    "transaction_id,event_timestamp,user_id,merchant_id,amount,device_id,country,card_present",
    "a,2026-03-09T10:00:00Z,u,m,100,d,GB,yes", "b,2026-03-09T10:30:00Z,v,m,100,d,FR,no",
    "c,2026-03-09T11:00:00Z,w,m,100,d,Atlantis,", "d,2026-03-09T11:00:00Z,w,m,100,,,1",
    "e,2026-03-09T11:00:00Z,w,m,100,d,GB,perhaps",
]  # fmt: skip


def wide_version(context: Context, register: Make, linear_model: Make) -> str:
    shipped = load_of(context.settings.project).resolved({"country": ("FR", "GB", "other")})
    model = linear_model(velocity=0.0, plan=Plan(shipped), **WIDE)
    made: str = register(model, declaration=shipped)
    return made


def logistic(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def test_declared_columns_and_entities_of_a_file_and_empty_daily_features(
    context: Context, register: Make, linear_model: Make, tmp_path: Path
) -> None:
    wide_version(context, register, linear_model)
    (tmp_path / "in.csv").write_text("\n".join(LINES))
    result = run(context, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (result.rows, result.window_features) == (4, "computed from the rows of the file")
    assert result.daily_features == "empty: the file has no columns for them"
    assert result.reasons == {"a value could not be read; card_present is neither true nor false": 1}
    out = csv.read_csv(tmp_path / "out.csv")
    assert out["transaction_id"].to_pylist() == ["a", "b", "c", "d"]
    # Before b the device had one user, before c two; the flag is 0 where it is missing, the count of the day is 0.
    logits = [-3 + 0 + 0.25 + 0.125, -3 + 1, -3 + 2, -3 + 0.25]
    assert out["fraud_probability"].to_pylist() == pytest.approx([logistic(x) for x in logits], abs=1e-6)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_features_that_a_file_has_are_used(
    context: Context, register: Make, linear_model: Make, tmp_path: Path, kind: str
) -> None:
    wide_version(context, register, linear_model)
    plan = Plan(load_of(context.settings.project))
    at = pa.array([dt.datetime(2026, 3, 9, 10, tzinfo=dt.UTC)] * 2, pa.timestamp("us", "UTC"))
    columns: dict[str, Any] = {"transaction_id": ["a", "b"], "user_id": ["u", "v"], "merchant_id": ["m", "m"]}
    columns |= {"event_timestamp": at, "amount": [100.0, 100.0], "device_id": ["d", None], "country": ["GB", "FR"]}
    columns |= {name: [3 if name in WIDE else 1, 1] for name in plan.features}
    table, source = pa.table(columns), tmp_path / f"in.{kind}"
    if kind == "csv":
        csv.write_csv(table, source)
    else:
        pq.write_table(table, source)
    result = run(context, source, tmp_path / "out.parquet")
    assert (result.window_features, result.daily_features) == ("columns of the file", "columns of the file")
    probabilities = pq.read_table(tmp_path / "out.parquet")["fraud_probability"].to_pylist()
    expected = [logistic(-3 + 3 + 1.5 + 0.125), logistic(-3 + 1 + 0.5)]
    assert probabilities == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("version")
def test_rows_that_break_the_contract_are_left_out_and_counted(
    context: Context, features_of: Make, tmp_path: Path
) -> None:
    table = features_of(DAY, 6).drop_columns(list(Plan(context.declaration).features))
    amounts = pa.array([None, -1.0, *table["amount"].to_pylist()[2:]])
    ids = pa.array([*table["transaction_id"].to_pylist()[:5], table["transaction_id"][4].as_py()])
    table = table.set_column(table.column_names.index("amount"), "amount", amounts)
    pq.write_table(table.set_column(0, "transaction_id", ids), tmp_path / "in.parquet")
    result = run(context, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert (result.rows, result.rejected) == (3, 3)
    assert result.reasons == {
        "amount is missing": 1, "amount is not above 0": 1, "duplicate transaction_id": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cannot be read"),
        (b"transaction_id,amount\n1,2\n", "lacks event_timestamp"),
        (b"transaction_id,event_timestamp,user_id,merchant_id,merchant_category,amount\n", ""),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_one_without_rows_is_a_file(
    context: Context, content: bytes, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    if not complaint:
        assert run(context, tmp_path / "in.csv", tmp_path / "out.csv").rows == 0
        return
    with pytest.raises(BadInputError, match=complaint):
        run(context, tmp_path / "in.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.usefixtures("version")
def test_another_kind_of_target_is_refused_and_a_full_disk_leaves_none(
    context: Context, features_of: Make, tmp_path: Path
) -> None:
    pq.write_table(features_of(DAY, 10), tmp_path / "in.parquet")
    with pytest.raises(BadConfigError, match=r"the suffix \.csv or \.parquet"):
        run(context, tmp_path / "in.parquet", tmp_path / "out.xlsx")
    with pytest.raises(UnavailableError, match="cannot be written"):
        run(context, tmp_path / "in.parquet", Path("/dev/full/out.csv"))


def test_by_hand_it_leaves_no_trace_for_monitoring_and_a_terminal_gets_a_bar(
    context: Context, version: str, features_of: Make, tmp_path: Path
) -> None:
    pq.write_table(features_of(DAY, 100), tmp_path / "in.parquet")
    settings = context.settings
    env = {
        **os.environ, "FRAUD_HOME": str(settings.home), "FRAUD_PROJECT": str(settings.project),
        "FRAUD_MLFLOW_URL": settings.mlflow_url,
    }  # fmt: skip
    ours, theirs = os.openpty()
    fraud = str(Path(sys.executable).with_name("fraud"))
    command = [fraud, "score", f"--input={tmp_path}/in.parquet", f"--output={tmp_path}/out.csv", f"--model={version}"]
    subprocess.run(command, env=env, stderr=theirs, stdout=subprocess.PIPE, check=True)
    os.close(theirs)
    output = os.read(ours, 100_000).decode()
    os.close(ours)
    assert f"[{'#' * 30}] 100 of 100 rows" in output
    assert not (settings.home / "job_runs").exists()


def test_in_a_log_there_is_no_bar(features_of: Make, capsys: pytest.CaptureFixture[str]) -> None:
    pieces = list(scored_file._with_progress(features_of(DAY, 70_000), sys.stderr))
    assert [piece.num_rows for piece in pieces] == [65_536, 4_464]
    assert capsys.readouterr().err == ""
