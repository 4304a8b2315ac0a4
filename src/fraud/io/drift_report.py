"""Evidently's drift report, with our statistic: its own choice changes with the sample's size (docs/monitoring.md)."""

from typing import Final

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests import StatTest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.metrics import ValueDrift
from evidently.presets import DataDriftPreset

from fraud.core.drift import psi_categorical, psi_numerical

STATISTIC: Final = StatTest(
    name="psi_reference_bins",
    display_name="PSI over the reference's bins",
    allowed_feature_types=[ColumnType.Categorical, ColumnType.Numerical],
    default_threshold=0.1,
)


def _statistic(reference: pd.Series, current: pd.Series, kind: ColumnType, threshold: float) -> tuple[float, bool]:
    if kind == ColumnType.Numerical:
        value = psi_numerical(reference.to_numpy(np.float64), current.to_numpy(np.float64))
    else:
        value = psi_categorical(reference.tolist(), current.tolist())
    return value, value >= threshold


register_stattest(STATISTIC, _statistic)


def drift(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    features: list[str],
    categorical: list[str],
    threshold: float,
    most_drifted: float,
) -> tuple[dict[str, float], str]:
    """PSI of each column of both frames, and Evidently's page as HTML. The page holds random element ids.

    The page's verdict counts `features`; columns beside them, such as the model's probability, stand for themselves.
    """
    numerical = [column for column in reference if column not in categorical]
    definition = DataDefinition(numerical_columns=numerical, categorical_columns=categorical)
    how = {"method": STATISTIC.name, "threshold": threshold}
    verdict = DataDriftPreset(columns=features, drift_share=most_drifted, **how)
    beside = [ValueDrift(column=column, **how) for column in reference if column not in features]
    report = Report([verdict, *beside], include_tests=False)
    run = report.run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )
    values = {
        metric["config"]["column"]: float(metric["value"])
        for metric in run.dict()["metrics"]
        if "column" in metric["config"]
    }
    return values, run.get_html_str(as_iframe=False)
