"""Render `concept.json` as an HTML page."""

from typing import Any, Final

from jinja2 import Environment

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Concept drift {{ day }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd }
 td { text-align: right; font-variant-numeric: tabular-nums }
 td:first-child, th:first-child { text-align: left; white-space: nowrap }
 .ok { color: #17692b } .drift { color: #b00020 } small { color: #666 }
</style>
{% macro figure(values) %}{% if values[0] is none %}-{% else %}{{ "%.3f"|format(values[0]) }}
{% if values[1] is not none %}<br><small>{{ "%.3f"|format(values[1]) }} to {{ "%.3f"|format(values[2]) }}</small>
{% endif %}{% endif %}{% endmacro %}
{% macro count(number) %}{{ "{:,}".format(number) }}{% endmacro %}
{% macro share(value) %}{% if value is none %}an unknown share{% else %}{{ "%.1f"|format(100 * value) }} %{% endif %}
{% endmacro %}
<h1>Decisions of version {{ model_version }} as known on {{ day }}:
 <span class="{{ verdict }}">{{ verdict }}</span></h1>
<p>{% if reason %}There is no verdict: {{ reason }}.{% endif %}
   Evidence that decisions are worse than on the holdout: {{ "%.3g"|format(evidence) }}. The verdict is drift from
   {{ limit }} on; while decisions are as good as on the holdout, that happens at most once in {{ limit }} days on
   average.</p>
{% if promise.days %}<p>Holdout: {{ promise.days[0] }} to {{ promise.days[1] }}, {{ count(promise.frauds) }} frauds.
   Lower ends of the 95 % intervals: of a victim's frauds, {{ share(promise.lows.recall) }} are stopped; of a customer's
   stopped transactions, {{ share(promise.lows.precision) }} are frauds.</p>{% endif %}
<table><tr><th>day<th>decided<th>frauds<th>stopped{% for name in names %}<th>{{ name.replace("_", " ") }}{% endfor %}
<th>evidence<th>reported late<th>stops without a label</tr>
<tr><td>holdout<td>{{ count(promise.rows) }}<td>{{ count(promise.frauds) }}<td>{% for name in names %}
<td>{{ figure(promise.figures[name]) }}{% endfor %}<td><td><td></tr>
<tr><td>all days<td>{{ count(days|sum("rows")) }}<td>{{ count(days|sum("frauds")) }}<td>{{ count(days|sum("stops")) }}
{% for name in names %}<td>{{ figure(figures[name]) }}{% endfor %}<td>{{ "%.3g"|format(evidence) }}
<td>{{ days|sum("late_frauds") }}<td>{{ days|sum("unlabelled_stops") }}</tr>
{% for d in days|reverse %}<tr><td>{{ d.day }}<td>{{ count(d.rows) }}<td>{{ count(d.frauds) }}<td>{{ count(d.stops) }}
{% for name in names %}
<td>{{ figure(d.figures[name]) }}{% endfor %}<td>{{ "%.3g"|format(d.evidence.both) }}<td>{{ d.late_frauds }}
<td>{{ d.unlabelled_stops }}</tr>
{% endfor %}</table>
<p>Intervals: 95 %, bootstrap over people. {{ count(days|sum("served")) }} decisions were given by serving,
   {{ count(days|sum("nightly")) }} by the nightly scores. {{ count(days|sum("unlabelled")) }} transactions have no
   label and count as legitimate. {{ count(days|sum("undecided")) }} were decided by another version, or by none.</p>
</html>
"""


def page(report: dict[str, Any]) -> str:
    """The report as one self-contained HTML page."""
    shown = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    return shown.render(names=list(report["figures"]), **report)
