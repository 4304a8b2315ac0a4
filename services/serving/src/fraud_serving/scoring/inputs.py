"""The inputs of one version: its features from the store's replies, and the base values of its vector."""

import struct
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

from msgspec import Struct

from fraud.core import short_request
from fraud.core.daily import Table
from fraud.core.declaration_types import CategoryColumn
from fraud.core.plan import Plan
from fraud.core.vector import Vector
from fraud_serving.log.prediction_record import named_values
from fraud_serving.request import USER_ID, ValidTransaction, VersionColumns
from fraud_serving.schema import HistorySource, Value
from fraud_serving.scoring.reads import ReadPlan, Reads
from fraud_serving.store.connection import NO_REPLY

BaseValues = tuple[float | int | None, ...]
_TIME_VALUES: Final = 2
"""Hour and weekday, which come before the columns in the list that base values are taken from."""


class Features(Struct, gc=False):
    """Window and daily features of one transaction, and what they were computed from."""

    values: list[float | None]
    """In the order of `Plan.features`. None is null."""
    source: HistorySource = "none"
    sequences: dict[str, int] = {}
    """Entity -> the place of the transaction in the entity's stored history."""
    newest_us: dict[str, int] = {}
    """Entity -> latest event time before this transaction (us); 0 without history."""
    snapshots: dict[str, str] = {}
    """Entity -> id of the daily snapshot."""
    daily: list[tuple[str, str]] = []
    """(entity, state) of each daily table that was read: current, stale or missing."""
    repeated: bool = False
    """Whether the transaction is in the history of its user already."""
    store_failed: bool = False


NO_FEATURES: Final = Features([])
"""Without a version."""


class Inputs:
    """Computes the inputs of one version from what `reads` reads for all."""

    def __init__(self, plan: Plan, columns: VersionColumns, reads: ReadPlan) -> None:
        self.plan: Final = plan
        self.vector: Final[Vector] = plan.vector
        self.windows: Final = tuple((of, of.layout.entity, reads.appends[of.layout.id]) for of in plan.windows)
        self.tables: Final = tuple((of, reads.rows[of.id]) for of in plan.tables)
        by_user = [slot for of, _, slot in self.windows if of.layout.id_column == "user_id"]
        self.first_slot: Final = (by_user or [slot for _, _, slot in self.windows] or [-1])[0]
        self._named = named_values(plan.features)
        self._nothing = reads.nothing
        self._empty = Features(list(plan.empty))
        self._empty_named = self._named(*plan.empty)
        names = [name for of in plan.windows for name in of.names]
        velocity = short_request.VELOCITY_FEATURE
        self._velocity = names.index(velocity) if velocity in names else -1
        self._velocity_slot = next((slot for of, _, slot in self.windows if velocity in of.names), -1)
        at = {name: _TIME_VALUES + i for i, name in enumerate(columns.names)}
        self._categories = tuple(
            (at[name], dict(zip(column.values or (column.unknown,), range(300), strict=False)), column.unknown, name)
            for name, column in plan.declaration.columns.items()
            if isinstance(column, CategoryColumn)
        )
        self.known: Final = tuple(
            (at - _TIME_VALUES, frozenset(codes) - {unknown}, unknown, name)
            for at, codes, unknown, name in self._categories
        )
        self.codes: Final = tuple((i, codes.get, codes[unknown]) for i, codes, unknown, _ in self._categories)
        first = _TIME_VALUES + len(columns.names)
        self.base_at: Final = (
            0, 1, *(first + of.feature if of.column is None else at[of.column] for of in plan.sources)
        )  # fmt: skip
        """By base value: its position among hour, weekday, columns and features."""
        self._base = itemgetter(*self.base_at)

    def features(self, transaction: ValidTransaction, values: Sequence[Any], reads: Reads) -> Features:
        """The features of a transaction. `values`: those of this version's columns."""
        if reads is self._nothing:
            return self._of_nothing(transaction, values)
        values_of: list[float | None] = []
        sequences: dict[str, int] = {}
        newest_us: dict[str, int] = {}
        replies, own, at_us = reads.replies, reads.own, transaction.event_us or 0
        repeated = failed = False
        for windows, entity, slot in self.windows:
            reply = replies[slot]
            if reply is None or reply is NO_REPLY:
                values_of += windows.empty
                failed |= reply is NO_REPLY
                continue
            sequences[entity], newest_us[entity], again, records = reply
            if slot == self.first_slot:
                repeated = again == 1
            values_of += windows.evaluate_records(records, reply[1], at_us, own[slot] or ())
        found = Features(values_of, "none", sequences, newest_us, {}, [], repeated, failed)
        for table, slot in self.tables:
            self._add_daily(found, table, slot, transaction.event_us, reads)
        if found.sequences:
            found.source = "store"
        given = self._given_velocity(transaction, values)
        if given is not None and replies[self._velocity_slot] is None:
            found.values[self._velocity] = given
            found.source = "store" if found.sequences else "request"
        return found

    def named(self, features: Features) -> Struct:
        """The `features` of a prediction record."""
        return self._empty_named if features is self._empty else self._named(*features.values)

    def all_named(self, columns: Sequence[Sequence[float | None]]) -> Iterable[Struct]:
        """`named` of many transactions. `columns`: their values by feature."""
        return map(self._named, *columns) if columns else repeat(self._empty_named)

    def _of_nothing(self, transaction: ValidTransaction, values: Sequence[Any]) -> Features:
        given = self._given_velocity(transaction, values)
        if given is None:
            return self._empty
        found = Features(self._empty.values.copy(), "request")
        found.values[self._velocity] = given
        return found

    def _given_velocity(self, transaction: ValidTransaction, values: Sequence[Any]) -> float | None:
        """The short request's own value of a window feature, which counts in a request without a user."""
        if values[USER_ID] is not None or self._velocity < 0:
            return None
        given: float | None = getattr(transaction.request, short_request.VELOCITY)
        return given

    def _add_daily(self, found: Features, table: Table, slot: int, event_us: int | None, reads: Reads) -> None:
        """Add the values of a daily table: those of the row, or the default ones of an entity without a row."""
        snapshot, reply = reads.snapshots[slot], reads.replies[slot]
        if snapshot is None or reply is NO_REPLY:
            found.values += table.empty
            if reply is NO_REPLY:
                found.store_failed = True
            elif reads.own[slot] is not None:
                found.daily.append((table.entity, "missing"))
            return
        if reply is None:
            found.values += snapshot.default
        else:
            try:
                found.values += table.unpack(reply)
            except (struct.error, TypeError):
                found.values += table.empty
                found.daily.append((table.entity, "missing"))
                return
        found.snapshots[table.entity] = snapshot.id
        current = event_us is None or event_us < snapshot.until_us
        found.daily.append((table.entity, "current" if current else "stale"))

    def base_values(
        self, transaction: ValidTransaction, values: Sequence[Any], features: Sequence[float | None]
    ) -> BaseValues:
        """What a vector is built from (`Vector.inputs`)."""
        flat = [transaction.hour, transaction.weekday, *values, *features]
        for at, code, unknown in self.codes:
            flat[at] = code(flat[at], unknown)
        found: BaseValues = self._base(flat)
        return found

    def categories(self, values: Sequence[Any]) -> dict[str, str]:
        """Category column -> the value that is used for a transaction."""
        found = {}
        for at, known, unknown, name in self.known:
            text = values[at]
            found[name] = text if text in known else unknown
        return found

    def unknown_categories(self, transaction: ValidTransaction, values: Sequence[Any]) -> int:
        """Number of categories of the request that are not among the declared or learnt values."""
        count = 0
        for at, known, unknown, name in self.known:
            if values[at] not in known:
                given = getattr(transaction.request, name)
                count += given is not None and given != unknown
        return count

    def readable(self, base: BaseValues) -> dict[str, Value]:
        """Base values by name, with the text of categories."""
        return {
            of.name: of.categories[int(value)] if of.categories and value is not None else value
            for of, value in zip(self.vector.inputs, base, strict=True)
        }
