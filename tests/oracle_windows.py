"""Window features straight from their definition in docs/features.md, one event at a time: slow and plain.

Values are those of people, not stored integers: a number is an int of units, an id or a category a text, a flag a bool,
and None is null.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Event(NamedTuple):
    """One transaction of an entity."""

    at: int
    """Event time, us."""
    ingested: int
    """Sequence, or ingestion time in us."""
    columns: tuple[int | str | bool | None, ...]


class Feature(NamedTuple):
    """An aggregate of a column (an index) within a window."""

    aggregate: str
    column: int
    window_us: int
    divisor: int = 1
    value: str | bool = True
    """share: the value that is counted."""


def window_values(
    events: Sequence[Event], features: Sequence[Feature], bound: int, keep_us: int, only: Collection[int] | None = None
) -> dict[int, list[float | None]]:
    """The values of each event (of those in `only`), by its index.

    `events` are one entity's, sorted by (at, ingested); those with equal values keep their order.
    """
    added: list[Event] = []
    newest = 0
    values = {}
    for i in sorted(range(len(events)), key=lambda i: (events[i].ingested, i)):
        event = events[i]
        if only is None or i in only:
            history = [other for other in added[-bound:] if other.at >= newest - keep_us and other.at < event.at]
            values[i] = [
                _value(feature, event, [other for other in history if other.at >= event.at - feature.window_us])
                for feature in features
            ]
        if event.at >= newest - keep_us:
            added.append(event)
            newest = max(newest, event.at)
    return values


def _value(feature: Feature, event: Event, inside: list[Event]) -> float | None:  # noqa: PLR0911 - one per kind
    """`inside` is in order of ingestion, so that of events at one microsecond the last has the highest sequence."""
    latest = max(enumerate(inside), key=lambda other: (other[1].at, other[0]))[1] if inside else None
    if feature.aggregate == "count":
        return float(len(inside))
    if feature.aggregate == "seconds_since_last":
        return float(event.at - latest.at) / 1_000_000.0 if latest else None
    own = event.columns[feature.column]
    if feature.aggregate == "same_as_last":
        last = latest.columns[feature.column] if latest else None
        return None if own is None or last is None else float(own == last)
    found = [value for other in inside if (value := other.columns[feature.column]) is not None]
    if feature.aggregate == "distinct":
        return float(len(set(found)))
    if feature.aggregate == "matches":
        return 0.0 if own is None else float(found.count(own))
    if feature.aggregate == "sum":
        return float(sum(map(int, found))) / float(feature.divisor)
    if not found:
        return None
    if feature.aggregate == "mean":
        return float(sum(map(int, found))) / float(len(found) * feature.divisor)
    if feature.aggregate == "min":
        return float(min(map(int, found))) / float(feature.divisor)
    if feature.aggregate == "max":
        return float(max(map(int, found))) / float(feature.divisor)
    if feature.aggregate == "share":
        return float(found.count(feature.value)) / float(len(found))
    raise ValueError(feature.aggregate)
