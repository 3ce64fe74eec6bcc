"""Conversations over the wire: by id, by transcript, refused, ignored, forked by cells."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import wire
from asking import KEY, Asker

from aiml_magic import errors


def chain(request) -> str:
    """A server that keeps conversations, and answers with a number."""
    number = chain.count = getattr(chain, "count", 0) + 1
    return wire.json_reply(wire.response(f"Answer {number}", id=f"resp_{number}",
                                         previous_response_id=request.body.get("previous_response_id")))  # fmt: skip


def previous(server) -> list[str | None]:
    return [request.body.get("previous_response_id") for request in server.posts]


@pytest.fixture
def keeper():
    chain.count = 0
    with wire.serve(chain) as server:
        yield server


def test_turns_continue_by_id(asker, keeper):
    """A turn continues the last one by its response id; instructions are sent again, since the API does not carry them over."""
    asker.ask(keeper.url, "One?", instructions="Be brief.")
    asker.ask(keeper.url, "Two?", instructions="Be brief.")
    asker.ask(keeper.url, "Three?")
    assert [None, "resp_1", "resp_2"] == previous(keeper)
    assert ["One?", "Two?", "Three?"] == [request.body["input"] for request in keeper.posts]
    assert ["Be brief.", "Be brief.", None] == [
        request.body.get("instructions") for request in keeper.posts
    ]


def test_chats_new_and_alone(asker, keeper):
    """Chats are separate; `--new` begins afresh; a question with `--alone` neither continues nor is continued."""
    asker.ask(keeper.url, chat="a")
    asker.ask(keeper.url, chat="b")
    asker.ask(keeper.url, chat="a")
    asker.ask(keeper.url, chat=None)
    asker.ask(keeper.url, chat="a")
    asker.ask(keeper.url, chat="a", is_new=True)
    asker.ask(keeper.url, chat="a")
    assert [None, None, "resp_1", None, "resp_3", None, "resp_6"] == previous(keeper)


def test_rerun_cell_keeps_its_place(asker, keeper):
    """A cell that is run again continues from the newest answer of the same cell as before."""
    for cell in ("a", "b", "b", "a", "b", "c"):
        asker.ask(keeper.url, cell=cell)
    assert [None, "resp_1", "resp_1", None, "resp_4", "resp_5"] == previous(keeper)


@pytest.mark.parametrize(
    "reply",
    [
        wire.json_reply(
            wire.response(
                previous_response_id="resp_1",
                status="incomplete",
                incomplete_details={"reason": "max_output_tokens"},
            )
        ),
        wire.json_reply(
            wire.response(
                previous_response_id="resp_1",
                output=[{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}],
            )
        ),
        wire.json_reply(
            wire.response(
                previous_response_id="resp_1",
                status="failed",
                error={"code": "server_error", "message": "x"},
            )
        ),
        wire.json_reply({"message": "Bad"}, 400),
        wire.json_reply(
            wire.response(
                previous_response_id="resp_1",
                output=[{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}],
            )
        ),
        wire.json_reply(wire.response("", previous_response_id="resp_1")),
        wire.json_reply(
            wire.response(
                previous_response_id="resp_1",
                output=[
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
                ],
            )
        ),
    ],
    ids=["incomplete", "refusal", "failed", "error", "tool call", "empty", "only reasoning"],
)
def test_what_does_not_advance(asker, reply):
    """Only a complete answer is continued: the next cell continues the last one, and a corrected cell keeps its place.

    A partial answer of an error names the answer that it continues.
    """
    is_bad = {"value": False}
    with wire.serve(lambda request: reply if is_bad["value"] else chain(request)) as server:
        chain.count = 0
        asker.ask(server.url, cell="a")
        is_bad["value"] = True
        try:
            asker.ask(server.url, cell="b")
        except errors.RequestFailed as error:
            assert error.answer is None or "resp_1" == error.answer.continues
        is_bad["value"] = False
        asker.ask(server.url, cell="c")
        asker.ask(server.url, cell="b")
    assert [None, "resp_1", "resp_1", "resp_1"] == previous(server)


def test_continued_empty_answer(asker):
    """A conversation that an earlier version continued from an empty answer is replayed as it was."""
    texts = iter(["One.", "", "Three."])
    with wire.serve(lambda _: wire.json_reply(wire.response(next(texts)))) as server:
        asker.ask(server.url, "One?", cell="a")
        empty = asker.ask(server.url, "Two?", cell="b").journal_id
        asker.ask(server.url, "Three?", cell="c", continues=empty)
        another = Asker(asker.path)
        for cell, text in (("a", "One?"), ("b", "Two?"), ("c", "Three?")):
            assert another.ask(server.url, text, cell=cell, replay="auto").replayed
        another.session.close(10)
        assert 3 == len(server.posts)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            400,
            {
                "error": {
                    "message": "Previous response not found",
                    "param": "previous_response_id",
                    "code": "x",
                }
            },
        ),
        (404, {"message": "previous_response_id 'resp_1' not found", "statusCode": 404}),
        (400, {"error": {"message": "Unknown", "code": "previous_response_not_found"}}),
    ],
)
def test_refused_chain(asker, status, body):
    """A server that refuses the id gets the conversation as a transcript, in the same cell and from then on, with a notice."""

    def answer(request):
        return (
            wire.json_reply(body, status)
            if "previous_response_id" in request.body
            else chain(request)
        )

    chain.count = 0
    with wire.serve(answer) as server:
        asker.ask(server.url, "One?")
        second = asker.ask(server.url, "Two?")
        third = asker.ask(server.url, "Three?")
    assert 4 == len(server.posts), "the refused request was not executed; no other is sent twice"
    assert ("chain_refused",) == second.notices
    assert () == third.notices
    told = [(item["role"], item["content"][0]["text"]) for item in server.posts[3].body["input"]]
    assert [
        ("user", "One?"),
        ("assistant", "Answer 1"),
        ("user", "Two?"),
        ("assistant", "Answer 2"),
        ("user", "Three?"),
    ] == told


def test_ignored_chain(asker):
    """A server that does not confirm the id may have ignored it: the answer stays, a notice says so, and a transcript follows."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        asker.ask(server.url, "One?")
        second = asker.ask(server.url, "Two?")
        third = asker.ask(server.url, "Three?")
    assert 3 == len(server.posts)
    assert ("chain_ignored",) == second.notices
    assert () == third.notices
    assert 5 == len(server.posts[2].body["input"])


def test_other_id_in_the_echo(asker):
    """A gateway that echoes an id of its own has honoured ours."""
    with wire.serve(
        lambda _: wire.json_reply(wire.response(previous_response_id="upstream"))
    ) as server:
        asker.ask(server.url)
        assert () == asker.ask(server.url).notices


def test_unstored_parent(asker, keeper):
    """A conversation that the server does not store is sent as a transcript."""
    asker.ask(keeper.url, "One?", store=False)
    asker.ask(keeper.url, "Two?")
    assert [None, None] == previous(keeper)
    assert 3 == len(keeper.posts[1].body["input"])


def test_other_server(asker, keeper):
    """A conversation that moves to another server takes its transcript along."""
    chain.count = 0
    with wire.serve(chain) as other:
        asker.ask(keeper.url, "One?")
        asker.ask(other.url, "Two?")
    assert 3 == len(other.posts[0].body["input"])


def test_chain_setting(asker, keeper):
    """`chain` decides the form: a transcript on demand, the id even after a refusal."""
    asker.ask(keeper.url, "One?")
    asker.ask(keeper.url, "Two?", chain="transcript")
    asker.ask(keeper.url, "Three?", chain="id")
    assert [None, None, "resp_2"] == previous(keeper)


@pytest.mark.parametrize(
    "options",
    [{"text": " \n\t "}, {"text": f"my key is {KEY}"}, {"text": "x", "instructions": f"use {KEY}"},
     {"text": "x", "params": {"metadata": {"note": KEY}}}],
)  # fmt: skip
def test_refused_before_it_is_sent(asker, options):
    """A blank question and one that holds the key are refused; nothing is written or sent."""
    with (
        wire.serve(lambda _: wire.json_reply(wire.response())) as server,
        pytest.raises(errors.BadInput) as refused,
    ):
        asker.ask(server.url, **options)
    assert [] == server.requests
    assert KEY not in str(refused.value)
    assert not asker.path.exists()


def test_background_is_polled(asker):
    """A queued response is polled by GET until it is complete, with one POST in all."""
    replies = iter(["queued", "completed"])

    def answer(request):
        return wire.json_reply(
            wire.response(status=next(replies), output=[], background=True, output_text="Later.")
        )

    with wire.serve(answer) as server:
        assert "Later." == asker.ask(server.url, params={"background": True}).text
    assert ["POST", "GET"] == [request.method for request in server.requests]
    assert "/v1/responses/resp_1" == server.requests[1].path


def test_refused_inside_a_stream(asker):
    """A server that reports an unknown response id inside its stream gets the transcript as well: nothing was executed."""

    def answer(request):
        previous = request.body.get("previous_response_id")
        if previous is None:
            return wire.json_reply(wire.response("Fine.", id="resp_7f"))
        error = {"type": "error", "code": "404", "message": f"Response '{previous}' not found."}
        return wire.Reply(
            200, {"Content-Type": "text/event-stream"}, [f"data: {json.dumps(error)}\n\n".encode()]
        )

    with wire.serve(answer) as server:
        asker.ask(server.url, "One?")
        second = asker.ask(server.url, "Two?")
        assert ("Fine.", True) == (second.text, "chain_refused" in second.notices)
        assert ["One?", "Fine.", "Two?"] == [
            item["content"][0]["text"] for item in server.posts[-1].body["input"]
        ]


def test_same_question_at_the_same_moment(home):
    """Kernels that ask the same at the same moment send one request: one sends it, the others follow."""
    rounds, crowd = 6, 4
    gate = threading.Barrier(crowd)

    def kernel_of_its_own(url):
        asker = Asker(home / "journal.sqlite3")
        try:
            for number in range(rounds):
                gate.wait(30)
                assert f"On {number}" == asker.ask(url, str(number), chat=None, replay="auto").text
        finally:
            asker.session.close(10)

    def answer(request):
        return wire.json_reply(
            wire.response(f"On {request.body['input']}", id=f"resp_{request.body['input']}")
        )

    with wire.serve(answer) as server, ThreadPoolExecutor(crowd) as pool:
        for done in [pool.submit(kernel_of_its_own, server.url) for _ in range(crowd)]:
            done.result(60)
        assert [str(number) for number in range(rounds)] == [
            request.body["input"] for request in server.posts
        ]


def test_question_asked_while_its_answer_arrives(home):
    """A second kernel that asks the same question at any moment, even when the answer arrives, sends nothing."""
    first, second = Asker(home / "journal.sqlite3"), Asker(home / "journal.sqlite3")

    def answer(request):
        time.sleep(0.01)
        return wire.json_reply(wire.response("Fine."))

    try:
        with wire.serve(answer) as server:

            def ask_twice(number: int) -> None:
                job = first.start(server.url, str(number), chat=None, replay="auto")
                time.sleep(0.00125 * number)
                assert "Fine." == second.ask(server.url, str(number), chat=None, replay="auto").text
                job.wait()

            with ThreadPoolExecutor(4) as people:
                assert 16 == len([*people.map(ask_twice, range(16))])
            assert 16 == len(server.posts)
    finally:
        first.session.close(10)
        second.session.close(10)


def steps_of(asker, act) -> tuple[int, int]:
    """The transactions in the kernel during `act`, and its statements that read or write rows."""
    made = []
    asker.journal._db.set_trace_callback(made.append)
    act()
    asker.journal._db.set_trace_callback(None)
    kinds = [statement.split()[0] for statement in made]
    # Each transaction sets how it is synced.
    return kinds.count("PRAGMA"), sum(
        kind in ("SELECT", "WITH", "INSERT", "UPDATE") for kind in kinds
    )


def test_steps_of_a_question(asker, keeper):
    """A question is looked up and written in one transaction, and its answer and parent are read in two more; a replay is one statement."""
    asker.ask(keeper.url, "One?", cell="a")
    asker.ask(keeper.url, "Two?", cell="b")
    asked = {"cell": "c", "replay": "auto"}
    assert (3, 12) == steps_of(asker, lambda: asker.ask(keeper.url, "Three?", **asked))
    assert (2, 3) == steps_of(asker, lambda: asker.ask(keeper.url, "Three?", **asked))
    alone = {"chat": None, "replay": "auto"}
    assert (2, 4) == steps_of(asker, lambda: asker.ask(keeper.url, "Alone?", **alone))
    assert (1, 1) == steps_of(asker, lambda: asker.ask(keeper.url, "Alone?", **alone))


def test_forgotten_turn_of_a_transcript(asker, keeper):
    """A runner reads the turns of a conversation once; a turn that is forgotten meanwhile is not sent any more."""
    told = {"chain": "transcript", "replay": "auto"}
    first = asker.ask(keeper.url, "The secret?", cell="a", **told)
    asker.ask(keeper.url, "Two?", cell="b", **told)
    asker.ask(keeper.url, "Three?", cell="c", **told)
    assert "The secret?" in str(keeper.posts[-1].body)
    asker.journal.forget(first.journal_id)
    asker.ask(keeper.url, "Four?", cell="d", **told)
    assert ("The secret?" in str(body := keeper.posts[-1].body), "Two?" in str(body)) == (
        False,
        True,
    )


def test_a_writer_between_look_and_write(asker, keeper):
    """If another kernel writes between the look-up and the insertion of a row, both are repeated: one row, one request."""
    asker.ask(keeper.url, "One?", cell="a")
    journal, chats = asker.journal, asker.asking.chats
    before, rounds = chats.before, []

    def before_and_write(question):
        rounds.append(question)
        if len(rounds) == 1:
            with contextlib.closing(sqlite3.connect(journal.path)) as other, other:
                other.execute("UPDATE requests SET is_unwanted = 1 WHERE id = 1")
        return before(question)

    chats.before = before_and_write  # the last read before the row is written
    asker.ask(keeper.url, "Two?", cell="b")
    assert 2 == len(rounds)
    assert ["One?", "Two?"] == [row.question for row in journal.history()]
    assert [None, "resp_1"] == previous(keeper)


def test_a_writer_that_stays(asker, keeper):
    """While another program holds the write lock of the journal, answers are still replayed."""
    asker.ask(keeper.url, "One?", cell="a", replay="auto")
    with contextlib.closing(sqlite3.connect(asker.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert asker.ask(keeper.url, "One?", cell="a", replay="auto").replayed
        other.execute("ROLLBACK")
    assert 1 == len(keeper.posts)
