"""Exports of a trained version: complete folders, recorded in the history; refused, killed and tampered ones."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser import needs_edge
from tests.integration.training_platform import FRAUD, POOR, ROOT, Platform

from fraud.audit import version_tree
from fraud.embedded.servers import mlflow_server
from fraud.errors import RefusedError
from fraud.export import export
from fraud.export.onnx_folder import EXAMPLE
from fraud.registry import history, model_versions, rollback
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import GENESIS, Export, Promotion, opened
from fraud.registry.retained import divided
from fraud.scoring.onnx_session import OnnxModel

pytestmark = pytest.mark.slow  # three trainings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_server.Server]:
    with mlflow_server.running(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture(scope="module")
def platform(server: mlflow_server.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Versions 1 and 2, both promoted; version 3 with failed gates. Its project has the checkout's edge/."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.client_environment().items():
            patch.setenv(name, value)
        found = Platform(server, tmp_path_factory.mktemp("home"))
        (found.project / "edge").symlink_to(ROOT / "edge")
        found.client.create_registered_model(MODEL_NAME)
        found.train(POOR)
        found.promote()
        assert found.train().gates_passed
        found.promote()
        assert not found.train(POOR, force=True).gates_passed
        yield found


def exported(platform: Platform, target: str, out: Path, version: int = 2) -> export.Result:
    config = export.Config.model_validate({"version": version, "target": target, "out": out, "reason": "for the test"})
    return export.run(config, platform.context())


def contents(folder: Path) -> dict[str, dict[str, object]]:
    """What a manifest must say about the files of a folder."""
    return {
        path.name: {"sha256": sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }


def recorded(platform: Platform) -> list[tuple[str, str, str]]:
    """Version, target and sha256 of every export in the history, whose chain is intact."""
    found = history.run(history.Config(), platform.context())
    return [(e["version"], e["export"]["target"], e["export"]["sha256"]) for e in found.exports]


@needs_edge
def test_a_web_folder_has_the_registered_version_and_all_that_the_scorer_reads(
    platform: Platform, tmp_path: Path
) -> None:
    made, out = exported(platform, "web", tmp_path / "web"), tmp_path / "web"
    manifest = (out / "manifest.json").read_bytes()
    assert json.loads(manifest) == {"format": 1, "files": contents(out)}
    assert (made.manifest_sha256, made.version, made.target) == (sha256(manifest).hexdigest(), "2", "web")
    assert {*(path.name for path in (ROOT / "edge/dist/web").iterdir())} < {*contents(out)}
    tags = platform.client.get_model_version(MODEL_NAME, "2").tags
    version = json.loads((out / "version.json").read_bytes())
    for name, tag in (("model.onnx", "model_sha256"), ("serving.json", "serving_sha256")):
        assert contents(out)[name]["sha256"] == tags[tag] == version[tag]
    assert (version["model_version"], version["feature_hash"]) == ("2", tags["feature_hash"])
    assert json.loads((out / "package.json").read_bytes())["version"] == "2.0.0"
    golden = json.loads((out / "golden.json").read_bytes())
    assert (golden["tolerance"], len(golden["rows"]) >= 25) == (0.0, True)
    assert recorded(platform)[-1] == ("2", "web", made.manifest_sha256)
    assert not [path for path in tmp_path.iterdir() if path != out]


@needs_edge
def test_two_web_exports_of_a_version_are_equal(platform: Platform, tmp_path: Path) -> None:
    first, second = (exported(platform, "web", tmp_path / name) for name in ("a", "b"))
    assert first.manifest_sha256 == second.manifest_sha256


@needs_edge
def test_a_web_folder_that_the_scorer_refuses_is_not_made(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recorded(platform)
    # As if the code of serving computed another amount than the scorer.
    monkeypatch.setattr("fraud.core.contract.UNITS_PER_USD", 10_001)
    with pytest.raises(RefusedError, match=r"golden\.json: row 0: amount"):
        exported(platform, "web", tmp_path / "web")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert recorded(platform) == before


def test_a_device_folder_needs_onnxruntime_and_numpy_only(platform: Platform, tmp_path: Path) -> None:
    out = tmp_path / "device"
    made = exported(platform, "onnx", out)
    assert json.loads((out / "manifest.json").read_bytes())["files"] == contents(out)
    assert recorded(platform)[-1] == ("2", "onnx", made.manifest_sha256)
    source = (out / EXAMPLE).read_text()
    assert len(source.splitlines()) < 40
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_the_example_on_a_device_gives_the_probabilities_of_serving(platform: Platform, tmp_path: Path) -> None:
    exported(platform, "onnx", tmp_path / "device")
    artifact = model_versions.fetch(platform.settings, 2)
    vectors = np.array(json.loads(artifact.serving)["golden"]["vectors"], np.float32)
    names = artifact.plan.vector.names
    lines = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in vectors.astype(float).tolist())
    command = [sys.executable, "-I", str(tmp_path / "device" / EXAMPLE)]
    run = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, cwd="/")
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    expected = OnnxModel(artifact.model).probabilities(vectors).astype(float).tolist()
    assert [answer["fraud_probability"] for answer in answers] == expected
    assert [answer["is_fraud"] for answer in answers] == [p >= artifact.threshold for p in expected]
    assert {answer["model_version"] for answer in answers} == {"2"}


@pytest.mark.parametrize("name", ["model.onnx", "version.json"])
def test_the_example_refuses_a_changed_file(platform: Platform, tmp_path: Path, name: str) -> None:
    exported(platform, "onnx", tmp_path / "device")
    changed = tmp_path / "device" / name
    changed.write_bytes(changed.read_bytes().replace(b"1", b"2", 1))
    command = [sys.executable, str(tmp_path / "device" / EXAMPLE)]
    run = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"{name} differs from the exported file\n")


def test_an_export_changes_neither_production_nor_where_a_rollback_goes(platform: Platform, tmp_path: Path) -> None:
    with opened(platform.settings) as promotion:
        before, hashes = promotion.history(), [row.hash for row in promotion.entries()]
    exported(platform, "onnx", tmp_path / "one", version=1)
    with opened(platform.settings) as promotion:
        assert promotion.history() == before
        entries = promotion.verify()
    assert [row.hash for row in entries[:-1]] == hashes
    last = entries[-1].entry
    assert (last.action, last.version, last.actor, last.reason) == ("export", "1", "ada", "for the test")
    assert last.model_sha256 == platform.client.get_model_version(MODEL_NAME, "1").tags["model_sha256"]
    assert rollback.run(rollback.Config(), platform.context()).version == "1"
    assert rollback.run(rollback.Config(), platform.context()).version == "2"  # as before


def test_entries_from_before_there_were_exports_keep_their_hash(platform: Platform) -> None:
    """The formula of an entry without the field `export`, written out."""
    with opened(platform.settings) as promotion:
        first = promotion.entries()[0]
    entry = first.entry.model_dump(mode="json")
    assert entry.pop("export") is None
    link = json.dumps({"before": GENESIS, "sequence": 1, "entry": entry}, sort_keys=True)
    assert first.hash == sha256(link.encode()).hexdigest()


def test_retention_keeps_what_was_exported_and_lineage_shows_it(platform: Platform) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    assert [v.version for v in divided(platform.settings, 0, later).expire] == ["3"]
    with opened(platform.settings) as promotion:
        version = platform.client.get_model_version(MODEL_NAME, "3")
        promotion.record_export(version, Export(target="web", sha256="ab" * 32), actor="eve", reason="a copy")
    assert divided(platform.settings, 0, later).expire == []
    tree = version_tree.run(version_tree.Config(version="3"), platform.context()).as_text()
    assert f"exported for web, manifest {'ab' * 32}, by eve: a copy" in tree


def test_the_command_prints_what_was_made(platform: Platform, server: mlflow_server.Server, tmp_path: Path) -> None:
    command = [FRAUD, "export", "--version", "2", "--target", "onnx", "--out", str(tmp_path / "made"), "--json"]
    run = subprocess.run(command, env=platform.environment(server), capture_output=True, text=True, check=True)
    made = json.loads(run.stdout)
    digest = sha256((tmp_path / "made/manifest.json").read_bytes()).hexdigest()
    assert (made["manifest_sha256"], made["files"], made["version"]) == (digest, 4, "2")
    assert made["bytes"] == sum(path.stat().st_size for path in (tmp_path / "made").iterdir())
    text = history.run(history.Config(), platform.context()).as_text()
    assert re.search(rf"^\s*\d+ .* 2 .* onnx +{digest} +exported by hand$", text, re.MULTILINE)


def test_a_version_whose_gates_failed_is_refused(platform: Platform, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="version 3 did not pass its gates"):
        exported(platform, "onnx", tmp_path / "out", version=3)
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_were_not_registered_are_refused(platform: Platform, tmp_path: Path) -> None:
    before = recorded(platform)
    run_id = platform.client.get_model_version(MODEL_NAME, "2").run_id
    path = Path(platform.client.download_artifacts(run_id, "model/model.onnx", str(tmp_path)))
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    try:
        platform.client.log_artifact(run_id, str(path), "model")
        with pytest.raises(RefusedError, match="is not what was registered"):
            exported(platform, "onnx", tmp_path / "out")
    finally:
        path.write_bytes(data)
        platform.client.log_artifact(run_id, str(path), "model")
    assert not (tmp_path / "out").exists()
    assert recorded(platform) == before


def test_a_folder_with_files_is_never_written_to(platform: Platform, tmp_path: Path) -> None:
    before = recorded(platform)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(RefusedError, match="out exists"):
        exported(platform, "onnx", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert recorded(platform) == before


def test_without_node_the_message_says_what_to_install(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError, match=r"needs Node, which is not installed\n  hint: install Node 20 or later"):
        exported(platform, "web", tmp_path / "web")
    assert list(tmp_path.iterdir()) == []


def test_without_a_built_scorer_the_message_says_how_to_build_it(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    context = platform.context()
    empty = context.settings.model_copy(update={"project": tmp_path})
    config = export.Config(version=2, target="web", out=tmp_path / "web")
    with pytest.raises(RefusedError, match="the browser scorer is not built"):
        export.run(config, export.Context(empty, context.params, context.declaration, context.log))


def killed_at(step: int, platform: Platform, out: Path) -> bool:
    """Export in a process that is killed before its `step`-th write; whether it was killed."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
        return os.WIFSIGNALED(status)
    try:
        count = 0

        def counted(write: Callable[..., Any]) -> Callable[..., Any]:
            def dying(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return write(*arguments, **named)

            return dying

        Path.write_bytes = counted(Path.write_bytes)  # type: ignore[method-assign]
        Path.rename = counted(Path.rename)  # type: ignore[method-assign]
        Promotion.record_export = counted(Promotion.record_export)  # type: ignore[method-assign]
        exported(platform, "onnx", out)
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_at_any_write_there_is_no_folder_and_the_next_export_removes_what_is_left(
    platform: Platform, tmp_path: Path
) -> None:
    out, kills = tmp_path / "out", 0
    while killed_at(kills + 1, platform, out):
        kills += 1
        assert not out.exists()
        assert len(list(tmp_path.iterdir())) == 1  # what the kill left, under another name
    assert kills == 6  # four files, the record, the renaming
    assert list(tmp_path.iterdir()) == [out]
    assert json.loads((out / "manifest.json").read_bytes())["files"] == contents(out)
