"""A lake with two entities, nulls and a daily table, and the content of a store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from redis.client import Pipeline
from tests.integration.features_platform import FIRST_US, publish, publish_labels

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.features import build_daily, materialize
from fraud.job import Context
from fraud.lake import catalog

DAYS = 12
TIMESTAMP = pa.timestamp("us", "UTC")


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test runs."""


def with_declaration(context: Context, declared: Declaration, *live: Declaration) -> Context:
    return Context(context.settings, context.params, declared, context.log, lambda: list(live))


def rows(seed: int = 0, count: int = 60) -> pa.Table:
    """Transactions of DAYS days, an eighth of them late, a third without a terminal, with nulls in every column."""
    rng = np.random.default_rng(seed)
    at = FIRST_US + np.sort(rng.integers(0, DAYS * US_PER_DAY, count))
    late = np.where(rng.random(count) < 1 / 8, rng.integers(0, US_PER_DAY, count), 1)

    def some(values: list[Any], nulls: float = 0.3) -> list[Any]:
        return [None if rng.random() < nulls else values[i] for i in rng.integers(0, len(values), count)]

    table = pa.table(
        {
            "transaction_id": [f"t{seed}-{i}" for i in range(count)],
            "event_timestamp": pa.array(at, TIMESTAMP),
            "created_timestamp": pa.array(at + late, TIMESTAMP),
            "user_id": some(["u1", "u2", "u3"], 0),
            "merchant_id": some(["m1", "m2", "café m3"], 0),
            "amount": np.rint(rng.lognormal(3, 1, count) * 1e4 + 1) / 1e4,
            "channel": pa.array(some(["web", "app", "other"]), pa.string()),
            "country": pa.array(some(["de", "fr"]), pa.string()),
            "distance": pa.array(some([1.25, 3.5, 0.0]), pa.float64()),
            "terminal_id": pa.array(some(["a", "b"]), pa.string()),
            "in_person": pa.array(some([True, False]), pa.bool_()),
        }
    )
    return table.sort_by(catalog.TRANSACTIONS.order)


def fill(context: Context, table: pa.Table) -> None:
    """Publish transactions and some labels, and build the daily tables of the context's declaration."""
    publish(context, table)
    frauds = table["transaction_id"].to_pylist()[::7]
    publish_labels(context, [(name, True, (i % DAYS) * US_PER_DAY) for i, name in enumerate(frauds)])
    build_daily.run(build_daily.Config(), context)


def load(context: Context, **flags: object) -> materialize.Result:
    return materialize.run(materialize.Config.model_validate(flags), context)


def content(client: redis.Redis) -> dict[str, Any]:
    """The store without the keys that expire: key -> value."""
    found: dict[str, Any] = {}
    for key in sorted(client.keys("*")):
        kind = client.type(key)
        read: dict[bytes, Callable[[Any], Any]] = {
            b"string": client.get, b"hash": client.hgetall, b"set": client.smembers
        }  # fmt: skip
        if client.ttl(key) < 0:
            found[key.decode()] = read[kind](key)
    return found


@contextmanager
def killed_at_write(number: int) -> Iterator[list[str]]:
    """Raise Killed instead of the write with this number, from 1. Yields a list with the writes before it.

    A pipeline is one write per command: it is cut off in the middle, as by a broken connection.
    """
    execute, command = Pipeline.execute, redis.Redis.execute_command
    writes: list[str] = []

    def count(name: str) -> None:
        writes.append(name)
        if len(writes) == number:
            raise Killed

    def execute_cut_off(pipeline: Pipeline, **options: bool) -> list[Any]:
        stack = list(pipeline.command_stack)
        if pipeline.transaction:
            count("MULTI")
            return execute(pipeline, **options)
        if len(writes) + len(stack) >= number:
            pipeline.command_stack = stack[: number - len(writes) - 1]
            if pipeline.command_stack:
                execute(pipeline, **options)
            raise Killed
        writes.extend(str(each[0][0]) for each in stack)
        return execute(pipeline, **options)

    def execute_counted(client: redis.Redis, *arguments: object, **options: object) -> object:
        if arguments[0] in ("SADD", "HSET", "HDEL", "DEL", "SREM"):
            count(str(arguments[0]))
        return command(client, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "execute", execute_cut_off)
        patch.setattr(redis.Redis, "execute_command", execute_counted)
        yield writes
