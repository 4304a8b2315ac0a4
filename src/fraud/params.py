"""params.yaml as a frozen typed model. A wrong key raises BadConfigError with the file and the key."""

from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fraud.errors import BadConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Section):
    """Labels."""

    maturity_days: int = Field(gt=0, description="a transaction without a fraud label this old counts as legitimate")


class Split(_Section):
    """Split by time, with gaps: train | gap | validation | gap | holdout."""

    train_days: int = Field(gt=0)
    gap_days: int = Field(
        ge=0, description="label delay between the parts, so that no label of one part is received in the next"
    )
    validation_days: int = Field(gt=0)
    holdout_days: int = Field(gt=0)
    holdout_from: date | None = Field(
        default=None, description="first day of the holdout, UTC; null: the last holdout_days of the data"
    )


class Rule(_Section):
    """Level 0: an amount above a bound between two hours. Both are tuned on the training part."""

    amounts: tuple[float, ...]
    hours: tuple[tuple[int, int], ...]


class Logistic(_Section):
    c: float = Field(gt=0)
    max_iter: int = Field(gt=0)


class Boosting(_Section):
    learning_rate: float = Field(gt=0)
    max_iter: int = Field(gt=0)
    max_leaf_nodes: int = Field(gt=1)
    min_samples_leaf: int = Field(gt=0)
    l2_regularization: float = Field(ge=0)
    max_features: float = Field(gt=0, le=1, description="share of the columns that each split considers")
    early_stopping_rounds: int = Field(gt=0)


class Mlp(_Section):
    hidden: tuple[int, ...]
    dropout: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    batch_size: int = Field(gt=0)
    max_epochs: int = Field(gt=0)
    patience: int = Field(gt=0)


class Search(_Section):
    """Random search of hyper-parameters between bounds, level by level. Off if `trials` is 0."""

    trials: int = Field(
        ge=0, le=500, description="draws per level, in addition to the values of params.yaml; 0: no search"
    )
    patience: int = Field(gt=0, description="consecutive draws without improvement that end the search of a level")
    logistic: dict[str, tuple[float, float]]
    boosting: dict[str, tuple[float, float]]
    mlp: dict[str, tuple[float, float]]

    @model_validator(mode="after")
    def _bounds_of_numeric_parameters(self) -> Self:
        """Each bound is of a numeric parameter of its level, with low < high."""
        for name, section in (("logistic", Logistic), ("boosting", Boosting), ("mlp", Mlp)):
            for key, (low, high) in getattr(self, name).items():
                field = section.model_fields.get(key)
                if field is None or field.annotation not in (int, float):
                    raise ValueError(f"{name} has no numeric parameter {key}")
                if not low < high:
                    raise ValueError(f"{name}.{key}: {low} is not below {high}")
        return self


class Training(_Section):
    seed: int
    threads: int = Field(gt=0, description="levels fitted in parallel, each on one thread")
    margin: float = Field(
        ge=0, description="least gain in average precision of a higher level; its interval must also lie above 0"
    )
    bootstrap: int = Field(gt=0, description="bootstrap resamples of every interval")
    refit: bool = Field(default=True, description="fit again on all rows before the holdout's gap")
    rule: Rule
    logistic: Logistic
    boosting: Boosting
    mlp: Mlp
    search: Search


class Costs(_Section):
    """Costs of decisions in USD."""

    alerts_per_1000: float = Field(gt=0, description="alert capacity: transactions of 1,000 that analysts can review")
    review: float = Field(ge=0, description="cost of the review of one alert")
    chargeback_fee: float = Field(ge=0, description="cost of a missed fraud in addition to its amount")
    friction: float = Field(ge=0, description="cost of stopping one legitimate payment")


class Gates(_Section):
    """Bounds of the gates. docs/gates.md gives the reason for each."""

    min_holdout_rows: int
    min_holdout_frauds: int
    min_average_precision_lift: float = Field(
        description="lower end of the interval of average precision, as a multiple of the holdout's fraud rate"
    )
    min_auc: float = Field(ge=0.5, lt=1, description="lower end of the interval of the AUC")
    max_calibration_error: float
    max_calibration_ratio: float = Field(ge=1, description="expected over observed frauds, or its inverse")
    max_slice_loss: float = Field(description="recall at capacity that a slice may lose compared with Production")
    min_slice_frauds: int
    max_onnx_difference: float
    max_latency_us: float = Field(description="p99 of one row through ONNX Runtime, one thread")
    max_quarantine_rate: float


class Drift(_Section):
    current_days: int = Field(gt=0)
    reference_rows: int = Field(gt=0)
    psi_threshold: float = Field(gt=0)
    max_drifted_share: float = Field(gt=0, le=1)
    newest_day_psi: float = Field(
        gt=0, description="PSI of one feature on the newest day from which the verdict is drift"
    )


class Concept(_Section):
    """Comparison of decisions with received labels."""

    window_days: int = Field(gt=0, description="mature days that are compared")
    false_alarm_days: float = Field(gt=1, description="mean number of days to a false alarm, at least")


class Params(_Section):
    """params.yaml."""

    labels: Labels
    split: Split
    training: Training
    costs: Costs
    gates: Gates
    drift: Drift
    concept: Concept

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check the file. Raises BadConfigError naming file and key."""
        if not path.is_file():
            raise BadConfigError(f"{path} does not exist", hint="run from the project's folder or set FRAUD_PROJECT")
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadConfigError(f"{path} is not YAML in UTF-8", got=str(error)) from error
        except OSError as error:
            raise BadConfigError(f"{path} cannot be read", got=str(error)) from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the file as a whole"
            raise BadConfigError(f"{path}: {key}", expected=first["msg"], got=repr(first.get("input"))) from error

    def fingerprint(self, *sections: str) -> str:
        """sha256 over the named sections (all, if none is named) in canonical form."""
        chosen = set(sections) or set(type(self).model_fields)
        return sha256(self.model_dump_json(include=chosen).encode()).hexdigest()
