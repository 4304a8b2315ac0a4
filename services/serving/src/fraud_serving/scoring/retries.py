"""Retries: the first answer to a transaction is kept in the online store and returned to later attempts."""

import msgspec

from fraud_serving.metrics import Metrics
from fraud_serving.request import ValidTransaction
from fraud_serving.schema import Answer
from fraud_serving.store.store import Store


class FirstAnswers:
    """The answers kept for retries, by `user_id` and `transaction_id`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self._decode = msgspec.json.Decoder(Answer).decode

    def keep(self, transaction: ValidTransaction, answer: bytes) -> None:
        """Write the answer if none is kept. Does not wait for the store."""
        self._store.keep_answer(_key(transaction), answer)

    async def find(self, transaction: ValidTransaction) -> Answer | None:
        """The first answer, marked as repeated; None if none is kept or the store does not reply in time."""
        body = await self._store.find_answer(_key(transaction))
        if body is None:
            return None
        try:
            answer = self._decode(body)
        except msgspec.DecodeError:
            self._metrics.store_error("answer")
            return None
        self._metrics.repeated += 1
        return msgspec.structs.replace(answer, repeated=True)


def _key(transaction: ValidTransaction) -> bytes:
    return f"a:{transaction.user_id}\n{transaction.transaction_id}".encode()
