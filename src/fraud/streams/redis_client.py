"""A client of the online store's server, or of its cluster, from FRAUD_REDIS_URL.

`redis://[[user]:password@]host[:port][/number]` is one server. `redis+cluster://[[user]:password@]host[:port],host...`
names some nodes of a cluster, from which the others are found. `rediss` instead of `redis` uses TLS, and verifies the
certificate and the host name; `?ssl_ca_certs=FILE` at the end adds CA certificates to those of the system.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException

EXPECTED: Final = (
    "redis://host:port/db, or redis+cluster://host:port,host:port for a cluster; rediss for TLS, with "
    "?ssl_ca_certs=FILE for a CA of your own"
)
STORE_ERRORS: Final = (redis.RedisError, RedisClusterException)
"""What a client raises. redis-py's exceptions of a cluster are not all RedisErrors."""
_DEFAULT_PORT: Final = 6379
_CONNECT_S: Final = 5.0


@dataclass(frozen=True)
class ClusterAddress:
    """Nodes of a cluster as (host, port), and how to log in."""

    nodes: tuple[tuple[str, int], ...]
    user: str | None
    password: str | None
    tls: bool
    ca: str | None = None
    """File of CA certificates."""


def _ca_file(query: str, *, tls: bool) -> str | None:
    """The file that `ssl_ca_certs=FILE`, the query of a URL, names. Raises ValueError for another query."""
    option, _, file = query.partition("=")
    if query and (not tls or option != "ssl_ca_certs" or not file or "&" in file):
        raise ValueError(f"expected {EXPECTED}")
    return unquote(file) or None


def cluster_address(url: str) -> ClusterAddress | None:
    """The nodes that a URL names; None if it names one server. Raises ValueError, without the URL."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis+cluster", "rediss+cluster"):
        return None
    rest, _, query = rest.partition("?")
    login, at, hosts = rest.rpartition("@")
    ca = _ca_file(query, tls=scheme == "rediss+cluster")
    try:
        urls = [urlsplit(f"redis://{login}{at}{host}") for host in hosts.split(",")]
        nodes = tuple((of.hostname or "", of.port or _DEFAULT_PORT) for of in urls)
    except ValueError:
        raise ValueError(f"expected {EXPECTED}") from None
    if not all(host for host, _ in nodes) or any(of.path not in ("", "/", "/0") for of in urls):
        raise ValueError(f"expected {EXPECTED}")
    user, password = (None if text is None else unquote(text) for text in (urls[0].username, urls[0].password))
    return ClusterAddress(nodes, user or None, password, scheme == "rediss+cluster", ca)


def open_client(url: str, *, reply_s: float = 10.0, connect_s: float = _CONNECT_S) -> redis.Redis:
    """A client, to be closed by the caller. `reply_s`: longest wait for a reply.

    A client of a cluster follows its redirections, and finds a promoted replica within its retries. It has one
    connection per node. Raises ValueError for an invalid URL; ConnectionError when no node of a cluster answers.
    """
    address = cluster_address(url)
    if address is None:
        _ca_file(urlsplit(url).query, tls=url.startswith("rediss:"))
        return redis.Redis.from_url(url, socket_timeout=reply_s, socket_connect_timeout=connect_s)
    try:
        client = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.nodes],  # type: ignore[no-untyped-call]
            username=address.user, password=address.password, ssl=address.tls, ssl_ca_certs=address.ca,
            socket_timeout=reply_s, socket_connect_timeout=connect_s,
        )  # fmt: skip
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error
    return cast("redis.Redis", client)  # it has the same commands


class Script:
    """A Lua script of the store. Its keys must have one hash tag."""

    def __init__(self, text: str) -> None:
        self._text, self._sha = text, sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run it for each (keys, arguments) in one round trip per server. Returns the replies in order.

        A server that does not have the script, as a promoted replica, gets it, and its calls run again.
        """
        replies = self._replies(client, calls)
        again = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:
            client.script_load(self._text)  # of a cluster, on every primary
            for at, reply in zip(again, self._replies(client, [calls[at] for at in again]), strict=True):
                replies[at] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _replies(self, client: redis.Redis, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """A reply or an error for each call."""
        pipeline = client.pipeline(transaction=False)
        for keys, arguments in calls:
            # By name: redis-py has no method for it in pipelines of a cluster.
            pipeline.execute_command("EVALSHA", self._sha, len(keys), *keys, *arguments)  # type: ignore[no-untyped-call]
        found: list[Any] = pipeline.execute(raise_on_error=False)
        return found


def server_infos(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """INFO of the server, or of each primary of a cluster, by its address `host:port`."""
    if isinstance(client, RedisCluster):
        return {f"{node.host}:{node.port}": client.info(target_nodes=node) for node in client.get_primaries()}
    address = client.connection_pool.connection_kwargs
    return {f"{address['host']}:{address['port']}": cast("dict[str, Any]", client.info())}
