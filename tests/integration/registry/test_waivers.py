"""Approvals in spite of failed gates: what a waiver must name, and what happens when it ends."""

import json
from pathlib import Path

from tests.integration.registry_platform import Platform

from fraud.registry.model_versions import PRODUCTION
from fraud.registry.promotion_log import PREVIOUS, opened

WAIVED = ["--waiver-reason", "holiday season, agreed with risk", "--waiver-expires", "2999-01-01"]


def test_a_failed_gate_blocks_unless_each_failed_one_is_waived(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="calibration,slices", staging=False)
    code, result = platform.fraud("promote", "--version", version)
    assert (code, result["error"]) == (3, "RefusedError")
    assert "calibration" in str(result["got"])
    waiver = ["--waiver-reason", "holiday season, agreed with risk", "--waiver-expires", "2999-01-01"]
    assert platform.fraud("promote", "--version", version, "--waive", "calibration", *waiver)[0] == 3
    assert platform.alias(PRODUCTION) is None
    code, _ = platform.fraud("promote", "--version", version, "--waive", "calibration", "--waive", "slices", *waiver)
    assert code == 0
    with opened(platform.settings) as promotion:
        entry = promotion.verify()[0].entry
    assert entry.waiver is not None
    assert (entry.waiver.person, entry.waiver.expires, entry.waiver.gates) == (
        "ada", "2999-01-01", ("calibration", "slices")
    )  # fmt: skip


def test_a_waiver_without_an_end_is_refused_at_once(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="calibration", staging=False)
    code, result = platform.fraud("promote", "--version", version, "--waive", "calibration")
    assert (code, result["error"]) == (2, "BadConfigError")


def test_a_waiver_of_a_gate_that_did_not_fail_is_refused(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="slices", staging=False)
    code, result = platform.fraud("promote", "--version", version, "--waive", "slices", "--waive", "latency", *WAIVED)
    assert (code, result["message"]) == (3, f"version {version} did not fail latency: there is nothing to waive")
    assert platform.alias(PRODUCTION) is None


def test_an_ended_waiver_takes_production_back_past_every_version_that_stands_on_one(platform: Platform) -> None:
    sound = platform.register()
    platform.fraud("promote")
    first = platform.register(gates="failed", failed="slices", champion=sound, staging=False)
    platform.fraud("promote", "--version", first, "--waive", "slices", *WAIVED)
    second = platform.register(gates="failed", failed="slices", champion=first, staging=False)
    platform.fraud("promote", "--version", second, "--waive", "slices", *WAIVED)

    early = platform.fraud("expire-waivers", "--today", "2998-12-31")[1]
    assert (early["version"], early["changed"], early["waiver_expires"]) == (second, False, "2999-01-01")
    code, result = platform.fraud("expire-waivers", "--today", "2999-01-01")
    assert (code, result["version"], result["replaced"], result["changed"]) == (0, sound, second, True)
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (sound, second)
    assert platform.fraud("expire-waivers", "--today", "2999-01-01")[1]["changed"] is False
    last = platform.fraud("history")[1]["changes"][-1]
    assert (last["action"], last["version"]) == ("expire", sound)
    assert "holiday season" in last["reason"]


def test_going_back_by_hand_to_a_version_on_an_ended_waiver_does_not_revive_it(platform: Platform) -> None:
    sound = platform.register()
    platform.fraud("promote")
    waived = platform.register(gates="failed", failed="slices", champion=sound, staging=False)
    platform.fraud("promote", "--version", waived, "--waive", "slices", *WAIVED)
    platform.fraud("expire-waivers", "--today", "2999-01-01")
    assert platform.fraud("rollback")[1]["version"] == waived
    assert platform.fraud("expire-waivers", "--today", "2999-01-01")[1]["version"] == sound


def test_an_ended_waiver_with_nothing_to_go_back_to_fails_loudly(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="slices", staging=False)
    platform.fraud("promote", "--version", version, "--waive", "slices", *WAIVED)
    code, result = platform.fraud("expire-waivers", "--today", "2999-01-01")
    assert (code, platform.alias(PRODUCTION)) == (3, version)
    assert "no earlier version" in result["message"]


def _served(home: Path, day: str, mismatches: int) -> None:
    record = {"day": day, "records": 5, "mismatches": mismatches, "events_lost": 0, "probabilities": {"wrong": 0}}
    (home / f"reports/skew/{day}").mkdir(parents=True)
    (home / f"reports/skew/{day}/skew.json").write_text(json.dumps(record))


def test_skew_on_the_newest_day_of_answers_blocks_until_a_clean_day_or_a_waiver(platform: Platform) -> None:
    version = platform.register()
    _served(platform.home, "2026-03-08", 0)
    _served(platform.home, "2026-03-09", 2)
    code, result = platform.fraud("promote")
    assert (code, result["message"]) == (3, f"version {version} did not pass its gates")
    assert result["got"] == "failed: skew; waived: none; skew: 5 answers of 2026-03-09: 2 served values differ"
    assert platform.alias(PRODUCTION) is None
    assert platform.fraud("promote", "--waive", "skew", *WAIVED)[1]["version"] == version
    second = platform.register(champion=version)
    assert platform.fraud("promote")[0] == 3
    _served(platform.home, "2026-03-10", 0)
    assert platform.fraud("promote")[1]["version"] == second
