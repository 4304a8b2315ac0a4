"""Client of the online store for jobs: users' event histories in a Redis-protocol server (see `fraud.core.history`)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar, cast

import numpy as np
import redis
from numpy.typing import NDArray

from fraud.core import history
from fraud.core.features import MAX_EVENTS
from fraud.errors import BadConfigError, BadInputError, UnavailableError

EVENTS: Final = "materialized:events"
VIEW: Final = "materialized:view"
"""Redis hashes of day -> content hash of the loaded partition. They are in the store, so they are lost with it."""
_USERS_PER_ROUND_TRIP: Final = 200
_STORE: Final = "the online store"
T = TypeVar("T")


class Batch(NamedTuple):
    """Events of one user, ordered by ingestion time."""

    user_id: str
    records: NDArray[np.void]
    """history.RECORD[n]."""
    ids: NDArray[np.uint64]
    """Hashes of the transaction ids, [n]."""


class Loaded(NamedTuple):
    """Counts of a load. Their sum is the number of events."""

    appended: int
    repeated: int
    """In the store before: from POST /predict, the event stream or an earlier load."""
    too_late: int
    """More than RETENTION_US older than the user's newest event, so in no window."""
    full: int
    """Not newer than the newest event of a full history (2 * MAX_EVENTS), so possibly a repetition."""


class OnlineHistory:
    """Reads and appends with the same scripts as serving. Raises UnavailableError when the store does not answer."""

    def __init__(self, client: redis.Redis, bound: int = MAX_EVENTS) -> None:
        self._client, self._bound = client, bound
        self._append = client.register_script(history.APPEND_SCRIPT)
        self._load = client.register_script(history.LOAD_SCRIPT)

    def append(
        self, user_id: str, transaction_id: str, event_us: int, units: int, merchant_id: str
    ) -> history.PriorHistory:
        """Append an event (units: 1/10,000 USD), once per transaction_id, and return the history before it."""
        keys = [history.history_key(user_id), history.ids_key(user_id)]
        record, id_hash, at = history.append_arguments(transaction_id, event_us, units, merchant_id)
        with store_errors(_STORE):
            reply = self._append(keys=keys, args=[record, id_hash, at, self._bound])
        return history.prior_history(cast("tuple[int, int, int, bytes]", reply))

    def load(self, batches: Iterable[Batch]) -> Loaded:
        """Append the events of many users, each user's in one atomic step. Idempotent."""
        total = np.zeros(4, dtype=np.int64)
        with store_errors(_STORE):
            for some in _split(batches, _USERS_PER_ROUND_TRIP):
                pipeline = self._client.pipeline(transaction=False)
                for batch in some:
                    keys = [history.history_key(batch.user_id), history.ids_key(batch.user_id)]
                    records, ids = batch.records.tobytes(), batch.ids.astype("<u8").tobytes()
                    self._load(keys=keys, args=[records, ids, self._bound], client=pipeline)
                total += np.array(pipeline.execute(), dtype=np.int64).sum(axis=0)
        return Loaded(*total.tolist())

    def read(self, user_id: str) -> tuple[int, int, NDArray[np.void]]:
        """The stored history of a user: (sequence of the first record, newest event time ever in us, RECORD[n])."""
        with store_errors(_STORE):
            value = self._client.get(history.history_key(user_id))
        return history.stored(cast("bytes | None", value) or b"")

    def orders(self, user_ids: Iterable[str]) -> Iterator[tuple[str, history.Order]]:
        """The stored order of events of each user, read atomically. An unknown user has no events."""
        for some in _split(user_ids, _USERS_PER_ROUND_TRIP):
            with store_errors(_STORE):
                pipeline = self._client.pipeline(transaction=True)
                for user in some:
                    pipeline.mget(history.history_key(user), history.ids_key(user))
                replies = pipeline.execute()
            for user, (value, entries) in zip(some, replies, strict=True):
                base, newest_us, records = history.stored(value or b"")
                ids = np.frombuffer(entries or b"", dtype=history.ENTRY)["transaction"]
                yield user, history.Order(base, newest_us, records["event_us"], ids)

    def materialized(self, what: str) -> dict[str, str]:
        """Days loaded from the lake (EVENTS or VIEW), with the content hash of the partition that was loaded."""
        with store_errors(_STORE):
            found = cast("dict[bytes, bytes]", self._client.hgetall(what))
        return {day.decode(): digest.decode() for day, digest in found.items()}

    def set_materialized(self, what: str, days: Mapping[str, str], first_kept: str) -> None:
        """Record loaded days, and remove the records of days before `first_kept`."""
        old = [day for day in self.materialized(what) if day < first_kept]
        with store_errors(_STORE):
            self._client.hset(what, mapping=dict(days))
            if old:
                self._client.hdel(what, *old)


@contextmanager
def connect(url: str, bound: int = MAX_EVENTS) -> Iterator[OnlineHistory]:
    """Connect to the store at a `redis://` URL. Raises BadConfigError for an invalid URL."""
    try:
        client = redis.Redis.from_url(url, socket_timeout=60, socket_connect_timeout=5)
    except ValueError as error:
        raise BadConfigError("FRAUD_REDIS_URL is wrong", expected="redis://host:port/db", got=str(error)) from error
    with client:
        yield OnlineHistory(client, bound)


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Convert errors of a Redis client. `what` is the store's name at the beginning of the message."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise BadConfigError(
            f"{what} refuses the credentials", expected="redis://USER:PASSWORD@host:port/db in FRAUD_REDIS_URL",
            got=str(error),
        ) from error  # fmt: skip
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise UnavailableError(f"{what} does not answer", got=str(error), hint="check FRAUD_REDIS_URL") from error
    except redis.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        raise BadInputError(
            f"{what} has a key with another type of value", expected="a database that only this platform writes to",
            got=str(error), hint="point FRAUD_REDIS_URL at a database of its own, or delete the key",
        ) from error  # fmt: skip


def _split(items: Iterable[T], size: int) -> Iterator[list[T]]:
    some: list[T] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
