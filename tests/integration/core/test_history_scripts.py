"""The scripts of the online history in a real server, with records of any layout, against a model in Python."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.declaration_strategy import AT_US, column_values, declarations

from fraud.core.columns import StoredColumn, to_stored
from fraud.core.contract import id_hash
from fraud.core.declaration import Declaration
from fraud.core.history import APPEND_SCRIPT, ENTRY, LOAD_SCRIPT, Layout
from fraud.core.plan import window_sets
from fraud.embedded.servers import valkey


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with valkey.running(tmp_path_factory.mktemp("valkey")) as server, redis.Redis.from_url(server.url) as connection:
        yield connection


@dataclass
class Model:
    """What docs/features.md and `fraud.core.history` promise about one entity."""

    bound: int
    keep_us: int
    base: int = 0
    newest: int = 0
    kept: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)
    """(transaction id, record, newest before) in order of sequence."""

    def append(self, name: str, record: tuple[int, ...]) -> tuple[int, int, bool, list[tuple[int, ...]]]:
        """Sequence, newest before, repeated, records of the history."""
        for i, (other, _, before) in enumerate(self.kept):
            if other == name:
                return self.base + i, before, True, self._records(i)
        found = self.base + len(self.kept), self.newest, False, self._records(len(self.kept))
        if record[0] >= self.newest - self.keep_us:
            self._add(name, record)
        return found

    def load(self, events: list[tuple[str, tuple[int, ...]]]) -> tuple[int, int, int, int]:
        """Appended, repeated, too late, left out of a full history."""
        counts = [0, 0, 0, 0]
        full_until = self.newest if len(self.kept) >= 2 * self.bound else -1
        names = {name for name, *_ in self.kept}
        for name, record in events:
            late, full = record[0] < self.newest - self.keep_us, record[0] <= full_until
            outcome = 1 if name in names else 2 if late else 3 if full else 0
            counts[outcome] += 1
            if outcome == 0:
                names.add(name)
                self._add(name, record)
        while self.kept and self.kept[0][1][0] < self.newest - self.keep_us:
            self._drop(1)
        return counts[0], counts[1], counts[2], counts[3]

    def _records(self, until: int) -> list[tuple[int, ...]]:
        return [record for _, record, _ in self.kept[max(0, until - self.bound) : until]]

    def _add(self, name: str, record: tuple[int, ...]) -> None:
        if len(self.kept) >= 3 * self.bound:
            self._drop(len(self.kept) - 2 * self.bound)
        self.kept.append((name, record, self.newest))
        self.newest = max(self.newest, record[0])

    def _drop(self, count: int) -> None:
        del self.kept[:count]
        self.base += count


Event = tuple[str, tuple[int, ...]]
Step = tuple[bool, list[Event]]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Layout, list[Step]]:
    """A layout of a random declaration with a short bound, and appends (True) and loads of events that may repeat."""
    declaration: Declaration = draw(declarations(daily=False, least=1))
    declared = draw(st.sampled_from(window_sets(declaration))).layout
    layout = Layout("user", "user_id", declared.columns, 8, 20 * 86_400_000_000)
    columns = [column_values(declaration, c.name).map(lambda v, c=c: to_stored(c, v)) for c in layout.columns]
    times = st.integers(0, 3).map(lambda days: AT_US + days) | st.integers(AT_US - 30 * 86_400_000_000, AT_US)
    events = st.tuples(st.integers(0, 60).map("t{}".format), st.tuples(times, *columns))
    steps = st.tuples(st.booleans(), st.lists(events, min_size=1, max_size=30))
    return layout, draw(st.lists(steps, min_size=1, max_size=6))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_appends_and_loads_equal_the_model(client: redis.Redis, case: tuple[Layout, list[Step]]) -> None:
    layout, steps = case
    client.flushdb()
    append, load = client.register_script(APPEND_SCRIPT), client.register_script(LOAD_SCRIPT)
    keys = [layout.history_key("u1"), layout.ids_key("u1")]
    model = Model(layout.max_events, layout.keep_us)
    for one_by_one, events in steps:
        if one_by_one:
            for name, record in events:
                reply: Any = append(keys=keys, args=list(layout.append_arguments(name, record[0], record[1:])))
                found = layout.prior_history(reply)
                expected = model.append(name, record)
                records = [tuple(event) for event in found.events.tolist()]
                assert (found.sequence, found.newest_us, found.repeated, records) == expected
        else:
            records = np.array([record for _, record in events], dtype=layout.record)
            hashes = np.array([id_hash(name) for name, _ in events], dtype=np.uint64)
            assert tuple(load(keys=keys, args=list(layout.load_arguments(records, hashes)))) == model.load(events)
        stored: Any = client.get(keys[0])
        base, newest, kept = layout.stored(stored or b"")
        assert [tuple(event) for event in kept.tolist()] == [record for _, record, _ in model.kept]
        if stored:
            assert (base, newest) == (model.base, model.newest)
        entries = np.frombuffer(client.get(keys[1]) or b"", dtype=ENTRY)
        assert entries["transaction"].tolist() == [id_hash(name) for name, *_ in model.kept]
        assert entries["newest_before"].tolist() == [before for *_, before in model.kept]


def test_the_largest_values_of_every_type_are_kept(client: redis.Redis) -> None:
    columns = (StoredColumn("a", "number", 0), StoredColumn("b", "id", 0), StoredColumn("c", "flag", 0))
    layout = Layout("user", "user_id", columns, 8, 86_400_000_000)
    client.flushdb()
    append = client.register_script(APPEND_SCRIPT)
    rows = [(AT_US, -(2**63), 2**64 - 1, 2), (AT_US + 1, 2**50, 1, 0), (AT_US + 2, -(2**50), 0, 1)]
    for i, row in enumerate(rows):
        reply: Any = append(
            keys=[layout.history_key("é u"), layout.ids_key("é u")],
            args=list(layout.append_arguments(str(i), row[0], row[1:])),
        )
    assert layout.prior_history(reply).events.tolist() == rows[:2]
    assert client.strlen(layout.history_key("é u")) == 16 + 3 * 25
    assert client.strlen(layout.ids_key("é u")) == 3 * 16
