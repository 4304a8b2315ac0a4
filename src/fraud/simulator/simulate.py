"""Write simulated transactions and labels to the landing zone."""

from collections import Counter
from datetime import date

import pyarrow as pa
from pydantic import Field, model_validator

from fraud.ingest.delivery import delivering
from fraud.ingest.landing import Feed
from fraud.job import Context, JobConfig, JobResult
from fraud.simulator.deliveries import Plan, deliveries

SOURCE = "simulated"
_LOG_EVERY_DAYS = 30


class Config(JobConfig):
    """Size and seed of the simulation. There is about one transaction per user and day."""

    days: int = Field(gt=0, le=5_000, description="days to simulate, the held-back ones included")
    users: int = Field(gt=0, le=5_000_000, description="cardholders")
    seed: int = Field(ge=0, description="the same seed, start and size give the same bytes")
    start: date = Field(default=date(2025, 1, 1), description="first day, UTC")
    out: str = Field(default="", description="URI of the landing zone; default FRAUD_LANDING_URI")
    hold_back_days: int = Field(default=0, ge=0, description="write the deliveries of the last days to held_back/")
    fraud_rate: float = Field(default=0.0075, ge=0, le=0.2, description="fraudulent payments per user and day")
    bad_rows_per_100k: float = Field(default=20.0, ge=0, description="rows that violate the contract, for quarantine")
    data_drift: bool = Field(
        default=False, description="legitimate spending changes: higher amounts, more payments, other categories"
    )
    concept_drift: bool = Field(default=False, description="fraud changes: small, by day, close to home")
    drift_from: int | None = Field(
        default=None,
        ge=0,
        description="number of the day (the first is 0) on which drift starts; default: after 3/4 of the days",
    )

    @model_validator(mode="after")
    def _some_days_stay(self) -> "Config":
        if self.hold_back_days >= self.days:
            raise ValueError(f"hold-back-days must be below days ({self.days}), got {self.hold_back_days}")
        return self


class Result(JobResult):
    """Counts of the written rows. Transactions ingested and labels reported after the last day are not written."""

    first_day: str
    last_day: str
    """Last landed day, without held-back days."""
    transactions: int
    labels: int
    held_back_transactions: int
    held_back_labels: int
    frauds: int
    """Fraudulent transactions among the written ones, with or without a label."""
    bad_rows: int
    files: int
    bytes: int
    """Size of the new files. A file that the landing zone already contains, byte for byte, counts as 0."""


def run(config: Config, context: Context) -> Result:
    """Simulate day by day. The files land together at the end. A file with the same bytes lands once.

    Raises BadConfigError for a declared column that cannot have the values of its role.
    """
    landing = config.out or context.settings.landing_uri
    drift_from = config.days * 3 // 4 if config.drift_from is None else config.drift_from
    plan = Plan(
        config.start, config.days, config.users, config.seed, config.fraud_rate, config.bad_rows_per_100k,
        context.declaration.columns,
        data_drift_from=drift_from if config.data_drift else None,
        concept_drift_from=drift_from if config.concept_drift else None,
    )  # fmt: skip
    landed = config.days - config.hold_back_days
    rows: Counter[tuple[Feed, bool]] = Counter()
    frauds = bad_rows = files = size = 0
    last_day = config.start
    with delivering(landing) as written:
        for index, delivery in enumerate(deliveries(plan)):
            held = index >= landed
            last_day = last_day if held else delivery.day
            tables: dict[Feed, pa.Table] = {"transactions": delivery.transactions, "labels": delivery.labels}
            for feed, table in tables.items():
                if table.num_rows:
                    size += written.add(feed, str(delivery.day), SOURCE, table, held_back=held)
                    files += 1
                rows[feed, held] += table.num_rows
            frauds += delivery.frauds
            bad_rows += delivery.bad_rows
            if (index + 1) % _LOG_EVERY_DAYS == 0 or index + 1 == config.days:
                context.log.info(
                    "days simulated", day=str(delivery.day), days=index + 1, rows=rows["transactions", False]
                )
    return Result(
        first_day=str(config.start), last_day=str(last_day), transactions=rows["transactions", False],
        labels=rows["labels", False], held_back_transactions=rows["transactions", True],
        held_back_labels=rows["labels", True], frauds=frauds, bad_rows=bad_rows, files=files, bytes=size,
    )  # fmt: skip
