"""httpx, requests or aiohttp with their defaults: client.py URL LIBRARY (PATH BODY)..."""

import asyncio
import sys

HEADERS = {"content-type": "application/json"}


def with_httpx(url: str, requests: list[tuple[str, str]]) -> list[tuple[int, str]]:
    import httpx  # noqa: PLC0415 - each is in one environment only

    with httpx.Client(base_url=url, headers=HEADERS, timeout=30, trust_env=False) as client:
        answers = [client.post(path, content=body) for path, body in requests]
    return [(answer.status_code, answer.text) for answer in answers]


def with_requests(url: str, requests: list[tuple[str, str]]) -> list[tuple[int, str]]:
    from requests import Session  # noqa: PLC0415 - each is in one environment only

    with Session() as session:
        session.trust_env = False
        answers = [session.post(url + path, data=body, headers=HEADERS, timeout=30) for path, body in requests]
    return [(answer.status_code, answer.text) for answer in answers]


def with_aiohttp(url: str, requests: list[tuple[str, str]]) -> list[tuple[int, str]]:
    import aiohttp  # noqa: PLC0415 - each is in one environment only

    async def send() -> list[tuple[int, str]]:
        answers = []
        async with aiohttp.ClientSession(url, headers=HEADERS) as session:
            for path, body in requests:
                async with session.post(path, data=body) as answer:
                    answers.append((answer.status, await answer.text()))
        return answers

    return asyncio.run(send())


URL, LIBRARY, *REST = sys.argv[1:]
SEND = {"httpx": with_httpx, "requests": with_requests, "aiohttp": with_aiohttp}[LIBRARY]
for status, text in SEND(URL, list(zip(REST[::2], REST[1::2], strict=True))):
    print(f"{text}\n{status}")
