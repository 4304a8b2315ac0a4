"""What one swap puts into service: the production version, the challenger, and all that is derived from both.

A state never changes. A request reads the current one once, before it is parsed, and uses no other.
"""

from typing import Final

from msgspec import Struct

from fraud_serving.log.prediction_record import named_values
from fraud_serving.model.model import Model
from fraud_serving.request import RequestType, ValidTransaction, VersionColumns
from fraud_serving.scoring.batch_inputs import BatchInputs
from fraud_serving.scoring.inputs import Inputs
from fraud_serving.scoring.reads import ReadPlan


class State:
    """The loaded versions. Without production version the level 0 rule decides."""

    def __init__(self, production: Model | None = None, challenger: Model | None = None) -> None:
        self.production: Final = production
        self.challenger: Final = challenger
        first, second = (None if model is None else model.plan for model in (production, challenger))
        self.requests: Final = RequestType(first, second)
        self.reads: Final = ReadPlan(first, second, self.requests)
        self.inputs: Final = self._inputs(production, self.requests.production)
        self.batch_inputs: Final = None if self.inputs is None or first is None else BatchInputs(self.inputs, first)
        self.challenger_inputs: Final = self._inputs(challenger, self.requests.challenger)
        self.same_features: Final = (
            first is not None
            and second is not None
            and (first.stored_hash, first.features) == (second.stored_hash, second.features)
        )
        """Whether both versions have the same window and daily features, in the same order."""
        own = self.requests.production.declared
        self._first = len(self.requests.production.names) - len(own)
        others = () if self.requests.challenger is None else self.requests.challenger.declared
        added = [(self._first + i, name) for i, name in enumerate(others) if name not in own]
        self._added = tuple(at for at, _ in added)
        self._columns = named_values((*own, *(name for _, name in added)))
        self.own_columns: Final = self._columns if not added else named_values(own)
        """The type of production's declared columns, created from their values."""

    def _inputs(self, model: Model | None, columns: VersionColumns | None) -> Inputs | None:
        if model is None or columns is None:
            return None
        return Inputs(model.plan, columns, self.reads)

    def columns_of(self, transaction: ValidTransaction) -> Struct:
        """The declared columns of a transaction, of production first; null is None."""
        others = transaction.challenger
        if others is None:
            return self._columns(*transaction.values[self._first :])
        return self._columns(*transaction.values[self._first :], *[others[at] for at in self._added])
