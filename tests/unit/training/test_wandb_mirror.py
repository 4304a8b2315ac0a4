"""The Weights & Biases mirror: off unless a project is named, offline without a key, failed when the training is."""

import time
from pathlib import Path

import pytest
import structlog

from fraud.settings import Settings
from fraud.training.wandb_mirror import mirrored

LOG = structlog.get_logger()


def settings(home: Path, project: str) -> Settings:
    return Settings(home=home, wandb_project=project)


def test_it_is_off_unless_a_project_is_named(tmp_path: Path) -> None:
    with mirrored(settings(tmp_path, ""), "a run", {}, LOG) as mirror:
        mirror.progress("3-mlp", {"step": 1, "validation_loss": 0.5})
        mirror.final({"level": "3-mlp"})
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_the_run_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # a closed port: any request would fail
    with mirrored(settings(tmp_path, "fraud"), "a run", {"seed": 7}, LOG) as mirror:
        for step, loss in enumerate((0.5, 0.25)):
            mirror.progress("2-boosting", {"step": step, "validation_loss": loss})
            mirror.progress("3-mlp", {"step": step, "validation_loss": loss})
        mirror.final({"level": "3-mlp"})
    deadline = time.monotonic() + 60  # the writer is a process of its own
    names = (b"2-boosting/validation_loss", b"3-mlp/validation_loss")
    while not all(name in b"".join(runs := written(tmp_path)) for name in names):
        assert time.monotonic() < deadline, runs
        time.sleep(0.05)
    assert len(runs) == 1


def written(folder: Path) -> list[bytes]:
    return [run.read_bytes() for run in (folder / "wandb").glob("offline-run-*/*.wandb")]
