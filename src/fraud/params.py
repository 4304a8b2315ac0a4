"""What the model should be: params.yaml as a frozen typed model. A wrong key fails at start, naming file and key."""

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
    """When a label counts."""

    maturity_days: int = Field(gt=0, description="a transaction without a fraud label this old counts as legitimate")


class Split(_Section):
    """Split by time, with a gap: train | gap | validation | gap | holdout."""

    train_days: int = Field(gt=0)
    gap_days: int = Field(ge=0, description="label delay between the parts, so that no label leaks across")
    validation_days: int = Field(gt=0)
    holdout_days: int = Field(gt=0)
    holdout_from: date | None = Field(
        default=None, description="first day of the holdout, UTC; null: the last holdout_days of the data"
    )


class Rule(_Section):
    """Level 0: amount above a bound between two hours; both tuned on the training part."""

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
    max_features: float = Field(gt=0, le=1, description="share of the columns that a split may choose from")
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
    """Hyper-parameters drawn at random between bounds, level by level. Off unless `trials` is above 0."""

    trials: int = Field(ge=0, le=500, description="draws per level, beside the values of params.yaml; 0: no search")
    patience: int = Field(gt=0, description="draws in a row without a better one that end a level's search")
    logistic: dict[str, tuple[float, float]]
    boosting: dict[str, tuple[float, float]]
    mlp: dict[str, tuple[float, float]]

    @model_validator(mode="after")
    def _bounds_of_known_numbers(self) -> Self:
        """Each bound names a number of its level, low before high, and both ends are values that level allows."""
        for name, section in (("logistic", Logistic), ("boosting", Boosting), ("mlp", Mlp)):
            for key, (low, high) in getattr(self, name).items():
                field = section.model_fields.get(key)
                if field is None or field.annotation not in (int, float):
                    raise ValueError(f"{name} has no number {key}")
                if not low < high:
                    raise ValueError(f"{name}.{key}: {low} is not below {high}")
        return self


class Training(_Section):
    seed: int
    threads: int = Field(gt=0, description="levels fitted at once, each on one thread")
    margin: float = Field(ge=0, description="average precision a higher level must add, beyond the noise")
    bootstrap: int = Field(gt=0, description="resamples of every paired interval")
    refit: bool = Field(default=True, description="fit once more on everything before the holdout's gap")
    rule: Rule
    logistic: Logistic
    boosting: Boosting
    mlp: Mlp
    search: Search


class Costs(_Section):
    """USD. What the money gate counts."""

    alerts_per_1000: float = Field(gt=0, description="how many of 1,000 transactions analysts can look at")
    review: float = Field(ge=0, description="cost of looking at one alert")
    chargeback_fee: float = Field(ge=0, description="on top of a missed fraud's amount")
    friction: float = Field(ge=0, description="cost of stopping one legitimate payment")


class Gates(_Section):
    """Bounds a candidate is evaluated against. docs/gates.md gives the reason for each."""

    min_holdout_rows: int
    min_holdout_frauds: int
    min_average_precision_lift: float = Field(
        description="lower end of the interval of average precision, as a multiple of the holdout's fraud rate"
    )
    min_auc: float = Field(ge=0.5, lt=1, description="lower end of the interval of the AUC")
    max_calibration_error: float
    max_calibration_ratio: float = Field(ge=1, description="expected over seen frauds, or its inverse")
    max_slice_loss: float = Field(description="recall at capacity a slice may lose against Production")
    min_slice_frauds: int
    max_onnx_difference: float
    max_latency_us: float = Field(description="p99 of one row through ONNX Runtime, one thread")
    max_quarantine_rate: float


class Drift(_Section):
    current_days: int = Field(gt=0)
    reference_rows: int = Field(gt=0)
    psi_threshold: float = Field(gt=0)
    max_drifted_share: float = Field(gt=0, le=1)
    newest_day_psi: float = Field(gt=0, description="of one feature, the newest day alone: an alarm from here on")


class Concept(_Section):
    """When decisions are held against labels that have come."""

    window_days: int = Field(gt=0, description="mature days that are looked at")
    false_alarm_days: float = Field(gt=1, description="least mean of days to an alarm while the promise is kept")


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
            raise BadConfigError(f"{path} is not there", hint="run from the project's folder or set FRAUD_PROJECT")
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
