"""What a server computes for payments, by serving's own code without its processes.

`RequestType`, `ReadPlan`, `Inputs` and `Vector` are serving's. The store is a model of append_event.lua in Python;
tests/integration/core/test_history_scripts.py compares such a model with the script.
"""

import json
import struct
from typing import Any, Final

import numpy as np
from tests.declaration_strategy import AT_US

from fraud.core.contract import MAX_FUTURE_SKEW_US, US_PER_DAY
from fraud.core.daily import Snapshot, Table
from fraud.core.history import Layout
from fraud.core.plan import Plan
from fraud_serving.request import RequestType, ValidTransaction
from fraud_serving.schema import ContractError
from fraud_serving.scoring.inputs import Inputs
from fraud_serving.scoring.reads import ReadPlan, Reads, fill
from fraud_serving.store.commands import PublishedSnapshot

NOW_US: Final = AT_US + 100 * US_PER_DAY
"""The clock of the payments' checks."""


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

    def at(self, table: Table, _at_us: int | None) -> PublishedSnapshot:
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
    ) -> list[Any] | bytes | None:
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
