"""Only SQLite opens the journal's file: no process loses its locks, or the log."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import environment
import pytest
import wire
from kernels import kernel
from rows import new

from aiml_magic import errors
from aiml_magic.journal import recording
from aiml_magic.journal.rows import Result
from aiml_magic.journal.store import Journal, journal_at
from aiml_magic.question import attachments
from aiml_magic.session.asking import Session
from aiml_magic.show import export

needs_locks = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="only Linux tells of locks"
)
_opened: list[str] = []
sys.addaudithook(
    lambda event, args: (
        _opened.append(os.fsdecode(args[0]))
        if event == "open" and isinstance(args[0], str | bytes)
        else None
    )
)


def locks(path: Path, pid: int) -> set[str]:
    """The files of the journal on which a process has locks."""
    numbers = {
        str(file.stat().st_ino): file.name.removeprefix(path.name)
        for file in path.parent.glob(f"{path.name}*")
    }
    held = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return {
        numbers[lock[5].split(":")[-1]]
        for lock in held
        if lock[4] == str(pid) and lock[5].split(":")[-1] in numbers
    }


def beside(path: Path) -> dict[str, int]:
    """The log and its index, with their inodes."""
    return {ending: Path(f"{path}{ending}").stat().st_ino for ending in ("-wal", "-shm")}


def come_and_go(path: Path) -> None:
    """Another process opens the journal, writes, and closes it: the last one to close it removes the log."""
    code = "import sys; from pathlib import Path; from aiml_magic.journal.store import Journal; j = Journal(Path(sys.argv[1])); j.note_alive([1])"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def refused_file(path):
    path.with_name("notes").write_text("somebody's notes")
    Journal(path.with_name("notes")).history()


def open_again(path):
    Journal(path).history()


def open_by_link(path):
    path.with_name("link").symlink_to(path)
    assert journal_at(path) is journal_at(path.with_name("link"))
    Journal(path.with_name("link")).history()


def open_in_sessions(path):
    first, second = Session(), Session()
    assert first.on("", path).journal is second.on("", path).journal
    other = first.on("", path.with_name("other.sqlite3")).journal
    other.history()
    assert first.on("", path).journal is second.on("", path).journal


def attach(path):
    for ending in ("", "-wal", "-shm"):
        with suppress(errors.BadInput):
            attachments.attach(f"{path}{ending}", {})


def read_as_recording(path):
    recording.read(path)


def export_over_it(path):
    export.write(path, [])


def fork(path):
    child = multiprocessing.get_context("fork").Process(
        target=lambda: journal_at(path).add(**new())
    )
    child.start()
    child.join(30)
    assert 0 == child.exitcode
    journal_at(path).history()


def fork_and_do_nothing(path):
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    journal_at(path).history()


@needs_locks
# Python warns of a fork in a multi-threaded process.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    "act",
    [
        refused_file,
        open_again,
        open_by_link,
        open_in_sessions,
        attach,
        read_as_recording,
        export_over_it,
        fork,
        fork_and_do_nothing,
    ],
)
def test_locks_stay(tmp_path, act):
    """A process with an open journal opens its file by SQLite only, and keeps its locks after every other operation."""
    path = tmp_path / "journal.sqlite3"
    journal = journal_at(path)
    journal.add(**new())
    held = locks(path, os.getpid())
    assert {"", "-shm"} == held
    _opened.clear()
    with suppress(errors.AimlMagicError):
        act(path)
    assert [] == [name for name in _opened if Path(name).name.startswith(path.name)]
    assert held == locks(path, os.getpid())
    files = beside(path)
    come_and_go(path)
    assert files == beside(path), "the log is not removed while it is in use"
    assert "queued" == journal.row(1).state


@needs_locks
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_locks_of_a_fork(tmp_path):
    """A forked process has its own locks: after its parent ended, no process removes the log."""
    path = tmp_path / "journal.sqlite3"
    Journal(path).add(**new())
    code = """
import os, sys, time
from pathlib import Path
from aiml_magic.journal.store import Journal
journal = Journal(Path(sys.argv[1]))
journal.history()
if os.fork() == 0:
    journal.history()
    print(os.getpid(), flush=True)
    sys.stdin.read()
    journal.note_alive([1])
    print(journal.row(1).is_alive, flush=True)
"""
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline())
    parent.wait(30)
    assert {"", "-shm"} == locks(path, child)
    come_and_go(path)
    parent.stdin.close()
    assert "True" == parent.stdout.readline().strip()
    parent.stdout.close()


@needs_locks
def test_locks_stay_over_reloads(tmp_path):
    """A reloaded or newly imported module uses the open journal, and its earlier users keep it."""
    code = """
import importlib, sys
from pathlib import Path
import test_locks, aiml_magic.journal.store
path = Path(sys.argv[1])
journal = aiml_magic.journal.store.journal_at(path)
journal.history()
for module in (aiml_magic.files, aiml_magic.journal.database, aiml_magic.journal.store):
    importlib.reload(module)
assert journal is aiml_magic.journal.store.journal_at(path)
for name in [name for name in sys.modules if name.startswith("aiml_magic")]:
    del sys.modules[name]
import aiml_magic.journal.store
aiml_magic.journal.store.Journal(path).history()
test_locks.come_and_go(path)
print(sorted(test_locks.locks(path, test_locks.os.getpid())))
"""
    path = tmp_path / "journal.sqlite3"
    Journal(path).add(**new())
    tests = os.pathsep.join([str(Path(__file__).parent), str(Path(environment.__file__).parent)])
    place = os.environ | {"PYTHONPATH": tests}
    told = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=place, check=True, capture_output=True
    )
    assert b"['', '-shm']" == told.stdout.strip()


@needs_locks
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_amid_a_step(tmp_path):
    """A fork during a step leaves the step complete: the end of the child does not end it."""
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.add(**new())
    child = multiprocessing.get_context("fork").Process(target=int)
    with journal.together():
        journal.add(**new())
        child.start()
        child.join(30)
    assert 0 == child.exitcode
    assert {"", "-shm"} == locks(journal.path, os.getpid())
    assert 2 == len(Journal(journal.path).history())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forks_amid_steps(tmp_path):
    """Forks while threads write cause no deadlock, and all rows are written."""
    journal = Journal(tmp_path / "journal.sqlite3")
    with ThreadPoolExecutor(3) as threads:
        writing = [
            threads.submit(lambda: [journal.add(**new()) for _ in range(40)]) for _ in range(3)
        ]
        children = [
            multiprocessing.get_context("fork").Process(target=journal.add, kwargs=new())
            for _ in range(8)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        assert [40] * 3 == [len(written.result()) for written in writing]
    assert [0] * 8 == [child.exitcode for child in children]
    assert 128 == len(journal.history())


def test_another_journal_in_its_place(tmp_path):
    """A journal replaced by another one has other rows under the same ids: nothing is written there, and the answer is rescued."""
    journal = Journal(tmp_path / "journal.sqlite3")
    row = journal.claim(journal.add(**new()).id)
    for file in tmp_path.iterdir():
        file.unlink()
    other = Journal(journal.path)
    other.claim(other.add(**new(request={"input": "Another?"})).id)
    with pytest.raises(errors.JournalError, match="another journal") as refused:
        journal.finish(row.id, Result("done", wire.response()))
    assert 2 == len(str(refused.value).splitlines())
    assert journal.rescue(row, Result("done", wire.response()))[1] is not None
    assert "sent" == Journal(journal.path).row(1).state, "the answer is of another question"


def test_copy_in_its_place(tmp_path):
    """A journal restored from its own copy can be used."""
    journal = Journal(tmp_path / "journal.sqlite3")
    row = journal.claim(journal.add(**new()).id)
    with (
        closing(sqlite3.connect(journal.path)) as db,
        closing(sqlite3.connect(tmp_path / "copy")) as copy,
    ):
        db.backup(copy)
    for file in tmp_path.glob("journal*"):
        file.unlink()
    (tmp_path / "copy").rename(journal.path)
    journal.finish(row.id, Result("done", wire.response()))
    assert "done" == journal.row(1).state


def test_row_that_was_not_kept(tmp_path):
    """After a rolled-back row the journal still counts as the same file."""
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.add(**new())
    with pytest.raises(errors.JournalError), journal.together():
        journal.add(**new())
        raise errors.JournalError("The disk is full.", "Make room.")
    journal.pause()
    journal.resume()
    assert 1 == len(journal.history())


def test_second_name(tmp_path):
    """A file with a second name, a hard link, is not opened: SQLite would keep a log for each. A process that has it open goes on."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    journal.add(**new())
    path.with_name("other").hardlink_to(path)
    for name in (path, path.with_name("other")):
        with pytest.raises(errors.JournalError, match="second name") as refused:
            Journal(name).history()
        assert 2 == len(str(refused.value).splitlines())
    assert [] == [*tmp_path.glob("other-*")]
    journal.add(**new())
    path.with_name("other").unlink()
    assert 2 == len(Journal(path).history())


def test_stranger_with_a_log(tmp_path):
    """The log of another program's database, which was killed, stays: only that program may checkpoint it."""
    path = tmp_path / "journal.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE bookmarks (url TEXT)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("INSERT INTO bookmarks VALUES ('https://example.org')")
        db.commit()
        kept = {
            name: shutil.copy(f"{path}{name}", tmp_path / f"kept{name}") for name in ("", "-wal")
        }
    for name, copy in kept.items():
        shutil.copy(copy, f"{path}{name}")
    with pytest.raises(errors.JournalError, match="another program"):
        Journal(path).add(**new())
    for name, copy in kept.items():
        assert Path(copy).read_bytes() == Path(f"{path}{name}").read_bytes()


@needs_locks
def test_kernel_keeps_its_locks(home):
    """A kernel keeps its locks and answers after a reload of the extension, and after a change to another journal and back."""
    path = home / "journal.sqlite3"
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        assert running.run("job = %o3pro -b One?\njob.wait()").error is None
        kept = beside(path)
        for code in (
            "%reload_ext aiml_magic", f"%config O3Pro.base_url = {server.url!r}\n%o3pro Two?",
            f"%config O3Pro.journal = {str(home / 'other.sqlite3')!r}\n%o3pro Three?", f"%config O3Pro.journal = {str(path)!r}\n%o3pro Four?",
            f"import os\nos.symlink({str(path)!r}, {str(home / 'link')!r})\n%config O3Pro.journal = {str(home / 'link')!r}\n%o3pro Five?",
            "!true", "%o3pro Six?",
        ):  # fmt: skip
            ran = running.run(code)
            assert ran.error is None, ran
            come_and_go(path)
        assert {"", "-shm"} == locks(path, running.pid)
        assert kept == beside(path)
        handles = [os.path.realpath(handle) for handle in Path(f"/proc/{running.pid}/fd").iterdir()]
        assert 1 == handles.count(str(path)), "one connection"
    assert ["One?", "Two?", "Four?", "Five?", "Six?"] == [
        row.question for row in Journal(path).history()
    ]
    with closing(sqlite3.connect(path)) as db:
        assert "ok" == db.execute("PRAGMA integrity_check").fetchone()[0]
