"""The browser's features of drawn payments are those of serving, bit by bit, for drawn declarations.

`edge_server.Server` computes the expected values with serving's own code.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import edge_node
import pytest
from edge_server import NOW_US, Server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.declaration_strategy import AT_US, WORDS, declarations

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, NumberColumn
from fraud.core.plan import Plan
from fraud.declaration_file import load

pytestmark = pytest.mark.skipif(bool(edge_node.MISSING), reason=edge_node.MISSING)
CASES: Final = json.loads((edge_node.ROOT / "tests/contract_rows.json").read_text())
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPANS: Final = (0, 90, 900, 3_600, 129_600, 604_800, 2_592_000, 7_776_000)
"""Lengths of windows (s), so that events lie at their edges."""


@pytest.fixture(scope="module")
def browser() -> Iterator[edge_node.Features]:
    with edge_node.features() as found:
        yield found


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


def contract_row(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A row of tests/contract_rows.json as it is sent."""
    return CASES["good"] | {"transaction_id": f"one-contract {name}"} | changes


@pytest.fixture(scope="module")
def shipped() -> Declaration:
    """The shipped declaration with categories as training finds them."""
    declaration = load(Path(edge_node.ROOT / "feature_repo/features.yaml"))
    return declaration.resolved(dict.fromkeys(declaration.to_learn, ("GB", "other")))


@pytest.mark.parametrize("name", CASES["accepted"])
def test_a_valid_row_is_read_as_at_every_other_entry_point(
    browser: edge_node.Features, shipped: Declaration, name: str
) -> None:
    case = CASES["accepted"][name]
    row = {"transaction": contract_row(name, case["changes"]), "history": [], "daily": {}}
    [found] = browser.of(json.loads(shipped.canonical()), NOW_US, [row])
    names = ["user_id", "merchant_id", "amount", *sorted(shipped.columns)]
    read = dict(zip(names, found["payment"]["values"], strict=True)) | {"event_us": found["payment"]["eventUs"]}
    assert {field: read[field] for field in case["kept"]} == case["kept"]


@pytest.mark.parametrize("name", CASES["refused"])
def test_an_invalid_row_is_refused_naming_the_field(
    browser: edge_node.Features, shipped: Declaration, name: str
) -> None:
    changes = CASES["refused"][name]
    row = {"transaction": contract_row(name, changes), "history": [], "daily": {}}
    [found] = browser.of(json.loads(shipped.canonical()), NOW_US, [row])
    assert [found["field"]] == [*changes], found
