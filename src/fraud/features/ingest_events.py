"""Append the events of a stream to the online histories, for transactions that do not pass through POST /predict.

An event has the columns of a transaction, also the declared ones, and goes to the history of each of its entities. It
is settled after it was appended, and appending is idempotent. An event that is delivered again after a killed run, or
that was also a request, is therefore counted once. The lake receives these transactions as delivered files.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fraud.core.columns import category, identifier, kind_of, number, to_stored
from fraud.core.contract import (
    MAX_AMOUNT,
    MAX_FUTURE_SKEW_US,
    MAX_ID_LENGTH,
    MIN_EVENT_US,
    UNITS_PER_USD,
    US_PER_SECOND,
    ZONED_TIME,
    amount_units,
    id_text,
)
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn, Column, IdColumn, NumberColumn
from fraud.core.plan import window_sets
from fraud.features import online_store
from fraud.job import Context, JobConfig, JobResult
from fraud.streams import kafka_topic, redis_stream
from fraud.streams.source import EventSource

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Config(JobConfig):
    """The stream, and when to stop."""

    source: Literal["redis", "kafka"] = Field(
        default="redis", description="redis: the online store's server; kafka: the brokers of FRAUD_KAFKA_BROKERS"
    )
    stream: str = Field(
        default="transactions",
        description="Redis stream, each entry with a field `event`, or Kafka topic; an event is JSON",
    )
    group: str = Field(default="online-history", description="consumer group; the readers of a group share the events")
    consumer: str = Field(
        default="one",
        description="name of this reader; after a crash it gets its unsettled events again",
    )
    idle_seconds: float = Field(default=5.0, ge=0, description="stop when no event arrived for this long; 0: never")
    batch: int = Field(default=500, gt=0, description="events read at a time")
    live: bool = Field(
        default=False, description="also append to the histories of versions with an alias, read once at the start"
    )


class Result(JobResult):
    """events = appended + repeated + rejected."""

    events: int
    appended: int
    repeated: int
    """Appended before: delivered twice, or also a request."""
    rejected: int
    """Violated the contract: stored with the reason in the stream `{<stream>}:rejected`, of Kafka in the topic
    `<stream>.rejected`."""


def _id(text: str) -> str:
    found = id_text(text)
    if not found:
        raise ValueError(f"expected an id, got {text!r}")
    return found


def _time(value: object) -> object:
    if not isinstance(value, str) or not ZONED_TIME.fullmatch(value):
        raise ValueError("expected RFC 3339 with a zone")
    return value


_Id = Annotated[str, AfterValidator(_id), Field(max_length=MAX_ID_LENGTH)]
_Time = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_time)]


class TransactionEvent(BaseModel):
    """The built-in columns of a transaction. The declared ones are other fields of the event (`declared_values`)."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    transaction_id: _Id
    user_id: _Id
    merchant_id: _Id
    event_timestamp: _Time
    amount: float = Field(gt=0, le=MAX_AMOUNT)

    def event_us(self) -> int:
        return (self.event_timestamp - _EPOCH) // timedelta(microseconds=1)


def declared_values(columns: Mapping[str, Column], given: Mapping[str, Any]) -> dict[str, float | str | bool | None]:
    """The declared columns of an event, as the platform uses them. Raises ValueError for a value that ingest would
    quarantine; a category that is not in a closed list becomes the column's `unknown`."""
    return {name: _declared(name, column, given.get(name)) for name, column in columns.items()}


def _declared(name: str, column: Column, value: object) -> float | str | bool | None:
    kinds = {"number": (int, float), "flag": (bool,), "category": (str,), "id": (str,)}[column.type]
    if value is not None and (not isinstance(value, kinds) or (column.type == "number" and isinstance(value, bool))):
        raise ValueError(f"{name}: expected {kind_of(column)} or null, got {value!r}")
    try:
        if isinstance(column, NumberColumn):
            return None if value is None else number(column, float(cast("float", value)))
        if isinstance(column, CategoryColumn):
            return category(column, cast("str | None", value))
        return identifier(cast("str | None", value)) if isinstance(column, IdColumn) else cast("bool | None", value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class _Appender:
    """Appends events to every layout of some declarations. Layouts of versions may name columns with other types."""

    def __init__(self, store: online_store.OnlineHistory, declared: Sequence[Declaration]) -> None:
        self._store = store
        self._sets = [
            (declaration.columns, [s.layout for s in window_sets(declaration)]) for declaration in declared
        ]  # fmt: skip
        layouts = sorted({f"layout:{layout.id}" for _, own in self._sets for layout in own})
        if layouts:
            store.mark_written(*layouts)

    def append(self, payload: bytes) -> bool:
        """Append an event; whether every history had it before. Raises ValueError for an invalid one."""
        event = TransactionEvent.model_validate_json(payload)
        units = amount_units(event.amount)
        _check_time(event)
        entries: dict[str, online_store.Event] = {}
        for place, (columns, layouts) in enumerate(self._sets):
            try:
                values = declared_values(columns, event.model_extra or {})
            except ValueError:
                if place == 0:  # the project's declaration decides what is valid, as at ingest
                    raise
                values = dict.fromkeys(columns)
            values |= {"user_id": event.user_id, "merchant_id": event.merchant_id, "amount": units / UNITS_PER_USD}
            for layout in layouts:
                entity_id = values[layout.id_column]
                if entity_id is not None:
                    stored = tuple(to_stored(column, values[column.name]) for column in layout.columns)
                    entries[layout.id] = online_store.Event(layout, str(entity_id), stored)
        if not entries:
            return False
        known = self._store.append_all(event.transaction_id, event.event_us(), list(entries.values()))
        return all(prior.repeated for prior in known)


def _source(config: Config, context: Context) -> AbstractContextManager[EventSource]:
    settings = context.settings
    if config.source == "kafka":
        return kafka_topic.connect(settings, config.stream, config.group, config.consumer)
    url = settings.redis_url.get_secret_value()
    return redis_stream.connect(url, config.stream, config.group, config.consumer, _wait_s(config))


def _wait_s(config: Config) -> float:
    return config.idle_seconds or 5.0


def run(config: Config, context: Context) -> Result:
    """Append events until the stream is idle. Raises UnavailableError when store or stream do not answer."""
    url = context.settings.redis_url.get_secret_value()
    declared = [context.declaration, *(context.live_declarations() if config.live else ())]
    appended = repeated = rejected = 0
    with (
        online_store.connect(url) as store,
        _source(config, context) as source,
    ):
        appender = _Appender(store, declared)
        while True:
            deliveries = source.read(config.batch, _wait_s(config))
            if not deliveries and config.idle_seconds:
                break
            done = []
            for delivery in deliveries:
                try:
                    known = appender.append(delivery.payload)
                except ValueError as error:
                    source.reject(delivery, _reason(error))
                    rejected += 1
                    continue
                repeated += known
                appended += not known
                done.append(delivery)
            source.settle(done)
            if deliveries:
                context.log.info("events processed", appended=appended, repeated=repeated, rejected=rejected)
    return Result(
        events=appended + repeated + rejected, appended=appended, repeated=repeated, rejected=rejected
    )  # fmt: skip


def _check_time(event: TransactionEvent) -> None:
    """Compare the event time with the clock: an event in the far future would remove the history from the windows."""
    latest_us = int(datetime.now(UTC).timestamp() * US_PER_SECOND) + MAX_FUTURE_SKEW_US
    if not MIN_EVENT_US <= event.event_us() <= latest_us:
        raise ValueError(f"event_timestamp must be from 2000 on and at most a day ahead, got {event.event_timestamp}")


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'event'}: {first['msg']}"
    return str(error)
