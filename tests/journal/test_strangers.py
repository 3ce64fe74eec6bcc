"""Recordings and journals from strangers: they can be read or are refused, and cannot run, read or overwrite anything."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import wire
from hypothesis import example, given, settings
from hypothesis import strategies as st
from json_values import objects, scalars, values
from rows import new

from aiml_magic import credentials, errors
from aiml_magic.journal import recording
from aiml_magic.journal.recording import Record
from aiml_magic.journal.rows import KINDS, Result, Row
from aiml_magic.journal.store import Journal
from aiml_magic.notebook import context
from aiml_magic.sandbox import start as sandbox
from aiml_magic.session import conversation
from aiml_magic.session.asking import Session
from aiml_magic.session.recordings import Recordings
from aiml_magic.show import answers, details, export

ANSWER = wire.response("Because space expands.")
requests = st.fixed_dictionaries(
    {"input": st.text(max_size=9) | values},
    optional=dict.fromkeys(
        ("reasoning", "text", "tools", "model", "instructions", "metadata"), values
    ),
)


ROW = Row(
    1,
    "done",
    "u",
    "s",
    {},
    "c",
    None,
    None,
    "n",
    None,
    None,
    None,
    "k",
    1.7e9,
    "r",
    "",
    {},
    (),
    0.1,
    3.0,
    None,
    None,
)


def shown(row: Row) -> None:
    """Every function that shows an answer, except those that need a front end."""
    answer = row.answer()
    answers.answer_bundle(answer)
    details.details(answer)
    answers.with_banner(answer)
    context.line(row)
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("md", "html", "jsonl"):
            export.write(Path(folder) / f"x.{ending}", [answer])


def readings(journal: Journal) -> list[Row]:
    """Every function that reads a journal."""
    rows = journal.history()
    for row in rows:
        journal.ancestors(row.id)
        journal.known([row.key or ""], row.base_url)
        journal.unfinished(row.notebook)
    conversation.tree(rows)
    talk = conversation.Conversation(journal)
    talk.restore(rows)
    for cell in ("a", "b", "new"):
        talk.parent(cell)
    talk.later_cells("a", 1)
    journal.search("space")
    journal.search("宇")
    journal.spent("s")
    return rows


@settings(max_examples=30)
@example({"input": [{"content": 1}, 2]}, {}, None)
@given(requests, objects, values)
def test_any_answer_is_shown(request, response, part):
    """Any JSON object as a response, to any request, can be shown and exported."""
    for came in (
        response,
        response | {"output": [part]},
        response | {"output": [{"type": "mcp_list_tools", "tools": part}]},
    ):
        shown(replace(ROW, request=request, response=came))


HUGE = 10**400
ODD = [
    {"id": "resp_\ud800"}, {"status": "completed\ud800"}, {"usage": {"input_tokens": HUGE, "output_tokens": 1}},
    {"meta": {"usage": {"usd_spent": 1e300, "credits_used": HUGE}}}, {"meta": {"usage": {"usd_spent": 0.5, "credits_used": 1e30}}},
    {"created_at": HUGE}, {"output": [{"type": "mcp_list_tools", "tools": True}], "output_text": "Fine."},
    {"metadata": json.loads("[" * 700 + "]" * 700)},
]  # fmt: skip


@pytest.mark.parametrize("fields", ODD, ids=[next(iter(fields)) for fields in ODD])
@pytest.mark.parametrize("stream", [False, True])
def test_odd_answers_are_kept(module_asker, fields, stream):
    """A paid answer with values that SQLite cannot store is stored and shown, and its runner goes on."""
    response = wire.response() | fields
    event = f"data: {json.dumps({'type': 'response.completed', 'response': response})}\n\n".encode()
    reply = (
        wire.Reply(200, {"Content-Type": "text/event-stream"}, [event])
        if stream
        else wire.json_reply(response)
    )
    with wire.serve(lambda _: reply) as server:
        first = module_asker.ask(server.url, chat=None)
        assert first.journal_id != module_asker.ask(server.url, chat=None).journal_id
    shown(module_asker.journal.row(first.journal_id))
    assert "output" in fields or "Fine." == first.text


RECORD = {"server": "s", "request": {"model": "m", "input": "Why?"}, "parent": None, "response": ANSWER, "notices": [],
          "cost_usd": 0.1, "seconds": 3.0, "asked_at": 1.7e9}  # fmt: skip


def keyed(fields: dict) -> bytes:
    """A line of a recording with a valid key and any other content."""
    with suppress(TypeError, ValueError, OverflowError):
        key = Record(**{**fields, "request": dict(fields["request"])}).key
        return json.dumps(fields | {"key": key}).encode()
    return json.dumps(fields | {"key": ""}).encode()


lines = st.binary(max_size=60) | st.builds(
    lambda changed: keyed(RECORD | changed),
    st.fixed_dictionaries({}, optional=dict.fromkeys(RECORD, objects | requests | values)),
)


@settings(max_examples=25)
@example([keyed(RECORD | {"asked_at": 10**400})])
@given(st.lists(lines, max_size=3))
def test_any_recording(content):
    """A recording is imported, and its answers can be shown, or it is an error of two lines."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tutorial.o3pro"
        path.write_bytes(b"\n".join(content))
        asking = Session().on("", Path(folder) / "journal.sqlite3")
        try:
            asking.replay_file(path)
        except errors.BadInput as refused:
            assert 2 == len(str(refused).splitlines())
        for row in readings(asking.journal):
            shown(row)


@pytest.fixture
def no_collection():
    """An object that is collected at the recursion limit cannot run its finalizer, and pytest reports that."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("field", ["request", "response"])
@pytest.mark.parametrize("depth", [300, 450, 700, 2000])
def test_deep_recording(tmp_path, field, depth):
    """A deeply nested recording is imported, shown and written again, or is an error of two lines."""
    path, key = tmp_path / "tutorial.o3pro", Record(**RECORD).key
    line = json.dumps(RECORD | {field: RECORD[field] | {"metadata": 0}, "key": key})
    with suppress(RecursionError):
        line = keyed(
            RECORD | {field: RECORD[field] | {"metadata": json.loads("[" * depth + "]" * depth)}}
        ).decode()
    path.write_text(line.replace('"metadata": 0', f'"metadata": {"[" * depth + "]" * depth}'))
    asking = Session().on("", tmp_path / "journal.sqlite3")
    try:
        asking.replay_file(path)
        recording.write(path, recording.read(path))
    except errors.BadInput as refused:
        assert 2 == len(str(refused).splitlines())
    for row in readings(asking.journal):
        shown(row)


MIB = 2**20
LARGE = {
    "a line of one text": lambda: [b'"' + b"x" * 20 * MIB + b'"'],
    "a line of empty objects": lambda: [b"[" + b"{}," * 5 * MIB + b"{}]"],
    "a line without an end": lambda: [b"[" * 20 * MIB],
    "a line of wide text": lambda: [
        b'{"response": {"a": "\\ud83d\\ude00' + b"x" * 15 * MIB + b'"}}'
    ],
    "lines of wide text": lambda: [
        keyed(RECORD | {"response": {"id": str(number), "a": "\N{GRINNING FACE}" + "x" * 3 * MIB}})
        for number in range(6)
    ],
    "blank lines": lambda: [b"\n" * MIB],
    "lines of many values": lambda: [
        keyed(RECORD | {"request": {"input": [{"": number}] * 9000}}) for number in range(90)
    ],
}


@pytest.mark.parametrize("lines", LARGE.values(), ids=LARGE)
def test_memory_of_recordings(tmp_path, lines):
    """Reading a recording with lines of any size and any number of values takes less than 300 MB."""
    path = tmp_path / "tutorial.o3pro"
    path.write_bytes(b"\n".join(lines()))
    code = """
import sys
from pathlib import Path
from aiml_magic import errors
from aiml_magic.journal import recording
def peak():
    status = Path("/proc/self/status")  # where there is none, the rest of the claim is tested
    lines = status.read_text().splitlines() if status.exists() else ["VmHWM: 0 kB"]
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
try:
    recording.read(Path(sys.argv[1]))
except errors.BadInput as refused:
    assert 2 == len(str(refused).splitlines()), refused
    print("refused")
print(peak() - before)
"""
    told = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "refused" == told[0]
    assert 300_000 > int(told[1]), "kB"


COLUMNS = "state base_url server request client_request_id parent chain session notebook chat cell before key asked_at response_id text response status notices cost_usd cost_credits cost_source seconds error alive_at".split()
JSON_OF_ANY_KIND = st.builds(json.dumps, values)


PLACES = st.tuples(st.integers(1, 3), st.sampled_from(COLUMNS))  # a row, and its column
LINKS = st.integers(1, 4) | st.sampled_from("abcd")  # a parent of a row, or a cell


@settings(max_examples=40)
@given(
    st.dictionaries(
        PLACES, scalars | st.binary(max_size=8) | JSON_OF_ANY_KIND | LINKS, min_size=1, max_size=4
    )
)
@example({(1, "parent"): 1})
@example({(1, "parent"): 3, (3, "parent"): 2})
@example({(1, "before"): "c", (1, "parent"): 3})
@example({(3, "cell"): "a"})
@example({(2, "before"): "b", (3, "cell"): "b", (3, "before"): "b"})
def test_any_row(changed):
    """A conversation with any content, including cycles, is shown and continued, or is an error of two lines."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.sqlite3")
        for parent, before, cell in [(None, None, "a"), (1, "a", "b"), (2, "b", "c")]:
            row_id = journal.add(**new(parent=parent, before=before, cell=cell)).id
            journal.finish(row_id, Result("done", ANSWER, 1))
        with (
            suppress(sqlite3.IntegrityError, OverflowError, UnicodeEncodeError),
            journal._lock,
            journal._connection() as db,
        ):
            db.execute("PRAGMA foreign_keys = OFF")
            for (row_id, name), value in changed.items():
                db.execute(f"UPDATE requests SET {name} = ? WHERE id = ?", (value, row_id))
        try:
            for row in readings(journal):
                shown(row)
        except errors.AimlMagicError as refused:
            assert 2 == len(str(refused).splitlines())


@pytest.mark.parametrize("name", [name for name in KINDS if name != "id"])
def test_missing_column(tmp_path, name):
    """A journal that lacks a column is refused in two lines, by every read and write."""
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.add(**new())
    with journal._transaction() as db:
        db.execute(f"ALTER TABLE requests RENAME COLUMN {name} TO other")
    for act in (
        journal.history,
        lambda: journal.row(1),
        lambda: journal.add(**new(client_request_id="x", parent=1)),
    ):
        with pytest.raises(errors.JournalError, match=rf"\b{name}\b") as refused:
            act()
        assert 2 == len(str(refused.value).splitlines())


def journal_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.sqlite3")
        for number in range(3):
            row_id = journal.add(**new(parent=number or None)).id
            journal.finish(row_id, Result("done", ANSWER, 1))
        with journal._transaction() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        journal._connection().close()
        return journal.path.read_bytes()


JOURNAL = journal_file()
cuts = st.lists(
    st.tuples(st.integers(0, len(JOURNAL) - 1), st.binary(min_size=1, max_size=16)), max_size=8
)


@settings(max_examples=25)
@example([(25, b"\x00\x00\x00"), (1284, b"A\x0b")], 4097)  # then SQLite's own message has two lines
# Then SQLite's own message is not UTF-8.
@example([(JOURNAL.index(b"REAL NOT NULL") + 9, b"\x80")], len(JOURNAL))
@given(
    st.binary(max_size=200).map(lambda rest: b"SQLite format 3\0" + rest) | cuts,
    st.integers(0, len(JOURNAL)),
)
def test_any_file(content, length):
    """A file with any damage is read, or is an error of two lines."""
    if not isinstance(content, bytes):
        torn = bytearray(JOURNAL)
        for place, piece in content:
            torn[place : place + len(piece)] = piece
        content = bytes(torn[:length])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        path.write_bytes(content)
        try:
            for row in readings(Journal(path)):
                shown(row)
        except errors.AimlMagicError as refused:
            assert 2 == len(str(refused).splitlines())


ACTIVE = {
    "trigger": "CREATE TRIGGER x AFTER INSERT ON requests BEGIN UPDATE requests SET request = '{}', base_url = 'https://evil.example'; END",
    "view": "CREATE VIEW x AS SELECT load_extension('/tmp/x.so') FROM requests",
    "view in place of the rows": "ALTER TABLE requests RENAME TO kept; CREATE VIEW requests AS SELECT * FROM kept",
}


@pytest.mark.parametrize("name", ACTIVE)
def test_journal_that_acts(tmp_path, name):
    """A journal with a trigger or a view is refused, and not changed."""
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(JOURNAL)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(ACTIVE[name])
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    with pytest.raises(errors.JournalError, match="trigger or a view"):
        Journal(path).add(**new())
    assert before == path.read_bytes()


def test_schema_without_side_effects(tmp_path):
    """Expressions in a forged schema cannot call functions with side effects, and SQLite loads no library."""
    journal = Journal(tmp_path / "journal.sqlite3")
    with journal._transaction() as db:
        assert 0 == db.execute("PRAGMA trusted_schema").fetchone()[0]
        with pytest.raises(sqlite3.OperationalError, match="not authorized|no such function"):
            db.execute("SELECT load_extension('x')")


@pytest.mark.parametrize("kind", ["device", "pipe", "too large", "folder", "a link to a device"])
def test_files_that_never_end(tmp_path, kind):
    """Anything but a regular file, and a file larger than any recording, is refused at once, as a recording and as a journal."""
    path = tmp_path / "tutorial.o3pro"
    match kind:
        case "device":
            path = Path("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "too large":
            with path.open("wb") as file:
                file.truncate(2**40)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to("/dev/zero")
    with pytest.raises(errors.BadInput):
        recording.read(path)
    with pytest.raises(errors.JournalError):
        Journal(path).history()


def test_recordings_name_no_file(tmp_path):
    """No path or attachment that a recording names is opened."""
    secret = tmp_path / "secret"
    secret.write_text("words-of-the-secret")
    parts = [
        {"type": "input_file", "file_data": str(secret), "filename": str(secret)},
        {"type": "input_image", "image_url": secret.as_uri()},
    ]
    request = {
        "model": "m",
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": f"{{{{{secret}}}}}"}, *parts],
            }
        ],
    }
    (tmp_path / "x.jsonl").write_bytes(
        keyed(RECORD | {"request": request, "server": secret.as_uri()})
    )
    asking = Session().on("", tmp_path / "journal.sqlite3")
    assert 1 == asking.replay_file(tmp_path / "x.jsonl")
    (row,) = readings(asking.journal)
    shown(row)
    export.write(tmp_path / "x.html", [row.answer()])
    for path in (
        tmp_path / "x.html",
        asking.journal.path,
        asking.journal.path.with_name("journal.sqlite3-wal"),
    ):
        assert b"words-of-the-secret" not in path.read_bytes()


@pytest.mark.parametrize("draft", [False, True])
def test_links_are_replaced(tmp_path, draft):
    """A link with the name of a recording or an export is replaced; its target stays unchanged."""
    target = tmp_path / "profile"
    target.write_text("as it is")
    answer = ROW.answer()
    for name, write in (
        ("x.jsonl", lambda path: recording.write(path, {})),
        ("x.md", lambda path: export.write(path, [answer], may_replace=True)),
    ):
        place = tmp_path / name
        (
            tmp_path / f"{name}.{os.getpid()}-{threading.get_ident()}.part" if draft else place
        ).symlink_to(target)
        write(place)
        assert "as it is" == target.read_text()
        assert not place.is_symlink()


@pytest.mark.parametrize(
    "name", ["a\0.md", "\ud800.md", "~nobody-of-that-name/x.md", "x" * 300 + ".md"]
)
def test_names_that_no_disk_takes(tmp_path, monkeypatch, name):
    """An impossible file name of a recording or an export is an error of two lines that any terminal can show."""
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    for write in (
        lambda: export.write(path, []),
        lambda: recording.write(path, {}),
        lambda: recording.read(path),
        lambda: Recordings(threading.RLock()).start(path),
    ):
        with pytest.raises(errors.BadInput) as refused:
            write()
        assert 2 == len(str(refused.value).encode().splitlines())
        assert "\0" not in str(refused.value)
        assert ".part" not in str(refused.value)
        assert len(str(refused.value)) < 250


def test_export_at_home(tmp_path, monkeypatch):
    """A path that begins with ~ is relative to the user's home directory, like that of an attachment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    export.write(Path("~/talk.md"), [ROW.answer()])
    assert (tmp_path / "talk.md").exists()


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_private_under_any_umask(tmp_path, monkeypatch, mask):
    """Every new file and folder is private to this user, under any umask."""
    monkeypatch.setenv("AIML_MAGIC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("aiml_magic.credentials._keyring", lambda: None)
    before = os.umask(mask)
    try:
        journal = Journal(tmp_path / "home" / "journal.sqlite3")
        row = journal.add(**new())
        credentials.save_key("test-key-0123456789")
        sandbox.Note(1, credentials.new_token()).write(tmp_path / "home")
        journal.rescue(row, Result("done"))
        recording.write(tmp_path / "home" / "x.jsonl", {})
        for ending in ("md", "html", "jsonl"):
            export.write(tmp_path / "home" / f"x.{ending}", [row.answer()])
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "home").iterdir()}
    finally:
        os.umask(before)
    assert 0o700 == (tmp_path / "home").stat().st_mode & 0o777
    assert {0o600} == set(modes.values()), modes
    note = sandbox.path_of(tmp_path / "home", "json").name
    assert {
        "key",
        note,
        "journal.sqlite3",
        "journal.sqlite3-wal",
        "journal.sqlite3-shm",
        "x.jsonl",
    } <= modes.keys()
