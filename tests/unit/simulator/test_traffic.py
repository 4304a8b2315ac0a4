"""Traffic: what is sent, in which order, and what is made of the answers."""

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from fraud import declaration_file
from fraud.errors import BadConfigError, BadInputError, UnavailableError
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings
from fraud.simulator import traffic
from fraud.simulator.deliveries import Plan, deliveries

ROOT = Path(__file__).parents[3]
DECLARATION = declaration_file.load_of(ROOT)
UTC = pa.timestamp("us", "UTC")
FIRST = dt.datetime(2026, 3, 4, 3, 0, tzinfo=dt.UTC)


class Checkout:
    """An HTTP/1.1 server that notes what it is sent and answers by rule: 422 without an amount, fraud above 100."""

    def __init__(self) -> None:
        self.received: list[dict[str, object]] = []
        self.heads: list[bytes] = []
        self.hang_up_once = False
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                if self.hang_up_once:
                    self.hang_up_once = False
                    break
                self.received.append(body)
                self.heads.append(head)
                status, answer = 422, {"reason": "amount"}
                if "amount" in body:
                    fraud = body["amount"] > 100
                    status, answer = 200, {"is_fraud": fraud, "degraded": False, "model_version": "7"}
                text = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        asyncio.run_coroutine_threadsafe(self._server.wait_closed(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    server = Checkout()
    yield server
    server.close()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    params = Params.load(ROOT / "params.yaml")
    return Context(Settings(home=tmp_path), params, DECLARATION, structlog.get_logger())


def write(path: Path, rows: list[tuple[str, str, int, float | None]]) -> Path:
    """(transaction, user, seconds after FIRST, amount) rows as a landed file."""
    table = pa.table(
        {
            "transaction_id": [row[0] for row in rows], "user_id": [row[1] for row in rows],
            "merchant_id": ["m"] * len(rows), "merchant_category": ["travel"] * len(rows),
            "event_timestamp": pa.array([FIRST + dt.timedelta(seconds=row[2]) for row in rows], UTC),
            "amount": pa.array([row[3] for row in rows], pa.float64()),
            "distance_from_home": pa.array([None] * len(rows), pa.float64()),
        }
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_every_transaction_is_sent_once_and_each_users_in_order_of_time(
    checkout: Checkout, context: Context, tmp_path: Path
) -> None:
    rows = [(f"t{n}", f"u{n % 7}", 1000 - n, 150.0 if n % 10 == 0 else 50.0) for n in range(200)]
    source = write(tmp_path / "in" / "transactions" / "dt=2026-03-04" / "a.parquet", rows)
    write(tmp_path / "in" / "labels" / "b.parquet", rows)  # not transactions: not sent
    result = traffic.run(
        traffic.Config(source=tmp_path / "in", url=checkout.url, rate=0, concurrency=4), context
    )  # fmt: skip
    assert (result.sent, result.answered, result.flagged_fraud, result.model_versions) == (200, 200, 20, {"7": 200})
    assert sorted(str(r["transaction_id"]) for r in checkout.received) == sorted(row[0] for row in rows)
    for user in range(7):
        times = [str(r["event_timestamp"]) for r in checkout.received if r["user_id"] == f"u{user}"]
        assert times == sorted(times)
    assert source.is_file()


def test_refusals_are_counted_and_nulls_are_left_out(checkout: Checkout, context: Context, tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", [("t1", "u", 0, None), ("t2", "u", 1, 5.0)])
    result = traffic.run(traffic.Config(source=source, url=checkout.url, rate=0), context)
    assert (result.answered, result.refused, result.failed) == (1, 1, 0)
    assert "amount" not in checkout.received[0]
    assert "distance_from_home" not in checkout.received[1]
    assert checkout.received[1]["event_timestamp"] == "2026-03-04T03:00:01+00:00"


def test_requests_have_all_declared_columns_and_no_others(checkout: Checkout, context: Context, tmp_path: Path) -> None:
    plan = Plan(FIRST.date(), 2, 30, 1, 0.01, 0.0, DECLARATION.columns)
    table = pa.concat_tables([each.transactions for each in deliveries(plan)])
    pq.write_table(table.append_column("undeclared", pa.array(["x"] * table.num_rows)), tmp_path / "a.parquet")
    result = traffic.run(traffic.Config(source=tmp_path / "a.parquet", url=checkout.url, rate=0), context)
    assert result.answered == table.num_rows
    sent = {str(row["transaction_id"]): row for row in checkout.received}
    names = ["user_id", "merchant_id", "amount", *DECLARATION.columns]
    for row in table.to_pylist():
        expected = {name: row[name] for name in names if row[name] is not None}
        expected |= {"transaction_id": row["transaction_id"], "event_timestamp": row["event_timestamp"].isoformat()}
        assert sent[row["transaction_id"]] == expected
    flags = {type(value) for row in sent.values() for value in row.values()}
    assert flags == {str, float, bool}


def test_a_file_of_before_a_column_was_declared_is_sent_without_it(
    checkout: Checkout, context: Context, tmp_path: Path
) -> None:
    rows = [("t1", "u", 0, 5.0), ("t2", "u", 1, 5.0)]
    older = write(tmp_path / "in" / "a.parquet", rows[:1])
    newer = write(tmp_path / "in" / "b.parquet", rows[1:])
    pq.write_table(pq.read_table(newer).append_column("country", pa.array(["FR"])), newer)
    result = traffic.run(traffic.Config(source=older.parent, url=checkout.url, rate=0, concurrency=1), context)
    assert result.answered == 2
    assert [row.get("country") for row in checkout.received] == [None, "FR"]


def test_arrivals_keep_the_rate_asked_for(checkout: Checkout, context: Context, tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", [(f"t{n}", f"u{n}", n, 5.0) for n in range(200)])
    # A rate far below what client and server can do, which share this process: they must not be what is measured.
    result = traffic.run(traffic.Config(source=source, url=checkout.url, rate=100, seed=1), context)
    assert 1.4 < result.seconds < 4  # 200 arrivals at 100/s take 2 s +- 0.14 (1 sigma)
    assert result.p50_ms <= result.p99_ms <= result.max_ms


def test_a_lost_connection_is_taken_up_again_with_the_same_transaction(
    checkout: Checkout, context: Context, tmp_path: Path
) -> None:
    checkout.hang_up_once = True
    source = write(tmp_path / "a.parquet", [("t1", "u", 0, 5.0), ("t2", "u", 1, 5.0)])
    result = traffic.run(traffic.Config(source=source, url=checkout.url, rate=0, concurrency=1), context)
    assert (result.answered, result.resent) == (2, 1)
    assert [r["transaction_id"] for r in checkout.received] == ["t1", "t2"]


def test_a_limit_and_a_key_are_honoured(checkout: Checkout, context: Context, tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", [(f"t{n}", "u", n, 5.0) for n in range(9)])
    key = tmp_path / "key"
    key.write_text("checkout.secret\n")
    result = traffic.run(
        traffic.Config(source=source, url=checkout.url, rate=0, limit=3, key_file=key), context
    )  # fmt: skip
    assert result.sent == 3
    assert all(b"x-api-key: checkout.secret\r\n" in head for head in checkout.heads)


def test_what_cannot_be_sent_is_said_so(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInputError, match="no Parquet file"):
        traffic.run(traffic.Config(source=empty), context)
    pq.write_table(pa.table({"amount": [1.0]}), tmp_path / "short.parquet")
    with pytest.raises(BadInputError, match="cannot be read as transactions"):
        traffic.run(traffic.Config(source=tmp_path / "short.parquet"), context)
    source = write(tmp_path / "a.parquet", [("t1", "u", 0, 5.0)])
    with pytest.raises(BadConfigError, match="--url"):
        traffic.run(traffic.Config(source=source, url="ftp://x"), context)
    monkeypatch.setattr(traffic, "_PATIENCE_S", 0.3)
    with pytest.raises(UnavailableError, match="no answer from"):
        traffic.run(traffic.Config(source=source, url="http://127.0.0.1:9"), context)
