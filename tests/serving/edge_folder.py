"""A web export of a test version, for the tests of the browser scorer: what `fraud export --target web` writes."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import edge_node

from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.export.folder import write_manifest
from fraud.export.golden_rows import golden_json
from fraud.export.payments import Row, rows


def write(folder: Path, version: str, model: bytes, serving: bytes) -> None:
    """Write the export of a version with these bytes. `folder` must not exist.

    The last golden row is the last of `payments` with those before it as history.
    """
    shutil.copytree(edge_node.ROOT / "edge/dist/web", folder)
    (folder / "model.onnx").write_bytes(model)
    (folder / "serving.json").write_bytes(serving)
    facts = json.loads(serving)
    hashes = {"model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(serving).hexdigest()}
    identity = {"format": 1, "model_version": version, "feature_hash": facts["feature_hash"], "daily_default": {}}
    (folder / "version.json").write_text(json.dumps(identity | hashes))
    plan = Plan(parse(facts["declaration"], learnt=True))
    *earlier, last = payments()
    golden = golden_json(plan, model, facts["threshold"], [*rows(plan), Row(last, earlier, None)], {}, 0.0)
    (folder / "golden.json").write_bytes(golden)
    write_manifest(folder)


def payments() -> list[dict[str, Any]]:
    """Nine payments of a user in the order of their arrival, not in that of their times."""
    return [
        {
            "transaction_id": f"g-{i}", "user_id": "g-user", "merchant_id": f"g-m{i % 3}", "amount": 10.03125 * (i + 1),
            "event_timestamp": f"2025-06-{1 + (5 * i) % 9:02d}T10:00:0{i}Z",
        }
        for i in range(9)
    ]  # fmt: skip
