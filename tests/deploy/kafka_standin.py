"""A stand-in for the container `kafka`: listeners, logins and access rights in front of the test broker.

    python kafka_standin.py SERVER_PROPERTIES ADVERTISED_LISTENERS BROKER_PORT LOG

It opens the listeners of infra/kafka/server.properties, except the controller's, and relays to the broker of the wheel
(tansu), which keeps no users in its memory, has no access rights and only one address. The stand-in adds

* SCRAM-SHA-512 on listeners whose protocol is SASL_PLAINTEXT, for the users that AlterUserScramCredentials created;
* access rights, from CreateAcls: a request of a user about a topic or a group without the right ends the connection;
* the advertised address of each listener in answers.

The rights that a request needs are those of Kafka's documentation ("Authorization and ACLs", operations of protocols),
for the requests that this platform sends. It writes a line to LOG for each login and each refused request.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import struct
import sys
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

PLACEHOLDER: Final = ("standin.invalid", 1)
"""The address that the broker advertises; answers get the listener's instead."""
PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 0, 1, 2, 3, 8, 9, 10
JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 11, 12, 13, 14
HANDSHAKE, VERSIONS, INIT_PRODUCER, CREATE_ACLS, AUTHENTICATE, DESCRIBE_CLUSTER, ALTER_USERS = (
    17,
    18,
    22,
    30,
    36,
    60,
    51,
)
READ, WRITE = 3, 4
TOPIC, GROUP = 2, 3
LITERAL: Final = 3
FLEXIBLE: Final = {CREATE_ACLS: 2, ALTER_USERS: 0, AUTHENTICATE: 2}
"""Request -> first version with compact strings and tagged fields."""
TOPIC_RIGHTS: Final = {
    PRODUCE: {WRITE}, FETCH: {READ}, OFFSET_COMMIT: {READ}, METADATA: {READ, WRITE}, LIST_OFFSETS: {READ, WRITE},
    OFFSET_FETCH: {READ, WRITE},
}  # fmt: skip
"""Request -> rights of which each of its topics needs one. Reading and writing include describing."""
GROUP_REQUESTS: Final = {OFFSET_COMMIT, OFFSET_FETCH, JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP}
FAILED: Final = 58
ANY: Final = "0.0.0.0"  # noqa: S104 - as in the container, in a network namespace


class Credential(NamedTuple):
    """What a server stores of a user: RFC 5802."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


class Right(NamedTuple):
    user: str
    operation: int
    kind: int
    name: str
    literal: bool


class Reader:
    """Fields of a request with compact strings."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, count: int) -> bytes:
        self._at += count
        return self._body[self._at - count : self._at]

    def number(self, layout: str) -> int:
        found: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return found

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def compact(self) -> bytes:
        return self.take(max(0, self.varint() - 1))

    def nullable(self) -> bytes:
        return self.take(max(0, self.number(">h")))

    def tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.take(self.varint())


def compact(value: bytes) -> bytes:
    return varint(len(value) + 1) + value


def varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


class Cluster:
    """What all connections share: users, rights, the names of topics."""

    def __init__(self, broker_port: int, log: Path) -> None:
        self.broker_port, self._log = broker_port, log
        self.users: dict[str, Credential] = {}
        self.rights: set[Right] = set()
        self.topics: set[str] = set()

    def note(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(line + "\n")

    def alter_users(self, body: Reader) -> bytes:
        names = []
        for _ in range(body.varint() - 1):  # deletions
            names.append(body.compact())
            self.users.pop(names[-1].decode(), None)
            body.take(1)
            body.tags()
        for _ in range(body.varint() - 1):
            names.append(body.compact())
            assert body.number(">b") == 2, "SCRAM-SHA-512"
            iterations, salt, salted = body.number(">i"), body.compact(), body.compact()
            body.tags()
            client = hmac.digest(salted, b"Client Key", "sha512")
            self.users[names[-1].decode()] = Credential(
                salt, iterations, hashlib.sha512(client).digest(), hmac.digest(salted, b"Server Key", "sha512")
            )
        results = b"".join(compact(name) + struct.pack(">h", 0) + b"\0\0" for name in names)
        return struct.pack(">i", 0) + varint(len(names) + 1) + results + b"\0"

    def create_acls(self, body: Reader) -> bytes:
        count = body.varint() - 1
        for _ in range(count):
            kind, name, pattern = body.number(">b"), body.compact().decode(), body.number(">b")
            user, host = body.compact().decode().removeprefix("User:"), body.compact()
            operation, permission = body.number(">b"), body.number(">b")
            body.tags()
            assert (host, permission) == (b"*", 3), "an access right for every host that allows"
            self.rights.add(Right(user, operation, kind, name, pattern == LITERAL))
            if kind == TOPIC:
                self.topics.add(name)
        return struct.pack(">i", 0) + varint(count + 1) + (struct.pack(">h", 0) + b"\0\0") * count + b"\0"

    def refusal(self, user: str, api: int, frame: bytes) -> str:
        """Why a request is refused; "" if it is not."""
        if api == INIT_PRODUCER and not any(r[:3] == (user, WRITE, TOPIC) for r in self.rights):
            return "InitProducerId without a right to write any topic"
        for topic in sorted(named(frame, self.topics)) if api in TOPIC_RIGHTS else ():
            if not any(self._has(user, operation, TOPIC, topic) for operation in TOPIC_RIGHTS[api]):
                return f"request {api}, topic {topic}"
        if api in GROUP_REQUESTS and not any(
            right[:3] == (user, READ, GROUP) and named_by_prefix(frame, right.name) for right in self.rights
        ):
            return f"request {api}, group"
        return ""

    def _has(self, user: str, operation: int, kind: int, name: str) -> bool:
        return any(
            right[:3] == (user, operation, kind)
            and (right.name == name if right.literal else name.startswith(right.name))
            for right in self.rights
        )


def named(frame: bytes, names: set[str]) -> set[str]:
    """The names that a request has as strings. Of the few names here, none is part of another field."""
    found = ((name, name.encode()) for name in names)
    return {name for name, raw in found if compact(raw) in frame or struct.pack(">h", len(raw)) + raw in frame}


def named_by_prefix(frame: bytes, prefix: str) -> bool:
    """Whether the first string after the header of a request, the group, has a prefix."""
    start = 10 + max(0, struct.unpack(">h", frame[8:10])[0])
    return prefix.encode() in frame[start : start + 4 + len(prefix)]


class Listener(NamedTuple):
    host: str
    port: int
    needs_login: bool
    advertised: tuple[str, int]


class Connection:
    """One client, and its own connection to the broker."""

    def __init__(self, cluster: Cluster, listener: Listener) -> None:
        self._cluster, self._listener = cluster, listener
        self._user = "" if listener.needs_login else "ANONYMOUS"
        self._login: tuple[str, bytes, str] | None = None
        self._requests: deque[int] = deque()

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        broker, to_broker = await asyncio.open_connection("127.0.0.1", self._cluster.broker_port)
        back = asyncio.create_task(self._answers(broker, answers))
        try:
            while True:
                frame = await read_frame(client)
                answer = self._own_answer(frame)
                if answer is None:
                    self._requests.append(struct.unpack(">h", frame[:2])[0])
                    write_frame(to_broker, frame)
                else:
                    write_frame(answers, answer)
        except (asyncio.IncompleteReadError, ConnectionError, PermissionError):
            pass
        finally:
            back.cancel()
            to_broker.close()
            answers.close()

    async def _answers(self, broker: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        try:
            while True:
                frame = await read_frame(broker)
                write_frame(answers, self._readdressed(self._requests.popleft(), frame))
        except (asyncio.IncompleteReadError, ConnectionError):
            answers.close()

    def _readdressed(self, api: int, frame: bytes) -> bytes:
        if api == VERSIONS:
            # Later versions name topics by an id.
            return frame.replace(struct.pack(">hhh", FETCH, 0, 17), struct.pack(">hhh", FETCH, 0, 12))
        if api not in (METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER):
            return frame
        (old, old_port), (new, new_port) = PLACEHOLDER, self._listener.advertised
        for string in (compact, lambda value: struct.pack(">h", len(value)) + value):
            frame = frame.replace(
                string(old.encode()) + struct.pack(">i", old_port), string(new.encode()) + struct.pack(">i", new_port)
            )
        return frame

    def _own_answer(self, frame: bytes) -> bytes | None:
        """The answer to a request that the broker does not get. Raises PermissionError to end the connection."""
        api, version, correlation = struct.unpack(">hhi", frame[:8])
        body = Reader(frame[8:])
        body.nullable()
        flexible = version >= FLEXIBLE.get(api, 1 << 15)
        if flexible:
            body.tags()
        header = struct.pack(">i", correlation) + (b"\0" if flexible else b"")
        if api == HANDSHAKE and self._listener.needs_login:
            known = body.nullable() == b"SCRAM-SHA-512"
            mechanisms = struct.pack(">ih", 1, 13) + b"SCRAM-SHA-512"
            return header + struct.pack(">h", 0 if known else 33) + mechanisms
        if api == AUTHENTICATE and self._listener.needs_login:
            given = body.compact() if flexible else body.take(body.number(">i"))
            return header + self._authenticated(given, version, flexible=flexible)
        if api == VERSIONS:
            return None
        if not self._user:
            raise PermissionError
        if self._user == "ANONYMOUS":  # a super user: super.users
            if api == ALTER_USERS:
                return header + self._cluster.alter_users(body)
            return header + self._cluster.create_acls(body) if api == CREATE_ACLS else None
        refusal = self._cluster.refusal(self._user, api, frame)
        if refusal or api in (ALTER_USERS, CREATE_ACLS):
            self._cluster.note(f"refused {self._user}: {refusal or f'request {api}'}")
            raise PermissionError
        return None

    def _authenticated(self, given: bytes, version: int, *, flexible: bool) -> bytes:
        answer, error = self._scram(given.decode()), 0
        if answer is None:
            answer, error = b"", FAILED
        message = (b"\0" if flexible else struct.pack(">h", -1)) if not error else string(b"login failed", flexible)
        raw = compact(answer) if flexible else struct.pack(">i", len(answer)) + answer
        lifetime = struct.pack(">q", 0) if version >= 1 else b""
        return struct.pack(">h", error) + message + raw + lifetime + (b"\0" if flexible else b"")

    def _scram(self, given: str) -> bytes | None:
        """The server's side of RFC 5802; None refuses."""
        fields = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
        if self._login is None:
            name, bare = fields["n"], given.split(",", 2)[2]
            stored = self._cluster.users.get(name)
            if stored is None:
                self._cluster.note(f"login of {name}: no such user")
                return None
            nonce = fields["r"] + secrets.token_hex(12)
            first = f"r={nonce},s={base64.b64encode(stored.salt).decode()},i={stored.iterations}"
            self._login = (name, f"{bare},{first}".encode(), nonce)
            return first.encode()
        name, so_far, nonce = self._login
        stored = self._cluster.users[name]
        signed = so_far + b"," + given.rpartition(",p=")[0].encode()
        signature = hmac.digest(stored.stored_key, signed, "sha512")
        key = bytes(a ^ b for a, b in zip(base64.b64decode(fields["p"]), signature, strict=True))
        if fields["r"] != nonce or hashlib.sha512(key).digest() != stored.stored_key:
            self._cluster.note(f"login of {name}: wrong password")
            return None
        self._user = name
        self._cluster.note(f"login of {name}: accepted")
        return b"v=" + base64.b64encode(hmac.digest(stored.server_key, signed, "sha512"))


def string(value: bytes, flexible: bool) -> bytes:
    return compact(value) if flexible else struct.pack(">h", len(value)) + value


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(struct.unpack(">i", await reader.readexactly(4))[0])


def write_frame(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)


def listeners(properties: Path, advertised: str) -> list[Listener]:
    """The listeners of clients."""
    lines = (line.split("=", 1) for line in properties.read_text().splitlines() if "=" in line and line[0] != "#")
    values = dict(lines)
    protocols = dict(pair.split(":") for pair in values["listener.security.protocol.map"].split(","))
    addresses = dict(pair.split("://") for pair in advertised.split(","))
    found = []
    for entry in values["listeners"].split(","):
        name, address = entry.split("://")
        if name != values["controller.listener.names"]:
            host, _, port = address.rpartition(":")
            advertised_host, _, advertised_port = addresses[name].rpartition(":")
            needs_login, to_clients = protocols[name] == "SASL_PLAINTEXT", (advertised_host, int(advertised_port))
            found.append(Listener(host or ANY, int(port), needs_login, to_clients))
    return found


async def main() -> None:
    properties, advertised, broker_port, log = sys.argv[1:5]
    cluster = Cluster(int(broker_port), Path(log))
    for listener in listeners(Path(properties), advertised):
        connected = lambda reader, writer, of=listener: Connection(cluster, of).serve(reader, writer)  # noqa: E731
        await asyncio.start_server(connected, listener.host, listener.port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
