"""The browser's features of drawn payments are those of serving, bit by bit, for drawn declarations.

Serving's own code computes the expected values: `RequestType`, `ReadPlan`, `Inputs`, `Vector`. The store is a model of
append_event.lua in Python, which tests/integration/core/test_history_scripts.py compares with the script.
"""

import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import edge_node
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.declaration_strategy import AT_US, WORDS, declarations

from fraud.core.contract import MAX_FUTURE_SKEW_US, US_PER_DAY
from fraud.core.daily import Snapshot, Table
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, NumberColumn
from fraud.core.history import Layout
from fraud.core.plan import Plan
from fraud_serving.request import RequestType, ValidTransaction
from fraud_serving.schema import ContractError
from fraud_serving.scoring.inputs import Inputs
from fraud_serving.scoring.reads import ReadPlan, Reads, fill
from fraud_serving.store.commands import PublishedSnapshot

pytestmark = pytest.mark.skipif(bool(edge_node.MISSING), reason=edge_node.MISSING)
NOW_US: Final = AT_US + 100 * US_PER_DAY
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPANS: Final = (0, 90, 900, 3_600, 129_600, 604_800, 2_592_000, 7_776_000)
"""Lengths of windows (s), so that events lie at their edges."""


@pytest.fixture(scope="module")
def browser() -> Iterator[edge_node.Features]:
    with edge_node.features() as found:
        yield found


class Store:
    """The histories of one version, as append_event.lua keeps them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], list[tuple[str, int, bytes, int]]] = {}
        """(layout, entity id) -> (transaction id, event time, record, newest before) in order of sequence."""

    def append(self, layout: Layout, entity_id: str, name: str, event_us: int, record: bytes) -> list[Any]:
        """The reply of the script."""
        kept = self._kept.setdefault((layout.id, entity_id), [])
        newest = max((time for _, time, _, _ in kept), default=0)
        for i, (other, _, _, before) in enumerate(kept):
            if other == name:
                return [i, before, 1, self._records(layout, kept[:i])]
        reply = [len(kept), newest, 0, self._records(layout, kept)]
        if event_us >= newest - layout.keep_us:
            kept.append((name, event_us, record, newest))
        return reply

    def _records(self, layout: Layout, kept: list[tuple[str, int, bytes, int]]) -> bytes:
        return b"".join(record for _, _, record, _ in kept[-layout.max_events :])


class Published:
    """A snapshot of each table that has always been published."""

    def at(self, table: Table, at_us: int | None) -> PublishedSnapshot:
        return PublishedSnapshot(table, Snapshot(0, "0-a", list(table.empty)))


class Server:
    """What one version's server computes for payments, one after the other."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._requests = plan, RequestType(plan, None)
        self._reads = ReadPlan(plan, None, self._requests)
        self._inputs = Inputs(plan, self._requests.production, self._reads)
        self._store = Store()

    def answer(self, sent: dict[str, Any], daily: dict[str, dict[str, float | None]]) -> dict[str, Any]:
        """In the form of `edge_node.Features.of`; without the reason of a refusal."""
        try:
            request = self._requests.parse(json.dumps(sent).encode())
            found = self._requests.validated(request, NOW_US + MAX_FUTURE_SKEW_US)
        except ContractError as error:
            return {"field": error.field}
        reads, commands = self._reads.commands(found, Published())  # type: ignore[arg-type]
        if commands:
            fill(reads, [self._reply(slot, found, reads, daily) for slot in reads.sent])
        features = self._inputs.features(found, found.values, reads)
        base = self._inputs.base_values(found, found.values, features.values)
        vector = np.zeros(len(self._plan.vector.names), dtype="<f4")
        self._plan.vector.row(vector, base)
        return {
            "base": struct.pack(f"<{len(base)}d", *(float("nan") if v is None else v for v in base)).hex(),
            "vector": vector.tobytes().hex(),
            "history": features.source, "degraded": features.store_failed, "repeated": features.repeated,
            "categories": self._inputs.categories(found.values),
        }  # fmt: skip

    def _reply(
        self, slot: int, found: ValidTransaction, reads: Reads, daily: dict[str, dict[str, float | None]]
    ) -> Any:
        windows = self._plan.windows
        if slot >= len(windows):
            table = next(of for of in self._plan.tables if self._reads.rows[of.id] == slot)
            row = daily.get(table.entity)
            return None if row is None else table.pack([row[name] for name in table.names])
        layout = next(of.layout for of in windows if self._reads.appends[of.layout.id] == slot)
        event_us = found.event_us or 0
        record = layout.packer.pack(event_us, *reads.own[slot])
        entity_id = found.values[self._requests.production.names.index(layout.id_column)]
        return self._store.append(layout, entity_id, found.transaction_id or "", event_us, record)


def _texts(texts: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from([*texts, "zz", f" {texts[0]} ", "NULL", ""])


def _raw(column: Column) -> st.SearchStrategy[Any]:
    """A value of a column as a caller may send it."""
    if isinstance(column, NumberColumn):
        return st.none() | st.floats(column.min, column.max) | st.sampled_from([column.min, column.max, -0.0, 0])
    if isinstance(column, FlagColumn):
        return st.sampled_from([None, False, True])
    if isinstance(column, CategoryColumn):
        return st.none() | _texts(column.values or WORDS)
    return st.none() | _texts(("id-1", "id-2", "ID-1"))


def _time_text(at_us: int, zone: int, digits: int) -> str:
    local = (_EPOCH + timedelta(microseconds=at_us)).astimezone(timezone(timedelta(minutes=zone)))
    fraction = f"{local.microsecond:06d}000"[:digits] if digits else ""
    offset = "Z" if zone == 0 else f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02d}:{abs(zone) % 60:02d}"
    return f"{local:%Y-%m-%dT%H:%M:%S}{'.' if fraction else ''}{fraction}{offset}"


@st.composite
def _payments(draw: st.DrawFn, declaration: Declaration) -> dict[str, Any]:
    edges = st.tuples(st.sampled_from(_SPANS), st.integers(-1, 1)).map(lambda t: t[0] * 1_000_000 + t[1])
    at_us = AT_US - draw(edges | st.integers(-US_PER_DAY, 100 * US_PER_DAY))
    time = _time_text(at_us, draw(st.sampled_from([0, 0, 120, -570])), draw(st.sampled_from([0, 6, 9])))
    amount = st.integers(1, 10**13).map(lambda units: units / 10_000) | st.floats(0.0001, 1e9) | st.integers(1, 10**9)
    payment: dict[str, Any] = {"amount": draw(amount | st.integers(0, 10**6).map(lambda n: (2 * n + 1) / 32))}
    if draw(st.integers(0, 5)):
        payment |= {
            "user_id": draw(st.sampled_from(["u-1", " u-1 ", "u-2"])),
            "transaction_id": f"t{draw(st.integers(0, 400))}",
            "merchant_id": draw(st.sampled_from(["m-1", "m-2", "Été", "07"])), "event_timestamp": time,
        }  # fmt: skip
    elif draw(st.booleans()):
        payment |= {"hour_of_day": draw(st.integers(0, 23)), "day_of_week": draw(st.integers(0, 6))}
        payment |= draw(st.fixed_dictionaries({}, optional={"transaction_velocity": st.floats(0, 1e6)}))
    else:
        payment |= {"event_timestamp": time, "transaction_velocity": 3}
        payment |= draw(
            st.fixed_dictionaries({}, optional={"transaction_id": st.just("t-1"), "merchant_id": st.just("m-1")})
        )
    raw = {name: _raw(column) for name, column in declaration.columns.items()}
    return payment | draw(st.fixed_dictionaries({}, optional=raw))


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Declaration, list[dict[str, Any]], dict[str, dict[str, float | None]]]:
    declaration = draw(declarations())
    payments = draw(st.lists(_payments(declaration), min_size=1, max_size=16))
    daily = {
        table.entity: {
            name: draw(st.floats(-1e6, 1e6) if empty is not None else st.none() | st.floats(-1e6, 1e6))
            for name, empty in zip(table.names, table.empty, strict=True)
        }
        for table in Plan(declaration).tables
        if draw(st.booleans())
    }
    return declaration, payments, daily


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_cases())
def test_features_of_drawn_payments_have_the_bits_of_serving(
    browser: edge_node.Features,
    case: tuple[Declaration, list[dict[str, Any]], dict[str, dict[str, float | None]]],
) -> None:
    declaration, payments, daily = case
    server = Server(Plan(declaration))
    expected = [server.answer(payment, daily) for payment in payments]
    history = [p for p, answer in zip(payments, expected, strict=True) if "field" not in answer and _enters(p)]
    rows, before = [], list[dict[str, Any]]()
    for payment in payments:
        rows.append({"transaction": payment, "history": list(before), "daily": daily})
        if payment in history:
            before.append(payment)
    got = browser.of(json.loads(declaration.canonical()), NOW_US, rows)
    for row, own, found in zip(rows, expected, got, strict=True):
        assert {name: found.get(name) for name in own} == own, row


def _enters(payment: dict[str, Any]) -> bool:
    return payment.get("transaction_id") is not None and payment.get("event_timestamp") is not None
