"""The stream process with a defect: to score a payment of the user "bad" raises."""

import sys
from typing import Any

from fraud_serving.scoring.messages import MessageScorer
from fraud_serving.stream import __main__ as program

_score = MessageScorer.score


def failing(self: MessageScorer, reading: Any, replies: Any) -> Any:  # noqa: ANN401 - passed through
    if any(row.user_id == "bad" for row in reading.rows):
        raise ZeroDivisionError
    return _score(self, reading, replies)


if __name__ == "__main__":
    MessageScorer.score = failing  # type: ignore[method-assign]
    sys.exit(program.main())
