"""What both peers of the stream bench do with one message: one round trip to the store, one row of inference.

They keep the user's last events in a list of the store and compute three features from them, without idempotence,
validation, daily tables, retries, prediction log or metrics.
"""

import json
from datetime import datetime
from typing import Any, Final

import numpy as np
import onnxruntime
import redis

_KEEP: Final = 60


class PlainScorer:
    """One message at a time."""

    def __init__(self, model: str, store_url: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._width = self._session.get_inputs()[0].shape[1]
        self._store = redis.Redis.from_url(store_url)

    def decide(self, transaction: dict[str, Any]) -> dict[str, Any]:
        at_s = datetime.fromisoformat(transaction["event_timestamp"]).timestamp()
        key = f"plain:{transaction['user_id']}"
        pipeline = self._store.pipeline(transaction=False)
        pipeline.lrange(key, 0, _KEEP - 1)
        pipeline.lpush(key, f"{at_s}:{transaction['amount']}:{transaction['merchant_id']}")
        pipeline.ltrim(key, 0, _KEEP - 1)
        events = [event.decode().split(":") for event in pipeline.execute()[0]]
        hour = [1 for time_s, _, _ in events if at_s - 3600 <= float(time_s) < at_s]
        week = [float(amount) for time_s, amount, _ in events if at_s - 604_800 <= float(time_s) < at_s]
        vector = np.zeros((1, self._width), dtype=np.float32)
        vector[0, :4] = (
            transaction["amount"], len(hour), sum(week) / len(week) if week else transaction["amount"],
            len({merchant for _, _, merchant in events}),
        )  # fmt: skip
        probability = float(self._session.run(None, {"features": vector})[0][0])
        return {
            "transaction_id": transaction["transaction_id"], "fraud_probability": probability,
            "is_fraud": probability >= 0.5,
        }  # fmt: skip


def parsed(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value)
    return found
