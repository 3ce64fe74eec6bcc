"""Answers on disk: the steps of a row, concurrent writers, and refused files."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from processes import processes, wait_until
from rows import new

from aiml_magic import errors
from aiml_magic.api.responses import Cost
from aiml_magic.journal.recording import Record
from aiml_magic.journal.rows import Result
from aiml_magic.journal.schema import APPLICATION_ID, MIGRATIONS
from aiml_magic.journal.store import Journal

LONE = st.text(st.characters())  # any code point, including lone surrogates and NUL


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "new" / "journal.sqlite3")


def test_life_of_a_row(journal):
    """A row is queued, claimed once, and stores its result; a row that is over does not change."""
    row_id = journal.add(**new()).id
    assert "queued" == journal.row(row_id).state
    assert row_id == journal.claim(row_id).id
    assert journal.claim(row_id) is None, "two runners cannot send one row"
    journal.note_response_id(row_id, "resp_1")
    journal.note_text(row_id, "Half")
    assert ("sent", "resp_1", "Half") == (
        journal.row(row_id).state,
        journal.row(row_id).response_id,
        journal.row(row_id).text,
    )
    response = {"id": "resp_1", "status": "completed", "output_text": "Whole"}
    journal.finish(
        row_id, Result("done", response, 2.5, ("usage_missing",), Cost(0.5, 1_000_000, "headers"))
    )
    journal.finish(row_id, Result("failed", seconds=9))
    row = journal.row(row_id)
    assert ("done", "Whole", 0.5, 2.5, ("usage_missing",)) == (
        row.state, row.answer().text, row.answer().cost_usd, row.answer().seconds, row.notices)  # fmt: skip
    assert (0.5, 0) == journal.spent("s", session="one")


def test_rows_to_cancel(journal):
    """A heartbeat returns the rows to cancel: sent or queued ones that another kernel cancelled."""
    one, two, three, other = (journal.claim(journal.add(**new()).id).id for _ in range(4))
    journal.note_unwanted(two)
    journal.note_unwanted(other)
    journal.release(three)
    assert journal.withdraw(three)
    assert [two, three] == journal.note_alive({one, two, three})


def test_error_is_kept(journal):
    """The error of a failed row is raised again unchanged."""
    row_id = journal.add(**new()).id
    error = errors.RateLimited("Too many.", "Wait.", retry="auto", retry_after=3.0, status=429)
    journal.finish(row_id, Result("failed", seconds=1, error=error))
    again = errors.error_from_dict(journal.row(row_id).error)
    assert (type(error), error.as_dict()) == (type(again), again.as_dict())


@given(LONE, LONE)
def test_any_text(tmp_path_factory, question, answer):
    """Any question and answer is stored, with any code points."""
    journal = Journal(tmp_path_factory.getbasetemp() / "any.sqlite3")
    row_id = journal.add(**new(request={"input": question})).id
    journal.claim(row_id)
    journal.note_text(row_id, answer)
    assert (question, answer) == (journal.row(row_id).request["input"], journal.row(row_id).text)
    journal.finish(row_id, Result("done", {"output_text": answer}, 1))
    assert answer == journal.row(row_id).answer().text


def test_private(journal):
    """Only its owner can read the journal: the folder, the file, and SQLite's files beside it."""
    journal.add(**new())
    with journal._transaction() as db:
        db.execute("BEGIN IMMEDIATE")
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in [journal.path.parent, *journal.path.parent.iterdir()]
        }
        db.rollback()
    assert 0o700 == modes.pop("new")
    assert {0o600} == set(modes.values())
    assert 3 == len(modes)


def test_ancestors(journal):
    """The ancestors of a row are its conversation from the beginning, without forks."""
    one = journal.add(**new()).id
    two = journal.add(**new(parent=one)).id
    journal.add(**new(parent=one))
    three = journal.add(**new(parent=two)).id
    assert [one, two, three] == [row.id for row in journal.ancestors(three)]


def test_fork(journal):
    """A forked process writes by its own connection, and the file stays intact."""
    journal.add(**new())
    child = multiprocessing.get_context("fork").Process(
        target=lambda: [journal.add(**new()) for _ in range(20)]
    )
    child.start()
    for _ in range(20):
        journal.add(**new())
    child.join(20)
    assert 41 == len(journal.history())
    with journal._transaction() as db:
        assert "ok" == db.execute("PRAGMA integrity_check").fetchone()[0]


def test_steps_are_whole(journal):
    """A step is one transaction, also in the process that created the file: a failed one leaves nothing."""
    row = journal.add(**new())

    def fail_in_the_middle():
        with journal._transaction() as db:
            db.execute("UPDATE requests SET state = 'done' WHERE id = ?", (row.id,))
            db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(errors.JournalError):
        fail_in_the_middle()
    assert "queued" == journal.row(row.id).state


def test_steps_taken_together(journal):
    """Several steps are one transaction; an exception commits the steps before it, unless it is a JournalError."""
    with journal.together():
        first = journal.add(**new()).id
        assert "queued" == journal.row(first).state, "each step sees those before it"
        assert Journal(journal.path).history() == [], "and no other connection does yet"
    with pytest.raises(KeyboardInterrupt), journal.together():
        second = journal.add(**new()).id
        raise KeyboardInterrupt
    with pytest.raises(errors.JournalError), journal.together():
        journal.add(**new())
        raise errors.JournalError("The disk is full.", "Make room.")
    assert [first, second] == [row.id for row in Journal(journal.path).history()]


def test_full(asker):
    """On a full disk nothing is sent."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        asker.ask(server.url)
        with asker.journal._transaction() as db:
            db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        with pytest.raises(errors.JournalError, match="full. Nothing was sent") as refused:
            asker.ask(server.url, "long " * 10_000)
        assert refused.value.hint.startswith("Make room on its disk")
        assert 1 == len(server.posts)


def test_full_when_the_answer_comes(asker, capsys):
    """An answer that a full disk cannot store is shown whenever its cell is run, and asked once; with room it is stored."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("this system sets no limit of another process")

    def answer(_):
        has_room(is_there=False)
        return wire.json_reply(wire.response("Worth four dollars."))

    def has_room(*, is_there):
        [runner] = processes(f"aiml_magic.runner {asker.path}", os.getpid())
        resource.prlimit(runner, resource.RLIMIT_FSIZE, (-1 if is_there else 0, -1))

    with wire.serve(answer) as server:
        for _ in range(2):
            told = asker.ask(server.url, cell="a", replay="auto")
            assert ("Worth four dollars.", False) == (told.text, told.replayed)
            assert "copy the answer from here" in capsys.readouterr().out
        has_room(is_there=True)
        wait_until(lambda: asker.journal.row(1).is_over)
        assert asker.ask(server.url, cell="a", replay="auto").replayed
        assert 1 == len(server.posts)


def test_file_that_is_gone(journal):
    """After the journal was removed or replaced, no answer is written into the old file."""
    journal.add(**new())
    journal.path.unlink()
    with pytest.raises(errors.JournalError, match="No such file"):
        journal.add(**new())
    journal.path.write_text("something else")
    with pytest.raises(errors.JournalError, match="not an SQLite file"):
        journal.add(**new())
    assert "something else" == journal.path.read_text()


def test_many_make_it_at_once(tmp_path):
    """Kernels that start at once without a journal all use the same new one."""
    for attempt in range(2):
        path = tmp_path / str(attempt) / "journal.sqlite3"
        barrier = threading.Barrier(32)

        def add(path=path, barrier=barrier):
            barrier.wait()
            return Journal(path).add(**new(client_request_id=str(threading.get_ident()))).id

        with ThreadPoolExecutor(32) as kernels:
            ids = [kernel.result() for kernel in [kernels.submit(add) for _ in range(32)]]
        assert list(range(1, 33)) == sorted(ids)


SECONDS = float(os.environ.get("AIML_TEST_SECONDS", "2"))


def _write(path, written):
    journal = Journal(path)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        written.value += 1
        row_id = journal.add(**new()).id
        journal.claim(row_id)
        journal.finish(row_id, Result("done", {"output_text": "x"}, 1))


def test_many_writers(journal):
    """Four processes that create the file and write at once cause no error, and lose no row."""
    context = multiprocessing.get_context("spawn")
    counts = [context.Value("i") for _ in range(4)]
    writers = [context.Process(target=_write, args=(journal.path, written)) for written in counts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(SECONDS + 60)
    assert [0] * 4 == [writer.exitcode for writer in writers]
    total = sum(written.value for written in counts)
    assert ["done"] * total == [row.state for row in journal.history(limit=10**9)]


def test_locked(journal):
    """A journal that another process keeps locked is an error after a while, before anything is sent."""
    journal.add(**new())
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(errors.JournalError, match="locked"):
            journal.add(**new())
    assert 1 == len(journal.history())


def garbage(path):
    path.write_bytes(b"not a database, but somebody's notes")


def folder(path):
    path.mkdir()


def other_program(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()


def newer(path):
    Journal(path).add(**new())
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()


def torn(path):
    Journal(path).add(**new())
    path.write_bytes(path.read_bytes()[:5000])


def read_only(path):
    Journal(path).add(**new())
    path.chmod(0o400)


@pytest.mark.parametrize("spoil", [garbage, folder, other_program, newer, torn, read_only])
def test_refused_files(tmp_path, spoil):
    """A file that is not a journal is an error of two lines with a remedy, and is not changed."""
    path = tmp_path / "journal.sqlite3"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(errors.JournalError) as refused:
        Journal(path).add(**new())
    assert 2 == len(str(refused.value).splitlines())
    assert "AIML_MAGIC_JOURNAL" in refused.value.hint
    assert before == (path.read_bytes() if path.is_file() else None)


def test_older_journal(tmp_path):
    """A journal of the first version is migrated to the newest, and keeps its rows."""
    path = tmp_path / "journal.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(MIGRATIONS[0])
        db.execute("PRAGMA user_version = 1")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(
            """
            INSERT INTO requests (state, base_url, server, request, client_request_id, session, notebook, asked_at, response, status)
            VALUES ('done', 'u', 's', '{"input": "Old?"}', 'x', 'one', 'n', 0, '{"status": "completed", "output_text": "Old."}',
                    'completed')
            """
        )
        db.commit()
    journal = Journal(path)
    assert "Old." == journal.row(1).answer().text
    assert 2 == journal.add(**new()).id
    assert len(MIGRATIONS) > 1


def test_read_only_folder(tmp_path):
    """A journal that cannot be created is an error before anything is sent."""
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.JournalError):
        Journal(tmp_path / "file" / "journal.sqlite3").add(**new())


def test_rescue_where_nothing_can_be_written(journal):
    """A paid answer is still shown if neither the journal nor a rescue file can be written."""
    row = journal.add(**new())
    journal.path.parent.rename(journal.path.parent.with_name("old"))
    journal.path.parent.write_text("no folder any more")
    unkept, copy = journal.rescue(row, Result("done", wire.response("Because.")))
    assert ("Because.", None) == (unkept.answer().text, copy)


def test_rescue_spares_what_is_there(journal):
    """A rescue file with another answer is neither overwritten nor removed."""
    row = journal.add(**new())
    _, copy = journal.rescue(row, Result("done", wire.response("First.")))
    assert journal.rescue(row, Result("done", wire.response("Second.")))[1] is None
    assert "First." in Path(copy).read_text()


@pytest.mark.parametrize(
    ("words", "found"),
    [("速度", [2, 1]), ("gpt速度", [2]), ("fine 速度 光", [1]), ("whale 速度", []), ("ความเร็ว", [3]), ("서울", [3]), ("🐋", [3]), ("100%光", []), ("光_", []),
     ("fine\0light", [1]), ("light \0 速度", [1]), ("\ud800", []), ("light \ud800", [1])],
)  # fmt: skip
def test_search_in_any_script(journal, words, found):
    """Words are found in scripts without spaces; characters that are not text are ignored in a search."""
    for question, answer in [
        ("光の速度は一定ですか", "Fine light."),
        ("Is GPT速度 all?", "Yes."),
        ("ใช้ความเร็วแสง", "서울에서 🐋!"),
    ]:
        journal.finish(
            journal.add(**new(request={"input": question})).id,
            Result("done", wire.response(answer)),
        )
    assert found == [row.id for row in journal.search(words)]


DAMAGE = {
    "no block of it is one": "UPDATE texts_data SET block = x'00'",
    "its blocks are empty": "UPDATE texts_data SET block = zeroblob(length(block))",
    "its blocks are gone": "DELETE FROM texts_data",
    "a block is gone": "DELETE FROM texts_data WHERE id > 10",
    "its texts are gone": "DELETE FROM texts_content",
    "its sizes are gone": "DELETE FROM texts_docsize",
    "its version is unknown": "UPDATE texts_config SET v = 99",
    **{f"{name} is gone": f"DROP TABLE {name}" for name in ("texts_data", "texts_idx", "texts_content", "texts_docsize", "texts_config", "texts")},
    "it is a table": "DROP TABLE texts; CREATE TABLE texts (question, answer)",
    "it is of an unknown kind": """
        PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET sql = 'CREATE VIRTUAL TABLE texts USING strange (question)' WHERE name = 'texts'
    """,
}  # fmt: skip


def damage(journal, script):
    """A journal with one answer and a damaged index, which is opened anew."""
    journal.finish(
        journal.add(**new(request={"input": "Where do whales sleep?"})).id,
        Result("done", wire.response("In the sea.")),
    )
    with closing(sqlite3.connect(journal.path)) as db:
        db.executescript(script)
        db.commit()
    return Journal(journal.path)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_index(journal, how, is_open):
    """With any damage of the index, questions are asked, answers stored and recordings imported, and a search finds them."""
    other = damage(journal, DAMAGE[how])
    journal = journal if is_open else other
    row = journal.claim(journal.add(**new()).id)
    journal.finish(row.id, Result("done", wire.response("Whales sleep there, too.")))
    assert "done" == journal.row(row.id).state
    answer = wire.response("A whale of a time.")
    journal.import_recorded(
        "other", Record("s", {"input": "Why?"}, None, answer, (), None, None, 0.0)
    )
    assert [2, 1] == sorted((row.id for row in journal.search("whales sleep")), reverse=True)
    assert [1] == [row.id for row in journal.search("sea")]
    assert [3] == [row.id for row in journal.search("time")]


@pytest.mark.parametrize("how", DAMAGE)
def test_search_in_a_damaged_index(journal, how):
    """A search rebuilds a damaged index, and finds all rows."""
    for words in ("whales", "🐳"):
        journal.finish(
            journal.add(**new(request={"input": words})).id, Result("done", wire.response("Fine."))
        )
    damage(journal, DAMAGE[how])
    assert [3, 1] == sorted((row.id for row in journal.search("whales")), reverse=True)
    assert [2] == [row.id for row in journal.search("🐳")]


def test_index_is_looked_at_once(journal):
    """A search without a result checks the index once, since the check takes long in a large journal."""
    journal.history()
    statements = []
    journal._db.set_trace_callback(statements.append)
    assert [[], []] == [journal.search("zebrafish"), journal.search("quagga")]
    assert 1 == sum("integrity-check" in statement for statement in statements)


@pytest.mark.parametrize("how", DAMAGE)
def test_forget_with_a_damaged_index(journal, how):
    """A forgotten text leaves the disk, even if the index was damaged before."""
    row_id = journal.add(**new(request={"input": "a zebrafish phrase"})).id
    journal.finish(row_id, Result("done", wire.response("Zebrafish.")))
    damage(journal, f"PRAGMA secure_delete = OFF; {DAMAGE[how]}")
    journal.forget(row_id)
    for file in journal.path.parent.iterdir():
        assert b"zebrafish" not in file.read_bytes().lower(), file
    assert ([], [2]) == (journal.search("zebrafish"), [row.id for row in journal.search("whales")])


def test_forget_what_was_half_written(journal):
    """A forgotten answer leaves the disk with the parts stored while it was written."""
    row = journal.claim(journal.add(**new()).id)
    for length in range(1, 40):
        journal.note_text(row.id, "A zebrafish phrase. " * 100 * length)
    journal.finish(row.id, Result("done", wire.response("Fine.")))
    journal.forget(row.id)
    for file in journal.path.parent.iterdir():
        assert b"zebrafish" not in file.read_bytes(), file


def test_forget_what_was_rescued(journal):
    """The rescue file of a forgotten answer is removed."""
    row = journal.claim(journal.add(**new()).id)
    _, copy = journal.rescue(row, Result("done", wire.response("secret")))
    with journal._transaction() as db:
        db.execute("UPDATE requests SET alive_at = alive_at - 3600")
    journal.forget(row.id)
    assert not Path(copy).exists()
    assert "forgotten" == journal.row(row.id).state


CAME = {
    "answered": Result("done", wire.response("Four dollars' worth."), 2.5, ("usage_missing",), Cost(4.0, 8_000_000, "headers")),
    "cut off": Result("failed", seconds=2.5, error=errors.ConnectionLost("Lost.", "Check.", may_cost=True), response_id="resp_9", text="Half of"),
    "cancelled": Result("cancelled", seconds=2.5),
}  # fmt: skip


@pytest.mark.parametrize("came", CAME.values(), ids=CAME)
def test_rescued_answer_is_taken_in(journal, came):
    """The next open journal imports the rescued answer as if it had been written, and removes the file."""
    kept, rescued = (journal.claim(journal.add(**new()).id) for _ in range(2))
    journal.finish(kept.id, came)
    journal.rescue(rescued, came)
    other = Journal(journal.path)
    rows = [other.row(row.id) for row in (kept, rescued)]
    assert rows[0] == replace(
        rows[1],
        id=kept.id,
        client_request_id=kept.client_request_id,
        asked_at=kept.asked_at,
        alive_at=kept.alive_at,
    )
    with other._transaction() as db:
        costs = db.execute("SELECT cost_usd, cost_credits, cost_source FROM requests").fetchall()
    assert tuple(costs[0]) == tuple(costs[1])
    assert [] == list(journal.path.parent.glob("answer-*"))


COLUMNS_OF_THE_FIRST = (
    "id state base_url server request client_request_id parent chain notebook chat cell before key asked_at response_id text response "
    "notices cost_usd seconds error alive_at"
)


def test_rescued_answer_of_an_earlier_version(journal):
    """A rescue file of an earlier version is imported as well, also for a row that was marked as failed since."""
    row = journal.claim(journal.add(**new()).id)
    _, copy = journal.rescue(
        row, Result("done", wire.response("Worth it."), 1.0, (), Cost(0.5, 1, "headers"))
    )
    kept = json.loads(Path(copy).read_text())
    Path(copy).write_text(json.dumps({name: kept[name] for name in COLUMNS_OF_THE_FIRST.split()}))
    journal.finish(
        row.id,
        Result("failed", seconds=1, error=errors.RunnerDied("Died.", "Check.", may_cost=True)),
    )
    other = Journal(journal.path)
    assert ("done", "Worth it.", 0.5, None) == (
        other.row(1).state,
        other.row(1).answer().text,
        other.row(1).cost_usd,
        other.row(1).error,
    )
    assert not Path(copy).exists()


def test_rescued_answer_is_found_by_who_asks_again(journal):
    """A kernel with the journal open finds the rescue file of an ended runner when the question is asked again."""
    row = journal.claim(journal.add(**new(key="whales")).id)
    _, copy = Journal(journal.path).rescue(row, Result("done", wire.response("In the sea.")))
    assert "In the sea." == journal.known(["whales"], "u").answer().text
    assert not Path(copy).exists()


def test_rescued_answer_that_is_known(journal):
    """The rescue file of an answer that the journal has changes nothing, and is removed."""
    row = journal.claim(journal.add(**new()).id)
    _, copy = journal.rescue(row, Result("done", wire.response("Second.")))
    journal.finish(row.id, Result("done", wire.response("First.")))
    assert "First." == Journal(journal.path).row(row.id).answer().text
    assert not Path(copy).exists()


def changed(copy, **fields):
    copy.write_text(json.dumps(json.loads(copy.read_text()) | fields))


STRANGE = {
    "no JSON": lambda copy: copy.write_text("{"),
    "half of it": lambda copy: copy.write_text(copy.read_text()[:200]),
    "deep": lambda copy: copy.write_text("[" * 100_000),
    "no row": lambda copy: copy.write_text("[]"),
    "a row without a column": lambda copy: copy.write_text("{}"),
    "a state that is none": lambda copy: changed(copy, state="queued"),
    "no number": lambda copy: changed(copy, id="1"),
    "a number of no column": lambda copy: changed(copy, id=2**70),
    "half a character": lambda copy: changed(copy, server="\ud800"),
    "another row": lambda copy: changed(copy, id=2),
    "a row of another journal": lambda copy: changed(copy, asked_at=1.0),
    "another question": lambda copy: changed(copy, request={"input": "Another?"}),
    "another server": lambda copy: changed(copy, server="https://evil.example"),
    "writable by others": lambda copy: copy.chmod(0o666),
    "too large": lambda copy: os.truncate(copy, 2**40),
    "folder": lambda copy: (copy.unlink(), copy.mkdir()),
    "pipe": lambda copy: (copy.unlink(), os.mkfifo(copy)),
    "link": lambda copy: copy.symlink_to(copy.rename(copy.with_name("elsewhere"))),
    "link to a device": lambda copy: (copy.unlink(), copy.symlink_to("/dev/zero")),
    "dangling link": lambda copy: (copy.unlink(), copy.symlink_to("nowhere")),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_strange_files_beside_the_journal(journal, what):
    """Other files with the name of a rescue file do not damage the journal, and stay; later rescue files are imported."""
    row, behind = (
        journal.claim(journal.add(**new(client_request_id=name * 8)).id) for name in "09"
    )
    copy = Path(journal.rescue(row, Result("done", wire.response("Not this.")))[1])
    journal.rescue(behind, Result("done", wire.response("This.")))
    STRANGE[what](copy)
    assert ["sent", "done"] == [row.state for row in Journal(journal.path).history()]
    assert os.path.lexists(copy)


def test_cost_that_no_column_takes(journal):
    """An invalid cost in a rescue file loses neither its answer nor later ones."""
    rows = [journal.claim(journal.add(**new(client_request_id=name * 8)).id) for name in "09"]
    copies = [
        Path(journal.rescue(row, Result("done", wire.response(), cost=Cost(1.0, 2, "usage")))[1])
        for row in rows
    ]
    changed(copies[0], cost_source="\ud800", cost_credits=2**63)
    assert [("done", 1.0)] * 2 == [
        (row.state, row.cost_usd) for row in Journal(journal.path).history()
    ]


def test_rescued_answer_of_a_question_that_was_not_sent(journal):
    """A rescue file for a question that was never sent is not imported."""
    row = journal.add(**new())
    _, copy = journal.rescue(row, Result("done", wire.response("Not this.")))
    assert "queued" == Journal(journal.path).row(row.id).state
    assert Path(copy).exists()


def test_two_take_in_at_once(tmp_path):
    """Kernels that start at the same moment import a rescued answer once, and none fails."""
    journal = Journal(tmp_path / "journal.sqlite3")
    rows = [journal.claim(journal.add(**new()).id) for _ in range(20)]
    for row in rows:
        journal.rescue(row, Result("done", wire.response(f"Answer {row.id}.")))
    with ThreadPoolExecutor(8) as kernels:
        found = list(kernels.map(lambda _: Journal(journal.path).history(), range(8)))
    assert 8 == len(found)
    assert [f"Answer {row.id}." for row in rows] == [row.answer().text for row in journal.history()]
    assert [] == list(tmp_path.glob("answer-*"))


def test_forget_what_is_under_way(journal):
    """A question that is being answered cannot be forgotten; one with a stale heartbeat can, and its runner adds no texts later."""
    row_id = journal.claim(journal.add(**new()).id).id
    with pytest.raises(errors.BadInput, match="is being answered"):
        journal.forget(row_id)
    with journal._transaction() as db:
        db.execute("UPDATE requests SET alive_at = alive_at - 3600")
    journal.forget(row_id)
    forgotten = journal.row(row_id)
    journal.note_text(row_id, "secret")
    journal.note_response_id(row_id, "resp_1")
    journal.note_key(row_id, "k")
    journal.note_chain(row_id, "transcript", "chain_refused")
    journal.finish(row_id, Result("done", wire.response("secret")))
    assert ("forgotten", forgotten) == (forgotten.state, journal.row(row_id))


def test_what_the_server_says_of_a_forgotten_question(journal):
    """The result of a check does not restore a forgotten question."""
    row_id = journal.add(**new()).id
    journal.finish(row_id, Result("failed", error=errors.ConnectionLost("Lost.", "Check.")))
    journal.forget(row_id)
    journal.note_free(row_id)
    journal.recover(row_id, wire.response("secret"), None)
    assert ("forgotten", "", None) == (
        journal.row(row_id).state,
        journal.row(row_id).answer().text,
        journal.row(row_id).error,
    )


def test_forget_while_somebody_reads(journal):
    """While a reader holds the journal's log, its texts cannot be removed, which is an error; afterwards they can."""
    row_id = journal.add(**new(request={"input": "a secret phrase"})).id
    journal.finish(row_id, Result("done", wire.response("Fine.")))
    log = journal.path.with_name("journal.sqlite3-wal")
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM requests").fetchone()
        with pytest.raises(errors.JournalError, match="still in the log") as refused:
            journal.forget(row_id)
        assert 2 == len(str(refused.value).splitlines())
        assert b"a secret phrase" in log.read_bytes()
    journal.forget(row_id)
    assert b"a secret phrase" not in log.read_bytes() + journal.path.read_bytes()


def test_forgotten_costs_are_counted(asker):
    """The cost of a forgotten answer stays in the sum of its notebook; it is neither listed nor continued."""
    with wire.serve(
        lambda _: wire.json_reply(wire.response(meta={"usage": {"usd_spent": 0.5}}))
    ) as server:
        row_id = asker.ask(server.url, cell="a", chat="talk").journal_id
        journal, notebook = asker.journal, asker.session.notebook
        journal.forget(row_id)
        assert (0.5, 0) == journal.spent(server.url, notebook=notebook)
        assert ([], [], []) == (
            journal.history(notebook),
            journal.chats(notebook),
            journal.turns(notebook, "talk"),
        )
        assert not journal.has_cell(notebook, "talk", "a")
        assert {} == asker.asking.chats.resume()
        assert not asker.ask(server.url, cell="a", chat="talk", replay="auto").replayed


@pytest.mark.parametrize("kind", ["function_call", "mcp_approval_request"])
def test_forget_rounds(journal, kind):
    """With an answer its earlier rounds are forgotten, which have its question; not its parent, nor another cell's answer."""
    wanting = wire.response(output=[{"type": kind, "name": "price", "arguments": "{}"}])
    parent = None
    for cell, came in [
        ("a", wanting),
        ("b", wanting),
        ("b", wire.response()),
        ("b", wanting),
        ("b", wire.response()),
    ]:
        parent = journal.add(**new(cell=cell, parent=parent)).id
        journal.finish(parent, Result("done", came))
    journal.forget(5)
    assert ["done", "done", "done", "forgotten", "forgotten"] == [
        row.state for row in journal.ancestors(5)
    ]
    journal.forget(3)
    assert ["done", *["forgotten"] * 4] == [row.state for row in journal.ancestors(5)]


@pytest.mark.parametrize(("seconds", "is_alive"), [(0, True), (-3600, False), (3600, False)])
def test_sign_of_life(journal, seconds, is_alive):
    """A row is alive while its heartbeat is recent: neither stale nor in the future."""
    row = journal.claim(journal.add(**new()).id)
    with journal._transaction() as db:
        db.execute("UPDATE requests SET alive_at = alive_at + ?", (seconds,))
    assert is_alive == journal.row(row.id).is_alive


def test_numbers_as_response_ids(journal):
    """A number names a row, even if a response has that number as its id; a number without a row is a response id."""
    for response_id in ("3", "1"):
        journal.finish(journal.add(**new()).id, Result("done", wire.response(id=response_id)))
    assert [1, 2, 1] == [journal.find_id(name) for name in "123"]


def test_unknown_row(journal):
    """An unknown id is BadInput, not an error of the journal."""
    with pytest.raises(errors.BadInput, match="no answer 7"):
        journal.row(7)


def test_no_key_column(journal):
    """The journal has no column for a key or a header."""
    journal.add(**new())
    with sqlite3.connect(journal.path) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(requests)")]
    db.close()
    assert not [
        column
        for column in columns
        if ("key" in column and column != "key") or "header" in column or "auth" in column
    ]


def test_threads_that_open_at_once(tmp_path):
    """Threads that open the journal of a file for the first time at once get the same object."""
    code = """
import sys, threading, time
from pathlib import Path
from aiml_magic.journal.store import journal_at
def give_way(*_):
    time.sleep(0)
    return give_way
threading.settrace(give_way)  # after each line another thread runs
for number in range(5):
    path, together, found = Path(sys.argv[1]) / str(number), threading.Barrier(8), []
    def open_it():
        together.wait()
        found.append(journal_at(path))
    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert 1 == len(set(map(id, found)))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
