"""The OpenAPI document: FastAPI's for its own routes, and the hot paths' from the types that parse them."""

from typing import Any, Final

import msgspec
from fastapi import FastAPI

from fraud_serving.http.schema import Answer, Answers, Batch, Problem, Reason, Transaction

_REFERENCE: Final = "#/components/schemas/{name}"
SHORT_EXAMPLE: Final = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip
FULL_EXAMPLE: Final = {
    "transaction_id": "t-7f3a", "user_id": "u-1042", "merchant_id": "m-88",
    "event_timestamp": "2026-03-04T03:12:45.120000Z", "amount": 4999.99, "merchant_category": "electronics",
    "distance_from_home": 850.5,
}  # fmt: skip
ANSWER_EXAMPLE: Final = {
    "prediction_id": "5591704a0064c8d3-1f", "transaction_id": "t-7f3a", "is_fraud": True, "fraud_probability": 0.8315,
    "threshold": 0.21, "model_version": "7", "merchant_category": "electronics", "history": "store",
    "degraded": False, "repeated": False,
}  # fmt: skip
PROBLEM_EXAMPLE: Final = {"error": "invalid", "reason": "Expected `float` <= 1000000000.0", "field": "amount"}
_REFUSALS: Final = {
    "400": "The bytes are not one well-formed HTTP/1.1 request. The connection is closed.",
    "401": "The X-API-Key header is missing or unknown (not where the service runs open).",
    "408": "The body did not come in time.",
    "413": "The body is too large, as sent or decompressed.",
    "414": "The path and query are too long. The connection is closed.",
    "415": "`Content-Encoding` is neither `gzip` nor left out.",
    "422": "The body breaks the contract: `field` says where, `reason` why. Sending it again changes nothing.",
    "429": "Too many requests are at work, or this client's rate is used up. Try again after `Retry-After` seconds.",
    "431": "The headers are too long. The connection is closed.",
}
_HEAD: Final = ("/health", "/ready")
"""Paths that load balancers and monitors ask by HEAD."""
PROBLEM: Final = {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Problem")}}}
OPTIONAL_KEY: Final[list[dict[str, list[str]]]] = [{"key": []}, {}]


_BODY: Final = (
    "JSON in UTF-8, with a length or chunked. With `Content-Encoding: gzip` it is decompressed; the limit of its size "
    "holds before and after."
)


def _schemas() -> dict[str, Any]:
    """Component schemas of the wire types, with the rules between fields that a type cannot say."""
    _, components = msgspec.json.schema_components(
        [Transaction, Batch, Answer, Answers, Problem, Reason], ref_template=_REFERENCE
    )
    transaction = components["Transaction"]
    transaction["dependentRequired"] = {"user_id": ["transaction_id", "merchant_id", "event_timestamp"]}
    transaction["anyOf"] = [{"required": ["event_timestamp"]}, {"required": ["hour_of_day", "day_of_week"]}]
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


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document. `app.openapi` without the hot paths is FastAPI's own."""
    whole: dict[str, Any] = FastAPI.openapi(app)
    examples = {
        "short": {"summary": "without ids: the caller's own velocity counts", "value": SHORT_EXAMPLE},
        "full": {"summary": "with ids: the user's stored history counts", "value": FULL_EXAMPLE},
    }
    one = _operation(
        "predict", "Decide on one payment",
        "Safe to retry with the same `transaction_id`: the retry sees the same history and gets the same answer.",
        "Transaction", "Answer", examples, ANSWER_EXAMPLE,
    )  # fmt: skip
    one["post"]["parameters"] = [
        {
            "name": "explain", "in": "query", "required": False, "schema": {"type": "boolean", "default": False},
            "description": "true: the answer gives its reasons, the inputs that moved the probability most "
            "(exact Shapley values against an ordinary payment; about 2 ms more).",
        }
    ]  # fmt: skip
    many = _operation(
        "predict_batch", "Decide on up to 10,000 payments", "In the order given, by one model version.",
        "Batch", "Answers", {"two": {"value": {"transactions": [SHORT_EXAMPLE, FULL_EXAMPLE]}}},
        {"model_version": ANSWER_EXAMPLE["model_version"], "predictions": [ANSWER_EXAMPLE]},
    )  # fmt: skip
    whole["paths"] = {"/predict": one, "/predict/batch": many, **whole["paths"]}
    for path in _HEAD:
        get = whole["paths"][path]["get"]
        whole["paths"][path]["head"] = get | {
            "operationId": f"head_{path.strip('/')}", "summary": f"{get['summary']}; as GET, without a body",
            "responses": {code: {"description": of["description"]} for code, of in get["responses"].items()},
        }  # fmt: skip
    components = whole.setdefault("components", {})
    components.setdefault("schemas", {}).update(_schemas())
    components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    return whole
