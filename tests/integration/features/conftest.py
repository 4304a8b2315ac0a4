"""An empty online store, and a job context that uses it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog
from tests.integration.features_platform import ROOT
from tests.served_answers import THREE

from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connection:
        connection.flushdb()
        yield connection


@pytest.fixture
def context(tmp_path: Path, valkey_url: str, client: redis.Redis) -> Context:
    settings = Settings.model_validate({"home": tmp_path, "project": ROOT, "redis_url": valkey_url})
    return Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())
