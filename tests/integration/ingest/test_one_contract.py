"""The rows of tests/contract_rows.json through import, landing, Kafka topic, ingest, file scoring and event stream.

tests/serving/test_one_contract.py sends the same rows through POST /predict.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import structlog
import yaml
from tests.integration import broker

from fraud.cli import run_job
from fraud.core.columns import to_stored
from fraud.core.contract import ZONED_TIME
from fraud.core.history import EVENT_US
from fraud.core.plan import Plan
from fraud.declaration_file import load_of
from fraud.errors import BadConfigError, BadInputError
from fraud.features import ingest_events
from fraud.features.online_store import OnlineHistory
from fraud.ingest import import_data, ingest_topic, ingest_transactions
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.scoring.onnx_session import OnnxModel
from fraud.scoring.scored_file import score_file
from fraud.scoring.scorer import Scorer
from fraud.settings import Settings

ROOT: Final = Path(__file__).parents[3]
CASES: Final = json.loads((ROOT / "tests/contract_rows.json").read_text())
DECLARATION: Final = load_of(ROOT)
"""The shipped one: it has columns of each type."""
PLAN: Final = Plan(DECLARATION.resolved(dict.fromkeys(DECLARATION.to_learn, ("other",))))
COLUMNS: Final = ("user_id", "merchant_id", "amount", *PLAN.columns)
NOT_GIVEN: Final = {name: "other" if c.type == "category" else None for name, c in DECLARATION.columns.items()}
TIMESTAMP: Final = pa.timestamp("us", "UTC")
TYPES: Final = {"event_timestamp": TIMESTAMP, "amount": pa.float64(), "distance_from_home": pa.float64(),
                "card_present": pa.bool_()}  # fmt: skip
MAPPING: Final = {
    "name": "same", "source": {"format": "csv"}, "event_timestamp": {"column": "event_timestamp", "format": "ISO8601"},
    "distance_from_home": {"column": "distance_from_home", "unit": "miles"},
    **{n: {"column": n} for n in ("transaction_id", *COLUMNS) if n != "distance_from_home"},
}  # fmt: skip
Row = dict[str, Any]


def rows() -> list[Row]:
    changes = [case["changes"] for case in CASES["accepted"].values()] + list(CASES["refused"].values())
    return [CASES["good"] | {"transaction_id": f"t-{n}"} | changed for n, changed in enumerate(changes)]


def expected() -> dict[str, Row]:
    """What is kept of each accepted row, by transaction_id."""
    kept = {}
    for n, case in enumerate(CASES["accepted"].values()):
        good = NOT_GIVEN | CASES["good"] | {"event_us": 1_741_600_800_000_000}
        row = good | case["changes"] | case["kept"]
        kept[f"t-{n}"] = {name: row[name] for name in sorted(row) if name not in ("transaction_id", "event_timestamp")}
    return kept


def context(home: Path, redis_url: str = "redis://127.0.0.1:1") -> Context:
    settings = Settings(home=home, project=ROOT, redis_url=redis_url)
    return Context(settings, Params.load(ROOT / "params.yaml"), DECLARATION, structlog.get_logger())


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(NOT_GIVEN | CASES["good"]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()} for row in rows)
    return path


def write_parquet(folder: Path) -> Iterator[Path]:
    """The rows in the types their values have; one file for each combination of types."""
    groups = defaultdict(list)
    for row in rows():
        table = pa.table({name: typed(name, value) for name, value in row.items()})
        groups[str(table.schema)].append(table)
    for number, tables in enumerate(groups.values()):
        path = folder / f"typed-{number}" / "rows.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.concat_tables(tables), path)
        yield path


def typed(name: str, value: object) -> pa.Array:
    if value is None:
        return pa.array([None], TYPES.get(name, pa.string()))
    if name == "event_timestamp" and isinstance(value, str):
        if ZONED_TIME.fullmatch(value):
            return pa.array([datetime.fromisoformat(value).astimezone(UTC)], TIMESTAMP)
        if "T" in value:
            return pa.array([datetime.fromisoformat(value)], pa.timestamp("us"))
        if "-" in value:
            return pa.array([date.fromisoformat(value)])
    return pa.array([value])


def in_lake(*homes: Path) -> dict[str, Row]:
    found = {}
    for home in homes:
        table = catalog.TRANSACTIONS.at(f"file://{home}/lake").read_range("2000", "3000")
        for row in [] if table is None else table.to_pylist():
            event_us = int(row["event_timestamp"].timestamp() * 1_000_000)
            found[row["transaction_id"]] = dict(sorted({**{n: row[n] for n in COLUMNS}, "event_us": event_us}.items()))
    return found


def test_import_and_ingest(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(MAPPING))
    source = write_csv(tmp_path / "rows.csv", rows())
    config = import_data.Config(source=str(source), mapping=tmp_path / "mapping.yaml")
    imported = import_data.run(config, context(tmp_path))
    taken = ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))
    assert taken.rows_in == imported.transactions
    assert in_lake(tmp_path) == expected()


def test_landing_zone_and_ingest(tmp_path: Path) -> None:
    homes = []
    for path in write_parquet(tmp_path):
        homes.append(path.parent / "home")
        landing = homes[-1] / "landing/transactions"
        landing.mkdir(parents=True)
        path.rename(landing / "rows.parquet")
        with suppress(BadInputError):  # a column of a type that the contract does not have
            ingest_transactions.run(ingest_transactions.Config(), context(homes[-1]))
    assert in_lake(*homes) == expected()


@pytest.fixture
def scorer(linear_model: Callable[..., Any]) -> Scorer:
    return Scorer(OnnxModel(linear_model(plan=PLAN)), "1", PLAN, 0.2)


def test_file_scoring_of_csv(tmp_path: Path, scorer: Scorer) -> None:
    target = tmp_path / "a folder%20#/out.parquet"
    score_file(write_csv(tmp_path / "rows.CSV", rows()), target, scorer)
    assert set(pq.read_table(target)["transaction_id"].to_pylist()) == set(expected())
    assert [path for path in tmp_path.rglob("*.parquet") if path.is_file()] == [target]


def test_a_good_row_counts_behind_a_bad_one_of_the_same_id(tmp_path: Path, scorer: Scorer) -> None:
    same = [CASES["good"] | {"transaction_id": "t", "amount": amount} for amount in (-1.0, 10.5, 20.5)]
    source = write_csv(tmp_path / "rows.csv", same)
    scored = score_file(source, tmp_path / "out.parquet", scorer)
    assert dict(scored.rejected) == {"amount is not above 0": 1, "duplicate transaction_id": 1}
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(MAPPING))
    import_data.run(
        import_data.Config(source=str(source), mapping=tmp_path / "mapping.yaml"), context(tmp_path)
    )  # fmt: skip
    taken = ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))
    assert (taken.quarantined, taken.accepted, taken.duplicates) == (1, 1, 1)
    assert in_lake(tmp_path)["t"]["amount"] == 10.5


def test_file_scoring_of_parquet(tmp_path: Path, scorer: Scorer) -> None:
    scored = set()
    for path in write_parquet(tmp_path):
        target = path.with_name("out.parquet")
        with suppress(BadInputError):
            score_file(path, target, scorer)
            scored |= set(pq.read_table(target)["transaction_id"].to_pylist())
    assert scored == set(expected())


def test_event_stream(tmp_path: Path, valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
        for row in rows():
            client.xadd("transactions", {"event": json.dumps(row)})
        result = ingest_events.run(ingest_events.Config(idle_seconds=0.05), context(tmp_path, valkey_url))
        assert (result.appended, result.rejected) == (len(CASES["accepted"]), len(CASES["refused"]))
        for layout in (windows.layout for windows in PLAN.windows):
            events_of = defaultdict(list)
            for row in expected().values():
                if row[layout.id_column] is not None:
                    stored = (to_stored(column, row[column.name]) for column in layout.columns)
                    events_of[row[layout.id_column]].append((row["event_us"], *stored))
            assert events_of
            for entity_id, events in events_of.items():
                kept = OnlineHistory(client).read(layout, entity_id)[2]
                names = (EVENT_US, *(column.name for column in layout.columns))
                assert sorted(zip(*(kept[name].tolist() for name in names), strict=True)) == sorted(events)


def test_kafka_topic_and_ingest(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    broker.send(kafka_broker, topic, rows())
    landed = ingest_topic.run(ingest_topic.Config(topic=topic), broker.context(tmp_path, kafka_broker))
    assert landed.messages == len(CASES["accepted"]) + len(CASES["refused"])
    ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))
    assert in_lake(tmp_path) == expected()


@pytest.mark.parametrize("now", ["2025-03-10T10:00:00", "1741600800", "2025-03-10"])
@pytest.mark.parametrize("job", ["ingest", "ingest-labels"])
def test_a_moment_on_the_command_line_has_a_zone(job: str, now: str) -> None:
    with pytest.raises(BadConfigError, match=r"--now: .*zone"):
        run_job(job, [f"--now={now}"])


def test_a_moment_with_a_zone_is_taken() -> None:
    assert ingest_transactions.Config(now="2025-03-10T12:00:00+02:00").now == datetime(2025, 3, 10, 10, tzinfo=UTC)  # type: ignore[arg-type]
