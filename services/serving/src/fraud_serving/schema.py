"""The answers and errors of the API, and what the query of a request may contain. `request.py` has the request."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_BATCH_ROWS: Final = 10_000
HistorySource = Literal["store", "request", "none"]
Value = float | str | bool | None
"""The value of an input: a number, the text of a category, a flag, or null."""


class Reason(Struct, frozen=True, gc=False):
    """Contribution of one group of inputs to the difference from the reference payment's probability."""

    code: Annotated[str, Meta(description="the group; GET /model lists the groups of the version")]
    contribution: Annotated[
        float,
        Meta(
            description="part of the difference between fraud_probability and the reference payment's; may be negative"
        ),
    ]
    values: Annotated[dict[str, Value], Meta(description="values of the group's inputs; null if unknown")]
    ordinary: Annotated[dict[str, Value], Meta(description="values of the reference payment")]


class Answer(Struct, frozen=True, gc=False):
    """The decision for one payment."""

    prediction_id: Annotated[str, Meta(description="identifies this answer in the prediction log")]
    transaction_id: str | None
    is_fraud: Annotated[bool, Meta(description="fraud_probability >= threshold")]
    fraud_probability: Annotated[float, Meta(ge=0, le=1)]
    threshold: Annotated[float, Meta(description="decision threshold of the model version")]
    model_version: Annotated[str, Meta(description='registered version, or "rule" while no model is loaded')]
    categories: Annotated[
        dict[str, str],
        Meta(description="the value that was used for each category; unknown ones have the declared replacement"),
    ]
    history: Annotated[
        HistorySource,
        Meta(
            description='source of the window features: "store" is the stored histories, "request" the '
            'transaction_velocity of the request, "none" the documented imputation'
        ),
    ]
    degraded: Annotated[
        bool, Meta(description="true if the online store did not answer completely or no model was loaded")
    ]
    repeated: Annotated[bool, Meta(description="true for a retry: the stored answer of the first attempt")] = False
    reasons: Annotated[
        list[Reason] | UnsetType,
        Meta(description="only with ?explain=true: the groups with the largest contributions, in descending order"),
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


class ContractError(Exception):
    """A request violates the contract. `field` is "" if no single field is invalid."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field, self.reason = field, reason


def explain_requested(query: bytes) -> bool:
    """The value of `explain` in the query string, False without it. Raises ContractError for another value."""
    for part in query.lstrip(b"?").split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"explain":
            if value not in (b"true", b"false"):
                raise ContractError("explain", "expected true or false")
            return value == b"true"
    return False
