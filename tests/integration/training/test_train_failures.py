"""Whatever fails after a version was registered leaves nothing of it behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.training_platform import Platform

from fraud.embedded.servers import mlflow_server
from fraud.lake import reports
from fraud.registry import model_versions
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import STAGING, Promotion
from fraud.registry.training_runs import TrainingRuns
from fraud.training import evaluate, gate_report, model_card, plots, train
from fraud.training.dvc import outputs

STEPS: list[tuple[object, str, int]] = [
    (TrainingRuns, "tag_version", 1), (TrainingRuns, "artifacts", 1), (TrainingRuns, "artifacts", 2),
    (model_versions, "fetch", 1), (evaluate, "_opponent", 1), (evaluate, "_measure", 1), (plots, "of_models", 1),
    (plots, "importance", 1), (gate_report, "page", 1), (TrainingRuns, "put_text", 1), (TrainingRuns, "put_text", 2),
    (model_card, "card", 1), (TrainingRuns, "put_text", 3), (reports, "write", 1), (TrainingRuns, "record", 1),
    (TrainingRuns, "tag_version", 2), (TrainingRuns, "stage", 1), (Promotion, "repair", 1), (TrainingRuns, "url", 1),
    (outputs, "write_model", 1),
]  # fmt: skip
"""What happens after the registration, in order: who does it, its name, and which of its calls."""


class InjectedError(Exception):
    """What no code of ours foresees."""


def failing(original: Callable[..., Any], nth: int) -> Callable[..., Any]:
    calls = iter(range(1, nth + 1))

    def call(*arguments: object, **named: object) -> object:
        if next(calls, 0) == nth:
            raise InjectedError
        return original(*arguments, **named)

    return call


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with mlflow_server.running(tmp_path_factory.mktemp("mlflow")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.client_environment().items():
            patch.setenv(name, value)
        yield Platform(server, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def candidate(platform: Platform) -> str:
    """A version that `staging` names."""
    return platform.train().version


@pytest.fixture(scope="module")
def trained(platform: Platform, candidate: str) -> tuple[str, dict[str, str]]:
    """A second run with everything that a version needs, and the version's tags before its evaluation."""
    made = platform.train(force=True)
    tags = dict(platform.client.get_model_version(MODEL_NAME, made.version).tags)
    platform.client.delete_model_version(MODEL_NAME, made.version)
    platform.client.set_registered_model_alias(MODEL_NAME, STAGING, candidate)
    reports.remove(f"{platform.settings.reports_uri}/training/{made.run_id}")
    return made.run_id, {name: value for name, value in tags.items() if name not in ("champion", "failed_gates")}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[1].strip('_')}-{step[2]}")
def test_a_failure_after_the_registration_leaves_nothing(
    platform: Platform, candidate: str, trained: tuple[str, dict[str, str]], step: tuple[object, str, int],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    run_id, tags = trained
    platform.client.set_terminated(run_id, "FINISHED")
    platform.client.set_tag(run_id, "gates", evaluate.PENDING)
    before = dict(platform.client.get_model_version(MODEL_NAME, candidate).tags)

    def registered(*_arguments: object) -> object:
        version = TrainingRuns(platform.settings).register(run_id, tags | {"gates": evaluate.PENDING})
        owner, name, nth = step
        monkeypatch.setattr(owner, name, failing(getattr(owner, name), nth))
        return version

    monkeypatch.setattr(train, "_train", registered)
    with pytest.raises(InjectedError):
        train.run(train.Config(force=True, out=tmp_path / "out"), platform.context())

    versions = platform.client.search_model_versions(f"name='{MODEL_NAME}'")
    assert [(str(version.version), dict(version.tags)) for version in versions] == [(candidate, before)]
    assert platform.client.get_registered_model(MODEL_NAME).aliases == {STAGING: candidate}
    run = platform.client.get_run(run_id)
    assert (run.info.status, run.data.tags.get("gates")) == ("FAILED", None)
    assert not (platform.home / "reports/training" / run_id).exists()


def test_the_same_inputs_make_the_version_when_the_fault_is_gone(
    platform: Platform, candidate: str, trained: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(evaluate, "_measure", failing(evaluate._measure, 1))
        with pytest.raises(InjectedError):
            platform.train(force=True)
    made = platform.train(force=True)
    assert (made.gates_passed, platform.alias(STAGING), platform.versions()) == (True, made.version, 2)
    assert made.version != candidate
