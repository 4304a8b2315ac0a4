"""A plain loop of confluent-kafka: poll, one redis-py round trip, one ONNX Runtime call and one produce per message.

python plain.py BROKERS TOPIC DECISIONS MODEL STORE_URL
"""

import json
import sys

from common import PlainScorer, parsed
from confluent_kafka import Consumer, Producer


def main() -> None:
    brokers, topic, decisions, model, store = sys.argv[1:6]
    scorer = PlainScorer(model, store)
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": f"plain-{topic}", "auto.offset.reset": "earliest",
            "session.timeout.ms": 60_000, "fetch.wait.max.ms": 5,
        }
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 1})
    consumer.subscribe([topic])
    while True:
        message = consumer.poll(1.0)
        producer.poll(0)
        if message is None or message.error():
            continue
        producer.produce(decisions, json.dumps(scorer.decide(parsed(message.value()))), message.key())


if __name__ == "__main__":
    main()
