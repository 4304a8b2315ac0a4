"""An S3 server process for tests, moto (tests/s3_server.py), on a free loopback port.

It lists, copies, deletes and reads ranges like S3, replaces an object atomically and honours `If-None-Match`, with
which Delta commits, and `If-Match`, which the Kafka broker needs too: after a restart over a server without them, it
would write its first batch over the oldest one. Its objects are in memory. It checks no signature. botocore's newer
checksums are switched off, because most servers other than AWS do not support them: docs/deployment.md, "S3".
"""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import fsspec
from fsspec import AbstractFileSystem
from tests.netns import Host

BUCKET: Final = "fraud"
_ROOT: Final = Path(__file__).parents[1]
_TOOLS: Final = str(_ROOT / ".venv/tools/bin/python")
_SERVER: Final = str(_ROOT / "tests/s3_server.py")


class Server(NamedTuple):
    """A running server, by the environment variables of its clients."""

    environment: dict[str, str]
    pid: int

    def uri(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"

    def file_system(self) -> AbstractFileSystem:
        """For a process without `environment`, too."""
        return fsspec.filesystem(
            "s3", key=self.environment["AWS_ACCESS_KEY_ID"], secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.environment["AWS_ENDPOINT_URL"], use_listings_cache=False,
        )  # fmt: skip

    def names(self, prefix: str) -> list[str]:
        """Names of the objects below a prefix, relative to it, sorted."""
        path = f"{BUCKET}/{prefix}"
        return sorted(found.removeprefix(f"{path}/") for found in self.file_system().find(path))


@contextmanager
def running(folder: Path, host: Host | None = None) -> Iterator[Server]:
    """A server with one empty bucket for the length of a `with` block. `folder` gets its log.

    With `host`, on that host and for all hosts of its network; otherwise on this machine and for it.
    """
    folder.mkdir(parents=True)
    address = host.address if host else "127.0.0.1"
    port, key, secret = _free_port(), secrets.token_hex(10), secrets.token_hex(20)
    setpriv = shutil.which("setpriv")  # the kernel ends it with the tests, however they end
    command = [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), _TOOLS, _SERVER, address, str(port), BUCKET]
    command = host.command(*command) if host else command
    # Without the user's configuration and credentials.
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "AWS_EC2_METADATA_DISABLED": "true"}
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the S3 server ended: {(folder / 's3.log').read_text()}")
            _forget_clients()
            yield Server(
                {
                    "AWS_ENDPOINT_URL": f"http://{address}:{port}",
                    "AWS_ALLOW_HTTP": "true",
                    "AWS_ACCESS_KEY_ID": key,
                    "AWS_SECRET_ACCESS_KEY": secret,
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                },
                process.pid,
            )
        finally:
            process.kill()  # it keeps nothing
            process.wait()
            process.stdout.close()
            _forget_clients()


def _forget_clients() -> None:
    """Otherwise fsspec gives clients the file system of another server: the variables are not in its key."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
