"""The baseline: FastAPI and pydantic validate a request and return a constant. Runs in the serving environment."""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Payment(BaseModel):
    transaction_id: str
    user_id: str
    merchant_id: str
    event_timestamp: str
    amount: float
    merchant_category: str
    distance_from_home: float


class Decision(BaseModel):
    is_fraud: bool
    fraud_probability: float
    model_version: str


@app.post("/predict")
async def predict(payment: Payment) -> Decision:
    return Decision(is_fraud=False, fraud_probability=0.01, model_version="1")


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False,
        log_level="error",
    )  # fmt: skip
