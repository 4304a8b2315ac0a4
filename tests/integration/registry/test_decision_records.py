"""What history, lineage and the version's tags record of each way to decide on a version."""

import pytest
from tests.integration.registry_platform import Platform

from fraud.embedded.servers import mlflow_server
from fraud.registry.history import Result
from fraud.registry.model_versions import MODEL_NAME

WAIVER = ["--waiver-reason", "agreed with risk until January", "--waiver-expires", "2999-01-01"]


def decisions(platform: Platform) -> list[tuple[str, str, str | None, str]]:
    """Action, version, the waived gates and the reason of every entry; the hash chain is verified by the job."""
    code, result = platform.fraud("history")
    assert code == 0
    return [
        (change["action"], change["version"], ",".join((change["waiver"] or {}).get("gates", ())), change["reason"])
        for change in result["changes"]
    ]


def approval(platform: Platform, version: str) -> str:
    return str(platform.client.get_model_version(MODEL_NAME, version).tags["approval_reason"])


def test_each_way_to_decide_is_recorded_with_its_own_reason(platform: Platform) -> None:
    plain = platform.register()
    assert platform.fraud("promote")[0] == 0
    explained = platform.register(champion=plain)
    assert platform.fraud("promote", "--reason", "it finds more")[0] == 0
    waived = platform.register(gates="failed", failed="slices", champion=explained, staging=False)
    assert platform.fraud("promote", "--version", waived, "--waive", "slices", *WAIVER)[0] == 0
    rejected = platform.register(champion=waived)
    assert platform.fraud("reject", "--reason", "a campaign runs this week")[0] == 0
    assert platform.fraud("expire-waivers", "--today", "2999-01-01")[0] == 0
    assert platform.fraud("rollback", "--reason", "false alarms")[0] == 0

    ended = "the waiver of slices by ada expired on 2999-01-01: agreed with risk until January"
    assert decisions(platform) == [
        ("promote", plain, "", "all gates passed"),
        ("promote", explained, "", "it finds more"),
        ("promote", waived, "slices", "agreed with risk until January"),
        ("expire", explained, "", ended),
        ("rollback", waived, "", "false alarms"),
    ]
    assert approval(platform, waived) == "agreed with risk until January"
    tags = platform.client.get_model_version(MODEL_NAME, rejected).tags
    assert (tags["rejected_by"], tags["rejection_reason"]) == ("ada", "a campaign runs this week")


def test_two_reasons_of_a_waived_promotion_are_both_kept_the_waivers_first(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="slices", staging=False)
    requested = [
        "promote",
        "--version",
        version,
        "--waive",
        "slices",
        *WAIVER,
        "--reason",
        "the old model is wrong daily",
    ]
    assert platform.fraud(*requested)[0] == 0
    reason = "agreed with risk until January; the old model is wrong daily"
    assert decisions(platform) == [("promote", version, "slices", reason)]


def test_a_terminal_shows_the_history_as_a_table(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="slices", staging=False)
    platform.fraud("promote", "--version", version, "--waive", "slices", *WAIVER)
    title, heading, row = Result.model_validate(platform.fraud("history")[1]).as_text().splitlines()
    assert title == f"Production: version {version}; changes: 1; the hash chain is intact"
    assert heading.split() == ["sequence", "at", "action", "version", "replaced", "actor", "waived", "reason"]
    assert row.endswith("ada    slices until 2999-01-01  agreed with risk until January")
    assert "{" not in row


def test_refused_credentials_are_a_configuration_error(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("MLFLOW_TRACKING_PASSWORD", "not the password")
        code, result = platform.fraud("production-version")
    assert (code, result["error"], result["message"]) == (
        2,
        "BadConfigError",
        "the model registry refuses the credentials",
    )


def test_a_missing_artifact_is_named(platform: Platform, server: mlflow_server.Server) -> None:
    version = platform.register()
    run_id = platform.client.get_model_version(MODEL_NAME, version).run_id
    [stored] = (server.folder / "artifacts").rglob(f"{run_id}/artifacts/model/model.onnx")
    stored.unlink()
    code, result = platform.fraud("promote")
    assert (code, result["message"]) == (3, f"run {run_id} has no model/model.onnx")
