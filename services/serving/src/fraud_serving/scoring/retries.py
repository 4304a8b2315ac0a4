"""Retries: the first answer to a transaction is kept in the online store and returned to later attempts."""

import msgspec

from fraud_serving.metrics import Metrics
from fraud_serving.schema import Answer, Transaction
from fraud_serving.store.store import Store


class FirstAnswers:
    """The answers kept for retries, by `user_id` and `transaction_id`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self._decode = msgspec.json.Decoder(Answer).decode

    def keep(self, request: Transaction, answer: bytes) -> None:
        """Write the answer if none is kept. Does not wait for the store."""
        self._store.keep_answer(_key(request), answer)

    async def find(self, request: Transaction) -> Answer | None:
        """The first answer, marked as repeated; None if none is kept or the store does not reply in time."""
        body = await self._store.find_answer(_key(request))
        if body is None:
            return None
        try:
            answer = self._decode(body)
        except msgspec.DecodeError:
            self._metrics.store_error("answer")
            return None
        self._metrics.repeated += 1
        return msgspec.structs.replace(answer, repeated=True)


def _key(request: Transaction) -> bytes:
    return f"a:{request.user_id}\n{request.transaction_id}".encode()
