"""Create the users, access rights and topics of the platform in a Kafka cluster. Safe to repeat.

It connects over the broker's listener without a login, which only containers in the broker's network namespace reach,
so that no administrator's password exists. Passwords are read from the environment: USER_PASSWORD for each user.

* Topics that exist keep their messages. Their settings are set again; partitions are added, never removed.
* Users get the password of this run, so a new password takes effect with a restart of the user's clients.
* Access rights are added. One that this file no longer names is removed with Kafka's own tools.
"""

import os
import sys
from concurrent.futures import Future
from typing import Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewPartitions, NewTopic

DAY_MS: Final = 86_400_000
REQUEST_S: Final = 30.0
ITERATIONS: Final = 8192
"""Of SCRAM: how often a guess of a stolen credential has to be hashed."""
READ, WRITE = AclOperation.READ, AclOperation.WRITE
TOPIC, GROUP, TRANSACTIONAL_ID = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID


class Topic(NamedTuple):
    """A topic. Keys are user ids, or transaction ids of labels."""

    name: str
    partitions: int
    retention_days: int
    max_message_bytes: int = 1_048_576


class Right(NamedTuple):
    """What a user may do. A right to read or write includes the right to describe."""

    user: str
    operation: AclOperation
    kind: ResourceType
    name: str
    """Of a topic; the prefix of the names of consumer groups and of transactional ids."""


def topics(partitions: int) -> tuple[Topic, ...]:
    """The topics. `partitions` is the largest number of consumers that can score at a time.

    Retention is how long a consumer, or the job `ingest-topic`, may be down without losing messages. Rejected messages
    are kept longer, because a person looks at them.
    """
    return (
        Topic("transactions", partitions, 7),
        Topic("decisions", partitions, 7),
        Topic("transactions.rejected", 1, 30, 17_825_792),
        Topic("labels", 1, 30),
        Topic("labels.rejected", 1, 30, 17_825_792),
    )


RIGHTS: Final = (
    # The consumer that scores: services/serving.
    Right("stream", READ, TOPIC, "transactions"),
    Right("stream", READ, GROUP, "fraud-scoring"),
    Right("stream", WRITE, TOPIC, "decisions"),
    Right("stream", WRITE, TOPIC, "transactions.rejected"),
    Right("stream", WRITE, TRANSACTIONAL_ID, "fraud-scoring"),  # with STREAM_TRANSACTIONS=1
    # Jobs: ingest-topic, ingest-events, rejected list and replay.
    *(
        Right("jobs", READ, TOPIC, name)
        for name in ("transactions", "labels", "transactions.rejected", "labels.rejected")
    ),
    *(
        Right("jobs", WRITE, TOPIC, name)
        for name in ("transactions", "labels", "transactions.rejected", "labels.rejected")
    ),
    Right("jobs", READ, GROUP, "fraud-topic-reader"),
    Right("jobs", READ, GROUP, "online-history"),
    # The source of transactions and labels, which also reads the decisions.
    Right("checkout", WRITE, TOPIC, "transactions"),
    Right("checkout", WRITE, TOPIC, "labels"),
    Right("checkout", READ, TOPIC, "decisions"),
    Right("checkout", READ, GROUP, "checkout"),
)
USERS: Final = tuple(dict.fromkeys(right.user for right in RIGHTS))


def settings(topic: Topic, replicas: int) -> dict[str, str]:
    """The settings of a topic.

    `min.insync.replicas`: a message is acknowledged when that many replicas have it, and refused while fewer are in
    sync. All but one: a cluster of three accepts messages while one broker is down, and loses none that it acknowledged
    when another one fails then. With a single broker it is 1, and its disk is the only copy.

    LogAppendTime: the timestamp of a message is the broker's clock, which becomes the ingestion time of a transaction.
    """
    return {
        "retention.ms": str(topic.retention_days * DAY_MS),
        "cleanup.policy": "delete",
        "min.insync.replicas": str(max(1, replicas - 1)),
        "max.message.bytes": str(topic.max_message_bytes),
        "message.timestamp.type": "LogAppendTime",
    }


def bindings() -> list[AclBinding]:
    """RIGHTS as Kafka's access control entries."""
    return [
        AclBinding(
            right.kind, right.name,
            ResourcePatternType.LITERAL if right.kind == TOPIC else ResourcePatternType.PREFIXED,
            f"User:{right.user}", "*", right.operation, AclPermissionType.ALLOW,
        )
        for right in RIGHTS
    ]  # fmt: skip


def create_topics(client: AdminClient, expected: tuple[Topic, ...], replicas: int) -> None:
    """Create missing topics; set the settings and add the partitions of those that exist."""
    known = client.list_topics(timeout=REQUEST_S).topics
    new = [
        NewTopic(topic.name, topic.partitions, replicas, config=settings(topic, replicas))
        for topic in expected
        if topic.name not in known
    ]
    if new:
        _wait(client.create_topics(new, request_timeout=REQUEST_S))
    old = [topic for topic in expected if topic.name in known]
    if old:
        _wait(client.incremental_alter_configs([_changes(topic, replicas) for topic in old], request_timeout=REQUEST_S))
    more = [NewPartitions(t.name, t.partitions) for t in old if t.partitions > len(known[t.name].partitions)]
    if more:
        _wait(client.create_partitions(more, request_timeout=REQUEST_S))
    print(f"topics: {len(new)} created, {len(old)} existed, {len(more)} of them got more partitions")


def _changes(topic: Topic, replicas: int) -> ConfigResource:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in settings(topic, replicas).items()
    ]
    return ConfigResource(ConfigResource.Type.TOPIC, topic.name, incremental_configs=entries)


def create_users(client: AdminClient, passwords: dict[str, str]) -> None:
    """Create users that log in with SCRAM-SHA-512, or set their passwords."""
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    changes = [UserScramCredentialUpsertion(user, scram, password.encode()) for user, password in passwords.items()]
    _wait(client.alter_user_scram_credentials(changes, request_timeout=REQUEST_S))
    print(f"users: {', '.join(passwords)}")


def _wait(futures: dict[object, Future[object]]) -> None:
    for future in futures.values():
        future.result(REQUEST_S)


def main() -> None:
    """Prepare the cluster at KAFKA_BOOTSTRAP. Exits with 1 and the reason when it cannot."""
    replicas = int(os.environ.get("KAFKA_REPLICAS") or 1)
    client = AdminClient({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"]})
    try:
        create_users(client, {user: os.environ[f"{user.upper()}_PASSWORD"] for user in USERS})
        _wait(client.create_acls(bindings(), request_timeout=REQUEST_S))
        print(f"access rights: {len(RIGHTS)}")
        create_topics(client, topics(int(os.environ.get("KAFKA_PARTITIONS") or 12)), replicas)
    except (KafkaException, TimeoutError) as error:
        sys.exit(f"the Kafka cluster was not prepared: {error!r}")


if __name__ == "__main__":
    main()
