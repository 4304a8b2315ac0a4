"""Measurements on a model's ONNX bytes for the gates: parity with the native model, and latency."""

import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.scoring.onnx_session import OnnxModel
from fraud.training.ladder.levels import Fitted

_PROBED_SPLITS: Final = 5_000
_LATENCY_ROWS: Final = 1_000
_LATENCY_REPEATS: Final = 7


def onnx_difference(fitted: Fitted, model: OnnxModel, vectors: NDArray[np.float32]) -> float:
    """Largest difference of probabilities between both models, over the rows and over rows beside every split."""
    probes = beside_splits(fitted, vectors)
    both = vectors if not len(probes) else np.vstack([vectors, probes])
    return float(np.max(np.abs(model.probabilities(both) - fitted.predict(both))))


def beside_splits(fitted: Fitted, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows with one value just below, at and just above a split point, for evenly spaced split points."""
    points = fitted.split_points()
    chosen = points[:: len(points) // _PROBED_SPLITS + 1]
    rows = np.repeat(vectors[np.arange(len(chosen)) % len(vectors)], 3, axis=0)
    for number, (column, threshold) in enumerate(chosen):
        low, high = np.float32(-np.inf), np.float32(np.inf)
        rows[3 * number : 3 * number + 3, column] = (
            np.nextafter(threshold, low),
            threshold,
            np.nextafter(threshold, high),
        )
    return rows


def latency_us(model: OnnxModel, vectors: NDArray[np.float32]) -> float:
    """p99 latency of one row in us: the median over repeats, because other load affects single repeats."""
    rows = [vectors[i % len(vectors)][None] for i in range(_LATENCY_ROWS)]
    repeats = []
    for _ in range(_LATENCY_REPEATS):
        taken = np.empty(len(rows))
        for i, row in enumerate(rows):
            began = time.perf_counter_ns()
            model.probabilities(row)
            taken[i] = time.perf_counter_ns() - began
        repeats.append(float(np.quantile(taken, 0.99)) / 1000)
    return float(np.median(repeats))
