"""Sources are read at once; one that fails or does not answer is reported, and the others are kept."""

import threading
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from fraud.errors import UnavailableError
from fraud.status.reading import Read, within


def failing(error: Exception) -> Read:
    def read() -> Mapping[str, Any]:
        raise error

    return read


def test_a_source_without_an_answer_within_the_deadline_is_late_and_its_later_answer_is_dropped() -> None:
    asked, answer = threading.Event(), threading.Event()

    def hanging() -> Mapping[str, Any]:
        asked.set()
        answer.wait()
        return {"late": 1}

    values, states = within(1.0, {"hanging": hanging, "quick": lambda: {"quick": 2}})
    assert asked.is_set()
    assert (values, states) == ({"quick": 2}, {"hanging": "no answer within 1 s", "quick": ""})
    answer.set()
    assert values == {"quick": 2}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnavailableError("the store is down", got="refused", hint="start it"), "the store is down: refused"),
        (ValueError("not\na number"), "ValueError: not a number"),
        (KeyError("verdict"), "KeyError: 'verdict'"),
        (
            httpx.HTTPStatusError("x", request=httpx.Request("GET", "http://a"), response=httpx.Response(503)),
            "status 503",
        ),
    ],
)
def test_the_reason_is_one_line(error: Exception, reason: str) -> None:
    assert within(30, {"broken": failing(error), "well": lambda: {"a": 1}}) == (
        {"a": 1},
        {"broken": reason, "well": ""},
    )
