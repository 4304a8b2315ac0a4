"""Compare recent features, missing values and scores with the data that the production model was trained on.

The inputs of the production version are compared: numbers, flags, categories, window and daily features, as its
declaration has them (`fraud.monitoring.drift_inputs`).

Writes `<reports>/drift/<day>/drift.html` (Evidently) and `drift.json`. The JSON has the same bytes for the same inputs.
The page contains random ids, so a run whose inputs did not change writes neither file. A column without enough values
is not an error: docs/monitoring.md lists the verdict for each case.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from fraud.core.contract import US_PER_DAY
from fraud.core.plan import Plan
from fraud.errors import BadInputError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog, reports
from fraud.lake.dataset import DatasetVersion, conformed
from fraud.lake.objects import read_parquet
from fraud.monitoring.drift_inputs import TRANSACTION, Compared, compared, missing, values, warm_up_us
from fraud.stats.psi import MIN_ROWS, column_drift

if TYPE_CHECKING:
    from fraud.registry.model_versions import ModelArtifact

PREDICTION: Final = "fraud_probability"
_FORMAT: Final = "3"
"""Format of the record. A report in another format is written again."""
Columns = dict[str, NDArray[Any]]
"""Values by name of the input, [n] each."""


class Config(JobConfig):
    """Day of the report."""

    date: dt.date | None = Field(default=None, description="last day of the window; default the newest in `features`")


class Result(JobResult):
    """The verdict. `retrain` is true when more features drifted than params.yaml allows."""

    day: str
    verdict: str
    """ok | drift | unknown (too few rows)"""
    reason: str
    """Why the verdict is unknown; "" for the others."""
    retrain: bool
    drifted_share: float
    drifted_features: list[str]
    jumped_features: list[str]
    """Features that drifted on the newest day alone."""
    prediction_psi: float | None
    rows: int
    reference_rows: int
    model_version: str
    report_uri: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Window:
    """The days of the window, and the hashes of all inputs of the report."""

    day: str
    days: list[str]
    made_from: dict[str, str]


def run(config: Config, context: Context) -> Result:
    """Measure and report. Raises RefusedError without a production model, BadInputError without features."""
    from fraud.registry import model_versions  # noqa: PLC0415 - mlflow takes seconds to import

    artifact = model_versions.fetch(context.settings)
    window = _window(config, context, artifact)
    folder = f"{context.settings.reports_uri.rstrip('/')}/drift/{window.day}"
    before = reports.read(folder, "drift")
    if before is not None and before["made_from"] == window.made_from:
        context.log.info("report is up to date", day=window.day)
        return _result(before, f"{folder}/drift.html", changed=False)
    current = _current(window, context, artifact)
    reference = _reference(model_versions.reference(context.settings, artifact.run_id), context, artifact.plan)
    context.log.info(
        "comparison started", days=len(window.days), rows=current.num_rows, reference_rows=reference.num_rows
    )
    measured, page = _measure(reference, current, window, context, artifact)
    reports.write(folder, "drift", page, measured)
    reports.expire(folder.rpartition("/")[0], context.settings.report_days)
    return _result(measured, f"{folder}/drift.html", changed=True)


def _window(config: Config, context: Context, artifact: "ModelArtifact") -> Window:
    features = catalog.features(artifact.plan.stored_hash).at(context.settings.lake_uri).open()
    scores = catalog.SCORES.at(context.settings.lake_uri).open()
    published = features.partitions()
    if not published:
        raise BadInputError("there are no features to compare", hint="fraud build-features")
    day = config.date or dt.date.fromisoformat(published[-1])
    first = day - dt.timedelta(days=context.params.drift.current_days - 1)
    days = [d for d in published if str(first) <= d <= str(day)]
    if not days:
        raise BadInputError(
            f"features has no day in {first}..{day}", hint=f"published: {published[0]}..{published[-1]}"
        )
    made_from = {
        "model_version": artifact.version,
        "model_sha256": artifact.model_sha256,
        "run_id": artifact.run_id,
        "params": context.params.fingerprint("drift"),
        "first_day": published[0],
        "format": _FORMAT,
    }
    for name, dataset in (("features", features), ("scores", scores)):
        for d in days:
            if (partition := dataset.partition(d)) is not None:
                made_from[f"{name} {d}"] = partition.content_sha256
    return Window(str(day), days, made_from)


def _current(window: Window, context: Context, artifact: "ModelArtifact") -> pa.Table:
    """A sample of the window: the compared columns, and the version's probability if it scored the row."""
    definition = catalog.features(artifact.plan.stored_hash)
    features, schema = definition.at(context.settings.lake_uri).open(), definition.schema(artifact.plan.declaration)
    scores = catalog.SCORES.at(context.settings.lake_uri).open()
    names = {"transaction_id", "event_timestamp", *(one.column for one in compared(artifact.plan))}
    schema = pa.schema([field for field in schema if field.name in names])
    rows = sum(partition.rows for d in window.days if (partition := features.partition(d)) is not None)
    share = min(1.0, context.params.drift.reference_rows / max(rows, 1))
    parts = (part for d in window.days for part in _sample(features, d, schema.names, share))
    sampled = pa.concat_tables([schema.empty_table(), *(conformed(part, schema) for part in parts)])
    scored_columns = ["transaction_id", PREDICTION, "model_version"]
    scored = [part for d in window.days for part in _sample(scores, d, scored_columns, share)]
    if not scored:
        return sampled.append_column(PREDICTION, pa.nulls(sampled.num_rows, pa.float32()))
    by_version = pa.concat_tables(scored)
    by_version = by_version.filter(pc.equal(by_version["model_version"], artifact.version))
    joined = sampled.join(by_version.drop_columns("model_version"), "transaction_id")
    return joined.sort_by([("event_timestamp", "ascending"), ("transaction_id", "ascending")])


def _sample(dataset: DatasetVersion, day: str, columns: list[str], share: float) -> Iterator[pa.Table]:
    """The rows whose hash of transaction_id is in the lowest `share` of all hashes: the same rows in every dataset."""
    from pandas.util import hash_array  # noqa: PLC0415 - pandas takes half a second to import

    for uri in dataset.object_uris(day):
        table = read_parquet(uri, columns)
        if share < 1.0:
            hashes = hash_array(table["transaction_id"].to_numpy(), categorize=False)
            table = table.filter(pa.array(hashes < np.uint64(share * 2**64)))
        yield table


def _reference(table: pa.Table, context: Context, plan: Plan) -> pa.Table:
    """The training reference without the first days of the lake, when windows are not complete yet.

    For example, the number of distinct merchants in 30 days grows over these days without any drift. If too few rows
    remain, the whole reference is used.
    """
    published = catalog.features(plan.stored_hash).at(context.settings.lake_uri).partitions()
    first_day = dt.date.fromisoformat(published[0])
    warm_us = (first_day - dt.date(1970, 1, 1)).days * US_PER_DAY + warm_up_us(plan)
    warm = table.filter(pc.greater_equal(table["event_timestamp"].cast(pa.int64()), warm_us))
    return warm if warm.num_rows >= MIN_ROWS else table


def _measure(
    reference: pa.Table, current: pa.Table, window: Window, context: Context, artifact: "ModelArtifact"
) -> tuple[dict[str, Any], str]:
    """The record and its page."""
    from fraud.monitoring import drift_report  # noqa: PLC0415 - Evidently takes ten seconds to import

    bounds, inputs = context.params.drift, compared(artifact.plan)
    reason = _too_few(reference.num_rows, current.num_rows)
    then, now = _columns(reference, inputs), _columns(current, inputs)
    found = {name: column_drift(then[name], now[name]) for name in now}
    newest = _newest_day(then, current, inputs, window.day)
    features = {
        one.name: {
            "kind": one.kind, "entity": one.entity, "psi": _rounded(found[one.name].psi),
            "missing": {
                "reference": _share(missing(then[one.name])), "current": _share(missing(now[one.name])),
                "psi": _rounded(found[one.name].missing_psi),
            },
            "unknown": None if one.unknown is None else {
                "reference": _share(then[one.name] == one.unknown), "current": _share(now[one.name] == one.unknown),
            },
            "drifted": not reason and found[one.name].worst >= bounds.psi_threshold,
            "newest_day_psi": newest[one.name], "notes": list(found[one.name].notes),
        }
        for one in sorted(inputs, key=lambda one: (one.entity != TRANSACTION, one.entity, -found[one.name].worst))
    }  # fmt: skip
    drifted_features = [one.name for one in inputs if features[one.name]["drifted"]]
    jumped = [one.name for one in inputs if not reason and (newest[one.name] or 0.0) >= bounds.newest_day_psi]
    share = len(drifted_features) / len(inputs)
    prediction = found[PREDICTION]
    prediction_drifted = not reason and (prediction.psi or 0.0) >= bounds.psi_threshold
    retrain = share > bounds.max_drifted_share
    measured = {
        "day": window.day,
        "days": window.days,
        "model_version": artifact.version,
        "rows": current.num_rows,
        "rows_scored": current.num_rows - current[PREDICTION].null_count,
        "reference_rows": reference.num_rows,
        "features": features,
        "prediction": {
            "psi": _rounded(prediction.psi), "drifted": prediction_drifted, "notes": list(prediction.notes),
        },
        "drifted_features": drifted_features,
        "jumped_features": jumped,
        "drifted_share": round(share, 6),
        "thresholds": {
            "psi": bounds.psi_threshold,
            "newest_day_psi": bounds.newest_day_psi,
            "drifted_share": bounds.max_drifted_share,
            "rows": MIN_ROWS,
        },
        "verdict": "unknown" if reason else "drift" if retrain or prediction_drifted or jumped else "ok",
        "reason": reason,
        "retrain": retrain,
        "made_from": window.made_from,
    }  # fmt: skip
    shown = [name for name in (*features, PREDICTION) if found[name].psi is not None]
    categorical = [one.name for one in inputs if one.categorical]
    beside, beyond = ({name: some[name] for name in shown} for some in (then, now))
    return measured, drift_report.page(measured, beside, beyond, categorical)


def _too_few(reference_rows: int, current_rows: int) -> str:
    """Reason why there is no verdict; "" with enough rows."""
    short = [
        f"{rows:,} rows in {where}"
        for where, rows in (("the reference", reference_rows), ("the current window", current_rows))
        if rows < MIN_ROWS
    ]
    return f"{' and '.join(short)}, fewer than {MIN_ROWS:,}" if short else ""


def _newest_day(then: Columns, current: pa.Table, inputs: Sequence[Compared], day: str) -> dict[str, float | None]:
    """PSI of each input, including missing values, on the last day of the window; None if it has too few rows.

    It detects a sudden change earlier than the window of several days. `then`: the values of the reference. Daily
    features are None: their values of a day come from one or two snapshots, and the base rate that fraud rates are
    smoothed towards moves all of them from day to day.
    """
    first_us = (dt.date.fromisoformat(day) - dt.date(1970, 1, 1)).days * US_PER_DAY
    rows = current.filter(pc.greater_equal(current["event_timestamp"].cast(pa.int64()), first_us))
    if rows.num_rows < MIN_ROWS:
        return {one.name: None for one in inputs}
    return {
        one.name: None if one.kind == "daily" else _rounded(column_drift(then[one.name], values(rows, one)).worst)
        for one in inputs
    }


def _columns(table: pa.Table, inputs: Sequence[Compared]) -> Columns:
    """The compared inputs and PREDICTION of n rows, [n] each: float64 with NaN where missing, or objects with None."""
    found = {one.name: values(table, one) for one in inputs}
    return {**found, PREDICTION: pc.fill_null(table[PREDICTION].cast(pa.float64()), np.nan).to_numpy()}


def _share(which: NDArray[np.bool_]) -> float | None:
    """Share of true values; None without rows."""
    return round(float(which.mean()), 6) if len(which) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _result(measured: dict[str, Any], report_uri: str, *, changed: bool) -> Result:
    return Result(
        day=measured["day"], verdict=measured["verdict"], reason=measured["reason"], retrain=measured["retrain"],
        drifted_share=measured["drifted_share"], drifted_features=measured["drifted_features"],
        jumped_features=measured["jumped_features"],
        prediction_psi=measured["prediction"]["psi"], rows=measured["rows"],
        reference_rows=measured["reference_rows"], model_version=measured["model_version"],
        report_uri=report_uri, changed=changed,
    )  # fmt: skip
