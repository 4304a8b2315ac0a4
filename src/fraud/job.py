"""One module per job: a frozen typed config in, a typed result out. `fraud <job>` runs any of them."""

from dataclasses import dataclass
from typing import Annotated

import structlog
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict

from fraud.params import Params
from fraud.settings import Settings


def _with_zone(value: object) -> object:
    from fraud.core.contract import ZONED_TIME  # noqa: PLC0415 - `fraud --help` needs no numpy

    if isinstance(value, str) and not ZONED_TIME.fullmatch(value):
        raise ValueError("give a time with its zone, like 2025-03-10T10:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_with_zone)]
"""A time on the command line. One without a zone, or a number, could mean several moments."""


class JobConfig(BaseModel):
    """What one run of a job is asked to do. Field names become command-line flags, descriptions their help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def monitored(self) -> bool:
        """Whether this run of a WATCHED job is one that monitoring should judge the job by."""
        return True


class JobResult(BaseModel):
    """What a run did, as data: printed by `--json`, passed on as XCom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_text(self) -> str:
        """What a terminal shows; "" leaves it at the values by name."""
        return ""


@dataclass(frozen=True, slots=True)
class Context:
    """What every job is given besides its config."""

    settings: Settings
    params: Params
    log: structlog.stdlib.BoundLogger
