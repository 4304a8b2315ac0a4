"""A training in MLflow: one run with a nested run per level, the model folder, and the registered version.

A version exists from one call on, with all its tags, after everything it points to was written: a killed training
leaves a run, never half a version.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import mlflow
import numpy as np
import onnx
from matplotlib.figure import Figure
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types.schema import Schema, TensorSpec

from fraud.core.features import VECTOR_NAMES
from fraud.errors import UnavailableError
from fraud.io import mlflow_client
from fraud.io.lake import Manifest
from fraud.io.model_artifact import ABSENT, MODEL_NAME
from fraud.settings import Settings

EXPERIMENT: Final = "fraud-detector"
STAGING: Final = "staging"
_REQUIREMENTS: Final = ("mlflow", "onnx", "onnxruntime", "numpy")
MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # standard output is the job's result
# MLflow's remarks about pip and about waiting say nothing that our own log does not.
for _talker in ("mlflow.utils.environment", "mlflow.store.model_registry.abstract_store"):
    logging.getLogger(_talker).setLevel(logging.ERROR)


class TrainingRuns:
    """Runs and versions of the one experiment and the one registered model. Use inside `answering`."""

    def __init__(self, settings: Settings) -> None:
        self._client = mlflow_client.client(settings)
        self._url = settings.mlflow_url.rstrip("/")
        found = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)

    def version_made_from(self, fingerprint: str) -> ModelVersion | None:
        """The newest version with this fingerprint."""
        found = self._client.search_model_versions(f"name='{MODEL_NAME}' and tag.fingerprint='{fingerprint}'")
        return max(found, key=lambda version: int(version.version), default=None)

    def versions(self) -> list[ModelVersion]:
        """Every version there is, the oldest first."""
        found, page = [], None
        while True:
            some = self._client.search_model_versions(f"name='{MODEL_NAME}'", page_token=page)
            found += some
            if not (page := some.token):
                return sorted(found, key=lambda version: int(version.version))

    def aliased(self) -> set[str]:
        """Numbers of the versions that an alias names, any alias."""
        try:
            return {str(version) for version in self._client.get_registered_model(MODEL_NAME).aliases.values()}
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            return set()

    def runs(self) -> list[Run]:
        """Every run of the experiment that was not deleted, levels' own included."""
        found, page = list[Run](), None
        while True:
            some = self._client.search_runs([self._experiment], page_token=page)
            found += some
            if not (page := some.token):
                return found

    def weight(self, run_id: str, path: str | None = None) -> int:
        """Bytes of a run's artifacts."""
        listed = self._client.list_artifacts(run_id, path)
        return sum(self.weight(run_id, each.path) if each.is_dir else each.file_size or 0 for each in listed)

    def remove_version(self, version: str) -> None:
        """Take a version out of the registry; its run stays."""
        self._client.delete_model_version(MODEL_NAME, version)

    def remove_run(self, run: Run) -> None:
        """Remove a run's artifacts, then mark it deleted: `mlflow gc` takes what is left of it out of the database."""
        get_artifact_repository(run.info.artifact_uri, tracking_uri=self._url).delete_artifacts()
        self._client.delete_run(run.info.run_id)

    def bury_unfinished(self, fingerprint: str) -> list[str]:
        """Mark runs of the same training that were killed: nothing was registered from them, and nothing will be."""
        query = f"tags.fingerprint='{fingerprint}' and attributes.status='RUNNING'"
        found = self._client.search_runs([self._experiment], query)
        for run in found:
            self._client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))
        return [run.info.run_id for run in found]

    @contextmanager
    def run(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> Iterator[str]:
        """A run for the length of a `with` block; FAILED when the block raises. Gives its id."""
        nested = {"mlflow.parentRunId": parent} if parent else {}
        run_id: str = self._client.create_run(self._experiment, tags={**tags, **nested}, run_name=name).info.run_id
        status = RunStatus.FAILED
        try:
            yield run_id
            status = RunStatus.FINISHED
        finally:
            self._client.set_terminated(run_id, RunStatus.to_string(status))

    def record(
        self,
        run_id: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        """Parameters, metrics at a step and tags, in one call."""
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), 0, step) for name, value in (metrics or {}).items()],
            params=[Param(name, str(value)) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def record_dataset(self, run_id: str, manifest: Manifest, uri: str) -> None:
        """The snapshot as MLflow's dataset, known by its content."""
        dataset = Dataset(
            name=f"{manifest.dataset}/{manifest.partition}", digest=manifest.content_sha256[:36],
            source_type="lake", source=json.dumps({"uri": uri}),
            profile=json.dumps({"num_rows": manifest.rows, "sha256": manifest.content_sha256}),
        )  # fmt: skip
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def put_folder(self, run_id: str, folder: Path, path: str = "") -> None:
        """Every file of a local folder, below `path` of the run's artifacts."""
        self._client.log_artifacts(run_id, str(folder), path or None)

    def put_text(self, run_id: str, path: str, text: str) -> None:
        """One artifact from text."""
        self._client.log_text(run_id, text, path)

    def put_figure(self, run_id: str, path: str, figure: Figure) -> None:
        """A plot; the path's ending says as what."""
        self._client.log_figure(run_id, figure, path)

    def artifacts(self, run_id: str, path: str) -> dict[str, bytes]:
        """Name -> bytes of an artifact, or of all in a folder. Raises UnavailableError when it is not there."""
        with TemporaryDirectory(prefix="fraud-run-") as folder:
            found = Path(self._client.download_artifacts(run_id, path, folder))
            files = [found] if found.is_file() else [file for file in found.rglob("*") if file.is_file()]
            return {file.name: file.read_bytes() for file in sorted(files)}

    def register(self, run_id: str, tags: Mapping[str, str]) -> ModelVersion:
        """Make `runs:/<run>/model` a version, all tags at once."""
        try:
            self._client.get_registered_model(MODEL_NAME)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            self._client.create_registered_model(MODEL_NAME, description="Probability that a card payment is fraud.")
        return self._client.create_model_version(MODEL_NAME, f"runs:/{run_id}/model", run_id, tags=dict(tags))

    def tag_version(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags in the given order."""
        for name, value in tags.items():
            self._client.set_model_version_tag(MODEL_NAME, version, name, value)

    def stage(self, version: str, *, passed: bool) -> None:
        """Let `staging` name the version when its gates passed, and not name it when they failed."""
        now = self._client.get_registered_model(MODEL_NAME).aliases.get(STAGING)
        if passed and now != version:
            self._client.set_registered_model_alias(MODEL_NAME, STAGING, version)
        elif not passed and now == version:
            self._client.delete_registered_model_alias(MODEL_NAME, STAGING)

    def url(self, run_id: str) -> str:
        """The run's page, as this process reaches the server."""
        return f"{self._url}/#/experiments/{self._experiment}/runs/{run_id}"


def write_model_folder(folder: Path, model: bytes, serving: bytes) -> None:
    """`MLmodel`, environment files, `model.onnx` and `serving.json`, the last two byte for byte as given."""
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, len(VECTOR_NAMES)), "features")]),
        Schema([TensorSpec(np.dtype(np.float32), (-1,), "fraud_probability")]),
    )
    mlflow.onnx.save_model(
        onnx.load_model_from_string(model), folder, signature=signature, pip_requirements=list(_REQUIREMENTS),
        onnx_execution_providers=["CPUExecutionProvider"], save_as_external_data=False,
        onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    )  # fmt: skip
    (folder / "model.onnx").write_bytes(model)
    (folder / "serving.json").write_bytes(serving)


@contextmanager
def answering() -> Iterator[None]:
    """MLflow's errors as ours: the registry is not there, or refused; either way nothing was half done."""
    try:
        yield
    except MlflowException as error:
        raise UnavailableError("the model registry does not answer", came=str(error)) from error


def as_json(value: Mapping[str, Any]) -> str:
    """Text with sorted keys: equal values, equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
