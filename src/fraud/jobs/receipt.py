"""From one answer to everything behind it: the model's bytes, commit, data, run, gate report, and who approved it."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pydantic_settings import CliPositionalArg

from fraud.core.features import WINDOW_NAMES
from fraud.errors import BadInputError, RefusedError
from fraud.io import model_artifact, prediction_log
from fraud.io.lake import Dataset
from fraud.io.promotion import Recorded, opened
from fraud.jobs import Context, JobConfig, JobResult

RULE = "rule"
"""model_version of an answer that serving gave without any model."""


class Config(JobConfig):
    """Which answer."""

    prediction_id: CliPositionalArg[str] = Field(description="as the answer named it")


class Result(JobResult):
    """The chain, link by link. `problems` are links that do not hold; "" is a link that is not there."""

    prediction_id: str
    found_in: str
    transaction_id: str
    user_id: str
    served_at: str
    fraud_probability: float
    threshold: float
    is_fraud: bool
    degraded: bool
    history: str
    windows: dict[str, float | None]
    model_version: str
    model_sha256: str
    feature_hash: str
    level: str = ""
    run_id: str = ""
    git_commit: str = ""
    git_dirty: str = ""
    snapshot: str = ""
    data_sha256: str = ""
    params_sha256: str = ""
    lock_sha256: str = ""
    code_sha256: str = ""
    seed: str = ""
    gates: str = ""
    failed_gates: str = ""
    gate_report: str = ""
    approved_by: str = ""
    approved_at: str = ""
    approval_reason: str = ""
    waiver: str = ""
    problems: tuple[str, ...] = ()


def run(config: Config, context: Context) -> Result:
    """Follow the chain. Raises BadInputError for an unknown id, RefusedError when the version is not registered."""
    answer, found_in = _answer(config.prediction_id, context)
    served = datetime.fromtimestamp(answer["served_us"] / 1e6, UTC)
    known = Result(
        prediction_id=answer["prediction_id"], found_in=found_in, transaction_id=answer["transaction_id"] or "",
        user_id=answer["user_id"] or "", served_at=served.isoformat(timespec="milliseconds"),
        fraud_probability=answer["fraud_probability"], threshold=answer["threshold"], is_fraud=answer["is_fraud"],
        degraded=answer["degraded"], history=answer["history"], windows={name: answer[name] for name in WINDOW_NAMES},
        model_version=answer["model_version"], model_sha256=answer["model_sha256"], feature_hash=answer["feature_hash"],
    )  # fmt: skip
    if known.model_version == RULE:
        return known.model_copy(update={"level": "the rule of thumb: serving had no model"})
    version = model_artifact.find(context.settings, int(known.model_version))
    tags, run_id = version.tags, version.run_id
    with opened(context.settings) as promotion:
        problems, change = [], _change(promotion.history(), known.model_version, served)
        try:
            promotion.verify()
        except RefusedError as error:
            problems.append(error.message)
    problems += [
        f"{name}: answered with {said}, registered as {tags.get(name, 'nothing')}"
        for name, said in (("model_sha256", known.model_sha256), ("feature_hash", known.feature_hash),
                           ("threshold", repr(known.threshold)))
        if tags.get(name) != said
    ]  # fmt: skip
    if change is None:
        problems.append(f"version {known.model_version} was not Production when it answered")
    names = ("level", "git_commit", "git_dirty", "snapshot", "data_sha256", "params_sha256", "lock_sha256",
             "code_sha256", "seed", "gates", "failed_gates")  # fmt: skip
    entry = change.entry if change else None
    return known.model_copy(
        update={
            **{name: tags.get(name, "") for name in names},
            "run_id": run_id,
            "gate_report": f"{context.settings.reports_uri.rstrip('/')}/training/{run_id}/gates.html",
            "approved_by": entry.actor if entry else "",
            "approved_at": entry.at if entry else "",
            "approval_reason": entry.reason if entry else "",
            "waiver": entry.waiver.model_dump_json() if entry and entry.waiver else "",
            "problems": tuple(problems),
        }
    )


def _answer(prediction_id: str, context: Context) -> tuple[dict[str, Any], str]:
    """The record, from the lake or from what serving has not shipped yet."""
    lake = Dataset(context.settings.lake_uri, "predictions")
    for day in reversed(lake.partitions()):
        if (record := _record(lake.read(day), prediction_id)) is not None:
            return record, f"{lake.uri}/dt={day}"
    for segment in reversed(prediction_log.segments(context.settings.prediction_log)):
        for part in prediction_log.read(segment, 0):
            if (record := _record(part.table, prediction_id)) is not None:
                return record, str(segment)
    raise BadInputError(
        f"there is no prediction {prediction_id}", expected="an id in the lake's `predictions` or serving's segments",
        do="an answer names its prediction_id; retention may have removed old ones",
    )  # fmt: skip


def _record(table: pa.Table, prediction_id: str) -> dict[str, Any] | None:
    found = table.filter(pc.equal(table["prediction_id"], prediction_id))
    record: dict[str, Any] | None = found.slice(0, 1).to_pylist()[0] if found.num_rows else None
    return record


def _change(history: list[Recorded], version: str, served: datetime) -> Recorded | None:
    """The change that made the version Production, the last before it answered."""
    made = [r for r in history if r.entry.version == version and datetime.fromisoformat(r.entry.at) <= served]
    return made[-1] if made else None
