"""The handbook's endpoint: a DataFrame and a pyfunc call per request. Runs in the ML environment."""

import sys

import mlflow.pyfunc
import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = mlflow.pyfunc.load_model(sys.argv[1])
COLUMNS = [f"f{n}" for n in range(27)]


class Payment(BaseModel):
    features: list[float]


@app.post("/predict")
def predict(payment: Payment) -> dict[str, float]:
    frame = pd.DataFrame([payment.features], columns=COLUMNS, dtype="float32")
    return {"fraud_probability": float(model.predict(frame)[0][1])}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="error")
