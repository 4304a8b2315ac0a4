"""`fraud tables`: every table with its version, and an older version of one."""

from pathlib import Path

import pyarrow as pa
import pytest
import structlog

from fraud.declaration_file import load
from fraud.errors import BadInputError
from fraud.inspection import tables
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    three = load(ROOT / "tests/declarations/three.yaml")
    return Context(Settings(home=tmp_path), Params.load(ROOT / "params.yaml"), three, structlog.get_logger())


def test_every_table_with_its_version_and_an_older_version_of_one(context: Context) -> None:
    lake = context.settings.lake_uri
    assert tables.run(tables.Config(), context).tables == []
    scores = catalog.SCORES.at(lake)
    with structlog.contextvars.bound_contextvars(job="score", run="r1"):
        scores.publish("2026-01-01", pa.table({"x": [1, 2]}), {"features": "f"})
    scores.publish("2026-01-02", pa.table({"x": [3]}))
    catalog.what_if("7").at(lake).publish("2026-01-01", pa.table({"x": [1]}))
    found = tables.run(tables.Config(), context)
    assert [(t.name, t.version, t.rows, t.first, t.last) for t in found.tables] == [
        ("scores", 1, 3, "2026-01-01", "2026-01-02"), ("what_if/version-7", 0, 1, "2026-01-01", "2026-01-01"),
    ]  # fmt: skip
    [older] = tables.run(tables.Config(dataset="scores", as_of_version=0), context).tables
    assert (older.version, older.rows, [p.name for p in older.partitions]) == (0, 2, ["2026-01-01"])
    assert older.partitions[0].made_from == {"features": "f"}
    assert [(c.version, c.job, c.run) for c in older.commits] == [(1, "", ""), (0, "score", "r1")]
    text = tables.run(tables.Config(dataset="scores"), context).as_text()
    assert "2026-01-02" in text
    assert "score r1" in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dataset": "nothing"}, "no table nothing"),
        ({"dataset": "scores"}, "does not exist yet"),
        ({"as_of_version": 1}, "that of one table"),
    ],
)
def test_what_does_not_exist_is_refused(context: Context, config: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        tables.run(tables.Config.model_validate(config), context)


def test_a_version_that_does_not_exist_is_refused(context: Context) -> None:
    catalog.SCORES.at(context.settings.lake_uri).publish("2026-01-01", pa.table({"x": [1]}))
    with pytest.raises(BadInputError, match="no version 5"):
        tables.run(tables.Config(dataset="scores", as_of_version=5), context)
