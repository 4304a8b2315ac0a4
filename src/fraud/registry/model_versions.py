"""Find registered versions and read their files. `model.onnx` is used only if its sha256 equals the version's tag."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.core.features import definition_hash
from fraud.errors import RefusedError, UnavailableError
from fraud.registry import mlflow_client
from fraud.registry.mlflow_client import ModelVersion, lookup, registry_errors
from fraud.settings import Settings

MODEL_NAME: Final = "fraud-detector"
PRODUCTION: Final = "production"


@dataclass(frozen=True, slots=True)
class ModelArtifact:
    """One version with its verified model. Later changes of the alias do not affect it."""

    version: str
    run_id: str
    model: bytes
    model_sha256: str
    feature_hash: str
    threshold: float


def fetch(settings: Settings, version: int | None = None) -> ModelArtifact:
    """Download and verify the given version, or the production version.

    Raises RefusedError when it does not exist, when its files do not have the registered sha256, or when it was trained
    with other feature definitions; UnavailableError when the registry does not answer.
    """
    found = find(settings, version)
    with TemporaryDirectory(prefix="fraud-model-") as folder:
        model = _download(settings, found.run_id, "model/model.onnx", folder).read_bytes()
        serving = _download(settings, found.run_id, "model/serving.json", folder).read_bytes()
    for name, data, tag in (("model.onnx", model, "model_sha256"), ("serving.json", serving, "serving_sha256")):
        if (digest := sha256(data).hexdigest()) != found.tags.get(tag):
            raise RefusedError(
                f"{name} of {MODEL_NAME} version {found.version} is not what was registered",
                expected=f"sha256 {found.tags.get(tag)}", got=digest,
                hint="find out what changed the artifact store; fraud rollback sets the version before",
            )  # fmt: skip
    facts = json.loads(serving)
    if facts["feature_hash"] != definition_hash():
        raise RefusedError(
            f"{MODEL_NAME} version {found.version} was trained with other feature definitions",
            expected=definition_hash(), got=facts["feature_hash"], hint="train again: fraud train",
        )  # fmt: skip
    return ModelArtifact(
        version=str(found.version), run_id=found.run_id, model=model, model_sha256=found.tags["model_sha256"],
        feature_hash=facts["feature_hash"], threshold=float(facts["threshold"]),
    )  # fmt: skip


def reference(settings: Settings, run_id: str) -> pa.Table:
    """The sample of training rows that drift is measured against. Raises RefusedError if the run has none."""
    with TemporaryDirectory(prefix="fraud-reference-") as folder:
        return pq.read_table(_download(settings, run_id, "reference.parquet", folder))


def production_version(settings: Settings) -> str | None:
    """Number of the production version; None if there is none. Raises UnavailableError."""
    try:
        return str(find(settings, None).version)
    except RefusedError:
        return None


def find(settings: Settings, version: int | None) -> ModelVersion:
    """The given version, or the production version. Raises RefusedError if it does not exist, UnavailableError."""
    client = mlflow_client.client(settings)
    with registry_errors():
        if version is None:
            found = lookup(client.get_model_version_by_alias, MODEL_NAME, PRODUCTION)
        else:
            found = lookup(client.get_model_version, MODEL_NAME, str(version))
    if found is None:
        absent = "production version" if version is None else f"version {version}"
        raise RefusedError(
            f"{MODEL_NAME} has no {absent}", hint="train and promote one: fraud train, then fraud promote"
        )
    return cast("ModelVersion", found)


def named(settings: Settings, name: str) -> ModelVersion:
    """The version with this number or alias. Raises RefusedError if it does not exist, UnavailableError."""
    if name.isdecimal():
        return find(settings, int(name))
    with registry_errors():
        found = lookup(mlflow_client.client(settings).get_model_version_by_alias, MODEL_NAME, name)
    if found is None:
        raise RefusedError(
            f"{MODEL_NAME} has no version {name}", expected="a number, or an alias: production, staging, previous"
        )
    return cast("ModelVersion", found)


def artifact(settings: Settings, run_id: str, path: str) -> bytes:
    """A file of a version's run. Raises RefusedError if it does not exist, UnavailableError."""
    with TemporaryDirectory(prefix="fraud-artifact-") as folder:
        return _download(settings, run_id, path, folder).read_bytes()


def _download(settings: Settings, run_id: str, path: str, folder: str) -> Path:
    client, parent = mlflow_client.client(settings), path.rpartition("/")[0] or None
    try:
        with registry_errors():
            if path not in {entry.path for entry in client.list_artifacts(run_id, parent)}:
                raise RefusedError(f"run {run_id} has no {path}", hint="train again: fraud train")
            return Path(client.download_artifacts(run_id, path, folder))
    except OSError as error:
        raise UnavailableError(f"{path} of run {run_id} cannot be read", got=str(error)) from error
