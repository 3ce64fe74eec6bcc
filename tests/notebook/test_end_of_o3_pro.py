"""A notebook of o3-pro after the model's end: it is replayed; a new cell names the successor, and with that setting is answered."""

from __future__ import annotations

import pytest
import wire
from catalogue import FEED, GONE, LISTED, NEXT, PRO, looks
from kernels import kernel
from shells import run

from aiml_magic import errors
from aiml_magic.api import models
from aiml_magic.api.models import Catalogue
from aiml_magic.journal import offers

CELLS = ["%%o3pro -e high\nWhy is the sky dark?", "%%o3pro\nAnd by day?"]


def after_the_end(request: wire.Request) -> wire.Reply:
    if request.method == "GET":
        return wire.json_reply(FEED if request.path.endswith("/deprecations") else LISTED)
    if request.body["model"] == PRO:
        return wire.json_reply(GONE, 404)
    return wire.json_reply(wire.response("Of the successor.", id="resp_9", model="gpt-5.6-sol"))


def test_notebook_outlives_its_model(home, tmp_path):
    """Run All replays a recorded notebook of a model that ended; a new cell fails and names the successor, with which it is answered."""
    file = tmp_path / "answers.jsonl"
    answers = [wire.json_reply(wire.response("Because.", id="resp_1")), wire.json_reply(wire.response("Light.", id="resp_2", previous_response_id="resp_1"))]  # fmt: skip
    with wire.serve(lambda _: answers.pop(0)) as before, kernel() as running:
        running.run(f"%config O3Pro.base_url = {before.url!r}\n%aiml record {file}")
        for number, cell in enumerate(CELLS):
            assert running.run(cell, f"c{number}").error is None
        port = int(before.url.rpartition(":")[2].removesuffix("/v1"))
    (home / "journal.sqlite3").unlink()
    with wire.serve(after_the_end, port=port, has_models=True) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}\n%aiml replay {file}")
        told = [running.run(cell, f"c{number}") for number, cell in enumerate(CELLS)]
        assert ["Because.", "Light."] == [ran.of_type("text/markdown")[0] for ran in told]
        assert [] == server.requests
        error = running.run("%%o3pro\nAnd tomorrow?", "c2").error
        assert "NotFound" == error["ename"]
        line = f'%config O3Pro.model = "{NEXT}"'
        assert line in error["evalue"].splitlines() or line in "\n".join(error["traceback"])
        assert len([row for row in error["traceback"] if row.strip()]) <= 4
        running.run(line)
        answered = running.run("%%o3pro\nAnd tomorrow?", "c2")
        assert "Of the successor." in answered.of_type("text/markdown")[0]
        assert [PRO, NEXT] == [post.body["model"] for post in server.posts]
        assert (
            f"{PRO}: until 2099-12-11, then {NEXT}"
            in running.run(f'%config O3Pro.model = "{PRO}"\n%aiml status').stream
        )


def test_models_command(shell, capsys):
    """`%aiml models` shows id, price, context, longest answer, end and successor; words choose among them; nothing acts on a terminal."""
    listed = {
        "data": [
            *LISTED["data"],
            {"id": "evil\x1b[2J\nmodel", "replaced_by": "x\x07y"},
            {"id": "z" * 5000},
        ]
    }

    def answer(request):
        return wire.json_reply(FEED if request.path.endswith("/deprecations") else listed)

    with wire.serve(answer, has_models=True) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        assert run(shell, "%aiml models") is None
        out = capsys.readouterr().out
        assert run(shell, "%aiml models O3-PRO 200,000") is None
        (line,) = capsys.readouterr().out.splitlines()
        assert run(shell, "%aiml models no such words") is None
        assert "no model" in capsys.readouterr().out
        assert 1 == sum(path.endswith("/deprecations") for path in looks(server))
        assert [] == server.posts
    assert (
        f"{PRO} · $20.00 in, $80.00 out for a million tokens · context 200,000 · answer up to 100,000 · until 2099-12-11, then {NEXT}"
        == line
    )
    assert "openai/o1 · ended on 2026-07-01" in out
    assert not {"\x1b", "\x07"} & set(out)
    assert "zzz" not in out


def test_models_command_without_a_list(shell, monkeypatch, capsys):
    """Without a list of the server, and with replay "only", the command is an error of two lines; status shows cached facts."""
    with wire.serve(lambda _: wire.json_reply({}, 404), has_models=True) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        assert isinstance(run(shell, "%aiml models"), errors.RequestFailed)
        monkeypatch.setenv("AIML_MAGIC_REPLAY", "only")
        before = len(server.requests)
        assert isinstance(run(shell, "%aiml models"), errors.ReplayMiss)
        offers.cache(server.url, Catalogue((), models.read(FEED), 1.0))
        assert run(shell, "%aiml status") is None
        assert f"Model    {PRO}: until 2099-12-11, then {NEXT}" in capsys.readouterr().out
        assert before == len(server.requests)


@pytest.mark.parametrize("line", ["%o3pro -m openai/o1 -q x", "%o3pro -q -b x"])
def test_other_ways_to_ask(shell, capsys, line):
    """The same hint is given for a model named by an option, and for a job."""
    with wire.serve(after_the_end_of_all, has_models=True) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        error = run(shell, line)
        if error is None:
            with pytest.raises(errors.NotFound) as failed:
                shell.user_ns["_"].wait(60)
            error = failed.value
    assert f'%config O3Pro.model = "{NEXT}"' in str(error).splitlines()
    assert f"-m {NEXT}" in str(error)


def after_the_end_of_all(request: wire.Request) -> wire.Reply:
    return after_the_end(request) if request.method == "GET" else wire.json_reply(GONE, 404)
