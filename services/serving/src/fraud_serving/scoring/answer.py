"""The answer to a transaction, and its prediction record; the same of many transactions, column by column."""

from collections.abc import Sequence
from itertools import repeat
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


def answers_to(
    state: State,
    transactions: Sequence[ValidTransaction],
    features: Sequence[Features],
    probabilities: Sequence[float],
    prediction_ids: Sequence[str],
) -> list[Answer]:
    """`answer_to` of each transaction."""
    model, inputs = state.production, state.batch_inputs
    threshold, version = (RULE_THRESHOLD, RULE_VERSION) if model is None else (model.threshold, model.version)
    without = model is None
    return list(
        map(
            Answer, prediction_ids, [of.transaction_id for of in transactions],
            [probability >= threshold for probability in probabilities], probabilities, repeat(threshold),
            repeat(version), [{} for _ in transactions] if inputs is None else inputs.categories(transactions),
            [of.source for of in features], [of.store_failed or without for of in features],
            [of.repeated for of in features],
        )
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


def records_of(
    answers: Sequence[Answer],
    state: State,
    transactions: Sequence[ValidTransaction],
    features: Sequence[Features],
) -> list[PredictionRecord]:
    """`record_of` of each answer."""
    model, inputs = state.production, state.inputs
    sha256, feature_hash = ("", "") if model is None else (model.model_sha256, model.plan.hash)
    users, merchants, amounts = list(zip(*[of.values for of in transactions], strict=True))[:3]
    return list(
        map(
            PredictionRecord, [of.prediction_id for of in answers], [of.transaction_id for of in answers], users,
            merchants, amounts, [of.event_us for of in transactions], [of.hour for of in transactions],
            [of.weekday for of in transactions], repeat(0), [of.history for of in answers],
            [of.degraded for of in answers], [of.fraud_probability for of in answers], [of.is_fraud for of in answers],
            [of.threshold for of in answers], [of.model_version for of in answers], repeat(sha256),
            repeat(feature_hash), repeat(0), state.all_columns_of(transactions),
            repeat(_NO_FEATURES) if inputs is None else map(inputs.named, features),
            [of.sequences for of in features], [of.newest_us for of in features], [of.snapshots for of in features],
        )
    )  # fmt: skip
