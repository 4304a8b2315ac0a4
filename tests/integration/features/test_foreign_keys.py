"""A Redis database in which something else wrote keys of ours: a named error, not a traceback."""

import numpy as np
import pytest
import redis
from tests.served_answers import THREE

from fraud.core.plan import Plan
from fraud.errors import BadConfigError, BadInputError
from fraud.features import online_store
from fraud.streams import redis_stream

LAYOUT = Plan(THREE).windows[0].layout
EVENT = ("t1", 1_700_000_000_000_000, (10_000, 1))


def test_a_history_key_of_another_type(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.rpush(LAYOUT.history_key("foreign"), "a", "list")
    with online_store.connect(valkey_url) as store:
        nothing = online_store.Batch("foreign", np.zeros(0, dtype=LAYOUT.record), np.zeros(0, dtype=np.uint64))
        for use in (
            lambda: store.append(LAYOUT, "foreign", *EVENT),
            lambda: store.read(LAYOUT, "foreign"),
            lambda: store.load(LAYOUT, [nothing]),
        ):
            with pytest.raises(BadInputError, match="the online store has a key with another type of value"):
                use()


def test_a_record_of_materialized_days_of_another_type(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.set("foreign:days", "text")
    with online_store.connect(valkey_url) as store, pytest.raises(BadInputError, match="another type of value"):
        store.materialized("foreign:days")


def test_a_stream_of_another_type(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.set("foreign:stream", "text")
    with (
        pytest.raises(BadInputError, match="the event stream has a key with another type of value"),
        redis_stream.connect(valkey_url, "foreign:stream", "group", "one", 1.0),
    ):
        pass


def test_refused_credentials(valkey_url: str) -> None:
    address = valkey_url.rsplit("@", maxsplit=1)[-1].removeprefix("redis://")
    with (
        online_store.connect(f"redis://stranger:wrong@{address}") as store,
        pytest.raises(BadConfigError, match="refuses the credentials"),
    ):
        store.read(LAYOUT, "anybody")
