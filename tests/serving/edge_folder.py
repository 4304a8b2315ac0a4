"""A web export of a test version, for the tests of the browser scorer: what `fraud export --target web` writes."""

import json
import shutil
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import edge_node
import numpy as np
import onnxruntime
from edge_server import NOW_US, Server

from fraud.core.declaration import parse
from fraud.core.plan import Plan


def write(folder: Path, version: str, model: bytes, serving: bytes) -> None:
    """Write the export of a version with these bytes. `folder` must not exist."""
    shutil.copytree(edge_node.ROOT / "edge/dist/web", folder)
    (folder / "model.onnx").write_bytes(model)
    (folder / "serving.json").write_bytes(serving)
    facts = json.loads(serving)
    hashes = {"model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(serving).hexdigest()}
    identity = {"format": 1, "model_version": version, "feature_hash": facts["feature_hash"], "daily_default": {}}
    (folder / "version.json").write_text(json.dumps(identity | hashes))
    rows = golden_rows(model, facts)
    (folder / "golden.json").write_text(json.dumps({"format": 1, "tolerance": 0.0, "now_us": NOW_US, "rows": rows}))
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files as they are."""
    files = {
        path.name: {"sha256": sha256(data := path.read_bytes()).hexdigest(), "bytes": len(data)}
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def payments() -> list[dict[str, Any]]:
    """A user's payments in the order in which they come in, one of them late, and a short request."""
    sent = [
        {
            "transaction_id": f"g-{i}", "user_id": "g-user", "merchant_id": f"g-m{i % 3}", "amount": 10.03125 * (i + 1),
            "event_timestamp": f"2026-01-{1 + (5 * i) % 11:02d}T10:00:0{i}Z",
        }
        for i in range(9)
    ]  # fmt: skip
    return [*sent, {"amount": 4999.99, "hour_of_day": 3, "day_of_week": 2, "transaction_velocity": 12.0}]


def golden_rows(model: bytes, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of golden.json: `payments`, each with those before it as history."""
    plan = Plan(parse(facts["declaration"], learnt=True))
    server, session = Server(plan), onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rows, sent = [], payments()
    for i, payment in enumerate(sent):
        answer = server.answer(payment, {})
        base = struct.unpack(f"<{len(plan.vector.inputs)}d", bytes.fromhex(answer["base"]))
        vector = np.frombuffer(bytes.fromhex(answer["vector"]), "<f4")
        probability = float(session.run(None, {"features": vector[None]})[0][0])
        rows.append({
            "transaction": payment, "history": [p for p in sent[:i] if "transaction_id" in p], "daily": None,
            "features": {of.name: None if np.isnan(v) else v for of, v in zip(plan.vector.inputs, base, strict=True)},
            "vector": vector.astype(np.float64).tolist(), "probability": probability,
            "is_fraud": probability >= facts["threshold"],
        })  # fmt: skip
    return rows
