"""Explain the windows of an entity at a point in time: values, the events of each window, and where they are stored.

Two values are computed: the one of a request at that time from the present content of the online store, and the one of
the batch engine from the rows of the lake with an earlier ingestion time. They differ when an event is only in the
store or only in the lake, or was ingested later than the given time. There is no transaction, so aggregates that
compare with a transaction's own value (matches, same_as_last) have their value for null.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from fraud.core.columns import NO_FLAG, StoredColumn, to_stored
from fraud.core.contract import id_hash
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import duration_text
from fraud.core.history import EVENT_US, Layout
from fraud.core.plan import window_sets
from fraud.errors import BadConfigError, BadInputError
from fraud.features import online_store
from fraud.features.engines.arrow_records import as_declared, microseconds, stored_records
from fraud.job import Context, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import conformed

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BOTH = "in both"


class Event(BaseModel):
    """One event within the longest window."""

    model_config = ConfigDict(frozen=True)

    event_time: datetime
    ingestion_time: datetime | None
    """created_timestamp in the lake; None for an event that is not in the lake."""
    columns: dict[str, str]
    """Values of the stored columns. `#` and the hash for a text that is only in the store, unless the lake has it."""
    windows: tuple[str, ...]
    """Features whose window contains the event by its time."""
    sequence: int | None
    """Sequence in the store; None for an event that is not in the store."""
    layer: str
    """in both | store only | lake only | lake only, ingested later"""


class Feature(BaseModel):
    """One window feature. A value of None is null."""

    model_config = ConfigDict(frozen=True)

    name: str
    window_us: int
    online: float | None
    """Value of a request at that time, from the present content of the store."""
    batch: float | None
    """Value from the rows of the lake with an earlier ingestion time."""


class Explanation(JobResult):
    """Values and events of one entity."""

    entity: str
    id: str
    at: datetime
    features: tuple[Feature, ...]
    events: tuple[Event, ...]
    """Newest first."""

    @property
    def agree(self) -> bool:
        """Whether store and lake give the same values."""
        return all(feature.online == feature.batch for feature in self.features)

    def as_text(self) -> str:
        """The features, then the events below the shortest window that contains them."""
        agree = "agree" if self.agree else "DIFFER"
        width = max(len(feature.name) for feature in self.features)
        lines = [f"{self.entity} {self.id} at {self.at:%a %Y-%m-%d %H:%M:%S} UTC: store and lake {agree}", ""]
        lines.append(f"{'feature':<{width}}{'store (request)':>18}{'lake (batch)':>16}   in the window, store or lake")
        for f in self.features:
            inside = sum(f.name in event.windows for event in self.events)
            text = "no event" if not inside else "1 event" if inside == 1 else f"{inside} events"
            lines.append(f"{f.name:<{width}}{_number(f.online):>18}{_number(f.batch):>16}   {text}")
        layers = Counter(event.layer for event in self.events)
        lines += ["", "events: " + (", ".join(f"{n} {layer}" for layer, n in layers.most_common()) or "none")]
        return "\n".join([*lines, "", *self._events()])

    def _events(self) -> list[str]:
        columns = list(self.events[0].columns) if self.events else []
        widths = [max([len(name), *(len(event.columns[name]) for event in self.events)]) for name in columns]
        heading = "  ".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
        lines = [f"{'before':>12}  {'event time (UTC)':<24}{'ingested':>12}{'seq':>6}  {heading}".rstrip()]
        shown = 0
        for window_us in sorted({feature.window_us for feature in self.features}):
            names = [f.name for f in self.features if f.window_us >= window_us]
            lines.append(f"-- within {duration_text(window_us)}, for {', '.join(names)}")
            longest = {f.name for f in self.features if f.window_us == window_us}
            end = sum(not longest.isdisjoint(event.windows) for event in self.events)
            lines += [self._line(event, widths) for event in self.events[shown:end]]
            shown = end
        return lines

    def _line(self, e: Event, widths: list[int]) -> str:
        ingested = "-" if e.ingestion_time is None else f"+{_span(_us(e.ingestion_time) - _us(e.event_time))}"
        sequence = "-" if e.sequence is None else str(e.sequence)
        values = "  ".join(f"{value:>{width}}" for value, width in zip(e.columns.values(), widths, strict=True))
        return (
            f"{_span(_us(self.at) - _us(e.event_time)):>12}  {e.event_time:%a %Y-%m-%d %H:%M:%S} {ingested:>12}"
            f"{sequence:>6}  {values}{'' if e.layer == BOTH else f'  ({e.layer})'}"
        ).rstrip()


def explained(declaration: Declaration, entity: str, entity_id: str, at: datetime, context: Context) -> Explanation:
    """Read store and lake. Raises BadConfigError for an entity without windows, BadInputError for an unknown id,
    UnavailableError when the store does not answer.
    """
    found = {s.layout.entity: s for s in window_sets(declaration)}
    if entity not in found:
        raise BadConfigError(
            f"no entity {entity!r} with window features", expected=f"one of {', '.join(found) or 'none'}",
            hint="fraud features list",
        )  # fmt: skip
    windows, lengths = found[entity], {f.name: f.window_us for f in declaration.windows(entity)}
    at_us = (at - _EPOCH) // timedelta(microseconds=1)
    layout = windows.layout
    with online_store.connect(context.settings.redis_url.get_secret_value()) as store:
        base, newest_us, kept = store.read(layout, entity_id)
        order = dict(store.orders(layout, [entity_id]))[entity_id]
    rows = _rows(declaration, layout, entity_id, at, context)
    if rows.num_rows == 0 and len(kept) == 0:
        days = -(-layout.keep_us // 86_400_000_000)
        raise BadInputError(f"no events of {entity} {entity_id!r} within {days} days of {at:%Y-%m-%d}")
    records = stored_records(rows, microseconds(rows["event_timestamp"]), layout)
    listed = rows.to_pylist()
    sequences = {int(entry): base + i for i, entry in enumerate(order.ids)}
    in_lake = {id_hash(row["transaction_id"]): row for row in listed}
    texts = {to_stored(c, row[c.name]): row[c.name] for row in listed for c in layout.columns if c.format == "Q"}
    events = [_from_lake(row, sequences.get(entry), layout, lengths, at) for entry, row in in_lake.items()]
    events += [
        _from_store(kept[sequence - base], sequence, layout, lengths, at_us, texts)
        for entry, sequence in sequences.items()
        if entry not in in_lake and sequence - base < len(kept)
    ]
    earlier = pc.less(rows["created_timestamp"], pa.scalar(at)).to_numpy()
    ingested = records[earlier]
    newest_ingested = int(ingested[EVENT_US].max(initial=0))
    own = [column.null for column in layout.columns]
    online = windows.evaluate(kept[-layout.max_events :], newest_us, at_us, own)
    batch = windows.evaluate(ingested[-layout.max_events :], newest_ingested, at_us, own)
    features = zip(declaration.windows(entity), online, batch, strict=True)
    return Explanation(
        entity=entity, id=entity_id, at=at.astimezone(UTC),
        features=tuple(Feature(name=f.name, window_us=f.window_us, online=o, batch=b) for f, o, b in features),
        events=tuple(sorted((e for e in events if e.windows), key=lambda e: (e.event_time, e.sequence or 0),
                            reverse=True)),
    )  # fmt: skip


def _rows(declaration: Declaration, layout: Layout, entity_id: str, at: datetime, context: Context) -> pa.Table:
    """The entity's rows around the longest window, ordered by ingestion time."""
    transactions = catalog.TRANSACTIONS.at(context.settings.lake_uri).open()
    first = (at - timedelta(microseconds=layout.keep_us)).astimezone(UTC).date().isoformat()
    last = (at + timedelta(days=1)).astimezone(UTC).date().isoformat()
    fixed = ["transaction_id", "event_timestamp", "created_timestamp", layout.id_column]
    names = list(dict.fromkeys([*fixed, *(column.name for column in layout.columns)]))
    schema = pa.schema([catalog.TRANSACTIONS.schema(declaration).field(name) for name in names])
    tables = [schema.empty_table()]
    for day in transactions.partitions():
        if first <= day <= last:
            table = conformed(transactions.read(day), schema)
            tables.append(table.filter(pc.equal(table[layout.id_column], pa.scalar(entity_id))))
    found = pa.concat_tables(tables)
    keys = ("created_timestamp", "event_timestamp", "transaction_id")
    return as_declared(found.sort_by([(key, "ascending") for key in keys]), declaration)


def _from_lake(
    row: Mapping[str, object], sequence: int | None, layout: Layout, lengths: Mapping[str, int], at: datetime
) -> Event:
    ingested = row["created_timestamp"]
    late = isinstance(ingested, datetime) and ingested >= at
    layer = BOTH if sequence is not None else "lake only, ingested later" if late else "lake only"
    event_us, at_us = _us(row["event_timestamp"]), _us(at)
    return Event.model_validate(
        {"event_time": row["event_timestamp"], "ingestion_time": ingested,
         "columns": {c.name: _text(row[c.name]) for c in layout.columns},
         "windows": _inside(lengths, event_us, at_us), "sequence": sequence, "layer": layer}
    )  # fmt: skip


def _from_store(
    record: np.void, sequence: int, layout: Layout, lengths: Mapping[str, int], at_us: int, texts: Mapping[int, object]
) -> Event:
    event_us = int(record[EVENT_US])
    return Event(
        event_time=_EPOCH + timedelta(microseconds=event_us), ingestion_time=None,
        columns={c.name: _stored_text(c, int(record[c.name]), texts) for c in layout.columns},
        windows=_inside(lengths, event_us, at_us), sequence=sequence, layer="store only",
    )  # fmt: skip


def _inside(lengths: Mapping[str, int], event_us: int, at_us: int) -> tuple[str, ...]:
    return tuple(name for name, window_us in lengths.items() if at_us - window_us <= event_us < at_us)


def _stored_text(column: StoredColumn, value: int, texts: Mapping[int, object]) -> str:
    if value == column.null:
        return "null"
    if column.format == "Q":
        return _text(texts.get(value, f"#{value:016x}"))
    return _text(value == 1 if column.null == NO_FLAG else value / column.divisor)


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _us(moment: object) -> int:
    if not isinstance(moment, datetime):
        raise TypeError(f"expected a datetime, got {moment!r}")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _span(us: int) -> str:
    """A duration in its two largest units: `3 d 4 h`, `7 h 52 min`, `2 s`."""
    sign, seconds = ("-" if us < 0 else ""), abs(us) // 1_000_000
    units = {"d": seconds // 86_400, "h": seconds // 3_600 % 24, "min": seconds // 60 % 60, "s": seconds % 60}
    first = next((i for i, value in enumerate(units.values()) if value), len(units) - 1)
    parts = list(units.items())[first : first + 2]
    return sign + " ".join(f"{value} {unit}" for i, (unit, value) in enumerate(parts) if value or i == 0)


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:,.4f}".rstrip("0").rstrip(".")
