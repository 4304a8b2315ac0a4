"""Train a version again from what was recorded of it, and compare the bytes.

A clean checkout of its commit, the environment its locks name, its data by content hash, a registry of its own that
is thrown away: what comes out must have the sha256 that was registered. Where it has not, every input that differs is
named.
"""

import json
import shutil
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
from fraud.errors import BadInputError, RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import MANIFEST, opened
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
"""What decides a version's bytes -> the tag that has its hash."""


class Config(JobConfig):
    """Which version, and how strictly."""

    version: CliPositionalArg[str] = Field(default="production", description="number or alias")
    force: bool = Field(default=False, description="retrain even a version made from uncommitted files")
    here: bool = Field(default=False, description="from the present files instead of a checkout of the commit")


class Compared(BaseModel):
    """One input or output."""

    model_config = ConfigDict(frozen=True)

    name: str
    recorded: str
    again: str
    detail: str = ""
    """Which parameters, which files: where that can be told."""

    @property
    def equal(self) -> bool:
        """Whether both are known and the same."""
        return bool(self.recorded) and self.recorded == self.again


class Result(JobResult):
    """What was compared. `equal`: the model's bytes are those registered."""

    version: str
    equal: bool
    git_commit: str
    environment: str
    data: str
    """lake, or the DVC remote"""
    inputs: tuple[Compared, ...]
    outputs: tuple[Compared, ...]
    """The deployed model first, then what serving reads beside it, then every level of the ladder."""
    seconds: float

    def as_text(self) -> str:
        return "\n".join(
            [
                f"version {self.version} of {self.git_commit}: {'equal' if self.equal else 'DIFFERENT'}",
                f"  sha256 {self.outputs[0].recorded} registered",
                f"  sha256 {self.outputs[0].again} made again",
                f"  environment: {self.environment}; data from the {self.data}; {self.seconds:.0f} s",
                *_table("input", self.inputs),
                *_table("output", self.outputs),
            ]
        )


def run(config: Config, context: Context) -> Result:
    """Retrain and compare. Raises RefusedError for uncommitted files, for data that is gone, and for other bytes."""
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
            context.log.info("checked out", commit=commit, repository=repository)
        came_from = _bring_data(version, folder / "lake", context)
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
        inputs = _inputs(version, again, throwaway, context)
        outputs = _outputs(version, again, folder, context)
    result = Result(
        version=str(version.version), equal=outputs[0].equal, git_commit="the present files" if config.here else commit,
        environment="the present one" if python == Path(sys.executable) else "built from the locks",
        data=came_from, inputs=inputs, outputs=outputs, seconds=round(time.monotonic() - began, 1),
    )  # fmt: skip
    if not config.here:
        client = mlflow_client.client(context.settings)
        verdict = "equal" if result.equal else "different"
        client.set_model_version_tag(MODEL_NAME, str(version.version), "reproduced", verdict)
    if not result.equal:
        differing = [i.name for i in inputs if not i.equal]
        raise RefusedError(
            f"version {version.version} came out with other bytes",
            expected=f"model sha256 {outputs[0].recorded}", got=f"{outputs[0].again}\n{result.as_text()}",
            hint=f"these inputs differ: {', '.join(differing)}" if differing else "no input differs: training depends "
            "on something that is not recorded (machine, thread order); compare the levels above",
        )  # fmt: skip
    return result


def _require_clean(version: ModelVersion, commit: str, *, force: bool) -> None:
    dirty = version.tags.get("git_dirty", "unknown")
    if commit == "unknown":
        raise RefusedError(
            f"version {version.version} was trained outside of Git: nobody knows from which files",
            hint="fraud reproduce --here retrains from the present files and names what differs",
        )
    if dirty != "false" and not force:
        raise RefusedError(
            f"version {version.version} was trained from files that were not committed",
            expected=f"the files of commit {commit}", got=f"git_dirty={dirty}",
            hint="--force retrains from the commit all the same, --here from the present files; both name what differs",
        )  # fmt: skip


def _bring_data(version: ModelVersion, lake: Path, context: Context) -> str:
    """The snapshot with the recorded content into a lake of its own: from the lake, else from the DVC remote."""
    snapshot, wanted = version.tags.get("snapshot", ""), version.tags.get("data_sha256", "")
    ours, copied = (catalog.TRAINING_SETS.at(uri) for uri in (context.settings.lake_uri, uri_of(lake)))
    folder = lake / copied.name / f"{copied.key}={snapshot}"
    folder.mkdir(parents=True)
    manifest = ours.manifest(snapshot)
    came_from = "lake"
    if manifest is not None and manifest.content_sha256 == wanted:
        for uri in [*ours.object_uris(snapshot), f"{ours.partition_uri(snapshot)}/{MANIFEST}"]:
            with opened(uri) as file, (folder / uri.rpartition("/")[2]).open("wb") as copy:
                shutil.copyfileobj(file, copy)
    elif md5 := version.tags.get("dvc_data_md5"):
        came_from = "DVC remote"
        context.log.info("the lake has not got this snapshot any more", snapshot=snapshot, dvc_data_md5=md5)
        data_versions.pull(context.settings.dvc_remote, md5, folder)
    try:
        brought = copied.verify(snapshot)
    except BadInputError as error:
        raise RefusedError(f"the data of version {version.version} is not there any more", got=str(error)) from error
    if brought.content_sha256 != wanted:
        raise RefusedError(
            f"the data of version {version.version} is not what it was trained on",
            expected=f"content {wanted}", got=f"content {brought.content_sha256} ({came_from})",
        )  # fmt: skip
    return came_from


def _inputs(
    version: ModelVersion, again: ModelVersion, registry: "MlflowClient", context: Context
) -> tuple[Compared, ...]:
    found = []
    for name, tag in INPUTS.items():
        recorded, now = version.tags.get(tag, ""), again.tags.get(tag, "")
        detail = ""
        if recorded != now and name == "params":
            client = mlflow_client.client(context.settings)
            detail = _changed(client.get_run(version.run_id).data.params, registry.get_run(again.run_id).data.params)
        elif recorded != now and name in ("code", "lock"):
            folder = "src/" if name == "code" else "requirements/"
            files = checkout.changed_files(context.settings.project, version.tags.get("git_commit", ""))
            detail = ", ".join(file for file in files if file.startswith(folder))
        found.append(Compared(name=name, recorded=recorded, again=now, detail=detail))
    return tuple(found)


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Parameters by name: recorded -> now."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ", ".join(f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}" for name in names)


def _outputs(version: ModelVersion, again: ModelVersion, folder: Path, context: Context) -> tuple[Compared, ...]:
    """Hashes of the bytes themselves, not of what the retraining says about them."""
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
