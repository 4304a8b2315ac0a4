"""The deliveries of a soak: what each fault puts into the landing zone."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.soak.schedule import Delivery, Night
from tests.soak.world import Landing, World

from fraud import declaration_file

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"), 3, 1, declaration_file.load_of(ROOT))
    made.write()
    return made


@pytest.fixture
def landing(world: World, tmp_path: Path) -> Landing:
    return Landing(tmp_path / "landing", world)


def night(number: int, delivery: Delivery = "on time") -> Night:
    return Night(number, delivery, (), None)


def files(landing: Landing, world: World, number: int) -> set[str]:
    return {path.stem for path in (landing.folder / "transactions" / f"dt={world.day(number)}").glob("*.parquet")}


def rows(world: World, number: int) -> int:
    return int(pq.read_metadata(world.file("transactions", world.day(number))).num_rows)


def test_the_days_follow_the_history(world: World) -> None:
    assert world.history()[-1] == world.day(0) == "2025-03-18"
    assert world.day(3) == "2025-03-21"
    assert rows(world, 3) > 200


def test_a_late_day_comes_with_the_next_one(world: World, landing: Landing) -> None:
    landing.deliver(night(1, "late"), None)
    assert landing.rows("transactions") == 0
    assert landing.rows("labels") > 0
    landing.deliver(night(2), night(1, "late"))
    assert landing.rows("transactions") == rows(world, 1) + rows(world, 2)


def test_a_doubled_day_has_the_same_bytes_and_the_same_rows_again(world: World, landing: Landing) -> None:
    landing.deliver(night(1, "doubled"), None)
    assert files(landing, world, 1) == {"source", "same-bytes", "same-rows"}
    assert landing.rows("transactions") == 2 * rows(world, 1)  # a file of the same bytes is ingested once


def test_bad_rows_are_added_to_the_days_own(world: World, landing: Landing) -> None:
    landing.deliver(night(1, "bad rows"), None)
    assert 3 <= landing.rows("transactions") - rows(world, 1) <= 30  # 3% of some 520, Poisson


def test_a_damaged_file_is_replaced(world: World, landing: Landing) -> None:
    landing.deliver(night(1, "damaged file"), None)
    (damaged,) = (landing.folder / "transactions").rglob("*.parquet")
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(damaged)
    assert landing.rows("transactions") == 0
    landing.correct(night(1, "damaged file"))
    assert landing.rows("transactions") == rows(world, 1)


def test_a_delivery_that_is_repeated_changes_nothing(world: World, landing: Landing) -> None:
    for _ in range(2):
        landing.deliver(night(1, "doubled"), None)
        found = {path: path.read_bytes() for path in landing.folder.rglob("*.parquet")}
        assert len(found) == 4
    assert landing.rows("transactions") == 2 * rows(world, 1)


def test_wrong_labels_exchange_the_classes_and_are_taken_back_on_the_next_day(world: World) -> None:
    wrong, corrected = (world.wrong_labels(2, corrected=each) for each in (False, True))
    assert wrong["transaction_id"] == corrected["transaction_id"]
    assert pc.sum(wrong["is_fraud"]).as_py() == wrong.num_rows // 2 > 300
    assert corrected["is_fraud"] == pc.invert(wrong["is_fraud"])
    assert {str(at.date()) for at in wrong["label_timestamp"].to_pylist()} == {world.day(2)}
    assert {str(at.date()) for at in corrected["label_timestamp"].to_pylist()} == {world.day(3)}
    reported = pa.concat_tables([pq.read_table(world.file("labels", day)) for day in [*world.history(), world.day(2)]])
    frauds = set(reported.filter(reported["is_fraud"])["transaction_id"].to_pylist())
    taken_for_legitimate = wrong.filter(pc.invert(wrong["is_fraud"]))["transaction_id"].to_pylist()
    assert len(frauds & set(taken_for_legitimate)) > 0.9 * len(taken_for_legitimate)
    assert frauds.isdisjoint(wrong.filter(wrong["is_fraud"])["transaction_id"].to_pylist())
