"""A separate project folder for a stack in a test: the code of this checkout, parameters for few transactions."""

from pathlib import Path
from typing import Any, Final

import yaml

from fraud.embedded import services
from fraud.embedded.stack import Stack
from fraud.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
# A split for a short simulation with a high fraud rate, and gates that its holdout can pass.
PARAMS: Final = {
    "split": {"train_days": 16, "gap_days": 7, "validation_days": 5, "holdout_days": 5},
    "costs": {"alerts_per_1000": 20},
    "training": {"bootstrap": 50, "mlp": {"max_epochs": 1}, "boosting": {"max_iter": 40}},
    "gates": {"min_holdout_rows": 200, "max_calibration_error": 0.1, "max_latency_us": 50_000,
              "max_calibration_ratio": 5.0},
    "drift": {"psi_threshold": 0.022},  # some 3,000 rows a week: without drift up to 0.01
}  # fmt: skip
_FOLDERS: Final = (
    "dags", "docs", "plugins", "feature_repo", "services", "infra", "src", ".venv", "requirements", "mappings",
)  # fmt: skip


def small_project(folder: Path) -> Path:
    """Create a project folder with links to this checkout's files."""
    folder.mkdir()
    for name in (*_FOLDERS, "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    params = _merged(PARAMS, yaml.safe_load((ROOT / "params.yaml").read_text()))
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def start_serving(project: Path, home: Path) -> None:
    """Start serving on a stack whose store and registry run. It waits half a second for the store.

    With its default of 20 ms, answers would be degraded on a machine that does other work.
    """
    stack = Stack.open(Settings(home=home, project=project))
    serving = next(service for service in services.all_services(stack) if service.name == "serving")
    services.restart(stack, serving, {"SERVING_STORE_DEADLINE_MS": "500"})


def _merged(over: dict[str, Any], under: dict[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        under[key] = _merged(value, under[key]) if isinstance(value, dict) else value
    return under
