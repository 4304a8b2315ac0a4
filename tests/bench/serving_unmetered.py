"""Serving without metrics per answer, to measure their cost. Runs in the serving environment."""

from fraud_serving.__main__ import main
from fraud_serving.metrics import Metrics


def _nothing(*_: object) -> None:
    """Replaces an observation."""


if __name__ == "__main__":
    Metrics.observe = _nothing  # type: ignore[method-assign]
    main()
