"""An S3 server process for tests, `rclone serve s3` over a folder, on a free loopback port.

It signs, lists, copies and deletes like S3 and replaces an object atomically. It has no versions and ignores
`If-None-Match`, which the platform does not send. botocore's newer checksums are switched off, because most servers
other than AWS do not support them: docs/deployment.md, "S3".
"""

import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

BUCKET: Final = "fraud"
_DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.02


class Server(NamedTuple):
    """A running server: the environment variables of its clients, and the folder with its objects as files."""

    environment: dict[str, str]
    folder: Path

    def uri(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server with one empty bucket and keys of its own for the length of a `with` block."""
    (folder / BUCKET).mkdir(parents=True)
    port, key, secret = _free_port(), secrets.token_hex(10), secrets.token_hex(20)
    program = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    # Without the user's configuration and credentials.
    own = {"RCLONE_AUTH_KEY": f'"{key},{secret}"', "RCLONE_CONFIG": "", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    setpriv = shutil.which("setpriv")  # the kernel ends it with the tests, however they end
    with (folder.parent / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), *program], env=own, stdout=log, stderr=log
        )
        try:
            _wait(process, port)
            yield Server(
                {
                    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                    "AWS_ACCESS_KEY_ID": key,
                    "AWS_SECRET_ACCESS_KEY": secret,
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                },
                folder / BUCKET,
            )
        finally:
            process.kill()  # it keeps nothing in memory, and a graceful end waits for idle connections
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
