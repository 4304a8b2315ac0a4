"""quixstreams with the same model and the same work per message as plain.py.

python quix.py BROKERS TOPIC DECISIONS MODEL STORE_URL
"""

import sys

from common import PlainScorer
from quixstreams import Application


def main() -> None:
    brokers, topic, decisions, model, store = sys.argv[1:6]
    scorer = PlainScorer(model, store)
    app = Application(
        broker_address=brokers, consumer_group=f"quix-{topic}", auto_offset_reset="earliest", auto_create_topics=False,
        commit_interval=0.2, loglevel="WARNING",
        consumer_extra_config={"session.timeout.ms": 60_000, "fetch.wait.max.ms": 5},
        producer_extra_config={"linger.ms": 1},
    )  # fmt: skip
    frame = app.dataframe(app.topic(topic, value_deserializer="json"))
    frame = frame.apply(scorer.decide)
    frame.to_topic(app.topic(decisions, value_serializer="json"))
    app.run()


if __name__ == "__main__":
    main()
