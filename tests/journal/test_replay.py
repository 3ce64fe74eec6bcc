"""Nothing is paid twice: replay, recordings, conversations after a restart, budgets."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
import wire
from asking import KEY, Asker
from hypothesis import example, given
from hypothesis import strategies as st
from json_values import scalars, values
from kernels import kernel, without_ports
from nbclient import NotebookClient
from processes import processes
from rows import new
from traitlets.config import Config

from aiml_magic import errors
from aiml_magic.api.models import Catalogue, read
from aiml_magic.journal import recording
from aiml_magic.journal.recording import Record
from aiml_magic.journal.replay import differences, nearest, request_key
from aiml_magic.journal.rows import Result
from aiml_magic.notebook import context
from aiml_magic.question.schemas import of_value
from aiml_magic.session.budget import price_in
from aiml_magic.show import export
from aiml_magic.show.details import details_line, line_with_replay

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
REQUESTS = st.dictionaries(
    st.sampled_from(["model", "input", "instructions", "reasoning", "tools", "text"]), JSON
)
DELIVERY = st.dictionaries(st.sampled_from(["stream", "store", "background"]), st.booleans())


@given(REQUESTS, DELIVERY, DELIVERY, st.randoms())
def test_key_ignores_order_and_delivery(request, one_way, another, random):
    """The key does not depend on the order of fields or on the delivery."""
    names = list(request)
    random.shuffle(names)
    shuffled = {name: request[name] for name in names}
    assert request_key("s", request | one_way, "p") == request_key("s", another | shuffled, "p")


@given(REQUESTS, REQUESTS)
def test_key_tells_requests_apart(one, other):
    """Requests have the same key only if they are equal, to one server, after one answer."""
    is_same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert is_same == (request_key("s", one, None) == request_key("s", other, None))
    assert request_key("s", one, None) != request_key("t", one, None)
    assert request_key("s", one, None) != request_key("s", one, "p")


@pytest.fixture
def numbered():
    """A server that numbers its answers and keeps conversations."""

    def answer(request):
        number = len(server.posts)
        echo = request.body.get("previous_response_id")
        usage = {"meta": {"usage": {"usd_spent": 0.5, "credits_used": 1_000_000}}}
        return wire.json_reply(
            wire.response(
                f"Answer {number}", id=f"resp_{number}", previous_response_id=echo, **usage
            )
        )

    with wire.serve(answer) as server:
        yield server


def test_replay(asker, numbered):
    """The same question in the same place costs one request; the second answer is the same, and marked as replayed."""
    first = asker.ask(numbered.url, cell="a", replay="auto")
    again = asker.ask(numbered.url, cell="a", replay="auto")
    assert 1 == len(numbered.posts)
    assert (False, True) == (first.replayed, again.replayed)
    assert (first.text, first.cost_usd, first.seconds, first.asked_at, first.id) == (
        again.text, again.cost_usd, again.seconds, again.asked_at, again.id)  # fmt: skip


def test_wire_form_does_not_count(asker, numbered):
    """Streaming and storage do not change the key; effort, instructions and the parent do."""
    asker.ask(numbered.url, replay="auto", chat=None)
    assert asker.ask(numbered.url, replay="auto", chat=None, stream=False, store=False).replayed
    assert not asker.ask(numbered.url, replay="auto", chat=None, effort="high").replayed
    assert not asker.ask(numbered.url, replay="auto", chat=None, instructions="Be brief.").replayed
    assert not asker.ask(numbered.url, replay="off", chat=None).replayed


def test_fresh(asker, numbered):
    """After asking afresh the newest answer is the one that is replayed."""
    asker.ask(numbered.url, cell="a", replay="auto")
    asker.ask(numbered.url, cell="a", replay="off")
    assert "Answer 2" == asker.ask(numbered.url, cell="a", replay="auto").text
    assert 2 == len(numbered.posts)


def test_only_whole_answers_are_replayed(asker):
    """Incomplete and failed answers are asked again."""
    reply = wire.json_reply(
        wire.response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    )
    with wire.serve(lambda _: reply) as server:
        for _ in range(2):
            asker.ask(server.url, cell="a", replay="auto")
        assert 2 == len(server.posts)


FAILED = {"status": "failed", "error": {"code": "server_error"}}
DOUBTFUL = [
    wire.Reply(end="close"),
    wire.Reply(504, {"Content-Type": "text/html"}, [b"<h1>504</h1>"]),
    wire.Reply(
        200,
        {"Content-Type": "text/event-stream"},
        [b'data: {"type":"response.output_text.delta","delta":"Half"}\n\n'],
    ),
    wire.Reply(200, {"Content-Type": "text/html"}, [b"<h1>Maintenance</h1>"]),
    wire.json_reply(wire.response(**FAILED)),
    wire.json_reply(wire.response(status="queued", id=None)),
    wire.json_reply(wire.response(status="expired", output=[], usage=None)),
]
FREE = [
    wire.json_reply({"message": "Bad"}, 400),
    wire.json_reply(wire.response(**FAILED, output=[])),
]


@pytest.mark.parametrize("reply", DOUBTFUL)
def test_doubtful_questions_are_not_sent_again(asker, reply):
    """A question that may have been charged is not sent again by its cell, which shows its state; only --fresh sends it."""
    with wire.serve(lambda _: reply) as server:
        said = []
        for _ in range(2):
            with pytest.raises(errors.RequestFailed) as failed:
                asker.ask(server.url, cell="a", replay="auto")
            said.append((type(failed.value), str(failed.value)))
        assert said[0] == said[1]
        assert "--fresh" in said[0][1]
        assert 1 == len(server.posts)
        with pytest.raises(errors.RequestFailed):
            asker.ask(server.url, cell="a", replay="off")
        assert 2 == len(server.posts)


@pytest.mark.parametrize("reply", FREE)
def test_free_failures_may_be_asked_again(asker, reply):
    """A question that failed without a charge is asked again."""
    with wire.serve(lambda _: reply) as server:
        for _ in range(2):
            with pytest.raises(errors.RequestFailed):
                asker.ask(server.url, cell="a", replay="auto")
        assert 2 == len(server.posts)


def test_another_server_is_another_question(asker, numbered):
    """An answer of one server is not replayed for another."""
    asker.ask(numbered.url, cell="a", replay="auto")
    with wire.serve(lambda _: wire.json_reply(wire.response("Other."))) as other:
        assert "Other." == asker.ask(other.url, cell="a", replay="auto").text


def test_miss(asker, numbered):
    """With `only`, a miss sends nothing, and names the nearest recorded question and what differs, in eight lines at most."""
    asker.ask(numbered.url, "What is the mass of the Moon?", effort="low")
    with pytest.raises(errors.ReplayMiss) as miss:
        asker.ask(
            numbered.url, "What is the mass of the Sun?", effort="high", replay="only", chat=None
        )
    text = str(miss.value)
    assert 1 == len(numbered.posts)
    assert "Moon" in text
    assert '"low"' in text
    assert '"high"' in text
    assert len(text.splitlines()) <= 8


def test_replay_needs_no_key(asker, numbered, monkeypatch):
    """A replay needs neither a key nor a server."""
    asker.ask(numbered.url, cell="a", replay="auto")
    monkeypatch.delenv("AIML_API_KEY")
    assert "Answer 1" == asker.ask(numbered.url, cell="a", replay="only").text
    with pytest.raises(errors.NoKey):
        asker.ask(numbered.url, "Another?", replay="auto")


def test_nearest_and_differences():
    """The nearest request is the most similar one, and each differing field is a line."""
    asked = {"model": "m", "input": "How far is the Moon?"}
    others = [
        {"model": "m", "input": "Write a poem"},
        {"model": "m", "input": "How far is the Sun?"},
    ]
    assert 1 == nearest(asked, others)
    assert 1 == nearest(
        {"input": "How far is it"},
        [{"input": "It has four hairs"}, {"input": "How far is it to the Moon?"}],
    )
    assert nearest(asked, []) is None
    assert [
        'input: "How far is the Sun?" is recorded, "How far is the Moon?" is asked'
    ] == differences(asked, others[1])


TURNS = 20


def cells(changed: int | None = None) -> list[str]:
    words = [
        f"Question {number}{' in other words' if number == changed else ''}?"
        for number in range(1, TURNS + 1)
    ]
    return [
        "%load_ext aiml_magic",
        *[f"%%o3pro -o a{number}\n{text}" for number, text in enumerate(words, start=1)],
    ]


def posts(url: str) -> int:
    from calling import call

    return call(f"{url.removesuffix('/v1')}/v2/logs")[1]["pagination"]["total"]


def run_in_kernel(
    url: str, changed: int | None = None, *, ids: bool = True
) -> tuple[list[str], list[float]]:
    """All cells in a new kernel: the outputs and the seconds of each."""
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {url!r}")
        ran = [
            running.run(code, f"cell {number}" if ids else None)
            for number, code in enumerate(cells(changed)[1:])
        ]
    assert [None] * TURNS == [one.error for one in ran]
    return [one.of_type("text/markdown")[0] for one in ran], [one.seconds for one in ran]


def test_restart_and_run_all(home, sandbox_url):
    """A notebook of twenty turns, run again in a new kernel, shows the same answers and sends nothing."""
    before = posts(sandbox_url)
    asked, _ = run_in_kernel(sandbox_url)
    assert before + TURNS == posts(sandbox_url)
    replayed, _ = run_in_kernel(sandbox_url)
    assert asked == replayed
    without_ids, _ = run_in_kernel(sandbox_url, ids=False)
    assert asked == without_ids
    assert before + TURNS == posts(sandbox_url)


def test_change_in_turn_seven(home, sandbox_url):
    """After a change of turn 7, turns 1 to 6 are replayed; 7 and later ones are asked, with a notice of the reason."""
    run_in_kernel(sandbox_url)
    before = posts(sandbox_url)
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
        for number, code in enumerate(cells(changed=7)[1:]):
            running.run(code, f"cell {number}")
        told = running.run(
            "print([a.replayed for a in (a6, a7, a8, a20)], a7.notices, a8.notices, a20.notices)"
        ).stream
    assert before + TURNS - 6 == posts(sandbox_url)
    assert "[True, False, False, False] () ('parent_changed',) ('parent_changed',)" == told.strip()


def execute(folder: Path, code: list[str], **environment: str) -> list[dict[str, str]]:
    """The outputs with an answer of cells run by nbclient in another process, as nbval compares them."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in code]
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        with tempfile.TemporaryDirectory(prefix="kernel") as sockets:
            config = Config({"KernelManager": without_ports(sockets)})
            NotebookClient(notebook, timeout=60, store_widget_state=False, config=config).execute()
    asking = [
        cell for cell in notebook.cells if "%o3pro" in cell.source and "%config" not in cell.source
    ]
    outputs = [output["data"] for cell in asking for output in cell.outputs]
    return [
        {kind: value for kind, value in data.items() if "widget" not in kind} for data in outputs
    ]


NO_NETWORK = """
import socket, subprocess
def refuse(*_, **__): raise OSError("no network here, and no process that could have one")
socket.socket.connect = socket.create_connection = subprocess.Popen = refuse
"""


def test_recording_travels(home, sandbox_url, tmp_path, monkeypatch):
    """A recording is replayed in another folder without a key, a network or cell ids."""
    author, reader = tmp_path / "author", tmp_path / "reader"
    author.mkdir()
    reader.mkdir()
    ask = [
        '%%o3pro\nFirst 日本語 "quoted"?',
        "%o3pro And then?",
        "%%o3pro --alone -e high\nSomething else",
    ]
    setting = f"%config O3Pro.base_url = {sandbox_url!r}"
    shown = execute(author, ["%load_ext aiml_magic", setting, "%aiml record answers.jsonl", *ask])
    text = (author / "answers.jsonl").read_text()
    assert 3 == len(text.splitlines())
    assert KEY not in text
    assert str(tmp_path) not in text
    shutil.copy(author / "answers.jsonl", reader)
    monkeypatch.delenv("AIML_API_KEY")
    before = posts(sandbox_url)
    again = execute(reader, [NO_NETWORK, "%load_ext aiml_magic", setting, "%aiml replay answers.jsonl", *ask],
                    AIML_MAGIC_HOME=str(tmp_path / "elsewhere"), AIML_MAGIC_REPLAY="only")  # fmt: skip
    assert shown == again
    assert before == posts(sandbox_url)


def test_recording_is_stable(home, sandbox_url, tmp_path):
    """Run again, a notebook writes the same recording, byte for byte."""
    ask = [
        "%load_ext aiml_magic",
        f"%config O3Pro.base_url = {sandbox_url!r}",
        "%aiml record a.jsonl",
        "%o3pro One?",
        "%o3pro Two?",
    ]
    execute(tmp_path, ask)
    first = (tmp_path / "a.jsonl").read_bytes()
    execute(tmp_path, ask)
    assert first == (tmp_path / "a.jsonl").read_bytes()


def test_recording_can_be_gone_on_with(asker, numbered, tmp_path):
    """A replayed conversation can be continued, with all its turns sent, and recorded again."""
    asker.session.recordings.start(tmp_path / "a.jsonl")
    for text in ("One?", "Two?"):
        asker.session.recordings.keep(asker.ask(numbered.url, text), asker.journal)
    reader = Asker(tmp_path / "reader" / "journal.sqlite3")
    assert 2 == reader.asking.replay_file(tmp_path / "a.jsonl")
    reader.session.recordings.start(tmp_path / "b.jsonl")
    for text in ("One?", "Two?"):
        answer = reader.ask(numbered.url, text, replay="only")
        reader.session.recordings.keep(answer, reader.journal)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    reader.ask(numbered.url, "Three?", chain="transcript")
    reader.session.close(10)
    assert ["One?", "Answer 1", "Two?", "Answer 2", "Three?"] == [
        item["content"][0]["text"] for item in numbered.posts[-1].body["input"]
    ]


def test_recording_grows_by_its_lines(asker, numbered, tmp_path):
    """Each answer is one appended line; lines of another kernel stay."""
    path, other = tmp_path / "a.jsonl", Asker(tmp_path / "other" / "journal.sqlite3")
    for one in (asker, other):
        one.session.recordings.start(path)

    def keep(one, text):
        answer = one.ask(numbered.url, text, chat=None, replay="auto")
        one.session.recordings.keep(answer, one.journal)
        return path.stat().st_ino, len(path.read_text().splitlines())

    kept = [keep(asker, "One?")]
    kept += [keep(asker, text) for text in ("Two?", "Two?", "Three?")]
    assert [(kept[0][0], lines) for lines in (1, 2, 2, 3)] == kept
    assert [4, 5, 6] == [
        keep(one, text)[1] for one, text in ((other, "4?"), (asker, "5?"), (asker, "6?"))
    ]
    other.session.close(10)
    assert ["One?", "Two?", "Three?", "4?", "5?", "6?"] == [
        record.request["input"] for record in recording.read(path).values()
    ]


def test_miss_under_only_asks_nothing(home, sandbox_url, tmp_path):
    """With `replay only` an unrecorded question fails its cell, and nothing is sent."""
    before = posts(sandbox_url)
    with pytest.raises(Exception, match="ReplayMiss"):
        execute(tmp_path, ["%load_ext aiml_magic", f"%config O3Pro.base_url = {sandbox_url!r}", "%o3pro Unrecorded?"],
                AIML_MAGIC_REPLAY="only")  # fmt: skip
    assert before == posts(sandbox_url)


RECORDS = st.builds(
    Record,
    server=st.just("s"), request=st.builds(lambda text: {"model": "m", "input": text}, st.text(st.characters())),
    parent=st.none() | st.text(max_size=5),
    response=st.builds(wire.response, st.text(st.characters())),
    notices=st.just(()), cost_usd=st.none() | st.floats(0, 10), seconds=st.none() | st.floats(0, 1e4), asked_at=st.floats(0, 2e9),
)  # fmt: skip


@given(st.lists(RECORDS, max_size=4))
def test_any_text_survives(tmp_path_factory, records):
    """Any question and answer survives recording, replay and export, with any code points."""
    folder = tmp_path_factory.mktemp("any")
    path = folder / "answers.jsonl"
    kept = {record.key: record for record in records}
    recording.write(path, kept)
    assert kept == recording.read(path)
    assert path.read_bytes().isascii()
    asker = Asker(folder / "journal.sqlite3")
    asker.asking.replay_file(path)
    for key, record in kept.items():
        row = asker.journal.row(asker.asking.replayed[key])
        assert (record.request["input"], record.response["output"][0]["content"][0]["text"]) == (
            row.question,
            row.answer().text,
        )
        for ending in ("md", "html", "jsonl"):
            export.write(folder / f"x.{ending}", [row.answer()])
        line = json.loads((folder / "x.jsonl").read_text())
        assert (row.question, row.answer().text) == (line["question"], line["answer"])


def test_recordings_of_two_kernels(asker, numbered, tmp_path):
    """Two kernels that record to one file at once keep the answers of both, including maps and background jobs."""
    other = Asker(asker.path)
    try:
        for each in (asker, other):
            each.session.recordings.start(tmp_path / "a.jsonl")
        jobs = [
            each.start(numbered.url, f"Of {each.path}, {n}?", cell=f"{n}", chat=None)
            for n in range(4)
            for each in (asker, other)
        ]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda job: job.wait(20), jobs))
    finally:
        other.session.close(10)
    assert 4 == len(recording.read(tmp_path / "a.jsonl"))


def test_recording_of_what_does_not_fit(asker, numbered, tmp_path):
    """An answer that does not fit its schema was paid for, and is recorded as any other."""
    asker.session.recordings.start(tmp_path / "a.jsonl")
    with pytest.raises(errors.SchemaMismatch):
        asker.ask(numbered.url, schema=of_value({"type": "object", "properties": {}}, "nothing"))
    assert 1 == len(recording.read(tmp_path / "a.jsonl"))


def test_recording_that_cannot_be_written(asker, numbered, tmp_path, capsys):
    """An unwritable file is refused at once; a later failure to write loses no answer."""
    with pytest.raises(errors.BadInput):
        asker.session.recordings.start(tmp_path / "none" / "a.jsonl")
    (folder := tmp_path / "some").mkdir()
    asker.session.recordings.start(folder / "a.jsonl")
    shutil.rmtree(folder)
    assert asker.ask(numbered.url).text
    assert "cannot be written" in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil",
    [lambda line: line.replace("Why", "Who"), lambda line: "{}", lambda line: "nonsense", lambda line: "[1]",
     lambda line: line.replace('"notices": []', '"notices": 5'), lambda line: "[" * 100_000],
)  # fmt: skip
def test_spoilt_recordings(asker, tmp_path, spoil):
    """A line that is not a recorded answer, or that was changed, is refused, and nothing of the file is imported."""
    record = Record("s", {"input": "Why?"}, None, wire.response(), (), None, 1.0, 0.0)
    path = tmp_path / "a.jsonl"
    recording.write(path, {record.key: record})
    path.write_text(path.read_text() + spoil(path.read_text()))
    with pytest.raises(errors.BadInput, match="line 2"):
        asker.asking.replay_file(path)
    assert [] == asker.journal.history()


def test_later_cells_are_stale(asker, numbered):
    """A new answer of an early cell marks later cells as stale, until they are run again."""
    for cell in ("a", "b", "c"):
        asker.ask(numbered.url, f"In {cell}?", cell=cell, replay="auto")
    changed = asker.ask(numbered.url, "In a, otherwise?", cell="a", replay="auto")
    assert "later_cells_stale" in changed.notices
    renewed = asker.ask(numbered.url, "In b?", cell="b", replay="auto")
    assert "later_cells_stale" in renewed.notices
    last = asker.ask(numbered.url, "In c?", cell="c", replay="auto")
    assert "later_cells_stale" not in last.notices
    assert (
        "later_cells_stale"
        not in asker.ask(numbered.url, "In a, otherwise?", cell="a", replay="auto").notices
    )


def test_after(asker, numbered):
    """`--after` continues any answer, by its number or its response's id, and later cells continue from the fork."""
    one = asker.ask(numbered.url, "One?")
    asker.ask(numbered.url, "Two?")
    asker.ask(numbered.url, "Fork?", after=str(one.journal_id))
    asker.ask(numbered.url, "Fork too?", after="resp_1")
    asker.ask(numbered.url, "On?")
    assert [None, "resp_1", "resp_1", "resp_1", "resp_4"] == [
        post.body.get("previous_response_id") for post in numbered.posts
    ]
    with pytest.raises(errors.BadInput, match="no answer 99"):
        asker.ask(numbered.url, "Lost?", after="99")


def test_resume(asker, numbered):
    """After a restart, `resume` continues the conversation, and a cell that is run again keeps its place."""
    for cell in ("a", "b"):
        asker.ask(numbered.url, f"In {cell}?", cell=cell)
    asker.ask(numbered.url, "Elsewhere?", cell="x", chat="other")
    later = Asker(asker.path)
    assert {"main": 2, "other": 1} == later.asking.chats.resume()
    later.ask(numbered.url, "In b, otherwise?", cell="b")
    later.ask(numbered.url, "In c?", cell="c")
    later.session.close(10)
    assert ["resp_1", "resp_4"] == [
        post.body.get("previous_response_id") for post in numbered.posts[3:]
    ]


def test_cell_keeps_its_place_over_a_restart(asker, numbered):
    """After a restart, a cell in the middle, run alone, is replayed; with another text it continues the same answer as before."""
    for cell in ("a", "b", "c"):
        asker.ask(numbered.url, f"In {cell}?", cell=cell, replay="auto")
    later = Asker(asker.path)
    assert later.ask(numbered.url, "In c?", cell="c", replay="auto").replayed
    later.ask(numbered.url, "In d?", cell="d", replay="auto")
    told = later.ask(numbered.url, "In b, otherwise?", cell="b", replay="auto")
    later.session.close(10)
    assert ("later_cells_stale",) == told.notices
    assert ["resp_3", "resp_1"] == [
        post.body.get("previous_response_id") for post in numbered.posts[3:]
    ]

    afresh = Asker(asker.path)
    afresh.ask(numbered.url, "In e?", cell="e", replay="auto")
    assert afresh.ask(numbered.url, "In d?", cell="d", replay="auto").replayed
    afresh.session.close(10)
    assert [None] == [post.body.get("previous_response_id") for post in numbered.posts[5:]]


def test_place_among_a_thousand_rows(asker, numbered):
    """A cell keeps its place, and a chat its head, after a thousand other questions of the notebook."""
    for cell in "ab":
        asker.ask(numbered.url, f"In {cell}?", cell=cell, replay="auto")
    with asker.journal.together():
        for number in range(1000):
            asker.journal.add(
                **new(notebook=asker.session.notebook, chat=None, key=f"key {number}")
            )
    later = Asker(asker.path)
    try:
        assert 2 == later.asking.chats.head("main")
        assert later.ask(numbered.url, "In b?", cell="b", replay="auto").replayed
    finally:
        later.session.close(10)


def test_another_journal_is_another_memory(asker, numbered, tmp_path):
    """Row ids are valid in one journal: after a change of the journal, no conversation continues a row of the other."""
    other = Asker(tmp_path / "other.sqlite3")
    other.ask(numbered.url, "Of another notebook?", chat=None)
    other.session.close(10)
    asker.ask(numbered.url, "One?", cell="a")
    asker.path = other.path
    assert asker.ask(numbered.url, "Two?", cell="b").text
    assert "previous_response_id" not in numbered.posts[-1].body


def test_notebook_of_any_name(home, numbered, tmp_path, monkeypatch):
    """A notebook can ask in a folder of any name, and keep its journal there, even if the name is not valid UTF-8."""
    folder = tmp_path / os.fsdecode(b"\xe9\xe8")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this disk takes no such name")
    monkeypatch.chdir(folder)
    asker = Asker(folder / "journal.sqlite3")
    try:
        assert asker.ask(numbered.url).text
        assert processes("aiml_magic.runner", parent=os.getpid()), "it is found all the same"
    finally:
        asker.session.close(10)


def test_forgotten_under_way(asker, numbered):
    """A conversation does not continue a forgotten answer, and its follow-up is not a question without a parent."""
    for cell, text in (("a", "One?"), ("b", "Two?")):
        asker.ask(numbered.url, text, cell=cell)
    asker.ask(numbered.url, "Why?", cell="x", chat=None)
    asker.asking.forget(asker.journal.row(2))
    asker.ask(numbered.url, "Three?", cell="c")
    assert "resp_1" == numbered.posts[-1].body["previous_response_id"]
    with pytest.raises(errors.ParentFailed):
        asker.ask(numbered.url, "Why?", cell="d", after="2", replay="auto")


def test_forgotten_parent(asker, numbered):
    """A conversation whose response id the server has lost is sent as a transcript from the journal, with a notice."""
    asker.ask(numbered.url, "One?", cell="a")
    gone = {
        "error": {
            "message": "not found",
            "param": "previous_response_id",
            "code": "previous_response_not_found",
        }
    }

    def answer(request):
        return (
            wire.json_reply(gone, 400)
            if "previous_response_id" in request.body
            else wire.json_reply(wire.response())
        )

    with wire.serve(answer) as forgetful:
        later = Asker(asker.path)
        later.asking.chats.resume()
        told = later.ask(forgetful.url, "Two?", cell="b", chain="id")
        later.session.close(10)
    assert ("chain_refused",) == told.notices
    assert ["One?", "Answer 1", "Two?"] == [
        item["content"][0]["text"] for item in forgetful.posts[-1].body["input"]
    ]


def test_forget(asker, numbered, home):
    """A forgotten text is removed from the disk; its cost still counts, and the conversation can be continued."""
    secret = "a secret phrase of mine"
    asker.ask(numbered.url, f"{secret}?")
    asker.ask(numbered.url, "Two?")
    asker.session.close(10)
    asker.journal.forget(1)
    assert not [
        file.name
        for file in home.rglob("*")
        if file.is_file() and secret.encode() in file.read_bytes()
    ]
    assert [] == asker.journal.search("secret")
    assert (1.0, 0) == asker.journal.spent(numbered.url)
    assert "forgotten" == asker.journal.row(1).state
    assert 2 == asker.journal.ancestors(2)[-1].id


def test_forget_in_recordings(asker, numbered, tmp_path):
    """A forgotten answer is removed from the recordings of the session, and from its rescue file."""
    secret = "a secret phrase of mine"
    for name in ("early.jsonl", "late.jsonl"):
        asker.session.recordings.start(tmp_path / name)
        asker.ask(numbered.url, f"{secret}?", cell="a", replay="auto")
    asker.ask(numbered.url, "Two?", cell="b")
    row = asker.journal.row(1)
    _, copy = asker.journal.rescue(row, Result("done", wire.response(secret)))
    assert ["early.jsonl", "late.jsonl"] == sorted(path.name for path in asker.asking.forget(row))
    assert not Path(copy).exists()
    asker.session.close(10)
    assert not [
        file.name
        for file in tmp_path.rglob("*")
        if file.is_file() and secret.encode() in file.read_bytes()
    ]
    assert 1 == len(recording.read(tmp_path / "late.jsonl"))
    asker.asking.forget(asker.journal.row(2))
    assert {} == recording.read(tmp_path / "late.jsonl")


def test_forget_one_of_two(asker, numbered, tmp_path):
    """A recording has one of two answers to a question, which stays when the other is forgotten."""
    asker.session.recordings.start(tmp_path / "a.jsonl")
    for _ in range(2):
        asker.ask(numbered.url, cell="a")
    assert [] == asker.asking.forget(asker.journal.row(1))
    assert ["resp_2"] == [
        record.response["id"] for record in recording.read(tmp_path / "a.jsonl").values()
    ]


def test_forget_where_a_recording_cannot_be_written(asker, numbered, tmp_path):
    """If a text cannot be removed from the recording, nothing is forgotten, which is an error."""
    asker.session.recordings.start(tmp_path / "a.jsonl")
    asker.ask(numbered.url, cell="a")
    (tmp_path / "a.jsonl").write_text("no recording\n")
    with pytest.raises(errors.BadInput, match=r"Nothing was forgotten: a.jsonl, line 1"):
        asker.asking.forget(asker.journal.row(1))
    assert "done" == asker.journal.row(1).state


def recorded(url: str, path: Path, *texts: str, **fields) -> Path:
    """Another person's recording of questions to `url`."""
    records = [Record(url, {"model": "openai/o3-pro", "input": text, "store": True}, None, wire.response(f"Made up: {text}"),
                      (), 0.5, 1.0, 1.7e9) for text in texts]  # fmt: skip
    recording.write(path, {record.key: record for record in records})
    return path


def test_recording_of_a_stranger(asker, numbered, tmp_path):
    """A recorded answer is used only in the session that replayed its file, and is marked as recorded."""
    path = recorded(numbered.url, tmp_path / "a.jsonl", "Why?")
    asker.asking.replay_file(path)
    stands_in = asker.ask(numbered.url, "Why?", replay="auto", chat=None)
    assert ("Made up: Why?", True, True) == (stands_in.text, stands_in.replayed, stands_in.recorded)
    assert "replayed from a recording of 2023-11-14, $0 now, $0.5000 then" in line_with_replay(
        stands_in
    )
    assert "recording" not in details_line(stands_in), "it is compared from run to run"
    assert "  recorded  " in context.line(asker.journal.row(1))
    other = Asker(asker.path)
    try:
        with pytest.raises(
            errors.ReplayMiss, match="in a recording that was not replayed in this session"
        ) as miss:
            other.ask(numbered.url, "Why?", replay="only", chat=None)
        assert "%aiml replay" in str(miss.value)
        assert len(str(miss.value).splitlines()) <= 8
        asked = other.ask(numbered.url, "Why?", replay="auto", chat=None)
        assert ("Answer 1", False) == (asked.text, asked.recorded)
        assert "Answer 1" == asker.ask(numbered.url, "Why?", replay="auto", chat=None).text, (
            "what was asked here goes before it"
        )
        assert not other.ask(numbered.url, "Why?", replay="auto", chat=None).recorded
    finally:
        other.session.close(10)
    assert 1 == len(numbered.posts)


def test_recordings_of_two(asker, numbered, tmp_path):
    """If two recordings answer a question, the one that was replayed in this session is used, in any order of imports."""
    mine = recorded(numbered.url, tmp_path / "mine.jsonl", "Why?")
    records = recording.read(mine)
    theirs = {
        key: dataclasses.replace(record, response=wire.response("Evil."))
        for key, record in records.items()
    }
    recording.write(tmp_path / "theirs.jsonl", theirs)
    for _ in range(2):
        for name, text in (("theirs.jsonl", "Evil."), ("mine.jsonl", "Made up: Why?")):
            asker.asking.replay_file(tmp_path / name)
            assert text == asker.ask(numbered.url, "Why?", replay="only", chat=None).text
    assert 2 == len(asker.journal.history())
    other = Asker(asker.path)
    other.asking.replay_file(mine)
    assert "Made up: Why?" == other.ask(numbered.url, "Why?", replay="only", chat=None).text
    other.session.close(10)


def test_recording_hides_no_doubt(asker, tmp_path):
    """A question that may have been charged is not sent again because of a recording that was not replayed here."""
    with wire.serve(lambda _: wire.Reply(end="close")) as server:
        with pytest.raises(errors.ConnectionLost):
            asker.ask(server.url, "Why?", cell="a", replay="auto")
        other = Asker(asker.path)
        other.asking.replay_file(recorded(server.url, tmp_path / "a.jsonl", "Why?"))
        other.session.close(10)
        with pytest.raises(errors.ConnectionLost):
            asker.ask(server.url, "Why?", cell="a", replay="auto")
        assert 1 == len(server.posts)


def test_search(asker, numbered):
    """A search finds words of questions and answers; SQLite's operators are plain words."""
    asker.ask(numbered.url, "Where do whales sleep?")
    asker.ask(numbered.url, 'AND OR NOT "quoted* NEAR(x)')
    assert [1] == [row.id for row in asker.journal.search("whales sleep")]
    assert {1, 2} == {row.id for row in asker.journal.search("answer")}
    assert [2] == [row.id for row in asker.journal.search('NOT "quoted*')]
    assert [] == asker.journal.search("walrus")


def priced(models):
    def answer(request):
        return wire.json_reply(
            models
            if "/models" in request.path
            else wire.response(meta={"usage": {"usd_spent": 0.5}})
        )

    return answer


PRICES = {"data": [{"id": "openai/o3-pro", "pricing": {"kind": "fixed", "units": [
    {"unit": "input_token", "price": 20.0, "per": 1_000_000}, {"unit": "output_token", "price": 80.0, "per": 1_000_000}]}}]}  # fmt: skip


units = st.fixed_dictionaries(
    {},
    optional={
        "unit": st.sampled_from(["input_token", "output_token"]) | values,
        "price": scalars,
        "per": scalars,
    },
)
entries = st.fixed_dictionaries(
    {
        "id": st.just("m") | values,
        "pricing": st.fixed_dictionaries(
            {"kind": st.just("fixed"), "units": st.lists(units) | values}
        ),
    },
    optional={"aliases": values},
)


@given(st.builds(lambda data: {"data": data}, st.lists(entries) | values) | values)
@example({"data": [{"id": "m", "pricing": {"kind": "fixed", "units": [
    {"unit": "input_token", "price": -0.0, "per": 1}, {"unit": "output_token", "price": 0, "per": 1}]}}]})  # fmt: skip
@example({"data": [{"id": "m", "pricing": {"kind": "fixed", "units": [
    {"unit": "input_token", "price": "nan", "per": 1}, {"unit": "output_token", "price": -5, "per": 1}]}}]})  # fmt: skip
def test_any_price_list(models):
    """Any list of prices yields a price that a budget can use, or None."""
    price = price_in(Catalogue(read(models)).find("m"))
    assert price is None or all(
        0 <= dollars < 1 and "-" not in str(dollars)[0] for dollars in (price.input, price.output)
    )


def test_budget(asker):
    """A question that could pass the budget is refused before it is sent; a smaller one is asked, and a replay is free."""
    with wire.serve(priced(PRICES), has_models=True) as server:
        with pytest.raises(errors.BudgetExceeded, match="budget"):
            asker.ask(server.url, budget_usd=1.0)
        assert [] == server.posts
        asker.ask(server.url, cell="a", budget_usd=1.0, max_output_tokens=10_000, replay="auto")
        with pytest.raises(errors.BudgetExceeded):
            asker.ask(server.url, "More?", budget_usd=1.0, max_output_tokens=10_000)
        assert asker.ask(
            server.url, cell="a", budget_usd=1.0, max_output_tokens=10_000, replay="auto"
        ).replayed
        assert 1 == len(server.posts)
        assert 1 == len([request for request in server.requests if "/models" in request.path]), (
            "the price is asked once"
        )


@pytest.mark.parametrize(
    "fate", [wire.json_reply(wire.response()), wire.Reply(end="close")], ids=["answered", "lost"]
)
def test_budget_of_unknown_costs(asker, fate):
    """An answer of unknown cost, and a request that may have been charged, count with their highest costs."""
    listed = {"/v1/models": wire.json_reply(PRICES)}
    with wire.serve(
        lambda request: listed.get(request.path.split("?")[0], fate), has_models=True
    ) as server:

        def ask(text):
            with suppress(errors.ConnectionLost):
                asker.ask(server.url, text, budget_usd=1.0, max_output_tokens=10_000, chat=None)

        ask("One?")
        with pytest.raises(errors.BudgetExceeded):
            ask("Two?")
        assert 1 == len(server.posts)


@pytest.mark.parametrize(
    "models",
    [{}, {"data": []}, {"data": [{"id": "openai/o3-pro", "pricing": {"kind": "variable"}}]}, [1]],
)
def test_unknown_price(asker, models):
    """Without a listed price a budget cannot be checked, and nothing is sent."""
    with wire.serve(priced(models), has_models=True) as server:
        with pytest.raises(errors.BudgetExceeded, match="no price"):
            asker.ask(server.url, budget_usd=100.0)
        assert [] == server.posts


def test_journal_lost_under_way(asker, home, capsys):
    """If the journal fails after the answer was received, the answer is shown and written to a private file, with a message."""

    def answer(request):
        for file in home.glob("journal.sqlite3*"):
            file.unlink()
        return wire.json_reply(wire.response("Worth four dollars."))

    with wire.serve(answer) as server:
        got = asker.ask(server.url, stream=False)
    assert "Worth four dollars." == got.text
    assert "not_in_journal" in got.notices
    (copy,) = home.glob("answer-*.json")
    assert 0o600 == copy.stat().st_mode & 0o777
    assert "Worth four dollars." in copy.read_text()
    out = capsys.readouterr().out
    assert str(copy) in out
    assert "could not be written to the journal" in out


def test_warning_that_nobody_reads(asker, home, monkeypatch):
    """An answer that could not be written is returned even if the warning cannot be printed."""

    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    nobody_reads = threading.Event()

    def answer(request):
        assert nobody_reads.wait(30)
        for file in home.glob("journal.sqlite3*"):
            file.unlink()
        return wire.json_reply(wire.response())

    with wire.serve(answer) as server, monkeypatch.context() as printing:
        job = asker.start(server.url, stream=False)
        printing.setattr(sys, "stdout", Gone())
        nobody_reads.set()
        assert any(job.done or time.sleep(0.05) for _ in range(600))
    assert "Fine." == job.wait(30).text


def test_commands(home, sandbox_url, tmp_path):
    """The commands list questions on one line each, show an answer again, a tree, and write a file."""
    with kernel() as running:
        running.run(
            f"import os; os.chdir({str(tmp_path)!r})\n%config O3Pro.base_url = {sandbox_url!r}"
        )
        asked = running.run("%o3pro Where do whales sleep?", "a")
        running.run("%o3pro And <dolphins>?", "b")
        running.run("%o3pro --after 1 A fork?", "c")
        history = running.run("%aiml history").stream
        assert 3 == len(
            re.findall(
                r"^ +\d+  \d{4}-\d\d-\d\d \d\d:\d\d  completed +\$0\.\d{4}  ", history, re.MULTILINE
            )
        )
        assert "today" in history
        assert "whales" in running.run("%aiml search whales").stream
        assert asked.displays[1] == running.run("%aiml show 1").displays[0]
        tree = running.run("%aiml tree").displays[0]
        assert "   " in tree["text/plain"].splitlines()[1]
        assert "&lt;dolphins&gt;" in tree["text/html"]
        assert "<dolphins>" not in tree["text/html"]
        assert "Output tokens of 3 turns" in running.run("%aiml history").of_type("text/html")[0]
        for ending in ("md", "html", "jsonl"):
            assert "2 turns" in running.run(f"%aiml export talk.{ending}").stream
            assert "whales" in (tmp_path / f"talk.{ending}").read_text()
        assert "<script" not in (tmp_path / "talk.html").read_text()
        assert "main (3 answers)" in running.run("%aiml resume").stream
        assert "forgotten" in running.run("%aiml forget 3").stream
        for wrong in (
            "show 99",
            "show",
            "export x.pdf",
            "forget",
            "search",
            "replay nothing.jsonl",
            "record",
            "tree now",
        ):
            ran = running.run(f"%aiml {wrong}")
            assert 2 == len(ran.error["traceback"]), wrong


def test_dry_run(home, sandbox_url):
    """A dry run shows the request, its size, its highest cost and whether it would be replayed, and sends nothing."""
    before = posts(sandbox_url)
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
        told = running.run("%%o3pro --dry-run -t 1000\nWhy?").stream
        assert all(
            words in told
            for words in (
                '"max_output_tokens": 1000',
                "nothing was sent",
                "up to $0.08",
                "estimate",
            )
        )
        assert before == posts(sandbox_url)
        running.run("%%o3pro -t 1000\nWhy?", "a")
        told = running.run("%%o3pro --dry-run -t 1000\nWhy?", "a").stream
        assert "replayed" in told
        assert KEY not in told
    assert before + 1 == posts(sandbox_url)


def test_replay_says_so(home, sandbox_url):
    """A replayed answer looks the same; the live details have the time and the cost of the question, the saved copy does not."""
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
        asked = running.run("%o3pro Why?", "a")
        again = running.run("%o3pro Why?", "a")
    plain = [
        {kind: value for kind, value in display.items() if "widget" not in kind}
        for display in asked.displays
    ]
    assert plain == [
        {kind: value for kind, value in display.items() if "widget" not in kind}
        for display in again.displays
    ]
    states = [
        message["content"]["data"].get("state", {}).get("value", "")
        for message in again.messages
        if message["msg_type"] == "comm_open"
    ]
    assert any(
        re.search(r"replayed from \d{4}-\d\d-\d\d, \$0 now, \$0\.0\d+ then", str(value))
        for value in states
    )


def test_environment_of_replay(home):
    """An unknown value of AIML_MAGIC_REPLAY is an error before anything is sent."""
    code = "from IPython.core.interactiveshell import InteractiveShell as S\ns = S()\ns.run_line_magic('load_ext', 'aiml_magic')\ns.run_cell('%o3pro x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"AIML_MAGIC_REPLAY": "sometimes"})  # fmt: skip
    assert "AIML_MAGIC_REPLAY cannot be 'sometimes'" in done.stdout + done.stderr


def test_killed_kernels(home):
    """Kernels and runners killed at random moments lose no answer, and the question, asked again, is not sent twice."""
    from chaos import kill_at_random

    happened = kill_at_random(4, seed=7)
    assert (0, 0) == (happened["sent twice"], happened["lost"])
