"""What happens in each night of a soak: faults of the delivery, drift, a bad candidate, a rollback, killed services.

The schedule is drawn from the seed. The days of the special events are those of a soak of 30 nights, in proportion.
"""

import math
import random
from typing import Final, Literal, NamedTuple

Delivery = Literal["on time", "late", "doubled", "bad rows", "damaged file"]
Event = Literal["data drift", "concept drift", "bad candidate", "rollback"]
Phase = Literal["day", "night"]

EVENTS: Final[dict[Event, int]] = {"bad candidate": 6, "data drift": 10, "concept drift": 18, "rollback": 24}
"""The night of each event in a soak of 30 nights."""
FAULTS: Final[tuple[Delivery, ...]] = ("doubled", "bad rows", "late", "damaged file")
KILLED: Final = ("mlflow", "valkey", "serving", "airflow-scheduler")
_FAULTY: Final = 0.45
"""Share of the nights with a faulty delivery."""
_KILLS: Final = 0.8
"""Share of the nights in which a service is killed."""
_LATEST: Final[dict[Phase, float]] = {"day": 6.0, "night": 60.0}


class Kill(NamedTuple):
    """SIGKILL of a service's first process, `after_s` seconds into the phase; it is started again `down_s` later."""

    service: str
    phase: Phase
    after_s: float
    down_s: float

    def __str__(self) -> str:
        return f"{self.service} ({self.phase})"


class Night(NamedTuple):
    """One night. `number` counts from 1; night 0 is the first training on the history."""

    number: int
    delivery: Delivery
    events: tuple[Event, ...]
    kill: Kill | None


def night_of(event: Event, count: int) -> int:
    """The night of an event in a soak of `count` nights."""
    return math.ceil(EVENTS[event] * count / 30)


def nights(count: int, seed: int) -> list[Night]:
    """The schedule of `count` nights. The same arguments give the same schedule."""
    rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    events = {n: tuple(e for e in EVENTS if night_of(e, count) == n) for n in range(1, count + 1)}
    # A candidate is trained only after a delivery of transactions, a late delivery needs a night after it, and without
    # transactions in the first night no answer could be compared.
    on_time = {1, night_of("bad candidate", count), night_of("rollback", count), count}
    faults = [FAULTS[i % len(FAULTS)] for i in range(max(1, round(_FAULTY * count)))]
    faulty = dict(zip(rng.sample(range(1, count + 1), len(faults)), faults, strict=True))
    found = []
    for number in range(1, count + 1):
        delivery: Delivery = faulty.get(number, "on time")
        if delivery == "late" and number in on_time:
            delivery = "doubled"
        found.append(Night(number, delivery, events[number], _kill(rng)))
    return found


def _kill(rng: random.Random) -> Kill | None:
    phase: Phase = rng.choice(("day", "night"))
    kill = Kill(
        rng.choice(KILLED), phase, round(rng.uniform(0.5, _LATEST[phase]), 1), round(rng.uniform(1.0, 8.0), 1)
    )  # fmt: skip
    return kill if rng.random() < _KILLS else None
