"""Memory of the online store per event and per daily row, for the three-feature and the shipped declaration.

`make bench-online_memory`. A load writes values of their exact size; single appends (requests) leave reserve for later
appends, which the next load or removal of old events frees.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import redis

from fraud import declaration_file
from fraud.core.daily import Table
from fraud.core.history import Layout
from fraud.core.plan import Plan
from fraud.embedded.servers import valkey
from fraud.features.online_store import Batch, OnlineHistory

ROOT = Path(__file__).resolve().parents[2]
FIRST_US = 1_767_225_600_000_000
ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    three = Plan(declaration_file.load(ROOT / "tests/declarations/three.yaml"))
    shipped = Plan(declaration_file.load_of(ROOT))
    contenders: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        valkey.running(Path(folder)) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        for name, plan in (("three", three), ("shipped", shipped)):
            for windows in plan.windows:
                contenders[f"{name}: history of {windows.layout.entity}"] = history(client, windows.layout)
            for table in plan.tables:
                contenders[f"{name}: daily rows of {table.entity}"] = daily(client, table)
    ratios = {"bytes_per_event_three": contenders["three: history of user"]["history_1000"]}
    for name, figures in contenders.items():
        if name.startswith("shipped"):
            key = name.removeprefix("shipped: ").replace(" ", "_")
            ratios[f"wide_bytes_{key}"] = figures["row"] if "row" in figures else figures["history_60"]
    for name, figures in contenders.items():
        print(f"{name:<28}" + "  ".join(f"{key} {value:,.1f}" for key, value in figures.items()))
    out = ROOT / "build/bench/online_memory.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": platform.platform(), "contenders": contenders, "ratios": ratios}, indent=1))


def history(client: redis.Redis, layout: Layout) -> dict[str, float]:
    """Bytes per event of the history and of the ids, at rest after a load, and grown by single appends."""
    store, figures = OnlineHistory(client), {"record": float(layout.record.itemsize), "entry": 16.0}
    for count in (60, min(1_000, 2 * layout.max_events)):
        records = np.zeros(count, dtype=layout.record)
        records["event_us"] = FIRST_US + np.arange(count)
        store.load(layout, [Batch(f"loaded {count}", records, np.arange(1, count + 1, dtype=np.uint64))])
        for i in range(count):
            store.append(layout, f"single {count}", f"t{i}", FIRST_US + i, [column.null for column in layout.columns])
        figures[f"history_{count}"] = _bytes(client, layout.history_key(f"loaded {count}")) / count
        figures[f"ids_{count}"] = _bytes(client, layout.ids_key(f"loaded {count}")) / count
        appended = [layout.history_key(f"single {count}"), layout.ids_key(f"single {count}")]
        figures[f"both_appended_{count}"] = sum(_bytes(client, key) for key in appended) / count
    return figures


def daily(client: redis.Redis, table: Table) -> dict[str, float]:
    """Bytes per entity and snapshot."""
    before = client.info("memory")["used_memory"]  # type: ignore[index]
    pipeline = client.pipeline(transaction=False)
    for key in _row_keys(table):
        pipeline.set(key, table.pack([0.0] * len(table.names)))
    pipeline.execute()
    after: Any = client.info("memory")["used_memory"]  # type: ignore[index]
    return {"value": 8.0 * len(table.names), "row": (after - before) / ROWS}


def _row_keys(table: Table) -> Iterator[str]:
    return (table.row_key("2026-01-01-0123456789ab", f"merchant-{i:06d}") for i in range(ROWS))


def _bytes(client: redis.Redis, key: str) -> int:
    found = client.memory_usage(key, samples=0)
    if not isinstance(found, int):
        sys.exit(f"no key {key}")
    return found


if __name__ == "__main__":
    main()
