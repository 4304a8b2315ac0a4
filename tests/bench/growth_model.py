"""From measured costs to hosts, memory, storage and money for a load. Pure functions; `growth.py` prints their results.

Units: payments/s are those of the busiest second of a day, us are CPU microseconds of one core, bytes are on disk or in
memory, GiB = 2^30 bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

GIB: Final = float(1 << 30)
DAY_S: Final = 86_400


@dataclass(frozen=True)
class Costs:
    """What one payment, row, user or merchant costs. Each value is that of a bench (`growth.SOURCES`)."""

    serving_us: float
    """CPU of serving for a request of the shipped declaration."""
    store_us: float
    """CPU of the online store for the commands of a request."""
    stream_us: float
    """CPU of a consumer for a message."""
    user_bytes: float
    """Memory of the histories of a user and of a device, without events."""
    event_bytes: float
    """Memory of a payment in the histories of its user and of its device."""
    merchant_bytes: float
    """Memory of the daily row of a merchant."""
    serving_mb: float
    """Memory of a serving process."""
    build_rows_per_s: float
    """Rows/s of `build-features` of the shipped declaration on two cores, daily snapshots included."""
    score_rows_per_s: float
    """Rows/s of `score` on two cores."""
    training_rows_per_s: float
    """Rows/s of the training of level 2."""
    training_bytes_per_row: float
    """Peak memory of the training of level 2 for a row."""
    lake_bytes: float
    """Bytes of a payment in `transactions`, `features`, `scores` and `predictions` together."""
    message_bytes: float
    """Bytes of a payment in the topics `transactions` and `decisions`."""


@dataclass(frozen=True)
class Assumptions:
    """What is not measured. `--assume NAME=VALUE` replaces a value."""

    peak_over_mean: float = 3.0
    """Payments of the busiest second over those of the mean second of a day."""
    utilisation: float = 0.5
    """Share of a core that the busiest second uses; the rest is for failures and bursts."""
    users_per_merchant: float = 100.0
    """A user has one device."""
    events_kept: float = 60.0
    """Events in the history of a user, in the mean; at most those of 30 days count."""
    shard_gib: float = 24.0
    """Memory of histories on one server of the online store, half of its host's."""
    night_h: float = 3.0
    """Hours for the features and the scores of a day."""
    training_days: float = 120.0
    host_gib: float = 256.0
    """Memory of the largest host that is rented for training."""
    topic_days: float = 7.0
    topic_replicas: float = 3.0
    lake_days: float = 730.0
    core_month: float = 25.0
    """Price of a core with 2 GiB of memory, per month."""
    gib_month: float = 3.0
    """Price of a further GiB of memory, per month."""
    disk_gib_month: float = 0.10
    object_gib_month: float = 0.023


class Load(NamedTuple):
    """A size of the business."""

    payments_per_s: float
    users: float


class Need(NamedTuple):
    """What a component needs for a load."""

    component: str
    processes: int
    """Of one core each; servers of the store with their replicas. Training: hosts."""
    memory_gib: float
    storage_gib: float
    money: float
    """Per month."""


def needs(load: Load, costs: Costs, given: Assumptions) -> list[Need]:
    """The needs of every component."""
    peak, per_day = load.payments_per_s, load.payments_per_s / given.peak_over_mean * DAY_S

    def need(component: str, processes: int, memory: float, storage: float = 0.0, disk: float = 0.0) -> Need:
        more = max(0.0, memory - 2.0 * processes)
        money = processes * given.core_month + more * given.gib_month + storage * disk
        return Need(component, processes, memory, storage, money)

    serving = cores(peak, costs.serving_us, given) + 1
    histories = store_gib(load, costs, given)
    shards = max(cores(peak, costs.store_us, given), ceil(histories / given.shard_gib))
    consumers = cores(peak, costs.stream_us, given) + 1
    topics = per_day * given.topic_days * costs.message_bytes * given.topic_replicas / GIB
    workers = ceil(night_core_s(per_day, costs) / (given.night_h * 3_600))
    rows = per_day * given.training_days
    training = rows * costs.training_bytes_per_row / GIB
    lake = per_day * given.lake_days * costs.lake_bytes / GIB
    return [
        need("serving", serving, serving * costs.serving_mb * 1e6 / GIB),
        # Every shard has a replica. A server has twice the memory of its histories: a snapshot copies changed pages.
        need("online store", 2 * shards, 4 * histories),
        need("stream consumers", consumers, consumers * costs.serving_mb * 1e6 / GIB),
        need("broker", int(given.topic_replicas), 8 * given.topic_replicas, topics, given.disk_gib_month),
        need("nightly workers", workers, 3.0 * workers),
        # It reads its rows into the memory of one host, so it cannot be split: more rows are sampled.
        need(
            "training" if training <= given.host_gib else f"training, {given.host_gib / training:.2%} of the rows",
            1,
            min(training, given.host_gib),
        ),
        Need("lake", 0, 0.0, lake, lake * given.object_gib_month),
    ]


def cores(peak: float, us: float, given: Assumptions) -> int:
    """Cores for a peak of payments/s that take `us` of CPU each."""
    return ceil(peak * us / 1e6 / given.utilisation)


def store_gib(load: Load, costs: Costs, given: Assumptions) -> float:
    """Memory of histories and daily rows, one copy."""
    month = load.payments_per_s / given.peak_over_mean * DAY_S * 30 / load.users
    user = costs.user_bytes + min(given.events_kept, month) * costs.event_bytes
    return (load.users * user + load.users / given.users_per_merchant * costs.merchant_bytes) / GIB


def night_core_s(rows: float, costs: Costs) -> float:
    """CPU seconds of the features and scores of a day's rows."""
    return rows * (2 / costs.build_rows_per_s + 2 / costs.score_rows_per_s)


class Limit(NamedTuple):
    """The load at which something is used up, and what to do then."""

    what: str
    payments_per_s: float
    """Of the busiest second."""
    then: str


def limits(costs: Costs, given: Assumptions, users: float) -> list[Limit]:
    """The limits of a platform on one host, in the order in which growing payments reach them."""
    rows_per_peak = DAY_S / given.peak_over_mean
    night = given.night_h * 3_600 * 2 / night_core_s(1, costs)
    in_memory = given.host_gib * GIB / (given.training_days * costs.training_bytes_per_row)
    found = [
        Limit("one serving process", given.utilisation * 1e6 / costs.serving_us, "more replicas behind the proxy"),
        Limit("one server of the online store", given.utilisation * 1e6 / costs.store_us, "a cluster of shards"),
        Limit("one consumer", given.utilisation * 1e6 / costs.stream_us, "more consumers, up to the partitions"),
        Limit("a night on two cores", night / rows_per_peak, "Spark workers"),
        Limit(
            f"training in {given.night_h:g} hours",
            costs.training_rows_per_s * given.night_h * 3_600 / given.training_days / rows_per_peak,
            "a longer time, fewer days, or a sample of legitimate payments",
        ),
        Limit(
            f"training in {given.host_gib:.0f} GiB", in_memory / rows_per_peak,
            "fewer days, or a sample of legitimate payments: a redesign of the training set",
        ),
    ]  # fmt: skip
    by_memory = (given.shard_gib * GIB / users - costs.user_bytes) / costs.event_bytes
    if by_memory <= 0:
        found.append(Limit("memory of one server of the store", 0.0, "a cluster of shards"))
    return sorted(found, key=lambda limit: limit.payments_per_s)


def wait_p99_ms(
    utilisation: float, service_us: float, *, stall_ms: float, requests: int, rng: np.random.Generator
) -> float:
    """99th percentile of the time in a serving process, by simulation of its queue.

    Requests arrive at random (Poisson), are served in order and take `service_us` each. Once a second the core is not
    available for `stall_ms`.
    """
    arrivals = np.cumsum(rng.exponential(service_us / utilisation, requests))
    service = np.full(requests, service_us)
    first_of_second = np.searchsorted(arrivals, np.arange(1, arrivals[-1] // 1e6) * 1e6)
    np.add.at(service, first_of_second, stall_ms * 1e3)
    return float(np.quantile(sojourn(arrivals, service), 0.99) / 1e3)


def sojourn(arrivals: NDArray[np.float64], service: NDArray[np.float64]) -> NDArray[np.float64]:
    """The time from arrival to end of service in a queue with one server, float64[n], in the unit of its inputs."""
    # Lindley's recursion, W' = max(0, W + S - gap), is a running sum less its running minimum.
    steps = np.concatenate([[0.0], np.cumsum(service[:-1] - np.diff(arrivals))])
    return steps - np.minimum.accumulate(steps) + service


def assumed(values: Mapping[str, float]) -> Assumptions:
    """Assumptions with replaced values. Raises ValueError for a name that is none."""
    known = [field.name for field in fields(Assumptions)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"expected one of {', '.join(known)}, got {', '.join(unknown)}")
    return Assumptions(**values)
