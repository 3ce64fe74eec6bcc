"""The stand-in for the API: as the real one where it matters, the same every time, and failing on demand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import pytest
import wire

from aiml_magic import errors, sandbox


def call(url, body=None, method=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json"} | headers
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(url, text, /, **fields):
    return call(f"{url}/responses", {"model": "openai/o3-pro", "input": text, "store": True} | fields)


def text(response):
    return response["output"][-1]["content"][0]["text"]


def test_says_what_it_is(sandbox_url):
    """Every answer says that no model is behind it, and what was sent."""
    _, response = ask(sandbox_url, "What is 6*7?", instructions="Be brief.", reasoning={"effort": "high"})
    for words in ("no model is behind it", "What is 6*7?", "Be brief.", "high", "openai/o3-pro"):
        assert words in text(response)


def test_that_cannot_start(tmp_path):
    """Where it cannot start it is an error that says how to see why."""
    (tmp_path / "file").touch()
    with pytest.raises(errors.SandboxError, match=r"python -m aiml_magic\.sandbox"):
        sandbox.find_or_start(tmp_path / "file" / "home")


def test_remembers(sandbox_url):
    """A chain has a real memory, by id and by transcript; without `store` there is none."""
    _, one = ask(sandbox_url, "First question")
    _, two = ask(sandbox_url, "Second", previous_response_id=one["id"])
    _, three = ask(sandbox_url, "Third", previous_response_id=two["id"])
    assert "1. First question\n2. Second" in text(three)
    told = [
        {"role": "user", "content": "First question"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "Second"},
    ]
    assert "1. First question" in text(ask(sandbox_url, told)[1])
    _, gone = ask(sandbox_url, "Unstored", store=False)
    status, error = ask(sandbox_url, "More", previous_response_id=gone["id"])
    assert (400, "previous_response_id") == (status, error["error"]["param"])


def test_same_every_time(sandbox_url):
    """The same conversation gets the same response, id, date and usage, so that a notebook comes out the same."""
    assert ask(sandbox_url, "Again?") == ask(sandbox_url, "Again?")


def test_usage_and_cost(sandbox_url):
    """Usage counts reasoning, and the cost is reported as the vendor does, in the body or in the stream's last chunk."""
    _, response = ask(sandbox_url, "Why?", reasoning={"effort": "high", "summary": "auto"})
    assert 1024 == response["usage"]["output_tokens_details"]["reasoning_tokens"]
    assert response["meta"]["usage"]["usd_spent"] > 0
    assert response["output"][0]["summary"]


def test_limit(sandbox_url):
    """A low limit is spent on reasoning, and the answer is incomplete."""
    _, response = ask(sandbox_url, "Why?", max_output_tokens=100)
    assert ("incomplete", {"reason": "max_output_tokens"}, 100) == (
        response["status"], response["incomplete_details"], response["usage"]["output_tokens"])  # fmt: skip


WRONG = [
    {"model": None}, {"input": ""}, {"max_output_tokens": 5}, {"reasoning": {"effort": "huge"}}, {"reasoning": 5}, {"input": [1]},
    {"input": [{"content": 5}]}, {"reasoning": {"effort": ["high"]}},
    {"text": {"format": {"type": "json_schema"}}}, {"text": {"format": "json"}}, {"text": "x"}, {"instructions": 5},
    {"previous_response_id": ["x"]}, {"tools": {"x": 1}}, {"tools": [1]}, {"tools": [{"type": "function"}]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_validates(sandbox_url, wrong):
    """A wrong request is refused in the vendor's manner."""
    status, body = ask(sandbox_url, "x", **wrong)
    assert 400 == status
    assert body["message"].startswith("Body validation error")


def test_needs_a_key(sandbox_url):
    """A request without a key is refused, as by the real one."""
    assert 401 == call(f"{sandbox_url}/responses", {"model": "m", "input": "x"}, Authorization="")[0]


def test_background_get_cancel_delete(sandbox_url):
    """A response in the background is queued, then there; it can be fetched, cancelled and deleted."""
    _, queued = ask(sandbox_url, "Later?\nsandbox: delay=0.3", background=True)
    assert "queued" == queued["status"]
    one = f"{sandbox_url}/responses/{queued['id']}"
    time.sleep(0.4)
    assert "completed" == call(one)[1]["status"]
    _, slow = ask(sandbox_url, "Never?\nsandbox: delay=60", background=True)
    assert "cancelled" == call(f"{sandbox_url}/responses/{slow['id']}/cancel", {})[1]["status"]
    assert (200, True) == (lambda answer: (answer[0], answer[1]["deleted"]))(call(one, method="DELETE"))
    assert 404 == call(one)[0]


def test_service_routes(sandbox_url):
    """Models, balance and logs answer as the vendor's do; a request is found in the logs by its id."""
    root = sandbox_url.removesuffix("/v1")
    assert "openai/o3-pro" == call(f"{sandbox_url}/models")[1]["data"][0]["id"]
    assert 100.0 == call(f"{root}/v2/billing")[1]["current_balance"]
    call(f"{sandbox_url}/responses", {"model": "m", "input": "x"}, **{"X-Client-Request-Id": "find-me"})
    (found,) = [entry for entry in call(f"{root}/v2/logs")[1]["data"] if entry["client_request_id"] == "find-me"]
    assert "succeeded" == found["status"]
    assert found["cost"]["usd"] > 0


FAULTS = [
    ("401", errors.AuthError), ("403", errors.OutOfCredits), ("404", errors.NotFound), ("413", errors.PayloadTooLarge),
    ("html", errors.BadGateway), ("504", errors.GatewayTimeout), ("reset", errors.ConnectionLost), ("cut", errors.StreamInterrupted),
    ("empty", errors.MalformedResponse), ("error", errors.ServerError), ("failed", errors.ResponseFailed), ("400", errors.InvalidRequest),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "kind"), FAULTS)
def test_faults(asker, sandbox_url, fault, kind):
    """Each fault of the table can be had on demand."""
    with pytest.raises(kind) as failed:
        asker.ask(sandbox_url, f"Why?\nsandbox: fault={fault}")
    assert kind is type(failed.value)


@pytest.mark.parametrize("order", ["delay=5s", "delay=nan", "pace=-1", "fault=503 times=x", "fault=999", "fault=200", "deley=5"])
def test_wrong_orders(asker, sandbox_url, order):
    """An order that it does not know is refused, so that nobody takes a typing error for a charge."""
    with pytest.raises(errors.InvalidRequest, match=order.split()[-1]) as refused:
        asker.ask(sandbox_url, f"Why?\nsandbox: {order}")
    assert not refused.value.may_cost


def test_fault_that_passes(asker, sandbox_url):
    """A fault that strikes once is overcome by a retry."""
    assert "completed" == asker.ask(sandbox_url, "Why?\nsandbox: fault=503 times=1").status


@pytest.mark.parametrize(("fault", "outcome"), [("incomplete", "incomplete"), ("refusal", "refusal")])
def test_unwanted_answers(asker, sandbox_url, fault, outcome):
    """Answers that are no success can be had on demand."""
    assert outcome == asker.ask(sandbox_url, f"Why?\nsandbox: fault={fault}").response.outcome


def test_idle_sandbox_ends():
    """A sandbox that nobody uses ends by itself."""
    command = [sys.executable, "-m", "aiml_magic.sandbox", "--idle", "0.5"]
    process = subprocess.run(command, capture_output=True, timeout=10, check=False)
    assert 0 == process.returncode


def test_one_for_each_user(tmp_path: Path):
    """A sandbox is started once for a home, found again, and stopped."""
    try:
        url = sandbox.find_or_start(tmp_path)
        assert url == sandbox.find_or_start(tmp_path)
        assert {0o600} == {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert sandbox.stop(tmp_path)
        assert not sandbox.stop(tmp_path)
    finally:
        sandbox.stop(tmp_path)


def test_started_at_once(tmp_path: Path):
    """Of those that are started for a home at the same time one lives on, and it is what everybody finds."""
    try:
        with ThreadPoolExecutor(4) as pool:
            urls = set(pool.map(sandbox.find_or_start, [tmp_path] * 4))
        started, deadline = sandbox._started[-4:], time.monotonic() + 10
        while sum(process.poll() is None for process in started) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert 1 == sum(process.poll() is None for process in started)
        assert {sandbox.find_or_start(tmp_path)} == urls
    finally:
        for process in sandbox._started:
            process.terminate()
        sandbox.stop(tmp_path)


def test_started_while_one_ends(tmp_path: Path):
    """Whoever starts one while another kernel's is still ending gets one that lives."""
    sandbox.find_or_start(tmp_path)
    of_another_kernel = sandbox._started.pop()
    try:
        assert sandbox.stop(tmp_path)
        sandbox.find_or_start(tmp_path)
        of_another_kernel.wait(10)
        assert sandbox.stop(tmp_path)
    finally:
        of_another_kernel.terminate()
        sandbox.stop(tmp_path)


NOTES = ["nonsense", '{"port": 1}', '{"port": 99999}', '{"port": -5}', '{"port": Infinity}', "[]", "[" * 5000, "\udcff"]


@pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
def test_stale_note(tmp_path: Path, note):
    """A note of a sandbox that is gone, or of nonsense, is not believed."""
    (tmp_path / "sandbox.json").write_text(note, errors="surrogateescape")
    assert not sandbox.stop(tmp_path)


@pytest.mark.parametrize("sent", [b": ping\n\n", b"[" * 900])
def test_stranger_on_the_port(tmp_path: Path, sent):
    """Where something else has got the port of a sandbox that is gone, and answers without an end, it is not waited for."""
    ends = []

    def long() -> Iterator[bytes]:
        yield from repeat(sent, 400)
        ends.append("read to its end")

    with wire.serve(lambda _: wire.Reply(chunks=long(), pace=0.02)) as stranger:
        (tmp_path / "sandbox.json").write_text(json.dumps({"port": int(stranger.url.split(":")[2].removesuffix("/v1"))}))
        assert not sandbox.stop(tmp_path)
        assert [] == ends
