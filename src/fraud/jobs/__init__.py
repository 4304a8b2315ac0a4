"""One module per job: a frozen typed config in, a typed result out. `fraud <job>` runs any of them."""

from dataclasses import dataclass

import structlog
from pydantic import BaseModel, ConfigDict

from fraud.params import Params
from fraud.settings import Settings


class JobConfig(BaseModel):
    """What one run of a job is asked to do. Field names become command-line flags, descriptions their help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def watched(self) -> bool:
        """Whether this run of a WATCHED job is one that monitoring should judge the job by."""
        return True


class JobResult(BaseModel):
    """What a run did, as data: printed by `--json`, passed on as XCom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def for_people(self) -> str:
        """What a terminal shows; "" leaves it at the values by name."""
        return ""


@dataclass(frozen=True, slots=True)
class Context:
    """What every job is given besides its config."""

    settings: Settings
    params: Params
    log: structlog.stdlib.BoundLogger
