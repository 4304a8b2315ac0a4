"""The report for a terminal."""

from dataclasses import replace

from tests.unit.status.healthy import HEALTHY, NOW

from fraud.status.changes import changes
from fraud.status.facts import Facts, Source
from fraud.status.problems import problems
from fraud.status.text import text

REPORT = """\
ok: no problem was found

serving
  version  in production  since (UTC)       level     declaration   processes  traffic
  7        yes            2026-03-03 10:00  boosting  aaaaaaaaaaaa  2          100%

figures
  figure            value
  replicas up       2 of 2
  answers           12.5 per second
  degraded answers  0.00%
  skew              0 mismatches, 0 lost events, 4,000 answers of 2026-03-04

data
  data                        newest day  published   rows  online store
  transactions                2026-03-04  10 h ago   4,000  -
  labels                      2026-03-04  10 h ago      20  -
  features aaaaaaaaaaaa       2026-03-04  9 h ago    4,000  -
  scores                      2026-03-04  9 h ago    4,000  -
  daily snapshot of merchant  2026-03-05  -              -  2026-03-05

last promotions
  at (UTC)          action   version  replaced  actor  waived  reason
  2026-03-03 10:00  promote  7        6         ada    -       better at night
  2026-02-08 22:00  promote  6        -         ada    -       first

changes of the last day
  none

sources: registry, lake, Prometheus, Alertmanager"""


def report(facts: Facts) -> str:
    return text(facts, problems(facts), changes(facts))


def test_the_report_of_a_platform_without_a_problem() -> None:
    assert report(HEALTHY) == REPORT


def test_problems_come_first_one_line_each() -> None:
    facts = replace(HEALTHY, sources=(Source("lake", "no such bucket", "check it"),), failed_jobs=("score",))
    lines = report(facts).splitlines()
    assert lines[0] == "2 problems"
    assert lines[1:3] == [f"  {problem.line}" for problem in problems(facts)]
    assert lines[-1] == "sources: lake (no answer)"


def test_a_section_without_facts_is_left_out() -> None:
    assert report(Facts(now=NOW, declaration="a" * 64)).splitlines() == [
        "ok: no problem was found", "", "changes of the last day", "  none", "", "sources: ",
    ]  # fmt: skip
