"""The settings of the stream: a wrong value, or one without effect, ends the start and is named."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_settings import GOOD as SCORING

from fraud_serving.settings import BadSettingError
from fraud_serving.stream.settings import StreamScoringSettings, StreamSettings

GOOD = {"STREAM_BROKERS": "one:9092,two:9092"}
LOGIN = {"STREAM_SASL_MECHANISM": "SCRAM-SHA-512", "STREAM_SASL_USERNAME": "fraud", "STREAM_SASL_PASSWORD": "hush"}
WRONG = {
    "BROKERS": ("", "one", "one:port", ":9092", "one:0", "one:65536", "kafka://one:9092", "one:9092,"),
    "BATCH_MESSAGES": ("0", "10001"),
    "MAX_UNACKNOWLEDGED": ("0", "1000001"),
    "MODEL_WAIT_SECONDS": ("-1", "86401", "nan"),
    "DRAIN_SECONDS": ("0", "241"),
    "SESSION_SECONDS": ("0.5", "301"),
    "FETCH_WAIT_MS": ("0", "10001"),
    "TRANSACTIONS": ("perhaps",),
    "TRANSACTIONAL_ID": ("one",),
    "TLS": ("perhaps",),
    "TLS_CA": ("/ca.pem",),
    "SASL_MECHANISM": ("GSSAPI", "PLAIN"),
    "SASL_USERNAME": ("fraud",),
    "SASL_PASSWORD": ("hush",),
    "DECISIONS_TOPIC": ("transactions", "transactions.rejected"),
    "REJECTED_TOPIC": ("transactions",),
    "TRANSACTIONS_TOPIC": ("decisions",),
    "BROKER": ("one:9092",),
}


def test_settings_become_the_configuration_of_the_client() -> None:
    settings = StreamSettings.load(GOOD | LOGIN | {"STREAM_TLS": "1", "STREAM_TLS_CA": "/ca.pem", "PATH": "/bin"})
    for found in (settings.consumer(), settings.producer()):
        assert found["bootstrap.servers"] == "one:9092,two:9092"
        assert found["security.protocol"] == "SASL_SSL"
        assert (found["sasl.mechanism"], found["sasl.username"]) == ("SCRAM-SHA-512", "fraud")
        assert found["sasl.password"] == "hush"
        assert found["ssl.ca.location"] == "/ca.pem"
    assert "hush" not in repr(settings)
    assert StreamSettings.load(GOOD).consumer()["security.protocol"] == "PLAINTEXT"


def test_transactions_need_an_id_that_another_process_does_not_have() -> None:
    on = GOOD | {"STREAM_TRANSACTIONS": "1"}
    assert StreamSettings.load(on).producer()["transactional.id"] == f"fraud-scoring-{socket.gethostname()}"
    assert StreamSettings.load(on | {"STREAM_TRANSACTIONAL_ID": "a"}).producer()["transactional.id"] == "a"
    assert "transactional.id" not in StreamSettings.load(GOOD).producer()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_ends_the_start_naming_the_variable_and_no_secret(name: str, value: str) -> None:
    with pytest.raises(BadSettingError, match=f"STREAM_{name}\\b") as raised:
        StreamSettings.load(GOOD | {f"STREAM_{name}": value})
    assert "hush" not in str(raised.value)


def test_every_setting_with_a_range_is_tried_out_of_it() -> None:
    assert {name.lower() for name in WRONG} - {"broker"} == StreamSettings.model_fields.keys() - {"group"}


def test_settings_of_http_have_no_effect_and_are_refused() -> None:
    scoring = {name: value for name, value in SCORING.items() if name != "SERVING_OPEN"}
    assert StreamScoringSettings.load(scoring).store_deadline_ms == 250
    with pytest.raises(BadSettingError, match="SERVING_OPEN"):
        StreamScoringSettings.load(SCORING)


def test_the_process_ends_with_2_and_names_the_variable(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fraud_serving.stream"],
        env={"PATH": "/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "fraud_serving: STREAM_BROKERS: Field required\n")
