"""Retries: the first answer to a transaction is kept in the online store and returned to later attempts."""

import asyncio
from collections.abc import Sequence

import msgspec

from fraud.core.history import hash_tag
from fraud_serving.metrics import Metrics
from fraud_serving.request import ValidTransaction
from fraud_serving.schema import Answer
from fraud_serving.store.connection import Reply
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
        return None if body is None else self.read(body)

    def keep_all(
        self, transactions: Sequence[ValidTransaction], answers: Sequence[bytes]
    ) -> "asyncio.Future[list[Reply]] | None":
        """Write each answer if none is kept for its transaction. A reply is None, or the answer that was kept before.

        None without a connection to the store.
        """
        return self._store.keep_answers([_key(of) for of in transactions], answers)

    def read(self, body: bytes) -> Answer | None:
        """A kept answer, marked as repeated; None if it cannot be read."""
        try:
            answer = self._decode(body)
        except msgspec.DecodeError:
            self._metrics.store_error("answer")
            return None
        self._metrics.repeated += 1
        return msgspec.structs.replace(answer, repeated=True)


def _key(transaction: ValidTransaction) -> bytes:
    """With a user, in the slot of the user's histories."""
    user_id = transaction.user_id
    tag = "" if user_id is None else hash_tag("user_id", user_id)
    return f"a:{tag}\n{transaction.transaction_id}".encode()
