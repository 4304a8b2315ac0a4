"""The inputs of many transactions at once: those of `Inputs`, with the same bits."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from fraud.core.daily import Table
from fraud.core.plan import Plan
from fraud.core.vector import Floats
from fraud.core.window_batch import WindowTable
from fraud_serving.request import USER_ID, ValidTransaction
from fraud_serving.schema import HistorySource
from fraud_serving.scoring.inputs import Features, Inputs
from fraud_serving.scoring.reads import BatchReads
from fraud_serving.store.connection import NO_REPLY

_FEW: Final = 12
"""Up to this many transactions, one after the other is faster."""


class BatchFeatures:
    """The `Features` of n transactions by field: each is a list by row."""

    def __init__(self, values: Floats) -> None:
        rows = values.shape[1]
        self.values = values
        """float64[len(Plan.features), n], NaN for null."""
        self.sources: list[HistorySource] = ["none"] * rows
        self.sequences: list[dict[str, int]] = [{} for _ in range(rows)]
        self.newest_us: list[dict[str, int]] = [{} for _ in range(rows)]
        self.snapshots: list[dict[str, str]] = [{} for _ in range(rows)]
        self.daily: list[list[tuple[str, str] | None]] = []
        """By table that was read: a list by row."""
        self.repeated = [False] * rows
        self.store_failed = [False] * rows

    @classmethod
    def of(cls, features: Sequence[Features]) -> "BatchFeatures":
        """The same by field."""
        found = cls(np.array([of.values for of in features], dtype=np.float64).reshape(len(features), -1).T)
        found.sources, found.sequences = [of.source for of in features], [of.sequences for of in features]
        found.newest_us, found.snapshots = [of.newest_us for of in features], [of.snapshots for of in features]
        found.daily = list(map(list, zip_longest(*[of.daily for of in features])))
        found.repeated, found.store_failed = [of.repeated for of in features], [of.store_failed for of in features]
        return found

    def columns(self) -> list[list[float | None]]:
        """The values by feature. None is null."""
        found: list[list[float | None]] = self.values.tolist()
        null = np.isnan(self.values)
        if null.any():
            for at, row in np.argwhere(null).tolist():
                found[at][row] = None
        return found

    def of_rows(self) -> list[Features]:
        """The features of each transaction."""
        columns = self.columns()
        values: Sequence[Any] = list(zip(*columns, strict=True)) if columns else [()] * len(self.sources)
        daily = [[of for of in states if of is not None] for states in zip(*self.daily, strict=True)]
        return [
            Features(list(of), *fields)
            for of, *fields in zip(
                values, self.sources, self.sequences, self.newest_us, self.snapshots,
                daily or [[] for _ in self.sources], self.repeated, self.store_failed, strict=True,
            )
        ]  # fmt: skip

    def set_row(self, row: int, of: Features) -> None:
        """Set all fields of one transaction except `daily`."""
        self.values[:, row] = np.array(of.values, dtype=np.float64)
        self.sources[row], self.sequences[row], self.newest_us[row] = of.source, of.sequences, of.newest_us
        self.snapshots[row], self.repeated[row], self.store_failed[row] = of.snapshots, of.repeated, of.store_failed


class BatchInputs:
    """Computes the inputs of one version for the rows of a batch."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        self._inputs = inputs
        self._empty = np.array(plan.empty, dtype=np.float64).reshape(-1, 1)
        self._windows = tuple((WindowTable(of), entity, slot) for of, entity, slot in inputs.windows)
        self._tables = tuple((_DailyRows(table), slot) for table, slot in inputs.tables)

    def features(self, rows: Sequence[ValidTransaction], reads: BatchReads) -> BatchFeatures:
        """The features of the transactions."""
        inputs = self._inputs
        if len(rows) <= _FEW:
            alone = [inputs.features(row, row.values, reads.of_row(i)) for i, row in enumerate(rows)]
            return BatchFeatures.of(alone)
        found = BatchFeatures(np.repeat(self._empty, len(rows), axis=1))
        first = 0
        at_us = [row.event_us or 0 for row in rows]
        for windows, entity, slot in self._windows:
            until = first + len(windows.names)
            self._add_windows(windows, entity, slot, at_us, reads, found, first)
            first = until
        for table, slot in self._tables:
            table.add(slot, rows, reads, found, first)
            first += len(table.names)
        found.sources = ["store" if of else "none" for of in found.sequences]
        # Without a user the short request's own value counts.
        users = [row.values[USER_ID] for row in rows]
        for i, row in enumerate(rows) if None in users else ():
            if users[i] is None:
                found.set_row(i, inputs.features(row, row.values, reads.of_row(i)))
        return found

    def _add_windows(
        self, windows: WindowTable, entity: str, slot: int, at_us: Sequence[int], reads: BatchReads,
        found: BatchFeatures, first: int,
    ) -> None:  # fmt: skip
        replies: Sequence[Any] = reads.replies[slot]
        own = reads.own[slot]
        at: Sequence[int] = range(len(replies))
        if None in replies or NO_REPLY in replies:
            for i, reply in enumerate(replies):
                found.store_failed[i] |= reply is NO_REPLY
            at = [i for i, reply in enumerate(replies) if reply is not None and reply is not NO_REPLY]
            if not at:
                return
            replies, own, at_us = [replies[i] for i in at], [own[i] for i in at], [at_us[i] for i in at]
        sequences, newest_us, again, records = zip(*replies, strict=True)
        for i, sequence, newest in zip(at, sequences, newest_us, strict=True):
            found.sequences[i][entity], found.newest_us[i][entity] = sequence, newest
        if slot == self._inputs.first_slot:
            for i, of in zip(at, again, strict=True):
                found.repeated[i] = of == 1
        until = first + len(windows.names)
        found.values[first:until, at] = windows.evaluate(records, newest_us, at_us, own)

    def categories(self, rows: Sequence[ValidTransaction]) -> list[dict[str, str]]:
        """`Inputs.categories` of each transaction."""
        names, columns = [], []
        for at, known, unknown, name in self._inputs.known:
            names.append(name)
            texts = [row.values[at] for row in rows]
            columns.append(texts if known.issuperset(texts) else [of if of in known else unknown for of in texts])
        if len(names) == 1:
            return [{names[0]: text} for text in columns[0]]
        return [dict(zip(names, of, strict=True)) for of in zip(*columns, strict=True)] if names else [{} for _ in rows]

    def unknown_categories(self, rows: Sequence[ValidTransaction]) -> int:
        """The sum of `Inputs.unknown_categories` of each transaction."""
        of_known = [(at, known) for at, known, _, _ in self._inputs.known]
        if all({row.values[at] for row in rows} <= known for at, known in of_known):
            return 0
        return sum(self._inputs.unknown_categories(row, row.values) for row in rows)

    def base_columns(self, transactions: Sequence[ValidTransaction], features: Floats) -> list[Floats]:
        """`Inputs.base_values` of n transactions, for `Vector.table`: float64[n] per input, NaN for null."""
        columns: list[Sequence[Any]] = [
            [t.hour for t in transactions], [t.weekday for t in transactions],
            *zip(*[t.values for t in transactions], strict=True),
        ]  # fmt: skip
        for at, code, unknown in self._inputs.codes:
            columns[at] = [code(text, unknown) for text in columns[at]]
        return [
            features[at - len(columns)] if at >= len(columns) else np.array(columns[at], dtype=np.float64)
            for at in self._inputs.base_at
        ]


class _DailyRows:
    """The values of a daily table."""

    def __init__(self, table: Table) -> None:
        self.names = table.names
        self._table, self._bytes = table, table.row_bytes
        self._states = {state: (table.entity, state) for state in ("current", "stale", "missing")}

    def add(
        self, slot: int, rows: Sequence[ValidTransaction], reads: BatchReads, found: BatchFeatures, first: int
    ) -> None:
        """Set the values of those with a snapshot: of the entity's row, or the default ones if it has none."""
        entity, states, values = self._table.entity, self._states, found.values[first : first + len(self.names)]
        stored: list[int] = []
        data: list[bytes] = []
        of_rows: list[tuple[str, str] | None] = [None] * len(rows)
        found.daily.append(of_rows)
        snapshots, replies, ids = reads.snapshots[slot], reads.replies[slot], reads.own[slot]
        for i, (row, snapshot, reply) in enumerate(zip(rows, snapshots, replies, strict=True)):
            if snapshot is None or reply is NO_REPLY:
                if reply is NO_REPLY:
                    found.store_failed[i] = True
                elif ids[i] is not None:
                    of_rows[i] = states["missing"]
                continue
            if reply is None:
                values[:, i] = np.array(snapshot.default, dtype=np.float64)
            elif isinstance(reply, bytes) and len(reply) == self._bytes:
                stored.append(i)
                data.append(reply)
            else:
                of_rows[i] = states["missing"]
                continue
            found.snapshots[i][entity] = snapshot.id
            current = row.event_us is None or row.event_us < snapshot.until_us
            of_rows[i] = states["current" if current else "stale"]
        if stored:
            values[:, stored] = np.frombuffer(b"".join(data), dtype="<f8").reshape(len(stored), -1).T
