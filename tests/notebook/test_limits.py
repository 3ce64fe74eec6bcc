"""Limits in dollars as a person sets and sees them: after the death of a kernel, in a shell, in a map."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import threading
import time

import pytest
import wire
from kernels import Ran, kernel
from processes import wait_until
from shells import run

from aiml_magic import ask, errors, history
from aiml_magic.journal.recording import Record, write
from aiml_magic.journal.replay import request_key
from aiml_magic.notebook import script

PRICED = {"data": [{"id": "openai/o3-pro", "outputMax": 100_000, "pricing": {"kind": "fixed", "units": [
    {"unit": "input_token", "price": 21.0, "per": 1_000_000}, {"unit": "output_token", "price": 84.0, "per": 1_000_000}]}}]}  # fmt: skip
LIMITS = ("budget_usd", "budget_usd_per_notebook", "budget_usd_per_day")


def costing(usd: float = 0.5, before=lambda: None):
    """A server with prices, and the cost of each of its answers."""

    def answer(request):
        if request.method == "GET":
            return wire.json_reply(PRICED)
        before()
        response = wire.response(f"On {request.body['input']}", meta={"usage": {"usd_spent": usd}})
        return wire.json_reply(response)

    return wire.serve(answer, has_models=True)


def answered(running, code: str, said: str) -> Ran:
    """Runs a cell that asks for a confirmation, and answers it."""
    request = running.start(code)
    asked = running.client.get_stdin_msg(timeout=30)["content"]["prompt"]
    assert "It may cost up to $8.40" in asked
    running.client.input(said)
    return running.finish(request)


def test_kernel_that_dies(home):
    """After a kernel that reached the limits is killed, the next one refuses, sends nothing, says what is left, and asks first."""
    go_on = threading.Event()
    with costing(4.0, lambda: go_on.wait(600)) as server:
        limits = (
            f"%config O3Pro.base_url = {server.url!r}\n"
            "%config O3Pro.budget_usd_per_day = 12\n%config O3Pro.budget_usd_per_notebook = 100"
        )
        with kernel() as running:
            running.run(limits)
            asked = running.start("%o3pro --alone One?")
            wait_until(lambda: server.posts)
            shown = _panel(running, asked)
            assert re.search(r"Sent; waiting for the answer, \d+ s, may cost up to \$8\.40", shown)
            os.kill(running.manager.provisioner.process.pid, signal.SIGKILL)
        with kernel() as running:
            running.run(limits)
            refused = running.run("%o3pro --alone Two?")
            assert "BudgetExceeded" == refused.error["ename"]
            assert "$8.40 not settled" in refused.error["evalue"]
            go_on.set()
            wait_until(lambda: "4.0000 spent" in running.run("%aiml status").stream, 60)
            told = running.run("%aiml status").stream
            assert "Budget   $12.0000 today: $4.0000 spent, $8.0000 left\n" in told
            assert "Budget   $100.0000 in this notebook: $4.0000 spent, $96.0000 left\n" in told
            assert "$4.00 spent today" in running.run("%o3pro --alone Two?").error["evalue"]
            running.run(
                "%config O3Pro.budget_usd_per_day = 100\n%config O3Pro.confirm_above_usd = 8"
            )
            refused = running.finish(running.start("%o3pro --alone Two?", allow_stdin=False))
            assert "cannot be confirmed" in refused.error["evalue"]
            assert 2 == len(refused.error["traceback"])
            assert "you did not confirm it" in answered(running, "%o3pro --alone Two?", "n").error["evalue"]  # fmt: skip
            assert 1 == len(server.posts)
            assert answered(running, "%o3pro --alone Two?", "y").error is None
            assert running.run("%o3pro --alone Two?").error is None, "a replay asks nobody"
            assert 2 == len(server.posts)


def _panel(running, asked: str) -> str:
    """The text of the widget that a running cell shows."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        message = running.client.get_iopub_msg(timeout=30)
        state = message["content"].get("data", {}).get("state", {})
        if message["msg_type"] in ("comm_open", "comm_msg") and "may cost" in str(state):
            return str(state["value"])
    pytest.fail("no panel")


def test_limits_that_are_none(shell, capsys):
    """A limit is a number of dollars or None: NaN, infinity, a negative number and a text change nothing; 0 is a limit."""
    magics = shell.find_line_magic("aiml").__self__
    wrong = ("float('nan')", "float('inf')", "-1", "'five'", "'5'", "[5]", "True", "1j")
    for setting in (*LIMITS, "confirm_above_usd"):
        shell.run_line_magic("config", f"O3Pro.{setting} = 3")
        for value in wrong:
            run(shell, f"%config O3Pro.{setting} = {value}")
            assert 3.0 == getattr(magics, setting), (setting, value)
        shell.run_line_magic("config", f"O3Pro.{setting} = 0")
        assert 0.0 == getattr(magics, setting)
        shell.run_line_magic("config", f"O3Pro.{setting} = None")
        assert getattr(magics, setting) is None
    capsys.readouterr()


def test_sums(shell, capsys, tmp_path):
    """The spending in `%aiml status` is the sum of `history()`: forgotten answers count, recorded ones do not."""
    pytest.importorskip("pandas")
    with costing(0.25) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        for code in ("%o3pro -q --alone One?", "%o3pro -q --samples 2 Two?", "%o3pro -q --alone One?", "%aiml forget 1"):  # fmt: skip
            assert run(shell, code) is None
        request = {"model": "m", "input": "Theirs?"}
        write(tmp_path / "theirs.o3pro", {request_key("s", request, None): Record("s", request, None, {"output_text": "x"}, (), 9.0, 1.0, 1.0)})  # fmt: skip
        run(shell, f"%aiml replay {tmp_path / 'theirs.o3pro'}")
        capsys.readouterr()
        run(shell, "%aiml status")
    told = capsys.readouterr().out
    assert 4 == len(history())
    assert 0.75 == history().to_frame()["cost_usd"].sum()
    today = dt.datetime.combine(dt.date.today(), dt.time())  # noqa: DTZ011  # the day of this machine
    assert 0.75 == history(since=today).to_frame()["cost_usd"].sum()
    assert "$0.7500 in this session, $0.7500 in this notebook, $0.7500 today" in told


def test_dry_run(shell, capsys):
    """A dry run names the limit that would refuse the question, and whether it would be confirmed first; it asks nothing."""
    with costing() as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        for setting in ("budget_usd_per_day = 1", "budget_usd = 10", "confirm_above_usd = 8"):
            shell.run_line_magic("config", f"O3Pro.{setting}")
        assert run(shell, "%o3pro --dry-run Why?") is None
        told = capsys.readouterr().out
        assert run(shell, "%o3pro --dry-run -t 1000 Why?") is None
    assert "refused by the budget of $1.0000 today: $0.0000 spent, $1.0000 left." in told
    assert "in this session" not in told
    assert "You would be asked whether to send it." in told
    assert not {"refused", "asked"} & set(re.findall(r"\w+", capsys.readouterr().out))
    assert [] == server.posts


@pytest.fixture
def server(plain_script, monkeypatch):
    with costing(0.5) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        yield server


def test_map(server):
    """A map goes on while answers cost less than their worst case, stops before the row that could pass the limit, and keeps its answers."""
    script.loaded_or_new().budget_usd_per_day = 10.0
    with pytest.raises(errors.BudgetExceeded) as stopped:
        ask.map("{{row}}", range(20), progress=False)
    assert 4 == len(server.posts), "after $2.00 another $8.40 would be too much"
    assert ["On 0", "On 1", "On 2", "On 3"] == [answer.text for answer in stopped.value.answers]
    script.loaded_or_new().budget_usd_per_day = 10.6
    kept = ask.map("{{row}}", [9, 3, 8, 0], progress=False, on_error="keep")
    assert ["On 9", "On 3", "On 0"] == [answer.text for answer in kept if not isinstance(answer, Exception)]  # fmt: skip
    assert isinstance(kept[2], errors.BudgetExceeded)


def test_samples(server):
    """Each sample counts separately, and those answered before the limit are kept."""
    script.loaded_or_new().budget_usd = 9.0
    with pytest.raises(errors.BudgetExceeded) as stopped:
        ask("Why?", samples=5)
    assert 2 == len(server.posts)
    assert 2 == len(stopped.value.answers)


def test_samples_are_confirmed_together(server, monkeypatch):
    """The answers of one cell are confirmed once, by their sum; replayed ones cost nothing."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda words: asked.append(words) or said)
    script.loaded_or_new().confirm_above_usd = 10.0
    said = "n"
    with pytest.raises(errors.BadInput, match="you did not confirm it"):
        ask("Why?", samples=3)
    assert [] == server.posts
    said = "y"
    assert 3 == len(ask("Why?", samples=3))
    assert 4 == len(ask("Why?", samples=4)), "one more costs less than the limit"
    assert 4 == len(server.posts)
    assert 2 == len(asked)
    assert "It may cost up to $25.20 (3 answers together)" in asked[0]


def test_rounds(plain_script, monkeypatch):
    """Each round of functions counts as a question: one that could pass the limit is not sent, and earlier rounds are kept."""
    call = {"type": "function_call", "id": "f", "call_id": "c", "name": "weigh", "arguments": "{}"}

    def weigh() -> str:
        """Weighs."""
        return "7 g"

    def answer(request):
        if request.method == "GET":
            return wire.json_reply(PRICED)
        meta = {"usage": {"usd_spent": 1.0}}
        return wire.json_reply(wire.response(output=[call], meta=meta, id=f"r{len(server.posts)}"))

    with wire.serve(answer, has_models=True) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        script.loaded_or_new().budget_usd_per_notebook = 10.0
        with pytest.raises(errors.BudgetExceeded, match=r"\$2\.00 spent"):
            ask("How heavy?", tool=weigh)
        assert 2 == len(server.posts)
        assert 2 == len(history())


def test_limits_of_one_call(server):
    """A limit as a keyword holds for that call."""
    ask("One?", budget_usd_per_day=10)
    with pytest.raises(errors.BudgetExceeded, match=r"O3Pro\.budget_usd_per_day"):
        ask("Two?", budget_usd_per_day=1)
    with pytest.raises(errors.BadInput, match="budget_usd_per_day cannot be"):
        ask("Two?", budget_usd_per_day=float("nan"))
    with pytest.raises(errors.BadInput, match="cannot be confirmed"):
        ask.map("{{row}}", [1], confirm_above_usd=1, progress=False)
    assert 1 == len(server.posts)


def test_map_confirms_nothing(server, monkeypatch):
    """In a map a question that needs a confirmation is refused; a cheaper one is sent."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    script.loaded_or_new().confirm_above_usd = 1.0
    with pytest.raises(errors.BadInput, match="cannot be confirmed"):
        ask.map("{{row}}", "ab".split(), progress=False)
    with pytest.raises(errors.BadInput, match="cannot be confirmed"):
        ask("Why?", max_output_tokens=1000)
        ask.map("Why?", [1], progress=False)
    assert 1 == len(server.posts)
    assert 2 == len(ask.map("{{row}}", ["a", "b"], progress=False, max_output_tokens=1000))
