"""The result of each case of the API for a person, through real sockets and the real runner."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import wire

from aiml_magic import errors
from aiml_magic.show.answers import banner

VECTORS = Path(__file__).parents[1] / "data" / "vectors"
CASES = sorted(folder.name for folder in VECTORS.iterdir() if folder.is_dir())
_LONG = 20  # seconds of Retry-After, longer than a test waits


def read(case: str) -> SimpleNamespace:
    folder = VECTORS / case
    http, expected = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("http", "expected")
    )
    body = (folder / http["body_file"]).read_bytes() if http.get("body_file") else b""
    return SimpleNamespace(http=http, expected=expected, body=body)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All cases, asked at once: the result of each, by name."""
    from asking import Asker

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv(
            "AIML_API_KEY", "sk-no-case-holds-this"
        )  # not in any case: it would be masked there
        asker = Asker(tmp_path_factory.mktemp("vectors") / "journal.sqlite3")
        watchers = stack.enter_context(ThreadPoolExecutor(len(CASES)))
        came = [watchers.submit(finish, asker, *start(asker, read(case), stack)) for case in CASES]
        yield {case: future.result() for case, future in zip(CASES, came, strict=True)}
        asker.session.close(10)


def start(asker, vector, stack):
    http = vector.http
    asked = {
        name: value
        for name, value in (http["request"] or {}).items()
        if name in ("background", "store")
    }
    options = {
        "chat": None,
        "max_concurrency": len(CASES),
        "stream": bool((http["request"] or {}).get("stream")),
        "store": asked.pop("store", False),
        "params": asked,
    }
    match http["end"]:
        case "connect_refused":
            return asker.start(f"http://127.0.0.1:{closed_port()}/v1", **options), None
        case "dns_failure":
            return asker.start("https://no-such-host.invalid/v1", **options), None
        case "disconnect_mid_request":
            server = stack.enter_context(wire.serve(lambda _: wire.Reply(), read_only=1000))
            return asker.start(server.url, "long " * 400_000, **options), server
    reply = wire.reply_of(http, vector.body)
    # It polls for an unfinished answer.
    if http["method"] == "GET" and http["status"] != 200:
        queued = wire.json_reply(
            {"id": "V1StGXR8Z5jdHi6BmyT8k", "object": "response", "status": "queued", "output": []}
        )
        server = stack.enter_context(
            wire.serve(lambda request: queued if request.method == "POST" else reply)
        )
    elif asked.get("background"):
        finished = wire.json_reply(wire.response("Polled.", id="V1StGXR8Z5jdHi6BmyT8k"))
        lost = wire.Reply(404, {"content-type": "text/html"}, [b"<h1>404</h1>"])
        polled = finished if vector.expected["outcome"] == "pending" else lost
        server = stack.enter_context(
            wire.serve(lambda request: reply if request.method == "POST" else polled)
        )
    else:
        server = stack.enter_context(wire.serve(lambda _: reply))
    return asker.start(server.url, **options), server


def finish(asker, job, server):
    waits = []
    for progress in job.follow():
        if progress.retry_at is not None and (not waits or waits[-1][0] != progress.retry_at):
            waits.append((progress.retry_at, progress.retry_at - progress.seconds, progress.why))
            if (
                waits[-1][1] > _LONG or "(429)" in progress.why
            ):  # otherwise it is waited for without end
                job.cancel()
    try:
        answer, error = job.outcome(), None
    except errors.AimlMagicError as raised:
        answer, error = raised.answer, raised
    row = asker.journal.row(job.id)
    return SimpleNamespace(
        answer=answer,
        error=error,
        row=row,
        waits=waits,
        posts=len(server.posts) if server else None,
    )


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("case", CASES)
def test_vector(case, outcomes):
    """The result is that of the case: text, status, usage, cost, warnings, error, and number of requests."""
    expected, got = read(case).expected, outcomes[case]
    if expected["outcome"] == "pending":
        assert ("Polled.", "completed") == (got.answer.text, got.answer.status)
        assert 1 == got.posts
        return
    # Else the known response is the queued one of this test.
    if not isinstance(got.error, errors.RetrieveUnsupported):
        check_response(expected, got)
    check_error(expected, got)
    check_posts(expected, got)


def check_response(expected, got):
    answer = got.answer
    if answer is None:
        assert "" == expected["text"]
        assert expected["response_id"] is None
        return
    response = answer.response
    assert expected["text"] == answer.text
    assert expected["refusal"] == response.refusal
    assert expected["response_id"] == answer.id
    if expected["status"] is not None:
        assert expected["status"] == answer.status
        assert expected["status_inferred"] == ("status_missing" in response.warnings({}))
    assert expected["incomplete_reason"] == response.incomplete_reason
    assert expected["usage"] == (response.usage and vars(response.usage))
    assert expected["reasoning_summaries"] == list(response.summaries)
    assert expected["encrypted_reasoning"] == any(
        item.get("encrypted_content") for item in response.of_type("reasoning")
    )
    assert expected["citations"] == [
        {name: vars(citation)[name] for name in ("title", "url", "start_index", "end_index")}
        for citation in response.citations
    ]
    calls = [
        (call["name"], call["call_id"], call["arguments"])
        for call in response.of_type("function_call")
    ]
    assert [
        (call["name"], call["call_id"], call["arguments"]) for call in expected["function_calls"]
    ] == calls
    kinds = [
        item["type"] for item in response.items if item["type"] in ("mcp_call", "mcp_list_tools")
    ]
    assert [item["type"] for item in expected["mcp"]] == kinds
    assert len(expected["approvals"]) == len(response.of_type("mcp_approval_request"))
    assert expected["images"] == len(response.images)
    assert expected["unknown"] == list(response.unknown_types)
    assert sorted(expected["warnings"]) == sorted(got.row.notices)
    assert (expected["cost"] or {}).get("usd") == answer.cost_usd
    if expected["outcome"] not in ("partial", "error", "failed"):
        assert expected["outcome"] == response.outcome


def check_error(expected, got):
    wanted = expected["error"]
    if wanted is None:
        assert got.error is None
        assert expected["retry"] == {
            "incomplete": "never"
            if expected["incomplete_reason"] == "content_filter"
            else "raise_limit",
            "cancelled": "ask",
        }.get(expected["outcome"], "none")
        assert ("--max-output-tokens" in banner(got.answer)) == (expected["retry"] == "raise_limit")
        return
    if isinstance(got.error, errors.Interrupted):  # its wait is longer than a test's
        assert wanted["message_contains"] in got.waits[0][2]
        return
    assert wanted["class"] == type(got.error).__name__
    assert expected["retry"] == got.error.retry
    assert expected["retry_after_s"] == got.error.retry_after
    assert wanted.get("message_contains", "") in got.error.message
    for name, attribute in (
        ("http_status", "status"),
        ("code", "code"),
        ("param", "param"),
        ("request_id", "request_id"),
    ):
        if name in wanted:
            assert wanted[name] == getattr(got.error, attribute)
    assert 2 == len(str(got.error).splitlines())


def check_posts(expected, got):
    if expected["retry"] != "auto":
        assert got.posts in (1, None)
        assert not got.waits
    elif isinstance(got.error, errors.Interrupted):
        assert 1 == got.posts
        assert got.waits[0][1] == pytest.approx(expected["retry_after_s"], abs=1)
    else:
        assert got.posts in (3, None)
        assert 2 == len(got.waits)
        if expected["retry_after_s"]:
            assert got.waits[0][1] == pytest.approx(expected["retry_after_s"], abs=0.5)
