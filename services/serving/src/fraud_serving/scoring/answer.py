"""The answer to a transaction, and its prediction record; the same of many transactions, column by column."""

from collections.abc import Sequence
from itertools import repeat
from typing import Final

from msgspec import Struct

from fraud_serving.log.prediction_record import PredictionRecord, named_values
from fraud_serving.request import ValidTransaction
from fraud_serving.schema import Answer
from fraud_serving.scoring.batch_inputs import BatchFeatures
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


class Verdicts(Struct, gc=False):
    """What the answers and the records of several transactions have in common, by row."""

    probabilities: Sequence[float]
    threshold: float
    version: str
    is_fraud: list[bool]
    degraded: list[bool]


def verdicts_of(state: State, features: BatchFeatures, probabilities: Sequence[float]) -> Verdicts:
    """The decisions, as in `answer_to`."""
    model = state.production
    if model is None:
        threshold, version, degraded = RULE_THRESHOLD, RULE_VERSION, [True] * len(probabilities)
    else:
        threshold, version, degraded = model.threshold, model.version, features.store_failed
    return Verdicts(probabilities, threshold, version, [of >= threshold for of in probabilities], degraded)


def answers_to(
    state: State, transactions: Sequence[ValidTransaction], features: BatchFeatures, verdicts: Verdicts,
    prediction_ids: Sequence[str],
) -> list[Answer]:  # fmt: skip
    """`answer_to` of each transaction."""
    inputs = state.batch_inputs
    return list(
        map(
            Answer, prediction_ids, [of.transaction_id for of in transactions], verdicts.is_fraud,
            verdicts.probabilities, repeat(verdicts.threshold), repeat(verdicts.version),
            [{} for _ in transactions] if inputs is None else inputs.categories(transactions),
            features.sources, verdicts.degraded, features.repeated,
        )
    )  # fmt: skip


def record_of(answer: Answer, state: State, transaction: ValidTransaction, features: Features) -> PredictionRecord:
    """Everything the answer was computed from. `served_us` and `latency_us` are set once its bytes exist."""
    model, inputs = state.production, state.inputs
    user_id, merchant_id, amount = transaction.values[:3]
    return PredictionRecord(
        answer.prediction_id, 0, 0, answer.transaction_id, user_id, merchant_id, amount, transaction.event_us,
        transaction.hour, transaction.weekday, answer.history, answer.degraded,
        answer.fraud_probability, answer.is_fraud, answer.threshold, answer.model_version,
        "" if model is None else model.model_sha256, "" if model is None else model.plan.hash,
        state.columns_of(transaction),
        _NO_FEATURES if inputs is None else inputs.named(features),
        features.sequences, features.newest_us, features.snapshots,
    )  # fmt: skip


def records_of(
    state: State, transactions: Sequence[ValidTransaction], features: BatchFeatures, verdicts: Verdicts
) -> list[PredictionRecord]:
    """`record_of` of each answer, without `prediction_id` and with the columns of production only."""
    model, inputs = state.production, state.inputs
    sha256, feature_hash = ("", "") if model is None else (model.model_sha256, model.plan.hash)
    users, merchants, amounts, *columns = zip(*[of.values for of in transactions], strict=True)
    return list(
        map(
            PredictionRecord, repeat(""), repeat(0), repeat(0), [of.transaction_id for of in transactions], users,
            merchants, amounts, [of.event_us for of in transactions], [of.hour for of in transactions],
            [of.weekday for of in transactions], features.sources, verdicts.degraded,
            verdicts.probabilities, verdicts.is_fraud, repeat(verdicts.threshold), repeat(verdicts.version),
            repeat(sha256), repeat(feature_hash),
            map(state.own_columns, *columns) if columns else repeat(state.own_columns()),
            repeat(_NO_FEATURES) if inputs is None else inputs.all_named(features.columns()),
            features.sequences, features.newest_us, features.snapshots,
        )
    )  # fmt: skip
