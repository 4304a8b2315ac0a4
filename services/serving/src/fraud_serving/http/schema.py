"""The wire contract: what a caller sends, what it gets back, and what becomes of a request that breaks the contract.

Types and bounds are those of `fraud.core.contract`; msgspec enforces them while it parses, and the OpenAPI document is
made from the same declarations.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from fraud.core import contract

MAX_BATCH_ROWS: Final = 10_000
History = Literal["store", "request", "none"]

Id = Annotated[str, Meta(min_length=1, max_length=contract.MAX_ID_LENGTH)]


class Transaction(Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """One payment to decide on. Either `event_timestamp`, or `hour_of_day` and `day_of_week`.

    With `user_id` the decision uses the user's own stored history; `transaction_id`, `merchant_id` and
    `event_timestamp` are then needed too.
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
                description=f"one of {', '.join(contract.CATEGORIES)}; any other, null or none is taken as "
                f"{contract.OTHER}",
                examples=["electronics"],
            ),
        ]
        | None
    ) = None
    distance_from_home: (
        Annotated[float, Meta(ge=0, le=contract.MAX_DISTANCE, description="miles; leave out when unknown")] | None
    ) = None
    transaction_id: Annotated[Id, Meta(description="the idempotency key: a retry must repeat it")] | None = None
    user_id: Annotated[Id, Meta(description="whose card it is; brings in the stored history")] | None = None
    merchant_id: Id | None = None
    event_timestamp: (
        Annotated[datetime, Meta(tz=True, description="when the customer paid, RFC 3339 with a zone")] | None
    ) = None
    hour_of_day: (
        Annotated[int, Meta(ge=0, le=23, description="UTC; where event_timestamp is given it must agree")] | None
    ) = None
    day_of_week: (
        Annotated[int, Meta(ge=0, le=6, description="Monday = 0, UTC; must agree with event_timestamp")] | None
    ) = None
    transaction_velocity: (
        Annotated[
            float,
            Meta(ge=0, le=1e6, description="the user's payments in the hour before; not used when user_id is given"),
        ]
        | None
    ) = None


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Many payments at once, decided in the order given by one version of the model."""

    transactions: Annotated[list[Transaction], Meta(min_length=1, max_length=MAX_BATCH_ROWS)]


class Reason(Struct, frozen=True, gc=False):
    """How much one input moved the decision away from that on an ordinary payment."""

    code: Annotated[
        Literal[
            "amount", "hour_of_day", "day_of_week", "distance_from_home", "merchant_category",
            "transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d",
        ],
        Meta(description="the input"),
    ]  # fmt: skip
    contribution: Annotated[
        float, Meta(description="share of fraud_probability above (or, negative, below) an ordinary payment's")
    ]
    value: Annotated[float | str | None, Meta(description="as the model saw it; null where it was not known")]
    ordinary: Annotated[float | str | None, Meta(description="of the payment it is compared with")]


class Answer(Struct, frozen=True, gc=False):
    """The decision on one payment."""

    prediction_id: Annotated[str, Meta(description="names this answer in the prediction log")]
    transaction_id: str | None
    is_fraud: Annotated[bool, Meta(description="fraud_probability >= threshold")]
    fraud_probability: Annotated[float, Meta(ge=0, le=1)]
    threshold: Annotated[float, Meta(description="of the model version that decided")]
    model_version: Annotated[str, Meta(description='registered version, or "rule" when no model could be loaded')]
    merchant_category: Annotated[str, Meta(description="as it was understood")]
    history: Annotated[
        History,
        Meta(
            description='where the window features came from: "store" the user\'s stored history, "request" the '
            'caller\'s transaction_velocity, "none" the documented imputation'
        ),
    ]
    degraded: Annotated[bool, Meta(description="true when the online store could not be used, or no model was there")]
    repeated: Annotated[bool, Meta(description="true when this is the remembered answer to an earlier attempt")] = False
    reasons: Annotated[
        list[Reason] | UnsetType,
        Meta(description="only with ?explain=true: the inputs that moved the probability most, largest first"),
    ] = UNSET


class Answers(Struct, frozen=True):
    """The decisions on a batch, in its order."""

    model_version: str
    predictions: list[Answer]


class Problem(Struct, frozen=True, omit_defaults=True):
    """Why a request was not answered, in words a client can act on."""

    error: Annotated[str, Meta(description="what kind of problem, constant text")]
    reason: Annotated[str, Meta(description="what was expected and what came")]
    field: Annotated[str | None, Meta(description="the field at fault, as transactions[3].amount in a batch")] = None


class Facts(NamedTuple):
    """A transaction that keeps the contract, in the platform's own units."""

    given: Transaction
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
    """A request breaks the contract: `field` is where ("" when nowhere), `reason` says why."""

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


def explain_asked(query: bytes) -> bool:
    """Whether the query string asks for reasons. Raises ContractError when it says neither true nor false."""
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


def facts(given: Transaction, latest_us: int) -> Facts:
    """Check what the types cannot say. `latest_us`: a later event time is from a wrong clock. Raises ContractError.

    `given` of the result has its ids without the spaces around them.
    """
    given = _with_ids(given)
    try:
        units = contract.amount_units(given.amount)
    except ValueError as error:
        raise ContractError("amount", str(error)) from None
    if given.user_id is not None:
        for name in ("transaction_id", "merchant_id", "event_timestamp"):
            if getattr(given, name) is None:
                raise ContractError(name, "is needed where user_id is given")
    if given.event_timestamp is not None:
        event_us, hour, weekday = _moment(given.event_timestamp, given, latest_us)
    elif given.hour_of_day is None or given.day_of_week is None:
        missing = "hour_of_day" if given.hour_of_day is None else "day_of_week"
        raise ContractError(missing, "is needed, and so is its companion, where event_timestamp is not given")
    else:
        event_us, hour, weekday = None, given.hour_of_day, given.day_of_week
    category = contract.CATEGORY_INDEX.get(given.merchant_category or "", contract.OTHER_INDEX)
    return Facts(given, units, units / contract.UNITS_PER_USD, event_us, hour, weekday, category)


def _with_ids(given: Transaction) -> Transaction:
    changed = {}
    for name in ("transaction_id", "user_id", "merchant_id"):
        text = getattr(given, name)
        if text is None:
            continue
        try:
            found = contract.id_text(text)
        except ValueError as error:
            raise ContractError(name, f"{error}, got {text!r}") from None
        if not found:
            raise ContractError(name, f"expected an id, got {text!r}: leave the field out where there is none")
        if found != text:
            changed[name] = found
    return msgspec.structs.replace(given, **changed) if changed else given


def _moment(timestamp: datetime, given: Transaction, latest_us: int) -> tuple[int, int, int]:
    since = timestamp - _EPOCH
    event_us = (since.days * 86_400 + since.seconds) * contract.US_PER_SECOND + since.microseconds
    if not contract.MIN_EVENT_US <= event_us <= latest_us:
        bound = "2000-01-01" if event_us < contract.MIN_EVENT_US else "our clock by more than a day"
        before = "before" if event_us < contract.MIN_EVENT_US else "ahead of"
        raise ContractError("event_timestamp", f"must not be {before} {bound}, got {timestamp.isoformat()}")
    hour, weekday = contract.hour_of_day(event_us), contract.day_of_week(event_us)
    if given.hour_of_day is not None and given.hour_of_day != hour:
        raise ContractError("hour_of_day", f"event_timestamp says {hour} (UTC), got {given.hour_of_day}")
    if given.day_of_week is not None and given.day_of_week != weekday:
        raise ContractError("day_of_week", f"event_timestamp says {weekday} (Monday = 0, UTC), got {given.day_of_week}")
    return event_us, hour, weekday
