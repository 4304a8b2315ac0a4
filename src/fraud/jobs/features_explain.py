"""A user's windows at a moment: the events in each, the values, and which layer knows of what.

Two values stand side by side: what a request at that time would get from the online store as it is now, and what the
batch engine makes of the lake as it was known at that time. They differ where one layer knows of an event and the
other does not, or learned of it later than the moment asked for.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from fraud.core import history
from fraud.core.contract import UNITS_PER_USD, amount_units, id_hash
from fraud.core.features import MAX_EVENTS, RETENTION_US, WINDOW_FEATURES, WINDOW_NAMES
from fraud.core.windows import WindowValues, evaluate
from fraud.errors import BadInputError
from fraud.io import online
from fraud.io.lake import Dataset
from fraud.jobs import Context, JobConfig, JobResult

_COLUMNS = ["transaction_id", "user_id", "merchant_id", "event_timestamp", "created_timestamp", "amount"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Config(JobConfig):
    """Whose windows, and when."""

    user: CliPositionalArg[str] = Field(description="user_id")
    at: AwareDatetime = Field(description="the moment, with its zone: 2026-02-01T12:00:00Z")


class Event(BaseModel):
    """One event in reach of the longest window."""

    model_config = ConfigDict(frozen=True)

    event_time: datetime
    learned: datetime | None
    """created_timestamp in the lake; None where the lake does not know of it."""
    amount: float
    merchant_id: str
    """`#` and the hash where only the store knows of it."""
    windows: tuple[str, ...]
    """The features whose window holds it by time."""
    sequence: int | None
    """Its place in the store; None where the store does not know of it."""
    layer: str
    """store and lake | store | lake | lake, not known yet"""


class Result(JobResult):
    """Values by feature; None is null."""

    user: str
    at: datetime
    online: dict[str, float | None]
    """What a request at that time would get now."""
    batch: dict[str, float | None]
    """What is computed from the lake, as known at that time."""
    events: tuple[Event, ...]
    """Newest first."""

    def for_people(self) -> str:
        lines = [f"{self.user} at {self.at:%Y-%m-%d %H:%M:%S.%f} UTC", ""]
        lines.append(f"{'feature':<26}{'store (request)':>18}{'lake (batch)':>18}  events in the window")
        for name in WINDOW_NAMES:
            inside = sum(name in event.windows for event in self.events)
            values = (_number(side[name]) for side in (self.online, self.batch))
            lines.append(f"{name:<26}{''.join(f'{value:>18}' for value in values)}  {inside}")
        lines += ["", f"{'event':<21}{'learned of':<21}{'amount':>12}  {'in':<12}{'seq':>6}  {'known to':<22}merchant"]
        for e in self.events:
            learned = f"{e.learned:%Y-%m-%d %H:%M:%S}" if e.learned else "-"
            windows = " ".join(name.rsplit("_", 1)[1] for name in e.windows)
            sequence = "-" if e.sequence is None else str(e.sequence)
            lines.append(
                f"{e.event_time:%Y-%m-%d %H:%M:%S}  {learned:<21}{e.amount:>12,.2f}  {windows:<12}{sequence:>6}  "
                f"{e.layer:<22}{e.merchant_id}"
            )
        return "\n".join(lines)


def run(config: Config, context: Context) -> Result:
    """Read both layers. Raises BadInputError for a user neither knows, UnavailableError when the store is down."""
    at_us = (config.at - _EPOCH) // timedelta(microseconds=1)
    with online.connect(context.settings.redis_url.get_secret_value()) as store:
        base, newest_us, kept = store.read(config.user)
        order = dict(store.orders([config.user]))[config.user]
    rows = _of_user(Dataset(context.settings.lake_uri, "transactions"), config.user, config.at)
    if rows.num_rows == 0 and len(kept) == 0:
        raise BadInputError(f"nobody knows user {config.user!r} within 30 days of {config.at:%Y-%m-%d}")
    in_lake = {id_hash(row["transaction_id"]): row for row in rows.to_pylist()}
    sequences = {int(entry): base + i for i, entry in enumerate(order.ids)}
    events = [_from_lake(row, sequences.get(entry), at_us, config.at) for entry, row in in_lake.items()]
    events += [
        _from_store(kept[sequence - base], sequence, at_us)
        for entry, sequence in sequences.items()
        if entry not in in_lake and sequence - base < len(kept)
    ]
    inside = [event for event in events if event.windows]
    known = rows.filter(pc.less(rows["created_timestamp"], pa.scalar(config.at)))
    known_newest = max((_us(row["event_timestamp"]) for row in known.to_pylist()), default=0)
    return Result(
        user=config.user, at=config.at.astimezone(UTC),
        online=_named(evaluate(kept[-MAX_EVENTS:], newest_us, at_us)),
        batch=_named(evaluate(_records(known)[-MAX_EVENTS:], known_newest, at_us)),
        events=tuple(sorted(inside, key=lambda e: (e.event_time, e.merchant_id), reverse=True)),
    )  # fmt: skip


def _of_user(transactions: Dataset, user: str, at: datetime) -> pa.Table:
    """The user's rows around the longest window, in the order in which they were learned of."""
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
    learned = row["created_timestamp"]
    late = isinstance(learned, datetime) and learned >= at
    layer = "store and lake" if sequence is not None else "lake, not known yet" if late else "lake"
    return Event.model_validate(
        {"event_time": row["event_timestamp"], "learned": learned, "amount": row["amount"],
         "merchant_id": row["merchant_id"], "windows": _windows(_us(row["event_timestamp"]), at_us),
         "sequence": sequence, "layer": layer}
    )  # fmt: skip


def _from_store(record: np.void, sequence: int, at_us: int) -> Event:
    event_us, units, merchant = (int(value) for value in record.tolist())
    return Event(
        event_time=_EPOCH + timedelta(microseconds=event_us), learned=None, amount=units / UNITS_PER_USD,
        merchant_id=f"#{merchant:016x}", windows=_windows(event_us, at_us), sequence=sequence, layer="store",
    )  # fmt: skip


def _windows(event_us: int, at_us: int) -> tuple[str, ...]:
    return tuple(f.name for f in WINDOW_FEATURES if at_us - f.window_us <= event_us < at_us)


def _us(moment: object) -> int:
    if not isinstance(moment, datetime):
        raise TypeError(f"not a time: {moment!r}")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _named(values: WindowValues) -> dict[str, float | None]:
    return dict(zip(WINDOW_NAMES, values, strict=True))


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:,.4f}".rstrip("0").rstrip(".")
