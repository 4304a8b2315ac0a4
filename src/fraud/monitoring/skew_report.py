"""Render `skew.json` as an HTML page."""

from typing import Any, Final

from jinja2 import Environment

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Skew {{ day }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd }
 td { text-align: right; font-variant-numeric: tabular-nums } td:first-child, th:first-child { text-align: left }
 .ok { color: #17692b } .skew { color: #b00020 } code { font-size: 13px }
</style>
{% macro count(number) %}{{ "{:,}".format(number) }}{% endmacro %}
{% macro difference(number, of) %}{{ "%.3g"|format(number) if of else "-" }}{% endmacro %}
<h1>Skew of the answers of {{ day }}: <span class="{{ verdict }}">{{ verdict }}</span></h1>
<p>{% if records %}{{ count(records) }} answers. All features were recomputed for {{ count(compared) }} of them.
   {{ count(not_landed) }} transactions have not landed in the lake yet. {{ count(contradicted) }} answers belong to an
   id that was delivered several times with different contents; the lake keeps another one of these deliveries.
   {{ count(events_lost) }} events are missing in the online store.{% if snapshots %} Daily features were looked up in
   the snapshot of the day {{ count(snapshots.current or 0) }} times, in an older one {{ count(snapshots.stale or 0) }}
   times, and {{ count(snapshots.missing or 0) }} times there was none.{% endif %}
   {% else %}There are no answers to check.{% endif %}
   {% if records and verdict == "nothing" %}Nothing could be compared.{% endif %}</p>
<table><tr><th>value<th>equal<th>mismatch<th>missing<th>extra<th>worst difference</tr>
{% for name, f in features.items() %}<tr><td>{{ name }}<td>{{ count(f.equal) }}<td>{{ count(f.mismatch) }}
<td>{{ count(f.missing) }}<td>{{ count(f.extra) }}<td>{{ difference(f.worst, f.equal + f.mismatch) }}</tr>
{% endfor %}</table>
<p>{{ count(probabilities.checked) }} probabilities were recomputed. {% if probabilities.checked %}
   {{ count(probabilities.wrong) }} of them differ by more than 1e-6; the largest difference is
   {{ difference(probabilities.worst, probabilities.checked) }}.{% endif %}
   {{ count(probabilities.unchecked) }} answers were given by the rule, or by a version that is no longer
   available.</p>
{% if skipped %}<h2>Features not recomputed</h2><table><tr><th>reason<th>answers</tr>
{% for reason, answers in skipped.items() %}<tr><td>{{ reason }}<td>{{ count(answers) }}</tr>
{% endfor %}</table>{% endif %}
{% for name, f in features.items() if f.examples %}<h2>{{ name }}</h2><ul>
{% for line in f.examples %}<li><code>{{ line }}</code></li>{% endfor %}</ul>
{% endfor %}</html>
"""


def page(report: dict[str, Any]) -> str:
    """The report as one self-contained HTML page."""
    return Environment(autoescape=True).from_string(_PAGE).render(**report)
