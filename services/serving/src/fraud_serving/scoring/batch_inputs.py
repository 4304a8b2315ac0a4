"""The inputs of many transactions at once: those of `Inputs`, with the same bits."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from fraud.core.daily import Table
from fraud.core.plan import Plan
from fraud.core.vector import Floats
from fraud.core.window_batch import WindowTable
from fraud_serving.request import USER_ID, ValidTransaction
from fraud_serving.scoring.inputs import Features, Inputs
from fraud_serving.scoring.reads import ReadPlan, Reads
from fraud_serving.store.connection import NO_REPLY

_FEW: Final = 12
"""Up to this many transactions, one after the other is faster."""


class BatchInputs:
    """Computes the inputs of one version for the rows of a batch."""

    def __init__(self, inputs: Inputs, plan: Plan, reads: ReadPlan) -> None:
        self._inputs, self._nothing = inputs, reads.nothing
        self._empty = np.array(plan.empty, dtype=np.float64).reshape(-1, 1)
        self._windows = tuple((WindowTable(of), entity, slot) for of, entity, slot in inputs.windows)
        self._tables = tuple((_DailyRows(table), slot) for table, slot in inputs.tables)

    def features(self, rows: Sequence[ValidTransaction], reads: Sequence[Reads]) -> tuple[list[Features], Floats]:
        """The features of each transaction, and all values: float64[len(Plan.features), n], NaN for null."""
        inputs = self._inputs
        if len(rows) <= _FEW:
            found = [inputs.features(row, row.values, of) for row, of in zip(rows, reads, strict=True)]
            return found, np.array([of.values for of in found], dtype=np.float64).reshape(len(rows), -1).T
        values = np.repeat(self._empty, len(rows), axis=1)
        found = [Features([], "none", {}, {}, {}, []) for _ in rows]
        first = 0
        for windows, entity, slot in self._windows:
            until = first + len(windows.names)
            self._add_windows(windows, entity, slot, rows, reads, found, values[first:until])
            first = until
        for table, slot in self._tables:
            until = first + len(table.names)
            table.add(slot, rows, reads, found, values[first:until])
            first = until
        lists: list[list[float | None]] = values.T.tolist()
        null = np.isnan(values)
        if null.any():
            for at, i in np.argwhere(null).tolist():
                lists[i][at] = None
        for i, of in enumerate(found):
            of.values = lists[i]
            if of.sequences:
                of.source = "store"
        # Without a user the short request's own value counts.
        for i, row in enumerate(rows):
            if row.values[USER_ID] is None:
                found[i] = inputs.features(row, row.values, reads[i])
                values[:, i] = np.array(found[i].values, dtype=np.float64)
        return found, values

    def _add_windows(
        self, windows: WindowTable, entity: str, slot: int, rows: Sequence[ValidTransaction], reads: Sequence[Reads],
        found: Sequence[Features], values: Floats,
    ) -> None:  # fmt: skip
        first = slot == self._inputs.first_slot
        known: list[int] = []
        records: list[bytes] = []
        newest_us: list[int] = []
        at_us: list[int] = []
        own: list[Sequence[int]] = []
        for i, of in enumerate(reads):
            reply = of.replies[slot]
            if reply is None:
                continue
            features = found[i]
            if reply is NO_REPLY:
                features.store_failed = True
                continue
            features.sequences[entity], newest, again, events = reply
            features.newest_us[entity] = newest
            if first:
                features.repeated = again == 1
            if events:
                known.append(i)
                records.append(events)
                newest_us.append(newest)
                at_us.append(rows[i].event_us or 0)
                own.append(of.own[slot])
        if known:
            values[:, known] = windows.evaluate(records, newest_us, at_us, own)

    def categories(self, rows: Sequence[ValidTransaction]) -> list[dict[str, str]]:
        """`Inputs.categories` of each transaction."""
        if len(self._inputs.known) != 1:
            return [self._inputs.categories(row.values) for row in rows]
        ((at, known, unknown, name),) = self._inputs.known
        texts = [row.values[at] for row in rows]
        return [{name: text if text in known else unknown} for text in texts]

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
        self, slot: int, rows: Sequence[ValidTransaction], reads: Sequence[Reads], found: Sequence[Features],
        values: Floats,
    ) -> None:  # fmt: skip
        """Set the values of those with a snapshot: of the entity's row, or the default ones if it has none."""
        entity, states, size = self._table.entity, self._states, self._bytes
        stored: list[int] = []
        data: list[bytes] = []
        for i, of in enumerate(reads):
            snapshot, reply = of.snapshots[slot], of.replies[slot]
            features = found[i]
            if snapshot is None or reply is NO_REPLY:
                if reply is NO_REPLY:
                    features.store_failed = True
                elif of.own[slot] is not None:
                    features.daily.append(states["missing"])
                continue
            if reply is None:
                values[:, i] = np.array(snapshot.default, dtype=np.float64)
            elif isinstance(reply, bytes) and len(reply) == size:
                stored.append(i)
                data.append(reply)
            else:
                features.daily.append(states["missing"])
                continue
            features.snapshots[entity] = snapshot.id
            event_us = rows[i].event_us
            current = event_us is None or event_us < snapshot.until_us
            features.daily.append(states["current" if current else "stale"])
        if stored:
            values[:, stored] = np.frombuffer(b"".join(data), dtype="<f8").reshape(len(stored), -1).T
