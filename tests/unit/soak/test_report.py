"""The report of a soak: table, verdict and page."""

from typing import Any

from tests.soak import report
from tests.unit.soak.good_night import GOOD


def night(number: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a record
    return {
        "night": number, "day": "2025-02-20", "delivery": "on time", "events": [], "killed": "", "seconds": 90.0,
        "traffic_s": 12.0, "checked_s": 8.0, "tasks": {"score_nightly.score": 20.0 + number},
        "observed": GOOD.as_dict(), "broken": {}, **more,
    }  # fmt: skip


ARGUMENTS = {"nights": 2, "seed": 1}
NIGHTS = [night(0), night(1, killed="mlflow (night)"), night(2, events=["data drift"])]


def test_a_soak_without_a_broken_invariant_is_ok() -> None:
    found = report.result(ARGUMENTS, NIGHTS)
    assert found["ok"]
    assert found["seconds"] == 270.0
    assert {check["broken"] for check in found["invariants"]} == {0}
    text = report.as_text(found)
    assert text.splitlines()[-1] == "2 nights in 4.5 minutes: no invariant broken"
    assert "mlflow (night)" in text


def test_a_broken_invariant_is_named_with_its_night_everywhere() -> None:
    nights = [*NIGHTS[:2], night(2, broken={"no_orphan": "17 <python>"})]
    found = report.result(ARGUMENTS, nights)
    assert not found["ok"]
    assert {c["name"]: c["broken"] for c in found["invariants"]}["no_orphan"] == 1
    assert "night 2: no_orphan: 17 <python>" in report.as_text(found)
    page = report.page(found, nights)
    assert "17 &lt;python&gt;" in page
    assert "1 broken." in page


def test_the_page_has_a_plot_of_each_quantity_and_needs_no_other_file() -> None:
    page = report.page(report.result(ARGUMENTS, NIGHTS), NIGHTS)
    assert page.count("<svg") == 6
    assert "src=" not in page
    assert "No invariant broken." in page
    assert "http-equiv" not in page


def test_the_time_of_a_night_is_divided_without_the_first_one() -> None:
    found = report.result(ARGUMENTS, NIGHTS)
    assert [(each["step"], each["nights"], each["median s"], each["longest s"]) for each in found["times"]] == [
        ("jobs", 2, 70.0, 70.0), ("traffic", 2, 12.0, 12.0), ("checks", 2, 8.0, 8.0),
        ("score_nightly.score", 2, 21.5, 22.0),
    ]  # fmt: skip


def test_an_invariant_of_an_event_is_judged_in_its_nights_only() -> None:
    events = {2: ["bad candidate", "data drift"], 5: ["rollback"]}
    nights = [night(i, events=events.get(i, [])) for i in range(9)]

    def judged(count: int) -> dict[str, int]:
        return {c["name"]: c["nights"] for c in report.result(ARGUMENTS, nights[:count])["invariants"]}

    last = judged(9)
    assert (last["conservation"], last["bad_candidate_is_refused"], last["rollback_restores"]) == (8, 1, 1)
    assert last["data_drift_is_found"] == 1  # night 8 is the seventh day of the change
    assert judged(8)["data_drift_is_found"] == 0
    assert (judged(3)["rollback_restores"], judged(3)["bounded_growth"]) == (0, 0)
    assert "not judged" in report.page(report.result(ARGUMENTS, nights[:3]), nights[:3])


def test_a_soak_without_a_night_is_not_ok() -> None:
    assert not report.result(ARGUMENTS, [])["ok"]
