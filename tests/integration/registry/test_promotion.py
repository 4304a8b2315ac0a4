"""Promotion, rejection and rollback against a real registry and a real database."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.integration.registry_platform import PROJECT, Platform

from fraud import declaration_file
from fraud.embedded.servers import mlflow_server
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.registry.promotion_log import PREVIOUS, STAGING


def test_first_better_and_back(platform: Platform) -> None:
    first = platform.register()
    assert platform.fraud("promote")[1] == {
        "version": first, "replaced": None, "changed": True, "actor": "ada",
        "model_sha256": platform.client.get_model_version(MODEL_NAME, first).tags["model_sha256"], "git_tag": "",
    }  # fmt: skip
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None, None)

    second = platform.register(champion=first)
    assert platform.fraud("promote")[1]["replaced"] == first
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (second, first)
    assert platform.stages() == {first: "Archived", second: "Production"}

    assert platform.fraud("promote")[1]["changed"] is False

    code, back = platform.fraud("rollback", "--reason", "false alarms")
    assert (code, back["version"], back["replaced"]) == (0, first, second)
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (first, second)
    assert platform.stages() == {first: "Production", second: "Archived"}

    code, result = platform.fraud("history")
    assert code == 0
    changes = [(c["action"], c["version"], c["replaced"], c["actor"]) for c in result["changes"]]
    assert changes == [
        ("promote", first, None, "ada"), ("promote", second, first, "ada"), ("rollback", first, second, "ada")
    ]  # fmt: skip


def test_gates_against_another_production_do_not_count(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    stale = platform.register(champion="", staging=False)
    code, result = platform.fraud("promote", "--version", stale)
    assert (code, result["expected"]) == (3, f"gates against version {first}")
    assert platform.alias(PRODUCTION) == first


def test_a_tampered_artefact_is_refused(platform: Platform, server: mlflow_server.Server) -> None:
    version = platform.register()
    run_id = platform.client.get_model_version(MODEL_NAME, version).run_id
    [stored] = [p for p in (server.folder / "artifacts").rglob("model.onnx") if str(run_id) in str(p)]
    stored.write_bytes(b"something else")
    code, result = platform.fraud("promote")
    assert (code, result["error"]) == (3, "RefusedError")
    assert "not what was registered" in str(result["message"])
    assert platform.alias(PRODUCTION) is None


def test_rollback_without_an_earlier_version_is_refused(platform: Platform) -> None:
    assert platform.fraud("rollback")[0] == 3
    platform.register()
    platform.fraud("promote")
    assert platform.fraud("rollback")[0] == 3


def test_who_approved_when_and_why_stands_on_the_version(platform: Platform) -> None:
    version = platform.register()
    platform.fraud("promote", "--reason", "it finds more, see the report")
    tags = platform.client.get_model_version(MODEL_NAME, version).tags
    entry = platform.fraud("history")[1]["changes"][0]
    assert (tags["approved_by"], tags["approval_reason"]) == ("ada", "it finds more, see the report")
    assert (tags["approved_at"], tags["waiver"]) == (entry["at"], "")


def test_a_rejected_candidate_is_none_any_more_and_says_who_said_no(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    assert platform.stages()[second] != "Production"
    assert platform.fraud("reject", "--reason", "a campaign runs this week")[0] == 0
    assert (platform.alias(STAGING), platform.alias(PRODUCTION)) == (None, first)
    tags = platform.client.get_model_version(MODEL_NAME, second).tags
    assert (tags["rejected_by"], tags["rejection_reason"]) == ("ada", "a campaign runs this week")
    assert platform.fraud("promote")[1]["changed"] is False
    assert platform.fraud("reject", "--version", first)[0] == 3


def test_a_promotion_tags_the_commit_where_that_is_asked_for(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "project")], check=True)
    shutil.copy(PROJECT / "params.yaml", tmp_path / "project")
    (tmp_path / "project/feature_repo").mkdir()
    shutil.copy(PROJECT / declaration_file.NAME, tmp_path / "project" / declaration_file.NAME)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for name, value in (("FRAUD_PROJECT", str(tmp_path / "project")), ("FRAUD_GIT_TAGS", "true"),
                        ("GIT_COMMITTER_NAME", "ada"), ("GIT_COMMITTER_EMAIL", "ada@example.org")):  # fmt: skip
        monkeypatch.setenv(name, value)
    version = platform.register()
    platform.client.set_model_version_tag(MODEL_NAME, version, "git_commit", commit)
    assert platform.fraud("promote")[1]["git_tag"] == f"model-v{version}"
    tagged = subprocess.run([*git, "rev-list", "-1", f"model-v{version}"], check=True, capture_output=True, text=True)
    assert tagged.stdout.strip() == commit


@pytest.mark.parametrize("job", ["promote", "rollback", "expire-waivers", "reject"])
def test_a_registry_that_is_away_is_said_and_nothing_changes(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    with monkeypatch.context() as away:
        away.setenv("FRAUD_MLFLOW_URL", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        code, result = platform.fraud(job)
    assert (code, result["error"]) == (75, "UnavailableError")
    assert [c["version"] for c in platform.fraud("history")[1]["changes"]] == [first]
    assert (platform.alias(PRODUCTION), platform.alias(STAGING)) == (first, second)
