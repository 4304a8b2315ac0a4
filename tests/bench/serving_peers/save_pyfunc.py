"""Save the bench's model as a pyfunc: save_pyfunc.py MODEL FOLDER. Runs in the ML environment."""

import sys

import mlflow.onnx
import onnx

if __name__ == "__main__":
    requirements = ["onnxruntime"]
    mlflow.onnx.save_model(onnx.load(sys.argv[1]), sys.argv[2], pip_requirements=requirements)
