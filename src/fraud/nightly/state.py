"""What is recorded between two runs of `fraud nightly`: one JSON file, replaced as a whole after each step."""

import datetime as dt
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraud.errors import BadInputError
from fraud.nightly.chains import CHAINS, Chain

_WEEKDAYS: Final = {"Saturday": 5, "Sunday": 6}


class State(BaseModel):
    """The night in progress, or the last one, and what is left to do."""

    model_config = ConfigDict(extra="forbid")

    night: dt.date | None = None
    due: list[str] = Field(default_factory=list)
    """Scheduled chains that did not succeed yet."""
    updated: dict[str, list[str]] = Field(default_factory=dict)
    """Chain -> assets that were updated since it last succeeded."""
    unfinished: list[str] = Field(default_factory=list)
    """Steps that were started and did not succeed. They may have done their work without emitting their asset."""
    weekly: dict[str, dt.date] = Field(default_factory=dict)
    """Weekly chain -> the night of its last success."""
    causes: list[str] = Field(default_factory=list)
    """Of the request for retraining that no training has followed yet."""
    requested_at: dt.datetime | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The recorded state; an empty one without a file. Raises BadInputError for a file that is not one."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise BadInputError(
                f"{path} is not the state of the nightly run", got=str(error), hint="remove it"
            ) from error

    def write(self, path: Path) -> None:
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(self.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def begin(self, night: dt.date, chains: Iterable[Chain]) -> None:
        """Make the scheduled chains of the night due. A weekly one that was missed is due once."""
        self.night = night
        for chain in chains:
            if chain.schedule and self._is_due(chain, night) and chain.dag not in self.due:
                self.due.append(chain.dag)

    def _is_due(self, chain: Chain, night: dt.date) -> bool:
        if chain.schedule == "night":
            return True
        latest = night - dt.timedelta(days=(night.weekday() - _WEEKDAYS[chain.schedule]) % 7)
        last = self.weekly.get(chain.dag)
        return latest == night if last is None else last < latest

    def is_pending(self, chain: Chain) -> bool:
        return chain.dag in self.due or chain.is_started_by(set(self.updated.get(chain.dag, ())))

    def emit(self, asset: str) -> None:
        """Record an update of an asset for every chain that it may start."""
        for chain in CHAINS:
            if any(asset in assets for assets in chain.started_by):
                found = self.updated.setdefault(chain.dag, [])
                if asset not in found:
                    found.append(asset)

    def succeeded(self, chain: Chain) -> None:
        """The chain has nothing left to do until it is started again."""
        self.updated.pop(chain.dag, None)
        if chain.dag in self.due:
            self.due.remove(chain.dag)
        if chain.schedule in _WEEKDAYS and self.night:
            self.weekly[chain.dag] = self.night
