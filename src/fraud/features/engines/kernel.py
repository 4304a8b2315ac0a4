"""The window features of many users in batch, as `fraud.core.features` defines them.

The loops are plain Python over arrays. numba compiles them; tests also run them uncompiled. Sums are int64, a mean
divides once, and operations are not reordered (no fastmath), so the values have the same bits as those of
`fraud.core.windows.evaluate`.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import UNITS_PER_USD, US_PER_SECOND
from fraud.core.features import MAX_EVENTS, RETENTION_US, WINDOW_FEATURES, WindowFeature

Ints = NDArray[np.int64]

COUNT: Final = 0
SUM: Final = 1
MEAN: Final = 2
DISTINCT: Final = 3
SECONDS_SINCE_LAST: Final = 4
_CODES: Final = {
    "count": COUNT,
    "sum": SUM,
    "mean": MEAN,
    "distinct": DISTINCT,
    "seconds_since_last": SECONDS_SINCE_LAST,
}
_DIVISORS: Final = {"sum": UNITS_PER_USD, "mean": UNITS_PER_USD, "seconds_since_last": US_PER_SECOND}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call. The result is cached on disk if numba has a writable folder (NUMBA_CACHE_DIR).

    The cache is invalidated by changes of this file only, so constants of other files must be passed as arguments.
    """
    try:
        return cast("Callable[..., Any]", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast("Callable[..., Any]", numba.njit(nogil=True)(function))


@compiled
def group(codes: NDArray[np.int32], groups: int) -> tuple[Ints, Ints]:
    """Stable counting sort: (starts int64[groups + 1], order int64[n]); group g is order[starts[g]:starts[g + 1]]."""
    starts = np.zeros(groups + 1, dtype=np.int64)
    for code in codes:
        starts[code + 1] += 1
    for g in range(groups):
        starts[g + 1] += starts[g]
    free = starts[:-1].copy()
    order = np.empty(len(codes), dtype=np.int64)
    for i in range(len(codes)):
        order[free[codes[i]]] = i
        free[codes[i]] += 1
    return starts, order


@compiled
def _value(kind: int, divisor: int, count: int, total: int, distinct: int, since_us: int) -> float:
    if kind == COUNT:
        return float(count)
    if kind == SUM:
        return float(total) / float(divisor)
    if kind == MEAN:
        return float(total) / float(count * divisor)
    if kind == DISTINCT:
        return float(distinct)
    return float(since_us) / float(divisor)


@compiled
def define(
    kind: int, divisor: int, window_us: int, empty: float, bound: int, retention_us: int, event_us: Ints,
    ingested: Ints, units: Ints, merchant: NDArray[np.int32], seen: Ints, stamp: int, out: NDArray[np.float64],
) -> None:  # fmt: skip
    """One feature of one user, for events in any order of ingestion. It follows the text of `fraud.core.features`.

    `seen` int64[merchants] has the number of the last window that counted a merchant; windows are numbered from
    `stamp`.
    """
    n = len(event_us)
    rank = np.empty(n, dtype=np.int64)  # number of events ingested before
    newest = np.empty(n, dtype=np.int64)
    sequence = np.full(n, -1, dtype=np.int64)  # -1: not in the history
    history = np.empty(n, dtype=np.int64)
    count, latest = 0, np.int64(0)
    for i in np.argsort(ingested, kind="mergesort"):
        rank[i], newest[i] = count, latest
        if event_us[i] >= latest - retention_us:
            sequence[i], history[count] = count, i
            count += 1
            latest = max(latest, event_us[i])
    for e in range(n):
        r, t = rank[e], event_us[e]
        first = max(0, r - bound)
        since = max(t - window_us, newest[e] - retention_us)
        in_time_from = np.searchsorted(event_us, since)
        in_time = np.searchsorted(event_us, t) - in_time_from
        by_time = in_time < r - first
        count, total, distinct, last = 0, 0, 0, since
        for j in range(in_time if by_time else r - first):
            i = in_time_from + j if by_time else history[first + j]
            if first <= sequence[i] < r and since <= event_us[i] < t:
                count += 1
                total += units[i]
                last = max(last, event_us[i])
                if kind == DISTINCT and seen[merchant[i]] != stamp + e:
                    seen[merchant[i]] = stamp + e
                    distinct += 1
        out[e] = _value(kind, divisor, count, total, distinct, t - last) if count > 0 else empty


@compiled
def sweep(
    kind: int, divisor: int, window_us: int, empty: float, bound: int, event_us: Ints, units: Ints,
    merchant: NDArray[np.int32], held: Ints, out: NDArray[np.float64],
) -> None:  # fmt: skip
    """One feature of one user whose events were ingested in order of event time. Each event enters and leaves once.

    `held` int64[merchants], zero before and after, counts the events of each merchant in the window. No event of the
    history is newer than e, so the retention bound, which is wider than every window, has no effect.
    """
    low, high, total, distinct = 0, 0, 0, 0
    for e in range(len(event_us)):
        t = event_us[e]
        while event_us[high] < t:
            total += units[high]
            if kind == DISTINCT:
                held[merchant[high]] += 1
                distinct += held[merchant[high]] == 1
            high += 1
        while low < high and (event_us[low] < t - window_us or low < e - bound):
            total -= units[low]
            if kind == DISTINCT:
                held[merchant[low]] -= 1
                distinct -= held[merchant[low]] == 0
            low += 1
        since_us = t - event_us[high - 1] if high > low else 0
        out[e] = _value(kind, divisor, high - low, total, distinct, since_us) if high > low else empty
    if kind == DISTINCT:
        for i in range(low, high):
            held[merchant[i]] = 0


@compiled
def _run(
    kinds: Ints, divisors: Ints, windows_us: Ints, empties: NDArray[np.float64], bound: int, retention_us: int,
    starts: Ints, event_us: Ints, ingested: Ints, units: Ints, merchant: NDArray[np.int32], merchants: int,
    out: NDArray[np.float64],
) -> None:  # fmt: skip
    held = np.zeros(merchants, dtype=np.int64)
    seen = np.full(merchants, -1, dtype=np.int64)
    for user in range(len(starts) - 1):
        a, b = starts[user], starts[user + 1]
        in_order = True
        for i in range(a + 1, b):
            in_order = in_order and ingested[i - 1] <= ingested[i]
        for f in range(len(kinds)):
            if in_order:
                sweep(kinds[f], divisors[f], windows_us[f], empties[f], bound, event_us[a:b], units[a:b],
                      merchant[a:b], held, out[f, a:b])  # fmt: skip
            else:
                define(kinds[f], divisors[f], windows_us[f], empties[f], bound, retention_us, event_us[a:b],
                       ingested[a:b], units[a:b], merchant[a:b], seen, f * len(event_us) + a, out[f, a:b])  # fmt: skip


def compute(
    starts: Ints, event_us: Ints, ingested: Ints, units: Ints, merchant: NDArray[np.int32], merchants: int,
    features: tuple[WindowFeature, ...] = WINDOW_FEATURES, bound: int = MAX_EVENTS,
) -> NDArray[np.float64]:  # fmt: skip
    """Window values of every event: float64[len(features), n], null as NaN.

    Events come grouped by user (user g has rows starts[g]:starts[g + 1]) and, within a user, sorted by (event_us,
    ingested, tie-break). `ingested` orders the history: the sequence, or created_timestamp in us. Events with equal
    values keep their order. `units` are 1/10,000 USD. `merchant` are int32 codes below `merchants`, equal if and only
    if the 64-bit hashes are.
    """
    out = np.empty((len(features), len(event_us)), dtype=np.float64)
    kinds = np.array([_CODES[f.aggregation] for f in features], dtype=np.int64)
    divisors = np.array([_DIVISORS.get(f.aggregation, 1) for f in features], dtype=np.int64)
    windows_us = np.array([f.window_us for f in features], dtype=np.int64)
    empties = np.array([np.nan if f.empty is None else f.empty for f in features], dtype=np.float64)
    settings = (kinds, divisors, windows_us, empties, bound, RETENTION_US)
    _run(*settings, starts, event_us, ingested, units, merchant, merchants, out)
    return out
