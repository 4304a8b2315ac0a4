"""Run a model's ONNX bytes in ONNX Runtime."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class OnnxModel:
    """One ONNX Runtime session: one input float32[n, d], output `fraud_probability` float32[n].

    The session uses one thread, because tasks run in parallel.
    """

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        vector = self._session.get_inputs()[0]
        self._input, self.columns = vector.name, int(vector.shape[1])

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities float32[n] of vectors float32[n, d]. The range is not checked."""
        if not len(vectors):
            return np.empty(0, np.float32)
        answer: NDArray[np.float32] = self._session.run(["fraud_probability"], {self._input: vectors})[0]
        return answer
