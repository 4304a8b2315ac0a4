"""Score vectors with the exported model: one JSON object {input: number} per line of standard input.

Needs onnxruntime and numpy. The inputs are listed in version.json.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(__file__).resolve().parent
for name, entry in json.loads((folder / "manifest.json").read_text())["files"].items():
    if sha256((folder / name).read_bytes()).hexdigest() != entry["sha256"]:
        sys.exit(f"{name} differs from the exported file")
version = json.loads((folder / "version.json").read_text())

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # with several threads, the sum over the trees may be rounded differently
session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
golden = version["golden"]
found = session.run(None, {"features": np.array(golden["vectors"], np.float32)})[0]
if not np.allclose(found, golden["probabilities"], rtol=0, atol=1e-5):
    sys.exit("this device does not compute the probabilities of the golden rows")

for line in sys.stdin:
    given = json.loads(line)
    vector = np.array([[given[name] for name in version["inputs"]]], np.float32)
    probability = float(session.run(None, {"features": vector})[0][0])
    answer = {"fraud_probability": probability, "is_fraud": probability >= version["threshold"]}
    sys.stdout.write(json.dumps({**answer, "model_version": version["model_version"]}) + "\n")
