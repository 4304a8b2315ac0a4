"""The skew report: `skew.json` is the record, this is its page for people."""

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
<h1>Skew of the answers of {{ day }}: <span class="{{ verdict }}">{{ verdict }}</span></h1>
<p>{{ records }} answers; the window features of {{ compared }} were recomputed as known when they were given.
   {{ not_landed }} transactions have not landed in the lake yet; {{ contradicted }} answers were to one of several
   deliveries of an id that contradict each other, and the lake keeps another. {{ events_lost }} events are missing
   in the online store.</p>
<table><tr><th>feature<th>equal<th>mismatch<th>missing<th>extra<th>worst difference</tr>
{% for name, f in features.items() %}<tr><td>{{ name }}<td>{{ f.equal }}<td>{{ f.mismatch }}<td>{{ f.missing }}
<td>{{ f.extra }}<td>{{ f.worst }}</tr>
{% endfor %}</table>
<p>Probabilities: {{ probabilities.checked }} computed again, {{ probabilities.wrong }} farther apart than 1e-6, the
   worst difference {{ probabilities.worst }}; {{ probabilities.unchecked }} given by the rule or by a version that
   cannot be had any more.</p>
{% if skipped %}<h2>Window features not recomputed</h2><table><tr><th>why<th>answers</tr>
{% for why, count in skipped.items() %}<tr><td>{{ why }}<td>{{ count }}</tr>
{% endfor %}</table>{% endif %}
{% for name, f in features.items() if f.examples %}<h2>{{ name }}</h2><ul>
{% for line in f.examples %}<li><code>{{ line }}</code></li>{% endfor %}</ul>
{% endfor %}</html>
"""


def page(report: dict[str, Any]) -> str:
    """The report as one HTML page that needs nothing else."""
    return Environment(autoescape=True).from_string(_PAGE).render(**report)
