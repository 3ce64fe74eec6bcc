"""IPython in a terminal, %aiml, the key, and the cost of loading."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from types import ModuleType
from unittest.mock import Mock

import pytest
import wire
from asking import KEY
from IPython.core.interactiveshell import InteractiveShell
from shells import run
from traitlets.config import Config

from aiml_magic import (
    addresses,
    credentials,
    errors,
    load_ipython_extension,
    unload_ipython_extension,
)
from aiml_magic.errors import BadInput, ConnectionLost, ReplayMiss
from aiml_magic.journal import recording
from aiml_magic.journal.recording import Record
from aiml_magic.notebook.answers import Answers
from aiml_magic.notebook.lines import begin_with_magic, keep_question_marks
from aiml_magic.notebook.options import OPTIONS
from aiml_magic.text import agreed


@pytest.fixture
def answering(shell):
    with wire.serve(
        lambda _: wire.json_reply(wire.response("**Forty-two**, by \x1b[31mmagic"))
    ) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        yield server


def test_terminal(shell, answering, capsys):
    """In a terminal an answer is text without control characters, and the details are one line."""
    result = shell.run_cell("%%o3pro\nWhat is 6*7?")
    out = capsys.readouterr().out
    assert "**Forty-two**, by ␛[31mmagic" in out
    assert "[12 tokens · cost not reported · under 10 s · o3-pro-2025-06-10]" in out
    assert 1 == out.count("Forty-two"), "the value of the cell is not shown a second time"
    assert "\x1b" not in out
    assert "**Forty-two**, by \x1b[31mmagic" == result.result.text
    shell.run_cell("_")
    assert "Forty-two" in capsys.readouterr().out


def test_options_reach_the_server(shell, answering):
    """The value of an option is in the request."""
    for line, field, wanted in (
        ("%o3pro -m other/model", "model", "other/model"),
        ("%o3pro --summary concise", "reasoning", {"summary": "concise"}),
        ("%o3pro --tool-choice none", "tool_choice", "none"),
        ('%o3pro --param truncation="auto"', "truncation", "auto"),
        ("%o3pro --no-store", "store", False),
        ("%o3pro --no-stream", "stream", None),
    ):
        assert run(shell, f"{line} --alone --fresh Why?") is None
        assert wanted == answering.posts[-1].body.get(field)
    assert 6 == len(answering.posts)


def test_settings_hold(shell, tmp_path):
    """A setting applies to later questions."""
    lines = """
        %config O3Pro.chain = "transcript"
        %config O3Pro.max_concurrency = 3
        %config O3Pro.max_tool_rounds = 2
        %config O3Pro.store = False
        %config O3Pro.timeout = 60.0
    """
    assert run(shell, lines) is None
    magics = shell.find_line_magic("aiml").__self__
    how = magics.question({}, "Why?", {}).delivery
    assert ("transcript", 3, 2, False, 60.0) == (
        how.chain,
        how.max_concurrency,
        how.max_tool_rounds,
        how.store,
        how.timeout,
    )
    shell.run_cell(f"%config O3Pro.journal = {str(tmp_path / 'mine.sqlite3')!r}\n%aiml history")
    assert (tmp_path / "mine.sqlite3").exists()


def test_timeout(shell):
    """Silence for longer than --timeout ends the wait, and the message says whether it may be charged."""
    with wire.serve(lambda _: wire.Reply(status=None, end="silence")) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        error = run(shell, "%o3pro --timeout 0.5 Why?")
        server.release.set()
    assert isinstance(error, ConnectionLost)
    assert error.may_cost


HOSTILE = "\x1b]52;c;cm0=\x07 \x9b2J \u202e \r\n\x00 \ud800"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


def test_nothing_acts_on_a_terminal(shell, tmp_path, monkeypatch, capsys):
    """No command, representation, print or table of untrusted text holds a character that acts on a terminal."""
    pandas = pytest.importorskip("pandas")
    item = {"type": "message", "content": [{"type": "output_text", "text": HOSTILE}]}
    wanted = {
        "type": "mcp_approval_request",
        "id": "m",
        "name": HOSTILE,
        "arguments": json.dumps({HOSTILE: HOSTILE}),
        "server_label": HOSTILE,
    }
    replies = [
        wire.json_reply(
            wire.response(id=HOSTILE, model=HOSTILE, status="completed", output=[item])
        ),
        wire.json_reply(wire.response(status=HOSTILE, output=[item])),
        wire.json_reply(wire.response(id="resp_3", output=[wanted])),
        wire.json_reply(wire.response(id="resp_4", output=[item])),
        wire.json_reply(
            {
                "error": {"message": HOSTILE, "code": HOSTILE, "param": HOSTILE},
                "requestId": HOSTILE,
            },
            400,
        ),
        wire.json_reply({"current_balance": HOSTILE}),
    ]
    monkeypatch.setenv("AIML_MAGIC_JOURNAL", str(tmp_path / "a\x1b\x9bb.sqlite3"))
    with wire.serve(
        lambda request: replies.pop(0) if "models" not in request.path else wire.json_reply({}, 404)
    ) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        shell.user_ns["h"] = HOSTILE
        shell.run_line_magic("colors", "NoColor")
        for code in (
            f"%%o3pro -o a -c {'x' + chr(0x9B)}\n{{{{h}}}}", "print(a, f'{a}', repr(a), [a])", "a", "%%o3pro -o b\n{{h}}?", "b",
            "%o3pro -o c three", "%aiml approve 3", "%o3pro four", "%%o3pro --dry-run\n{{h}}", "%aiml status", "%aiml history",
            "%aiml tree", "%aiml jobs", "%aiml resume", "%aiml search cm0", "%aiml show 1", f"%aiml record {tmp_path}/x{chr(0x9B)}",
        ):  # fmt: skip
            shell.run_cell(code)
        assert [] == replies
    answer = shell.user_ns["a"]
    assert HOSTILE == answer.text
    table = Answers(
        [
            replace(answer, parsed={HOSTILE: [HOSTILE, {"x": HOSTILE}]}),
            replace(answer, parsed=HOSTILE),
            None,
        ],
    ).to_frame()
    with pandas.option_context(
        "display.max_columns", None, "display.width", 10_000, "display.max_colwidth", None
    ):
        print(table, table.to_string(), table.to_dict("records"))
    out = "".join(capsys.readouterr())
    assert "cm0=" in out
    assert "Allowed: " in out
    assert [] == [line for line in out.split("\n") if ACTS.search(line)]


def test_approval_that_nobody_can_judge(shell, capsys):
    """A call with a duplicate name cannot be approved: an error of two lines, and nothing is sent; it can be denied."""
    wanted = {
        "type": "mcp_approval_request",
        "id": "m",
        "name": "rm",
        "arguments": '{"path": "a", "path": "/"}',
        "server_label": "docs",
    }
    replies = [
        wire.json_reply(wire.response(output=[wanted])),
        wire.json_reply(wire.response("Well.", id="resp_2")),
    ]
    with wire.serve(lambda _: replies.pop(0)) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        assert run(shell, "%o3pro Do it") is None
        assert "cannot be judged: a name is given twice" in capsys.readouterr().out
        error = run(shell, "%aiml approve 1")
        assert (BadInput, 2) == (type(error), len(str(error).splitlines()))
        assert 1 == len(server.posts)
        assert run(shell, "%aiml deny 1") is None
    assert server.posts[1].body["input"][0]["approve"] is False


def test_variable_for_id(shell, answering, capsys):
    """A variable that holds the answer is accepted as an id, since a number is valid in one journal only."""
    shell.run_cell("first = %o3pro -q one\nother = %o3pro -q -n two")
    assert run(shell, "forked = %o3pro -q --after first three") is None
    magics = shell.find_line_magic("aiml").__self__
    row = magics.asking.journal.row(shell.user_ns["forked"].journal_id)
    assert shell.user_ns["first"].journal_id == row.parent
    capsys.readouterr()
    assert run(shell, "%aiml show first") is None
    assert "Forty-two" in capsys.readouterr().out
    assert isinstance(run(shell, "%aiml show nobody"), BadInput)


def test_line_magic_and_variables(shell, answering):
    """A line magic asks, also in an assignment; {{names}} are variables of the notebook or local ones of a function."""
    shell.run_cell("n = 7")
    shell.run_cell("a = %o3pro -q Is {{n}} > {n} and $n?")
    shell.run_cell(
        "def f():\n    local = 'inside'\n    return get_ipython().run_line_magic('o3pro', '-q {{local}}?')\nb = f()"
    )
    shell.run_cell("%%o3pro -q --raw --alone\n{{n}}")
    assert ["Is 7 > {n} and $n?", "inside?", "{{n}}"] == [
        request.body["input"] for request in answering.posts
    ]
    assert "Forty-two" in shell.user_ns["a"].text


def test_settings(shell, answering):
    """Settings hold for every question; an option takes precedence over its setting."""
    shell.run_cell(
        '%config O3Pro.effort = "high"\n%config O3Pro.instructions = "Be brief."\n%config O3Pro.stream = False'
    )
    shell.run_cell("%o3pro -q One?")
    shell.run_cell("%o3pro -q -e low Two?")
    one, two = (request.body for request in answering.posts)
    assert ({"effort": "high"}, "Be brief.", False) == (
        one["reasoning"],
        one["instructions"],
        "stream" in one,
    )
    assert {"effort": "low"} == two["reasoning"]


@pytest.mark.parametrize(
    "code",
    ["%%o3pro --efort high\nx", "%%o3pro be brief\nx", "%%o3pro -e\nx", "%%o3pro\n  \n", "%o3pro", "%%o3pro\n{{nothing}}", "%aiml stats",
     "%aiml status now", "%%o3pro -t 3\nx", "%%o3pro\n{{f()}}", f"%%o3pro\nmy key is {KEY}", "%aiml sandbox --now"],
)  # fmt: skip
def test_mistakes(shell, answering, code, capsys):
    """A mistake fails the cell with an error of two lines; nothing is sent, and nothing else changes."""
    error = run(shell, code)
    out = "".join(capsys.readouterr())
    assert error is not None
    assert 2 == len([line for line in out.splitlines() if line.strip()])
    assert "Traceback" not in out
    assert KEY not in out
    assert [] == answering.requests


def test_failed_cell_keeps_what_came(shell, capsys):
    """The text received before a failure is shown and bound, and the cell fails."""
    delta = b'data: {"type":"response.output_text.delta","output_index":0,"delta":"Half"}\n\n'
    reply = wire.Reply(200, {"Content-Type": "text/event-stream"}, [delta])
    with wire.serve(lambda _: reply) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        assert "StreamInterrupted" == type(run(shell, "%%o3pro -o half\nx")).__name__
    assert "Half" in capsys.readouterr().out
    assert "Half" == shell.user_ns["half"].text


def test_no_key(shell, monkeypatch, capsys):
    """Without a key the error names every way to get one."""
    monkeypatch.delenv("AIML_API_KEY")
    assert "NoKey" == type(run(shell, "%o3pro Why?")).__name__
    out = "".join(capsys.readouterr())
    assert all(way in out for way in ("%aiml login", "AIML_API_KEY", "%aiml sandbox"))


def test_status(shell, home, capsys):
    """`%aiml status` shows the key's source without the key, the server, the balance, the journal and the spending."""
    with wire.serve(
        lambda _: wire.json_reply({"current_balance": 12.5, "currency": "USD"})
    ) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        assert run(shell, "%aiml status") is None
    out = capsys.readouterr().out
    assert all(
        words in out
        for words in (
            "AIML_API_KEY",
            "…cdef",
            server.url,
            "$12.50",
            "journal.sqlite3",
            "$0.0000 in this session",
        )
    )
    assert KEY not in out
    assert "/v2/billing" == server.requests[0].path


BALANCES = {"-3.5": "-$3.50", "1e-320": "$0.00"} | dict.fromkeys(
    ("1e308", "NaN", "-Infinity", "1" + "0" * 400, "1" + "0" * 5000, '"12"', "true", "[]"),
    "unknown",
)


def test_balance(shell, home, capsys):
    """For any balance of a server, `%aiml status` shows a sum of money, or that it is unknown."""
    told = iter(BALANCES)

    def answer(_):
        return wire.Reply(
            200,
            {"Content-Type": "application/json"},
            [f'{{"current_balance": {next(told)}}}'.encode()],
        )

    with wire.serve(answer) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        for balance, expected in BALANCES.items():
            assert run(shell, "%aiml status") is None
            assert f"Balance  {expected}" in capsys.readouterr().out, balance


def test_working_directory_that_was_removed(shell, home, sandbox_url, tmp_path, monkeypatch):
    """In a removed working directory, commands without relative paths work, and all others are errors of two lines."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    shell.run_line_magic("config", f"O3Pro.base_url = {sandbox_url!r}")
    for line in (
        "%o3pro -q Why?",
        "%aiml status",
        "%aiml history",
        "%aiml tree",
        "%aiml resume",
        "%aiml search Why",
    ):
        assert run(shell, line) is None
    for line in (
        "%aiml record a.jsonl",
        "%aiml replay a.jsonl",
        "%aiml export a.md",
        "%o3pro -a a.txt Why?",
    ):
        error = run(shell, line)
        assert isinstance(error, errors.BadInput), line
        assert 2 == len(str(error).splitlines())


def test_login_and_logout(shell, home, monkeypatch, capsys):
    """A key is typed hidden, saved in a file for this user alone, found, and removed."""
    monkeypatch.delenv("AIML_API_KEY")
    monkeypatch.setattr(getpass, "getpass", lambda prompt: f"  {KEY}\n")
    assert run(shell, "%aiml login") is None
    assert 0o600 == stat.S_IMODE((home / "key").stat().st_mode)
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        assert run(shell, "%o3pro -q Why?") is None
    assert f"Bearer {KEY}" == server.posts[0].headers["authorization"]
    assert run(shell, "%aiml logout") is None
    assert not (home / "key").exists()
    assert KEY not in "".join(capsys.readouterr())


@pytest.fixture
def keyring_of(monkeypatch):
    """Replaces the system's keyring by a backend, and removes the key from the environment."""
    keyring = pytest.importorskip("keyring")
    monkeypatch.delenv("AIML_API_KEY")
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def failing(error):
    """A keyring that raises `error` at every call."""
    from keyring.backend import KeyringBackend

    class Failing(KeyringBackend):
        priority = 1

        def get_password(self, *_):
            raise error

        set_password = delete_password = get_password

    return Failing()


def test_disabled_keyring(shell, home, keyring_of, monkeypatch, capsys):
    """A disabled keyring stores nothing, so the key is saved in the file."""
    from keyring.backends.null import Keyring

    keyring_of(Keyring())
    monkeypatch.setattr(getpass, "getpass", lambda prompt: KEY)
    assert run(shell, "%aiml login") is None
    assert "key: …cdef" in capsys.readouterr().out
    assert KEY == (home / "key").read_text().strip()


def test_locked_keyring(shell, home, keyring_of, capsys):
    """With a locked keyring the key of the file is used, and can be removed."""
    from keyring.errors import KeyringLocked

    keyring_of(failing(KeyringLocked("Failed to unlock\nthe collection!")))
    assert credentials.find_key() is None
    home.mkdir()
    (home / "key").write_text(KEY)
    assert KEY == credentials.need_key().text
    assert run(shell, "%aiml logout") is None
    out = capsys.readouterr().out
    assert "does not answer (KeyringLocked); a key in it stays there." in out
    assert not (home / "key").exists()
    assert run(shell, "%aiml status") is None
    assert (
        "set AIML_API_KEY (the system's keyring does not answer: KeyringLocked)"
        in capsys.readouterr().out
    )


class Panic(BaseException):
    """The exception of a keyring that is written in Rust."""


@pytest.mark.parametrize("kind", [OSError, RuntimeError, SystemExit, Panic])
def test_keyring_that_fails(shell, keyring_of, kind, monkeypatch, capsys):
    """If a keyring raises any exception, the key is saved in the file, with a message, and no text of the keyring shows it."""
    keyring_of(failing(kind(f"no bus to send\n{KEY}")))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: f'"{KEY}"')
    home = addresses.home()
    assert run(shell, "%aiml login") is None
    out = "".join(capsys.readouterr())
    assert f"key (the system's keyring did not accept it: {kind.__name__}): …cdef" in out
    assert KEY == credentials.need_key().text == (home / "key").read_text().strip()
    assert run(shell, "%aiml status") is None
    assert run(shell, "%aiml logout") is None
    assert KEY not in out + "".join(capsys.readouterr())


def test_newest_login_counts(shell, home, keyring_of, monkeypatch):
    """A key that the keyring stores replaces that of the file; one that it refuses, saved in the file, precedes an older one in the keyring."""
    from keyring.backend import KeyringBackend

    class Memory(KeyringBackend):
        priority = 1
        kept, takes = None, True

        def get_password(self, *_):
            return self.kept

        def set_password(self, *given):
            self.kept = given[-1] if self.takes else self.kept

        def delete_password(self, *_): ...

    memory = Memory()
    keyring_of(memory)
    for takes, key in (
        (False, "first-key-of-three"),
        (True, "second-key-of-three"),
        (False, "third-key-of-three"),
    ):
        memory.takes = takes
        monkeypatch.setattr(getpass, "getpass", lambda prompt, key=key: key)
        assert run(shell, "%aiml login") is None
        assert key == credentials.need_key().text
        assert takes != (home / "key").exists()


def test_login_that_is_interrupted(shell, home, keyring_of, monkeypatch, capsys):
    """An interrupt while a keyring asks for its password saves nothing: two lines, and no frame that could show the key."""
    keyring_of(failing(KeyboardInterrupt()))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: KEY)
    run(shell, "%xmode Verbose")
    assert BadInput is type(run(shell, "%aiml login"))
    assert not (home / "key").exists()
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.parametrize("place", ["home", "home/key"])
def test_key_that_no_disk_takes(shell, home, place, monkeypatch, capsys):
    """A home that is a file, or a key file that is a folder, is an error of two lines; the folder is not removed."""
    if place == "home":
        home.touch()
    else:
        (home / "key").mkdir(parents=True)
    monkeypatch.delenv("AIML_API_KEY")
    monkeypatch.setattr(getpass, "getpass", lambda prompt: KEY)
    run(shell, "%xmode Verbose")
    assert BadInput is type(run(shell, "%aiml login"))
    assert run(shell, "%aiml logout") is None
    out = "".join(capsys.readouterr())
    assert "No key was saved." in out
    assert KEY not in out


def test_login_where_nobody_types(shell, monkeypatch):
    """Under nbclient, and without standard input, no key can be typed: the error names the alternative."""
    from IPython.core.error import StdinNotImplementedError

    for error in (
        StdinNotImplementedError("no stdin"),
        AttributeError("fileno"),
        ValueError("closed"),
    ):
        monkeypatch.setattr(getpass, "getpass", Mock(side_effect=error))
        assert "BadInput" == type(run(shell, "%aiml login")).__name__


def test_nobody_agrees(monkeypatch):
    """A standard input that is missing, at its end, closed or not UTF-8 does not confirm."""
    closed = io.StringIO("yes")
    closed.close()
    noise = io.TextIOWrapper(io.BytesIO(b"\xff\n"), "utf-8")
    for stdin in (None, io.StringIO(), closed, noise):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert agreed("Send it?") is None


@pytest.mark.parametrize("text", ["two words", "ключ-к-апи", "a\x00b", ""])
def test_keys_that_are_none(shell, monkeypatch, text, capsys):
    """A key with characters that a header cannot have is refused, and not shown."""
    if "\x00" not in text:
        monkeypatch.setenv("AIML_API_KEY", text)
        assert type(run(shell, "%o3pro Why?")).__name__ in ("BadInput", "NoKey")
    monkeypatch.setattr(getpass, "getpass", lambda prompt: text)
    assert "BadInput" == type(run(shell, "%aiml login")).__name__
    assert not text or text not in "".join(capsys.readouterr())


def test_sandbox_command(shell, monkeypatch, capsys):
    """`%aiml sandbox` answers without a key and never gets a real one; with --if-no-key it is not used if there is a key."""
    assert run(shell, "%aiml sandbox --if-no-key") is None
    assert "A key was found" in capsys.readouterr().out
    assert run(shell, "%aiml sandbox") is None
    try:
        shell.run_cell("%o3pro -q -o a Why?")
        assert "no model is behind it" in shell.user_ns["a"].text
        assert "sandbox" == shell.user_ns["a"].server
    finally:
        run(shell, "%aiml sandbox stop")


@pytest.mark.parametrize("line", ["%o3pro Why?", "%o3pro -b Why?", "%aiml models"])
@pytest.mark.parametrize("key", [KEY, ""])
def test_page_without_processes(line, key, shell, monkeypatch, capsys):
    """In a page of JupyterLite an unrecorded question is an error of two lines, with a key, without one, and with the sandbox."""
    monkeypatch.setattr(sys, "platform", "emscripten")
    monkeypatch.setitem(sys.modules, "resource", ModuleType("resource"))  # as its kernel has it
    monkeypatch.setenv("AIML_API_KEY", key)
    for before in ("", "%aiml sandbox"):
        assert run(shell, before) is None
        capsys.readouterr()
        assert isinstance(run(shell, line), ReplayMiss)
        what, way = "".join(capsys.readouterr()).strip().splitlines()
        assert "cannot start processes" in what
        assert what.endswith("Nothing was sent.")
        assert "%aiml replay FILE" in way
    assert run(shell, "%aiml jobs") is None
    assert "No question of this notebook waits" in capsys.readouterr().out


def test_only_means_that_nothing_is_sent(shell, monkeypatch, capsys):
    """With AIML_MAGIC_REPLAY=only no option, command, map or round of tools sends a request."""
    wanted = {
        "type": "mcp_approval_request",
        "id": "appr_1",
        "name": "x",
        "arguments": "{}",
        "server_label": "l",
    }
    call = {"type": "function_call", "call_id": "c", "name": "day", "arguments": "{}"}

    def answer(request):
        text = request.body["input"] if request.method == "POST" else ""
        if text == "Lost?":
            return wire.Reply(end="close")
        output = {"Approve?": {"output": [wanted]}, "Which day?": {"output": [call]}}.get(
            str(text), {}
        )
        return wire.json_reply(wire.response(**output))

    with wire.serve(answer) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        shell.run_cell(
            "from aiml_magic import ask\ndef day() -> str:\n    'The day.'\n    return 'Monday'"
        )
        assert run(shell, "%o3pro -q --alone Known?") is None
        assert isinstance(run(shell, "%o3pro -q --alone Lost?"), ConnectionLost)
        assert run(shell, "%o3pro -q --alone Approve?") is None
        run(shell, "ask('Which day?', tool=day)\nraise KeyboardInterrupt")
        magics = shell.find_line_magic("aiml").__self__
        with magics.asking.journal._transaction() as db:
            db.execute("DELETE FROM requests WHERE request LIKE '%function_call_output%'")
            db.execute(
                "INSERT INTO requests (base_url, server, request, client_request_id, session, notebook, asked_at, key)"
                "SELECT base_url, server, request, 'x', session, notebook, asked_at, 'x' FROM requests WHERE id = 1"
            )
        before = len(server.requests)
        monkeypatch.setenv("AIML_MAGIC_REPLAY", "only")
        assert run(shell, "%o3pro -q --alone Known?") is None
        for code in (
            "%o3pro --alone --fresh Known?", "%o3pro -b Unknown?", "%aiml approve 3", "%aiml deny 3", "%aiml check 2",
            "ask('Known?', fresh=True)", "ask('Unknown?')", "ask.map('{{row}}', ['Unknown?', 'Known?'], progress=False)",
            "ask('Which day?', tool=day)", "%config O3Pro.budget_usd = 5\nask('Unknown?')",
        ):  # fmt: skip
            capsys.readouterr()
            error = run(shell, code)
            assert isinstance(error, ReplayMiss), code
            assert "othing was sent" in str(error) or "nothing was sent" in str(error), code
            assert 2 <= len([line for line in str(error).splitlines() if line.strip()]) <= 8
        for code in ("%aiml resume", "%aiml status", "%o3pro --dry-run Unknown?"):
            assert run(shell, code) is None
        out = capsys.readouterr().out
        assert "was not sent" in out
        assert "the server was not asked" in out
        assert before == len(server.requests)


def test_setting_of_the_reader(home, monkeypatch, capsys):
    """A replay miss names the setting of the reader's configuration that causes it, and the command that unsets it."""
    monkeypatch.setenv("AIML_MAGIC_REPLAY", "only")
    settings = {"effort": "high", "instructions": "Be brief.", "timeout": 60.0}
    shell = InteractiveShell(config=Config({"O3Pro": settings}))
    load_ipython_extension(shell)
    try:
        record = Record("https://api.aimlapi.com/v1", {"model": "openai/o3-pro", "input": "Why?", "instructions": "Be brief."},
                        None, wire.response(), (), None, None, 0.0)  # fmt: skip
        recording.write(home.parent / "a.jsonl", {record.key: record})
        assert run(shell, f"%aiml replay {home.parent / 'a.jsonl'}") is None
        error = run(shell, "%o3pro Why?")
        assert isinstance(error, ReplayMiss)
        assert (
            'O3Pro.effort is set to "high" in your configuration; %config O3Pro.effort = None'
            in str(error)
        )
        assert "instructions" not in str(error), "that is recorded, too"
        assert len(str(error).splitlines()) <= 8
        assert "in your configuration" not in str(run(shell, "%o3pro -e low Why?")), (
            "an option goes before its setting"
        )
        assert run(shell, "%config O3Pro.effort = None\n%o3pro -q Why?") is None
    finally:
        shell.find_line_magic("aiml").__self__.session.close(10)
        unload_ipython_extension(shell)
        shell.history_manager.end_session()
        InteractiveShell.clear_instance()


def test_help(shell, capsys):
    """`%%o3pro?` and `%aiml help` list every option, setting and command."""
    doc = shell.find_cell_magic("o3pro").__doc__
    magics = shell.find_line_magic("aiml").__self__
    assert all(option.long in doc for option in OPTIONS)
    assert all(name in doc for name in magics.trait_names(config=True))
    run(shell, "%aiml help")
    out = capsys.readouterr().out
    assert all(name in out for name in ("status", "login", "logout", "sandbox", "help"))


def test_reload_and_unload(shell, home):
    """Loading twice has the effect of loading once; unloading restores the shell."""
    before = len(shell.configurables), len(shell.input_transformers_cleanup)
    load_ipython_extension(shell)
    assert before == (len(shell.configurables), len(shell.input_transformers_cleanup))
    magics = shell.find_line_magic("aiml").__self__
    unload_ipython_extension(shell)
    assert shell.find_cell_magic("o3pro") is None
    assert keep_question_marks not in shell.input_transformers_cleanup
    assert magics not in shell.configurables
    load_ipython_extension(shell)


@pytest.mark.parametrize(
    ("code", "is_changed"),
    [
        ("%o3pro why?", True), ("a = %o3pro why?", True), ("  %o3pro why??", True), ("%aiml search why?", True), ("%o3pro?", False),
        ("%%o3pro\n%o3pro why?", False), ('x = """\n%o3pro why?\n"""', False), ("", False), ("\n", False), ("%timeit why?", False),
        ("%o3pro why", False), ("x = 1  # %o3pro why?", False),
    ],
)  # fmt: skip
def test_question_marks(code, is_changed):
    """Only a line that asks is rewritten; other lines with a question mark are requests for help."""
    lines = code.splitlines(keepends=True)
    assert is_changed == (keep_question_marks(lines) != lines)


LOAD = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
before = set(sys.modules)
shell.run_line_magic("load_ext", "aiml_magic")
import json; print(json.dumps(sorted(set(sys.modules) - before)))
from aiml_magic import ask
print(json.dumps(sorted(sys.modules)))
"""


def test_loading_is_light(home):
    """Loading the extension imports neither HTTP nor widgets nor Markdown, and touches no file; `ask` imports nothing compiled."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, env=os.environ
    )
    loaded, with_ask = map(json.loads, done.stdout.splitlines())
    assert not {"httpx", "nh3", "pydantic", "pydantic_core", "tornado"} & set(with_ask)
    assert not {
        "httpx",
        "ipywidgets",
        "markdown",
        "markdown_it",
        "nh3",
        "tornado",
        "asyncio",
        "sqlite3",
    } & set(loaded)
    assert not home.exists()


def test_several_answers_of_a_cell(shell, sandbox_url, capsys):
    """A cell with samples shows a table; run again it sends nothing, and the conversation continues the first sample."""
    shell.run_line_magic("config", f"O3Pro.base_url = {sandbox_url!r}")
    for _ in range(2):
        shell.run_cell("%%o3pro -n -o several --samples 3\nWhich star is it?")
    several = shell.user_ns["several"]
    assert [True, True, True] == [answer.replayed for answer in several]
    out = capsys.readouterr().out
    assert "[3] This is the sandbox" in out.replace("**", "")
    shell.run_cell("%%o3pro -o next\nAnd why?")
    assert several[0].id == shell.user_ns["next"].response.raw["previous_response_id"]
    assert ["main", None, None] == [answer.chat for answer in several]
    shell.run_cell("%%o3pro -b --samples 2\nWhich?")
    assert "cannot be asked for in the background" in capsys.readouterr().out
    shell.run_cell("%%o3pro -q -m openai/o3-pro -m openai/gpt-5.6-sol -e low -e high\nWhich star?")
    assert 4 == len(shell.user_ns["_"])
    assert "[1] " not in capsys.readouterr().out


def test_public_names():
    """The package's public names are these."""
    import aiml_magic

    assert [
        "ask",
        "confirm",
        "history",
        "load_ipython_extension",
        "unload_ipython_extension",
    ] == aiml_magic.__all__
    assert all(callable(getattr(aiml_magic, name)) for name in aiml_magic.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = aiml_magic.nothing


def test_key_is_nowhere(shell, answering, home, tmp_path, capsys):
    """After questions, answers and errors the key is in no file, output, history or representation."""
    for code in (
        "%o3pro Why?",
        "%o3pro -o a Why?",
        "a",
        "%aiml status",
        "%%o3pro\n{{nothing}}",
        f"%%o3pro\n{KEY[:8]} {KEY[8:]}",
    ):
        shell.run_cell(code, store_history=True)
    shell.run_line_magic("config", "O3Pro.base_url = 'http://127.0.0.1:1/v1'")
    shell.run_cell("%o3pro Why?", store_history=True)
    magics = shell.find_line_magic("aiml").__self__
    assert KEY not in repr(vars(magics.session)) + repr(vars(magics.asking.runner))
    assert KEY not in "".join(capsys.readouterr())
    assert KEY not in str(list(shell.history_manager.get_range()))
    assert KEY not in repr(shell.user_ns["a"])
    assert not any(
        KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    )
    if shutil.which("ps"):
        assert (
            KEY
            not in subprocess.run(
                ["ps", "-eo", "args"], capture_output=True, text=True, check=True
            ).stdout
        )


def test_comments_above_a_cell(shell, answering):
    """Comments above `%%o3pro` are not sent; the question is the text below it, with its comments."""
    comments = [
        "# why",
        "\n\n# why\n\n   # and how",
        "#| echo: false\n# %% [o3pro]",
        "#",
        "   \n\t\n",
        "#!%%bash",
    ]
    for above in comments:
        result = shell.run_cell(
            f"{above}\n%%o3pro -q --alone --fresh -o why\n# Heading\n\n%o3pro why?\n%%bash\nWhy, o model?"
        )
        assert result.success, result.error_in_exec or result.error_before_exec
        assert (
            "# Heading\n\n%o3pro why?\n%%bash\nWhy, o model?" == answering.posts[-1].body["input"]
        )
    assert len(comments) == len(answering.posts)


@pytest.mark.parametrize(
    "code",
    [
        "# why\n%%bash\necho",
        "# why\n%%o3prolix\nx",
        "x = 1\n%%o3pro\nWhy?",
        "# only this",
        "",
        "#\n%o3pro x?\n",
        "s = '''\n#\n%%o3pro\n'''",
    ],
)
def test_other_cells_stay(code):
    """The lines of other cells stay unchanged, comments included."""
    assert code.splitlines(keepends=True) == begin_with_magic(code.splitlines(keepends=True))


def test_export_of_a_chat(shell, answering, tmp_path, capsys):
    """`-c NAME` exports that conversation, anywhere in the line; a file name may have blanks, dashes, and quotes around it."""
    shell.run_cell("%o3pro -q -c ideas one\n%o3pro -q two\n%o3pro -q -c 'my plan' three")
    for line, name, question in (
        ("-c ideas a.md", "a.md", "one"), ("b.md --chat=ideas", "b.md", "one"), ("c.md", "c.md", "two"), ("--chat main d.md", "d.md", "two"),
        ('-c "my plan" my talk.md', "my talk.md", "three"), ("'my  talk -c ideas.md' -c ideas", "my  talk -c ideas.md", "one"),
        ("-c ideas -- -c.md", "-c.md", "one"), ("talk - 2.md", "talk - 2.md", "two"), ("o'brien.md -c ideas", "o'brien.md", "one"),
    ):  # fmt: skip
        with contextlib.chdir(tmp_path):
            assert run(shell, f"%aiml export {line}") is None, line
        assert f"> {question}\n" in (tmp_path / name).read_text()
        assert f"1 turn written to {name}." in capsys.readouterr().out
    error = run(shell, "%aiml export -c ideaz x.md")
    assert "There is no conversation ideaz to export yet.\nDid you mean ideas?" == str(error)


def test_export_before_an_answer(shell, home, monkeypatch):
    """A conversation whose only question failed cannot be exported, and the error does not suggest its own name."""
    monkeypatch.delenv("AIML_API_KEY", raising=False)
    assert "NoKey" == type(run(shell, "%o3pro Why?")).__name__
    assert (
        "There is no conversation main to export yet.\nAsk something first, or run %aiml resume."
        == str(run(shell, "%aiml export x.md"))
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export --chta x y.md", "Did you mean --chat?"), ("export -x f.md", "-x"), ("export f.md -c", "NAME"), ("export f.md --chat", "NAME"),
        ("history -n 5", "-n"), ("show --raw 1", "--raw"), ("show 1 --raw", "--raw"), ("sandbox --if-no-keys", "Did you mean --if-no-key?"),
        ("search --all x", "--all"), ("record -f x.jsonl", "-f"), ("forget 1 -y", "-y"), ("status --verbose", "--verbose"),
        ("--help", "Did you mean help?"), ("replay x.jsonl -c a", "-c"), ("sandbox --if-no-key stop", "stop"), ("cancel -1x", "-1x"),
    ],
)  # fmt: skip
def test_unknown_options_of_commands(shell, tmp_path, monkeypatch, line, said):
    """An unknown option of a command is an error of two lines with the nearest valid one, and the command does nothing."""
    monkeypatch.chdir(tmp_path)
    error = run(shell, f"%aiml {line}")
    assert isinstance(error, BadInput)
    assert said in str(error)
    assert 2 == len(str(error).splitlines())
    assert [] == list(tmp_path.glob("*.*"))


def test_words_that_look_like_options(shell, answering, capsys):
    """Search words may begin with a dash, the first one after `--`."""
    shell.run_cell("%o3pro -q -- is -v verbose?")
    capsys.readouterr()
    for words in ("verbose -v", "-- -v verbose"):
        assert run(shell, f"%aiml search {words}") is None
        assert "is -v verbose?" in capsys.readouterr().out


def test_what_says_nothing_is_not_sent(shell, answering, tmp_path, monkeypatch):
    """A cell that names an object without a text, or a missing file, is an error of two lines, and nothing is sent."""
    monkeypatch.chdir(tmp_path)
    shell.run_cell("class Foo: ...\nobj, img = Foo(), 'plot.png'")
    for line in (
        "%o3pro Explain {{obj}}",
        "%%o3pro -i 'As {{obj}}'\nWhy?",
        "%o3pro -a img What is it?",
        "%o3pro Of {{obj!r}}",
        "%o3pro {{print}}",
    ):
        error = run(shell, line)
        assert isinstance(error, BadInput), line
        assert 2 == len(str(error).splitlines())
    assert [] == answering.posts
    shell.run_cell("role = 'referee'")
    assert run(shell, "%%o3pro -q -i 'You are a {{role}}.'\nWhy?") is None
    assert "You are a referee." == answering.posts[-1].body["instructions"]
    assert run(shell, "%%o3pro -q --raw -i 'You are a {{role}}.'\nWhy?") is None
    assert "You are a {{role}}." == answering.posts[-1].body["instructions"]
