"""Find recorded answers by id: served answers by `prediction_id`, nightly scores by `transaction_id`."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fraud.audit import prediction_log
from fraud.core.features import WINDOW_NAMES
from fraud.errors import BadInputError
from fraud.lake import catalog
from fraud.lake.dataset import Manifest
from fraud.settings import Settings

RULE: Final = "rule"
"""model_version of an answer that serving computed without a model."""


class Answer(NamedTuple):
    """One recorded answer."""

    id: str
    kind: Literal["served", "nightly"]
    found_in: str
    day: str
    """Partition of `scores`; "" for a served answer."""
    record: dict[str, Any]
    """A prediction record (docs/architecture.md), or a row of `scores`."""
    made_from: dict[str, str]
    """`made_from` of the partition of `scores`."""


def find(settings: Settings, ids: Collection[str]) -> list[Answer]:
    """The answers with these ids, in the order of `ids`. Raises BadInputError with the ids that do not exist."""
    found: dict[str, Answer] = {}
    for part in (_of_lake(settings), _of_segments(settings), _of_nights(settings)):
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


def newest(settings: Settings, count: int) -> list[str]:
    """Ids of up to `count` answers of each kind: first those not shipped yet, then from the newest day backwards."""
    kinds = (chain(_of_segments(settings), _of_lake(settings)), _of_nights(settings))
    ids = [islice(dict.fromkeys(id_ for part in parts for id_ in reversed(part.ids())), count) for parts in kinds]
    return list(dict.fromkeys(chain(*ids)))


def recorded_windows(settings: Settings, answers: Iterable[Answer]) -> dict[str, dict[str, float | int | None]]:
    """Window features by id: of the record for served answers, of `features` for nightly rows (omitted if removed)."""
    found, days = dict[str, dict[str, float | int | None]](), defaultdict[str, list[str]](list)
    for answer in answers:
        if answer.kind == "served":
            found[answer.id] = {name: answer.record[name] for name in WINDOW_NAMES}
        else:
            days[answer.day].append(answer.id)
    features = catalog.FEATURES.at(settings.lake_uri)
    for day, ids in sorted(days.items()):
        table = features.read(day, ["transaction_id", *WINDOW_NAMES])
        rows = table.filter(pc.is_in(table["transaction_id"], pa.array(ids, pa.string()))).to_pylist()
        found |= {row["transaction_id"]: {name: row[name] for name in WINDOW_NAMES} for row in rows}
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
    lake = catalog.PREDICTIONS.at(settings.lake_uri)
    for day in reversed(lake.partitions()):
        yield _Part("served", f"{lake.uri}/dt={day}", "", lake.read(day), {})


def _of_segments(settings: Settings) -> Iterator[_Part]:
    """Answers that are not shipped to the lake yet."""
    for segment in reversed(prediction_log.segments(settings.prediction_log)):
        for part in prediction_log.read(segment, 0):
            yield _Part("served", str(segment), "", part.table, {})


def _of_nights(settings: Settings) -> Iterator[_Part]:
    scores = catalog.SCORES.at(settings.lake_uri)
    for day in reversed(scores.partitions()):
        manifest: Manifest | None = scores.manifest(day)
        made_from = manifest.made_from if manifest else {}
        yield _Part("nightly", f"{scores.uri}/dt={day}", day, scores.read(day), made_from)
