"""From an export to a promoted model with nothing running: MLflow is a SQLite file, all is below FRAUD_HOME."""

import csv
import datetime as dt
import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from tests.integration.training_platform import QUICK, ROOT, merged

from fraud.cli import run_job
from fraud.errors import RefusedError
from fraud.registry import model_versions
from fraud.registry.model_versions import MODEL_NAME
from fraud.settings import Settings

CHANGED = {
    "split": {"train_days": 20, "gap_days": 1, "holdout_days": 6, "holdout_from": dt.date(2026, 2, 1)},
    "training": {"refit": False},
    "gates": {"min_holdout_rows": 100, "min_holdout_frauds": 5},
}
MAPPING = {
    "name": "export", "source": {"format": "csv"}, "transaction_id": {"column": "id"},
    "event_timestamp": {"column": "at", "format": "%Y-%m-%d %H:%M:%S", "zone": "UTC"}, "user_id": {"column": "card"},
    "merchant_id": {"column": "shop"}, "merchant_category": {"column": "kind"}, "amount": {"column": "usd"},
    "label": {"column": "fraud", "delay_days": 1},
}  # fmt: skip


def export(path: Path) -> None:
    """Fifty days, 120 payments a day; large ones at night are mostly fraud."""
    random, start = np.random.default_rng(5), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "at", "card", "shop", "kind", "usd", "fraud"])
        for number in range(50 * 120):
            at = start + dt.timedelta(days=number // 120, seconds=int(random.integers(0, 86_400)))
            usd = round(float(np.exp(random.normal(3.5, 0.8))), 2)
            fraud = random.random() < (0.9 if at.hour < 6 and usd > 60 else 0.002)
            usd = usd * 4 if fraud else usd
            card, shop = random.integers(0, 60), random.integers(0, 40)
            writer.writerow([f"t{number}", f"{at:%F %T}", f"c{card}", f"m{shop}", "travel", f"{usd:.2f}", int(fraud)])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FRAUD_HOME with a space in its name; the current folder is another, and must stay empty."""
    project, home, elsewhere = tmp_path / "project", tmp_path / "a home", tmp_path / "elsewhere"
    for folder in (project, home, elsewhere):
        folder.mkdir()
    for name in ("feature_repo", "requirements"):
        (project / name).symlink_to(ROOT / name)
    params = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), QUICK, CHANGED)
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    (project / "mapping.yaml").write_text(yaml.safe_dump(MAPPING))
    export(project / "export.csv")
    for name, value in {
        "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(project), "FRAUD_MLFLOW_URL": f"sqlite:///{home}/mlflow.db",
        "FRAUD_REDIS_URL": "redis://127.0.0.1:9/0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(elsewhere)
    return home


def test_import_to_promotion(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = home.parent / "project"

    def fraud(job: str, *arguments: str) -> dict[str, Any]:
        return run_job(job, list(arguments)).model_dump(mode="json")

    fraud("import", "--source", str(project / "export.csv"), "--mapping", str(project / "mapping.yaml"))
    for job in ("ingest", "ingest-labels", "build-daily", "build-features", "training-set"):
        fraud(job, *(["--now", "2026-03-01T00:00:00Z"] if job.startswith("ingest") else []))
    trained = run_job("train", [])
    made = trained.model_dump(mode="json")
    assert made["gates_passed"], made["failed_gates"]

    run = Path(made["mlflow_run_url"].removeprefix("file://").replace("%20", " "))
    assert run.is_relative_to(home / "mlflow-artifacts")
    assert (run / "model/model.onnx").is_file()
    assert list((home.parent / "elsewhere").iterdir()) == []

    parts = yaml.safe_load((run / "training.json").read_text())["parts"]
    assert (parts["holdout"]["first_day"], parts["holdout"]["end_day"]) == ("2026-02-01", "2026-02-07")
    assert parts["final"] == parts["train"]

    with pytest.raises(RefusedError, match="did not pass its gates") as refused:
        fraud("promote")
    assert "online_state: the online store does not answer" in refused.value.got
    waiver = ["--waive", "online_state", "--waiver-reason", "file scoring only", "--waiver-expires", "2999-01-01"]
    assert fraud("promote", *waiver)["version"] == made["version"]
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{home}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    model = mlflow.pyfunc.load_model(f"models:/{MODEL_NAME}/Production")
    names = model_versions.fetch(Settings.load()).plan.vector.names
    rows = pd.DataFrame(np.ones((3, len(names))), columns=list(reversed(names)))
    assert model.predict(rows)["fraud_probability"].between(0, 1).all()

    text = trained.as_text()
    assert "{" not in text
    for level in made["levels"]:
        [line] = [line for line in text.splitlines() if line.startswith(f"{level['level']}-{level['name']} ")]
        assert f" {level['auc']:.3f} ({level['auc_low']:.3f} to " in line
        assert level["auc_low"] < level["auc"] < level["auc_high"]
    assert re.search(r"holdout_rows +passed +7\d\d +at least 100", text)
