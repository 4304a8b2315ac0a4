"""The drill without a running stack: the accelerated rules, and faults that leave the copy as it was."""

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pytest
import yaml

from fraud import declaration_file
from fraud.embedded.fire_drill import faults
from fraud.embedded.fire_drill.alert_watch import faster
from fraud.embedded.fire_drill.drill import FAULTS, copy_exporters_input
from fraud.embedded.fire_drill.faults import NotPossibleError, Site
from fraud.lake import catalog
from fraud.lake.dataset import Dataset

ROOT = Path(__file__).resolve().parents[3]
RULES = sorted((ROOT / "infra/prometheus/rules").glob("*.yml"))


class OnlyCopy:
    """A site with the copy alone."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self.stack = SimpleNamespace()


def site(copy: Path) -> Site:
    return cast("Site", OnlyCopy(copy))


def test_every_alert_has_a_fault() -> None:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert {alert for _, _, fires in FAULTS for alert in fires} == alerts - {"Watchdog"}


def test_windows_and_waits_are_divided_and_thresholds_are_not() -> None:
    text = "        expr: rate(x[1d]) > 0.2 and rate(x[5m]) > 3600\n        for: 6h\n        for: 2m\n"
    assert faster(text) == (
        "        expr: rate(x[120000ms]) > 0.2 and rate(x[10000ms]) > 3600\n"
        "        for: 30000ms\n        for: 10000ms\n"
    )


def test_the_fast_rules_are_valid(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT TESTED: the accelerated rules. promtool is not installed; install the package prometheus")
    for path in RULES:
        (tmp_path / path.name).write_text(faster(path.read_text()))
    done = subprocess.run([promtool, "check", "rules", *tmp_path.glob("*.yml")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_drills_copy_has_features_answers_and_a_day_ahead(tmp_path: Path) -> None:
    """The exporter reads the features of each declaration, and the objects of answers."""
    home, copy, day = tmp_path / "home", tmp_path / "copy", pa.table({"x": [1]})
    features = catalog.features(declaration_file.load_of(ROOT).stored_hash)
    for dataset in (features, catalog.PREDICTIONS):
        dataset.at(f"file://{home}/lake").publish("2026-01-31", day)
    copy_exporters_input(home, copy)
    found = features.at(f"file://{copy}/lake")
    [answers] = catalog.PREDICTIONS.at(f"file://{copy}/lake").open().object_uris("2026-01-31")
    assert Path(answers.removeprefix("file://")).is_file()
    here = OnlyCopy(copy)
    here.stack = SimpleNamespace(project=ROOT)
    with faults.ahead("features")(cast("Site", here)):
        assert max(found.open().partitions()) == "2026-02-01"
    assert found.open().partitions() == ["2026-01-31"]


def test_a_data_fault_restores_the_files_at_its_end(tmp_path: Path) -> None:
    transactions, at = Dataset(f"file://{tmp_path}/lake", "transactions"), datetime(2026, 2, 1, tzinfo=UTC)
    transactions.commit([transactions.written("2026-01-31", pa.table({"x": [1]}))], at=at)
    before = transactions.open().contents
    with faults.aged("transactions", 1)(site(tmp_path)):
        assert transactions.table.published()["2026-01-31"] > at
    assert transactions.table.published() == {"2026-01-31": at}
    with faults.ahead("transactions")(site(tmp_path)):
        assert transactions.partitions() == ["2026-01-31", "2026-02-01"]
    assert transactions.open().contents == before
    record = tmp_path / "job_runs/score/last.json"
    with faults.edited("job_runs/score/last.json", lambda r: r.update(exit_code=1), {"job": "score"})(site(tmp_path)):
        assert '"exit_code": 1' in record.read_text()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "lake" not in path.parents] == []


def test_a_fault_without_its_data_is_reported_as_not_possible(tmp_path: Path) -> None:
    with pytest.raises(NotPossibleError, match="no labels"), faults.aged("labels", 1)(site(tmp_path)):
        pass
    change = faults.edited("reports/drift/*/drift.json", lambda r: r.clear())
    with pytest.raises(NotPossibleError, match=r"no reports/drift"), change(site(tmp_path)):
        pass
