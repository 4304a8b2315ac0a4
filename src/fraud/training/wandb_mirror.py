"""A copy of a training's figures in Weights & Biases, for teams that look there. Off unless a project is named.

MLflow stays the record: nothing is read back from the mirror, and no model or data is sent to it. Without an API key
the runs are written to `<home>/wandb`, and `wandb sync` sends them later.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, Protocol

import structlog

from fraud.errors import UnavailableError
from fraud.settings import Settings

_STEP: Final = "step"


class Mirror(Protocol):
    """Where a training's figures go besides MLflow."""

    def progress(self, level: str, facts: Mapping[str, object]) -> None:
        """Numbers of one epoch or round, over its `step`."""

    def final(self, figures: Mapping[str, object]) -> None:
        """What came out."""


class _Nowhere:
    """The mirror that is off."""

    def progress(self, level: str, facts: Mapping[str, object]) -> None:
        """Nothing."""

    def final(self, figures: Mapping[str, object]) -> None:
        """Nothing."""


class _WeightsAndBiases:
    def __init__(self, run: Any) -> None:  # noqa: ANN401 - wandb is untyped here
        self._run = run

    def progress(self, level: str, facts: Mapping[str, object]) -> None:
        # Every level has its own axis: wandb's own step only ever grows.
        self._run.define_metric(f"{level}/*", step_metric=f"{level}/{_STEP}")
        self._run.log({f"{level}/{name}": value for name, value in facts.items()})

    def final(self, figures: Mapping[str, object]) -> None:
        self._run.summary.update(dict(figures))


@contextmanager
def mirrored(
    settings: Settings, name: str, facts: Mapping[str, object], log: structlog.stdlib.BoundLogger
) -> Iterator[Mirror]:
    """A run of the project for a `with` block, failed when the block raises. Raises UnavailableError."""
    if not settings.wandb_project:
        yield _Nowhere()
        return
    import wandb  # noqa: PLC0415 - a second, and only where somebody wants it

    mode: Literal["online", "offline"] = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=settings.wandb_project, name=name, config=dict(facts), mode=mode, dir=str(settings.home),
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
            ),
        )  # fmt: skip
    except wandb.Error as error:
        raise UnavailableError(
            "Weights & Biases does not answer", got=str(error), hint="unset FRAUD_WANDB_PROJECT, or WANDB_API_KEY"
        ) from error
    log.info("mirrored to Weights & Biases", project=settings.wandb_project, mode=mode, folder=run.dir)
    failed = 1
    try:
        yield _WeightsAndBiases(run)
        failed = 0
    finally:
        run.finish(exit_code=failed)
