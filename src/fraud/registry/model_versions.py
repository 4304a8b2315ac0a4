"""Find registered versions and read their files. `model.onnx` is used only if its sha256 equals the version's tag."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.core.declaration import DeclarationError, parse
from fraud.core.plan import Plan
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
    plan: Plan
    """Compiled from the declaration that the version contains."""
    serving: bytes
    """The content of serving.json."""
    serving_sha256: str


def fetch(settings: Settings, version: int | None = None) -> ModelArtifact:
    """Download and verify the given version, or the production version.

    Raises RefusedError when it does not exist, when its files do not have the registered sha256, or when its
    declaration cannot be read; UnavailableError when the registry does not answer.
    """
    found = find(settings, version)
    with TemporaryDirectory(prefix="fraud-model-") as folder:
        model = _download(settings, found.run_id, "model/model.onnx", folder).read_bytes()
        serving = _download(settings, found.run_id, "model/serving.json", folder).read_bytes()
    for name, data, tag in (("model.onnx", model, "model_sha256"), ("serving.json", serving, "serving_sha256")):
        if (digest := sha256(data).hexdigest()) != found.tags.get(tag):
            raise _changed(name, found, tag, digest)
    facts = json.loads(serving)
    plan = _plan(str(found.version), facts)
    return ModelArtifact(
        version=str(found.version), run_id=found.run_id, model=model, model_sha256=found.tags["model_sha256"],
        feature_hash=plan.hash, threshold=float(facts["threshold"]), plan=plan, serving=serving,
        serving_sha256=found.tags["serving_sha256"],
    )  # fmt: skip


def plan_of(settings: Settings, version: ModelVersion) -> Plan:
    """The plan of a version, without its model. Raises as `fetch` does."""
    serving = artifact(settings, version.run_id, "model/serving.json")
    if (digest := sha256(serving).hexdigest()) != version.tags.get("serving_sha256"):
        raise _changed("serving.json", version, "serving_sha256", digest)
    return _plan(str(version.version), json.loads(serving))


def _plan(version: str, facts: Mapping[str, Any]) -> Plan:
    try:
        plan = Plan(parse(facts["declaration"], learnt=True))
    except (KeyError, DeclarationError) as error:
        raise RefusedError(
            f"{MODEL_NAME} version {version} contains no feature declaration that can be read",
            expected="serving.json with a valid declaration", got=str(error), hint="train again: fraud train",
        ) from error  # fmt: skip
    if plan.hash != facts.get("feature_hash"):
        raise RefusedError(
            f"{MODEL_NAME} version {version} contains another declaration than it was trained with",
            expected=f"feature_hash {facts.get('feature_hash')}", got=plan.hash, hint="train again: fraud train",
        )  # fmt: skip
    return plan


def _changed(name: str, version: ModelVersion, tag: str, digest: str) -> RefusedError:
    return RefusedError(
        f"{name} of {MODEL_NAME} version {version.version} is not what was registered",
        expected=f"sha256 {version.tags.get(tag)}", got=digest,
        hint="find out what changed the artifact store; fraud rollback sets the version before",
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
