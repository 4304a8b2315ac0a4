"""The search: seeded, within its bounds, ended early, and off by default."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fraud.errors import BadConfigError
from fraud.params import Params, Training
from fraud.training.ladder import search
from fraud.training.ladder.levels import LEVELS

PROJECT = Path(__file__).resolve().parents[3]
BOOSTING = LEVELS[2]


def _ladder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ladder_samples", Path(__file__).with_name("test_ladder.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SAMPLES = _ladder()


def training(trials: int, patience: int = 99) -> Training:
    quick: Training = _SAMPLES.QUICK
    search = quick.search.model_copy(update={"trials": trials, "patience": patience})
    return quick.model_copy(update={"search": search})


def found(params: Training) -> list[search.Trial]:
    return list(search.trials(BOOSTING, _SAMPLES.TRAIN, _SAMPLES.LATER, params, lambda *_a, **_f: None))


def test_without_trials_there_are_the_values_of_params_yaml_alone() -> None:
    [only] = found(training(0))
    assert (only.number, only.values, only.training) == (0, {}, training(0))


def test_draws_are_seeded_and_within_their_bounds() -> None:
    once, again = found(training(3)), found(training(3))
    assert [t.values for t in once] == [t.values for t in again]
    assert [t.average_precision for t in once] == [t.average_precision for t in again]
    assert len({tuple(t.values.items()) for t in once}) == 4
    bounds = training(3).search.boosting
    for trial in once[1:]:
        assert trial.values.keys() == bounds.keys()
        assert all(bounds[name][0] <= value <= bounds[name][1] for name, value in trial.values.items())
        assert isinstance(trial.values["max_leaf_nodes"], int)
        assert trial.training.boosting.learning_rate == trial.values["learning_rate"]
        assert trial.fitted.model.learning_rate == trial.values["learning_rate"]  # type: ignore[attr-defined]


def test_it_ends_after_some_draws_that_were_no_better() -> None:
    every = [t.average_precision for t in found(training(6))]
    best, since, expected = -1.0, 0, 0
    for expected, precision in enumerate(every, start=1):  # noqa: B007
        best, since = (precision, 0) if precision > best else (best, since + 1)
        if since == 2:
            break
    assert len(found(training(6, patience=2))) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dropout: [0.0, 0.5]", "dropout: [0.5, 0.0]", "not below"),
        ("dropout: [0.0, 0.5]", "hidden: [1, 2]", "no numeric parameter hidden"),
        ("logistic: {c: [0.01, 10.0]}", "logistic: {d: [0.01, 10.0]}", "no numeric parameter d"),
    ],
)
def test_invalid_bounds_are_a_configuration_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (PROJECT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    with pytest.raises(BadConfigError, match=message):
        Params.load(tmp_path / "params.yaml")
