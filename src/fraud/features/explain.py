"""Explain the windows of a user at a point in time: the events of each window, the values, and where events are stored.

Two values are computed: the one of a request at that time from the present content of the online store, and the one of
the batch engine from the rows of the lake with an earlier ingestion time. They differ when an event is only in the
store or only in the lake, or was ingested later than the given time.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from fraud.core import history
from fraud.core.contract import UNITS_PER_USD, amount_units, id_hash
from fraud.core.features import MAX_EVENTS, RETENTION_US, WINDOW_FEATURES, WINDOW_NAMES
from fraud.core.windows import WindowValues, evaluate
from fraud.errors import BadInputError
from fraud.features import online_store
from fraud.job import Context, JobConfig, JobResult, Moment
from fraud.lake import catalog
from fraud.lake.dataset import Dataset

_COLUMNS = ["transaction_id", "user_id", "merchant_id", "event_timestamp", "created_timestamp", "amount"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BOTH = "in both"


class Config(JobConfig):
    """User and time."""

    user: CliPositionalArg[str] = Field(description="user_id")
    at: Moment = Field(description="time with a zone, such as 2026-02-01T12:00:00Z")


class Event(BaseModel):
    """One event within the longest window."""

    model_config = ConfigDict(frozen=True)

    event_time: datetime
    ingestion_time: datetime | None
    """created_timestamp in the lake; None for an event that is not in the lake."""
    amount: float
    merchant_id: str
    """`#` and the hash for an event that is only in the store, unless an event in the lake has the same merchant."""
    windows: tuple[str, ...]
    """Features whose window contains the event by its time."""
    sequence: int | None
    """Sequence in the store; None for an event that is not in the store."""
    layer: str
    """in both | store only | lake only | lake only, ingested later"""


class Result(JobResult):
    """Values by feature; None for null."""

    user: str
    at: datetime
    online: dict[str, float | None]
    """Values of a request at that time, from the present content of the store."""
    batch: dict[str, float | None]
    """Values from the rows of the lake with an earlier ingestion time."""
    events: tuple[Event, ...]
    """Newest first."""

    def as_text(self) -> str:
        agree = "agree" if self.online == self.batch else "DIFFER"
        layers = Counter(event.layer for event in self.events)
        lines = [f"user {self.user} at {self.at:%a %Y-%m-%d %H:%M:%S} UTC: store and lake {agree}", ""]
        lines.append(f"{'feature':<26}{'store (request)':>18}{'lake (batch)':>16}   in the window, store or lake")
        for feature in WINDOW_FEATURES:
            values = (_number(side[feature.name]) for side in (self.online, self.batch))
            inside = [event for event in self.events if feature.name in event.windows]
            lines.append(f"{feature.name:<26}{next(values):>18}{next(values):>16}   {_summary(inside)}")
        lines += ["", "events: " + (", ".join(f"{n} {layer}" for layer, n in layers.most_common()) or "none"), ""]
        lines.append(f"{'before':>12}  {'event time (UTC)':<24}{'ingested':>12}{'amount':>12}{'seq':>6}  merchant")
        shown = 0
        for window_us in sorted({feature.window_us for feature in WINDOW_FEATURES}):
            names = ", ".join(f.name for f in WINDOW_FEATURES if f.window_us >= window_us)
            lines.append(f"-- within {_span(window_us)}, for {names}")
            longest = {feature.name for feature in WINDOW_FEATURES if feature.window_us == window_us}
            end = sum(not longest.isdisjoint(event.windows) for event in self.events)
            lines += [self._line(event) for event in self.events[shown:end]]
            shown = end
        return "\n".join(lines)

    def _line(self, e: Event) -> str:
        ingested = "-" if e.ingestion_time is None else f"+{_span(_us(e.ingestion_time) - _us(e.event_time))}"
        sequence = "-" if e.sequence is None else str(e.sequence)
        alone = "" if e.layer == BOTH else f"  ({e.layer})"
        return (
            f"{_span(_us(self.at) - _us(e.event_time)):>12}  {e.event_time:%a %Y-%m-%d %H:%M:%S} {ingested:>12}"
            f"{e.amount:>12,.2f}{sequence:>6}  {e.merchant_id}{alone}"
        )


def run(config: Config, context: Context) -> Result:
    """Read store and lake. Raises BadInputError for an unknown user, UnavailableError when the store is down."""
    at_us = (config.at - _EPOCH) // timedelta(microseconds=1)
    with online_store.connect(context.settings.redis_url.get_secret_value()) as store:
        base, newest_us, kept = store.read(config.user)
        order = dict(store.orders([config.user]))[config.user]
    rows = _of_user(catalog.TRANSACTIONS.at(context.settings.lake_uri), config.user, config.at)
    if rows.num_rows == 0 and len(kept) == 0:
        raise BadInputError(f"no events of user {config.user!r} within 30 days of {config.at:%Y-%m-%d}")
    in_lake = {id_hash(row["transaction_id"]): row for row in rows.to_pylist()}
    merchants = {id_hash(row["merchant_id"]): row["merchant_id"] for row in in_lake.values()}
    sequences = {int(entry): base + i for i, entry in enumerate(order.ids)}
    events = [_from_lake(row, sequences.get(entry), at_us, config.at) for entry, row in in_lake.items()]
    events += [
        _from_store(kept[sequence - base], sequence, at_us, merchants)
        for entry, sequence in sequences.items()
        if entry not in in_lake and sequence - base < len(kept)
    ]
    inside = [event for event in events if event.windows]
    ingested = rows.filter(pc.less(rows["created_timestamp"], pa.scalar(config.at)))
    newest_ingested = max((_us(row["event_timestamp"]) for row in ingested.to_pylist()), default=0)
    return Result(
        user=config.user, at=config.at.astimezone(UTC),
        online=_named(evaluate(kept[-MAX_EVENTS:], newest_us, at_us)),
        batch=_named(evaluate(_records(ingested)[-MAX_EVENTS:], newest_ingested, at_us)),
        events=tuple(sorted(inside, key=lambda e: (e.event_time, e.merchant_id), reverse=True)),
    )  # fmt: skip


def _of_user(transactions: Dataset, user: str, at: datetime) -> pa.Table:
    """The user's rows around the longest window, ordered by ingestion time."""
    first = (at - timedelta(microseconds=RETENTION_US)).astimezone(UTC).date().isoformat()
    last = (at + timedelta(days=1)).astimezone(UTC).date().isoformat()
    days = [day for day in transactions.partitions() if first <= day <= last]
    tables = [transactions.read(day, _COLUMNS) for day in days]
    own = [table.filter(pc.equal(table["user_id"], pa.scalar(user))) for table in tables]
    if not own:
        raise BadInputError(f"the lake has no transactions from {first} to {last}")
    keys = ("created_timestamp", "event_timestamp", "transaction_id")
    return pa.concat_tables(own).sort_by([(key, "ascending") for key in keys])


def _records(rows: pa.Table) -> NDArray[np.void]:
    found = [
        (_us(row["event_timestamp"]), amount_units(row["amount"]), id_hash(row["merchant_id"]))
        for row in rows.to_pylist()
    ]
    return np.array(found, dtype=history.RECORD)


def _from_lake(row: dict[str, object], sequence: int | None, at_us: int, at: datetime) -> Event:
    ingested = row["created_timestamp"]
    late = isinstance(ingested, datetime) and ingested >= at
    layer = BOTH if sequence is not None else "lake only, ingested later" if late else "lake only"
    return Event.model_validate(
        {"event_time": row["event_timestamp"], "ingestion_time": ingested, "amount": row["amount"],
         "merchant_id": row["merchant_id"], "windows": _windows(_us(row["event_timestamp"]), at_us),
         "sequence": sequence, "layer": layer}
    )  # fmt: skip


def _from_store(record: np.void, sequence: int, at_us: int, merchants: dict[int, str]) -> Event:
    event_us, units, merchant = (int(value) for value in record.tolist())
    return Event(
        event_time=_EPOCH + timedelta(microseconds=event_us), ingestion_time=None, amount=units / UNITS_PER_USD,
        merchant_id=merchants.get(merchant, f"#{merchant:016x}"), windows=_windows(event_us, at_us), sequence=sequence,
        layer="store only",
    )  # fmt: skip


def _windows(event_us: int, at_us: int) -> tuple[str, ...]:
    return tuple(f.name for f in WINDOW_FEATURES if at_us - f.window_us <= event_us < at_us)


def _us(moment: object) -> int:
    if not isinstance(moment, datetime):
        raise TypeError(f"expected a datetime, got {moment!r}")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _named(values: WindowValues) -> dict[str, float | None]:
    return dict(zip(WINDOW_NAMES, values, strict=True))


def _summary(inside: list[Event]) -> str:
    if not inside:
        return "no event"
    merchants = len({event.merchant_id for event in inside})
    total = sum(amount_units(event.amount) for event in inside) / UNITS_PER_USD
    events = "1 event" if len(inside) == 1 else f"{len(inside)} events"
    return f"{events}, {total:,.2f} USD, {merchants} merchant{'s' * (merchants != 1)}"


def _span(us: int) -> str:
    """A duration in its two largest units: `3 d 4 h`, `7 h 52 min`, `2 s`."""
    sign, seconds = ("-" if us < 0 else ""), abs(us) // 1_000_000
    units = {"d": seconds // 86_400, "h": seconds // 3_600 % 24, "min": seconds // 60 % 60, "s": seconds % 60}
    first = next((i for i, value in enumerate(units.values()) if value), len(units) - 1)
    parts = list(units.items())[first : first + 2]
    return sign + " ".join(f"{value} {unit}" for i, (unit, value) in enumerate(parts) if value or i == 0)


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:,.4f}".rstrip("0").rstrip(".")
