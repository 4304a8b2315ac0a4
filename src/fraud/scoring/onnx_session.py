"""A model's ONNX bytes as a function from vectors to probabilities."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class OnnxModel:
    """One ONNX Runtime session: one input float32[n, d], output `fraud_probability` float32[n].

    One thread: parallelism is over tasks, and a second thread would fight the neighbour's core.
    """

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        read = self._session.get_inputs()[0]
        self._input, self.columns = read.name, int(read.shape[1])

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n] in [0, 1] for a sound model; whoever publishes them checks."""
        if not len(vectors):
            return np.empty(0, np.float32)
        answer: NDArray[np.float32] = self._session.run(["fraud_probability"], {self._input: vectors})[0]
        return answer
