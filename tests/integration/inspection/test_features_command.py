"""`fraud features` over files, a lake and a real online store."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
import structlog

from fraud import declaration_file
from fraud.cli import run_job
from fraud.core.columns import to_stored
from fraud.core.contract import id_hash
from fraud.core.declaration import Declaration
from fraud.core.history import LOAD_SCRIPT
from fraud.core.plan import Plan
from fraud.errors import BadConfigError, BadInputError
from fraud.inspection import cost, explain
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "tests/declarations/two_entities.yaml"
AT = datetime(2026, 2, 1, 12, tzinfo=UTC)
AT_US = int(AT.timestamp()) * 1_000_000


@pytest.fixture
def declaration() -> Declaration:
    return declaration_file.load(FILE)


@pytest.fixture
def context(tmp_path: Path, valkey_url: str, declaration: Declaration) -> Context:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
    settings = Settings(home=tmp_path, project=ROOT, redis_url=valkey_url)
    return Context(settings, Params.load(ROOT / "params.yaml"), declaration, structlog.get_logger())


def environment(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    monkeypatch.setenv("FRAUD_HOME", str(context.settings.home))
    monkeypatch.setenv("FRAUD_PROJECT", str(ROOT))
    monkeypatch.setenv("FRAUD_REDIS_URL", context.settings.redis_url.get_secret_value())


def rows(declaration: Declaration, hours: list[int], terminal: str | None = "t1") -> pa.Table:
    """One transaction so many hours before AT for each, ingested a second later, with amounts 1, 2, 3, ..."""
    count, at = len(hours), [AT - timedelta(hours=h) for h in hours]
    table = pa.table(
        {
            "transaction_id": [f"t{h}" for h in hours],
            "event_timestamp": pa.array(at, catalog.TIMESTAMP),
            "created_timestamp": pa.array([moment + timedelta(seconds=1) for moment in at], catalog.TIMESTAMP),
            "user_id": [f"u{i % 2}" for i in range(count)],
            "merchant_id": ["m"] * count,
            "amount": [float(i + 1) for i in range(count)],
            "channel": ["web"] * count,
            "country": ["de"] * count,
            "distance": pa.array([1.5] * count),
            "in_person": pa.array([True] * count),
            "terminal_id": pa.array([terminal] * count, pa.string()),
        }
    )
    return table.select([name for name, _ in catalog.transaction_columns(declaration)]).sort_by("event_timestamp")


def publish(context: Context, table: pa.Table) -> None:
    days = [str(moment.date()) for moment in table["event_timestamp"].to_pylist()]
    for day in sorted(set(days)):
        own = table.filter(pa.array([d == day for d in days]))
        catalog.TRANSACTIONS.at(context.settings.lake_uri).publish(day, own)


def load(context: Context, table: pa.Table, entity: str) -> None:
    """Append rows to the history of their entity."""
    layout = next(s.layout for s in Plan(context.declaration).windows if s.layout.entity == entity)
    with redis.Redis.from_url(context.settings.redis_url.get_secret_value()) as client:
        for row in table.to_pylist():
            event = (int(row["event_timestamp"].timestamp()) * 1_000_000,
                     *(to_stored(column, row[column.name]) for column in layout.columns))  # fmt: skip
            records = np.array([event], dtype=layout.record)
            ids = np.array([id_hash(row["transaction_id"])], dtype=np.uint64)
            keys = [layout.history_key(row[layout.id_column]), layout.ids_key(row[layout.id_column])]
            client.register_script(LOAD_SCRIPT)(keys=keys, args=list(layout.load_arguments(records, ids)))


def test_an_entity_whose_events_are_in_both(context: Context, declaration: Declaration) -> None:
    table = rows(declaration, [1, 30, 200])
    publish(context, table)
    load(context, table, "terminal")
    found = explain.explained(declaration, "terminal", "t1", AT, context)
    assert found.agree
    values = {feature.name: feature.online for feature in found.features}
    # t1 is an hour old, t30 a day and more, t200 eight days and more: outside of seven days, and kept for eight.
    assert values == {"terminal_cards_1d": 1.0, "terminal_mean_7d": 1.5}
    assert [event.columns["amount"] for event in found.events] == ["1", "2"]
    assert [event.columns["user_id"] for event in found.events] == ["u0", "u1"]
    assert found.events[0].windows == ("terminal_cards_1d", "terminal_mean_7d")
    assert "terminal t1 at Sun 2026-02-01 12:00:00 UTC: store and lake agree" in found.as_text()


def test_events_that_are_in_one_place_only_are_marked(context: Context, declaration: Declaration) -> None:
    publish(context, rows(declaration, [1, 2]))
    load(context, rows(declaration, [2, 3, 4]), "terminal")
    found = explain.explained(declaration, "terminal", "t1", AT, context)
    assert not found.agree
    assert [event.layer for event in found.events] == ["lake only", "in both", "store only", "store only"]
    assert found.events[2].columns["amount"] == "2"
    assert [(f.online, f.batch) for f in found.features] == [(2.0, 2.0), (2.0, 1.5)]
    assert "store and lake DIFFER" in found.as_text()


def test_an_event_that_was_ingested_later_is_marked(context: Context, declaration: Declaration) -> None:
    """The store has it now; the batch value at that time does not include it."""
    table = rows(declaration, [2, 3])
    created = pa.array([AT - timedelta(hours=2), AT + timedelta(hours=1)], catalog.TIMESTAMP)
    late = table.set_column(table.column_names.index("created_timestamp"), "created_timestamp", created)
    publish(context, late)
    load(context, late.slice(0, 1), "terminal")
    found = explain.explained(declaration, "terminal", "t1", AT, context)
    assert [(event.layer, event.sequence) for event in found.events] == [
        ("lake only, ingested later", None),
        ("in both", 0),
    ]
    assert found.agree
    assert [feature.batch for feature in found.features] == [1.0, 2.0]


def test_a_text_that_only_the_store_has_is_shown_as_its_hash(context: Context, declaration: Declaration) -> None:
    load(context, rows(declaration, [2]), "terminal")
    found = explain.explained(declaration, "terminal", "t1", AT, context)
    assert found.events[0].columns["user_id"] == f"#{id_hash('u0'):016x}"


def test_an_unknown_id_and_an_unknown_entity(context: Context, declaration: Declaration) -> None:
    publish(context, rows(declaration, [1], terminal=None))
    with pytest.raises(BadInputError, match="no events of terminal 'none' within 8 days of 2026-02-01"):
        explain.explained(declaration, "terminal", "none", AT, context)
    for entity in ("shop", "user"):
        with pytest.raises(BadConfigError, match="no entity"):
            explain.explained(declaration, entity, "x", AT, context)


def test_check_measures_the_store_and_leaves_nothing(context: Context, declaration: Declaration) -> None:
    publish(context, rows(declaration, [1, 30, 60]))
    found = cost.measured("file", declaration, context, None)
    histories = {history.entity: history for history in found.histories}
    card = histories["card"]
    # 8 for the event time; channel 8, distance 8, in_person 1; and 16 for the entry of the event.
    assert (card.record_bytes, card.event_bytes, card.measured, card.loaded) == (25, 41, True, False)
    assert card.columns == {"channel": 8, "distance": 8, "in_person": 1}
    assert card.largest_bytes == 32 + 3 * 64 * 41
    assert 60 * 41 < card.typical_bytes < 60 * 41 + 600
    assert [(t.entity, t.row_bytes, t.days, t.published) for t in found.tables] == [("shop", 24, 30, False)]
    assert found.windows_us.keys() == {"card", "terminal"}
    assert all(0 < us < 10_000 for us in (*found.windows_us.values(), found.vector_us))
    assert (found.rows, found.days_to_build) == (3, 3)
    assert found.kernel_rows_per_s > 1_000
    assert "to load: fraud materialize" in found.as_text()
    with redis.Redis.from_url(context.settings.redis_url.get_secret_value()) as client:
        assert client.keys("*") == []


def test_check_without_a_store_computes(context: Context, declaration: Declaration, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, project=ROOT, redis_url="redis://127.0.0.1:1/0")
    alone = Context(settings, context.params, declaration, context.log)
    found = cost.measured("file", declaration, alone, rows=10**9)
    assert [(h.measured, h.loaded, h.typical_bytes) for h in found.histories] == [
        (False, None, 16 + 60 * h.event_bytes) for h in found.histories
    ]
    assert "computed: the online store does not answer" in found.as_text()
    assert found.rows == 10**9


def test_the_command_line(
    monkeypatch: pytest.MonkeyPatch, context: Context, declaration: Declaration, tmp_path: Path
) -> None:
    environment(monkeypatch, context)
    listed = run_job("features", ["list"])
    assert "transaction_velocity_1h" in listed.as_text()
    compared = run_job("features", ["diff", str(FILE), "feature_repo/features.yaml"])
    assert json.loads(compared.model_dump_json())["second"] == "feature_repo/features.yaml"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(FILE.read_text().replace("aggregate: max,", "aggregate: maximum,"))
    with pytest.raises(BadConfigError, match=r"wrong.yaml, line \d+: features.6.aggregate"):
        run_job("features", ["check", str(wrong)])
    for arguments in ([], ["explain", "t1"], ["diff", str(FILE)], ["remove"]):
        with pytest.raises((BadConfigError, SystemExit)):
            run_job("features", arguments)
    with pytest.raises(BadConfigError, match="give a time with its zone"):
        run_job("features", ["explain", "u1", "--at", "2026-02-01"])


def test_an_entity_on_the_command_line(monkeypatch: pytest.MonkeyPatch, context: Context, valkey_url: str) -> None:
    environment(monkeypatch, context)
    with pytest.raises(BadInputError, match="no events of device 'd1'"):
        run_job("features", ["explain", "d1", "--entity", "device", "--at", "2026-02-01T00:00:00Z"])
