"""Each level: its graph equals the native model, also next to every split, and its bytes depend on the inputs alone."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from tests.browser import needs_edge

from fraud import declaration_file
from fraud.core.plan import Plan
from fraud.params import Params
from fraud.scoring.browser_runtime import BrowserParity, browser_parity
from fraud.stats.metrics import Ranked
from fraud.training.ladder.bins import floor32
from fraud.training.ladder.levels import LEVELS, Fitted, Inputs, Level, Sample

PROJECT = Path(__file__).resolve().parents[3]
PLAN = Plan(declaration_file.load(PROJECT / "tests/declarations/three.yaml"))
NAMES = PLAN.vector.names
INPUTS = Inputs.of(PLAN.declaration, NAMES)
CATEGORY_OFFSET = NAMES.index("category_electronics")
PARAMS = Params.load(PROJECT / "params.yaml").training
QUICK = PARAMS.model_copy(
    update={
        "boosting": PARAMS.boosting.model_copy(update={"max_iter": 40}),
        "mlp": PARAMS.mlp.model_copy(update={"max_epochs": 4, "batch_size": 128}),
    }
)


def sample(n: int, seed: int) -> Sample:
    """Vectors with long tails, and fraud where amounts are high for the user, at night, far away."""
    random = np.random.default_rng(seed)
    vectors = np.zeros((n, len(NAMES)), dtype=np.float32)
    amount = np.exp(random.normal(3.5, 1.2, n))
    average = np.exp(random.normal(3.5, 0.6, n))
    hour = random.integers(0, 24, n)
    distance = random.exponential(30, n)
    missing = random.random(n) < 0.15
    columns = {
        "amount": amount, "hour_of_day": hour, "day_of_week": random.integers(0, 7, n),
        "distance_from_home": np.where(missing, 0, distance), "distance_missing": missing,
        "transaction_velocity_1h": random.poisson(0.3, n), "avg_amount_7d": average,
        "unique_merchants_30d": random.poisson(9, n), "amount_to_avg_7d": amount / average,
    }  # fmt: skip
    for name, values in columns.items():
        vectors[:, NAMES.index(name)] = values
    vectors[np.arange(n), CATEGORY_OFFSET + random.integers(0, 17, n)] = 1.0
    logit = -5.5 + 1.1 * np.log(amount / average) + 1.6 * ((hour < 5) & (amount > 60)) + 0.02 * distance * ~missing
    return Sample(vectors, random.random(n) < 1 / (1 + np.exp(-logit)), INPUTS)


TRAIN, LATER = sample(8000, 1), sample(3000, 2)


@pytest.fixture(scope="module", params=LEVELS, ids=str)
def level(request: pytest.FixtureRequest) -> Level:
    found: Level = request.param
    return found


@pytest.fixture(scope="module")
def fitted(level: Level) -> Fitted:
    return level.fit(TRAIN, LATER, QUICK, lambda *_args, **_facts: None)


def answers(model: bytes, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["fraud_probability"], {"features": vectors})[0]
    return found


def beside(fitted: Fitted, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each split point a row just below, on and just above it."""
    rows = []
    for number, (column, threshold) in enumerate(fitted.split_points()):
        for value in (np.nextafter(threshold, np.float32(-1e9)), threshold, np.nextafter(threshold, np.float32(1e9))):
            row = vectors[number % len(vectors)].copy()
            row[column] = value
            rows.append(row)
    return np.array(rows, dtype=np.float32).reshape(-1, vectors.shape[1])


def test_the_graph_is_the_native_model_beside_every_split_too(fitted: Fitted) -> None:
    vectors = np.vstack([LATER.vectors, beside(fitted, LATER.vectors)])
    got = answers(fitted.to_onnx(), vectors)
    assert (got.dtype, got.shape) == (np.float32, (len(vectors),))
    assert np.max(np.abs(got - fitted.predict(vectors))) <= 2e-6


def test_one_row_answers_as_it_does_among_many(fitted: Fitted) -> None:
    model = fitted.to_onnx()
    together = answers(model, LATER.vectors[:50])
    alone = np.concatenate([answers(model, LATER.vectors[i : i + 1]) for i in range(50)])
    assert together.tobytes() == alone.tobytes()


@needs_edge
def test_the_runtime_of_browsers_gives_the_same_bits_beside_every_split_too(fitted: Fitted) -> None:
    vectors = np.vstack([LATER.vectors, TRAIN.vectors, beside(fitted, LATER.vectors)])
    assert browser_parity(PROJECT, fitted.to_onnx(), vectors) == BrowserParity(len(vectors), 0, 0.0)


def test_extreme_vectors_still_get_a_probability(fitted: Fitted) -> None:
    vectors = np.tile(LATER.vectors[:1], (4, 1))
    for row, (amount, average) in enumerate([(1e9, 1e-4), (1e-4, 1e9), (1e9, 1e9), (1e-4, 1e-4)]):
        vectors[row, NAMES.index("amount")] = amount
        vectors[row, NAMES.index("avg_amount_7d")] = average
        vectors[row, NAMES.index("amount_to_avg_7d")] = amount / average
    got = answers(fitted.to_onnx(), vectors)
    assert np.all((got >= 0) & (got <= 1))
    assert np.max(np.abs(got - fitted.predict(vectors))) <= 2e-6


def test_the_interface_is_the_agreed_one_and_names_no_place(fitted: Fitted) -> None:
    data = fitted.to_onnx()
    model = onnx.load_model_from_string(data)
    [given], [answer] = model.graph.input, model.graph.output
    assert (given.name, given.type.tensor_type.shape.dim[1].dim_value) == ("features", len(NAMES))
    assert (answer.name, len(answer.type.tensor_type.shape.dim)) == ("fraud_probability", 1)
    assert (model.producer_name, model.producer_version, model.doc_string) == ("", "", "")
    assert str(PROJECT).encode() not in data


def test_every_level_ranks_better_than_chance(level: Level, fitted: Fitted) -> None:
    precision = Ranked(fitted.predict(LATER.vectors), LATER.is_fraud).average_precision()
    assert precision > (1.2 if level.number == 0 else 3) * LATER.is_fraud.mean()
    assert abs(fitted.predict(LATER.vectors).mean() / LATER.is_fraud.mean() - 1) < 0.25


_SCRIPT = """
import hashlib, pathlib, sys
sys.path[:0] = [sys.argv[1], str(pathlib.Path(sys.argv[1]).parents[2])]
from test_ladder import LATER, LEVELS, PARAMS, QUICK, TRAIN, sample
train, params = (sample(60_000, 4), PARAMS) if sys.argv[2] == "large" else (TRAIN, QUICK)
for level in LEVELS:
    first = level.fit(train, LATER, params, lambda *a, **k: None)
    again = level.refit(LATER, first, params, lambda *a, **k: None)
    print(level, *(hashlib.sha256(f.to_onnx()).hexdigest() for f in (first, again)))
"""


def test_bytes_do_not_depend_on_process_folder_threads_or_hash_seed(
    level: Level, fitted: Fitted, other_processes: list[dict[str, list[str]]]
) -> None:
    again = level.refit(LATER, fitted, QUICK, lambda *_args, **_facts: None)
    here = [hashlib.sha256(f.to_onnx()).hexdigest() for f in (fitted, again)]
    assert [found[str(level)] for found in other_processes] == [here, here]


@pytest.fixture(scope="module")
def other_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    return elsewhere(tmp_path_factory, "small")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nor_do_those_of_a_large_training_with_the_parameters_as_they_are(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    one, other = elsewhere(tmp_path_factory, "large")
    assert one == other
    assert len(one) == len(LEVELS)


def elsewhere(folders: pytest.TempPathFactory, size: str) -> list[dict[str, list[str]]]:
    """sha256 of the fit and the refit by level from two processes: other folder, 1 and 2 threads, other hash seeds."""
    found = []
    for threads, hash_seed in (("1", "11"), ("2", "12")):
        job_environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(Path(__file__).parent), size],
            env=os.environ | job_environment, cwd=folders.mktemp("elsewhere"),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append({level: hashes for level, *hashes in map(str.split, done.stdout.splitlines())})
    return found


def test_a_refit_keeps_the_rounds_that_were_best_at_first(level: Level, fitted: Fitted) -> None:
    again = level.refit(TRAIN, fitted, QUICK, lambda *_args, **_facts: None)
    for rounds in ("trees", "kept_epoch", "epochs"):
        assert again.facts().get(rounds) == fitted.facts().get(rounds)
    differ = hashlib.sha256(again.to_onnx()).digest() != hashlib.sha256(fitted.to_onnx()).digest()
    # Level 3's first fit ends after the kept epoch and goes back to it; on the same rows the bytes are the same.
    assert not differ or level.name == "boosting"
    assert np.max(np.abs(again.predict(LATER.vectors) - fitted.predict(LATER.vectors))) < 1e-6


def test_fitted_beside_another_level_a_level_keeps_its_bytes(level: Level, fitted: Fitted) -> None:
    with ThreadPoolExecutor(2) as pool:
        beside_another = [pool.submit(one.fit, TRAIN, LATER, QUICK, lambda *_a, **_f: None) for one in LEVELS]
        got = beside_another[level.number].result().to_onnx()
    assert hashlib.sha256(got).digest() == hashlib.sha256(fitted.to_onnx()).digest()


def test_a_threshold_is_rounded_down_to_what_a_float32_can_be_below_it() -> None:
    below = np.float32(1000.0001)
    above = np.nextafter(below, np.float32(np.inf))
    middle = (float(below) + float(above)) / 2
    assert floor32(np.array([middle, float(below), float(above), -middle])).tolist() == [below, below, above, -above]


@pytest.mark.parametrize(
    ("changes", "used"),
    [({"amount": None}, (0.0, 1.0)), ({"hour": None}, (1.0, 0.0)), ({"amount": None, "hour": None}, (0.0, 0.0))],
    ids=["hour alone", "amount alone", "neither"],
)
def test_level_0_uses_what_there_is_of_amount_and_hour(changes: dict[str, None], used: tuple[float, float]) -> None:
    train = TRAIN._replace(inputs=INPUTS._replace(**changes))
    fitted = LEVELS[0].fit(train, LATER, QUICK, lambda *_args, **_facts: None)
    facts = fitted.facts()
    assert (facts["uses_amount"], facts["uses_hour"]) == used
    got = answers(fitted.to_onnx(), LATER.vectors)
    assert np.max(np.abs(got - fitted.predict(LATER.vectors))) <= 2e-6
    assert got.mean() == pytest.approx(TRAIN.is_fraud.mean(), rel=0.2)
    if used == (0.0, 0.0):
        assert np.unique(got).size == 1
    else:
        kept = {INPUTS.amount if used[0] else INPUTS.hour}
        scrambled = LATER.vectors.copy()
        for column in set(range(len(NAMES))) - kept:
            scrambled[:, column] = scrambled[::-1, column]
        assert answers(fitted.to_onnx(), scrambled).tolist() == got.tolist()
