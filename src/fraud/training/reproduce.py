"""Train a version again from its recorded inputs, and compare the sha256 of the model.

Training runs in a clean checkout of the recorded commit, in the environment of its lock files, on the data with the
recorded content hash, with a temporary registry. If the sha256 differs, the result lists the inputs that differ.
"""

import json
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

import fraud
from fraud import declaration_file
from fraud.errors import BadInputError, RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.lake.objects import opened, put_atomically
from fraud.lake.records import Partition
from fraud.registry import mlflow_client, model_versions
from fraud.registry.mlflow_client import ModelVersion
from fraud.registry.model_versions import MODEL_NAME
from fraud.training import checkout
from fraud.training.dvc import data_versions
from fraud.uris import sqlite_url, uri_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

INPUTS: Final = {
    "data": "data_sha256", "params": "params_sha256", "code": "code_sha256", "lock": "lock_sha256",
    "features": "feature_hash", "seed": "seed",
}  # fmt: skip
"""Input that decides the model bytes -> tag with its hash."""


class Config(JobConfig):
    """Version to reproduce."""

    version: CliPositionalArg[str] = Field(default="production", description="number or alias")
    force: bool = Field(default=False, description="also retrain a version that was trained from uncommitted files")
    here: bool = Field(default=False, description="use the current files instead of a checkout of the commit")


class Compared(BaseModel):
    """One input or output: its recorded value and its value in the retraining."""

    model_config = ConfigDict(frozen=True)

    name: str
    recorded: str
    again: str
    detail: str = ""
    """Parameters or files that differ, if they can be determined."""

    @property
    def equal(self) -> bool:
        """Whether a value was recorded and the retraining gave the same."""
        return bool(self.recorded) and self.recorded == self.again


class Result(JobResult):
    """The comparison. `equal`: the model has the registered sha256."""

    version: str
    equal: bool
    git_commit: str
    environment: str
    data: str
    """lake, or DVC remote"""
    inputs: tuple[Compared, ...]
    outputs: tuple[Compared, ...]
    """The deployed model first, then serving.json, the threshold and every level of the ladder."""
    seconds: float

    def as_text(self) -> str:
        return "\n".join(
            [
                f"version {self.version} of {self.git_commit}: {'equal' if self.equal else 'DIFFERENT'}",
                f"  sha256 {self.outputs[0].recorded} registered",
                f"  sha256 {self.outputs[0].again} retrained",
                f"  environment: {self.environment}; data from the {self.data}; {self.seconds:.0f} s",
                *_table("input", self.inputs),
                *_table("output", self.outputs),
            ]
        )


def run(config: Config, context: Context) -> Result:
    """Retrain and compare. Raises RefusedError for uncommitted files, for removed data, and for another sha256."""
    began = time.monotonic()
    version = model_versions.named(context.settings, config.version)
    commit = version.tags.get("git_commit", "unknown")
    if not config.here:
        _require_clean(version, commit, force=config.force)
    with TemporaryDirectory(prefix="fraud-reproduce-") as name:
        folder = Path(name)
        if config.here:
            project, source = context.settings.project, Path(next(iter(fraud.__path__))).parent
        else:
            project, source = folder / "checkout", folder / "checkout/src"
            repository = context.settings.repository or str(context.settings.project)
            checkout.clone(repository, commit, project)
            context.log.info("commit checked out", commit=commit, repository=repository)
        detail = _declaration_detail(version, project, context)
        data_source = _copy_data(version, folder / "lake", context)
        python = checkout.environment(project, context.log)
        registry = sqlite_url(folder / "mlflow.db")
        settings = {
            "FRAUD_HOME": str(folder / "var"), "FRAUD_PROJECT": str(project), "FRAUD_LAKE_URI": uri_of(folder / "lake"),
            "FRAUD_MLFLOW_URL": registry, "MLFLOW_TRACKING_URI": registry,
        }  # fmt: skip
        (folder / "var").mkdir()
        arguments = ["train", f"--snapshot={version.tags['snapshot']}", "--force"]
        made = checkout.run_job(python, source, folder, arguments, settings, context.log)
        throwaway = mlflow_client.client(context.settings.model_copy(update={"mlflow_url": registry}))
        again = throwaway.get_model_version(MODEL_NAME, made["version"])
        inputs = _inputs(version, again, throwaway, detail, context)
        outputs = _outputs(version, again, folder, context)
    result = Result(
        version=str(version.version), equal=outputs[0].equal, git_commit="the current files" if config.here else commit,
        environment="the current one" if python == Path(sys.executable) else "built from the locks",
        data=data_source, inputs=inputs, outputs=outputs, seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    if not config.here:
        client = mlflow_client.client(context.settings)
        verdict = "equal" if result.equal else "different"
        client.set_model_version_tag(MODEL_NAME, str(version.version), "reproduced", verdict)
    if not result.equal:
        differing = [i.name for i in inputs if not i.equal]
        raise RefusedError(
            f"retraining version {version.version} gave another model",
            expected=f"model sha256 {outputs[0].recorded}", got=f"{outputs[0].again}\n{result.as_text()}",
            hint=f"these inputs differ: {', '.join(differing)}" if differing else "all recorded inputs are equal, so "
            "training depends on something else (processor, library); compare the levels above",
        )  # fmt: skip
    return result


def _require_clean(version: ModelVersion, commit: str, *, force: bool) -> None:
    dirty = version.tags.get("git_dirty", "unknown")
    if commit == "unknown":
        raise RefusedError(
            f"version {version.version} was trained outside of a Git repository, so its files are not recorded",
            hint="fraud reproduce --here retrains from the current files and lists what differs",
        )
    if dirty != "false" and not force:
        raise RefusedError(
            f"version {version.version} was trained from uncommitted files",
            expected=f"the files of commit {commit}", got=f"git_dirty={dirty}",
            hint="--force retrains from the commit, --here from the current files; both list what differs",
        )  # fmt: skip


def _declaration_detail(version: ModelVersion, project: Path, context: Context) -> str:
    """What differs between the version's declaration and the `features.yaml` of the retraining; "" if nothing does.

    Raises RefusedError if the stored features differ: the recorded training set does not have the others.
    """
    recorded = model_versions.plan_of(context.settings, version).declaration
    now = declaration_file.load_of(project)
    if recorded.hash == now.hash:
        return ""
    before, after = ({f.name: f.model_dump(exclude={"description"}) for f in d.features} for d in (recorded, now))
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    parts = {
        "changed": sorted(changed), "removed": sorted(before.keys() - after.keys()),
        "added": sorted(after.keys() - before.keys()),
    }  # fmt: skip
    text = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
    text = text or "columns, entities or the order of the features"
    if recorded.stored_hash != now.stored_hash:
        raise RefusedError(
            f"{project / declaration_file.NAME} declares other columns or stored features than version "
            f"{version.version}, so its training set cannot be used",
            expected=f"declaration {recorded.hash}", got=f"{now.hash} ({text})",
            hint="without --here, the file of the recorded commit is used",
        )  # fmt: skip
    return text


def _copy_data(version: ModelVersion, lake: Path, context: Context) -> str:
    """Copy the snapshot to a separate lake, from the lake or else from the DVC remote. Returns the source."""
    snapshot, recorded = version.tags.get("snapshot", ""), version.tags.get("data_sha256", "")
    ours, restored = (catalog.TRAINING_SETS.at(uri) for uri in (context.settings.lake_uri, uri_of(lake)))
    partition = ours.partition(snapshot)
    data_source = "lake"
    if partition is not None and partition.content_sha256 == recorded and _copied(partition, ours, restored):
        restored.commit([partition])
    elif md5 := version.tags.get("dvc_data_md5"):
        data_source = "DVC remote"
        context.log.info("snapshot not in the lake, pulling from the DVC remote", snapshot=snapshot, dvc_data_md5=md5)
        data_versions.pull_partition(context.settings.dvc_remote, md5, restored)
    try:
        copied = restored.verify(snapshot)
    except BadInputError as error:
        raise RefusedError(f"the data of version {version.version} no longer exists", got=str(error)) from error
    if copied.content_sha256 != recorded:
        raise RefusedError(
            f"the data of version {version.version} has another content than recorded",
            expected=f"content {recorded}", got=f"content {copied.content_sha256} ({data_source})",
        )  # fmt: skip
    return data_source


def _copied(partition: Partition, source: Dataset, target: Dataset) -> bool:
    """Copy the objects of a partition. False when the source lacks one of them, although it names it."""
    try:
        for uri, copy in zip(source.uris_of(partition), target.uris_of(partition), strict=True):
            with opened(uri) as file:
                put_atomically(copy, file.read())
    except FileNotFoundError:
        return False
    return True


def _inputs(
    version: ModelVersion, again: ModelVersion, registry: "MlflowClient", declared: str, context: Context
) -> tuple[Compared, ...]:
    found = []
    for name, tag in INPUTS.items():
        recorded, now = version.tags.get(tag, ""), again.tags.get(tag, "")
        detail = ""
        if recorded != now and name == "params":
            client = mlflow_client.client(context.settings)
            detail = _changed(client.get_run(version.run_id).data.params, registry.get_run(again.run_id).data.params)
        elif recorded != now and name == "features":
            detail = declared
        elif recorded != now and name in ("code", "lock"):
            folder = "src/" if name == "code" else "requirements/"
            files = checkout.changed_files(context.settings.project, version.tags.get("git_commit", ""))
            detail = ", ".join(file for file in files if file.startswith(folder))
        found.append(Compared(name=name, recorded=recorded, again=now, detail=detail))
    return tuple(found)


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Parameters that differ: `name: recorded -> now`."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ", ".join(f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}" for name in names)


def _outputs(version: ModelVersion, again: ModelVersion, folder: Path, context: Context) -> tuple[Compared, ...]:
    """Compare outputs. Hashes are computed from the files, not read from the tags of the retraining."""
    [made] = folder.rglob(f"{again.run_id}/artifacts/model/model.onnx")
    files = {"model_sha256": made, "serving_sha256": made.with_name("serving.json")}
    found = [
        Compared(name=tag, recorded=version.tags.get(tag, ""), again=sha256(file.read_bytes()).hexdigest())
        for tag, file in files.items()
    ]
    found.append(
        Compared(name="threshold", recorded=version.tags.get("threshold", ""), again=again.tags.get("threshold", ""))
    )
    recorded = json.loads(model_versions.artifact(context.settings, version.run_id, "training.json"))
    levels = json.loads((made.parent.parent / "training.json").read_text())
    by_name = {_level(level): level["model_sha256"] for level in levels["levels"]}
    found += [
        Compared(name=f"level {_level(level)}", recorded=level["model_sha256"], again=by_name.get(_level(level), ""))
        for level in recorded["levels"]
    ]
    return tuple(found)


def _level(level: Mapping[str, Any]) -> str:
    return f"{level['level']}-{level['name']}"


def _table(kind: str, rows: tuple[Compared, ...]) -> list[str]:
    lines = [f"  {kind:<18}{'recorded':<20}{'again':<20}"]
    for row in rows:
        mark = "equal" if row.equal else f"DIFFERS {row.detail}".rstrip()
        lines.append(f"  {row.name:<18}{row.recorded[:16]:<20}{row.again[:16]:<20}{mark}")
    return lines
