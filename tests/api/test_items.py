"""Every item and annotation of the API through a real socket into a real notebook: its outputs, and its attributes of the answer."""

from __future__ import annotations

import base64

import pytest
import wire
from kernels import kernel

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()


def said(text: str, *annotations: dict, **fields) -> dict:
    return {"type": "message", "id": "m", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": list(annotations)}]} | fields  # fmt: skip


# The server's item; the text shown; an expression of the answer and its value.
ITEMS = {
    "message": ([said("Hello.")], ["Hello."], "answer.text", "Hello."),
    "several messages": ([said("One. "), said("Two.")], ["One. Two."], "answer.text", "One. Two."),
    "no content": ([said("", content=[])], ["Empty"], "answer.text", ""),
    "refusal": ([said("", content=[{"type": "refusal", "refusal": "I may not."}])], ["Refused", "I may not."], "answer.response.refusal", "I may not."),
    "reasoning": ([{"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "I *thought*."}], "encrypted_content": "SECRET"}, said("So.")],
                  ["<em>thought</em>", "(6 characters)"], "answer.reasoning", "I *thought*."),
    "reasoning without summary": ([{"type": "reasoning", "id": "r", "summary": []}, said("So.")], ["So."], "answer.reasoning", ""),
    "url_citation": ([said("See it.", {"type": "url_citation", "title": "A page", "url": "https://example.org/a", "start_index": 0, "end_index": 7})],
                     ['href="https://example.org/a"', "A page"], "answer.citations[0].url", "https://example.org/a"),
    "file_citation": ([said("See it.", {"type": "file_citation", "file_id": "file-1", "index": 4})], ["(file file-1)"], "answer.citations[0].start_index", 4),
    "container_file_citation": ([said("See it.", {"type": "container_file_citation", "container_id": "c", "file_id": "cf-1", "filename": "plot.csv", "start_index": 0, "end_index": 3})],
                                ["plot.csv (file cf-1)"], "answer.citations[0].title", "plot.csv"),
    "file_path": ([said("See it.", {"type": "file_path", "file_id": "file-2", "index": 1})], ["(file file-2)"], "answer.citations[0].file_id", "file-2"),
    "unknown annotation": ([said("See it.", {"type": "glance", "at": 1})], ["glance"], "answer.citations", ()),
    "function_call": ([{"type": "function_call", "id": "f", "call_id": "c", "name": "add", "arguments": "{}"}], ["Waiting for tools", "add"], "answer.response.calls[0].name", "add"),
    "web_search_call": ([{"type": "web_search_call", "id": "w", "status": "completed", "action": {"query": "dark sky"}}, said("So.")],
                        ["web search", "dark sky"], "answer.items[0]['type']", "web_search_call"),
    "mcp_list_tools": ([{"type": "mcp_list_tools", "id": "l", "server_label": "docs", "tools": [{"name": "find"}, {"name": "read"}]}, said("So.")],
                       ["tools of docs", "find, read"], "answer.text", "So."),
    "mcp_list_tools that failed": ([{"type": "mcp_list_tools", "id": "l", "server_label": "docs", "tools": [], "error": "no route"}, said("So.")], ["no route"], "answer.text", "So."),
    "mcp_call": ([{"type": "mcp_call", "id": "c", "name": "find", "arguments": '{"q":1}', "server_label": "docs", "output": "found it"}, said("So.")],
                 ["find(", "found it"], "answer.items[0]['output']", "found it"),
    "mcp_call that failed": ([{"type": "mcp_call", "id": "c", "name": "find", "arguments": "{}", "server_label": "docs", "error": "gone"}, said("So.")],
                             ["gone", "A tool server reported an error"], "answer.text", "So."),
    "mcp_approval_request": ([{"type": "mcp_approval_request", "id": "a", "name": "drop", "arguments": "{}", "server_label": "docs"}],
                             ["Waiting for approval", "drop"], "answer.response.outcome", "approval"),
    "image_generation_call": ([{"type": "image_generation_call", "id": "i", "status": "completed", "result": PNG}], ["data:image/png;base64," + PNG], "answer.images[0][:4]", b"\x89PNG"),
    "image that is none": ([{"type": "image_generation_call", "id": "i", "status": "completed", "result": base64.b64encode(b"<svg onload=x>").decode()}],
                           ["neither PNG"], "len(answer.images)", 1),
    "image that is no base64": ([{"type": "image_generation_call", "id": "i", "status": "completed", "result": "%"}, said("So.")], ["So."], "answer.images", ()),
    "code_interpreter_call": ([{"type": "code_interpreter_call", "id": "ci", "code": "print(6*7)", "container_id": "c", "outputs": [{"type": "logs", "logs": "42"}]}, said("So.")],
                              ["print(6*7)", "42"], "answer.items[0]['code']", "print(6*7)"),
    "file_search_call": ([{"type": "file_search_call", "id": "fs", "queries": ["dark"], "status": "completed"}, said("So.")], ["file_search_call", "dark"], "answer.text", "So."),
    "computer_call": ([{"type": "computer_call", "id": "cc", "action": {"type": "click", "x": 7}}, said("So.")], ["computer_call", "click"], "answer.text", "So."),
    "computer_call_output": ([{"type": "computer_call_output", "id": "co", "output": {"type": "computer_screenshot"}}, said("So.")], ["computer_screenshot"], "answer.text", "So."),
    "local_shell_call": ([{"type": "local_shell_call", "id": "ls", "action": {"command": ["ls"]}}, said("So.")], ["local_shell_call", "ls"], "answer.text", "So."),
    "unknown item": ([{"type": "telepathy", "id": "t", "thought": "blue"}, said("So.")], ["a kind unknown to this version: telepathy", "blue"], "answer.response.unknown_types", ("telepathy",)),
    "item without a type": ([{"id": "t"}, said("So.")], ["(no type)"], "answer.text", "So."),
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    def answer(request: wire.Request) -> wire.Reply:
        return wire.json_reply(
            wire.response(id=f"resp_{len(server.posts)}", output=ITEMS[request.body["input"]][0])
        )

    with pytest.MonkeyPatch.context() as patch, wire.serve(answer) as server:
        patch.setenv("AIML_MAGIC_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("AIML_API_KEY", "test-key-0123456789abcdef")
        with kernel() as running:
            running.run(f"%config O3Pro.base_url = {server.url!r}")
            yield running


@pytest.mark.parametrize("name", ITEMS)
def test_item(running, name):
    """Each item is shown, at once or in the opened details, and is an attribute of the answer; none raises, none is lost."""
    _, shown, expression, value = ITEMS[name]
    ran = running.run(f"%%o3pro --alone -o answer\n{name}")
    fetched = running.run(
        "from aiml_magic.show import details\nprint(details.opened(answer))"
    ).stream
    told = "\n".join([*ran.of_type("text/markdown"), ran.of_type("text/html")[-1], fetched])
    for text in shown:
        assert text in told
    assert "no web link" not in told
    assert "SECRET" not in told
    assert "<svg" not in told
    assert repr(value) == running.run(f"print(repr({expression}))").stream.strip()
