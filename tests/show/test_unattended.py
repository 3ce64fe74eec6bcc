"""A notebook run by a program such as nbclient, papermill or nbconvert, which drops outputs after the end of a cell."""

from __future__ import annotations

import threading

import nbformat
import pytest
import wire
from asking import KEY
from kernels import without_ports
from nbclient import NotebookClient
from traitlets.config import Config

from aiml_magic.api.responses import input_texts

WIDGET = "application/vnd.jupyter.widget-view+json"
CELLS = {
    "load": "%load_ext aiml_magic",
    "one": "%%o3pro -b -o one\none",
    "two": "%%o3pro -b\ntwo",
    "both": "three = %o3pro -b --alone three\nfour = %o3pro -b --alone four\nprint(three.status)",
    "again": "%%o3pro -b --alone\nthree",
    "quiet": "%%o3pro -q -b --alone\nfour",
    "bad": "%%o3pro -b -o bad\nbad",
    "bad job": "bad",
    "interrupt": """
import _thread, threading, time
def interrupt():
    while "held" not in globals():
        time.sleep(0.01)
    time.sleep(0.3)  # from there to the wait
    _thread.interrupt_main()
threading.Thread(target=interrupt).start()
""",
    "held": "%%o3pro -b --alone -o held\nheld",
    "held job": "print(held.done)",
    "let go": "%o3pro --alone -q let go",
    "held answer": "held.wait().text",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The outputs of all cells run by nbclient, and the saved state of the widgets."""
    let_go = threading.Event()

    def slow(request):
        """Answers after the end of a cell that does not wait."""
        *_, question = input_texts(request.body)
        continued = request.body.get("previous_response_id")
        answer = wire.response(f"On {question}", previous_response_id=continued)
        reply = wire.json_reply(answer)
        reply.delay = 0.1
        match question:
            case "bad":
                return wire.json_reply({"message": "No."}, 400)
            case "held":
                let_go.wait()
            case "let go":
                let_go.set()
        return reply

    folder = tmp_path_factory.mktemp("unattended")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in CELLS.values()]
    )
    config = Config({"KernelManager": without_ports(folder)})
    with pytest.MonkeyPatch.context() as patch, wire.serve(slow) as server:
        patch.setenv("AIML_MAGIC_HOME", str(folder / "home"))
        patch.setenv("AIML_API_KEY", KEY)
        patch.setenv("AIML_API_URL", server.url)
        try:
            NotebookClient(notebook, timeout=60, allow_errors=True, config=config).execute()
        finally:
            let_go.set()
    outputs = [cell.outputs for cell in notebook.cells]
    return dict(zip(CELLS, outputs, strict=True)), notebook.metadata.widgets


def answers(outputs):
    return [data["text/markdown"] for data in visible(outputs) if "text/markdown" in data]


def visible(outputs):
    """The part of an output that is compared with a committed notebook: all except the ids of widgets."""
    data = [output.get("data", {}) for output in outputs]
    return [{kind: text for kind, text in each.items() if kind != WIDGET} for each in data]


def test_answers_come_into_their_cells(ran):
    """A question with -b is answered in its own cell, even if it continues another answer, or others are in the cell."""
    cells, _ = ran
    assert ["On one"] == answers(cells["one"])
    assert ["On two"] == answers(cells["two"])
    assert ["On three", "On four"] == answers(cells["both"])
    assert "completed\n" == next(output.text for output in cells["both"] if "text" in output)
    assert visible(cells["again"]) == visible(cells["both"])[:4], "a replay looks as the first run"


def test_quiet(ran):
    """With -q a background cell shows nothing."""
    cells, _ = ran
    assert [] == cells["quiet"]


def test_widgets_have_their_state(ran):
    """The notebook has the state of every widget that a cell names."""
    cells, kept = ran
    data = [output.get("data", {}) for outputs in cells.values() for output in outputs]
    views = {each[WIDGET]["model_id"] for each in data if WIDGET in each}
    assert 4 <= len(views)
    assert views <= kept["application/vnd.jupyter.widget-state+json"]["state"].keys()


def test_error_fails_its_cell(ran):
    """An error stops *Run All* in the cell that asked; the job is still bound."""
    cells, _ = ran
    assert "InvalidRequest" == cells["bad"][-1].ename
    assert "failed" in cells["bad job"][0].text


def test_interrupt_ends_the_wait_alone(ran):
    """An interrupt, as after a timeout of a cell, ends the wait; the question goes on."""
    cells, _ = ran
    assert ["stream"] == [output.output_type for output in cells["held"]], "no widget that dies"
    assert "goes on in the background" in cells["held"][0].text
    assert "False\n" == cells["held job"][0].text
    assert "'On held'" == cells["held answer"][0].data["text/plain"]
