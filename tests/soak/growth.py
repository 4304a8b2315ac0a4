"""Whether what the stack uses stays bounded over the nights.

Memory and open files of a process must not grow with its age: the slope over the nights is judged. Data grows with
each night's delivery: what a night adds must not grow.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from statistics import median
from typing import Final, NamedTuple

from tests.soak.resources import Usage

NIGHTS: Final = 8
"""Fewer nights are not judged."""
MEMORY_MB: Final = 3.0
"""Largest accepted slope of a service's memory, in MB per night, or `MEMORY_SHARE` of its median if that is more."""
MEMORY_SHARE: Final = 0.015
OPEN_FILES: Final = 0.5
FACTOR: Final = 1.6
"""What a night of the second half adds to disk and databases, at most, as a multiple of the first half's."""
SLACK: Final = {"disk_mb": 3.0, "rows": 300.0}
_WARM_UP: Final = 1
"""Measurements of a process that are left out: caches fill, code is imported."""


class Growth(NamedTuple):
    """The verdict on one quantity. `broken` says why it is not bounded; "" if it is, or if there are too few nights."""

    quantity: str
    first: float
    last: float
    per_night: float
    """Slope, or the median of what a night of the second half added."""
    limit: float | None
    """Of `per_night`. None: not judged."""
    broken: str


def judge(nights: Sequence[Usage]) -> list[Growth]:
    """The verdicts on all quantities of a soak, in the order of the report. `nights` is in order, night 0 first."""
    if not nights:
        return []
    found = [_added(f"disk of {name}, MB", [n.disk_mb.get(name, 0.0) for n in nights], SLACK["disk_mb"])
             for name in _names(n.disk_mb for n in nights)]  # fmt: skip
    found.append(_added("disk, MB", [sum(n.disk_mb.values()) for n in nights], SLACK["disk_mb"]))
    found += [_added(f"database {name}, rows", [float(n.rows.get(name, 0)) for n in nights], SLACK["rows"])
              for name in _names(n.rows for n in nights)]  # fmt: skip
    for name in _names(n.services for n in nights):
        some = [(i, n.services[name]) for i, n in enumerate(nights) if name in n.services]
        memory = [(i, s.started, s.memory_mb) for i, s in some]
        files = [(i, s.started, float(s.open_files)) for i, s in some]
        limit = max(MEMORY_MB, MEMORY_SHARE * median(value for _, _, value in memory))
        found += [_slope(f"memory of {name}, MB", memory, limit), _slope(f"files of {name}", files, OPEN_FILES)]
    return found


def bounded_growth(nights: Sequence[Usage]) -> str:
    """Memory and open files do not grow with the age of a process; what a night adds to disk and databases does not."""
    return "; ".join(f"{growth.quantity}: {growth.broken}" for growth in judge(nights) if growth.broken)


def slope(values: Sequence[tuple[int, int, float]]) -> float | None:
    """Theil-Sen slope of (night, process, value): the median over all pairs of nights of one process.

    The first measurements of each process and its largest step are left out. None with fewer than NIGHTS pairs.
    """
    kept = list[tuple[int, int, float]]()
    for process in dict.fromkeys(process for _, process, _ in values):
        kept += _without_largest_step([value for value in values if value[1] == process][_WARM_UP:])
    slopes = [(b[2] - a[2]) / (b[0] - a[0]) for a, b in combinations(kept, 2) if a[1] == b[1]]
    return median(slopes) if len(slopes) >= NIGHTS else None


def _without_largest_step(values: Sequence[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """The values of one process, lower by its largest step after that step.

    A step is what the least of all later values is above the most of all earlier ones. A process has one when it does
    something for the first time, or when pages that it shared with its parent become its own. A leak has many.
    """
    used = [value for _, _, value in values]
    steps = [min(used[i:]) - max(used[:i]) for i in range(1, len(used))]
    step = max([0.0, *steps])
    after = steps.index(step) if step else len(used)
    return [(night, process, value - step * (i > after)) for i, (night, process, value) in enumerate(values)]


def _slope(quantity: str, values: Sequence[tuple[int, int, float]], limit: float) -> Growth:
    found, first, last = slope(values), values[0][2], values[-1][2]
    if found is None:
        return Growth(quantity, first, last, (last - first) / max(values[-1][0] - values[0][0], 1), None, "")
    wrong = f"{found:+.2f} per night, at most {limit:.2f}" if found > limit else ""
    return Growth(quantity, first, last, found, limit, wrong)


def _added(quantity: str, values: Sequence[float], slack: float) -> Growth:
    """Compare the medians of what the nights of both halves added. Night 0 adds the history, so it does not count."""
    added = [b - a for a, b in pairwise(values)]
    if len(added) < NIGHTS:
        return Growth(quantity, values[0], values[-1], median(added) if added else 0.0, None, "")
    half = len(added) // 2
    before, after = median(added[:half]), median(added[half:])
    limit = FACTOR * max(before, 0.0) + slack
    wrong = f"a night adds {after:.1f}, at most {limit:.1f} (before: {before:.1f})" if after > limit else ""
    return Growth(quantity, values[0], values[-1], after, limit, wrong)


def _names(parts: Iterable[Mapping[str, object]]) -> list[str]:
    return sorted({name for part in parts for name in part})
