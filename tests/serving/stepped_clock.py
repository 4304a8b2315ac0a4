"""Serving, or PROGRAM, with a wall clock that steps: `time.time_ns` is behind by the seconds in the file STEP."""

import os
import time
from importlib import import_module
from pathlib import Path

_real = time.time_ns
_step = Path(os.environ.pop("STEP"))


def _stepped() -> int:
    return _real() - int(float(_step.read_text()) * 1e9)


if __name__ == "__main__":
    time.time_ns = _stepped
    time.time = lambda: _stepped() / 1e9
    import_module(os.environ.pop("PROGRAM", "fraud_serving.__main__")).main()
