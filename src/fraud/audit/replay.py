"""Compute recorded answers again from recorded inputs, and compare them with the records bit for bit.

The window features of a served answer are recomputed from the events of each entity before the answer's sequence: the
order is read from the online store, the values from the lake. Its daily features are read from the snapshot that the
answer names. The features of a nightly row are recomputed from the lake's transactions in the order of their ingestion
time, by the point function instead of the batch engine. Other fields are those of the record. The vector and the
probability are computed with the declaration and the model of the version that answered, after their sha256 was
verified.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg

from fraud.audit.answering_versions import RULE, AnsweringVersions
from fraud.audit.answers import Answer, Values, find, newest, recorded_features
from fraud.audit.history_as_ingested import LakeHistory
from fraud.audit.history_as_served import ServedHistory
from fraud.audit.prediction_log import typed
from fraud.core import rule
from fraud.core.contract import day_of_week, hour_of_day
from fraud.core.plan import Plan
from fraud.errors import BadInputError, RefusedError
from fraud.features.engines.arrow_records import microseconds
from fraud.job import Context, JobConfig, JobResult
from fraud.stats.served_skew import same

RECOMPUTED: Final = "recomputed"
NO_SNAPSHOT: Final = "a daily snapshot changed while it was read"
_SHOWN: Final = 5


class _Facts(NamedTuple):
    """The inputs of one answer."""

    row: Mapping[str, Any]
    """Columns of the transaction, hour_of_day and day_of_week."""
    recorded: Values
    features: Values
    """The features that the probability is computed from: recomputed where possible, else as recorded."""
    source: str
    """RECOMPUTED, or why some of the recorded features were used."""


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
    features: str
    """"recomputed", or the reason why recorded features were used."""
    different: tuple[str, ...]
    """Names of the values that differ."""


class Result(JobResult):
    """All answers, and counts by kind (served, nightly)."""

    answers: tuple[Replayed, ...]
    equal: dict[str, int]
    different: dict[str, int]
    recomputed: dict[str, int]
    """Answers whose features were recomputed."""
    as_recorded: dict[str, int]
    """Answers of which recorded features were used, by reason."""

    def as_text(self) -> str:
        parts = [_as_lines(answer) for answer in self.answers[:_SHOWN]]
        if len(self.answers) > 1:
            for kind, equal in sorted(self.equal.items()):
                parts.append(
                    f"{kind}: {equal} equal bit for bit, {self.different.get(kind, 0)} different; "
                    f"features of {self.recomputed.get(kind, 0)} recomputed"
                )
            parts += [f"features as recorded: {count} ({reason})" for reason, count in sorted(self.as_recorded.items())]
        return "\n".join(parts)


def run(config: Config, context: Context) -> Result:
    """Replay. Raises RefusedError when an answer differs, or when its version's model was changed."""
    ids = list(dict.fromkeys(config.ids)) or newest(context, config.newest)
    if not ids:
        raise BadInputError("there are no recorded answers", hint="send a request, or run fraud score")
    answers, versions = find(context, ids), AnsweringVersions(context.settings)
    context.log.info("replay started", **_count(answer.kind for answer in answers))
    found = [*_served([a for a in answers if a.kind == "served"], context, versions),
             *_nightly([a for a in answers if a.kind == "nightly"], context, versions)]  # fmt: skip
    result = Result(
        answers=tuple(found),
        equal=_count(a.kind for a in found if not a.different),
        different=_count(a.kind for a in found if a.different),
        recomputed=_count(a.kind for a in found if a.features == RECOMPUTED),
        as_recorded=_count(a.features for a in found if a.features != RECOMPUTED),
    )
    if wrong := [answer for answer in found if answer.different]:
        raise RefusedError(
            f"{len(wrong)} of {len(found)} answers differ from their records",
            got="\n".join(_as_lines(answer) for answer in wrong[:_SHOWN]),
            hint="fraud receipt shows the version; fraud skew compares the features of whole days",
        )
    return result


def _served(answers: Sequence[Answer], context: Context, versions: AnsweringVersions) -> list[Replayed]:
    answers = [answer._replace(record=_typed(answer.record, versions)) for answer in answers]
    histories = ServedHistory.load(context, [a.record for a in answers], versions, unshipped=True)
    facts = []
    for answer in answers:
        recorded = {name: answer.record.get(name) for name in _features(answer.record, versions)}
        again = histories.features(answer.record)
        source = again.reasons[0] if again.reasons else RECOMPUTED
        facts.append(_Facts(answer.record, recorded, recorded | again.values, source))
    return _compare(answers, facts, [str(a.record["model_sha256"]) for a in answers], versions)


def _nightly(answers: Sequence[Answer], context: Context, versions: AnsweringVersions) -> list[Replayed]:
    recorded = recorded_features(context.settings, answers, versions)
    found = []
    for number in sorted({answer.record["model_version"] for answer in answers}):
        some = [answer for answer in answers if answer.record["model_version"] == number]
        days = {day: [a.id for a in some if a.day == day] for day in {a.day for a in some}}
        history = LakeHistory.load(context.settings.lake_uri, versions.fetched(number).plan, days)
        rows = {row["transaction_id"]: row for row in _with_times(history.rows)}
        if gone := [a.id for a in some if a.id not in rows or a.id not in recorded]:
            raise RefusedError(
                f"{len(gone)} scored transactions are no longer in the lake", got=", ".join(gone[:_SHOWN]),
                hint="their days were ingested again: run fraud build-features, then fraud score",
            )  # fmt: skip
        named = [a._replace(record={**a.record, "threshold": float(a.made_from["threshold"])}) for a in some]
        facts = []
        for a in some:
            before, again = recorded[a.id], history.features[a.id]
            source = RECOMPUTED if again.keys() >= before.keys() else NO_SNAPSHOT
            facts.append(_Facts(rows[a.id], before, before | again, source))
        found += _compare(named, facts, [answer.made_from["model_sha256"] for answer in some], versions)
    return found


def _typed(record: dict[str, Any], versions: AnsweringVersions) -> dict[str, Any]:
    version = versions.of(record)
    return record if isinstance(version, str) else typed(record, version.plan.declaration)


def _features(record: Mapping[str, Any], versions: AnsweringVersions) -> tuple[str, ...]:
    """Names of the features of an answer. Raises RefusedError when its version is not available."""
    return () if record["model_version"] == RULE else versions.fetched(record["model_version"]).plan.features


def _with_times(rows: pa.Table) -> list[dict[str, Any]]:
    """The transactions with hour_of_day and day_of_week, as in a prediction record."""
    at_us = microseconds(rows["event_timestamp"]).tolist()
    return [
        {**row, "hour_of_day": hour_of_day(us), "day_of_week": day_of_week(us)}
        for row, us in zip(rows.to_pylist(), at_us, strict=True)
    ]


def _compare(
    answers: Sequence[Answer], facts: Sequence[_Facts], sha256s: Sequence[str], versions: AnsweringVersions
) -> list[Replayed]:
    again = _probabilities(answers, facts, sha256s, versions)
    found = []
    for answer, fact, probability in zip(answers, facts, again, strict=True):
        recorded = {**fact.recorded, **{name: answer.record[name] for name in ("fraud_probability", "is_fraud")}}
        replayed = {
            **fact.features, "fraud_probability": probability, "is_fraud": probability >= answer.record["threshold"],
        }  # fmt: skip
        found.append(
            Replayed(
                id=answer.id,
                kind=answer.kind,
                model_version=answer.record["model_version"],
                found_in=answer.found_in,
                recorded=recorded,
                replayed=replayed,
                features=fact.source,
                different=tuple(name for name in recorded if not same(recorded[name], replayed[name])),
            )
        )
    return found


def _probabilities(
    answers: Sequence[Answer], facts: Sequence[_Facts], sha256s: Sequence[str], versions: AnsweringVersions
) -> list[float]:
    """Probabilities of each row by its version's verified model in ONNX Runtime, or by the rule."""
    from fraud.scoring.onnx_session import OnnxModel  # noqa: PLC0415 - `fraud --help` needs no runtime

    found = np.zeros(len(answers), dtype=np.float64)
    numbers = np.array([answer.record["model_version"] for answer in answers], dtype=object)
    for number in sorted(set(numbers)):
        at = np.flatnonzero(numbers == number).tolist()
        if number == RULE:
            found[at] = [float(rule.is_fraud(facts[i].row["amount"], facts[i].row["hour_of_day"])) for i in at]
            continue
        version = versions.fetched(number)
        if other := [sha256s[i] for i in at if sha256s[i] != version.model_sha256]:
            raise RefusedError(
                f"version {number} has another model than the one of {len(other)} of these answers",
                expected=f"sha256 {other[0]}", got=version.model_sha256,
                hint="the registry was recreated; use the registry that these answers refer to",
            )  # fmt: skip
        found[at] = OnnxModel(version.model).probabilities(_vectors([facts[i] for i in at], version.plan))
    values: list[float] = found.tolist()
    return values


def _vectors(facts: Sequence[_Facts], plan: Plan) -> NDArray[np.float32]:
    """Vectors float32[n, len(plan.vector.names)], computed row by row as for requests."""
    vectors = np.empty((len(facts), len(plan.vector.names)), dtype=np.float32)
    for vector, fact in zip(vectors, facts, strict=True):
        features = [fact.features[name] for name in plan.features]
        plan.vector.row(
            vector, plan.base_values(fact.row["hour_of_day"], fact.row["day_of_week"], fact.row, features)
        )  # fmt: skip
    return vectors


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _as_lines(answer: Replayed) -> str:
    lines = [f"{answer.kind} {answer.id}, model version {answer.model_version}, features {answer.features}"]
    width = max(map(len, answer.recorded)) + 2
    for name, recorded in answer.recorded.items():
        mark = "differs" if name in answer.different else "equal"
        lines.append(f"  {name:<{width}}{recorded!s:<24}{answer.replayed[name]!s:<24}{mark}")
    return "\n".join(lines)
