"""Base classes of jobs. A job is a module with `Config`, `Result` and `run(config, context)`; `fraud <job>` runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import structlog
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict

from fraud.params import Params
from fraud.settings import Settings

if TYPE_CHECKING:
    from fraud.core.declaration import Declaration


def _with_zone(value: object) -> object:
    from fraud.core.contract import ZONED_TIME  # noqa: PLC0415 - `fraud --help` needs no numpy

    if isinstance(value, str) and not ZONED_TIME.fullmatch(value):
        raise ValueError("give a time with its zone, like 2025-03-10T10:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_with_zone)]
"""A time on the command line. A time without a zone, or a number, is ambiguous and is rejected."""


class JobConfig(BaseModel):
    """Parameters of one run. Field names become command-line flags, descriptions become their help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def monitored(self) -> bool:
        """Whether the run of a MONITORED job is recorded for monitoring."""
        return True


class JobResult(BaseModel):
    """Result of a run: printed by `--json`, pushed as XCom by Airflow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_text(self) -> str:
        """Text for a terminal; "" prints the fields by name."""
        return ""

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0, or 1 where the result is the finding that something is wrong."""
        return 0


@dataclass(frozen=True, slots=True)
class Context:
    """What `run` receives besides the config."""

    settings: Settings
    params: Params
    declaration: "Declaration"
    """The declaration of the project's `features.yaml`."""
    log: structlog.stdlib.BoundLogger
    live_declarations: "Callable[[], Sequence[Declaration]]" = tuple
    """Returns the declarations of the model versions with an alias. The command passes it, because the packages of
    features may not import the registry."""
