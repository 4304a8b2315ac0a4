"""The OpenAPI document: FastAPI's, with `POST /predict` and `POST /predict/batch` added from the request types."""

from copy import deepcopy
from typing import Any, Final

import msgspec
from fastapi import FastAPI

from fraud.core import short_request
from fraud.core.columns import kind_of
from fraud.core.declaration_types import CategoryColumn, Column, FlagColumn, NumberColumn
from fraud_serving.schema import Answer, Answers, Problem, Reason
from fraud_serving.scoring.state import State

_REFERENCE: Final = "#/components/schemas/{name}"
SHORT_EXAMPLE: Final = {
    "amount": 4999.99, short_request.CATEGORY: "electronics", "hour_of_day": 3, "day_of_week": 2,
    short_request.VELOCITY: 12.0, short_request.DISTANCE: 850.5,
}  # fmt: skip
_IDS_EXAMPLE: Final = {
    "transaction_id": "t-7f3a", "user_id": "u-1042", "merchant_id": "m-88",
    "event_timestamp": "2026-03-04T03:12:45.120000Z", "amount": 4999.99,
}  # fmt: skip
ANSWER_EXAMPLE: Final = {
    "prediction_id": "5591704a0064c8d3-1f", "transaction_id": "t-7f3a", "is_fraud": True, "fraud_probability": 0.8315,
    "threshold": 0.21, "model_version": "7", "categories": {}, "history": "store",
    "degraded": False, "repeated": False,
}  # fmt: skip
PROBLEM_EXAMPLE: Final = {"error": "invalid", "reason": "Expected `float` <= 1000000000.0", "field": "amount"}
_REFUSALS: Final = {
    "400": "The bytes are not one well-formed HTTP/1.1 request. The connection is closed.",
    "401": "The X-API-Key header is missing or unknown. Not used if the service runs without keys.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large, as sent or decompressed.",
    "414": "The path and query are too long. The connection is closed.",
    "415": "`Content-Encoding` is not `gzip`.",
    "422": "The body violates the contract: see `field` and `reason`. Do not retry it unchanged.",
    "429": "Too many requests are in progress, or this client's rate is used up. Retry after `Retry-After` seconds.",
    "431": "The headers are too long. The connection is closed.",
}
_HEAD: Final = ("/health", "/ready")
"""Paths that load balancers and monitors request by HEAD."""
PROBLEM: Final = {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Problem")}}}
OPTIONAL_KEY: Final[list[dict[str, list[str]]]] = [{"key": []}, {}]


_BODY: Final = (
    "JSON in UTF-8, with `Content-Length` or chunked. With `Content-Encoding: gzip` it is decompressed; the size limit "
    "applies before and after."
)


def full_example(state: State) -> dict[str, Any]:
    """A payment with ids and with every declared column."""
    return _IDS_EXAMPLE | {name: _example(name, column) for name, column in state.requests.columns.items()}


def _example(name: str, column: Column) -> object:
    if isinstance(column, NumberColumn):
        return round(min(max(column.min, 1.0), column.max), column.decimals or 6)
    if isinstance(column, CategoryColumn):
        return (column.values or (column.unknown,))[0]
    return True if isinstance(column, FlagColumn) else f"{name.removesuffix('_id')}-1"


def answer_example(state: State) -> dict[str, Any]:
    """The answer to such a payment."""
    categories = {
        name: _example(name, column)
        for name, column in ({} if state.production is None else state.production.plan.declaration.columns).items()
        if isinstance(column, CategoryColumn)
    }
    return ANSWER_EXAMPLE | {"categories": categories}


def columns_of(state: State) -> dict[str, str]:
    """Declared column -> its kind, for people."""
    return {name: kind_of(column) for name, column in state.requests.columns.items()}


def _schemas(state: State) -> dict[str, Any]:
    """Component schemas of the request and response types, with the rules between fields."""
    _, components = msgspec.json.schema_components(
        [state.requests.transaction, state.requests.batch, Answer, Answers, Problem, Reason], ref_template=_REFERENCE
    )
    transaction = components["Transaction"]
    transaction["dependentRequired"] = {"user_id": ["transaction_id", "merchant_id", "event_timestamp"]}
    transaction["anyOf"] = [{"required": ["event_timestamp"]}, {"required": ["hour_of_day", "day_of_week"]}]
    if state.production is not None:
        components["Reason"]["properties"]["code"]["enum"] = list(state.production.groups.names)
    return components


def _operation(
    name: str,
    summary: str,
    text: str,
    request: str,
    answer: str,
    examples: dict[str, Any],
    answer_example: dict[str, Any],
) -> dict[str, Any]:
    def content(schema: str, **more: dict[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": _REFERENCE.format(name=schema)}, **more}}

    body = content(request, examples=examples)
    refusals: dict[str, dict[str, Any]] = {
        code: {"description": why, "content": PROBLEM} for code, why in _REFUSALS.items()
    }
    refusals["415"]["headers"] = {"Accept-Encoding": {"schema": {"type": "string"}, "description": "`gzip`"}}
    refusals["422"]["content"] = content("Problem", example=PROBLEM_EXAMPLE)
    refusals["429"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    decided = {"description": "The decision.", "content": content(answer, example=answer_example)}
    return {
        "post": {
            "operationId": name, "summary": summary, "description": text, "tags": ["decisions"],
            "requestBody": {"required": True, "description": _BODY, "content": body},
            "responses": {"200": decided, **refusals},
            "security": OPTIONAL_KEY,
        }
    }  # fmt: skip


def document(app: FastAPI, state: State, description: str) -> dict[str, Any]:
    """The complete OpenAPI document of `app` for the loaded versions."""
    whole: dict[str, Any] = deepcopy(FastAPI.openapi(app))
    whole["info"]["description"] = description
    example, answer = full_example(state), answer_example(state)
    examples = {
        "short": {"summary": "without ids: uses the transaction_velocity of the request", "value": SHORT_EXAMPLE},
        "full": {"summary": "with ids: uses the stored histories", "value": example},
    }
    one = _operation(
        "predict", "Score one payment",
        "Safe to retry with the same `transaction_id`: the retry sees the same history and gets the same answer.",
        "Transaction", "Answer", examples, answer,
    )  # fmt: skip
    one["post"]["parameters"] = [
        {
            "name": "explain", "in": "query", "required": False, "schema": {"type": "boolean", "default": False},
            "description": "true: adds `reasons`, the groups of inputs with the largest contributions "
            "(exact Shapley values against a reference payment; some milliseconds more).",
        }
    ]  # fmt: skip
    many = _operation(
        "predict_batch", "Score up to 10,000 payments", "In the given order, by one model version.",
        "Batch", "Answers", {"two": {"value": {"transactions": [SHORT_EXAMPLE, example]}}},
        {"model_version": answer["model_version"], "predictions": [answer]},
    )  # fmt: skip
    whole["paths"] = {"/predict": one, "/predict/batch": many, **whole["paths"]}
    for path in _HEAD:
        get = whole["paths"][path]["get"]
        whole["paths"][path]["head"] = get | {
            "operationId": f"head_{path.strip('/')}", "summary": f"{get['summary']}; as GET, without a body",
            "responses": {code: {"description": of["description"]} for code, of in get["responses"].items()},
        }  # fmt: skip
    components = whole.setdefault("components", {})
    components.setdefault("schemas", {}).update(_schemas(state))
    components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    return whole
