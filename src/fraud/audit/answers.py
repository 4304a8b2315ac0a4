"""Find recorded answers by id: served answers by `prediction_id`, nightly scores by `transaction_id`."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fraud.audit import prediction_log
from fraud.audit.answering_versions import AnsweringVersions
from fraud.errors import BadInputError
from fraud.job import Context
from fraud.lake import catalog
from fraud.settings import Settings

Values = dict[str, float | int | None]
"""Window and daily features by name."""


class Answer(NamedTuple):
    """One recorded answer."""

    id: str
    kind: Literal["served", "nightly"]
    found_in: str
    day: str
    """Partition of `scores`; "" for a served answer."""
    record: dict[str, Any]
    """A flat prediction record (docs/architecture.md), or a row of `scores`."""
    made_from: dict[str, str]
    """`made_from` of the partition of `scores`."""


def find(context: Context, ids: Collection[str]) -> list[Answer]:
    """The answers with these ids, in the order of `ids`. Raises BadInputError with the ids that do not exist."""
    found: dict[str, Answer] = {}
    settings = context.settings
    for part in (_of_lake(settings), _of_segments(context), _of_nights(settings)):
        for answers in part:
            left = set(ids) - found.keys()
            if not left:
                break
            found |= {answer.id: answer for answer in answers.having(left)}
    if missing := [id_ for id_ in ids if id_ not in found]:
        raise BadInputError(
            f"there is no prediction {', '.join(missing[:5])}",
            expected="a prediction_id of `predictions` or of serving's segments, or a transaction_id of `scores`",
            hint="an answer contains its prediction_id; old answers are removed by retention",
        )
    return [found[id_] for id_ in ids]


def newest(context: Context, count: int) -> list[str]:
    """Ids of up to `count` answers of each kind: first those not shipped yet, then from the newest day backwards."""
    settings = context.settings
    kinds = (chain(_of_segments(context), _of_lake(settings)), _of_nights(settings))
    ids = [islice(dict.fromkeys(id_ for part in parts for id_ in reversed(part.ids())), count) for parts in kinds]
    return list(dict.fromkeys(chain(*ids)))


def recorded_features(settings: Settings, answers: Iterable[Answer], versions: AnsweringVersions) -> dict[str, Values]:
    """Window and daily features by id: of the record for served answers, of `features` for nightly rows.

    An answer is omitted if its version is not known, or if the day of `features` was removed.
    """
    found, days = dict[str, Values](), defaultdict[tuple[str, str], list[Answer]](list)
    for answer in answers:
        version = versions.of(answer.record)
        if isinstance(version, str):
            continue
        if answer.kind == "served":
            found[answer.id] = {name: answer.record.get(name) for name in version.plan.features}
        else:
            days[version.version, answer.day].append(answer)
    for (number, day), some in sorted(days.items()):
        plan = versions.fetched(number).plan
        dataset = catalog.features(plan.stored_hash).at(settings.lake_uri).open()
        if dataset.partition(day) is None:
            continue
        table = dataset.read(day, ["transaction_id", *plan.features])
        ids = pa.array([answer.id for answer in some], pa.string())
        for row in table.filter(pc.is_in(table["transaction_id"], ids)).to_pylist():
            found[row.pop("transaction_id")] = row
    return found


class _Part(NamedTuple):
    """A table of answers of one kind."""

    kind: Literal["served", "nightly"]
    found_in: str
    day: str
    table: pa.Table
    made_from: dict[str, str]

    @property
    def _key(self) -> str:
        return "prediction_id" if self.kind == "served" else "transaction_id"

    def ids(self) -> list[str]:
        names: list[str] = self.table[self._key].to_pylist()
        return names

    def having(self, ids: Collection[str]) -> Iterator[Answer]:
        rows = self.table.filter(pc.is_in(self.table[self._key], pa.array(sorted(ids), pa.string())))
        for row in rows.to_pylist():
            yield Answer(row[self._key], self.kind, self.found_in, self.day, row, self.made_from)


def _of_lake(settings: Settings) -> Iterator[_Part]:
    lake = catalog.PREDICTIONS.at(settings.lake_uri).open()
    for day in reversed(lake.partitions()):
        yield _Part("served", f"{lake.uri}/dt={day}", "", lake.read(day), {})


def _of_segments(context: Context) -> Iterator[_Part]:
    """Answers that are not shipped to the lake yet."""
    for segment in reversed(prediction_log.segments(context.settings.prediction_log)):
        for part in prediction_log.read(segment, 0, context.declaration):
            yield _Part("served", str(segment), "", part.table, {})


def _of_nights(settings: Settings) -> Iterator[_Part]:
    scores = catalog.SCORES.at(settings.lake_uri).open()
    for day in reversed(scores.partitions()):
        made_from = scores.contents.partitions[day].made_from
        yield _Part("nightly", f"{scores.uri}/dt={day}", day, scores.read(day), made_from)
