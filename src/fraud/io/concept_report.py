"""The report on concept drift: `concept.json` is the record, this is its page for people."""

from typing import Any, Final

from jinja2 import Environment

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Concept drift {{ day }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd }
 td { text-align: right; font-variant-numeric: tabular-nums } td:first-child, th:first-child { text-align: left }
 .ok { color: #17692b } .drift { color: #b00020 } small { color: #666 }
</style>
{% macro figure(values) %}{% if values[0] is none %}-{% else %}{{ "%.3f"|format(values[0]) }}
{% if values[1] is not none %}<br><small>{{ "%.3f"|format(values[1]) }} to {{ "%.3f"|format(values[2]) }}</small>
{% endif %}{% endif %}{% endmacro %}
<h1>Decisions of version {{ model_version }} as known on {{ day }}:
 <span class="{{ verdict }}">{{ verdict }}</span></h1>
<p>Evidence against the promise of the holdout: {{ "%.3g"|format(evidence) }}; the alarm rings at {{ limit }}. While the
   promise is kept it gets there once in {{ limit }} days or more rarely, however often one looks.
   {% if promise.days %}Promised over {{ promise.days[0] }} to {{ promise.days[1] }} ({{ promise.frauds }} frauds): of a
   victim's frauds at least {{ promise.lows.recall }} are stopped, of a customer's stops at least
   {{ promise.lows.precision }} are right.{% else %}The holdout is not in the lake: there is nothing to hold the days
   against.{% endif %}</p>
<table><tr><th>day<th>decided<th>frauds<th>stopped{% for name in names %}<th>{{ name.replace("_", " ") }}{% endfor %}
<th>evidence<th>reported late<th>stops without a label</tr>
<tr><td>holdout<td>{{ promise.rows }}<td>{{ promise.frauds }}<td>{% for name in names %}
<td>{{ figure(promise.figures[name]) }}{% endfor %}<td><td><td></tr>
<tr><td>all days<td>{{ days|sum("rows") }}<td>{{ days|sum("frauds") }}<td>{{ days|sum("stops") }}
{% for name in names %}<td>{{ figure(figures[name]) }}{% endfor %}<td>{{ "%.3g"|format(evidence) }}
<td>{{ days|sum("late_frauds") }}<td>{{ days|sum("unlabelled_stops") }}</tr>
{% for d in days|reverse %}<tr><td>{{ d.day }}<td>{{ d.rows }}<td>{{ d.frauds }}<td>{{ d.stops }}{% for name in names %}
<td>{{ figure(d.figures[name]) }}{% endfor %}<td>{{ "%.3g"|format(d.evidence.both) }}<td>{{ d.late_frauds }}
<td>{{ d.unlabelled_stops }}</tr>
{% endfor %}</table>
<p>Intervals: 95 %, bootstrap over people. Decided: as served ({{ days|sum("served") }}), or by the nightly scores
   ({{ days|sum("nightly") }}). {{ days|sum("unlabelled") }} transactions have had no label of any kind and count as
   legitimate; {{ days|sum("undecided") }} were decided by another version, or by none.</p>
</html>
"""


def page(report: dict[str, Any]) -> str:
    """The report as one HTML page that needs nothing else."""
    shown = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    return shown.render(names=list(report["figures"]), **report)
