"""Errors of a Redis client as errors of the platform."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.exceptions import ClusterError, RedisClusterException

from fraud.errors import BadConfigError, BadInputError, UnavailableError


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
    except (redis.ConnectionError, redis.TimeoutError, ClusterError, RedisClusterException) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise BadConfigError(
                f"the certificate of {what} is not accepted", got=str(error),
                expected="one for the host name in FRAUD_REDIS_URL, of a CA of the system or in its ssl_ca_certs",
            ) from error  # fmt: skip
        raise UnavailableError(f"{what} does not answer", got=str(error), hint="check FRAUD_REDIS_URL") from error
    except redis.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        raise BadInputError(
            f"{what} has a key with another type of value", expected="a database that only this platform writes to",
            got=str(error), hint="point FRAUD_REDIS_URL at a database of its own, or delete the key",
        ) from error  # fmt: skip
