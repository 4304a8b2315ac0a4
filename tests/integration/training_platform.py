"""A lake with a training set, a project of its own and a registry: what tests of training work on."""

import datetime as dt
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import structlog
import yaml

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY
from fraud.embedded.servers import mlflow_server
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.registry import promote
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import opened
from fraud.settings import Settings
from fraud.training import train

ROOT = Path(__file__).resolve().parents[2]
FRAUD = str(Path(sys.executable).with_name("fraud"))
QUICK = {
    "split": {"train_days": 30, "gap_days": 3, "validation_days": 10, "holdout_days": 10},
    "training": {"bootstrap": 100, "boosting": {"max_iter": 60}, "mlp": {"max_epochs": 2}},
    "gates": {"max_latency_us": 20000.0, "min_auc": 0.5},
}
POOR = {"training": {"margin": 1.0}}
"""No level adds that much average precision: the rule stays."""
OTHER_SEED = {"training": {"seed": 7, "mlp": {"max_epochs": 2, "learning_rate": 0.00001}}}


def merged(base: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for change in changes:
        for key, value in change.items():
            found[key] = merged(found[key], value) if isinstance(value, Mapping) else value
    return found


def world(days: int = 60, per_day: int = 500, frauds: bool = True) -> pa.Table:
    """A training set in which fraud is what costs more than its user's average, most of all far from home."""
    random, n = np.random.default_rng(3), days * per_day
    first = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
    at = np.sort(first + random.integers(0, days * US_PER_DAY, n))
    average, amount = np.exp(random.normal(3.5, 0.5, n)), np.exp(random.normal(3.5, 1.0, n))
    distance = random.exponential(20, n)
    logit = -8.5 + 2.2 * np.log(amount / average) + 0.06 * distance
    fraud = (random.random(n) < 1 / (1 + np.exp(-logit))) & frauds
    amount = np.where(fraud, amount * 3, amount)
    stamp = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "transaction_id": [f"t{i:07}" for i in range(n)],
            "event_timestamp": pa.array(at, stamp), "created_timestamp": pa.array(at, stamp),
            "user_id": [f"u{i}" for i in random.integers(0, 300, n)], "merchant_id": ["m"] * n,
            "merchant_category": np.array(["grocery", "travel", "electronics"])[random.integers(0, 3, n)],
            "amount": np.round(amount, 4), "distance_from_home": pa.array(distance, mask=random.random(n) < 0.1),
            "transaction_velocity_1h": random.poisson(0.2, n).astype(float),
            "avg_amount_7d": pa.array(np.round(average, 4), mask=random.random(n) < 0.05),
            "unique_merchants_30d": random.poisson(8, n), "is_fraud": fraud,
            "label_timestamp": pa.array(at + US_PER_DAY, stamp, mask=~fraud),
        }
    )  # fmt: skip


class Platform:
    """A lake, a registry and a project folder whose params.yaml the test writes."""

    def __init__(self, server: mlflow_server.Server, home: Path) -> None:
        self.home, self.project = home, home / "project"
        (self.project / "requirements").mkdir(parents=True)
        (self.project / "requirements/ml.txt").write_text("a lock\n")
        (self.project / "feature_repo").mkdir()
        self.declare((ROOT / "tests/declarations/three.yaml").read_text())
        self.settings = Settings(
            home=home, project=self.project, mlflow_url=server.url, actor="ada", redis_url="redis://127.0.0.1:9/0"
        )
        self.client = mlflow.MlflowClient(server.url)
        self.lake(world(), "s1")

    def declare(self, text: str) -> None:
        """Write the project's features.yaml."""
        (self.project / declaration_file.NAME).write_text(text)
        self.declaration = declaration_file.load_of(self.project)

    def lake(self, table: pa.Table, snapshot: str, cut_off: str = "2026-03-09T00:00:00+00:00") -> None:
        made_from = {"cut_off": cut_off, "maturity_days": "7", "declaration": self.declaration.stored_hash}
        catalog.TRAINING_SETS.at(self.settings.lake_uri).publish(snapshot, table, made_from)
        catalog.TRANSACTIONS.at(self.settings.lake_uri).publish("2026-01-01", table.slice(0, 1000))

    def context(self, *changes: Mapping[str, Any]) -> Context:
        path = self.project / "params.yaml"
        path.write_text(yaml.safe_dump(merged(yaml.safe_load((ROOT / "params.yaml").read_text()), QUICK, *changes)))
        return Context(self.settings, Params.load(path), self.declaration, structlog.get_logger(job="train"))

    def train(self, *changes: Mapping[str, Any], force: bool = False) -> train.Result:
        return train.run(train.Config(force=force), self.context(*changes))

    def promote(self) -> promote.Result:
        """Promote the candidate. No online store runs here, so its gate is waived."""
        waiver = {"waive": ("online_state",), "waiver_reason": "no online store in this test",
                  "waiver_expires": dt.date(2999, 1, 1)}  # fmt: skip
        return promote.run(promote.Config(**waiver), self.context())

    def alias(self, name: str) -> str | None:
        with opened(self.settings) as promotion:
            found = promotion.version(name)
            return str(found.version) if found else None

    def environment(self, server: mlflow_server.Server) -> dict[str, str]:
        """For `fraud` in a process of its own."""
        return {
            **os.environ, **server.client_environment(), "FRAUD_HOME": str(self.home),
            "FRAUD_PROJECT": str(self.project), "FRAUD_MLFLOW_URL": server.url,
        }  # fmt: skip

    def versions(self) -> int:
        return len(self.client.search_model_versions(f"name='{MODEL_NAME}'"))
