"""The answer to a transaction, and its prediction record."""

from typing import Final

from fraud.core.contract import CATEGORIES
from fraud.core.features import definition_hash
from fraud_serving.log.prediction_record import PredictionRecord
from fraud_serving.model.model import Model
from fraud_serving.schema import Answer, ValidTransaction
from fraud_serving.scoring.history import UserHistory
from fraud_serving.scoring.inference import RULE_THRESHOLD, RULE_VERSION

_FEATURE_HASH: Final = definition_hash()


def answer_to(
    transaction: ValidTransaction, history: UserHistory, model: Model | None, probability: float, prediction_id: str
) -> Answer:
    """The decision: fraud if the probability reaches the threshold. Without a model the rule's threshold applies."""
    threshold, version = (RULE_THRESHOLD, RULE_VERSION) if model is None else (model.threshold, model.version)
    return Answer(
        prediction_id, transaction.request.transaction_id, probability >= threshold, probability, threshold, version,
        CATEGORIES[transaction.category], history.source, history.store_failed or model is None, history.repeated,
    )  # fmt: skip


def record_of(
    answer: Answer, transaction: ValidTransaction, history: UserHistory, model: Model | None
) -> PredictionRecord:
    """Everything the answer was computed from. `served_us` and `latency_us` are set once its bytes exist."""
    request = transaction.request
    velocity, average, merchants = history.windows
    return PredictionRecord(
        answer.prediction_id, answer.transaction_id, request.user_id, request.merchant_id, answer.merchant_category,
        transaction.amount, request.distance_from_home, transaction.event_us, transaction.hour, transaction.weekday, 0,
        history.sequence, history.newest_us, history.source, answer.degraded,
        velocity, average, merchants,  # type: ignore[arg-type] # the first and third are never null
        answer.fraud_probability, answer.is_fraud, answer.threshold, answer.model_version,
        "" if model is None else model.model_sha256, _FEATURE_HASH, 0,
    )  # fmt: skip
