"""Print the model, commit, data, run, gate report and approver behind one answer."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pydantic_settings import CliPositionalArg

from fraud.audit.answering_versions import BY_RULE, RULE, AnsweringVersions
from fraud.audit.answers import Answer, Values, find, recorded_features
from fraud.audit.prediction_log import FIXED, typed
from fraud.core.contract import day_of_week, hour_of_day
from fraud.core.plan import Plan
from fraud.errors import RefusedError
from fraud.features.engines.arrow_records import microseconds
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion
from fraud.registry.promotion_log import Recorded, opened


class Config(JobConfig):
    """Answer."""

    prediction_id: CliPositionalArg[str] = Field(
        description="prediction_id of a served answer, or transaction_id of a nightly row"
    )


class Result(JobResult):
    """The record and its inputs. `problems` are inconsistencies; "" is a missing value."""

    prediction_id: str
    kind: str
    """served, or nightly"""
    found_in: str
    transaction_id: str
    user_id: str
    served_at: str
    """Empty for a nightly row."""
    fraud_probability: float
    threshold: float
    is_fraud: bool
    degraded: bool
    history: str
    """Source of the window features: store, request, none, or features (of the lake)."""
    columns: dict[str, float | str | bool | None]
    """Amount and declared columns. Without a declaration, all fields of the record that are not fixed."""
    features: dict[str, dict[str, float | str | bool | None]]
    """Inputs of the model before imputation, by group. Derived features are computed from them."""
    sequences: dict[str, int]
    """By entity: number of its events that the online store had received before."""
    snapshots: dict[str, str]
    """By entity: the daily snapshot that was used."""
    model_version: str
    model_sha256: str
    feature_hash: str
    """Hash of the feature declaration that the model was trained with."""
    traceparent: str = ""
    """W3C trace context of the request or message."""
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
    """Build the receipt. Raises BadInputError for an unknown id, RefusedError when the version is not registered."""
    return follow([config.prediction_id], context)[0]


def follow(ids: Sequence[str], context: Context) -> list[Result]:
    """Receipts of many answers. Registry and promotion history are read once."""
    answers = find(context, ids)
    history_problems: list[str] = []
    with opened(context.settings) as promotion:
        history = promotion.history()
        try:
            promotion.verify()
        except RefusedError as error:
            history_problems.append(error.message)
    found = AnsweringVersions(context.settings)
    features = recorded_features(context.settings, answers, found)
    transactions = _transactions(context.settings.lake_uri, answers)
    numbers = {answer.record["model_version"] for answer in answers} - {RULE}
    versions = {number: model_versions.find(context.settings, int(number)) for number in sorted(numbers)}
    receipts = []
    for answer in answers:
        version = found.of(answer.record)
        plan = None if isinstance(version, str) else version.plan
        problems = [f"features not known: {version}"] if isinstance(version, str) and version != BY_RULE else []
        record = {**answer.record, **transactions.get(answer.id, {})}
        if plan is not None:
            record = typed(record, plan.declaration)
        recorded = _recorded(answer._replace(record=record), features.get(answer.id, {}), plan)
        receipts.append(_receipt(recorded, answer, versions, history, [*history_problems, *problems], context))
    return receipts


def _transactions(lake_uri: str, answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """The transactions of nightly rows by id, with the fields of a prediction record. Empty for a removed one."""
    dataset, found = catalog.TRANSACTIONS.at(lake_uri).open(), dict[str, dict[str, Any]]()
    for day in {answer.day for answer in answers if answer.kind == "nightly"} & {*dataset.partitions()}:
        rows = dataset.read(day)
        ids = pa.array([answer.id for answer in answers if answer.day == day], pa.string())
        rows = rows.filter(pc.is_in(rows["transaction_id"], ids))
        for row, at_us in zip(rows.to_pylist(), microseconds(rows["event_timestamp"]).tolist(), strict=True):
            time = {"hour_of_day": hour_of_day(at_us), "day_of_week": day_of_week(at_us)}
            found[row["transaction_id"]] = {**row, **time}
    return found


def _recorded(answer: Answer, features: Values, plan: Plan | None) -> Result:
    """The fields of the record itself."""
    record, made_from = answer.record, answer.made_from
    nightly = answer.kind == "nightly"
    served = None if nightly else _served_at(answer)
    return Result(
        prediction_id=answer.id, kind=answer.kind, found_in=answer.found_in,
        transaction_id=record["transaction_id"] or "", user_id=record["user_id"] or "",
        served_at=served.isoformat(timespec="milliseconds") if served else "",
        fraud_probability=record["fraud_probability"], is_fraud=record["is_fraud"],
        threshold=float(made_from["threshold"]) if nightly else record["threshold"],
        degraded=False if nightly else record["degraded"], history="features" if nightly else record["history"],
        columns=_columns(record, plan), features={} if plan is None else _by_group(record, features, plan),
        sequences=_by_entity(record, "sequence_"), snapshots=_by_entity(record, "snapshot_"),
        model_version=record["model_version"],
        model_sha256=made_from["model_sha256"] if nightly else record["model_sha256"],
        feature_hash=record["feature_hash"], traceparent=record.get("traceparent") or "",
    )  # fmt: skip


def _columns(record: Mapping[str, Any], plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return {name: value for name, value in record.items() if name not in FIXED.names and value is not None}
    return {name: record.get(name) for name in ("amount", *plan.columns)}


def _by_group(record: Mapping[str, Any], features: Values, plan: Plan) -> dict[str, dict[str, Any]]:
    """The base values of the model's vector by group, as recorded."""
    hour, weekday, *given = plan.vector.inputs
    found: dict[str, dict[str, Any]] = {}
    for one in (hour, weekday):
        found.setdefault(one.group, {})[one.name] = record.get(one.name)
    for one, source in zip(given, plan.sources, strict=True):
        value = features.get(one.name) if source.column is None else record.get(source.column)
        found.setdefault(one.group, {})[one.name] = value
    return found


def _by_entity(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): v for n, v in record.items() if n.startswith(prefix) and v is not None}


def _receipt(
    recorded: Result,
    answer: Answer,
    versions: Mapping[str, ModelVersion],
    history: list[Recorded],
    history_problems: Sequence[str],
    context: Context,
) -> Result:
    """The record with the fields of the version, the registry and the promotion history."""
    if recorded.model_version == RULE:
        return recorded.model_copy(update={"level": "default rule: serving had no model"})
    version = versions[recorded.model_version]
    tags, run_id = version.tags, version.run_id
    problems = list(history_problems)
    problems += [
        f"{name}: {value} in the answer, {tags.get(name, 'nothing')} in the registry"
        for name, value in (("model_sha256", recorded.model_sha256), ("feature_hash", recorded.feature_hash),
                           ("threshold", repr(recorded.threshold)))
        if tags.get(name) != value
    ]  # fmt: skip
    change = _change(history, recorded.model_version, None if recorded.kind == "nightly" else _served_at(answer))
    if change is None:
        problems.append(f"version {recorded.model_version} was not in production at the time of the answer")
    names = ("level", "git_commit", "git_dirty", "snapshot", "data_sha256", "params_sha256", "lock_sha256",
             "code_sha256", "seed", "gates", "failed_gates")  # fmt: skip
    entry = change.entry if change else None
    return recorded.model_copy(
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


def _served_at(answer: Answer) -> datetime:
    return datetime.fromtimestamp(answer.record["served_us"] / 1e6, UTC)


def _change(history: list[Recorded], version: str, served: datetime | None) -> Recorded | None:
    """The last change to this version before the answer; for a nightly row, the last change to this version."""
    changes = [
        r
        for r in history
        if r.entry.version == version and (served is None or datetime.fromisoformat(r.entry.at) <= served)
    ]
    return changes[-1] if changes else None
