"""The simulated days of a soak as files, and their deliveries to the landing zone with the faults of the schedule.

Every delivered file has a name of its own and the same bytes when it is written again, so that a soak that was
interrupted repeats its last night without delivering anything twice.
"""

import datetime as dt
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tests.soak.schedule import Night, night_of

from fraud.core.declaration import Declaration
from fraud.simulator.bad_rows import spoil
from fraud.simulator.deliveries import Plan, deliveries

START: Final = dt.date(2025, 1, 1)
HISTORY_DAYS: Final = 77
"""Days that are delivered before the first night. The split of the soak's parameters needs 56. In the first 38
windows are not complete; drift leaves them out of its reference only if days after them are in the training set."""
USERS: Final = 500
FRAUD_RATE: Final = 0.04
BAD_PER_100K: Final = 3_000.0
FEEDS: Final = ("transactions", "labels")
_MISLABELLED_DAYS: Final = 45
_CUT_OFF: Final = 100


class World:
    """The days of a soak of `nights` nights. `day(0)` is the last day of the history; `day(n)` that of night n."""

    def __init__(self, folder: Path, nights: int, seed: int, declaration: Declaration) -> None:
        self.folder, self._nights, self._seed, self._columns = folder, nights, seed, declaration.columns

    def day(self, night: int) -> str:
        return str(START + dt.timedelta(days=HISTORY_DAYS - 1 + night))

    def write(self) -> None:
        """Simulate all days once: `transactions/DAY.parquet` and `labels/DAY.parquet`."""
        done = self.folder / "complete"
        if done.exists():
            return
        plan = Plan(
            START, HISTORY_DAYS + self._nights, USERS, self._seed, FRAUD_RATE, 0.0, self._columns,
            data_drift_from=HISTORY_DAYS - 1 + night_of("data drift", self._nights),
            concept_drift_from=HISTORY_DAYS - 1 + night_of("concept drift", self._nights),
        )  # fmt: skip
        for feed in FEEDS:
            (self.folder / feed).mkdir(parents=True, exist_ok=True)
        for delivery in deliveries(plan):
            pq.write_table(delivery.transactions, self.file("transactions", str(delivery.day)))
            pq.write_table(delivery.labels, self.file("labels", str(delivery.day)))
        done.touch()

    def file(self, feed: str, day: str) -> Path:
        return self.folder / feed / f"{day}.parquet"

    def history(self) -> list[str]:
        """The days before the first night."""
        return [str(START + dt.timedelta(days=i)) for i in range(HISTORY_DAYS)]

    def bad_rows(self, night: Night) -> pa.Table:
        """The day's transactions with rows that violate the contract or repeat others."""
        rng = np.random.default_rng([self._seed, night.number])
        return spoil(rng, pq.read_table(self.file("transactions", self.day(night.number))), BAD_PER_100K, self._columns)

    def wrong_labels(self, night: int, *, corrected: bool) -> pa.Table:
        """Reports that exchange fraud and legitimate for the frauds of the last days, and as many other transactions.

        `corrected`: the reports of the next day, which take them back.
        """
        days = [str(START + dt.timedelta(days=HISTORY_DAYS - 1 + night - i)) for i in range(_MISLABELLED_DAYS)]
        labels = pa.concat_tables([pq.read_table(self.file("labels", day)) for day in days])
        frauds = labels.filter(labels["is_fraud"])["transaction_id"].unique()
        paid = pa.concat_tables([pq.read_table(self.file("transactions", day), columns=["transaction_id"])
                                 for day in days])["transaction_id"]  # fmt: skip
        others = paid.filter(pc.invert(pc.is_in(paid, frauds))).to_numpy()
        chosen = np.sort(np.random.default_rng([self._seed, night, 7]).choice(others, len(frauds), replace=False))
        ids = pa.concat_arrays([frauds.sort(), pa.array(chosen, pa.string())])
        is_fraud = pa.array([corrected] * len(frauds) + [not corrected] * len(chosen))
        at = dt.datetime.combine(
            dt.date.fromisoformat(self.day(night + corrected)), dt.time(23, 59, 59), dt.UTC
        )  # fmt: skip
        return pa.table(
            {"transaction_id": ids, "is_fraud": is_fraud, "label_timestamp": pa.array([at] * len(ids))},
            labels.schema,
        )


class Landing:
    """The landing zone of a soak."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self._world = folder, world

    def deliver_history(self) -> None:
        for day in self._world.history():
            self._copy(day)

    def deliver(self, night: Night, before: Night | None) -> None:
        """The files of a night: those of its day as the schedule says, and what the night before left out."""
        day = self._world.day(night.number)
        if before is not None and before.delivery == "late":
            self._copy(self._world.day(before.number))
        if before is not None and "bad candidate" in before.events:
            self._add("labels", day, "corrected", self._world.wrong_labels(before.number, corrected=True))
        self._copy(day, feeds=("labels",))
        if "bad candidate" in night.events:
            self._add("labels", day, "wrong", self._world.wrong_labels(night.number, corrected=False))
        if night.delivery == "bad rows":
            self._add("transactions", day, "bad-rows", self._world.bad_rows(night))
        elif night.delivery == "damaged file":
            whole = self._world.file("transactions", day).read_bytes()
            self._put("transactions", day, "damaged", whole[:-_CUT_OFF])
        elif night.delivery != "late":
            self._copy(day, feeds=("transactions",))
        if night.delivery == "doubled":
            whole = pq.read_table(self._world.file("transactions", day))
            self._put("transactions", day, "same-bytes", self._world.file("transactions", day).read_bytes())
            self._add("transactions", day, "same-rows", whole.take(pa.array(range(whole.num_rows - 1, -1, -1))))

    def correct(self, night: Night) -> None:
        """Replace the damaged file of a night by the whole one."""
        day = self._world.day(night.number)
        self._path("transactions", day, "damaged").unlink(missing_ok=True)
        self._copy(day, feeds=("transactions",))

    def rows(self, feed: str) -> int:
        """Rows of the readable files with different bytes, counted from the files alone."""
        found = {}
        for path in sorted((self.folder / feed).rglob("*.parquet")):
            try:
                found[sha256(path.read_bytes()).hexdigest()] = pq.read_metadata(path).num_rows
            except pa.ArrowInvalid:
                continue
        return sum(found.values())

    def _copy(self, day: str, feeds: tuple[str, ...] = FEEDS) -> None:
        for feed in feeds:
            if pq.read_metadata(self._world.file(feed, day)).num_rows:
                self._put(feed, day, "source", self._world.file(feed, day).read_bytes())

    def _add(self, feed: str, day: str, name: str, table: pa.Table) -> None:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        self._put(feed, day, name, buffer.getvalue().to_pybytes())

    def _path(self, feed: str, day: str, name: str) -> Path:
        return self.folder / feed / f"dt={day}" / f"{name}.parquet"

    def _put(self, feed: str, day: str, name: str, data: bytes) -> None:
        path = self._path(feed, day, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".pending")  # not a name that ingest reads
        temporary.write_bytes(data)
        temporary.replace(path)
