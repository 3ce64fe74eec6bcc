"""The outputs of a cell add at most the answer twice and 8 kB to the notebook file."""

from __future__ import annotations

import copy
import json
from typing import Any

import nbformat
import pytest
import wire
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook, new_output

from aiml_magic.api.responses import Response

LIMIT = 8 * 1024  # bytes beside the answer
WIDGETS = "application/vnd.jupyter.widget-state+json"
PARAGRAPH = "The sky is dark because the universe is young, and because light from afar is shifted to the red. "
ANSWER = f"""## Why

{PARAGRAPH}Where $n$ is the density of stars, $$\\lambda = \\frac{{1}}{{n\\sigma}}$$

- **first**, `mean_free_path(n)` is long: see [Olbers](https://example.org/olbers)
- second, it's 5 < 6

| a | b |
|---|---|
| 1 | 2 |

```python
for star in sky:
    print(star.magnitude, "dark")
```

"""
SUMMARIES = [
    {"type": "summary_text", "text": f"**Weighing {number}**\n\n{PARAGRAPH * 9}"}
    for number in range(9)
]
SOURCES = [{"type": "url_citation", "title": PARAGRAPH, "url": f"https://example.org/{n}", "start_index": 0, "end_index": 1} for n in range(50)]  # fmt: skip
CALLS = [{"type": "mcp_call", "id": f"m{n}", "name": "look", "server_label": "sky", "arguments": PARAGRAPH, "output": PARAGRAPH * 90}
         for n in range(20)]  # fmt: skip
SCHEMA = "from dataclasses import dataclass\n@dataclass\nclass Star:\n    name: str\n    near: list[list[int]]"
STARS = {"name": "Vega", "near": [[number] * 4 for number in range(900)]}


def message(text: str, **part: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, **part}],
    }


# The options and the question of a cell, and the server's reply.
CELLS = {
    "1 kB": ("", "Why?", wire.response(ANSWER * 2)),
    "20 kB": ("", "Why?", wire.response(ANSWER * 50)),
    "100 kB": ("", "Why?", wire.response(ANSWER * 250)),
    "100 kB of prose": ("", "Why?", wire.response("\n\n".join([PARAGRAPH * 5] * 200))),
    "long question": ("", "Why? " * 10_000, wire.response(ANSWER)),
    "long instructions": (f"-i '{PARAGRAPH * 500}'", "Why?", wire.response(ANSWER)),
    "attachments": ("-a picture -a table.csv -a table.csv", "Why?", wire.response(ANSWER)),
    "reasoning": ("--summary detailed -e high", "Why?", wire.response(output=[{"type": "reasoning", "id": "r", "summary": SUMMARIES}, message(ANSWER)])),
    "sources": ("", "Why?", wire.response(output=[message(ANSWER, annotations=SOURCES)])),
    "calls": ("", "Why?", wire.response(output=[*CALLS, message(ANSWER)])),
    "schema": ("-s Star", "Which?", wire.response(json.dumps(STARS, separators=(",", ":")))),
    "all at once": (f"-a table.csv -e low --summary auto -i '{PARAGRAPH * 9}' -f web_search", "Why?", wire.response(output=[{"type": "reasoning", "id": "r", "summary": SUMMARIES}, *CALLS, message(ANSWER, annotations=SOURCES)])),
    "long names": ("", "Why?", wire.response(ANSWER, id="i" * 9000, model="m" * 9000, status="completed", service_tier="s" * 9000)),
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The notebook of all these cells, executed, with the state of its widgets."""
    folder = tmp_path_factory.mktemp("size")
    (folder / "table.csv").write_text("a,b\n" + "1,2\n" * 9000)
    sources = [
        f"%%o3pro --alone {options}\n{name}\n{question}"
        for name, (options, question, _) in CELLS.items()
    ]

    def answer(request):
        asked = request.body["input"]
        text = (
            asked
            if isinstance(asked, str)
            else "\n".join(part.get("text", "") for part in asked[-1]["content"])
        )
        return wire.json_reply(
            next(reply for name, (_, _, reply) in CELLS.items() if f"{name}\n" in f"{text}\n")
        )

    with wire.serve(answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIML_API_URL", server.url)
        patch.setenv("AIML_API_KEY", "test-key-0123456789abcdef")
        patch.setenv("AIML_MAGIC_HOME", str(folder / "home"))
        picture = "import base64; picture = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg==')"
        first = f"%load_ext aiml_magic\n{picture}\n{SCHEMA}"
        notebook = new_notebook(
            cells=[new_code_cell(source) for source in [first, "%o3pro --alone 1 kB", *sources]]
        )
        NotebookClient(
            notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    return notebook


def size(notebook: nbformat.NotebookNode) -> int:
    return len(nbformat.writes(notebook).encode())


def shown(cells: list[nbformat.NotebookNode], models: dict[str, Any]) -> set[str]:
    """The widgets that these cells show, with their children."""
    found: set[str] = set()
    waiting = [model for model in models if model in json.dumps([cell.outputs for cell in cells])]
    while waiting:
        found.add(model := waiting.pop())
        waiting += [
            name
            for name in models
            if f"IPY_MODEL_{name}" in json.dumps(models[model]) and name not in found
        ]
    return found


def without(notebook: nbformat.NotebookNode, index: int) -> nbformat.NotebookNode:
    """The notebook without this cell's outputs, and without the widgets that no other cell shows."""
    less = copy.deepcopy(notebook)
    models = less.metadata.widgets[WIDGETS].state
    for model in shown([less.cells[index]], models) - shown(
        less.cells[:index] + less.cells[index + 1 :], models
    ):
        del models[model]
    less.cells[index].outputs = []
    return less


@pytest.mark.parametrize("name", CELLS)
def test_size(kept, name):
    """The outputs of a cell and the state of its widgets are at most the answer twice, as a notebook writes a text, and 8 kB."""
    index = [*CELLS].index(name) + 2
    text = Response(CELLS[name][2]).text
    alone, nothing = (
        size(
            new_notebook(
                cells=[
                    new_code_cell(
                        id="a", outputs=[new_output("display_data", {"text/plain": plain})]
                    )
                ]
            )
        )
        for plain in (text, "")
    )
    added = size(kept) - size(without(kept, index))
    assert "text/markdown" in str(kept.cells[index].outputs), "it was answered"
    assert added - 2 * (alone - nothing) <= LIMIT


def test_panels_leave_no_text(kept):
    """A closed panel has no text left, even in a program that saves closed widgets."""
    assert not [
        state
        for state in map(json.dumps, kept.metadata.widgets[WIDGETS].state.values())
        if "Interrupt the kernel" in state
    ]
