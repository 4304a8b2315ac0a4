"""Every answer as one JSON line in a local segment, written off the hot path.

Guarantee. An answer's record is handed to the operating system within `FLUSH_S` of the answer and synced to the disk
at most `SYNC_S` later: SIGTERM loses nothing, kill -9 of the process at most the last `FLUSH_S`, a power cut at most
`FLUSH_S + SYNC_S`. A kill may leave a torn last line, which readers pass over.

Back-pressure. Serving never waits for the disk. While it is full or slow, records wait in memory, at most
`queue_records`; beyond that new ones are dropped and counted. Every process start opens a segment of its own.
"""

import logging
import os
import secrets
import signal
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from fraud_serving.log.record import Record
from fraud_serving.metrics import Metrics
from fraud_serving.model.challenger import Challenger

_log = logging.getLogger(__name__)
FLUSH_S: Final = 0.2
SYNC_S: Final = 1.0
SEGMENT_S: Final = 3600.0
"""A segment takes no line later than this after it was opened, so a reader knows when nothing can follow."""
_RETRY_S: Final = 1.0
_RECORDS_AT_ONCE: Final = 500


class PredictionLog:
    """A bounded queue and the thread that empties it into segments."""

    def __init__(
        self, folder: Path, queue_records: int, segment_bytes: int, metrics: Metrics, challenger: Challenger
    ) -> None:
        self._folder, self._bound, self._segment_bytes = folder, queue_records, segment_bytes
        self._metrics, self._challenger = metrics, challenger
        self._queue: deque[Record] = deque()  # its append and popleft are atomic
        self._stop = threading.Event()
        self._file: int | None = None
        self._size = 0
        self._unsynced = False
        self._synced_s = self._opened_s = 0.0
        self._encoder = msgspec.json.Encoder()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Raises OSError when the folder cannot be written: that is known at start, not at the first answer."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open()
        self._thread.start()

    def append(self, record: Record) -> None:
        """Queue a record. Called on the event loop only; never waits."""
        if len(self._queue) >= self._bound:
            self._metrics.log_dropped += 1
            return
        self._queue.append(record)

    def close(self) -> None:
        """Write and sync what is queued, and end. Called when no request is left."""
        self._stop.set()
        self._thread.join()
        if self._queue or self._file is not None:  # the thread did not live to write and sync it
            self._write_all()

    def _run(self) -> None:
        """A process that cannot keep its answers must not go on giving them: it ends, and is started again."""
        finished = False
        try:
            self._write_all()
            finished = True
        finally:
            if not finished:
                _log.critical("the prediction log's thread failed: this process ends")
                os.kill(os.getpid(), signal.SIGTERM)

    def _write_all(self) -> None:
        while True:
            last = self._stop.is_set()
            try:
                self._drain()
                self._sync(at_once=last)
            except OSError as error:
                self._metrics.log_errors += 1
                _log.error("the prediction log cannot be written: %s", error)
                if last:
                    self._metrics.log_dropped += len(self._queue)
                    return
                self._stop.wait(_RETRY_S)
            self._metrics.log_queued = len(self._queue)
            if last:
                self._close_segment()
                return
            self._stop.wait(FLUSH_S)

    def _drain(self) -> None:
        """Write whole lines and take them off the queue. On OSError both stay as they were, whole lines excepted."""
        while self._queue:
            # By index: the event loop appends meanwhile, and an iterator over a deque that grows raises.
            batch = [self._queue[index] for index in range(min(len(self._queue), _RECORDS_AT_ONCE))]
            self._challenger.score(batch)
            lines = self._encoder.encode_lines(batch)
            full = self._size + len(lines) > self._segment_bytes
            if self._file is None or full or time.monotonic() - self._opened_s > SEGMENT_S:
                self._open()
            self._put(lines)
            self._metrics.log_written += len(batch)
            for _ in batch:
                self._queue.popleft()

    def _put(self, lines: bytes) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker: `_write` opened it
        done = 0
        try:
            while done < len(lines):
                done += os.write(self._file, lines[done:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)
        self._unsynced = True

    def _sync(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if self._unsynced and self._file is not None and (at_once or now - self._synced_s >= SYNC_S):
            os.fsync(self._file)
            self._unsynced, self._synced_s = False, now

    def _open(self) -> None:
        self._close_segment()
        name = f"segment-{time.time_ns() // 1000}-{secrets.token_hex(4)}.jsonl"
        self._file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._size, self._opened_s = 0, time.monotonic()

    def _close_segment(self) -> None:
        if self._file is not None:
            self._sync(at_once=True)
            os.close(self._file)
            self._file = None
