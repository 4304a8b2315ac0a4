"""A registry without a server becomes that of a server: the same versions, aliases, tags and bytes, for any host."""

from pathlib import Path
from types import SimpleNamespace

import httpx
import mlflow
import pytest
from tests.integration.registry_platform import PROJECT, Platform

from fraud.cli import run_job
from fraud.embedded.servers import mlflow_server
from fraud.errors import BadConfigError, RefusedError
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import STAGING
from fraud.uris import encoded_uri, sqlite_url

FILES = ("model.onnx", "serving.json")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A registry in a file, with a space in its path. The current folder must not receive artifacts."""
    home = tmp_path / "a home"
    home.mkdir()
    url = sqlite_url(home / "mlflow.db")
    for name, value in (("HOME", home), ("PROJECT", PROJECT), ("MLFLOW_URL", url), ("REDIS_URL", "none")):
        monkeypatch.setenv(f"FRAUD_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    platform = Platform(SimpleNamespace(url=url), home)  # type: ignore[arg-type]
    platform.client.create_experiment("e", encoded_uri(home / "mlflow-artifacts"))
    platform.client.create_registered_model(MODEL_NAME)
    return platform


def test_a_server_has_the_versions_aliases_tags_and_bytes(source: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    source.register()
    source.register()
    before = {str(v.version): (v.run_id, v.tags) for v in source.client.search_model_versions(f"name='{MODEL_NAME}'")}
    bytes_before = {
        run: [(source.home / "mlflow-artifacts" / run / "artifacts/model" / name).read_bytes() for name in FILES]
        for run, _ in before.values()
    }
    copied = run_job("copy-registry", []).model_dump()
    assert (copied["versions"], copied["runs"], copied["files"]) == (2, 2, 4)

    (source.home / "mlflow-artifacts").rename(source.home / "away")
    with mlflow_server.running(source.home / "mlflow") as server:
        for name, value in server.client_environment().items():
            monkeypatch.setenv(name, value)
        client = mlflow.MlflowClient(server.url)
        found = {str(v.version): (v.run_id, v.tags) for v in client.search_model_versions(f"name='{MODEL_NAME}'")}
        assert found == before
        assert str(client.get_model_version_by_alias(MODEL_NAME, STAGING).version) == "2"
        login = (mlflow_server.ADMIN, server.password)
        for run, files in bytes_before.items():
            # As serving reads them: through the server, by the address of the run.
            path = client.get_run(run).info.artifact_uri.removeprefix("mlflow-artifacts:/")
            for name, expected in zip(FILES, files, strict=True):
                url = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/{path}/model/{name}"
                assert httpx.get(url, auth=login).raise_for_status().content == expected
        new = client.create_run(client.get_experiment_by_name("e").experiment_id)
        assert new.info.artifact_uri.startswith("mlflow-artifacts:/")


def test_an_existing_registry_is_not_replaced(source: Platform) -> None:
    source.register()
    run_job("copy-registry", [])
    with pytest.raises(RefusedError, match=r"mlflow\.db exists"):
        run_job("copy-registry", [])


def test_a_registry_behind_a_server_is_not_copied(source: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_MLFLOW_URL", "http://127.0.0.1:9")
    with pytest.raises(BadConfigError, match="no registry without a server"):
        run_job("copy-registry", [])


def test_artifacts_elsewhere_are_refused_and_leave_no_registry(source: Platform) -> None:
    elsewhere = encoded_uri(source.home / "other")
    source.client.create_run(source.client.create_experiment("elsewhere", elsewhere))
    with pytest.raises(RefusedError, match="in another folder"):
        run_job("copy-registry", [])
    assert not (source.home / "mlflow/mlflow.db").exists()
