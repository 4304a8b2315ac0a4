"""BentoML answering with the bench's model on ONNX Runtime. Runs in its own environment; MODEL names the file."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Fraud:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options)

    @bentoml.api(route="/predict")
    def predict(self, features: list[float]) -> dict[str, float]:
        vector = np.array([features], dtype=np.float32)
        return {"fraud_probability": float(self.session.run(None, {"features": vector})[0][0])}
