"""Append the events of a stream to the online histories, for transactions that do not pass through POST /predict.

An event is settled after it was appended, and appending is idempotent. An event that is delivered again after a killed
run, or that was also a request, is therefore counted once. The lake receives these transactions as delivered files.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fraud.core.contract import (
    MAX_AMOUNT,
    MAX_DISTANCE,
    MAX_FUTURE_SKEW_US,
    MAX_ID_LENGTH,
    MIN_EVENT_US,
    US_PER_SECOND,
    ZONED_TIME,
    amount_units,
    id_text,
)
from fraud.features import event_stream, online_store
from fraud.job import Context, JobConfig, JobResult

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Config(JobConfig):
    """The stream, and when to stop."""

    stream: str = Field(default="transactions", description="Redis stream; each entry has a field `event`, JSON")
    group: str = Field(default="online-history", description="consumer group; the readers of a group share the events")
    consumer: str = Field(
        default="one", description="name of this reader; after a crash it gets its unsettled events again"
    )
    idle_seconds: float = Field(default=5.0, ge=0, description="stop when no event arrived for this long; 0: never")
    batch: int = Field(default=500, gt=0, description="events read at a time")


class Result(JobResult):
    """events = appended + repeated + rejected."""

    events: int
    appended: int
    repeated: int
    """Appended before: delivered twice, or also a request."""
    rejected: int
    """Violated the contract: stored in `<stream>:rejected` with the reason."""


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
    """A transaction of the contract. Category and distance are not stored in the history, but validated, since ingest
    would quarantine an invalid row. Other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    transaction_id: _Id
    user_id: _Id
    merchant_id: _Id
    event_timestamp: _Time
    amount: float = Field(gt=0, le=MAX_AMOUNT)
    merchant_category: str | None = None
    distance_from_home: float | None = Field(default=None, ge=0, le=MAX_DISTANCE)

    def event_us(self) -> int:
        return (self.event_timestamp - _EPOCH) // timedelta(microseconds=1)


def run(config: Config, context: Context) -> Result:
    """Append events until the stream is idle. Raises UnavailableError when store or stream do not answer."""
    url = context.settings.redis_url.get_secret_value()
    appended = repeated = rejected = 0
    with (
        online_store.connect(url) as store,
        event_stream.connect(url, config.stream, config.group, config.consumer) as source,
    ):
        while True:
            deliveries = source.read(config.batch, config.idle_seconds or 5.0)
            if not deliveries and config.idle_seconds:
                break
            done = []
            for delivery in deliveries:
                try:
                    event = TransactionEvent.model_validate_json(delivery.payload)
                    units = amount_units(event.amount)
                    _check_time(event)
                except ValueError as error:
                    source.reject(delivery, _reason(error))
                    rejected += 1
                    continue
                prior = store.append(event.user_id, event.transaction_id, event.event_us(), units, event.merchant_id)
                repeated += prior.repeated
                appended += not prior.repeated
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
