"""The magics in a real kernel: the messages to a front end, an interrupt, and the death of the kernel or of the runner."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from contextlib import closing

import pytest
import wire
from kernels import kernel
from processes import processes, wait_until

from aiml_magic import errors
from aiml_magic.journal.store import Journal
from aiml_magic.notebook import context

WIDGET = "application/vnd.jupyter.widget-view+json"
EMPTY = {"text/html": "", "text/plain": ""}


@pytest.fixture
def running(home):
    with kernel() as running:
        yield running


def ask(running, server) -> tuple[int, str]:
    """Runs a cell that asks, and waits until the server has the question; returns the kernel's process and the cell's request."""
    running.run(f"%config O3Pro.base_url = {server.url!r}")
    pid = running.pid
    request = running.start("%%o3pro\nWhy?")
    wait_until(lambda: server.posts)
    return pid, request


def test_four_outputs(running, sandbox_url):
    """A cell gives a panel, the answer, the details and their static copy, in this order, and no fifth for its value.

    Empty outputs have empty HTML as well: a page built from a notebook shows a box for an empty text, and a message for a widget.
    """
    running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
    running.run("%o3pro --alone The first question starts the runner.")
    ran = running.run("%%o3pro\nWhat is 6*7?")
    assert [
        {"text/html", "text/plain"},
        {"text/markdown", "text/plain"},
        {WIDGET, "text/html", "text/plain"},
        {"text/html", "text/plain"},
    ] == [set(display) for display in ran.displays]
    assert [EMPTY, EMPTY] == [
        {kind: ran.displays[number][kind] for kind in EMPTY} for number in (0, 2)
    ]
    assert "What is 6\\*7?" in ran.displays[1]["text/markdown"].replace("&#42;", "\\*")
    assert "tokens" in ran.displays[3]["text/plain"]
    assert [] == updates(ran), "an answer that comes at once needs no panel"


def updates(ran):
    return [
        set(message["content"]["data"])
        for message in ran.messages
        if message["msg_type"] == "update_display_data"
    ]


def test_panel(running, sandbox_url):
    """A waiting cell shows a panel before the answer; at the end the output is empty, and the widget closed."""
    running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
    ran = running.run("%%o3pro\nsandbox: delay=1\nWhat is 6*7?")
    assert [{WIDGET, *EMPTY}, {*EMPTY}] == updates(ran)
    opened = [message for message in ran.messages if message["msg_type"] == "comm_open"]
    closed = [message for message in ran.messages if message["msg_type"] == "comm_close"]
    opened = [
        message["content"]["comm_id"]
        for message in opened
        if "HTMLModel" in str(message["content"]["data"])
    ]
    closed = [message["content"]["comm_id"] for message in closed]
    assert [opened[-1]] == [model for model in opened if model not in closed], (
        "only the details live on"
    )
    told = [
        message["content"]["data"].get("state", {}).get("value", "")
        for message in ran.messages
        if "comm" in message["msg_type"]
    ]
    assert any("waiting" in str(value) for value in told)


def test_details_fetch_what_is_long(running, home):
    """The raw JSON and the cut parts are in no output; the widget's button fetches them from the journal, and removes them again."""
    summary = [{"type": "summary_text", "text": f"Thought {number}. " * 40} for number in range(9)]
    output = [
        {"type": "reasoning", "summary": summary},
        {"type": "message", "content": [{"type": "output_text", "text": "So."}]},
    ]
    with wire.serve(lambda _: wire.json_reply(wire.response(output=output))) as server:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        ran = running.run("%%o3pro\nWhy?")
    assert "Thought 8" not in str(ran.messages)
    assert "output_text" not in str(ran.messages)
    (button,) = [
        comm["comm_id"]
        for comm in comms(ran.messages, "open")
        if "aiml-more" in comm["data"]["state"].get("_dom_classes", ())
    ]
    (fetched,) = comms(running.change(button, value=True), "open")
    assert "Thought 8" in fetched["data"]["state"]["value"]
    assert "&quot;output_text&quot;" in fetched["data"]["state"]["value"]
    assert [fetched["comm_id"]] == [
        comm["comm_id"] for comm in comms(running.change(button, value=False), "close")
    ]
    running.run(f"%config O3Pro.journal = {str(home / 'other.sqlite3')!r}")
    assert "no answer 1" in str(comms(running.change(button, value=True), "open"))


def comms(messages, kind):
    return [message["content"] for message in messages if message["msg_type"] == f"comm_{kind}"]


def test_value_of_cell(running, sandbox_url):
    """`_`, `Out[n]` and -o NAME hold the answer, which shows itself again as it was."""
    running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
    first = running.run("%%o3pro -o kept\nWhat is 6*7?")
    assert "True" == running.run("print(_ is kept and Out[3] is kept)").stream.strip()
    again = running.run("kept")
    assert first.displays[1] == again.displays[0]
    assert first.displays[3] == again.displays[2]
    assert [] == running.run("%o3pro -q And now?").of_type("text/markdown")


def test_answer_pickles(running, sandbox_url):
    """An answer survives pickling."""
    running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
    running.run("%o3pro -o kept Why?")
    assert (
        "True"
        == running.run(
            "import pickle; print(pickle.loads(pickle.dumps(kept)) == kept)"
        ).stream.strip()
    )


def test_rerun_keeps_its_place(running, sandbox_url):
    """Two runs of one cell continue the same answer; after a change of the earlier cell, its newest answer."""
    running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
    running.run("%o3pro -o one First?", "a")
    running.run("%o3pro -o two Second?", "b")
    running.run("%o3pro -o again Second?", "b")
    told = running.run(
        "print(two.raw['previous_response_id'] == one.id == again.raw['previous_response_id'])"
    )
    assert "True" == told.stream.strip()
    running.run("%o3pro -o one First, but otherwise?", "a")
    running.run("%o3pro -o two Second?", "b")
    assert "True" == running.run("print(two.raw['previous_response_id'] == one.id)").stream.strip()


@pytest.mark.parametrize("reply", ["silence", "hang"])
def test_interrupt(running, reply, home):
    """An interrupt ends the cell at once, closes the connection soon, keeps the text received, and says what it may cost."""
    delta = (
        b'data: {"type":"response.output_text.delta","output_index":0,"delta":"Half an answer"}\n\n'
    )
    answer = wire.Reply(200, {"Content-Type": "text/event-stream"}, [delta], end=reply)
    with wire.serve(lambda _: answer) as server:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        request = running.start("%%o3pro -o half\nWhy?")
        running.wait_for_words("Half an answer" if reply == "hang" else "Sent; waiting")
        os.kill(running.manager.provisioner.process.pid, signal.SIGINT)
        ran = running.finish(request)
        assert "Interrupted" == ran.error["ename"]
        assert 2 == len(ran.error["traceback"])
        assert "may be charged" in ran.error["evalue"]
        assert ran.seconds < 2
        assert server.closed_by_client.wait(30)
        if reply == "hang":
            assert "Half an answer" in ran.of_type("text/markdown")[-1]
            assert "Half an answer" == running.run("print(half.text)").stream.strip()
    journal = Journal(home / "journal.sqlite3")
    wait_until(lambda: "cancelled" == journal.row(1).state)
    assert ("Half an answer" if reply == "hang" else "") == journal.row(1).text


STATES = {
    "Connecting": (wire.Reply(end="silence"), "", "nothing was charged"),
    "Sent; waiting": (wire.Reply(end="silence"), "", "may be charged"),
    "Sending it again in": (
        wire.json_reply({"message": "Too many"}, 429, **{"Retry-After": "60"}),
        "",
        "nothing was charged",
    ),
    "Queued at the server": (
        wire.json_reply({"id": "r", "object": "response", "status": "queued"}),
        "--param background=true",
        "may be charged",
    ),
    "Waiting for answer": (wire.Reply(end="silence"), "", "nothing was charged"),
}


@pytest.mark.parametrize("state", STATES)
def test_interrupt_in_each_state(running, state, home):
    """In every state of a question, an interrupt ends the cell, and the message says whether it may be charged."""
    reply, options, cost = STATES[state]
    with wire.serve(lambda _: reply) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        url = (
            f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
            if state == "Connecting"
            else server.url
        )
        running.run(f"%config O3Pro.base_url = {url!r}")
        if state == "Waiting for answer":
            running.run("%o3pro -b The parent?")
        request = running.start(f"%%o3pro {options}\nWhy?")
        running.wait_for_words(state)
        os.kill(running.manager.provisioner.process.pid, signal.SIGINT)
        ran = running.finish(request)
        assert "Interrupted" == ran.error["ename"]
        assert cost in ran.error["evalue"]
        assert ran.seconds < 2
        journal = Journal(home / "journal.sqlite3")
        wait_until(lambda: "cancelled" == journal.history()[-1].state)
        count = 0 if state == "Connecting" else 1  # the parent, where that is awaited
        wait_until(lambda: count == sum(post.path.endswith("/responses") for post in server.posts))
        if state == "Queued at the server":
            wait_until(lambda: "/v1/responses/r/cancel" == server.requests[-1].path, 5)


def test_kernel_killed(running, home):
    """A kernel killed with -9 loses nothing: the runner waits for the answer, writes it to the journal, and ends."""
    with wire.serve(slow := Slow()) as server:
        pid, _ = ask(running, server)
        (runner,) = processes("aiml_magic.runner", parent=pid)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        assert [runner] == [one for one in processes("aiml_magic.runner") if one == runner], (
            "it outlives the kernel"
        )
        slow.release.set()
        journal = Journal(home / "journal.sqlite3")
        wait_until(lambda: journal.row(1).state == "done")
        assert "Worth the wait." == journal.row(1).answer().text
        wait_until(lambda: runner not in processes("aiml_magic.runner"))


def test_rerun_while_it_is_answered(running, home):
    """A cell that is run again in a new kernel before its answer is received waits for that answer, and asks nothing."""
    with wire.serve(slow := Slow()) as server:
        pid, _ = ask(running, server)
        os.kill(pid, signal.SIGKILL)
        with kernel() as another:
            another.run(f"%config O3Pro.base_url = {server.url!r}")
            request = another.start("%%o3pro\nWhy?")
            another.wait_for_words("The server works on it")
            os.kill(another.manager.provisioner.process.pid, signal.SIGINT)
            assert "still being answered" in another.finish(request).error["evalue"]
            request = another.start("%%o3pro\nWhy?")
            another.wait_for_words("The server works on it")
            slow.release.set()
            assert "Worth the wait." in another.finish(request).of_type("text/markdown")[0]
        assert 1 == len(server.posts)


def test_rerun_after_the_runner_died(running, home):
    """A question whose runner died is sent again by --fresh only."""
    with wire.serve(slow := Slow()) as server:
        pid, _ = ask(running, server)
        (runner,) = processes("aiml_magic.runner", parent=pid)
        os.kill(pid, signal.SIGKILL)
        os.kill(runner, signal.SIGKILL)
        slow.release.set()
        with closing(sqlite3.connect(home / "journal.sqlite3")) as db, db:
            db.execute("UPDATE requests SET alive_at = alive_at - 60")
        with kernel() as another:
            another.run(f"%config O3Pro.base_url = {server.url!r}")
            assert "--fresh" in another.run("%%o3pro\nWhy?").error["evalue"]
            assert 1 == len(server.posts)
            assert another.run("%%o3pro --fresh\nWhy?").error is None
        assert 2 == len(server.posts)


class Slow:
    """Answers when it is released."""

    def __init__(self) -> None:
        import threading

        self.release = threading.Event()

    def __call__(self, request):
        self.release.wait(30)
        return wire.json_reply(wire.response("Worth the wait."))


def test_runner_killed(running):
    """A killed runner fails the cell with its possible cost; the next question gets a new runner."""
    with wire.serve(slow := Slow()) as server:
        pid, request = ask(running, server)
        (runner,) = processes("aiml_magic.runner", parent=pid)
        os.kill(runner, signal.SIGKILL)
        ran = running.finish(request)
        assert "RunnerDied" == ran.error["ename"]
        assert "may be charged" in ran.error["evalue"]
        slow.release.set()
        assert "--fresh" in running.run("%%o3pro\nWhy?", "a").error["evalue"]
        assert 1 == len(server.posts), "it is not sent again by itself"
        assert running.run("%%o3pro --fresh\nWhy?").error is None


def test_question_marks(running, sandbox_url):
    """A line question may end with a question mark, which IPython does not read as help; `%%o3pro?` is help."""
    running.run(f"%config O3Pro.base_url = {sandbox_url!r}")
    for line in ("%o3pro What's 6*7?", 'a = %o3pro Is "it" {6*7}?', "if True:\n    %o3pro Why?"):
        assert 1 == len(running.run(line).of_type("text/markdown")), line
    reply = running.client.execute("%%o3pro?", reply=True, timeout=10)
    assert "--max-output-tokens" in reply["content"]["payload"][0]["data"]["text/plain"]


@pytest.fixture
def asked(home):
    """A kernel, and its server, which numbers the answers."""

    def answer(_):
        return wire.json_reply(wire.response("Fine.", id=f"resp_{len(server.posts)}"))

    with wire.serve(answer) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        yield server, running


def test_cell_in_a_cell(asked):
    """A cell inside another one, as in %%capture, has the place of the outer cell: run again, it is replayed."""
    server, running = asked
    for posts, code in (
        (1, "%%capture\n%o3pro Why?"),
        (3, "get_ipython().run_cell('%o3pro How?');"),
    ):
        for _ in range(2):
            assert running.run(code, cell_id=f"cell {posts}").error is None
        assert posts == len(server.posts)
        running.run("%o3pro Why?", cell_id=f"another {posts}")
        assert posts + 1 == len(server.posts)


def test_answer_after_all_widgets_are_closed(asked):
    """After all widgets were closed, the next answer has new ones."""
    _, running = asked
    running.run("%o3pro one")
    running.run("import ipywidgets; ipywidgets.Widget.close_all()")
    ran = running.run("answer = %o3pro two")
    assert ran.error is None
    assert "Fine." in ran.of_type("text/markdown")[0]


def test_answer_that_cannot_be_shown(asked):
    """An answer is bound even if it cannot be shown: it was paid for."""
    _, running = asked
    running.run("%o3pro One?")
    running.run("import ipywidgets\nipywidgets.ToggleButton.__init__ = lambda *_, **__: 1 / 0")
    assert "ZeroDivisionError" == running.run("%o3pro -o answer Why?").error["ename"]
    assert "Fine." == running.run("print(answer.text)").stream.strip()


def test_questions_from_threads(asked):
    """Questions from several threads leave the shared standard streams unchanged."""
    server, running = asked
    running.run(
        "from threading import Thread\n"
        "def ask(number): get_ipython().run_line_magic('o3pro', f'--alone {number}')\n"
        "threads = [Thread(target=ask, args=(number,)) for number in range(12)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()"
    )
    assert 12 == len(server.posts)
    assert "OutStream" in str(running.run("import sys\ntype(sys.stdout)").displays)
    assert "hello" == running.run("print('hello')").stream.strip()


def test_settings_that_are_none(asked):
    """An invalid value of a setting is refused, and the setting stays unchanged."""
    _, running = asked
    for setting, value in (
        ("timeout", "float('nan')"),
        ("budget_usd", "float('nan')"),
        ("journal", "'a\\0b'"),
    ):
        before = running.run(f"%config O3Pro.{setting}").stream
        ran = running.run(f"%config O3Pro.{setting} = {value}")
        assert ran.error or ran.stream
        assert before == running.run(f"%config O3Pro.{setting}").stream


def test_journal_beside_the_notebook(asked, tmp_path):
    """A relative journal is resolved when it is set; a later %cd does not move it."""
    server, running = asked
    running.run(f"%cd {tmp_path}\n%config O3Pro.journal = 'j.sqlite3'")
    running.run("%o3pro --alone Why?")
    running.run("import os; os.mkdir('sub'); os.chdir('sub')")
    assert "True" == running.run("a = %o3pro -q --alone Why?\nprint(a.replayed)").stream.strip()
    assert 1 == len(server.posts)


HOSTILE = "\x1b]0;pwned\x07"


def test_no_word_acts_on_a_terminal(asker, capsys):
    """No escape sequence of a server reaches a terminal."""
    replies = iter(
        [
            wire.response("Fine.", status=f"done{HOSTILE}"),
            wire.response(
                "", status="failed", error={"code": f"c{HOSTILE}", "message": f"m{HOSTILE}"}
            ),
        ]
    )
    with wire.serve(lambda _: wire.json_reply(next(replies))) as server:
        answer = asker.ask(server.url)
        with pytest.raises(errors.AimlMagicError) as failed:
            asker.ask(server.url, "More?")
    print(answer.__repr__(), failed.value, *map(context.line, asker.journal.history()))
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().out)
