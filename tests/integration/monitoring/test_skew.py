"""`fraud skew` with a real Valkey as serving and materialize use it: equal answers, and the counts of each fault."""

import dataclasses
import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from tests.served_answers import THREE

from fraud.audit import prediction_log
from fraud.core.columns import category, to_stored
from fraud.core.contract import US_PER_DAY, US_PER_HOUR, day_of_week, hour_of_day, id_hash
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn
from fraud.features import materialize, online_store
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import schema
from fraud.job import Context
from fraud.lake import catalog
from fraud.monitoring import skew
from fraud.registry import model_versions
from fraud.scoring.onnx_session import OnnxModel

TODAY = dt.date(2026, 3, 9)
MIDNIGHT = (TODAY - dt.date(1970, 1, 1)).days * US_PER_DAY
Make = Callable[..., Any]


class Version:
    """A model version as serving has it."""

    def __init__(self, context: Context, number: str, model: bytes) -> None:
        artifact = model_versions.fetch(context.settings, int(number))
        self.number, self.sha256, self.plan = number, artifact.model_sha256, artifact.plan
        self._model = OnnxModel(model)

    def probability(self, row: dict[str, Any], values: list[float | None]) -> float:
        vector = np.zeros((1, len(self.plan.vector.names)), np.float32)
        base = self.plan.base_values(row["hour_of_day"], row["day_of_week"], row, values)
        self.plan.vector.row(vector[0], base)
        return float(self._model.probabilities(vector)[0])


class Shop:
    """Serving and the lake in small: the same store scripts, the same point function, the same record.

    `declaration` is the project's: the one that transactions are ingested with.
    """

    def __init__(
        self, context: Context, store: online_store.OnlineHistory, declaration: Declaration, *versions: Version
    ) -> None:
        self.context = dataclasses.replace(context, declaration=declaration)
        self._store, self._declaration, self.versions = store, declaration, versions
        self._number = itertools.count()
        self.answers: list[dict[str, Any]] = []

    def transaction(self, user: str, at_us: int, amount: float, merchant: str = "m1", **more: object) -> dict[str, Any]:
        row = {
            "transaction_id": f"t{next(self._number)}", "event_timestamp": at_us, "created_timestamp": at_us,
            "user_id": user, "merchant_id": merchant, "amount": amount,
        }  # fmt: skip
        if self._declaration.hash == THREE.hash:
            row |= {"merchant_category": "travel", "distance_from_home": None if amount < 10 else 2.5}
        return {**row, **more}

    def ingest(self, rows: list[dict[str, Any]], declaration: Declaration | None = None) -> None:
        """The lake has these from now on, beside what it had."""
        lake = catalog.TRANSACTIONS.at(self.context.settings.lake_uri)
        columns = catalog.TRANSACTIONS.schema(declaration or self._declaration)
        for day, some in itertools.groupby(sorted(rows, key=_when), key=lambda r: r["event_timestamp"] // US_PER_DAY):
            name = str(dt.date(1970, 1, 1) + dt.timedelta(days=day))
            before = lake.open().read_as(name, columns).to_pylist() if lake.partition(name) else []
            table = pa.Table.from_pylist([*before, *some], schema=columns)
            lake.publish(name, table.sort_by(catalog.TRANSACTIONS.order))

    def load(self) -> materialize.Result:
        """`fraud materialize`, for the declarations of all versions."""
        live = [version.plan.declaration for version in self.versions]
        context = dataclasses.replace(self.context, live_declarations=lambda: live)
        return materialize.run(materialize.Config(live=True), context)

    def serve(
        self,
        row: dict[str, Any],
        version: Version | None = None,
        snapshots: dict[str, str] | None = None,
        **changed: object,
    ) -> dict[str, Any]:
        """One answer, logged. `changed` fields of the record are what a broken serving would have logged.

        The transaction is appended to the histories of all versions. `snapshots`: the published ones, by entity.
        """
        chosen, at_us = version or self.versions[0], row["event_timestamp"]
        values, found, log = dict[str, float | None](), dict[str, Any](), dict[str, Any]()
        for one in self.versions:
            checked = checked_columns(row, one.plan.declaration)
            for windows in one.plan.windows:
                layout, again = windows.layout, list(windows.empty)
                if (entity_id := checked.get(layout.id_column)) is not None:
                    stored = [to_stored(column, checked[column.name]) for column in layout.columns]
                    before = self._store.append(layout, entity_id, row["transaction_id"], at_us, stored)
                    if one is chosen:
                        again = windows.evaluate(before.events, before.newest_us, at_us, stored)
                        log[f"sequence_{layout.entity}"] = before.sequence
                        log[f"newest_us_{layout.entity}"] = before.newest_us
                if one is chosen:
                    found |= dict(zip(windows.names, again, strict=True))
        columns = checked_columns(row, chosen.plan.declaration)
        for table in chosen.plan.tables:
            snapshot, entity_id = (snapshots or {}).get(table.entity), columns[table.id_column]
            daily = list(table.empty)
            if snapshot is not None and entity_id is not None:
                log[f"snapshot_{table.entity}"] = snapshot
                lake = catalog.daily(table).at(self.context.settings.lake_uri).read(snapshot[:10]).to_pylist()
                by_id = {one[table.id_column]: [one[name] for name in table.names] for one in lake}
                daily = by_id.get(entity_id, by_id[None])
            found |= dict(zip(table.names, daily, strict=True))
        values = {name: None if value is None else float(value) for name, value in found.items()}
        time = {"event_us": at_us, "hour_of_day": hour_of_day(at_us), "day_of_week": day_of_week(at_us)}
        rest = {"history": "store", "degraded": False, **log, **changed}
        return self._log({**columns, **time}, values, rest, chosen)

    def serve_short(self, *, degraded: bool = False) -> dict[str, Any]:
        """The handbook's request: no user, no history."""
        row = {"transaction_id": None, "user_id": None, "merchant_id": None, "merchant_category": "electronics",
               "amount": 4999.99, "distance_from_home": 850.5, "event_us": None, "hour_of_day": 3,
               "day_of_week": 2}  # fmt: skip
        values = {"transaction_velocity_1h": 0.0 if degraded else 12.0, "avg_amount_7d": None,
                  "unique_merchants_30d": 0.0}  # fmt: skip
        rest = {"history": "none" if degraded else "request", "degraded": degraded}
        return self._log(row, values, rest, self.versions[0])

    def _log(
        self, row: dict[str, Any], values: dict[str, float | None], rest: dict[str, Any], version: Version
    ) -> dict[str, Any]:
        probability = version.probability(row, [values[name] for name in version.plan.features])
        record = {
            **row, **values, "prediction_id": f"p{len(self.answers)}",
            "served_us": MIDNIGHT + 12 * US_PER_HOUR + len(self.answers), "fraud_probability": probability,
            "is_fraud": probability >= 0.2, "threshold": 0.2, "model_version": version.number,
            "model_sha256": version.sha256, "feature_hash": version.plan.hash, "latency_us": 900, **rest,
        }  # fmt: skip
        self.answers.append(record)
        return record

    def ship(self) -> None:
        table = prediction_log.table_of(self.answers, self._declaration)
        catalog.PREDICTIONS.at(self.context.settings.lake_uri).publish(str(TODAY), table)

    def check(self) -> skew.Result:
        self.ship()
        return skew.run(skew.Config(), self.context)


def checked_columns(row: dict[str, Any], declaration: Declaration) -> dict[str, Any]:
    """The columns of a request as the version's declaration reads them."""
    declared = {
        name: category(column, row.get(name)) if isinstance(column, CategoryColumn) else row.get(name)
        for name, column in declaration.columns.items()
    }
    return {**{name: row[name] for name in ("transaction_id", "user_id", "merchant_id", "amount")}, **declared}


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
    version = Version(context, register(model), model)
    return Shop(context, online_store.OnlineHistory(client), THREE, version)


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
    assert sum(one.appended for one in shop.load().histories) == 0
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
            record.update(sequence_user=None, newest_us_user=None, history="none", degraded=True,
                          transaction_velocity_1h=0.0, avg_amount_7d=None, unique_merchants_30d=0.0)  # fmt: skip
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
    return pa.Table.from_pylist(rows, schema=schema("transactions", THREE))


def test_events_the_store_lost_are_counted(shop: Shop, past: list[dict[str, Any]], client: redis.Redis) -> None:
    for row in today(shop, 4):
        shop.serve(row)
    newest = max((row for row in past if row["user_id"] == "u0"), key=_when)
    key = shop.versions[0].plan.windows[0].layout.ids_key("u0")
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
