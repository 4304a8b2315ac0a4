"""The API contract: request and response types, and validation.

Types and bounds come from `fraud.core.contract`. msgspec enforces them while parsing, and the OpenAPI document is
generated from the same declarations.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from fraud.core import contract

MAX_BATCH_ROWS: Final = 10_000
HistorySource = Literal["store", "request", "none"]

Id = Annotated[str, Meta(min_length=1, max_length=contract.MAX_ID_LENGTH)]


class Transaction(Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """One payment to score. Requires `event_timestamp`, or `hour_of_day` and `day_of_week`.

    With `user_id` the decision uses the user's stored history; `transaction_id`, `merchant_id` and
    `event_timestamp` are then required too.
    """

    amount: Annotated[
        float,
        Meta(
            gt=0.5 / contract.UNITS_PER_USD,
            le=contract.MAX_AMOUNT,
            description="USD; rounded half to even to 1/10,000",
            examples=[4999.99],
        ),
    ]
    merchant_category: (
        Annotated[
            str,
            Meta(
                max_length=contract.MAX_ID_LENGTH,
                description=f"one of {', '.join(contract.CATEGORIES)}; any other value, null or a missing "
                f"field becomes {contract.OTHER}",
                examples=["electronics"],
            ),
        ]
        | None
    ) = None
    distance_from_home: (
        Annotated[float, Meta(ge=0, le=contract.MAX_DISTANCE, description="miles; leave out if unknown")] | None
    ) = None
    transaction_id: Annotated[Id, Meta(description="idempotency key: a retry must send the same value")] | None = None
    user_id: Annotated[Id, Meta(description="the cardholder; selects the stored history")] | None = None
    merchant_id: Id | None = None
    event_timestamp: (
        Annotated[datetime, Meta(tz=True, description="when the customer paid, RFC 3339 with a zone")] | None
    ) = None
    hour_of_day: (
        Annotated[int, Meta(ge=0, le=23, description="UTC; must agree with event_timestamp if both are given")] | None
    ) = None
    day_of_week: (
        Annotated[
            int, Meta(ge=0, le=6, description="Monday = 0, UTC; must agree with event_timestamp if both are given")
        ]
        | None
    ) = None
    transaction_velocity: (
        Annotated[
            float,
            Meta(ge=0, le=1e6, description="number of the user's payments in the hour before; ignored with user_id"),
        ]
        | None
    ) = None


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Several payments, scored in the given order by one model version."""

    transactions: Annotated[list[Transaction], Meta(min_length=1, max_length=MAX_BATCH_ROWS)]


class Reason(Struct, frozen=True, gc=False):
    """Contribution of one input to the difference from the reference payment's probability."""

    code: Annotated[
        Literal[
            "amount", "hour_of_day", "day_of_week", "distance_from_home", "merchant_category",
            "transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d",
        ],
        Meta(description="the input"),
    ]  # fmt: skip
    contribution: Annotated[
        float,
        Meta(
            description="part of the difference between fraud_probability and the reference payment's; may be negative"
        ),
    ]
    value: Annotated[float | str | None, Meta(description="input value; null if unknown")]
    ordinary: Annotated[float | str | None, Meta(description="value of the reference payment")]


class Answer(Struct, frozen=True, gc=False):
    """The decision for one payment."""

    prediction_id: Annotated[str, Meta(description="identifies this answer in the prediction log")]
    transaction_id: str | None
    is_fraud: Annotated[bool, Meta(description="fraud_probability >= threshold")]
    fraud_probability: Annotated[float, Meta(ge=0, le=1)]
    threshold: Annotated[float, Meta(description="decision threshold of the model version")]
    model_version: Annotated[str, Meta(description='registered version, or "rule" while no model is loaded')]
    merchant_category: Annotated[str, Meta(description="category used for the decision")]
    history: Annotated[
        HistorySource,
        Meta(
            description='source of the window features: "store" is the user\'s stored history, "request" the '
            'transaction_velocity of the request, "none" the documented imputation'
        ),
    ]
    degraded: Annotated[bool, Meta(description="true if the online store was not available or no model was loaded")]
    repeated: Annotated[bool, Meta(description="true for a retry: the stored answer of the first attempt")] = False
    reasons: Annotated[
        list[Reason] | UnsetType,
        Meta(description="only with ?explain=true: the inputs with the largest contributions, in descending order"),
    ] = UNSET


class Answers(Struct, frozen=True):
    """The decisions for a batch, in the order of the request."""

    model_version: str
    predictions: list[Answer]


class Problem(Struct, frozen=True, omit_defaults=True):
    """Error body of every status except 200."""

    error: Annotated[str, Meta(description="kind of error, a constant")]
    reason: Annotated[str, Meta(description="what was expected and what was received")]
    field: Annotated[str | None, Meta(description="the invalid field; transactions[3].amount in a batch")] = None


class ValidTransaction(NamedTuple):
    """A transaction that satisfies the contract, in the platform's units."""

    request: Transaction
    """The request, its ids without surrounding spaces."""
    units: int
    """amount, 1/10,000 USD."""
    amount: float
    """USD, rounded."""
    event_us: int | None
    hour: int
    weekday: int
    category: int
    """Index into contract.CATEGORIES."""


class ContractError(Exception):
    """A request violates the contract. `field` is "" if no single field is invalid."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field, self.reason = field, reason


_transaction = msgspec.json.Decoder(Transaction)
_batch = msgspec.json.Decoder(Batch)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PATH: Final = re.compile(r"^(?P<reason>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_NAMED: Final = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<name>.*?)`", re.DOTALL)


def parse(body: bytes) -> Transaction:
    """The body of POST /predict. Raises ContractError."""
    try:
        return _transaction.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explained(error) from None


def parse_batch(body: bytes) -> list[Transaction]:
    """The body of POST /predict/batch. Raises ContractError."""
    try:
        return _batch.decode(body).transactions
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explained(error) from None


def explain_requested(query: bytes) -> bool:
    """The value of `explain` in the query string, False without it. Raises ContractError for another value."""
    for part in query.lstrip(b"?").split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"explain":
            if value not in (b"true", b"false"):
                raise ContractError("explain", "expected true or false")
            return value == b"true"
    return False


def _explained(error: msgspec.DecodeError | UnicodeDecodeError) -> ContractError:
    if not isinstance(error, msgspec.ValidationError):
        return ContractError("", f"the body is not JSON in UTF-8: {error}")
    found = _PATH.match(str(error))
    reason, path = (found["reason"], found["path"] or "") if found else (str(error), "")
    named = _NAMED.match(reason)
    field = ".".join(part for part in (path, named["name"] if named else "") if part)
    return ContractError(field[:256], reason[:512])


def validated(request: Transaction, latest_us: int) -> ValidTransaction:
    """Check the rules that the types cannot express. Raises ContractError.

    An event time after `latest_us` (us, UTC) is refused: the caller's clock is wrong.
    """
    request = _with_ids(request)
    try:
        units = contract.amount_units(request.amount)
    except ValueError as error:
        raise ContractError("amount", str(error)) from None
    if request.user_id is not None:
        for name in ("transaction_id", "merchant_id", "event_timestamp"):
            if getattr(request, name) is None:
                raise ContractError(name, "is required with user_id")
    if request.event_timestamp is not None:
        event_us, hour, weekday = _moment(request.event_timestamp, request, latest_us)
    elif request.hour_of_day is None or request.day_of_week is None:
        missing = "hour_of_day" if request.hour_of_day is None else "day_of_week"
        raise ContractError(missing, "hour_of_day and day_of_week are required without event_timestamp")
    else:
        event_us, hour, weekday = None, request.hour_of_day, request.day_of_week
    category = contract.CATEGORY_INDEX.get(request.merchant_category or "", contract.OTHER_INDEX)
    return ValidTransaction(request, units, units / contract.UNITS_PER_USD, event_us, hour, weekday, category)


def _with_ids(request: Transaction) -> Transaction:
    changed = {}
    for name in ("transaction_id", "user_id", "merchant_id"):
        text = getattr(request, name)
        if text is None:
            continue
        try:
            found = contract.id_text(text)
        except ValueError as error:
            raise ContractError(name, f"{error}, got {text!r}") from None
        if not found:
            raise ContractError(name, f"expected an id, got {text!r}: leave the field out if there is none")
        if found != text:
            changed[name] = found
    return msgspec.structs.replace(request, **changed) if changed else request


def _moment(timestamp: datetime, request: Transaction, latest_us: int) -> tuple[int, int, int]:
    since = timestamp - _EPOCH
    event_us = (since.days * 86_400 + since.seconds) * contract.US_PER_SECOND + since.microseconds
    if not contract.MIN_EVENT_US <= event_us <= latest_us:
        bound = "2000-01-01" if event_us < contract.MIN_EVENT_US else "the server's clock by more than a day"
        before = "before" if event_us < contract.MIN_EVENT_US else "ahead of"
        raise ContractError("event_timestamp", f"must not be {before} {bound}, got {timestamp.isoformat()}")
    hour, weekday = contract.hour_of_day(event_us), contract.day_of_week(event_us)
    if request.hour_of_day is not None and request.hour_of_day != hour:
        raise ContractError("hour_of_day", f"event_timestamp has hour {hour} (UTC), got {request.hour_of_day}")
    if request.day_of_week is not None and request.day_of_week != weekday:
        raise ContractError(
            "day_of_week", f"event_timestamp has day {weekday} (Monday = 0, UTC), got {request.day_of_week}"
        )
    return event_us, hour, weekday
