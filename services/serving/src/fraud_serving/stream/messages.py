"""A message of the topic `transactions`: its transaction, or why it is rejected; the headers of what is published."""

from collections.abc import Sequence
from typing import Final

from confluent_kafka import Message
from msgspec import Struct

from fraud_serving.request import USER_ID, NotJsonError, RequestType, ValidTransaction
from fraud_serving.request_batch import all_valid
from fraud_serving.schema import ContractError
from fraud_serving.tracing.trace import valid_traceparent

Headers = list[tuple[str, str | bytes | None]]
TRACE: Final = "traceparent"
VERSION: Final = "model-version"
REJECTED: Final = "rejected-"
"""Prefix of the headers that are added to a rejected message."""


class Rejection(Struct, frozen=True):
    """Why a message is not scored. `field` is "" if no single field is invalid."""

    reason: str
    detail: str
    field: str = ""


def read_all(
    messages: Sequence[Message], requests: RequestType, max_bytes: int, latest_us: int
) -> Sequence[ValidTransaction | Rejection]:
    """`read` of each message of a batch; most batches are valid and take a third of the time."""
    return _all_valid(messages, requests, max_bytes, latest_us) or [
        read(message, requests, max_bytes, latest_us) for message in messages
    ]


def _all_valid(
    messages: Sequence[Message], requests: RequestType, max_bytes: int, latest_us: int
) -> Sequence[ValidTransaction] | None:
    """The transactions of the messages; None if one may have to be rejected, or has to be checked alone."""
    keys, values = [message.key() for message in messages], [message.value() for message in messages]
    if None in values or max(map(len, values)) > max_bytes:  # type: ignore[arg-type] # none is None
        return None
    try:
        parsed = [requests.parse(value) for value in values]  # type: ignore[arg-type]
    except ContractError:
        return None
    found = all_valid(requests, parsed, latest_us)
    if found is None or [of.values[USER_ID].encode() for of in found] != keys:
        return None
    return found


def read(message: Message, requests: RequestType, max_bytes: int, latest_us: int) -> ValidTransaction | Rejection:
    """The transaction of a message: its value is the body of POST /predict, its key the user's id."""
    key, value = message.key(), message.value()
    if not key or value is None or len(value) > max_bytes:
        return _unreadable(key, value, max_bytes)
    try:
        transaction = requests.validated(requests.parse(value), latest_us)
    except ContractError as error:
        return Rejection("not_json" if isinstance(error, NotJsonError) else "invalid", error.reason, error.field)
    user_id = transaction.user_id
    if user_id is None:
        return Rejection("no_user", "expected a user_id", "user_id")
    if user_id.encode() != key:
        return Rejection("key_mismatch", f"expected the key {user_id!r} (user_id), got {key[:256]!r}", "user_id")
    return transaction


def _unreadable(key: bytes | None, value: bytes | None, max_bytes: int) -> Rejection:
    if not key:
        return Rejection("no_key", "expected the user_id as the key, got none")
    if value is None:
        return Rejection("no_value", "expected the body of POST /predict, got a message without value")
    return Rejection("too_large", f"expected a value of at most {max_bytes} bytes, got {len(value)}")


def version_headers(version: str) -> Headers:
    """The headers of a decision of a transaction without trace."""
    return [(VERSION, version)]


def decision_headers(message: Message, of_version: Headers) -> Headers:
    """The headers of a decision: those of its version, and the trace of the transaction."""
    return of_version + [(name, value) for name, value in _headers(message) if name == TRACE][:1]


def traceparent(message: Message) -> str | None:
    """The trace of a message; None without a valid one."""
    value = next((value for name, value in _headers(message) if name == TRACE), None)
    return valid_traceparent(value) if isinstance(value, bytes) else None


def rejected_headers(message: Message, rejection: Rejection) -> Headers:
    """The headers of a rejected message: its own ones and where it was, and why it is rejected."""
    value = message.value()
    added = {
        "reason": rejection.reason, "detail": rejection.detail, "field": rejection.field,
        "topic": message.topic(), "partition": message.partition(), "offset": message.offset(),
        "timestamp-ms": message.timestamp()[1], "bytes": 0 if value is None else len(value),
    }  # fmt: skip
    own = [(name, of) for name, of in _headers(message) if not name.startswith(REJECTED)]
    return [*own, *((REJECTED + name, str(of)) for name, of in added.items())]


def _headers(message: Message) -> Headers:
    given = message.headers()
    return list(given.items()) if isinstance(given, dict) else list(given or [])
