"""The S3 server of the tests: moto, in the tools environment. tests/s3.py starts it:
`python s3_server.py ADDRESS PORT BUCKET`.

One request at a time: moto checks `If-None-Match` and then writes, which is atomic only if no other request comes
between. Small objects are in memory, others in files without a name (MOTO_S3_DEFAULT_KEY_BUFFER_SIZE).
"""

import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class OneAtATime:
    """A WSGI application whose requests are served one after the other, while connections stay open."""

    def __init__(self, application: Any) -> None:  # noqa: ANN401 - WSGI
        self._application, self._lock = application, threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            return list(self._application(environ, start_response))


class Handler(WSGIRequestHandler):
    """Connections are kept open, and an answer is sent in one segment: otherwise each waits 40 ms for an ACK."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def main() -> None:
    address, port, bucket = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server(address, port, application, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    any_key = secrets.token_hex(10)
    client = boto3.client(
        "s3", endpoint_url=f"http://{address}:{port}", region_name="us-east-1", aws_access_key_id=any_key,
        aws_secret_access_key=any_key,
    )  # fmt: skip
    client.create_bucket(Bucket=bucket)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
