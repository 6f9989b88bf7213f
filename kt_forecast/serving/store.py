"""The log of what was reported, which is the truth; beside it states, which are a cache of it.

A stream is a student or a series, an event one answer or measurement, in plain JSON. One thread
writes, in one transaction for all requests that wait, and a request is answered only after the
transaction is on the disk. One process at a time has the store.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time as now
from typing import Any

import sqlalchemy as sql
from filelock import FileLock, Timeout
from sqlalchemy.engine import Connection, make_url

from kt_forecast.errors import InputError

FORMAT = "1"
LOCK = 0x6B74_666F
"""Number by which PostgreSQL knows the store's lock."""

HEADS = 200_000
"""Streams whose last event the writer remembers."""

IN_ONE_QUERY = 500
"""Values that one query asks for, at most."""

_schema = sql.MetaData()
_facts = sql.Table(
    "facts",
    _schema,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
_openings = sql.Table(
    "openings",
    _schema,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("at", sql.Float, nullable=False),
    sql.Column("what", sql.Text, nullable=False),
)
_streams = sql.Table(
    "streams",
    _schema,
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("name", sql.Text, nullable=False, unique=True),
)
_events = sql.Table(
    "events",
    _schema,
    sql.Column("stream", sql.BigInteger, primary_key=True),
    sql.Column("seq", sql.BigInteger, primary_key=True),
    sql.Column("time", sql.BigInteger),
    sql.Column("body", sql.Text, nullable=False),
    sqlite_with_rowid=False,
)
_requests = sql.Table(
    "requests",
    _schema,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("stream", sql.BigInteger, nullable=False),
    sql.Column("first", sql.BigInteger, nullable=False),
    sql.Column("count", sql.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
_states = sql.Table(
    "states",
    _schema,
    sql.Column("stream", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("seq", sql.BigInteger, nullable=False),
    sql.Column("data", sql.LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class Event:
    """One event of a stream.

    Attributes:
        time: when; never falls along a stream. None where nobody said.
        body: what, as JSON.
    """

    time: int | None
    body: str


@dataclass(frozen=True)
class Append:
    """A request to append events to a stream, all or none.

    Attributes:
        name: of the stream.
        events: in their order.
        key: the caller's name of this request; the same key appends once.
        digest: of the request; the same key with another one is a conflict.
    """

    name: str
    events: tuple[Event, ...]
    key: str | None = None
    digest: str = ""


@dataclass(frozen=True)
class Appended:
    """Where the events of a request stand in their stream, from 1.

    Attributes:
        stream: number of the stream.
        first: place of the first.
        count: how many.
        replayed: an earlier request with this key had appended them.
    """

    stream: int
    first: int
    count: int
    replayed: bool = False

    @property
    def last(self) -> int:
        """Return the place of the last."""
        return self.first + self.count - 1


@dataclass(frozen=True)
class Refused:
    """Why a request was not carried out.

    Attributes:
        status: as HTTP says it.
        sentence: what was wrong and what is accepted.
    """

    status: int
    sentence: str


@dataclass(frozen=True)
class Head:
    """The end of a stream.

    Attributes:
        stream: its number.
        seq: how many events it has.
        time: the last that was told; None where none was.
    """

    stream: int
    seq: int
    time: int | None


Rule = Callable[[str, int | None, Sequence[Event]], str | None]
"""Says why events may not follow a stream's last time, in a sentence; None where they may."""


class Store:
    """The log and the states of one service.

    Args:
        url: ``sqlite:///file.db`` or ``postgresql://...``.
        task: what the streams are; a store serves one task.
        rule: which events may follow.

    Raises:
        InputError: the store cannot be opened, is in use, or holds another task.
    """

    def __init__(self, url: str, task: str, rule: Rule) -> None:
        self.url, self._rule = _driver(url), rule
        self._is_sqlite = self.url.get_backend_name() == "sqlite"
        self._lock = self._taken() if self._is_sqlite else None
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self._writer: Connection | None = None
        try:
            self._engine = sql.create_engine(self.url, **_options(self._is_sqlite))
            if self._is_sqlite:
                sql.event.listen(self._engine, "connect", _durable)
            with self._writing() as connection:
                _schema.create_all(connection)
                self._claim(connection, task)
        except sql.exc.SQLAlchemyError as error:
            self.close()
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise InputError(
                f"the store {self.url.render_as_string()} cannot be opened ({reason}); accepted is"
                " a file that can be written to, or the URL of a PostgreSQL database"
            ) from None
        except InputError:
            self.close()
            raise

    def append(self, group: Sequence[Append]) -> list[Appended | Refused]:
        """Carry out requests in their order, in one transaction that is on the disk on return.

        Raises:
            SQLAlchemyError: nothing of the group was carried out.
        """
        heads: dict[str, Head] = {}
        try:
            with self._writing() as connection:
                found = self._decide(connection, group, heads)
        except sql.exc.SQLAlchemyError:
            for request in group:
                self._heads.pop(request.name, None)
            raise
        for name, head in heads.items():
            self._heads[name] = head
            self._heads.move_to_end(name)
        while len(self._heads) > HEADS:
            self._heads.popitem(last=False)
        return found

    def _decide(
        self, connection: Connection, group: Sequence[Append], heads: dict[str, Head]
    ) -> list[Appended | Refused]:
        known = self._known(connection, [r.key for r in group if r.key is not None])
        self._ends(connection, {r.name for r in group}, heads)
        fresh = (
            int(connection.scalar(sql.select(sql.func.max(_streams.c.id))) or 0)
            if any(r.name not in heads for r in group)
            else 0
        )
        streams: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        requests: list[dict[str, Any]] = []
        found: list[Appended | Refused] = []
        for one in group:
            before = known.get(one.key) if one.key is not None else None
            if before is not None:
                found.append(_again(one, *before))
                continue
            head = heads.get(one.name)
            refusal = self._rule(one.name, head.time if head else None, one.events)
            if refusal is not None:
                found.append(Refused(409, refusal))
                continue
            if head is None:
                fresh += 1
                head = Head(fresh, 0, None)
                streams.append({"id": fresh, "name": one.name})
            done = Appended(head.stream, head.seq + 1, len(one.events))
            for seq, event in enumerate(one.events, start=done.first):
                events.append(
                    {"stream": done.stream, "seq": seq, "time": event.time, "body": event.body}
                )
            times = [event.time for event in one.events if event.time is not None]
            heads[one.name] = Head(done.stream, done.last, times[-1] if times else head.time)
            if one.key is not None:
                known[one.key] = (one.digest, done)
                requests.append(
                    {
                        "key": one.key,
                        "digest": one.digest,
                        "stream": done.stream,
                        "first": done.first,
                        "count": done.count,
                    }
                )
            found.append(done)
        for table, rows in ((_streams, streams), (_events, events), (_requests, requests)):
            if rows:
                connection.execute(_INSERT[table.name], rows)
        return found

    def _known(
        self, connection: Connection, keys: Sequence[str]
    ) -> dict[str, tuple[str, Appended]]:
        found = {}
        for some in _parts(keys):
            for key, digest, stream, first, count in connection.execute(_BY_KEY, {"keys": some}):
                found[key] = (digest, Appended(stream, first, count, replayed=True))
        return found

    def _ends(self, connection: Connection, names: set[str], heads: dict[str, Head]) -> None:
        """Find the ends of streams: those that are remembered, then those in the log."""
        missing = []
        for name in names:
            head = self._heads.get(name)
            if head is None:
                missing.append(name)
            else:
                heads[name] = head
        for some in _parts(missing):
            for stream, name in connection.execute(_BY_NAME, {"names": some}).all():
                heads[name] = _end(connection, stream)

    def find(self, name: str) -> Head | None:
        """Return the end of a stream; None where nothing was appended to it."""
        with self._engine.connect() as connection:
            row = connection.execute(_BY_NAME, {"names": [name]}).first()
            return None if row is None else _end(connection, row.id)

    def events(self, stream: int, after: int, until: int | None = None) -> list[Event]:
        """Return the events of a stream after a place, up to another and with it."""
        wanted = (_events.c.stream == stream) & (_events.c.seq > after)
        if until is not None:
            wanted &= _events.c.seq <= until
        query = sql.select(_events.c.time, _events.c.body).where(wanted).order_by(_events.c.seq)
        with self._engine.connect() as connection:
            return [Event(time, body) for time, body in connection.execute(query)]

    def tails(self, streams: Sequence[int], model: str) -> dict[int, tuple[int, bytes]]:
        """Return the state of each stream that a model left: how many events it knows, and it."""
        found = {}
        with self._engine.connect() as connection:
            for some in _parts(streams):
                for stream, seq, data in connection.execute(
                    _BY_STREAM, {"streams": some, "model": model}
                ):
                    found[stream] = (seq, data)
        return found

    def keep(self, states: Sequence[tuple[int, str, int, bytes]]) -> None:
        """Write states: stream, model, events it knows, and what it is; older ones are replaced."""
        rows = [
            {"stream": stream, "model": model, "seq": seq, "data": data}
            for stream, model, seq, data in states
        ]
        with self._writing() as connection:
            for some in _parts(rows):
                gone = [row["stream"] for row in some]
                connection.execute(sql.delete(_states).where(_states.c.stream.in_(gone)))
                connection.execute(sql.insert(_states), some)

    def names(self, contains: str, limit: int) -> list[tuple[str, int]]:
        """Return names of streams and how many events each has, in the order of the names."""
        query = sql.select(_streams.c.id, _streams.c.name).order_by(_streams.c.name).limit(limit)
        if contains:
            query = query.where(_streams.c.name.contains(contains, autoescape=True))
        with self._engine.connect() as connection:
            found = connection.execute(query).all()
            return [(name, _end(connection, stream).seq) for stream, name in found]

    def count(self) -> tuple[int, int]:
        """Return how many streams and events there are."""
        with self._engine.connect() as connection:
            return tuple(  # type: ignore[return-value]
                int(connection.scalar(sql.select(sql.func.count()).select_from(table)) or 0)
                for table in (_streams, _events)
            )

    def opened(self, what: dict[str, Any]) -> None:
        """Record that a model was put to use, and why, where its audit spoke against it."""
        with self._writing() as connection:
            row = {"at": now(), "what": json.dumps(what)}
            connection.execute(sql.insert(_openings), row)

    def openings(self) -> list[dict[str, Any]]:
        """Return what `opened` recorded, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(_openings).order_by(_openings.c.id)).all()
        return [{"at": row.at, **json.loads(row.what)} for row in rows]

    def close(self) -> None:
        """Let another process have the store."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if hasattr(self, "_engine"):
            self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Give the writer's connection in a transaction; a broken one is made anew.

        Raises:
            InputError: another process has the store.
            DBAPIError: the database failed, and the transaction with it.
        """
        if self._writer is None or self._writer.closed or self._writer.invalidated:
            self._writer = self._engine.connect()
            if not self._is_sqlite:
                held = self._writer.scalar(sql.select(sql.func.pg_try_advisory_lock(LOCK)))
                self._writer.commit()
                if not held:
                    self._writer.close()
                    raise InputError(_in_use(self.url))
        try:
            with self._writer.begin():
                yield self._writer
        except sql.exc.DBAPIError as error:
            if error.connection_invalidated:
                self._writer.close()
            raise

    def _taken(self) -> FileLock:
        """Return the lock of a SQLite file.

        Raises:
            InputError: another process has it.
        """
        path = Path(self.url.database or "")
        if not path.name or path.name.startswith(":"):
            raise InputError("the store sqlite:// names no file; accepted is sqlite:///FILE.db")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(_in_use(self.url)) from None
        return lock

    def _claim(self, connection: Connection, task: str) -> None:
        """Note format and task of a new store.

        Raises:
            InputError: the store is another's.
        """
        held = {row.name: row.value for row in connection.execute(sql.select(_facts))}
        wanted = {"format": FORMAT, "task": task}
        if not held:
            rows = [{"name": name, "value": value} for name, value in wanted.items()]
            connection.execute(sql.insert(_facts), rows)
        elif held != wanted:
            raise InputError(
                f"the store {self.url.render_as_string()} holds {held.get('task')!r} in format"
                f" {held.get('format')!r}; accepted is a store of {task!r} in format {FORMAT!r}, or"
                " a new one"
            )


def _end(connection: Connection, stream: int) -> Head:
    row = connection.execute(_LAST, {"stream": stream}).first()
    if row is None:
        return Head(stream, 0, None)
    time = row.time if row.time is not None else connection.scalar(_TIME, {"stream": stream})
    return Head(stream, row.seq, time)


def _again(request: Append, digest: str, before: Appended) -> Appended | Refused:
    if digest != request.digest:
        return Refused(
            409,
            f"the idempotency key {request.key!r} came with another body before; accepted is the"
            " same body, or another key",
        )
    return Appended(before.stream, before.first, before.count, replayed=True)


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    rest = list(values)
    for low in range(0, len(rest), IN_ONE_QUERY):
        yield rest[low : low + IN_ONE_QUERY]


def _driver(url: str) -> sql.URL:
    """Return the URL with the driver that is installed.

    Raises:
        InputError: it is no URL of a database that can hold a store.
    """
    try:
        found = make_url(url)
    except sql.exc.ArgumentError:
        found = None
    name = found.get_backend_name() if found is not None else ""
    if found is None or name not in {"sqlite", "postgresql"}:
        raise InputError(
            f"the store {url!r} is not known; accepted are sqlite:///FILE.db and"
            " postgresql://USER@HOST/DATABASE"
        )
    return found.set(drivername="postgresql+psycopg") if name == "postgresql" else found


def _options(is_sqlite: bool) -> dict[str, Any]:  # noqa: FBT001
    return {"connect_args": {"timeout": 30}} if is_sqlite else {"pool_pre_ping": True}


def _durable(connection: Any, _record: Any) -> None:  # noqa: ANN401
    """Have SQLite write ahead, and wait for the disk before a transaction counts as done."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _in_use(url: sql.URL) -> str:
    return (
        f"the store {url.render_as_string()} is in use by another service; accepted is a store of"
        " its own for each"
    )


_INSERT = {table.name: sql.insert(table) for table in (_streams, _events, _requests)}
_BY_KEY = sql.select(_requests).where(_requests.c.key.in_(sql.bindparam("keys", expanding=True)))
_BY_NAME = sql.select(_streams.c.id, _streams.c.name).where(
    _streams.c.name.in_(sql.bindparam("names", expanding=True))
)
_BY_STREAM = sql.select(_states.c.stream, _states.c.seq, _states.c.data).where(
    _states.c.stream.in_(sql.bindparam("streams", expanding=True)),
    _states.c.model == sql.bindparam("model"),
)
_LAST = (
    sql.select(_events.c.seq, _events.c.time)
    .where(_events.c.stream == sql.bindparam("stream"))
    .order_by(_events.c.seq.desc())
    .limit(1)
)
_TIME = sql.select(sql.func.max(_events.c.time)).where(_events.c.stream == sql.bindparam("stream"))
