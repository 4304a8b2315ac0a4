"""Serving's what-if page: off by default, exactly the files of a verified export, with its Content-Security-Policy."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from servers import Registry, Serving, Valkey

from fraud_serving import exported
from fraud_serving.exported import BadExportError

FILES = {"index.html": b"<!doctype html><p>page</p>", "page.js": b"export {};\n", "model.onnx": b"\x00model"}


def written(folder: Path, changed: dict[str, object] | None = None, files: dict[str, bytes] = FILES) -> Path:
    """A folder with a manifest; `changed` replaces keys of the manifest."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    entries = {name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": entries} | (changed or {})))
    return folder


@pytest.fixture
def server(
    start: Callable[..., Serving], registry: Registry, versions: list[str], shared_store: Valkey, tmp_path: Path
) -> Serving:
    registry.promote(versions[0])
    return start(shared_store.url, registry, SERVING_WHAT_IF=str(written(tmp_path / "export")))


def test_without_the_setting_there_is_no_page(serving: Serving) -> None:
    for path in ("/what-if", "/what-if/", "/what-if/index.html"):
        assert serving.client.get(path).status_code == 404


def test_the_files_of_the_export_are_served_with_type_policy_and_tag(server: Serving) -> None:
    page = server.client.get("/what-if/")
    assert (page.status_code, page.content) == (200, FILES["index.html"])
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self' 'wasm-unsafe-eval';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    script = server.client.get("/what-if/page.js")
    assert (script.content, script.headers["content-type"]) == (FILES["page.js"], "text/javascript; charset=utf-8")
    model = server.client.get("/what-if/model.onnx")
    assert (model.content, model.headers["content-type"]) == (FILES["model.onnx"], "application/octet-stream")
    again = server.client.get("/what-if/model.onnx", headers={"if-none-match": model.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = server.client.head("/what-if/page.js")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(FILES["page.js"])))


def test_the_address_without_a_slash_leads_to_the_folder(server: Serving) -> None:
    found = server.client.get("/what-if")
    assert (found.status_code, found.headers["location"]) == (307, "what-if/")


def test_nothing_but_the_files_of_the_manifest_is_served(server: Serving, tmp_path: Path) -> None:
    (tmp_path / "export/added.txt").write_text("added after the start")
    (tmp_path / "secret.txt").write_text("beside the folder")
    for path in ("added.txt", "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "a/b", "%00"):
        assert server.client.get(f"/what-if/{path}").status_code == 404, path
    (tmp_path / "export/page.js").write_text("changed after the start")
    assert server.client.get("/what-if/page.js").content == FILES["page.js"]
    assert server.client.post("/what-if/page.js").status_code == 405


def test_a_folder_that_is_no_export_or_was_changed_is_refused_naming_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadExportError, match=r"none/manifest\.json: expected a readable file"):
        exported.read(tmp_path / "none")
    with pytest.raises(BadExportError, match=r"manifest\.json: expected a web export of format 1, got format 2"):
        exported.read(written(tmp_path / "later", {"format": 2}))
    with pytest.raises(
        BadExportError, match=r"expected a web export of format 1, got format 1 with the files model\.onnx"
    ):
        exported.read(written(tmp_path / "onnx", files={"model.onnx": b"m"}))
    with pytest.raises(BadExportError, match=r"expected the manifest of a web export"):
        exported.read(written(tmp_path / "shape", {"files": ["index.html"]}))
    changed = written(tmp_path / "changed")
    (changed / "model.onnx").write_bytes(b"\x01model")
    with pytest.raises(BadExportError, match=r"changed/model\.onnx: expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        exported.read(changed)
    outside = {"index.html": {"sha256": "0", "bytes": 1}, "../secret.txt": {"sha256": "0", "bytes": 1}}
    with pytest.raises(BadExportError, match="expected names of files in the folder"):
        exported.read(written(tmp_path / "outside", {"files": outside}))


def test_a_changed_export_ends_the_start_naming_the_variable(tmp_path: Path) -> None:
    changed = written(tmp_path / "export")
    (changed / "page.js").write_bytes(b"alert(1)")
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | {
        "SERVING_REDIS_URL": "redis://127.0.0.1:1/0", "SERVING_MLFLOW_URL": "http://127.0.0.1:2", "SERVING_OPEN": "1",
        "SERVING_MODEL_CACHE": str(tmp_path / "cache"), "SERVING_PREDICTION_LOG": str(tmp_path / "log"),
        "SERVING_WHAT_IF": str(changed),
    }  # fmt: skip
    command = [sys.executable, "-m", "fraud_serving"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 2
    assert "SERVING_WHAT_IF" in found.stderr
    assert "page.js: expected sha256" in found.stderr
