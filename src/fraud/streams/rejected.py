"""The job `rejected`: list the messages that were rejected from a topic, and send them to it again.

A message is replayed after its cause was removed, such as a version that lacks a column, or a consumer that is too old.
Replaying is safe: the transaction_id makes a message that is sent twice the same transaction.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliSubCommand, get_subcommand

from fraud import printing
from fraud.errors import BadConfigError
from fraud.job import Context, JobConfig, JobResult
from fraud.streams import rejected_topic
from fraud.streams.rejected_topic import Place, Rejected, Sender
from fraud.streams.topic_reader import describe, reading

_AT_ONCE: Final = 1_000
_SHOWN: Final = 60
_WHERE: Final = r"^\d+@\d+$"
Where = Annotated[str, Field(pattern=_WHERE)]


class List(JobConfig):
    """Print the rejected messages: when, where (partition@offset of the topic), why and the first bytes."""

    topic: str = Field(default="transactions", description="the topic that the messages were rejected from")
    reason: str = Field(default="", description="only messages with this reason")
    where: Where | None = Field(default=None, description="only this message, in full: PARTITION@OFFSET")
    limit: int = Field(default=20, ge=1, description="print the newest N messages")
    replayed: bool = Field(default=False, description="also messages that were replayed")


class Replay(JobConfig):
    """Send rejected messages to their topic again, with their keys, values and headers. Each is sent once."""

    topic: str = Field(default="transactions", description="the topic that the messages were rejected from")
    reason: str = Field(default="", description="only messages with this reason")
    where: Where | None = Field(default=None, description="only this message: PARTITION@OFFSET")
    all: bool = Field(default=False, description="every message that was not replayed")


class Config(JobConfig):
    """One of list and replay; `fraud rejected <command> --help` describes its flags."""

    list: CliSubCommand[List]
    replay: CliSubCommand[Replay]


class Row(BaseModel):
    """One rejected message."""

    model_config = ConfigDict(frozen=True)

    rejected_at: str
    where: str
    reason: str
    field: str
    detail: str
    replayed: bool
    bytes: int
    key: str
    value: str


class Listing(JobResult):
    """Messages of the rejected topic, newest first."""

    topic: str
    messages: int
    """That were rejected, each once."""
    replayed: int
    reasons: dict[str, int]
    """Messages that were not replayed, by reason."""
    rows: tuple[Row, ...]

    def as_text(self) -> str:
        """The counts, then a table."""
        counts = f"{self.messages} rejected, {self.replayed} of them replayed"
        head = f"{self.topic}: {counts}; {printing.cell(self.reasons)}"
        return "\n".join([head, "", *printing.table(row.model_dump() for row in self.rows)]) if self.rows else head


class Replayed(JobResult):
    """Messages that were sent again, and selected ones that were not."""

    topic: str
    replayed: int
    replayed_before: int
    truncated: int
    """Not sent, because the rejected topic has only their first bytes; the original is in the topic itself."""


def run(config: Config, context: Context) -> JobResult:
    """Run the command. Raises BadInputError without the topic, UnavailableError when Kafka does not answer."""
    match get_subcommand(config, is_required=False):
        case List() as given:
            return _listed(given, context)
        case Replay() as given:
            return _replayed(given, context)
    raise BadConfigError("no command", expected="list or replay", hint="fraud rejected --help")


def _messages(topic: str, context: Context) -> Iterator[Rejected]:
    """Everything in the rejected topic. A message may come twice."""
    name = rejected_topic.name_of(topic)
    found = describe(context.settings, name)
    with reading(context.settings, name) as reader:
        for partition in found.partitions:
            for chunk in reader.chunks(partition, reader.oldest(partition), None, _AT_ONCE):
                yield from filter(None, (rejected_topic.parse(record, topic) for record in chunk.records))


def _selected(message: Rejected, reason: str, where: str | None) -> bool:
    return not message.replayed and reason in ("", message.reason.code) and where in (None, _where(message.place))


def _where(place: Place) -> str:
    return f"{place.partition}@{place.offset}"


def _listed(given: List, context: Context) -> Listing:
    rows: dict[Place, Row] = {}
    done: set[Place] = set()
    shown = None if given.where else _SHOWN
    for message in _messages(given.topic, context):
        if message.replayed:
            done.add(message.place)
        elif _selected(message, given.reason, given.where):
            rows[message.place] = _row(message, shown)
    listed = [row.model_copy(update={"replayed": place in done}) for place, row in rows.items()]
    visible = sorted((r for r in listed if given.replayed or not r.replayed), key=lambda r: r.rejected_at, reverse=True)
    return Listing(
        topic=rejected_topic.name_of(given.topic), messages=len(listed), replayed=sum(r.replayed for r in listed),
        reasons=dict(sorted(Counter(r.reason for r in listed if not r.replayed).items())),
        rows=tuple(visible[: given.limit]),
    )  # fmt: skip


def _row(message: Rejected, shown: int | None) -> Row:
    at = datetime.fromtimestamp((message.timestamp_us or 0) / 1e6, UTC)
    return Row(
        rejected_at=at.isoformat(timespec="milliseconds"), where=_where(message.place), reason=message.reason.code,
        field=message.reason.field, detail=message.reason.detail[:shown], replayed=False, bytes=message.size,
        key=_text(message.key)[:shown], value=_text(message.value)[:shown],
    )  # fmt: skip


def _text(data: bytes | None) -> str:
    return "" if data is None else data.decode(errors="backslashreplace")


def _replayed(given: Replay, context: Context) -> Replayed:
    if not (given.all or given.reason or given.where):
        raise BadConfigError("nothing is selected", expected="--where, --reason or --all")
    done = {message.place for message in _messages(given.topic, context) if message.replayed}
    counts, seen = Counter[str](), set[Place]()
    sender = Sender(context.settings)
    for message in _messages(given.topic, context):
        if message.place in seen or not _selected(message, given.reason, given.where):
            continue
        seen.add(message.place)
        if message.place in done:
            counts["before"] += 1
        elif message.truncated:
            counts["truncated"] += 1
        else:
            sender.replay(message)
            sender.flush()  # the record of the replay follows the message
            sender.record_replay(message)
            counts["sent"] += 1
    sender.flush()
    return Replayed(
        topic=given.topic, replayed=counts["sent"], replayed_before=counts["before"], truncated=counts["truncated"]
    )  # fmt: skip
