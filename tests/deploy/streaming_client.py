"""A client of the profile's Kafka, run in the network namespace of tests/deploy/test_streaming_profile.py.

python streaming_client.py USER PASSWORD decide TRANSACTION   sends a transaction, prints the decision
python streaming_client.py USER PASSWORD write TOPIC          sends a message, prints delivered or the errors
python streaming_client.py USER PASSWORD try TOPIC            the same, and ends with the first error
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Producer

BROKER: Final = "localhost:9095"
SECONDS: Final = 100


def main(arguments: Sequence[str]) -> None:
    user, password, action, what = arguments
    errors: list[str] = []
    login: dict[str, Any] = {
        "bootstrap.servers": BROKER, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user, "sasl.password": password, "error_cb": lambda error: errors.append(error.name()),
    }  # fmt: skip
    producer = Producer({**login, "enable.idempotence": True, "partitioner": "murmur2_random"})
    failed: list[KafkaError | None] = []
    topic, value = ("transactions", what) if action == "decide" else (what, "{}")
    key = json.loads(what)["user_id"] if action == "decide" else "k"
    producer.produce(topic, value, key, on_delivery=lambda error, _: failed.append(error))
    deadline_s = time.monotonic() + SECONDS
    # The producer keeps trying after a wrong password or a closed connection, and reports nothing of its messages.
    while not failed and not (action == "try" and errors) and time.monotonic() < deadline_s:
        producer.poll(0.1)
    if action != "decide" or failed != [None]:
        print("delivered" if failed == [None] else f"not delivered: {errors} {failed}")
        producer.purge()
        return
    consumer = Consumer({**login, "group.id": "checkout", "auto.offset.reset": "earliest", "session.timeout.ms": 6_000})
    consumer.subscribe(["decisions"])
    message = None
    for _ in range(SECONDS):
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            break
    consumer.close()
    print(message.value().decode() if message is not None else f"no decision: {errors}")


if __name__ == "__main__":
    main(sys.argv[1:])
