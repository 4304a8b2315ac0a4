"""Hosts, memory, storage and money for 1,000 to 100,000 payments/s and 10M to 1B users, from the costs of the benches.

    make bench-growth                                           # the tables of docs/scale.md
    make bench-growth ARGS="--assume core_month=40 peak_over_mean=5"
    make bench-growth ARGS="--refresh --write"                  # take the costs from build/bench/*.json, write the page
    make bench-growth ARGS="--refresh --lake URI --brokers HOST:PORT"  # and the bytes of a payment in a running demo's
                                                                # lake and topics (make demo STREAM=1 DETACH=1)

`growth_measured.json` has the values of the benches that the page is computed from. `--refresh` replaces those whose
bench has written a file since. A cost without a bench is an assumption and is listed as one.
"""

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from growth_model import Assumptions, Costs, Load, assumed, limits, needs, wait_p99_ms

ROOT: Final = Path(__file__).resolve().parents[2]
MEASURED: Final = Path(__file__).with_name("growth_measured.json")
PAGE: Final = ROOT / "docs/scale.md"
BEGIN, END = "<!-- growth: tests/bench/growth.py -->", "<!-- end of growth -->"
LOADS: Final = [Load(rate, users) for rate, users in ((1e3, 1e7), (1e4, 1e7), (1e4, 1e8), (1e5, 1e8), (1e5, 1e9))]
UTILISATIONS: Final = (0.3, 0.5, 0.7, 0.8, 0.9)
STALL_MS: Final = 11.0
"""A core of the machine is away for 8 to 14 ms once a second (docs/performance.md, *Stalls*)."""


class Source(NamedTuple):
    """The values of benches that a cost is computed from: `BENCH: path in its JSON`."""

    keys: tuple[str, ...]
    value: Callable[..., float] = lambda value: value


def _slope(*points: float) -> float:
    """Bytes of one more event: bytes per event at 60 and at many events, for each history."""
    return sum((many * n - few * 60) / (n - 60) for few, many, n in _histories(points))


def _intercept(*points: float) -> float:
    return sum(60 * few - 60 * (many * n - few * 60) / (n - 60) for few, many, n in _histories(points))


def _histories(points: Sequence[float]) -> list[tuple[float, float, int]]:
    return [(points[0], points[1], 1_000), (points[2], points[3], 512)]


_HISTORIES: Final = tuple(
    f"online_memory: contenders.shipped: history of {entity}.both_appended_{count}"
    for entity, counts in (("user", (60, 1_000)), ("device", (60, 512))) for count in counts
)  # fmt: skip
SOURCES: Final[dict[str, Source]] = {
    "serving_us": Source(("serving: contenders.wide_c64.cpu_us_per_request",)),
    "store_us": Source(("store_cluster: contenders.single_wide_c16.store_cpu_us_per_request",)),
    "stream_us": Source(("stream: contenders.stream_wide.cpu_us_per_transaction",)),
    "user_bytes": Source(_HISTORIES, _intercept),
    "event_bytes": Source(_HISTORIES, _slope),
    "merchant_bytes": Source(("online_memory: contenders.shipped: daily rows of merchant.row",)),
    "serving_mb": Source(("serving: ratios.wide_worker_rss_mb",)),
    "build_rows_per_s": Source(("features: contenders.wide_job.rows_per_s",)),
    "score_rows_per_s": Source(("batch-linear: ratios.rows_per_s",)),
    "training_rows_per_s": Source(("training: contenders.boosting ours.rows_per_s",)),
    "training_bytes_per_row": Source(("training: contenders.boosting ours.peak_mb",), lambda mb: mb * 1e6 / 1.2e6),
    "lake_bytes": Source(
        tuple(f"growth: contenders.lake.{name}" for name in ("transactions", "features", "scores", "predictions")),
        lambda *of_each: sum(of_each),
    ),
    "message_bytes": Source(("growth: contenders.messages.transaction", "growth: contenders.messages.decision"),
                            lambda *of_each: sum(of_each)),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refresh", action="store_true", help="take the costs from build/bench/*.json")
    parser.add_argument("--lake", help="URI of a lake, for the bytes of a payment")
    parser.add_argument(
        "--brokers", help="Kafka brokers with the topics of a demo (STREAM=1), for the bytes of a message"
    )
    parser.add_argument("--assume", nargs="+", default=[], metavar="NAME=VALUE", help="replace assumptions")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scale.md")
    requested = parser.parse_args()
    contenders: dict[str, Any] = {}
    if requested.lake:
        contenders["lake"] = lake_bytes(requested.lake)
    if requested.brokers:
        contenders["messages"] = {
            "transaction": message_bytes(requested.brokers, "transactions"),
            "decision": message_bytes(requested.brokers, "decisions"),
        }
    if requested.refresh:
        known = measured() | refreshed({"growth": {"contenders": contenders}})
        MEASURED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    given = assumed({name: float(value) for name, _, value in (pair.partition("=") for pair in requested.assume)})
    text = page(given)
    print(text)
    if requested.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}{END}{rest.split(END)[1]}")
    costs = costs_of(measured())
    contenders |= {
        f"{load.payments_per_s:.0f}/s {load.users:.0f} users": {
            need.component: need._asdict() for need in needs(load, costs, given)
        }
        for load in LOADS
    }
    out = ROOT / "build/bench/growth.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    ratios = {limit.what: limit.payments_per_s for limit in limits(costs, given, 1e7)}
    out.write_text(json.dumps({"machine": platform.platform(), "contenders": contenders, "ratios": ratios}, indent=1))


def measured() -> dict[str, float]:
    """The values of benches, by key."""
    found: dict[str, float] = json.loads(MEASURED.read_text())
    return found


def refreshed(own: dict[str, Any]) -> dict[str, float]:
    """The values of all keys of `SOURCES` whose bench has written a file."""
    found = {}
    for key in sorted({key for source in SOURCES.values() for key in source.keys}):
        bench, _, path = key.partition(": ")
        file = ROOT / f"build/bench/{bench}.json"
        value: Any = own.get(bench) or (json.loads(file.read_text()) if file.exists() else {})
        for name in path.split("."):
            value = value.get(name, {})
        if value != {}:
            found[key] = round(float(value), 4)
    return found


def lake_bytes(uri: str) -> dict[str, float]:
    """Bytes per row of the datasets that have a row for each payment."""
    from fraud import declaration_file  # noqa: PLC0415 - not needed for the tables
    from fraud.lake import catalog  # noqa: PLC0415

    declaration = declaration_file.load_of(ROOT)
    datasets = {
        "transactions": catalog.TRANSACTIONS, "features": catalog.features(declaration.stored_hash),
        "scores": catalog.SCORES, "predictions": catalog.PREDICTIONS,
    }  # fmt: skip
    found = {}
    for name, definition in datasets.items():
        partitions = definition.at(uri).open().contents.partitions.values()
        found[name] = sum(p.bytes for p in partitions) / sum(p.rows for p in partitions)
    return found


def message_bytes(brokers: str, topic: str) -> float:
    """Mean bytes of key, value and headers of the messages of a topic."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition  # noqa: PLC0415

    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "growth", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    sizes = []
    for number in partitions:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING)])
        last = -1
        while last < end - 1:
            message = consumer.poll(10)
            if message is None or message.error():
                raise SystemExit(f"{topic} [{number}] ended at {last} of {end}: {message and message.error()}")
            last = message.offset()
            headers = sum(len(key) + len(value) for key, value in message.headers() or ())
            sizes.append(len(message.key() or b"") + len(message.value()) + headers)
    consumer.close()
    return sum(sizes) / len(sizes)


def costs_of(values: dict[str, float]) -> Costs:
    """The costs, from the values of the benches. Raises SystemExit for a cost without a value."""
    missing = sorted({key for source in SOURCES.values() for key in source.keys} - set(values))
    if missing:
        raise SystemExit(f"not measured yet: {', '.join(missing)}\n  hint: run these benches, then --refresh")
    return Costs(**{name: source.value(*(values[key] for key in source.keys)) for name, source in SOURCES.items()})


def page(given: Assumptions | None = None) -> str:
    """The tables of docs/scale.md."""
    given = given or Assumptions()
    costs = costs_of(measured())
    parts = [
        "Costs, each with the bench that measures it:\n",
        table(
            ("cost", "value", "bench and key"),
            [
                (f"`{name}`", _figure(getattr(costs, name)), "; ".join(f"`{key}`" for key in source.keys))
                for name, source in SOURCES.items()
            ],
        ),
        "Assumptions, which are not measured (`--assume NAME=VALUE`):\n",
        table(("name", "value"), [(f"`{name}`", f"{value:g}") for name, value in vars(given).items()]),
        "What a platform on one host reaches its limits with, in this order, 10 million users:\n",
        table(
            ("limit", "payments/s of the busiest second", "then"),
            [(limit.what, _figure(limit.payments_per_s), limit.then) for limit in limits(costs, given, 1e7)],
        ),
        "Needs. Money is per month:\n",
        table(
            ("payments/s", "users", "component", "processes", "memory, GiB", "storage, GiB", "money"),
            [row for load in LOADS for row in _needs(load, costs, given)],
        ),
        (
            "p99 of the time in a serving process by the share of its core in use, by a simulation of its queue"
            f" (requests at random, {costs.serving_us:.0f} us each, a stall of {STALL_MS:.0f} ms once a second):\n"
        ),
        table(
            ("utilisation", "p99 with stalls, ms", "p99 without, ms"),
            [
                (f"{share:.0%}", *(f"{_p99(share, costs, stall):.1f}" for stall in (STALL_MS, 0.0)))
                for share in UTILISATIONS
            ],
        ),
    ]
    return "\n".join(parts)


def _p99(share: float, costs: Costs, stall_ms: float) -> float:
    return wait_p99_ms(share, costs.serving_us, stall_ms=stall_ms, requests=1_000_000, rng=np.random.default_rng(1))


def _needs(load: Load, costs: Costs, given: Assumptions) -> list[tuple[str, ...]]:
    found = needs(load, costs, given)
    size = f"{load.payments_per_s:,.0f}", f"{load.users:,.0f}"
    rows = [
        (*size, n.component, f"{n.processes:,}", _figure(n.memory_gib), _figure(n.storage_gib), _figure(n.money))
        for n in found
    ]
    sums = [_figure(sum(getattr(n, name) for n in found)) for name in ("memory_gib", "storage_gib", "money")]
    return [*rows, (*size, "**all**", f"{sum(n.processes for n in found):,}", *sums)]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
