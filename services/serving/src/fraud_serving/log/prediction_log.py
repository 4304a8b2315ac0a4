"""The prediction log: one JSON line per answer in a local segment, written by a thread.

Guarantee: a record is written to the operating system within `FLUSH_S` of its answer and synced to the disk at most
`SYNC_S` later. SIGTERM loses nothing, SIGKILL at most the last `FLUSH_S`, a power cut at most `FLUSH_S + SYNC_S`. After
a SIGKILL the last line may be incomplete; readers skip it.

Back-pressure: requests do not wait for the disk. While it is full or slow, records stay in memory, at most
`queue_records`; further ones are dropped and counted. Every process start opens a new segment.
"""

import logging
import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fraud_serving.log.prediction_record import PredictionRecord
from fraud_serving.metrics import Metrics

_log = logging.getLogger(__name__)
FLUSH_S: Final = 0.2
SYNC_S: Final = 1.0
SEGMENT_S: Final = 3600.0
"""No line is written to a segment later than this after it was opened, so a reader can tell that it is complete."""
_RETRY_S: Final = 1.0
_RECORDS_PER_WRITE: Final = 500
_MAX_SHADOWS: Final = 20_000
"""Beyond this many queued records, what the challenger needs is not kept, so that a full disk costs little memory."""
Entry = tuple[PredictionRecord, object]
"""A record, and what `before_write` needs besides it."""


class _Lines(NamedTuple):
    """Records that were queued as the lines they are written as."""

    data: bytes
    records: int


class PredictionLog:
    """A bounded queue, and the thread that writes it to segments. The thread calls `before_write` with the records."""

    def __init__(
        self,
        folder: Path,
        queue_records: int,
        segment_bytes: int,
        metrics: Metrics,
        before_write: Callable[[Sequence[Entry]], None],
    ) -> None:
        self._folder, self._max_queued, self._max_bytes = folder, queue_records, segment_bytes
        self._metrics, self._before_write = metrics, before_write
        self._queue: deque[Entry | _Lines] = deque()  # append and popleft are atomic
        self.accepted = 0
        """Records that were queued since the start."""
        self._stop = threading.Event()
        self._file: int | None = None
        self._size = 0
        self._unsynced = False
        self._synced_s = self._opened_s = 0.0
        self._encoder = msgspec.json.Encoder()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Open the first segment and start the thread. Raises OSError if the folder cannot be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open()
        self._thread.start()

    def append(self, record: PredictionRecord, shadow: object = None) -> None:
        """Queue a record, or drop and count it if the queue is full. Called on the event loop; does not wait."""
        queued = self.queued
        if queued >= self._max_queued:
            self._metrics.log_dropped += 1
            return
        self._queue.append((record, shadow if queued < _MAX_SHADOWS else None))
        self.accepted += 1

    def append_all(self, entries: Sequence[Entry]) -> None:
        """`append` of the entries of a batch."""
        if self.queued + len(entries) < min(self._max_queued, _MAX_SHADOWS):
            self._queue.extend(entries)
            self.accepted += len(entries)
            return
        for record, shadow in entries:
            self.append(record, shadow)

    def append_lines(self, lines: bytes, records: int) -> None:
        """Queue records that are encoded already, as `append`."""
        room = self._max_queued - self.queued
        if records > room:
            self._metrics.log_dropped += records - room
            lines, records = b"".join(lines.splitlines(keepends=True)[:room]), room
        if records:
            self._queue.append(_Lines(lines, records))
            self.accepted += records

    @property
    def queued(self) -> int:
        """Records in the queue."""
        return self.accepted - self._metrics.log_written

    @property
    def written(self) -> int:
        """Records that were written to the operating system since the start, in the order in which they were queued."""
        return self._metrics.log_written

    def close(self) -> None:
        """Write and sync the queue, and end the thread. Called after the last request."""
        self._stop.set()
        self._thread.join()
        if self._queue or self._file is not None:  # the thread failed before it wrote and synced them
            self._write_all()

    def _run(self) -> None:
        """End the process if the thread fails: without it no answer would be logged. The process is then restarted."""
        finished = False
        try:
            self._write_all()
            finished = True
        finally:
            if not finished:
                _log.critical("prediction log thread failed, process ends")
                os.kill(os.getpid(), signal.SIGTERM)

    def _write_all(self) -> None:
        while True:
            last = self._stop.is_set()
            try:
                self._drain()
                self._sync(now=last)
            except OSError as error:
                self._metrics.log_errors += 1
                _log.error("prediction log not writable: %s", error)
                if last:
                    self._metrics.log_dropped += self.queued
                    return
                self._stop.wait(_RETRY_S)
            self._metrics.log_queued = self.queued
            if last:
                self._close_segment()
                return
            self._stop.wait(FLUSH_S)

    def _drain(self) -> None:
        """Write the queued records. On OSError those that were not written stay in the queue."""
        while self._queue:
            lines, records, entries = self._next()
            full = self._size + len(lines) > self._max_bytes
            if self._file is None or full or time.monotonic() - self._opened_s > SEGMENT_S:
                self._open()
            self._write(lines)
            self._metrics.log_written += records
            for _ in range(entries):
                self._queue.popleft()

    def _next(self) -> tuple[bytes, int, int]:
        """The first lines of the queue, and of how many records and entries they are."""
        batch, blocks, records = list[Entry](), list[_Lines](), 0
        # By index: the event loop appends meanwhile, and iterating over a deque that grows raises RuntimeError.
        for index in range(len(self._queue)):
            entry = self._queue[index]
            if records >= _RECORDS_PER_WRITE or bool(batch if isinstance(entry, _Lines) else blocks):
                break
            if isinstance(entry, _Lines):
                blocks.append(entry)
                records += entry.records
            else:
                batch.append(entry)
                records += 1
        if blocks:
            return b"".join([of.data for of in blocks]), records, len(blocks)
        self._before_write(batch)
        return self._encoder.encode_lines([record for record, _ in batch]), records, records

    def _write(self, lines: bytes) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker: `_drain` opened it
        done = 0
        try:
            while done < len(lines):
                done += os.write(self._file, lines[done:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)
        self._unsynced = True

    def _sync(self, *, now: bool) -> None:
        now_s = time.monotonic()
        if self._unsynced and self._file is not None and (now or now_s - self._synced_s >= SYNC_S):
            os.fsync(self._file)
            self._unsynced, self._synced_s = False, now_s

    def _open(self) -> None:
        self._close_segment()
        name = f"segment-{time.time_ns() // 1000}-{secrets.token_hex(4)}.jsonl"
        self._file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._size, self._opened_s = 0, time.monotonic()

    def _close_segment(self) -> None:
        if self._file is not None:
            self._sync(now=True)
            os.close(self._file)
            self._file = None
