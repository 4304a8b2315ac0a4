"""Copy a training's figures to Weights & Biases. Off unless FRAUD_WANDB_PROJECT is set.

MLflow remains the record: nothing is read from Weights & Biases, and no model or data is sent. Without an API key the
runs are written to `<home>/wandb`; `wandb sync` uploads them.
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
    """Receiver of a training's figures in addition to MLflow."""

    def progress(self, level: str, facts: Mapping[str, object]) -> None:
        """Record the figures of one epoch or round; `facts` contains its `step`."""

    def final(self, figures: Mapping[str, object]) -> None:
        """Record the final figures."""


class _Disabled:
    """Discards all figures."""

    def progress(self, level: str, facts: Mapping[str, object]) -> None:
        """Do nothing."""

    def final(self, figures: Mapping[str, object]) -> None:
        """Do nothing."""


class _WeightsAndBiases:
    def __init__(self, run: Any) -> None:  # noqa: ANN401 - wandb is untyped here
        self._run = run

    def progress(self, level: str, facts: Mapping[str, object]) -> None:
        # One axis per level, because the step of wandb can only grow.
        self._run.define_metric(f"{level}/*", step_metric=f"{level}/{_STEP}")
        self._run.log({f"{level}/{name}": value for name, value in facts.items()})

    def final(self, figures: Mapping[str, object]) -> None:
        self._run.summary.update(dict(figures))


@contextmanager
def mirrored(
    settings: Settings, name: str, facts: Mapping[str, object], log: structlog.stdlib.BoundLogger
) -> Iterator[Mirror]:
    """A run of the project for the `with` block; it fails when the block raises. Raises UnavailableError."""
    if not settings.wandb_project:
        yield _Disabled()
        return
    import wandb  # noqa: PLC0415 - takes a second to import

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
    log.info("Weights & Biases run created", project=settings.wandb_project, mode=mode, folder=run.dir)
    failed = 1
    try:
        yield _WeightsAndBiases(run)
        failed = 0
    finally:
        run.finish(exit_code=failed)
