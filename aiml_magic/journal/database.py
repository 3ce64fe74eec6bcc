"""The file of a journal: its connection, its transactions, its locks.

Only SQLite opens the file, its write-ahead log and their index. POSIX drops all locks of a process
on a file when it closes any handle of that file; then another process could remove the log under an
open connection (https://sqlite.org/howtocorrupt.html, 2.2). So a process has one connection to each
file, and closes it before a fork.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import tempfile
import threading
import urllib.parse
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from aiml_magic.errors import JournalError
from aiml_magic.files import databases, make_private_folder, short
from aiml_magic.journal.rows import HINT, Row, read_row
from aiml_magic.journal.schema import BUSY, bring_up_to_date, check_file
from aiml_magic.text import plain_line

_Decided = TypeVar("_Decided")


class Database:
    """A connection to the file `path`, opened by the first transaction.

    Every method raises JournalError if the file cannot be used.
    """

    _db: sqlite3.Connection | None = None
    _identity: tuple[int, ...] = ()  # of the process and the file
    _newest: tuple[int, float] | None = None  # id and time of the last row written
    _newest_uncommitted: tuple[int, float] | None = None
    _is_open = False  # whether the thread with the lock is in a transaction

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = threading.RLock()
        self._close: Callable[[], object] = lambda: None
        self._obsolete: list[Path] = []  # files that are removed after the commit
        with opening:
            living.add(self)

    def import_rescued(self) -> None:
        """Imports the rescue files, each time the connection is opened."""

    @contextmanager
    def together(self, sync: str = "FULL", begin: str = "IMMEDIATE") -> Iterator[None]:
        """Makes the steps of the block one transaction.

        It is committed even if the block raises, except for a JournalError. IMMEDIATE takes the
        write lock first. With one sync for many steps, a disk takes thousands of answers a second.
        """
        with self._transaction(sync) as db:
            db.execute(f"BEGIN {begin}")
            try:
                yield
            except BaseException as error:
                if not isinstance(error, JournalError):
                    db.commit()
                raise

    def decide(self, step: Callable[[], _Decided]) -> _Decided:
        """The result of `step`, which reads first and then may write, as one transaction.

        Reading does not wait for other writers. If another one has the lock when it writes, the
        step is rolled back and repeated after it. It reaches the disk with the next `FULL` step.
        """
        try:
            with self.together("NORMAL", "DEFERRED"):
                return step()
        except JournalError as error:
            if not _is_busy(error.__cause__):
                raise
        with self.together("NORMAL"):
            return step()

    @contextmanager
    def _transaction(self, sync: str = "FULL") -> Iterator[sqlite3.Connection]:
        """One step, or a part of the open transaction.

        `FULL` survives a power cut; `NORMAL` survives it after the next `FULL` transaction.
        """
        try:
            with self._lock:
                if self._is_open:
                    assert self._db is not None
                    yield self._db
                    return
                db = self._connection()
                db.execute(f"PRAGMA synchronous = {sync}")
                self._is_open = True
                try:
                    with db:
                        yield db
                    self._newest = self._newest_uncommitted
                    for path in self._obsolete:
                        with suppress(OSError):
                            path.unlink(missing_ok=True)
                finally:
                    self._obsolete.clear()
                    self._is_open, self._newest_uncommitted = False, self._newest
        # sqlite3 raises UnicodeError for a text, or an error message, that it cannot decode.
        except (sqlite3.Error, OSError, UnicodeError) as error:
            why = plain_line(str(error))  # the message may quote a forged file
            raise JournalError(
                f"The journal {short(self.path)} cannot be used: {why}.", _hint(error)
            ) from error

    def _execute(self, statement: str, *values: Any) -> int:
        """Executes one statement; returns the number of rows that it changed."""
        with self._transaction() as db:
            return db.execute(statement, values).rowcount

    def _connection(self) -> sqlite3.Connection:
        """The connection, which stays open: a new one would read the schema again."""
        if self._identity and self._identity != self._current_identity():
            self._disconnect()  # first: the logs of both files have the same name
        if self._db is None:
            self._db = self._opened()
            databases.append(self.path)
            self._close = weakref.finalize(self, _close, self._db, self.path, os.getpid())
            self._identity = self._current_identity()
            self.import_rescued()
        return self._db

    def _disconnect(self) -> None:
        """Closes the connection; the next step opens another."""
        self._close()
        self._db = None

    def pause(self) -> bool:
        """Closes the connection and holds the lock until `resume`.

        `False`, without an effect, if a transaction of another thread takes too long.
        """
        if not self._lock.acquire(timeout=BUSY):
            return False
        if not self._is_open:
            self._disconnect()
        return True

    def resume(self) -> None:
        self._lock.release()

    def reset(self) -> None:
        """Drops the inherited lock and transaction in a forked child."""
        self._lock, self._is_open = threading.RLock(), False
        self._newest_uncommitted = self._newest

    def _current_identity(self) -> tuple[int, ...]:
        """The process and the file of a connection."""
        file = self.path.stat()
        return os.getpid(), file.st_dev, file.st_ino

    def _opened(self) -> sqlite3.Connection:
        """A connection to the file, after creating or migrating it.

        The file of another program is not changed.
        """
        make_private_folder(self.path.parent)
        if os.path.lexists(self.path):
            self._check_file()
            db = self._connect("rw")
        else:
            with tempfile.NamedTemporaryFile(prefix="journal-", dir=self.path.parent) as private:
                # SQLite copies the permissions of the file `modeof`.
                db = self._connect("rwc", modeof=private.name)
        try:
            # A forged file may define functions with side effects.
            db.execute("PRAGMA trusted_schema = OFF")
            # Else forgotten texts would stay in free pages.
            db.execute("PRAGMA secure_delete = ON")
            bring_up_to_date(db)
            self._check_rows(db)
        except BaseException:
            db.close()
            raise
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        return db

    def _check_file(self) -> None:
        """Raises DatabaseError for a file that cannot be a journal, before it is changed."""
        if not self.path.is_file():  # opening a pipe would block
            raise sqlite3.DatabaseError("it is not a file")
        status = self.path.stat()
        # The mode too: root may write to any file.
        if not os.access(self.path, os.W_OK) or not status.st_mode & stat.S_IWUSR:
            raise sqlite3.OperationalError("it is read-only")
        if status.st_nlink > 1:  # SQLite would use a log for each name (howtocorrupt.html, 2.5)
            raise sqlite3.DatabaseError(
                "it has a second name, by a hard link; remove one of the two, or make it a copy"
            )
        # `immutable` ignores the log: it may belong to an earlier file of this name.
        with closing(self._connect("ro", immutable="1")) as file:
            check_file(file)

    def _connect(self, mode: str, **options: str) -> sqlite3.Connection:
        query = urllib.parse.urlencode(
            {"mode": mode, **options},
            errors="surrogateescape",  # of a name that is not UTF-8
            quote_via=urllib.parse.quote,
        )
        return sqlite3.connect(
            f"{self.path.as_uri()}?{query}", uri=True, timeout=BUSY, check_same_thread=False
        )

    def _written(self, db: sqlite3.Connection, row_id: int) -> Row:
        row = read_row(db.execute("SELECT * FROM requests WHERE id = ?", (row_id,)).fetchone())
        self._newest_uncommitted = row.id, row.asked_at
        return row

    def _check_rows(self, db: sqlite3.Connection) -> None:
        """Refuses another journal under this name, whose ids are of other rows; a copy passes."""
        if (
            self._newest
            and not db.execute(
                "SELECT 1 FROM requests WHERE id = ? AND asked_at = ?", self._newest
            ).fetchone()
        ):
            raise sqlite3.DatabaseError(
                "another journal has taken its place; restart the kernel to use that one"
            )

    @property
    def _folder(self) -> Path:
        """The folder of the file that `path` links to, or of `path` itself."""
        return Path(os.path.realpath(self.path)).parent


# The databases of this process; a reload of this module keeps them.
living: weakref.WeakSet[Database] = globals().get("living", weakref.WeakSet())
opening = threading.RLock()
_inherited: list[sqlite3.Connection] = []
_paused: list[Database] = []  # while the process forks


def find_living(path: Path) -> Database | None:
    """The database of this process for the file `path`, under any of its names."""
    with opening:
        return next((known for known in living if _is_same(known.path, path)), None)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them does not exist
        return os.path.realpath(path) == os.path.realpath(other)


def _is_busy(error: BaseException | None) -> bool:
    """Whether another process has the write lock, or wrote after the transaction's first read."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return bool(code & 0xFF == sqlite3.SQLITE_BUSY)


def _hint(error: Exception) -> str:
    """What to do about an error of a journal."""
    if _is_busy(error):
        return "Another program writes to it: try again when that is done."
    is_full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if is_full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return "Make room on its disk, then try again."
    return HINT


def _close(db: sqlite3.Connection, path: Path, pid: int) -> None:
    """Closes a connection; one that was inherited by a fork belongs to the parent."""
    if os.getpid() == pid:
        db.close()
        databases.remove(path)
    else:
        _inherited.append(db)  # a reference, since the garbage collector would close it


def _before_fork() -> None:
    """Closes every connection: SQLite in the child would rely on locks that only the parent has."""
    opening.acquire()
    _paused.extend(database for database in living if database.pause())


def _after_fork() -> None:
    while _paused:
        _paused.pop().resume()
    opening.release()


def _after_fork_in_child() -> None:
    """Resets every database: the threads that could end its transaction are not in the child."""
    for database in living:
        database.reset()
    databases.clear()
    _paused.clear()
    opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )
