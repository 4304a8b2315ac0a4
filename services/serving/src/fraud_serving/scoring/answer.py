"""The answer to a transaction, and its prediction record."""

from typing import Final

from fraud_serving.log.prediction_record import PredictionRecord, named_values
from fraud_serving.request import ValidTransaction
from fraud_serving.schema import Answer
from fraud_serving.scoring.inference import RULE_THRESHOLD, RULE_VERSION
from fraud_serving.scoring.inputs import Features
from fraud_serving.scoring.state import State

_NO_FEATURES: Final = named_values(())()


def answer_to(
    state: State, transaction: ValidTransaction, features: Features, probability: float, prediction_id: str
) -> Answer:
    """The decision: fraud if the probability reaches the threshold. Without a model the rule's threshold applies."""
    model, inputs = state.production, state.inputs
    threshold, version = (RULE_THRESHOLD, RULE_VERSION) if model is None else (model.threshold, model.version)
    return Answer(
        prediction_id, transaction.transaction_id, probability >= threshold, probability, threshold, version,
        {} if inputs is None else inputs.categories(transaction.values), features.source,
        features.store_failed or model is None, features.repeated,
    )  # fmt: skip


def record_of(answer: Answer, state: State, transaction: ValidTransaction, features: Features) -> PredictionRecord:
    """Everything the answer was computed from. `served_us` and `latency_us` are set once its bytes exist."""
    model, inputs = state.production, state.inputs
    user_id, merchant_id, amount = transaction.values[:3]
    return PredictionRecord(
        answer.prediction_id, answer.transaction_id, user_id, merchant_id, amount, transaction.event_us,
        transaction.hour, transaction.weekday, 0, answer.history, answer.degraded,
        answer.fraud_probability, answer.is_fraud, answer.threshold, answer.model_version,
        "" if model is None else model.model_sha256, "" if model is None else model.plan.hash, 0,
        state.columns_of(transaction),
        _NO_FEATURES if inputs is None else inputs.named(features),
        features.sequences, features.newest_us, features.snapshots,
    )  # fmt: skip
