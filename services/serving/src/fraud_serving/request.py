"""The request of the API: its type, built from the declarations of the loaded versions, and its validation.

Built-in fields and bounds come from `fraud.core.contract`, declared ones from the versions' declarations. msgspec
enforces types and bounds while parsing, and the OpenAPI document is generated from the same types. Without a version
only the built-in fields are checked, so that no payment is refused because no model is loaded.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from fraud.core import columns, contract, short_request
from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, IdColumn, NumberColumn
from fraud.core.plan import Plan
from fraud_serving.schema import MAX_BATCH_ROWS, ContractError

_Text = Annotated[str, Meta(max_length=contract.MAX_ID_LENGTH)]
_Id = Annotated[str, Meta(min_length=1, max_length=contract.MAX_ID_LENGTH)]
_FIELDS: Final[tuple[tuple[str, Any], ...]] = (
    (
        "amount",
        Annotated[
            float,
            Meta(
                gt=0.5 / contract.UNITS_PER_USD,
                le=contract.MAX_AMOUNT,
                description="USD; rounded half to even to 1/10,000",
                examples=[4999.99],
            ),
        ],
    ),
    ("transaction_id", Annotated[_Id, Meta(description="idempotency key: a retry must send the same value")] | None),
    ("user_id", Annotated[_Id, Meta(description="the cardholder; selects the stored history")] | None),
    ("merchant_id", _Id | None),
    (
        "event_timestamp",
        Annotated[datetime, Meta(tz=True, description="when the customer paid, RFC 3339 with a zone")] | None,
    ),
    (
        "hour_of_day",
        Annotated[int, Meta(ge=0, le=23, description="UTC; must agree with event_timestamp if both are given")] | None,
    ),
    (
        "day_of_week",
        Annotated[
            int, Meta(ge=0, le=6, description="Monday = 0, UTC; must agree with event_timestamp if both are given")
        ]
        | None,
    ),
    (
        short_request.VELOCITY,
        Annotated[
            float,
            Meta(ge=0, le=1e6, description="number of the user's payments in the hour before; ignored with user_id"),
        ]
        | None,
    ),
)
"""The fields that every request type has. All but the amount may be null or left out."""
_UNUSED: Final = {
    short_request.CATEGORY: Annotated[_Text, Meta(description="not used by the loaded version")] | None,
    short_request.DISTANCE: Annotated[
        float, Meta(ge=0, le=short_request.MAX_DISTANCE, description="miles; not used by the loaded version")
    ]
    | None,
}
"""Fields of the short request, for versions that do not declare them."""
USER_ID, MERCHANT_ID, AMOUNT = range(3)
"""Positions of the built-in columns in `VersionColumns.names`."""


class ValidTransaction(Struct, frozen=True, gc=False):
    """A transaction that satisfies the contract, in the platform's units."""

    request: Any
    """The request as it was parsed; its fields are those of the request type."""
    transaction_id: str | None
    units: int
    """amount, 1/10,000 USD."""
    event_us: int | None
    hour: int
    weekday: int
    values: list[Any]
    """Checked values in the order of the production version's `VersionColumns.names`. None is null."""
    challenger: list[Any] | None
    """The same for the challenger; None without one."""

    @property
    def user_id(self) -> str | None:
        found: str | None = self.values[USER_ID]
        return found

    @property
    def merchant_id(self) -> str | None:
        found: str | None = self.values[MERCHANT_ID]
        return found

    @property
    def amount(self) -> float:
        """USD, rounded."""
        found: float = self.values[AMOUNT]
        return found


class ColumnCheck(NamedTuple):
    """The check of a declared column, for many transactions at once."""

    at: int
    """Position of the column."""
    known: Mapping[str, str]
    """The checked value of most values."""
    check: Callable[[Any], Any]
    """The checked value of another one. Raises ContractError."""
    null: str | None
    """What stands for null."""
    is_id: bool


class VersionColumns:
    """The columns of one version's transactions: the built-in ones, then the declared ones by name.

    `types`: the columns of the request type. A column that another version declares with another type is null here.
    """

    def __init__(self, plan: Plan | None, types: Mapping[str, Column]) -> None:
        declared = {} if plan is None else dict(plan.declaration.columns)
        self.declared: Final = tuple(sorted(declared))
        self.names: Final = ("user_id", "merchant_id", "amount", *self.declared)
        self.get: Final = attrgetter(*self.names)
        """The values of a request, not yet checked."""
        self._checks: list[tuple[int, Callable[[Any], Any], str | None]] = [
            (USER_ID, _own_id("user_id"), None), (MERCHANT_ID, _own_id("merchant_id"), None),
        ]  # fmt: skip
        """Position of a column, check of a value, and the value that stands for null."""
        self.column_checks: Final = list[ColumnCheck]()
        """Of the declared columns."""
        for at, name in enumerate(self.declared, AMOUNT + 1):
            column = declared[name]
            null = column.unknown if isinstance(column, CategoryColumn) else None
            check = _check(name, column) if types[name].type == column.type else _constant(null)
            if check is not None:
                self._checks.append((at, check, null))
                of_list = (
                    column.values if isinstance(column, CategoryColumn) and types[name].type == column.type else ()
                )
                known = {text: text for text in of_list or ()}
                is_id = isinstance(column, IdColumn) and types[name].type == column.type
                self.column_checks.append(ColumnCheck(at, known, check, null, is_id))

    def read(self, request: Any, amount: float) -> list[Any]:  # noqa: ANN401 - its type is built at run time
        """The checked values of a request, in the order of `names`. Raises ContractError."""
        values = list(self.get(request))
        values[AMOUNT] = amount
        for at, check, null in self._checks:
            value = values[at]
            values[at] = null if value is None else check(value)
        return values


def _constant(value: str | None) -> Callable[[Any], str | None]:
    return lambda _value: value


def _check(name: str, column: Column) -> Callable[[Any], Any] | None:
    """What is left to check of a value that is not null, beyond its type and bounds; None for nothing."""
    if isinstance(column, NumberColumn):
        if column.decimals is None:
            return None
        scale = float(10**column.decimals)
        return lambda value: round(value * scale) / scale
    if isinstance(column, CategoryColumn):
        return _category(name, column)
    return _declared_id(name) if isinstance(column, IdColumn) else None


def _category(name: str, column: CategoryColumn) -> Callable[[str], str]:
    known = {text: text for text in column.values or ()}

    def check(text: str) -> str:
        found = known.get(text)
        if found is not None:
            return found
        try:
            return columns.category(column, text)
        except ValueError as error:
            raise ContractError(name, f"{error}, got {text!r}") from None

    return check


def _own_id(name: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            found = contract.id_text(text)
        except ValueError as error:
            raise ContractError(name, f"{error}, got {text!r}") from None
        if not found:
            raise ContractError(name, f"expected an id, got {text!r}: leave the field out if there is none")
        return found

    return check


def _declared_id(name: str) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        try:
            return columns.identifier(text)
        except ValueError as error:
            raise ContractError(name, f"{error}, got {text!r}") from None

    return check


_transaction_id: Final = _own_id("transaction_id")


class RequestType:
    """The type of a transaction for the loaded versions, with its decoders. Immutable.

    It has the columns of both versions; where they differ, those of production.
    """

    def __init__(self, production: Plan | None, challenger: Plan | None) -> None:
        declared: dict[str, Column] = {}
        for plan in (challenger, production):
            declared |= {} if plan is None else plan.declaration.columns
        self.columns: Final[Mapping[str, Column]] = {name: declared[name] for name in sorted(declared)}
        strict = production is not None or challenger is not None
        fields: list[str | tuple[str, Any] | tuple[str, Any, Any]] = [_FIELDS[0]]
        fields += [(name, kind, None) for name, kind in _FIELDS[1:]]
        fields += [(name, _type_of(column), None) for name, column in self.columns.items()]
        fields += [(name, kind, None) for name, kind in _UNUSED.items() if strict and name not in self.columns]
        self.transaction: Final[type[Struct]] = msgspec.defstruct(
            "Transaction", fields, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=strict,
            namespace={"__doc__": _DESCRIPTION},
        )  # fmt: skip
        rows = Annotated[list[self.transaction], Meta(min_length=1, max_length=MAX_BATCH_ROWS)]  # type: ignore[name-defined]
        self.batch: Final[type[Struct]] = msgspec.defstruct(
            "Batch", [("transactions", rows)], frozen=True, forbid_unknown_fields=strict,
            namespace={"__doc__": "Several payments, scored in the given order by one model version."},
        )  # fmt: skip
        self.production: Final = VersionColumns(production, self.columns)
        self.challenger: Final = None if challenger is None else VersionColumns(challenger, self.columns)
        self._decode = msgspec.json.Decoder(self.transaction).decode
        self._decode_batch = msgspec.json.Decoder(self.batch).decode

    def parse(self, body: bytes) -> Any:  # noqa: ANN401 - an instance of `transaction`
        """The body of POST /predict. Raises ContractError."""
        try:
            return self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _explained(error) from None

    def parse_batch(self, body: bytes) -> list[Any]:
        """The body of POST /predict/batch. Raises ContractError."""
        try:
            return self._decode_batch(body).transactions  # type: ignore[attr-defined,no-any-return]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _explained(error) from None

    def validated(self, request: Any, latest_us: int) -> ValidTransaction:  # noqa: ANN401 - as `parse` returns it
        """Check the rules that the types cannot express. Raises ContractError.

        An event time after `latest_us` (us, UTC) is refused: the caller's clock is wrong.
        """
        try:
            units = contract.amount_units(request.amount)
        except ValueError as error:
            raise ContractError("amount", str(error)) from None
        amount = units / contract.UNITS_PER_USD
        transaction_id = request.transaction_id
        if transaction_id is not None:
            transaction_id = _transaction_id(transaction_id)
        values = self.production.read(request, amount)
        if request.user_id is not None and (
            transaction_id is None or request.merchant_id is None or request.event_timestamp is None
        ):
            missing = next(n for n in _WITH_USER if getattr(request, n) is None)
            raise ContractError(missing, "is required with user_id")
        if request.event_timestamp is not None:
            event_us, hour, weekday = _moment(request, latest_us)
        elif request.hour_of_day is None or request.day_of_week is None:
            missing = "hour_of_day" if request.hour_of_day is None else "day_of_week"
            raise ContractError(missing, "hour_of_day and day_of_week are required without event_timestamp")
        else:
            event_us, hour, weekday = None, request.hour_of_day, request.day_of_week
        challenger = None if self.challenger is None else self.challenger.read(request, amount)
        return ValidTransaction(request, transaction_id, units, event_us, hour, weekday, values, challenger)


_WITH_USER: Final = ("transaction_id", "merchant_id", "event_timestamp")
_DESCRIPTION: Final = """One payment to score. Requires `event_timestamp`, or `hour_of_day` and `day_of_week`.

With `user_id` the decision uses the stored histories; `transaction_id`, `merchant_id` and `event_timestamp` are then
required too.
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PATH: Final = re.compile(r"^(?P<reason>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_NAMED: Final = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<name>.*?)`", re.DOTALL)


def _type_of(column: Column) -> Any:  # noqa: ANN401 - a type for msgspec
    if isinstance(column, NumberColumn):
        text = f"{column.unit}; leave out if unknown"
        return Annotated[float, Meta(ge=column.min, le=column.max, description=text)] | None
    if isinstance(column, CategoryColumn):
        values = column.values or (column.unknown,)
        text = f"one of {', '.join(values)}; any other value, null or a missing field becomes {column.unknown}"
        return Annotated[_Text, Meta(description=text, examples=[values[0]])] | None
    if isinstance(column, FlagColumn):
        return Annotated[bool, Meta(description="leave out if unknown")] | None
    return Annotated[_Text, Meta(description="an id; leave out if there is none")] | None


class NotJsonError(ContractError):
    """The body is not JSON in UTF-8."""


def _explained(error: msgspec.DecodeError | UnicodeDecodeError) -> ContractError:
    if not isinstance(error, msgspec.ValidationError):
        return NotJsonError("", f"the body is not JSON in UTF-8: {error}")
    found = _PATH.match(str(error))
    reason, path = (found["reason"], found["path"] or "") if found else (str(error), "")
    named = _NAMED.match(reason)
    field = ".".join(part for part in (path, named["name"] if named else "") if part)
    return ContractError(field[:256], reason[:512])


def _moment(request: Any, latest_us: int) -> tuple[int, int, int]:  # noqa: ANN401 - as `parse` returns it
    timestamp = request.event_timestamp
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
