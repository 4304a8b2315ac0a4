"""What a soak reads from a real lake, and that it finds a lake that was falsified."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.soak import invariants, observe
from tests.soak.schedule import Night
from tests.soak.world import Landing, World
from tests.unit.soak.good_night import GOOD

from fraud import declaration_file
from fraud.cli import run_job
from fraud.lake import catalog
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


class Lake:
    """A lake with one ingested day, and its landing zone."""

    def __init__(self, folder: Path, world: World) -> None:
        self.settings, self.world = Settings(home=folder, project=ROOT), world
        self.landing = Landing(folder / "landing", world)

    def broken(self) -> dict[str, str]:
        seen = replace(
            GOOD, feeds=observe.feeds(self.settings, self.landing), scores=observe.scores(self.settings)
        )  # fmt: skip
        return invariants.broken(seen)

    def publish_scores(self, ids: pa.ChunkedArray, day: str) -> None:
        """Scores of these transactions, all of the same values."""
        count = len(ids)
        at = pa.array([0] * count).cast(pa.timestamp("us", "UTC"))
        values = [ids, pa.array(["u"] * count), at, pa.array([0.1] * count, pa.float32()), pa.array([False] * count),
                  pa.array(["1"] * count), pa.array(["h"] * count)]  # fmt: skip
        table = pa.table(values, schema=catalog.SCORE_SCHEMA)
        catalog.SCORES.at(self.settings.lake_uri).publish(day, table, {})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"), 2, 1, declaration_file.load_of(ROOT))
    made.write()
    return made


@pytest.fixture
def lake(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setitem(os.environ, "FRAUD_HOME", str(tmp_path))
    monkeypatch.setitem(os.environ, "FRAUD_PROJECT", str(ROOT))
    made = Lake(tmp_path, world)
    made.landing.deliver(Night(1, "bad rows", (), None), None)
    made.landing.deliver(Night(1, "doubled", (), None), None)
    for job in ("ingest", "ingest-labels"):
        run_job(job, [])
    paid = catalog.TRANSACTIONS.at(made.settings.lake_uri).open()
    for day in paid.partitions():
        made.publish_scores(paid.read(day)["transaction_id"], day)
    return made


def test_the_invariants_hold_on_what_the_jobs_wrote(lake: Lake) -> None:
    found = observe.feeds(lake.settings, lake.landing)["transactions"]
    assert found.duplicates > 300
    assert found.quarantined > 0
    assert found.delivered == found.accepted + found.quarantined + found.duplicates
    assert lake.broken() == {}


def test_a_transaction_that_was_removed_from_the_lake_is_found(lake: Lake) -> None:
    transactions = catalog.TRANSACTIONS.at(lake.settings.lake_uri)
    day = lake.world.day(1)
    transactions.publish(day, transactions.read(day).slice(1), {})
    wrong = lake.broken()
    assert set(wrong) == {"conservation", "scored"}
    assert "in the lake" in wrong["conservation"]
    assert wrong["scored"] == "1 scores without a transaction"


def test_a_transaction_that_is_in_the_lake_twice_is_found(lake: Lake) -> None:
    transactions = catalog.TRANSACTIONS.at(lake.settings.lake_uri)
    day = lake.world.day(1)
    rows = transactions.read(day)
    transactions.publish(day, pa.concat_tables([rows, rows.slice(0, 1)]), {})
    assert "1 rows of the lake are repeated" in lake.broken()["conservation"]


def test_a_file_that_was_not_ingested_is_found(lake: Lake) -> None:
    lake.landing.deliver(Night(2, "on time", (), None), None)
    assert "rows delivered" in lake.broken()["conservation"]


def test_a_transaction_without_a_score_is_found(lake: Lake) -> None:
    day = lake.world.day(1)
    ids = catalog.TRANSACTIONS.at(lake.settings.lake_uri).read(day)["transaction_id"]
    lake.publish_scores(ids.filter(pc.not_equal(ids, ids[5])), day)
    assert lake.broken() == {"scored": "1 transactions without a score"}
