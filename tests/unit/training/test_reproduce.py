"""`fraud reproduce` copies the version's training set, and compares its declaration with that of the retraining."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import structlog

from fraud import declaration_file
from fraud.core.plan import Plan
from fraud.errors import RefusedError
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.registry import model_versions
from fraud.settings import Settings
from fraud.training import reproduce
from fraud.training.dvc import data_versions

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "tests/declarations/three.yaml").read_text()


def detail(monkeypatch: pytest.MonkeyPatch, project: Path, text: str) -> str:
    """The difference of a project with this features.yaml to a version with three.yaml."""
    recorded = declaration_file.load(ROOT / "tests/declarations/three.yaml")
    monkeypatch.setattr(model_versions, "plan_of", lambda *_arguments: Plan(recorded))
    (project / "feature_repo").mkdir()
    (project / declaration_file.NAME).write_text(text)
    context = Context(
        Settings(home=project, project=project), Params.load(ROOT / "params.yaml"), recorded, structlog.get_logger()
    )
    return reproduce._declaration_detail(SimpleNamespace(version="3", tags={}), project, context)


def test_comments_and_order_of_keys_are_no_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert detail(monkeypatch, tmp_path, "# a comment\n" + TEXT) == ""


def test_computed_features_that_differ_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changed = TEXT.replace("default: amount", "default: 1.0").replace("name: no_history_7d", "name: quiet_7d")
    found = detail(monkeypatch, tmp_path, changed)
    assert found == "changed: avg_amount_7d; removed: no_history_7d; added: quiet_7d"


def test_other_stored_features_are_refused_with_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changed = TEXT.replace("aggregate: count, window: 1h", "aggregate: count, window: 2h")
    with pytest.raises(RefusedError, match="declares other columns or stored features than version 3") as refused:
        detail(monkeypatch, tmp_path, changed)
    assert "changed: transaction_velocity_1h" in refused.value.got


def test_data_is_copied_from_the_lake_else_from_the_dvc_remote(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, project=ROOT)
    declared = declaration_file.load(ROOT / "tests/declarations/three.yaml")
    context = Context(settings, Params.load(ROOT / "params.yaml"), declared, structlog.get_logger())
    sets = catalog.TRAINING_SETS.at(settings.lake_uri)
    table = pa.table({"x": [1, 2, 3]})
    partition = sets.publish("s1", table, {"transactions version": "4"})
    pushed = data_versions.push_partition(settings.dvc_remote, sets, partition)
    tags = {"snapshot": "s1", "data_sha256": partition.content_sha256, "dvc_data_md5": pushed.md5}
    version = SimpleNamespace(version="3", tags=tags)

    def copied(name: str) -> str:
        source = reproduce._copy_data(version, tmp_path / name, context)
        copy = catalog.TRAINING_SETS.at(f"file://{tmp_path}/{name}")
        assert copy.partition("s1") == partition  # table versions included
        assert copy.read("s1").equals(table)
        return source

    assert copied("first") == "lake"
    shutil.rmtree(tmp_path / "lake/training_sets/snapshot=s1")  # the table names objects that are gone
    assert copied("second") == "DVC remote"
    sets.drop(["s1"])
    assert copied("third") == "DVC remote"
    tags.pop("dvc_data_md5")
    with pytest.raises(RefusedError, match="the data of version 3 no longer exists"):
        reproduce._copy_data(version, tmp_path / "fourth", context)
