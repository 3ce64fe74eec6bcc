"""A real model behind llama.cpp's own server: the loosest dialect of the API, and tokens that are really counted."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


def test_conversation(llama, asker):
    """A real model answers and gets the conversation as a transcript, since this server refuses response ids."""
    options = {"model": "smollm2", "max_output_tokens": 40}
    one = asker.ask(llama, "Say hello.", **options)
    two = asker.ask(llama, "And again?", **options)
    three = asker.ask(llama, "Say goodbye.", **options)
    assert one.text
    assert one.usage.output_tokens > 0
    assert "chain_refused" in two.notices
    assert "chain_refused" not in three.notices, "asked by id only once"
    assert one.usage.input_tokens < two.usage.input_tokens < three.usage.input_tokens
    assert one.cost_usd is None, "this server reports no cost, and none is made up"


def test_whole_answer(llama, asker):
    """The same without a stream."""
    assert asker.ask(llama, "Say hello.", model="smollm2", max_output_tokens=30, stream=False).text


def test_quickstart(llama, home, tmp_path, monkeypatch):
    """The quickstart, unchanged, is answered by a real model: only the server, the key and the `model` setting differ."""
    profile = tmp_path / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text(
        'c.O3Pro.model = "smollm2"\nc.O3Pro.max_output_tokens = 64\n'
    )
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("AIML_API_URL", llama)
    notebook = nbformat.read(QUICKSTART, 4)
    NotebookClient(notebook, timeout=120, store_widget_state=False).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    answers = [
        output["data"]["text/plain"]
        for output in outputs
        if "text/markdown" in output.get("data", {})
    ]
    assert 5 == len(answers)
    assert not any("no model is behind it" in answer for answer in answers)
    assert not any(output["output_type"] == "error" for output in outputs)


def test_background_job(llama, asker):
    """A job in the background, and a question that waits for it."""
    options = {"model": "smollm2", "max_output_tokens": 30, "background": True}
    one, two = (
        asker.start(llama, "Say hello.", **options),
        asker.start(llama, "And again?", **options),
    )
    assert two.wait(60).usage.input_tokens > one.wait(60).usage.input_tokens
