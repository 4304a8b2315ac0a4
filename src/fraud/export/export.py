"""Export a model version as a folder: for a browser (web), or for ONNX Runtime on a device (onnx).

The folder appears as a whole, after its files were verified and the export was recorded in the promotion history.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from fraud.errors import RefusedError
from fraud.export import edge_build
from fraud.export.folder import new_folder, write_manifest
from fraud.export.onnx_folder import write_onnx
from fraud.export.web_folder import write_web
from fraud.job import Context, JobConfig, JobResult
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion
from fraud.registry.promotion_log import Export, Promotion, approval_of, opened


class Config(JobConfig):
    """Version, target and folder."""

    version: int = Field(description="version to export; its gates must have passed or been waived")
    target: Literal["web", "onnx"] = Field(description="web: a folder for browsers; onnx: for ONNX Runtime on a device")
    out: Path = Field(description="folder to make; must not exist, or be empty")
    reason: str = Field(default="exported by hand", min_length=3, description="stored in the promotion history")


class Result(JobResult):
    """The folder and its recorded identity."""

    version: str
    target: str
    folder: str
    manifest_sha256: str
    """Of manifest.json, which has the sha256 of every other file."""
    files: int
    bytes: int
    actor: str


def run(config: Config, context: Context) -> Result:
    """Verify the version, write the folder, record the export.

    Raises RefusedError, without a folder, for a version that is not what was registered or whose gates did not pass,
    for a folder that is not empty, and for the target web without Node.
    """
    settings = context.settings
    version = model_versions.find(settings, config.version)
    with opened(settings) as promotion:
        _check_gates(version, promotion)
        artifact = model_versions.fetch(settings, config.version)
        with new_folder(config.out) as folder:
            if config.target == "web":
                write_web(folder, artifact, settings)
            else:
                write_onnx(folder, artifact)
            digest = write_manifest(folder)
            if config.target == "web":
                edge_build.verify(settings.project, folder, digest)
            sizes = [path.stat().st_size for path in folder.iterdir()]
            made = Export(target=config.target, sha256=digest)
            promotion.record_export(version, made, actor=settings.actor, reason=config.reason)
    context.log.info("version exported", version=artifact.version, target=config.target, manifest_sha256=digest)
    return Result(
        version=artifact.version, target=config.target, folder=str(config.out), manifest_sha256=digest,
        files=len(sizes), bytes=sum(sizes), actor=settings.actor,
    )  # fmt: skip


def _check_gates(version: ModelVersion, promotion: Promotion) -> None:
    """Raises RefusedError unless the gates passed, or a promotion waived them; also if the history does not verify."""
    recorded = promotion.verify()
    if version.tags.get("gates") != "passed" and approval_of(recorded, str(version.version)) is None:
        raise RefusedError(
            f"version {version.version} did not pass its gates", expected="passed gates, or a promotion with a waiver",
            got=f"gates {version.tags.get('gates', 'not evaluated')}, failed: {version.tags.get('failed_gates', '')}",
            hint=f"fraud gates {version.version}",
        )  # fmt: skip
