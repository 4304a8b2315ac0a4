"""Change the production version under a lock, and record each change in an append-only history.

Setting the registry's alias `production` is the commit point of a change. A change commits an intent, takes the lock,
sets the alias and appends to the history. The next holder of the lock repairs the state after a killed process: an
alias that changed without a history entry gets the entry of the matching intent, and `previous`, `staging`, the stages
and the approval's tags are derived again from history and alias.

The history is a hash chain: the hash of an entry covers the entry and the hash before it. `verify` detects changed,
removed and inserted entries. Exports of versions are entries of the same chain; they change no alias.
"""

import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import OperationalError

from fraud.errors import RefusedError, UnavailableError
from fraud.registry import mlflow_client
from fraud.registry.mlflow_client import ModelVersion, lookup, registry_errors
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy.engine.interfaces import DBAPIConnection

PREVIOUS: Final = "previous"
STAGING: Final = "staging"
EXPORT: Final = "export"
"""The action of an entry that is no change of Production."""
GENESIS: Final = "0" * 64
_LOCK_WAIT_S: Final = 60
_POSTGRESQL: Final = {
    "lock_timeout": _LOCK_WAIT_S * 1_000,  # ms
    "tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3,  # s
}  # fmt: skip
"""The server drops the connection of a lost host, and its lock, after 25 s; Linux' default is 2 hours (man 7 tcp)."""
_CREATE_TABLES: Final = 0x6672617564
"""PostgreSQL's advisory lock while the tables are created: an arbitrary number that is not used elsewhere."""

_TABLES: Final = sa.MetaData()
_LOCK: Final = sa.Table("promotion_lock", _TABLES, sa.Column("id", sa.Integer, primary_key=True))
_INTENTS: Final = sa.Table(
    "promotion_intents",
    _TABLES,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("settled", sa.Boolean, nullable=False),
)
_HISTORY: Final = sa.Table(
    "promotion_history",
    _TABLES,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)


class Waiver(BaseModel):
    """Approval in spite of named failed gates, by a person, until a day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gates: tuple[str, ...]
    reason: str
    person: str
    expires: str
    """YYYY-MM-DD: first day on which the waiver is no longer valid."""


class Export(BaseModel):
    """A folder with a version that was made for use outside of the platform."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    """web or onnx."""
    sha256: str
    """sha256 of the folder's manifest.json, which has the sha256 of every other file."""


class Entry(BaseModel):
    """One change of Production, or one export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intent: str
    action: str
    """promote, rollback, expire (of a waiver), observed (the alias was changed without this module), or export."""
    version: str
    replaced: str | None
    """The production version before; None for the first change."""
    model_sha256: str
    actor: str
    reason: str
    at: str
    """Time of the request, ISO 8601, UTC."""
    waiver: Waiver | None = None
    export: Export | None = None


class Recorded(BaseModel):
    """An entry with its position and hash in the chain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    entry: Entry
    hash: str


class Promotion:
    """Changes of Production, serialized by a lock. Raises UnavailableError when registry or database do not answer."""

    def __init__(self, settings: Settings) -> None:
        self._client = mlflow_client.client(settings)
        self._engine = _engine(settings.control_db.get_secret_value())
        with _service_errors(), self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # the table with the lock row may not exist yet
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATE_TABLES)))
            _TABLES.create_all(connection, checkfirst=True)
            if not connection.scalar(sa.select(sa.func.count()).select_from(_LOCK)):
                connection.execute(_LOCK.insert().values(id=1))

    def close(self) -> None:
        """Close the database connections."""
        self._engine.dispose()

    def version(self, alias: str) -> ModelVersion | None:
        """The version of an alias; None if the alias is not set."""
        with _service_errors():
            return lookup(self._client.get_model_version_by_alias, MODEL_NAME, alias)

    def change(
        self,
        action: str,
        choose: Callable[[str | None, list[Recorded]], ModelVersion],
        *,
        actor: str,
        reason: str,
        waiver: Waiver | None = None,
    ) -> Entry | None:
        """Set Production to the chosen version. Returns None if it is in production already.

        `choose(current, history)` runs under the lock, so its inputs cannot change. It raises RefusedError to cancel
        the change.
        """
        requested = Entry(
            intent=uuid4().hex, action=action, version="", replaced=None, model_sha256="", actor=actor, reason=reason,
            at=datetime.now(UTC).isoformat(timespec="seconds"), waiver=waiver,
        )  # fmt: skip
        with _service_errors():
            with self._locked() as connection:
                current = self._repair(connection)
                chosen = choose(current, self._history(connection))
            if str(chosen.version) == current:
                return None
            entry = requested.model_copy(
                update={
                    "version": str(chosen.version), "replaced": current,
                    "model_sha256": chosen.tags.get("model_sha256", ""),
                }
            )  # fmt: skip
            return self._commit(entry)

    def _commit(self, entry: Entry) -> Entry:
        # The intent is committed before the alias is set, so that a repair can find the change. It stays when the
        # registry does not answer, because the alias may have been set.
        with self._engine.begin() as connection:
            connection.execute(_INTENTS.insert().values(id=entry.intent, entry=entry.model_dump_json(), settled=False))
        with self._locked() as connection:
            if self._repair(connection) == entry.replaced:
                self._client.set_registered_model_alias(MODEL_NAME, PRODUCTION, entry.version)
                self._append(connection, entry)
                self._derive(connection)
                return entry
            self._settle(connection, entry.intent)
        raise RefusedError(
            f"Production changed during the change to version {entry.version}",
            expected=f"version {entry.replaced}", hint="check the new production version, then run the command again",
        )  # fmt: skip

    def repair(self) -> str | None:
        """Update history, `previous`, `staging` and stages to match `production`; returns the production version."""
        with _service_errors(), self._locked() as connection:
            return self._repair(connection)

    def history(self) -> list[Recorded]:
        """All changes of Production, oldest first."""
        with _service_errors(), self._engine.connect() as connection:
            return self._history(connection)

    def entries(self) -> list[Recorded]:
        """All changes and exports, oldest first."""
        with _service_errors(), self._engine.connect() as connection:
            return _entries(connection)

    def verify(self) -> list[Recorded]:
        """Verify the hash chain; returns all entries. Raises RefusedError with the first changed entry."""
        before = GENESIS
        recorded = self.entries()
        for expected, row in enumerate(recorded, start=1):
            if row.sequence != expected or row.hash != _hash(before, row.sequence, row.entry):
                raise RefusedError(
                    f"the promotion history was changed at entry {row.sequence}",
                    expected=f"entry {expected} with hash {_hash(before, expected, row.entry)}", got=row.hash,
                    hint="restore a backup of the control database and compare both histories",
                )  # fmt: skip
            before = row.hash
        return recorded

    @contextmanager
    def _locked(self) -> Iterator[sa.Connection]:
        """A transaction with the lock: a row lock in PostgreSQL, the whole database in SQLite (BEGIN IMMEDIATE)."""
        with self._engine.begin() as connection:
            connection.execute(sa.select(_LOCK.c.id).with_for_update())
            yield connection

    def _repair(self, connection: sa.Connection) -> str | None:
        found = self.version(PRODUCTION)
        current = str(found.version) if found else None
        history = self._history(connection)
        last = history[-1].entry.version if history else None
        if found is not None and current != last:
            unfinished = [
                Entry.model_validate_json(text)
                for text in connection.scalars(sa.select(_INTENTS.c.entry).where(~_INTENTS.c.settled))
            ]
            moved = next((e for e in unfinished if e.version == current and e.replaced == last), None)
            self._append(
                connection,
                moved
                or Entry(
                    intent="", action="observed", version=str(current), replaced=last,
                    model_sha256=found.tags.get("model_sha256", ""), actor="unknown",
                    reason="the alias was changed without fraud promote or fraud rollback",
                    at=datetime.now(UTC).isoformat(timespec="seconds"),
                ),
            )  # fmt: skip
        self._derive(connection)
        return current

    def _append(self, connection: sa.Connection, entry: Entry) -> None:
        entries = _entries(connection)
        before = entries[-1].hash if entries else GENESIS
        sequence = len(entries) + 1
        digest = _hash(before, sequence, entry)
        connection.execute(_HISTORY.insert().values(sequence=sequence, entry=entry.model_dump_json(), hash=digest))
        self._settle(connection, entry.intent)

    def _derive(self, connection: sa.Connection) -> None:
        """`previous`, `staging` and MLflow's deprecated stages, from history and the alias `production`."""
        history = self._history(connection)
        if not history:
            return
        production, previous = history[-1].entry.version, history[-1].entry.replaced
        if previous is not None and _number(self.version(PREVIOUS)) != previous:
            self._client.set_registered_model_alias(MODEL_NAME, PREVIOUS, previous)
        staging = _number(self.version(STAGING))
        if staging == production:
            self._client.delete_registered_model_alias(MODEL_NAME, STAGING)
            staging = None
        stages = {row.entry.version: "Archived" for row in history}
        stages |= {staging: "Staging"} if staging else {}
        stages[production] = "Production"
        for version in self._client.search_model_versions(f"name='{MODEL_NAME}'"):
            stage = stages.get(str(version.version), "None")
            if version.current_stage != stage:
                _set_stage(self._client, str(version.version), stage)
            if str(version.version) == production and (entry := approval_of(history, production)):
                for name, value in _approval_tags(entry).items():
                    if version.tags.get(name) != value:
                        self._client.set_model_version_tag(MODEL_NAME, production, name, value)

    def reject(self, version: ModelVersion, *, actor: str, reason: str) -> None:
        """Remove `staging` from a candidate; tag it with person, time and reason. Production does not change."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        tags = {"rejected_by": actor, "rejected_at": at, "rejection_reason": reason}
        with _service_errors(), self._locked() as connection:
            for name, value in tags.items():
                self._client.set_model_version_tag(MODEL_NAME, str(version.version), name, value)
            if _number(self.version(STAGING)) == str(version.version):
                self._client.delete_registered_model_alias(MODEL_NAME, STAGING)
            self._repair(connection)

    def record_export(self, version: ModelVersion, made: Export, *, actor: str, reason: str) -> Entry:
        """Append an export to the chain. Production does not change."""
        entry = Entry(
            intent="", action=EXPORT, version=str(version.version), replaced=None,
            model_sha256=version.tags.get("model_sha256", ""), actor=actor, reason=reason,
            at=datetime.now(UTC).isoformat(timespec="seconds"), export=made,
        )  # fmt: skip
        with _service_errors(), self._locked() as connection:
            self._append(connection, entry)
        return entry

    def _history(self, connection: sa.Connection) -> list[Recorded]:
        return [row for row in _entries(connection) if row.entry.action != EXPORT]

    def _settle(self, connection: sa.Connection, intent: str) -> None:
        connection.execute(_INTENTS.update().where(_INTENTS.c.id == intent).values(settled=True))


def _entries(connection: sa.Connection) -> list[Recorded]:
    rows = connection.execute(sa.select(_HISTORY).order_by(_HISTORY.c.sequence))
    return [Recorded(sequence=row.sequence, entry=Entry.model_validate_json(row.entry), hash=row.hash) for row in rows]


@contextmanager
def opened(settings: Settings) -> Iterator[Promotion]:
    """The promotion history of these settings, closed after the `with` block."""
    promotion = Promotion(settings)
    try:
        yield promotion
    finally:
        promotion.close()


def approval_of(history: Sequence[Recorded], version: str) -> Entry | None:
    """The last promotion of the version; None if it was never promoted."""
    promoted = (row.entry for row in reversed(history) if row.entry.action == "promote")
    return next((entry for entry in promoted if entry.version == version), None)


def expired(history: Sequence[Recorded], version: str, today: date) -> Waiver | None:
    """The expired waiver of the version's last promotion; None without a waiver, or with a valid one."""
    entry = approval_of(history, version)
    waiver = entry.waiver if entry else None
    return waiver if waiver and date.fromisoformat(waiver.expires) <= today else None


def _approval_tags(entry: Entry) -> dict[str, str]:
    """Tags with the person, time and reason of the approval, for readers of the registry."""
    waiver = entry.waiver.model_dump_json() if entry.waiver else ""
    return {"approved_by": entry.actor, "approved_at": entry.at, "approval_reason": entry.reason, "waiver": waiver}


def _hash(before: str, sequence: int, entry: Entry) -> str:
    # Entries from before exports were recorded have no field `export`; their hashes must stay valid.
    content = entry.model_dump(mode="json", exclude=None if entry.export else {"export"})
    link: dict[str, Any] = {"before": before, "sequence": sequence, "entry": content}
    return sha256(json.dumps(link, sort_keys=True).encode()).hexdigest()


def _number(version: ModelVersion | None) -> str | None:
    return str(version.version) if version else None


def _set_stage(client: "MlflowClient", version: str, stage: str) -> None:
    with warnings.catch_warnings():
        # Stages are deprecated (mlflow#10336), but set for readers of models:/fraud-detector/Production.
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(MODEL_NAME, version, stage)


def _limit_waits(connection: "DBAPIConnection", _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("; ".join(f"SET {name} = {value}" for name, value in _POSTGRESQL.items()))
    cursor.close()
    connection.commit()


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        server = sa.create_engine(url, pool_pre_ping=True)
        sa.event.listen(server, "connect", _limit_waits)
        return server
    engine = sa.create_engine(url, connect_args={"timeout": _LOCK_WAIT_S})
    Path(engine.url.database or "").parent.mkdir(parents=True, exist_ok=True)  # the folder may not exist yet

    @sa.event.listens_for(engine, "connect")
    def _manual(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # sqlite3 must not begin transactions

    @sa.event.listens_for(engine, "begin")
    def _immediate(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def _service_errors() -> Iterator[None]:
    try:
        with registry_errors():
            yield
    except OperationalError as error:
        raise UnavailableError("the control database does not answer", got=str(error.orig)) from error
