"""Payments with histories for the self-test of an export, drawn from a declaration.

Equal declarations give equal payments. The requests are those of `POST /predict`. They include what is easily computed
differently: amounts between two units, unknown categories, nulls, several events at one microsecond, events out of
order, too old, repeated, or more than a history keeps.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from fraud.core import short_request
from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, NumberColumn
from fraud.core.plan import Plan

Payment = dict[str, Any]
"""A request of `POST /predict`."""
Daily = dict[str, dict[str, float | None]]
"""Entity -> daily feature -> value."""
AT: Final = datetime(2025, 6, 10, 14, 30, 17, 123456, tzinfo=UTC)
"""Time of the first payment."""
NOW_US: Final = round((AT + timedelta(days=1)).timestamp()) * 1_000_000
"""The clock of the self-test."""
_SEED: Final = 1
_BETWEEN: Final = (0.03125, 0.09375, 0.15625, 12.34375, 999_999_999.96875)
"""Amounts in the middle between two units of 1/10,000 USD: exact in binary, so half to even decides."""
_FEW, _MANY = 12, 90
"""Numbers of events below and above that up to which `fraud.core.windows` uses tuples."""
_MOST_EVENTS: Final = 300
"""A history that keeps more is not filled: the file would become large."""


class Row(NamedTuple):
    """A payment and what it is scored with."""

    transaction: Payment
    history: list[Payment] | None
    """Earlier payments in order of arrival; None as without a store."""
    daily: Daily | None
    """None: the default of the export."""


def rows(plan: Plan) -> list[Row]:
    """About thirty payments; equal for equal declarations."""
    return _Drawing(plan).rows()


class _Drawing:
    def __init__(self, plan: Plan) -> None:
        self._plan, self._random, self._count = plan, random.Random(_SEED), 0  # noqa: S311 - reproducible, no secret
        self._ids = {"user_id", *(w.layout.id_column for w in plan.windows), *(t.id_column for t in plan.tables)}

    def rows(self) -> list[Row]:
        return [*self._short(), *self._stateless(), *self._with_histories(), *self._of_order(), *self._full()]

    def _short(self) -> list[Row]:
        """The six fields of the short request, with and without its optional ones."""
        short: Payment = {"amount": 4999.99, "hour_of_day": 3, "day_of_week": 2, short_request.VELOCITY: 12.0}
        declared = self._plan.declaration.columns
        if isinstance(declared.get(short_request.CATEGORY), CategoryColumn | None):
            short[short_request.CATEGORY] = "electronics"
        distance = declared.get(short_request.DISTANCE)
        if distance is None:
            short[short_request.DISTANCE] = 850.5
        elif isinstance(distance, NumberColumn):
            short[short_request.DISTANCE] = min(distance.max, max(distance.min, 850.5))
        least = {"amount": 0.00006, "hour_of_day": 23, "day_of_week": 6}
        return [Row(short, None, None), Row(least, None, None), Row({**least, "amount": 1e9}, None, None)]

    def _stateless(self) -> list[Row]:
        """Payments without a user: amounts between two units, nulls, unknown categories, bounds."""
        found = [Row(self._payment(0, {"amount": amount}, user=False), None, None) for amount in _BETWEEN]
        nulls = dict.fromkeys(self._plan.columns)
        found.append(Row(self._payment(1, nulls, user=False), None, None))
        for low in (True, False):
            bounds = {
                name: column.min if low else column.max
                for name, column in self._plan.declaration.columns.items()
                if isinstance(column, NumberColumn)
            }
            found.append(Row(self._payment(2, bounds, user=False), None, None))
        unknown = {
            name: "a text that is in no list"
            for name, column in self._plan.declaration.columns.items()
            if isinstance(column, CategoryColumn)
        }
        found.append(Row(self._payment(3, unknown, user=False), None, None))
        return found

    def _with_histories(self) -> list[Row]:
        """A user without a store, a new user, short and long histories, with daily values and without."""
        found = [Row(self._payment(0), None, None), Row(self._payment(0), [], self._daily(missing=0.0))]
        for number in range(6):
            size = _MANY if number % 3 == 2 else self._random.randint(1, _FEW)
            ages = sorted((self._age() for _ in range(size)), reverse=True)
            history = [self._payment(-age, {}, same=0.8) for age in ages]
            found.append(Row(self._payment(0), history, self._daily(missing=0.3) if number % 2 else None))
        found.append(Row(self._payment(0, dict.fromkeys(self._plan.columns)), [self._payment(-60)], None))
        return found

    def _of_order(self) -> list[Row]:
        """Events at one microsecond, out of order, too old, in the future of the payment, repeated."""
        at_once = [self._payment(-5), self._payment(-5), self._payment(0), self._payment(-5), self._payment(0)]
        ages = [self._age() for _ in range(_FEW)]
        shuffled = [self._payment(-age) for age in ages]
        old = max((w.layout.keep_us for w in self._plan.windows), default=0) // 1_000_000
        late = [self._payment(-30), self._payment(-old - 60), self._payment(-old - 10), self._payment(-20)]
        later = [self._payment(-40), self._payment(3_600), self._payment(-10)]
        again = self._payment(-300)
        repeated = [again, self._payment(-200), {**again, "amount": 7.0}, self._payment(-100)]
        own = self._payment(0)
        spaced = self._payment(0)
        padded = {**spaced, **{name: f"  {spaced[name]}\u00a0" for name in self._ids if spaced.get(name)}}
        zone = (AT + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
        return [
            Row(self._payment(0), at_once, None), Row(self._payment(0), shuffled, None),
            Row(self._payment(0), late, None), Row(self._payment(0), later, None),
            Row(self._payment(0), repeated, None), Row(own, [self._payment(-9), own, self._payment(-3)], None),
            Row(padded, [self._payment(-50)], None),
            Row({**self._payment(0), "event_timestamp": zone}, [self._payment(-50)], None),
        ]  # fmt: skip

    def _full(self) -> list[Row]:
        """More events than a history keeps, for the smallest one."""
        most = min((w.layout.max_events for w in self._plan.windows), default=_MOST_EVENTS + 1)
        if most > _MOST_EVENTS:
            return []
        return [Row(self._payment(0), [self._payment(-age) for age in range(most + 5, 0, -1)], None)]

    def _age(self) -> int:
        """Seconds: some within the hour, most within the month."""
        return round(10 ** self._random.uniform(0, 6.5))

    def _payment(self, seconds: int, given: Payment | None = None, *, user: bool = True, same: float = 1.0) -> Payment:
        """A payment `seconds` after AT. `same`: the share of payments with the ids of the first entity."""
        self._count += 1
        draw, at = self._random, AT + timedelta(seconds=seconds)
        other = draw.random() >= same
        payment: Payment = {
            "transaction_id": f"golden {self._count}", "merchant_id": f"merchant {draw.randint(1, 4)}",
            "event_timestamp": at.isoformat().replace("+00:00", "Z"), "amount": round(draw.lognormvariate(3.5, 1.2), 2),
        }  # fmt: skip
        if user:
            payment["user_id"] = "user 2" if other else "user 1"
        for name, column in self._plan.declaration.columns.items():
            payment[name] = self._value(column, entity=name in self._ids, other=other)
        return payment | (given or {})

    def _value(self, column: Column, *, entity: bool, other: bool) -> Any:  # noqa: ANN401 - a value of JSON
        draw = self._random
        if not entity and draw.random() < 0.1:
            return None
        if isinstance(column, NumberColumn):
            return min(column.max, max(column.min, round(column.min + draw.expovariate(1 / 20), 3)))
        if isinstance(column, CategoryColumn):
            return draw.choice(column.values or (column.unknown,))
        if isinstance(column, FlagColumn):
            return draw.random() < 0.5
        return f"id {2 if other else 1}" if entity else f"id {draw.randint(1, 3)}"

    def _daily(self, missing: float) -> Daily:
        """Values of every daily table; each that may be null is with the probability `missing`."""
        draw = self._random
        return {
            table.entity: {
                feature.name: None
                if feature.empty is None and draw.random() < missing
                else draw.random() / 8
                if feature.aggregate == "fraud_rate"
                else float(draw.randint(0, 400))
                for feature in table.features
            }
            for table in self._plan.tables
        }
