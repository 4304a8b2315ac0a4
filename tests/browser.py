"""What the tests of the browser's runtime and of the web export need."""

from pathlib import Path

import pytest

from fraud.scoring import browser_runtime

ROOT = Path(__file__).resolve().parents[1]

needs_edge = pytest.mark.skipif(
    browser_runtime.node() is None or not (ROOT / browser_runtime.PROGRAM).is_file(),
    reason="the browser's runtime is not compared: Node is not installed or edge/ is not built; install Node, then "
    "run make setup",
)
