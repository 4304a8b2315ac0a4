"""The record of a drill: what is continued, what fails, and the table in the documentation."""

import json
from pathlib import Path

import pytest

from fraud.embedded.fire_drill import alerts_page, record
from fraud.embedded.fire_drill.drill import FAULTS
from fraud.embedded.fire_drill.record import AlertTiming, Record
from fraud.embedded.stack import Stack
from fraud.errors import BadConfigError

ROOT = Path(__file__).resolve().parents[3]
SKEW = AlertTiming("SkewFound", "skew", 2.6, 2.8)
DRIFT = AlertTiming("DriftFound", "drift", 3.6, 1.7)


def begun(folder: Path, of: str = "stack rules", *, fresh: bool = False) -> Record:
    return Record.begin(folder / "build/drill.json", of, fresh=fresh)


def test_an_interrupted_drill_is_continued_after_its_last_fault(tmp_path: Path) -> None:
    begun(tmp_path).add([SKEW])
    second = begun(tmp_path)
    assert second.faults == {"skew"}
    second.add([DRIFT])
    third = begun(tmp_path)
    assert third.alerts == [SKEW, DRIFT]
    assert len(third.sessions) == 3


def test_a_session_without_a_fault_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    begun(tmp_path).add([SKEW])
    before = (tmp_path / "build/drill.json").read_bytes()
    begun(tmp_path)
    assert (tmp_path / "build/drill.json").read_bytes() == before


def test_a_complete_drill_is_not_continued(tmp_path: Path) -> None:
    first = begun(tmp_path)
    first.complete = True
    first.add([SKEW])
    assert begun(tmp_path).alerts == []


def test_another_stack_other_rules_or_the_option_fresh_start_a_new_drill(tmp_path: Path) -> None:
    begun(tmp_path).add([SKEW])
    assert begun(tmp_path, "another").alerts == []
    assert begun(tmp_path, fresh=True).alerts == []
    assert begun(tmp_path).alerts == [SKEW]


def test_the_identity_changes_with_the_rules_and_with_the_stack(tmp_path: Path) -> None:
    rules = tmp_path / "infra/prometheus/rules"
    rules.mkdir(parents=True)
    (rules / "a.yml").write_text("a")
    one, other = (Stack(tmp_path, tmp_path, {}, mark, {}) for mark in ("one", "other"))
    before = record.identity(one)
    assert record.identity(other) != before
    (rules / "a.yml").write_text("b")
    assert record.identity(one) != before


@pytest.mark.parametrize(
    ("timing", "line"),
    [
        (AlertTiming("A", "f", None, None), "did not fire: A"),
        (AlertTiming("A", "f", 1.0, None), "did not resolve: A"),
        (AlertTiming("A", "f", None, None, "not possible: x"), "not tested: A (not possible: x)"),
    ],
)
def test_an_alert_that_was_not_seen_to_fire_and_resolve_is_a_failure(
    tmp_path: Path, timing: AlertTiming, line: str
) -> None:
    found = begun(tmp_path)
    found.add([SKEW])
    assert found.failure() == ""
    found.add([timing])
    assert found.failure().strip() == line


def test_an_alert_that_fired_without_a_fault_in_an_earlier_session_is_a_failure(tmp_path: Path) -> None:
    first = begun(tmp_path)
    first.sessions[-1].fired_without_fault = ["JobStuck"]
    first.add([SKEW])
    assert begun(tmp_path).failure().strip() == "fired without a fault: JobStuck"


def test_the_table_replaces_the_one_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / alerts_page.PAGE
    page.parent.mkdir()
    page.write_text("before\n<!-- fire drill -->\nold\n<!-- end of fire drill -->\nafter\n")
    found = begun(tmp_path)
    found.add([SKEW, AlertTiming("StreamLagHigh", "lag", None, None, "not possible: stream does not run")])
    for _ in range(2):
        alerts_page.write_result(tmp_path, "fire drill", found.as_markdown())
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "1 of 2 expected alerts fired and resolved. Fired without a fault: none." in " ".join(lines)
    assert "| SkewFound | 2.6 | 2.8 | skew |" in lines
    assert "| StreamLagHigh | - | - | lag (not possible: stream does not run) |" in lines


def test_a_page_without_markers_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / alerts_page.PAGE
    page.parent.mkdir()
    page.write_text("text\n")
    with pytest.raises(BadConfigError, match="fire drill"):
        alerts_page.write_result(tmp_path, "fire drill", "x")


@pytest.mark.parametrize("name", ["fire drill", "quiet hour"])
def test_the_committed_page_has_a_place_for_each_result(tmp_path: Path, name: str) -> None:
    page = tmp_path / alerts_page.PAGE
    page.parent.mkdir()
    page.write_text((ROOT / alerts_page.PAGE).read_text())
    alerts_page.write_result(tmp_path, name, "result")
    assert "result" in page.read_text().splitlines()


def test_faults_have_different_descriptions() -> None:
    """A continued drill skips faults by their descriptions."""
    names = [name for name, _, _ in FAULTS]
    assert len(set(names)) == len(names)


def test_the_record_is_json_with_its_sessions(tmp_path: Path) -> None:
    begun(tmp_path).add([SKEW])
    found = json.loads((tmp_path / "build/drill.json").read_text())
    assert (found["of"], found["complete"], len(found["sessions"])) == ("stack rules", False, 1)
    assert found["alerts"] == [
        {"alert": "SkewFound", "fault": "skew", "detected_s": 2.6, "resolved_s": 2.8, "note": ""}
    ]
