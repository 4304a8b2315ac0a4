"""The stream process, which kills itself with SIGKILL at a step: KILL_STEP, at the KILL_AT-th time the step is reached.

polled: a batch was polled. appended: the store has the events and has replied. kept: the store has the answers.
produced: the decisions were passed to the producer. acknowledged: the broker has them all. committed: their offsets
were sent to be committed. uncommitted: with transactions, the broker has the decisions and their transaction is open.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fraud_serving.scoring.messages import MessageScorer
from fraud_serving.stream import __main__ as program
from fraud_serving.stream import consumer, progress, publisher, transactions, worker

STEPS: dict[str, tuple[type[Any], str, str]] = {
    "polled": (worker.Worker, "_start", "before"),
    "appended": (MessageScorer, "score", "before"),
    "kept": (MessageScorer, "finish", "before"),
    "produced": (publisher.Publisher, "publish", "after"),
    "acknowledged": (progress.Progress, "acknowledged", "before"),
    "committed": (consumer.TopicConsumer, "_committed", "after"),
    "uncommitted": (transactions.TransactionalPublisher, "_committed", "before"),
}


def killed(method: Callable[..., Any], when: str, at: int) -> Callable[..., Any]:
    left = [at]

    def reached() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    async def in_turn(*arguments: object) -> object:
        found = await method(*arguments)
        reached()
        return found

    def at_once(*arguments: object) -> object:
        if when == "before":
            if isinstance(arguments[0], transactions.TransactionalPublisher):
                arguments[0]._producer.flush()
            reached()
        found = method(*arguments)
        if when == "after":
            reached()
        return found

    return in_turn if method.__name__ == "publish" else at_once


if __name__ == "__main__":
    of, name, when = STEPS[os.environ["KILL_STEP"]]
    setattr(of, name, killed(getattr(of, name), when, int(os.environ["KILL_AT"])))
    sys.exit(program.main())
