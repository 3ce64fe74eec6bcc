"""No output of a model or its server is active in a browser, in any front end or file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

import nbformat
import pytest

REQUIRED = "browser" in os.environ.get("AIML_TEST_REQUIRE", "")
if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

import payloads
import wire
from inert import MATHJAX, MATHJAX_URL, Watched
from lab import browser_page, command, jupyter_lab, open_notebook, run_all
from markdown_it import MarkdownIt
from outputs import MARKS

from aiml_magic.text import plain

pytestmark = MARKS

OUTPUTS = ".jp-OutputArea-output"
ANSWERS = ".jp-RenderedMarkdown.jp-OutputArea-output"
QUESTION = "Hostile"


class Server(NamedTuple):
    """The server with all payloads, and the cells that ask it."""

    url: str
    origin: str
    cells: list[tuple[str, bool]]  # source, and whether it fails
    requests: list[wire.Request]


def replies(origin: str) -> dict[str, wire.Reply]:
    """The server's reply to each question, by the question's first line."""
    said = {"harmless": wire.json_reply(wire.response())}
    said |= {
        name: wire.json_reply(wire.response(text))
        for name, text in payloads.answers(origin).items()
    }
    for kind in KINDS:
        for number, text in enumerate(payloads.fields(origin, kind.__name__)):
            said[f"{kind.__name__} {number}"] = kind(text)
    return said


def answer_with_fields(text: str) -> wire.Reply:
    notes = [{"type": "url_citation", "title": text, "url": url, "start_index": text, "end_index": 1}
             for url in (text, f"https://example.org/{text}", "javascript:window.__pwned=1", "https://example.org/\"onclick=\"x")]  # fmt: skip
    output = [
        {"type": "reasoning", "id": text, "summary": [{"type": "summary_text", "text": text}]},
        {"type": text, "id": text},
        {
            "type": "mcp_list_tools",
            "server_label": text,
            "tools": [{"name": text, "description": text}],
        },
        {
            "type": "mcp_call",
            "name": text,
            "server_label": text,
            "arguments": text,
            "output": text,
            "error": text,
        },
        {"type": "web_search_call", "action": {"query": text}, "status": text},
        {
            "type": "code_interpreter_call",
            "code": text,
            "outputs": [{"type": "logs", "logs": text}],
        },
        {"type": "image_generation_call", "result": text, "output_format": text},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": notes}],
        },
    ]
    fields = {
        "id": text,
        "model": text,
        "reasoning": {"effort": text},
        "service_tier": text,
        "status": "completed",
    }
    return wire.json_reply(wire.response(output=output, **fields))


def refusal(text: str) -> wire.Reply:
    return wire.json_reply(
        wire.response(
            output=[{"type": "message", "content": [{"type": "refusal", "refusal": text}]}]
        )
    )


def tools(text: str) -> wire.Reply:
    call = {"type": "function_call", "name": text, "call_id": text, "arguments": text}
    return wire.json_reply(wire.response(output=[call]))


def approval(text: str) -> wire.Reply:
    call = {"type": "mcp_approval_request", "name": text, "server_label": text, "arguments": text}
    return wire.json_reply(wire.response(output=[call]))


def incomplete(text: str) -> wire.Reply:
    return wire.json_reply(
        wire.response(text, status="incomplete", incomplete_details={"reason": text})
    )


def failed(text: str) -> wire.Reply:
    return wire.json_reply(
        wire.response(output=[], status="failed", error={"code": text, "message": text})
    )


def refused(text: str) -> wire.Reply:
    return wire.json_reply(
        {"error": {"message": text, "code": text, "param": text}, "requestId": text}, 400
    )


def page(text: str) -> wire.Reply:
    return wire.Reply(
        500, {"Content-Type": "text/html"}, [f"<html><title>{text}</title>{text}".encode()]
    )


def streamed(text: str) -> wire.Reply:
    """A stream that stays open, so that its text stays in the panel."""
    events = [
        {
            "type": "response.created",
            "response": {"id": text, "object": "response", "status": "in_progress", "output": []},
        },
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "message", "id": text},
        },
        {
            "type": "response.output_text.delta",
            "output_index": 0,
            "content_index": 0,
            "item_id": text,
            "delta": text,
        },
    ]
    chunks = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    return wire.Reply(200, {"Content-Type": "text/event-stream"}, chunks, end="hang")


KINDS = (answer_with_fields, refusal, tools, approval, incomplete, failed, refused, page, streamed)
FAILS = ("failed", "refused", "page")


def cells_for(names: list[str], hostile: list[str]) -> list[tuple[str, bool]]:
    """Cells that ask each question; every second one has a hostile text itself."""
    cells = []
    for number, name in enumerate(names):
        asked = f"{name}\n{hostile[number % len(hostile)]}"
        options = (
            "-b --alone"
            if name.startswith("streamed")
            else "--alone"
            if name.startswith(FAILS)
            else "-i '<b onclick=x>'"
        )
        cells.append((f"%%o3pro --raw {options}\n{QUESTION} {asked}", name.startswith(FAILS)))
    cells.append(("%aiml history", False))
    cells.append(("%aiml tree", False))
    # Where streams are not asked, the last ones are not there.
    cells += [(f"%aiml diff {number} {number + 1}", True) for number in range(1, len(names), 2)]
    several = "from aiml_magic import history\nhistory()"
    cells += [(f"{several}[{start}:{start + 20}]", False) for start in range(0, len(names), 20)]
    cells.append(("%aiml export conversation.html", False))
    cells.append((f"%%o3pro --alone -b\n{QUESTION} refused 1", True))  # where its cell waits for it
    return cells


@pytest.fixture(scope="module")
def server():
    said: dict[str, wire.Reply] = {}

    def answer(request: wire.Request) -> wire.Reply:
        if request.method != "POST":
            return wire.Reply(404)
        asked = request.body["input"]
        text = asked if isinstance(asked, str) else asked[-1]["content"][0]["text"]
        reply = said[text.split("\n")[0].removeprefix(f"{QUESTION} ")]
        if (
            request.body.get("previous_response_id")
            and reply.status == 200
            and reply.end == "clean"
        ):
            echoed = json.loads(reply.chunks[0]) | {
                "previous_response_id": request.body["previous_response_id"]
            }
            return wire.json_reply(echoed)
        return reply

    with wire.serve(answer) as running, pytest.MonkeyPatch.context() as patch:
        origin = running.url.removesuffix("/v1")
        said |= replies(origin)
        patch.setenv("AIML_API_URL", running.url)
        patch.setenv("AIML_API_KEY", "test-key-0123456789abcdef")
        hostile = payloads.fields(origin, "question")
        yield Server(running.url, origin, cells_for(list(said), hostile), running.requests)


def notebook_of(cells: list[tuple[str, bool]]) -> nbformat.NotebookNode:
    cells = [("%load_ext aiml_magic\n%config O3Pro.replay = 'off'", False), *cells]
    written = [
        nbformat.v4.new_code_cell(
            source, metadata={"tags": ["raises-exception"]} if is_failing else {}
        )
        for source, is_failing in cells
    ]
    return nbformat.v4.new_notebook(
        cells=written, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


@pytest.fixture(scope="module")
def jupyter(server, tmp_path_factory):
    """A server of JupyterLab, and of Notebook 7 if that is installed, with the same notebook for each."""
    folder, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    for name in ("lab.ipynb", "notebook.ipynb"):
        nbformat.write(notebook_of(server.cells), folder / name)
    with jupyter_lab(folder, settings) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with browser_page() as page:
        yield page.context.browser


@pytest.fixture(scope="module")
def lab(jupyter, browser):
    """One page of JupyterLab, for tests that build on one another."""
    return browser.new_page()


def check(watched: Watched, outputs: str, answers: str, **options: Any) -> None:
    active, unseen = watched.active(outputs, **options), watched.unseen(answers, payloads.words())
    assert not active, "\n".join(active)
    assert not unseen, "\n".join(unseen)


def check_live(watched: Watched, address: str, *, without: str = "") -> None:
    own = address, address.replace("http", "ws", 1)
    check(watched, OUTPUTS, ANSWERS, allowed=own, wait=4)
    unseen = watched.unseen(
        OUTPUTS, payloads.words(*(kind.__name__ for kind in KINDS if kind.__name__ != without))
    )
    assert not unseen, "\n".join(unseen)
    assert 10 < len(watched.requests)


def test_lab(jupyter, lab):
    """No payload is active in JupyterLab with live outputs."""
    watched = Watched(lab)
    open_notebook(lab, jupyter, "lab.ipynb")
    run_all(lab)
    check_live(watched, jupyter)


def test_lab_reopened(jupyter, lab):
    """No payload is active in JupyterLab after the notebook was saved and reopened, without its panels."""
    command(lab, "docmanager:save")
    lab.wait_for_timeout(1000)
    command(lab, "kernelmenu:shutdown")
    lab.wait_for_timeout(500)
    watched = Watched(lab)
    open_notebook(lab, jupyter, "lab.ipynb")
    check_live(watched, jupyter, without="streamed")


def test_notebook(jupyter, browser):
    """No payload is active in Notebook 7 with live outputs."""
    pytest.importorskip("notebook", minversion="7", reason="Notebook 7 is not installed")
    page = browser.new_page()
    watched = Watched(page)
    open_notebook(page, jupyter, "notebook.ipynb", place="notebooks")
    run_all(page)
    check_live(watched, jupyter)


@pytest.fixture(scope="module")
def executed(server, tmp_path_factory):
    """A folder with the page that nbconvert makes of the notebook, executed without any front end, and with what that exports."""
    pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    folder = tmp_path_factory.mktemp("executed")
    # The panel of a stream that does not end would stay open.
    cells = [
        (source, is_failing)
        for source, is_failing in server.cells
        if f"{QUESTION} streamed" not in source
    ]
    nbformat.write(notebook_of(cells), folder / "hostile.ipynb")
    nbformat.write(notebook_of([(f"%o3pro {QUESTION} harmless", False)]), folder / "harmless.ipynb")
    for name in ("hostile", "harmless"):
        command = [
            sys.executable,
            "-m",
            "nbconvert",
            "--execute",
            "--to=html",
            "--log-level=ERROR",
            f"{name}.ipynb",
        ]
        command += [f"--HTMLExporter.mathjax_url={MATHJAX_URL}"] if MATHJAX else []
        subprocess.run(command, cwd=folder, check=True)
    return folder


def test_nbconvert(executed, browser):
    """No payload is active in nbconvert's page of the executed notebook; requests that a harmless answer causes as well are the template's."""
    watched = Watched(browser.new_page())
    watched.page.goto((executed / "harmless.html").as_uri())
    allowed = {MATHJAX or "data:", *watched.requests, (executed / "hostile.html").as_uri()}
    watched.requests.clear()
    watched.page.goto((executed / "hostile.html").as_uri())
    check(watched, f"{OUTPUTS}:not(.jupyter-widgets)", ANSWERS, allowed=tuple(allowed))


def test_export(executed, browser):
    """No payload is active in the exported conversation, even without its Content-Security-Policy."""
    exported = executed / "conversation.html"
    unguarded, guards = re.subn(r"<meta http-equiv=[^>]*>", "", exported.read_text("utf-8"))
    exported.write_text(unguarded, "utf-8")
    assert 1 == guards
    watched = Watched(browser.new_page())
    watched.page.goto(exported.as_uri())
    check(watched, "body", "body", allowed=(exported.as_uri(),))


def test_the_check_sees(server, browser):
    """The check finds many payloads active in unsafe Markdown, even in a page without mathematics."""
    parser = MarkdownIt("commonmark", {"html": True})
    parser.validateLink = lambda _: True
    watched = Watched(browser.new_page())
    noticed = []
    for name, text in payloads.each(server.origin).items():
        if name != "html: refresh":  # which would end the run
            watched.page.evaluate(
                "page => { document.body.innerHTML = page; }", parser.render(plain(text))
            )
            noticed += [name] * bool(watched.active("body", wait=0))
            watched.requests.clear()
            watched.page.evaluate("() => { delete window.__pwned; }")
    assert 140 < len(noticed) < len(payloads.words()) - 50, len(noticed)
