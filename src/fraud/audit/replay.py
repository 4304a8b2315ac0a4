"""Compute recorded answers again from recorded inputs, and compare them with the records bit for bit.

Window features of a served answer are recomputed from the user's events before its sequence: the order is read from the
online store, the values from the lake. Window features of a nightly row are recomputed from the lake's transactions in
the order of their ingestion time, by the point function instead of the batch engine. Other fields are those of the
record. The probability is computed with the version's model, after its sha256 was verified.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg

from fraud.audit.answers import RULE, Answer, find, newest, recorded_windows
from fraud.audit.history_as_ingested import LakeHistory
from fraud.audit.history_as_served import ServedHistory, no_windows
from fraud.core import rule
from fraud.core.contract import CATEGORY_INDEX, OTHER_INDEX, day_of_week, hour_of_day
from fraud.core.features import VECTOR_NAMES, WINDOW_NAMES
from fraud.core.vector import fill_row
from fraud.core.windows import WindowValues
from fraud.errors import BadInputError, RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.registry.model_versions import fetch
from fraud.stats.served_skew import same

_SHOWN: Final = 5


class Config(JobConfig):
    """Answers, by id or by number."""

    ids: CliPositionalArg[tuple[str, ...]] = Field(
        default=(), description="prediction_id of a served answer, transaction_id of a nightly row"
    )
    newest: int = Field(default=0, ge=0, description="instead of ids: number of newest answers of each kind")

    @model_validator(mode="after")
    def _one_way_to_name_answers(self) -> "Config":
        if bool(self.ids) == bool(self.newest):
            raise ValueError("give ids, or --newest")
        return self


class Replayed(BaseModel):
    """One answer and its replay. Values are equal if their bits are equal."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: str
    model_version: str
    found_in: str
    recorded: dict[str, float | int | bool | None]
    replayed: dict[str, float | int | bool | None]
    windows: str
    """"recomputed", or the reason why the recorded window features were used."""
    different: tuple[str, ...]
    """Names of the values that differ."""


class Result(JobResult):
    """All answers, and counts by kind (served, nightly)."""

    answers: tuple[Replayed, ...]
    equal: dict[str, int]
    different: dict[str, int]
    recomputed: dict[str, int]
    """Answers whose window features were recomputed."""
    as_recorded: dict[str, int]
    """Answers whose recorded window features were used, by reason."""

    def as_text(self) -> str:
        parts = [_as_lines(answer) for answer in self.answers[:_SHOWN]]
        if len(self.answers) > 1:
            for kind, equal in sorted(self.equal.items()):
                parts.append(
                    f"{kind}: {equal} equal bit for bit, {self.different.get(kind, 0)} different; "
                    f"window features of {self.recomputed.get(kind, 0)} recomputed"
                )
            parts += [
                f"window features as recorded: {count} ({reason})" for reason, count in sorted(self.as_recorded.items())
            ]
        return "\n".join(parts)


def run(config: Config, context: Context) -> Result:
    """Replay. Raises RefusedError when an answer differs, or when its version's model was changed."""
    settings = context.settings
    ids = list(dict.fromkeys(config.ids)) or newest(settings, config.newest)
    if not ids:
        raise BadInputError("there are no recorded answers", hint="send a request, or run fraud score")
    answers = find(settings, ids)
    context.log.info("replay started", **_count(answer.kind for answer in answers))
    found = [*_served([a for a in answers if a.kind == "served"], context),
             *_nightly([a for a in answers if a.kind == "nightly"], context)]  # fmt: skip
    result = Result(
        answers=tuple(found),
        equal=_count(a.kind for a in found if not a.different),
        different=_count(a.kind for a in found if a.different),
        recomputed=_count(a.kind for a in found if a.windows == "recomputed"),
        as_recorded=_count(a.windows for a in found if a.windows != "recomputed"),
    )
    if wrong := [answer for answer in found if answer.different]:
        raise RefusedError(
            f"{len(wrong)} of {len(found)} answers differ from their records",
            got="\n".join(_as_lines(answer) for answer in wrong[:_SHOWN]),
            hint="fraud receipt shows the version; fraud skew compares the features of whole days",
        )
    return result


def _served(answers: Sequence[Answer], context: Context) -> list[Replayed]:
    stored = [a.record for a in answers if no_windows(a.record) is None]
    histories = ServedHistory.load(context.settings, stored, unshipped=True) if stored else None
    used: list[tuple[WindowValues, str]] = []
    for answer in answers:
        reason = no_windows(answer.record)
        again = histories.windows(answer.record) if histories is not None and reason is None else str(reason)
        recorded = tuple(answer.record[name] for name in WINDOW_NAMES)
        used.append((recorded, again) if isinstance(again, str) else (again, "recomputed"))
    facts = [
        {**answer.record, "windows": windows, "source": source}
        for answer, (windows, source) in zip(answers, used, strict=True)
    ]
    return _compare(answers, facts, [str(a.record["model_sha256"]) for a in answers], context)


def _nightly(answers: Sequence[Answer], context: Context) -> list[Replayed]:
    if not answers:
        return []
    ids = [answer.id for answer in answers]
    history = LakeHistory.load(context.settings.lake_uri, {answer.record["user_id"] for answer in answers}, ids)
    rows = {row["transaction_id"]: row for row in _with_times(history.rows)}
    recorded = recorded_windows(context.settings, answers)
    if gone := [id_ for id_ in ids if id_ not in rows or id_ not in recorded]:
        raise RefusedError(
            f"{len(gone)} scored transactions are no longer in the lake", got=", ".join(gone[:_SHOWN]),
            hint="their days were ingested again: run fraud build-features, then fraud score",
        )  # fmt: skip
    named = [
        a._replace(record={**a.record, **recorded[a.id], "threshold": float(a.made_from["threshold"])}) for a in answers
    ]
    facts = [{**rows[id_], "windows": history.windows[id_], "source": "recomputed"} for id_ in ids]
    return _compare(named, facts, [answer.made_from["model_sha256"] for answer in answers], context)


def _with_times(rows: pa.Table) -> list[dict[str, Any]]:
    """The transactions with hour_of_day and day_of_week, as in a prediction record."""
    at_us = rows["event_timestamp"].cast(pa.int64()).to_pylist()
    return [
        {**row, "hour_of_day": hour_of_day(us), "day_of_week": day_of_week(us)}
        for row, us in zip(rows.drop_columns(["event_timestamp", "created_timestamp"]).to_pylist(), at_us, strict=True)
    ]


def _compare(
    answers: Sequence[Answer], facts: Sequence[Mapping[str, Any]], sha256s: Sequence[str], context: Context
) -> list[Replayed]:
    again = _probabilities(answers, facts, sha256s, context)
    found = []
    for answer, fact, probability in zip(answers, facts, again, strict=True):
        recorded = {name: answer.record[name] for name in (*WINDOW_NAMES, "fraud_probability", "is_fraud")}
        replayed = {
            **dict(zip(WINDOW_NAMES, fact["windows"], strict=True)), "fraud_probability": probability,
            "is_fraud": probability >= answer.record["threshold"],
        }  # fmt: skip
        found.append(
            Replayed(
                id=answer.id,
                kind=answer.kind,
                model_version=answer.record["model_version"],
                found_in=answer.found_in,
                recorded=recorded,
                replayed=replayed,
                windows=fact["source"],
                different=tuple(name for name in recorded if not same(recorded[name], replayed[name])),
            )
        )
    return found


def _probabilities(
    answers: Sequence[Answer], facts: Sequence[Mapping[str, Any]], sha256s: Sequence[str], context: Context
) -> list[float]:
    """Probabilities of each row by its version's verified model in ONNX Runtime, or by the rule."""
    from fraud.scoring.onnx_session import OnnxModel  # noqa: PLC0415 - `fraud --help` needs no runtime

    vectors = _vectors(facts)
    found = np.zeros(len(answers), dtype=np.float64)
    versions = np.array([answer.record["model_version"] for answer in answers], dtype=object)
    for version in sorted(set(versions)):
        at = np.flatnonzero(versions == version).tolist()
        if version == RULE:
            found[at] = [float(rule.is_fraud(facts[i]["amount"], facts[i]["hour_of_day"])) for i in at]
            continue
        artifact = fetch(context.settings, int(version))
        if other := [sha256s[i] for i in at if sha256s[i] != artifact.model_sha256]:
            raise RefusedError(
                f"version {version} has another model than the one of {len(other)} of these answers",
                expected=f"sha256 {other[0]}", got=artifact.model_sha256,
                hint="the registry was recreated; use the registry that these answers refer to",
            )  # fmt: skip
        found[at] = OnnxModel(artifact.model).probabilities(vectors[at])
    values: list[float] = found.tolist()
    return values


def _vectors(facts: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Vectors float32[n, len(VECTOR_NAMES)], computed row by row as for requests."""
    vectors = np.empty((len(facts), len(VECTOR_NAMES)), dtype=np.float32)
    for row, fact in zip(vectors, facts, strict=True):
        fill_row(
            row, fact["amount"], fact["hour_of_day"], fact["day_of_week"], fact["distance_from_home"],
            CATEGORY_INDEX.get(fact["merchant_category"], OTHER_INDEX), *fact["windows"],
        )  # fmt: skip
    return vectors


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _as_lines(answer: Replayed) -> str:
    lines = [f"{answer.kind} {answer.id}, model version {answer.model_version}, windows {answer.windows}"]
    for name, recorded in answer.recorded.items():
        mark = "differs" if name in answer.different else "equal"
        lines.append(f"  {name:<26}{recorded!s:<24}{answer.replayed[name]!s:<24}{mark}")
    return "\n".join(lines)
