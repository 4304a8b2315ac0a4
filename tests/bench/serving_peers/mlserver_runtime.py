"""MLServer's runtime for the bench's model on ONNX Runtime. Runs in its own environment; MODEL names the file."""

import os

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Fraud(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        vectors = NumpyCodec.decode_input(payload.inputs[0])
        probabilities = self._session.run(None, {"features": vectors})[0].reshape(-1, 1)
        output = NumpyCodec.encode_output("fraud_probability", probabilities)
        return InferenceResponse(model_name=self.name, outputs=[output])
