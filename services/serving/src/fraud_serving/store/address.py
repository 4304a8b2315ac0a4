"""The address of the online store: one server, or the nodes of a cluster."""

import ssl
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Self
from urllib.parse import unquote, urlsplit

EXPECTED: Final = (
    "redis://[[user]:password@]host[:port][/number], or redis+cluster://[[user]:password@]host[:port],host[:port] with "
    "some nodes of a cluster; rediss for TLS, with ?ssl_ca_certs=FILE for a CA of your own; special characters "
    "percent-encoded"
)
_DEFAULT_PORT: Final = 6379


@dataclass(frozen=True)
class StoreAddress:
    """`nodes` are (host, port): the server, or nodes of the cluster from which its others are found."""

    nodes: tuple[tuple[str, int], ...]
    cluster: bool
    tls: bool
    user: str
    password: str = field(repr=False)
    database: int = 0
    ca: str = ""
    """File of the CA certificates that are accepted; empty: the system's."""

    @cached_property
    def tls_context(self) -> ssl.SSLContext | None:
        """What a TLS connection verifies: certificate and host name. Raises ValueError when the file cannot be used.

        It is made once: to read the system's certificates takes longer than the deadline of a request.
        """
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:  # an SSLError is one
            raise ValueError(f"ssl_ca_certs: expected a file of CA certificates, got {self.ca}: {error}") from None

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises ValueError, without the text, which may hold a password."""
        scheme, _, rest = text.partition("://")
        rest, _, query = rest.partition("?")
        option, _, ca = query.partition("=")
        kind, _, cluster = scheme.partition("+")
        if kind not in ("redis", "rediss") or cluster not in ("", "cluster") or scheme.endswith("+"):
            raise ValueError(f"expected {EXPECTED}")
        login, at, hosts = rest.rpartition("@")
        try:
            urls = [urlsplit(f"redis://{login}{at}{host}") for host in (hosts.split(",") if cluster else [hosts])]
            nodes = [(url.hostname or "", _DEFAULT_PORT if url.port is None else url.port) for url in urls]
        except ValueError:  # a port is not a number, or a bracket is missing
            raise ValueError(f"expected {EXPECTED}") from None
        if not all(host and port and "," not in host for host, port in nodes):
            raise ValueError(f"expected {EXPECTED}")
        if any(url.fragment for url in urls) or (query and (option != "ssl_ca_certs" or not ca)) or set(ca) & {*"&#"}:
            raise ValueError(f"expected {EXPECTED}; another query (?) or a fragment (#) has no effect")
        if ca and kind != "rediss":
            raise ValueError(f"expected {EXPECTED}; ssl_ca_certs has no effect without TLS")
        database = urls[-1].path.removeprefix("/")
        if database and not (database.isascii() and database.isdigit()):
            raise ValueError(f"expected {EXPECTED}; the path is not a number")
        if cluster and any(url.path not in ("", "/", "/0") for url in urls):
            raise ValueError(f"expected {EXPECTED}; a cluster has database 0 only")
        url = urls[0]
        return cls(
            tuple(nodes), bool(cluster), kind == "rediss", unquote(url.username or ""), unquote(url.password or ""),
            int(database or 0), unquote(ca),
        )  # fmt: skip
