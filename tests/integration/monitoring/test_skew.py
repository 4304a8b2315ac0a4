"""`fraud skew` with a real Valkey as serving and materialize use it: equal answers, and the counts of each fault."""

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from fraud.audit import prediction_log
from fraud.core import history
from fraud.core.contract import CATEGORY_INDEX, US_PER_DAY, US_PER_HOUR, amount_units, day_of_week, hour_of_day, id_hash
from fraud.core.features import VECTOR_NAMES, definition_hash
from fraud.core.vector import fill_row
from fraud.core.windows import evaluate
from fraud.features import online_store
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import SCHEMAS
from fraud.job import Context
from fraud.lake import catalog
from fraud.monitoring import skew
from fraud.scoring.onnx_session import OnnxModel

TODAY = dt.date(2026, 3, 9)
MIDNIGHT = (TODAY - dt.date(1970, 1, 1)).days * US_PER_DAY
Make = Callable[..., Any]


class Shop:
    """Serving and the lake in small: the same store scripts, the same point function, the same record."""

    def __init__(
        self, context: Context, store: online_store.OnlineHistory, version: str, model: bytes, sha256: str
    ) -> None:
        self._context, self._store = context, store
        self._version, self._model, self._sha256 = version, OnnxModel(model), sha256
        self._number = itertools.count()
        self.answers: list[dict[str, Any]] = []

    def transaction(self, user: str, at_us: int, amount: float, merchant: str = "m1") -> dict[str, Any]:
        return {
            "transaction_id": f"t{next(self._number)}", "event_timestamp": at_us, "created_timestamp": at_us,
            "user_id": user, "merchant_id": merchant, "merchant_category": "travel", "amount": amount,
            "distance_from_home": None if amount < 10 else 2.5,
        }  # fmt: skip

    def ingest(self, rows: list[dict[str, Any]]) -> None:
        """The lake has these from now on, beside what it had."""
        lake = catalog.TRANSACTIONS.at(self._context.settings.lake_uri)
        for day, some in itertools.groupby(sorted(rows, key=_when), key=lambda r: r["event_timestamp"] // US_PER_DAY):
            name = str(dt.date(1970, 1, 1) + dt.timedelta(days=day))
            before = lake.read(name).to_pylist() if lake.manifest(name) else []
            at = pa.timestamp("us", tz="UTC")
            table = pa.Table.from_pylist([*before, *some], schema=pa.schema(
                [("transaction_id", pa.string()), ("event_timestamp", at), ("created_timestamp", at),
                 ("user_id", pa.string()), ("merchant_id", pa.string()), ("merchant_category", pa.string()),
                 ("amount", pa.float64()), ("distance_from_home", pa.float64())]
            ))  # fmt: skip
            lake.publish(name, table.sort_by([("event_timestamp", "ascending"), ("transaction_id", "ascending")]))

    def load(self) -> online_store.Loaded:
        """As materialize: all of the lake, each user's events in order of knowledge."""
        lake = catalog.TRANSACTIONS.at(self._context.settings.lake_uri)
        rows = [row for day in lake.partitions() for row in lake.read(day).to_pylist()]
        batches = []
        for user, own in itertools.groupby(sorted(rows, key=lambda r: r["user_id"]), key=lambda r: r["user_id"]):
            events = sorted(own, key=lambda r: r["event_timestamp"])
            records = [
                (_us(e["event_timestamp"]), amount_units(e["amount"]), id_hash(e["merchant_id"])) for e in events
            ]
            ids = np.array([id_hash(e["transaction_id"]) for e in events], dtype=np.uint64)
            batches.append(online_store.Batch(user, np.array(records, dtype=history.RECORD), ids))
        loaded = self._store.load(batches)
        days = {day: m.content_sha256 for day in lake.partitions() if (m := lake.manifest(day))}
        self._store.set_materialized(online_store.EVENTS, days, "")
        return loaded

    def serve(self, row: dict[str, Any], **changed: object) -> dict[str, Any]:
        """One answer, logged. `changed` fields of the record are what a broken serving would have logged."""
        at_us = row["event_timestamp"]
        before = self._store.append(
            row["user_id"], row["transaction_id"], at_us, amount_units(row["amount"]), row["merchant_id"]
        )
        windows = evaluate(before.events, before.newest_us, at_us)
        return self._log(
            {**row, "event_us": at_us, "hour_of_day": hour_of_day(at_us), "day_of_week": day_of_week(at_us)},
            windows, {"sequence": before.sequence, "newest_us": before.newest_us, "history": "store",
                      "degraded": False, **changed},
        )  # fmt: skip

    def serve_short(self, *, degraded: bool = False) -> dict[str, Any]:
        """The handbook's request: no user, no history."""
        row = {"transaction_id": None, "user_id": None, "merchant_id": None, "merchant_category": "electronics",
               "amount": 4999.99, "distance_from_home": 850.5, "event_us": None, "hour_of_day": 3,
               "day_of_week": 2}  # fmt: skip
        store = {"sequence": None, "newest_us": None, "history": "none" if degraded else "request"}
        return self._log(row, (0.0 if degraded else 12.0, None, 0), {**store, "degraded": degraded})

    def _log(self, row: dict[str, Any], windows: tuple[Any, ...], rest: dict[str, Any]) -> dict[str, Any]:
        vector = np.zeros((1, len(VECTOR_NAMES)), np.float32)
        fill_row(
            vector[0], row["amount"], row["hour_of_day"], row["day_of_week"], row["distance_from_home"],
            CATEGORY_INDEX[row["merchant_category"]], *windows,
        )  # fmt: skip
        probability = float(self._model.probabilities(vector)[0])
        record = {
            **{field.name: row.get(field.name) for field in prediction_log.SCHEMA},
            "prediction_id": f"p{len(self.answers)}", "served_us": MIDNIGHT + 12 * US_PER_HOUR + len(self.answers),
            "transaction_velocity_1h": windows[0], "avg_amount_7d": windows[1], "unique_merchants_30d": windows[2],
            "fraud_probability": probability, "is_fraud": probability >= 0.2, "threshold": 0.2,
            "model_version": self._version, "model_sha256": self._sha256, "feature_hash": definition_hash(),
            "latency_us": 900, **rest,
        }  # fmt: skip
        self.answers.append(record)
        return record

    def ship(self) -> None:
        table = pa.Table.from_pylist(self.answers, schema=prediction_log.SCHEMA)
        catalog.PREDICTIONS.at(self._context.settings.lake_uri).publish(str(TODAY), table)

    def check(self) -> skew.Result:
        self.ship()
        return skew.run(skew.Config(), self._context)


def _us(at: dt.datetime) -> int:
    return (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _when(row: dict[str, Any]) -> int:
    at: int = row["event_timestamp"]
    return at


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connection:
        connection.flushdb()
        yield connection


@pytest.fixture
def shop(context: Context, client: redis.Redis, register: Make, linear_model: Make) -> Shop:
    model = linear_model()
    version = register(model)
    from fraud.registry import model_versions  # noqa: PLC0415 - beside the fixture that pays for it

    sha256 = model_versions.fetch(context.settings).model_sha256
    return Shop(context, online_store.OnlineHistory(client), version, model, sha256)


@pytest.fixture
def past(shop: Shop) -> list[dict[str, Any]]:
    """Forty days of two users before today, in the lake and in the store."""
    rng = np.random.default_rng(4)
    rows = [
        shop.transaction(
            f"u{i % 2}", MIDNIGHT - int(rng.integers(1, 40 * US_PER_DAY)), round(float(rng.lognormal(3, 1)), 4) + 0.01,
            f"m{i % 7}",
        )
        for i in range(300)
    ]  # fmt: skip
    shop.ingest(rows)
    shop.load()
    return rows


def today(shop: Shop, count: int = 40) -> list[dict[str, Any]]:
    return [shop.transaction(f"u{i % 2}", MIDNIGHT + i * US_PER_HOUR // 3, 20.0 + i, f"m{i % 9}") for i in range(count)]


@pytest.mark.usefixtures("past")
def test_a_day_served_and_then_landed_is_equal_to_the_bit_and_a_rerun_changes_nothing(
    shop: Shop, context: Context
) -> None:
    rows = today(shop)
    for row in rows:
        shop.serve(row)
    shop.serve(rows[3])  # a retry
    shop.serve_short()
    shop.serve_short(degraded=True)
    shop.ingest(rows)
    assert shop.load().appended == 0
    result = shop.check()
    assert (result.verdict, result.records, result.compared, result.mismatches) == ("ok", 43, 41, 0)
    assert {name: f["equal"] for name, f in result.features.items()} == dict.fromkeys(result.features, 41)
    assert sorted(result.skipped.values()) == [1, 1]
    assert (result.probabilities["checked"], result.probabilities["wrong"]) == (43, 0)
    assert result.events_lost == 0

    page = Path(result.report_uri.removeprefix("file://"))
    assert "Skew of the answers of 2026-03-09" in page.read_text()
    before = page.stat().st_mtime_ns
    assert skew.run(skew.Config(), context) == result.model_copy(update={"changed": False})
    assert page.stat().st_mtime_ns == before
    page.with_suffix(".json").unlink()
    text = page.read_bytes()
    assert skew.run(skew.Config(), context) == result
    assert page.read_bytes() == text


@pytest.mark.usefixtures("past")
def test_before_the_day_lands_histories_are_read_from_the_log(shop: Shop) -> None:
    for row in today(shop):
        shop.serve(row)
    result = shop.check()
    assert (result.verdict, result.compared, result.mismatches) == ("ok", 40, 0)
    assert result.features["amount"]["equal"] == 0  # nothing to hold the request against yet


@pytest.mark.usefixtures("past")
def test_late_and_reordered_events_and_those_stored_after_a_timeout_are_equal_too(shop: Shop) -> None:
    rows = today(shop)
    late = shop.transaction("u0", MIDNIGHT - 3 * US_PER_DAY, 77.0, "m-late")
    too_late = shop.transaction("u0", MIDNIGHT - 60 * US_PER_DAY, 78.0, "m-too-late")
    order = [*rows[10:20], late, too_late, *rows[:10], *rows[20:]]
    for i, row in enumerate(order):
        record = shop.serve(row)
        if i == 5:  # stored, with the reply after the deadline
            velocity, average, merchants = 0.0, None, 0
            record.update(sequence=None, newest_us=None, history="none", degraded=True,
                          transaction_velocity_1h=velocity, avg_amount_7d=average,
                          unique_merchants_30d=merchants)  # fmt: skip
            record.update(model_version="rule", model_sha256="")
    shop.ingest([*rows, late, too_late])
    shop.load()
    result = shop.check()
    assert (result.verdict, result.compared, result.mismatches) == ("ok", 41, 0)
    assert result.probabilities["unchecked"] == 1


@pytest.mark.usefixtures("past")
def test_a_late_file_loaded_between_two_answers_counts_only_for_the_second(shop: Shop) -> None:
    shop.serve(shop.transaction("u0", MIDNIGHT, 30.0))
    before = shop.answers[-1]["avg_amount_7d"]
    shop.ingest([shop.transaction("u0", MIDNIGHT - US_PER_HOUR, 5_000.0)])
    shop.load()
    shop.serve(shop.transaction("u0", MIDNIGHT + 1, 30.0))
    assert shop.answers[-1]["avg_amount_7d"] > before
    result = shop.check()
    assert (result.verdict, result.compared, result.mismatches) == ("ok", 2, 0)


@pytest.mark.usefixtures("past")
def test_each_fault_is_counted_under_its_feature(shop: Shop) -> None:
    rows = today(shop)
    for row in rows[:4]:
        shop.serve(row)
    shop.serve(rows[4], transaction_velocity_1h=99.0)
    shop.serve(rows[5], avg_amount_7d=None)
    shop.serve(rows[6], amount=rows[6]["amount"] + 0.01)
    shop.serve(rows[7], fraud_probability=0.75)
    shop.serve(rows[8], model_sha256="0" * 64)
    shop.ingest(rows[:9])
    result = shop.check()
    assert result.verdict == "skew"
    assert result.features["transaction_velocity_1h"]["mismatch"] == 1
    assert result.features["transaction_velocity_1h"]["worst"] > 90
    assert result.features["avg_amount_7d"]["missing"] == 1
    assert result.features["amount"]["mismatch"] == 1
    assert result.features["unique_merchants_30d"]["equal"] == 9
    # Logged features that differ from those that were scored show in the probability as well.
    assert result.probabilities["wrong"] >= 3
    assert result.probabilities["worst"] == 1.0


@pytest.mark.usefixtures("past")
def test_an_id_that_the_source_delivered_twice_with_other_contents_is_not_counted_as_a_wrong_answer(
    shop: Shop, context: Context
) -> None:
    rows = today(shop, 4)
    again = [{**rows[0], "amount": 99.00004}, {**rows[1], "distance_from_home": 7.0}]
    with delivering(context.settings.landing_uri) as delivery:
        delivery.add("transactions", str(TODAY), "source", landed([*rows, *again]))
    shop.ingest(rows)  # the first delivery is kept
    for row in [*rows, {**again[0], "amount": 99.0}, again[1]]:
        shop.serve(row)
    shop.serve({**rows[2], "amount": 55.0})  # an amount that was never delivered
    result = shop.check()
    assert (result.verdict, result.contradicted, result.mismatches) == ("skew", 2, 1)
    assert result.features["amount"] == {"equal": 4.0, "mismatch": 1.0, "missing": 0.0, "extra": 0.0, "worst": 33.0}
    assert result.features["distance_from_home"]["equal"] == 5


def landed(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMAS["transactions"])


def test_events_the_store_lost_are_counted(shop: Shop, past: list[dict[str, Any]], client: redis.Redis) -> None:
    for row in today(shop, 4):
        shop.serve(row)
    newest = max((row for row in past if row["user_id"] == "u0"), key=_when)
    key = history.ids_key("u0")
    entries = client.get(key)
    assert isinstance(entries, bytes)
    at = entries.index(id_hash(newest["transaction_id"]).to_bytes(8, "little"))
    client.set(key, entries[:at] + b"\1" * 8 + entries[at + 8 :])
    result = shop.check()
    assert (result.verdict, result.events_lost) == ("skew", 1)


@pytest.mark.usefixtures("past")
def test_a_store_that_was_lost_makes_answers_uncheckable_not_wrong(shop: Shop, client: redis.Redis) -> None:
    rows = today(shop)
    for row in rows:
        shop.serve(row)
    client.flushdb()
    shop.ingest(rows[::2])
    shop.load()
    result = shop.check()
    assert result.mismatches == 0
    assert result.compared + sum(result.skipped.values()) == result.records
    assert sum(result.skipped.values()) > 0


@pytest.mark.parametrize("landed_rows", [0, 4, 10])
def test_traffic_before_any_day_was_materialized_is_checked_from_the_log(shop: Shop, landed_rows: int) -> None:
    """A platform that has just started: answers with users, and nothing that `materialize` loaded."""
    rows = today(shop, 10)
    for row in rows:
        shop.serve(row)
    if landed_rows:
        shop.ingest(rows[:landed_rows])
    result = shop.check()
    assert (result.verdict, result.records, result.compared, result.events_lost) == ("ok", 10, 10, 0)
    assert result.features["amount"]["equal"] == landed_rows


def test_without_answers_there_is_nothing_to_check(context: Context) -> None:
    result = skew.run(skew.Config(), context)
    assert (result.verdict, result.days, result.report_uri, result.changed) == ("nothing", [], "", False)
