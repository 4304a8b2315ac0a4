"""A copy of serving without the lines about traces on the path of a request: the baseline of `serving_traces.py`.

Everything else is the code of this checkout, so the difference is that of traces alone. The packages `tracing` and
`stream` stay in the copy; a process that serves over HTTP does not import them then.
"""

import shutil
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGE: Final = "services/serving/src/fraud_serving"
_FIELD: Final = """    traceparent: str | None = None
    \"\"\"W3C trace context of the request or message, with SERVING_TRACES.\"\"\"
"""
_PARTS: Final = """(
            (TracedServerStore, TracedClusterStore, TracedScorer)
            if settings.traces
            else (ServerStore, ClusterStore, Scorer)
        )"""
_APPLICATION: Final = "partial(TracedPredictApp, service.spans) if settings.traces else PredictApp"
_EDITS: Final = {
    "log/prediction_record.py": ((_FIELD, ""),),
    "service.py": (
        (
            "from fraud_serving.tracing.traced_scoring import TracedClusterStore, TracedScorer, TracedServerStore\n",
            "",
        ),
        (_PARTS, "ServerStore, ClusterStore, Scorer"),
    ),
    "http/app.py": (
        ("from fraud_serving.http.traced import TracedPredictApp\n", ""),
        (_APPLICATION, "PredictApp"),
    ),
}
"""File -> texts that occur in it once, each with its replacement."""


def write(folder: Path) -> Path:
    """Write the copy to a new folder, which is then used like a checkout. Raises SystemExit if a line has changed."""
    package = folder / _PACKAGE
    shutil.copytree(ROOT / _PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "src").symlink_to(ROOT / "src")
    for name, edits in _EDITS.items():
        text = (package / name).read_text()
        for old, new in edits:
            if text.count(old) != 1:
                raise SystemExit(f"{_PACKAGE}/{name}: expected once, got {text.count(old)} times: {old.strip()}")
            text = text.replace(old, new)
        (package / name).write_text(text)
    return folder
