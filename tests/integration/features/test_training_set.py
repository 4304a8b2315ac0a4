"""`fraud training-set`: the point-in-time join of Feast, compared with the values of the lake."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.integration.features_platform import (
    ROOT,
    build,
    day,
    many,
    publish,
    publish_labels,
    snapshot,
    transactions,
)

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.declaration_file import load
from fraud.errors import BadInputError, UnavailableError
from fraud.features import build_daily
from fraud.job import Context
from fraud.lake import catalog


def test_a_training_set_holds_every_mature_row_with_the_values_of_its_own_moment(context: Context) -> None:
    rows = many(50, seed=4)
    publish(context, rows)
    build(context)
    result, by_id = snapshot(context)
    assert (result.first_day, result.last_day) == (day(0), day(42))
    assert result.cut_off == datetime(2026, 2, 20, tzinfo=UTC)
    features = catalog.features(context.declaration.stored_hash).at(context.settings.lake_uri)
    lake, names = features.read_range(day(0), day(42)), [f.name for f in context.declaration.stored_features]
    assert lake is not None
    assert result.feature_rows_compared == result.rows == lake.num_rows
    for row in lake.to_pylist():
        assert {name: by_id[row["transaction_id"]][name] for name in names} == {name: row[name] for name in names}


def test_the_same_inputs_find_the_same_snapshot(context: Context) -> None:
    publish(context, many(10, seed=5))
    build(context)
    first, again = snapshot(context)[0], snapshot(context)[0]
    assert again == first.model_copy(update={"feature_rows_compared": 0})


def test_a_snapshot_names_the_versions_of_the_tables_it_was_made_from(context: Context) -> None:
    publish(context, many(10, seed=5))
    publish_labels(context, [("t1", True, 2 * US_PER_DAY)])
    build(context)
    lake = context.settings.lake_uri
    tables = [catalog.TRANSACTIONS, catalog.LABELS, catalog.features(context.declaration.stored_hash)]
    versions = {f"{each.name} version": each.at(lake).open() for each in tables}
    assert {name: version.number for name, version in versions.items()} == {
        "transactions version": 9, "labels version": 0, f"{tables[2].name} version": 0,
    }  # fmt: skip
    first = snapshot(context, as_of=day(9))[0]

    publish(context, transactions([("later", "user 0", 20 * US_PER_DAY, 20 * US_PER_DAY)]))
    publish_labels(context, [("t2", True, 25 * US_PER_DAY)])
    build(context)
    snapshots = catalog.TRAINING_SETS.at(lake)
    before = snapshots.open().number
    again = snapshot(context, as_of=day(9))[0]
    assert (again.snapshot, again.content_sha256) == (first.snapshot, first.content_sha256)
    assert snapshots.open().number == before  # equal rows in newer versions: no commit

    partition = snapshots.partition(first.snapshot)
    assert partition is not None
    for each, (name, version) in zip(tables, versions.items(), strict=True):
        assert partition.made_from[name] == str(version.number)
        assert each.at(lake).open(int(partition.made_from[name])) == version
        assert each.at(lake).open() != version


def test_labels_count_as_known_at_the_cut_off(context: Context) -> None:
    at = {"none": 0, "fraud": 1, "revised": 2, "too new": 3, "young": 10 * US_PER_DAY}
    publish(context, transactions([(name, "user 0", t, t) for name, t in at.items()]))
    publish_labels(
        context,
        [("fraud", True, 2 * US_PER_DAY), ("revised", True, 2 * US_PER_DAY), ("revised", False, 3 * US_PER_DAY),
         ("too new", True, 11 * US_PER_DAY), ("young", True, 10 * US_PER_DAY + 5)],
    )  # fmt: skip
    build(context)
    result, by_id = snapshot(context)
    assert {name: row["is_fraud"] for name, row in by_id.items()} == {
        "none": False, "fraud": True, "revised": False, "too new": False,
    }  # fmt: skip
    assert (result.rows, result.frauds) == (4, 1)
    assert by_id["fraud"]["label_timestamp"] == datetime(2026, 1, 3, tzinfo=UTC)
    assert by_id["none"]["label_timestamp"] is None
    publish(context, transactions([("later", "user 0", 20 * US_PER_DAY, 20 * US_PER_DAY)]))
    build(context)
    assert {name for name, row in snapshot(context)[1].items() if row["is_fraud"]} == {"fraud", "too new", "young"}
    assert snapshot(context, as_of=day(10))[0] == result.model_copy(update={"feature_rows_compared": 0})


def test_rows_with_an_ingestion_time_after_the_cut_off_are_not_in_it(context: Context) -> None:
    """The late row has the user and event time of an earlier row: the join must not read it."""
    hour = US_PER_HOUR
    rows = [("t0", "user 0", 0, 0), ("t1", "user 0", hour, hour), ("twin", "user 0", hour, 15 * US_PER_DAY),
            ("between", "user 0", hour // 2, 2 * hour), ("u", "user 1", 12 * US_PER_DAY, 12 * US_PER_DAY)]  # fmt: skip
    publish(context, transactions(rows))
    build(context)
    result, by_id = snapshot(context)
    assert set(by_id) == {"t0", "t1", "between"}
    assert result.feature_rows_compared == 3
    assert by_id["t1"]["transaction_velocity_1h"] == 1.0  # t0; "between" was ingested later
    _, all_of_them = snapshot(context, as_of=day(15))
    assert all_of_them["twin"]["transaction_velocity_1h"] == 2.0
    assert all_of_them["t1"]["transaction_velocity_1h"] == 1.0


def test_rows_that_share_user_and_time_are_all_kept(context: Context) -> None:
    hour = US_PER_HOUR
    rows = [
        ("t0", "user 0", 0, 0),
        *((f"twin {i}", "user 0", hour, hour) for i in range(3)),
        ("u", "user 1", hour, hour),
    ]
    publish(context, transactions(rows))
    build(context)
    result, by_id = snapshot(context, as_of=day(8))
    assert (result.rows, result.feature_rows_compared) == (5, 5)
    assert [by_id[f"twin {i}"]["transaction_velocity_1h"] for i in range(3)] == [1.0] * 3


def test_features_that_are_out_of_date_stop_the_training_set(context: Context) -> None:
    publish(context, many(10, seed=6))
    with pytest.raises(UnavailableError, match=f"3 days to be built, {day(0)} .. {day(2)}"):
        snapshot(context)


def test_labels_that_arrive_after_the_features_were_built_stop_the_training_set(context: Context) -> None:
    """Daily fraud rates contain labels. Without this, the model depended on which of the two jobs ran first."""
    shipped = replace(context, declaration=load(ROOT / "feature_repo" / "features.yaml"))
    publish(shipped, many(50, seed=6))
    build_daily.run(build_daily.Config(), shipped)
    build(shipped)
    assert build_daily.stale_days(shipped.declaration, shipped.settings.lake_uri) == []

    publish_labels(shipped, [(f"t{i}", True, 20 * US_PER_DAY) for i in range(60)])
    with pytest.raises(UnavailableError, match="older than the transactions or labels"):
        snapshot(shipped)
    build_daily.run(build_daily.Config(), shipped)
    with pytest.raises(UnavailableError, match="older than the transactions or labels"):
        snapshot(shipped)
    build(shipped)
    result, _ = snapshot(shipped)
    assert result.rows == result.feature_rows_compared > 200


def test_a_feast_view_with_swapped_timestamps_stops_the_training_set(context: Context, tmp_path: Path) -> None:
    publish(context, many(20, seed=7))
    build(context)
    project = tmp_path / "project"
    shutil.copytree(ROOT / "feature_repo", project / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    definitions = project / "feature_repo" / "definitions.py"
    swapped = {'d="event_timestamp"': 'd="created_timestamp"', 'n="created_timestamp"': 'n="event_timestamp"'}
    text = definitions.read_text()
    for right, wrong in swapped.items():
        assert right in text
        text = text.replace(right, wrong)
    definitions.write_text(text)
    settings = context.settings.model_copy(update={"project": project})
    with pytest.raises(BadInputError, match="differ in unique_merchants_30d"):
        snapshot(replace(context, settings=settings))


def test_a_job_that_used_feast_prints_no_report_of_leaked_connections(context: Context, tmp_path: Path) -> None:
    """DuckDB prints one if a connection is open when the interpreter exits; Feast leaves its connection open."""
    publish(context, many(10, seed=8))
    build(context)
    project = tmp_path / "project"
    shutil.copytree(ROOT / "feature_repo", project / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/declarations/three.yaml", project / "feature_repo/features.yaml")
    shutil.copy(ROOT / "params.yaml", project)
    environment = {**os.environ, "FRAUD_HOME": str(context.settings.home), "FRAUD_PROJECT": str(project)}
    command = [str(Path(sys.executable).with_name("fraud")), "training-set", "--json"]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    assert "leaked" not in ended.stderr + ended.stdout
    assert '"feature_rows_compared":' in ended.stdout
