"""Serving whose counting per answer is switched off and on by SIGUSR1, to measure its cost in one process.

Two processes of the same code differ by some percent of CPU, because of their memory layout. Runs in the serving
environment.
"""

import signal

from fraud_serving.__main__ import main
from fraud_serving.metrics import Metrics
from fraud_serving.scoring.scorer import Scorer


def _nothing(*_: object) -> None:
    """Replaces counting."""


def _install() -> None:
    counting = [(Metrics, "observe", Metrics.observe), (Scorer, "_count_input", Scorer._count_input)]
    is_on = True

    def toggle(*_: object) -> None:
        nonlocal is_on
        is_on = not is_on
        for owner, name, function in counting:
            setattr(owner, name, function if is_on else _nothing)

    signal.signal(signal.SIGUSR1, toggle)


if __name__ == "__main__":
    _install()
    main()
