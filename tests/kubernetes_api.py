"""The requests of Spark's driver to a Kubernetes API server, answered as a server does that has room for every pod.

It keeps the created objects and runs nothing: `created` has their documents, in order. Spark's settings are those of
infra/spark/kubernetes, with a watch of pods switched off (`spark.kubernetes.executor.enableApiWatcher`).
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

KINDS: Final = {
    "pods": "Pod",
    "configmaps": "ConfigMap",
    "services": "Service",
    "persistentvolumeclaims": "PersistentVolumeClaim",
}


class Api(ThreadingHTTPServer):
    """The server. `created` has the documents of all created objects; `new` is set after each of them."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.created: list[dict[str, Any]] = []
        self.new = threading.Event()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [document for document in self.created if document["kind"] == kind]


class _Handler(BaseHTTPRequestHandler):
    server: Api
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.created.append(document)
        self.server.new.set()
        own = {"uid": f"uid-{len(self.server.created)}", "resourceVersion": str(len(self.server.created))}
        stored = {**document, "metadata": {**document["metadata"], **own}}
        self._answer(201, {**stored, "status": {"phase": "Pending"}} if document["kind"] == "Pod" else stored)

    def do_GET(self) -> None:
        kind = KINDS[urlsplit(self.path).path.rstrip("/").split("/")[5]]
        self._answer(
            200, {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}
        )

    def do_DELETE(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def do_PATCH(self) -> None:
        self.do_DELETE()

    def _answer(self, code: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


@contextmanager
def running(address: str = "127.0.0.1") -> Iterator[Api]:
    """A server on a free port of an address of this machine."""
    with Api(address) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
