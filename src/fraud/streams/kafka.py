"""Settings and errors of Kafka clients of jobs."""

from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from fraud.errors import BadConfigError, BadInputError, FraudError, UnavailableError
from fraud.settings import Settings

REQUEST_SECONDS: Final = 30.0
"""Longest wait for an answer of the brokers."""
_NO_TOPIC: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001 - the names of librdkafka's own errors
_REFUSED: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION,  # noqa: SLF001
)  # fmt: skip


class ClientErrors:
    """The last error that a client reported beside its calls, such as a refused connection or login."""

    def __init__(self) -> None:
        self.last: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        if self.last is None or self.last.code() not in _REFUSED:
            self.last = error


def client_config(settings: Settings, errors: ClientErrors) -> dict[str, Any]:
    """The settings that every client has. librdkafka does not log: `errors` has the last error.

    Raises BadConfigError without brokers.
    """
    if not settings.kafka_brokers:
        raise BadConfigError("FRAUD_KAFKA_BROKERS is not set", expected="host:port of the Kafka brokers")
    config: dict[str, Any] = {"bootstrap.servers": settings.kafka_brokers, "error_cb": errors, "log_level": 0}
    if settings.kafka_sasl_mechanism:
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    if settings.kafka_tls_ca:
        config["ssl.ca.location"] = settings.kafka_tls_ca
    protocol = ("SASL_" if settings.kafka_sasl_mechanism else "") + ("SSL" if settings.kafka_tls else "PLAINTEXT")
    return config | {"security.protocol": protocol}


def admin(settings: Settings, errors: ClientErrors) -> AdminClient:
    return AdminClient(client_config(settings, errors))


def as_fraud_error(topic: str, error: KafkaError | None, errors: ClientErrors) -> FraudError:
    """An error of a call, or of the client beside it, as the error of a job."""
    refused = errors.last if errors.last is not None and errors.last.code() in _REFUSED else error
    if refused is not None and refused.code() in _REFUSED:
        return BadConfigError(
            f"the Kafka brokers refuse access to topic {topic}", expected="a user with the rights of docs/streaming.md",
            got=refused.str(), hint="check FRAUD_KAFKA_SASL_USERNAME, its password and its ACLs",
        )  # fmt: skip
    if error is not None and error.code() in _NO_TOPIC:
        return BadInputError(f"there is no Kafka topic {topic}", got=error.str(), hint="create it: docs/streaming.md")
    got = " / ".join(e.str() for e in (error, errors.last) if e is not None)
    return UnavailableError("Kafka does not answer", got=got or "no answer", hint="check FRAUD_KAFKA_BROKERS")


def raised(topic: str, exception: KafkaException, errors: ClientErrors) -> FraudError:
    """An exception of a call as the error of a job."""
    cause = exception.args[0]
    return as_fraud_error(topic, cause if isinstance(cause, KafkaError) else None, errors)
