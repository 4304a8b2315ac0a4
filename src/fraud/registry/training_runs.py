"""A training in MLflow: one run with a nested run per level, the model folder, and the registered version.

A version is created with all its tags in one call, after its files were written. A killed training leaves a run, but no
incomplete version.
"""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from fraud.errors import UnavailableError
from fraud.lake.records import Partition
from fraud.registry import mlflow_client
from fraud.registry.mlflow_client import ModelVersion, lookup
from fraud.registry.model_versions import MODEL_NAME
from fraud.settings import Settings
from fraud.uris import encoded_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run

EXPERIMENT: Final = "fraud-detector"
STAGING: Final = "staging"


class TrainingRuns:
    """Runs and versions of the experiment and the registered model. Use inside `registry_errors`.

    With a tracking URL that is not HTTP there is no server, and artifacts are written to `<home>/mlflow-artifacts`
    instead of MLflow's default, the current folder.
    """

    def __init__(self, settings: Settings) -> None:
        self._client = mlflow_client.client(settings)
        self._entities = importlib.import_module("mlflow.entities")
        self._url = settings.mlflow_url.rstrip("/")
        self._has_server = self._url.startswith(("http://", "https://"))
        location = None if self._has_server else encoded_uri(settings.home / "mlflow-artifacts")
        found = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, location)

    def version_made_from(self, fingerprint: str) -> ModelVersion | None:
        """The newest version with this fingerprint."""
        found = self._client.search_model_versions(f"name='{MODEL_NAME}' and tag.fingerprint='{fingerprint}'")
        return max(found, key=lambda version: int(version.version), default=None)

    def versions(self) -> list[ModelVersion]:
        """All versions, the oldest first."""
        found, page = [], None
        while True:
            some = self._client.search_model_versions(f"name='{MODEL_NAME}'", page_token=page)
            found += some
            if not (page := some.token):
                return sorted(found, key=lambda version: int(version.version))

    def aliased(self) -> set[str]:
        """Numbers of the versions with an alias."""
        model = lookup(self._client.get_registered_model, MODEL_NAME)
        return set() if model is None else {str(version) for version in model.aliases.values()}

    def runs(self) -> list["Run"]:
        """All runs of the experiment that are not deleted, including nested runs."""
        found, page = list["Run"](), None
        while True:
            some = self._client.search_runs([self._experiment], page_token=page)
            found += some
            if not (page := some.token):
                return found

    def size_bytes(self, run_id: str, path: str | None = None) -> int:
        """Size of a run's artifacts in bytes."""
        listed = self._client.list_artifacts(run_id, path)
        return sum(self.size_bytes(run_id, each.path) if each.is_dir else each.file_size or 0 for each in listed)

    def remove_version(self, version: str) -> None:
        """Delete a version from the registry. Its run is kept."""
        self._client.delete_model_version(MODEL_NAME, version)

    def remove_run(self, run: "Run") -> None:
        """Delete a run's artifacts, then mark the run deleted. `mlflow gc` removes it from the database."""
        registry = importlib.import_module("mlflow.store.artifact.artifact_repository_registry")
        registry.get_artifact_repository(run.info.artifact_uri, tracking_uri=self._url).delete_artifacts()
        self._client.delete_run(run.info.run_id)

    def mark_killed(self, fingerprint: str) -> list[str]:
        """Mark unfinished runs with this fingerprint as killed. Returns their ids."""
        query = f"tags.fingerprint='{fingerprint}' and attributes.status='RUNNING'"
        found = self._client.search_runs([self._experiment], query)
        for run in found:
            self._client.set_terminated(run.info.run_id, "KILLED")
        return [run.info.run_id for run in found]

    @contextmanager
    def run(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> Iterator[str]:
        """A run for the `with` block; FAILED when the block raises. Yields its id."""
        nested = {"mlflow.parentRunId": parent} if parent else {}
        run_id: str = self._client.create_run(self._experiment, tags={**tags, **nested}, run_name=name).info.run_id
        status = "FAILED"
        try:
            yield run_id
            status = "FINISHED"
        finally:
            self._client.set_terminated(run_id, status)

    def record(
        self,
        run_id: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        """Record parameters, metrics at a step and tags in one call."""
        self._client.log_batch(
            run_id,
            metrics=[self._entities.Metric(name, float(value), 0, step) for name, value in (metrics or {}).items()],
            params=[self._entities.Param(name, str(value)) for name, value in (params or {}).items()],
            tags=[self._entities.RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def record_snapshot(self, run_id: str, name: str, partition: Partition, uri: str) -> None:
        """Record the snapshot as an MLflow dataset. The digest is its content hash."""
        dataset = self._entities.Dataset(
            name=f"{name}/{partition.name}", digest=partition.content_sha256[:36],
            source_type="lake", source=json.dumps({"uri": uri}),
            profile=json.dumps({"num_rows": partition.rows, "sha256": partition.content_sha256}),
        )  # fmt: skip
        training = self._entities.InputTag("mlflow.data.context", "training")
        self._client.log_inputs(run_id, [self._entities.DatasetInput(dataset, [training])])

    def put_folder(self, run_id: str, folder: Path, path: str = "") -> None:
        """Upload all files of a local folder below `path` of the run's artifacts."""
        self._client.log_artifacts(run_id, str(folder), path or None)

    def put_text(self, run_id: str, path: str, text: str) -> None:
        """Upload one text artifact."""
        self._client.log_text(run_id, text, path)

    def put_figure(self, run_id: str, path: str, figure: "Figure") -> None:
        """Upload a plot in the format of the path's suffix."""
        self._client.log_figure(run_id, figure, path)

    def artifacts(self, run_id: str, path: str) -> dict[str, bytes]:
        """Name -> bytes of an artifact, or of all in a folder. Raises UnavailableError if it cannot be read."""
        with TemporaryDirectory(prefix="fraud-run-") as folder:
            try:
                found = Path(self._client.download_artifacts(run_id, path, folder))
            except OSError as error:
                raise UnavailableError(f"{path} of run {run_id} cannot be read", got=str(error)) from error
            files = [found] if found.is_file() else [file for file in found.rglob("*") if file.is_file()]
            return {file.name: file.read_bytes() for file in sorted(files)}

    def register(self, run_id: str, tags: Mapping[str, str]) -> ModelVersion:
        """Create a version of `runs:/<run>/model` with all tags."""
        if lookup(self._client.get_registered_model, MODEL_NAME) is None:
            self._client.create_registered_model(MODEL_NAME, description="Probability that a card payment is fraud.")
        made: ModelVersion = self._client.create_model_version(
            MODEL_NAME, f"runs:/{run_id}/model", run_id, tags=dict(tags)
        )
        return made

    def tag_version(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags in the given order."""
        for name, value in tags.items():
            self._client.set_model_version_tag(MODEL_NAME, version, name, value)

    def staged(self) -> str | None:
        """The version with the alias `staging`; None if there is none."""
        version = lookup(self._client.get_model_version_by_alias, MODEL_NAME, STAGING)
        return None if version is None else str(version.version)

    def stage(self, version: str, *, passed: bool) -> None:
        """Set `staging` to the version if its gates passed; remove it from the version if they failed."""
        now = self.staged()
        if passed and now != version:
            self._client.set_registered_model_alias(MODEL_NAME, STAGING, version)
        elif not passed and now == version:
            self._client.delete_registered_model_alias(MODEL_NAME, STAGING)

    def withdraw(self, version: ModelVersion, staged_before: str | None) -> None:
        """Undo `register` and `stage`: restore `staging`, delete the version and mark the run as failed."""
        number = str(version.version)
        if self.staged() == number:
            self._client.delete_registered_model_alias(MODEL_NAME, STAGING)
            if staged_before is not None:
                self._client.set_registered_model_alias(MODEL_NAME, STAGING, staged_before)
        self._client.delete_model_version(MODEL_NAME, number)
        self._client.delete_tag(version.run_id, "gates")
        self._client.set_terminated(version.run_id, "FAILED")

    def url(self, run_id: str) -> str:
        """URL of the run's page; without a server, the folder of the run's artifacts."""
        if self._has_server:
            return f"{self._url}/#/experiments/{self._experiment}/runs/{run_id}"
        uri: str = self._client.get_run(run_id).info.artifact_uri
        return uri


def as_json(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys. Equal values give equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
