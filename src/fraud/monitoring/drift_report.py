"""Render `drift.json` as an HTML page. Evidently draws the distributions with our statistic, `fraud.stats.psi`, because
its own choice of a statistic depends on the sample size (docs/monitoring.md).
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.metric_types import MetricId
from evidently.core.report import Context
from evidently.legacy.calculations.stattests import StatTest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.legacy.model.widget import BaseWidgetInfo
from evidently.presets import DataDriftPreset
from jinja2 import Environment
from numpy.typing import NDArray

from fraud.stats.psi import psi_categorical, psi_numerical

Columns = Mapping[str, NDArray[Any]]
"""Values by column name, [n] each: float64 with NaN where missing, or objects with None."""
STATISTIC: Final = StatTest(
    name="psi_reference_bins",
    display_name="PSI over the reference's bins",
    allowed_feature_types=[ColumnType.Categorical, ColumnType.Numerical],
    default_threshold=0.1,
)
_SUMMARY: Final = """<title>Drift {{ day }}</title>
<style>
 .drift-summary { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #222; background: #fff }
 .drift-summary table { border-collapse: collapse; margin: 1rem 0; width: 100% }
 .drift-summary th, .drift-summary td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
  font-variant-numeric: tabular-nums }
 .drift-summary td:first-child, .drift-summary th:first-child,
 .drift-summary td:last-child, .drift-summary th:last-child { text-align: left }
 .drift-summary .ok { color: #17692b } .drift-summary .drift { color: #b00020 } .drift-summary small { color: #666 }
</style>
{% macro number(value) %}{% if value is none %}-{% else %}{{ "%.4f"|format(value) }}{% endif %}{% endmacro %}
{% macro share(value) %}{% if value is none %}-{% else %}{{ "%.1f"|format(100 * value) }} %{% endif %}{% endmacro %}
<section class="drift-summary">
<h1>Drift of version {{ model_version }}, {{ days[0] }} to {{ day }}:
 <span class="{{ verdict }}">{{ verdict }}</span></h1>
<p>{{ "{:,}".format(rows) }} current rows are compared with {{ "{:,}".format(reference_rows) }} rows of the training
   reference. {% if reason %}{{ reason }}.{% else %}{{ drifted_features|length }} of {{ features|length }} features
   drifted{% if retrain %}: retraining is requested{% endif %}.{% endif %}</p>
<table><tr><th>input<th>kind<th>PSI of the values<th>missing in the reference<th>missing now<th>PSI of missing
<th>newest day<th>drifted<th>notes</tr>
{% for entity, some in groups.items() %}<tr><th colspan="9">{{ entity }}:
 {{ some.values()|selectattr("drifted")|list|length }} of {{ some|length }} drifted</tr>
{% for name, f in some.items() %}<tr><td>{{ name }}<td>{{ f.kind }}<td>{{ number(f.psi) }}
<td>{{ share(f.missing.reference) }}<td>{{ share(f.missing.current) }}<td>{{ number(f.missing.psi) }}
<td>{{ number(f.newest_day_psi) }}
<td>{% if reason %}-{% elif name in jumped_features %}<span class="drift">newest day</span>{% elif f.drifted %}
<span class="drift">yes</span>{% else %}no{% endif %}<td>{{ f.notes|join("; ") }}</tr>
{% endfor %}{% endfor %}<tr><th colspan="9">answer</tr>
<tr><td>fraud_probability<td><td>{{ number(prediction.psi) }}<td><td><td><td>
<td>{% if reason or prediction.psi is none %}-{% elif prediction.drifted %}<span class="drift">yes</span>
{%- else %}no{% endif %}
<td>{{ prediction.notes|join("; ") }}</tr></table>
<p><small>A feature drifted when the PSI of its values or of its missing share is {{ thresholds.psi }} or more;
   on the newest day alone, when it is {{ thresholds.newest_day_psi }} or more; daily features are not compared on one
   day, whose values come from one or two snapshots. Retraining is requested when more than
   {{ "%.0f"|format(100 * thresholds.drifted_share) }} % of the features drifted. Values are compared if both
   sides have at least {{ "{:,}".format(thresholds.rows) }}.
   {% if shown %}Below, the distributions of the columns whose values were compared.{% endif %}</small></p>
</section>
"""


def _statistic(reference: pd.Series, current: pd.Series, kind: ColumnType, threshold: float) -> tuple[float, bool]:
    if kind == ColumnType.Numerical:
        value = psi_numerical(reference.to_numpy(np.float64), current.to_numpy(np.float64))
    else:
        value = psi_categorical(reference.tolist(), current.tolist())
    return value, value >= threshold


register_stattest(STATISTIC, _statistic)


class _Distributions(DataDriftPreset):  # type: ignore[misc]
    """Evidently's table of columns without its verdict, which ignores missing values and the newest day."""

    def render(
        self, context: Context, child_widgets: list[tuple[MetricId | None, list[BaseWidgetInfo]]] | None = None
    ) -> list[BaseWidgetInfo]:
        tables = [w for w in super().render(context, child_widgets) if w.type == "big_table"]
        for table in tables:
            table.title = "Distributions"
        return tables


def page(record: Mapping[str, Any], reference: Columns, current: Columns, categorical: Collection[str]) -> str:
    """The report as one HTML page. If a column was compared, the page contains Evidently's random element ids.

    `reference` and `current` have the columns whose values were compared, with at least psi.MIN_ROWS values each.
    """
    summary = Environment(autoescape=True, trim_blocks=True).from_string(_SUMMARY)
    groups: dict[str, dict[str, Any]] = {}
    for name, feature in record["features"].items():
        groups.setdefault(feature["entity"], {})[name] = feature
    top = summary.render(shown=bool(current), groups=groups, **record)
    if not current:
        return f'<!doctype html>\n<html lang="en"><meta charset="utf-8">{top}</html>\n'
    whole = _distributions(reference, current, categorical, record["thresholds"]["psi"])
    return whole.replace("<body>", f"<body>{top}", 1)


def _distributions(reference: Columns, current: Columns, categorical: Collection[str], threshold: float) -> str:
    columns = list(current)
    definition = DataDefinition(
        numerical_columns=[column for column in columns if column not in categorical],
        categorical_columns=[column for column in columns if column in categorical],
    )
    report = Report([_Distributions(columns=columns, method=STATISTIC.name, threshold=threshold)], include_tests=False)
    # Evidently also correlates constant columns.
    with np.errstate(divide="ignore", invalid="ignore"):
        run = report.run(
            Dataset.from_pandas(pd.DataFrame(current), data_definition=definition),
            Dataset.from_pandas(pd.DataFrame(reference), data_definition=definition),
        )
        page: str = run.get_html_str(as_iframe=False)
    return page
