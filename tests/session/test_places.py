"""A cell keeps its place: in a renamed, moved or copied notebook, with new ids, and after %cd."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import wire
from asking import Asker
from kernels import kernel

from aiml_magic import errors


@pytest.fixture
def numbered():
    """A server that numbers its answers and keeps conversations."""

    def answer(request):
        if request.method == "GET":
            return wire.json_reply({})
        echo = request.body.get("previous_response_id")
        return wire.json_reply(
            wire.response(id=f"resp_{len(server.posts)}", previous_response_id=echo)
        )

    with wire.serve(answer) as server:
        yield server


@pytest.fixture
def opened(home, numbered, monkeypatch):
    """Opens a notebook in a new kernel, and returns a function that asks in the cell of an id."""
    askers = []

    def open_notebook(name):
        monkeypatch.setenv("JPY_SESSION_NAME", name)
        asker = Asker(home / "journal.sqlite3")
        askers.append(asker)

        def ask(cell, words="", **options):
            return asker.ask(
                numbered.url, words or f"In {cell}?", cell=cell, **{"replay": "auto"} | options
            )

        ask.session, ask.asker = asker.session, asker
        return ask

    yield open_notebook
    for asker in askers:
        asker.session.close(10)


def previous(server) -> list[str | None]:
    return [request.body.get("previous_response_id") for request in server.posts]


def test_renamed(opened, numbered):
    """In a renamed notebook the third cell, run alone, is replayed; changed and new cells continue from their places."""
    first = opened("/one.ipynb")
    for cell in "abc":
        first(cell)
    later = opened("/two.ipynb")
    assert later("c").replayed
    assert later("a").replayed
    later("b", "In b, otherwise?")
    later("d")
    assert [None, "resp_1", "resp_2", "resp_1", "resp_4"] == previous(numbered)
    assert [1, 2, 3, 4, 5] == [row.id for row in later.asker.journal.history("/two.ipynb")]
    renamed_again = opened("/three.ipynb")
    assert renamed_again("d").replayed
    assert renamed_again("a").replayed
    assert 5 == len(numbered.posts)


@pytest.mark.parametrize("options", [{}, {"replay": "off"}, {"background": True}])
def test_renamed_and_changed(opened, numbered, options):
    """A changed cell that is run first in a renamed notebook is refused, with the command that resumes its conversation."""
    first = opened("/one.ipynb")
    for cell in "abc":
        first(cell)
    later = opened("/two.ipynb")
    for _ in range(2):
        with pytest.raises(errors.BadInput) as refused:
            later("c", "In c, otherwise?", **options)
    assert 3 == len(numbered.posts)
    assert 2 == len(str(refused.value).splitlines())
    assert all(
        way in str(refused.value)
        for way in ("Nothing was sent", "%aiml resume /one.ipynb", "--new")
    )
    later.asker.asking.chats.resume("/one.ipynb")
    later("c", "In c, otherwise?")
    opened("/three.ipynb")("c", "In c, afresh?", is_new=True)
    assert ["resp_2", None] == previous(numbered)[3:]
    with pytest.raises(errors.BadInput, match="has no question"):
        later.asker.asking.chats.resume("/none.ipynb")


def test_copied(opened, numbered):
    """A notebook and its copy have separate conversations: new answers of one change none of the other."""
    original = opened("/one.ipynb")
    for cell in "abc":
        original(cell)
    copy = opened("/copy.ipynb")
    assert all(copy(cell).replayed for cell in "abc")
    original("b", "In b, otherwise?")
    original("c")
    assert ["resp_1", "resp_4"] == previous(numbered)[3:]
    assert "resp_3" == opened("/copy.ipynb")("c").id
    copy("b", "In b, in the copy?")
    copy("c")
    assert ["resp_1", "resp_6"] == previous(numbered)[5:]
    assert "resp_5" == opened("/one.ipynb")("c").id
    assert "resp_7" == opened("/copy.ipynb")("c").id
    assert 7 == len(numbered.posts)


def test_copied_and_rewritten(opened, numbered):
    """A copy with other questions is another notebook: run from the top, each cell continues the one before it, and none is refused."""
    original = opened("/one.ipynb")
    for cell in "abc":
        original(cell)
    copy = opened("/copy.ipynb")
    for cell in "abc":
        copy(cell, f"Another in {cell}?")
    assert [None, "resp_4", "resp_5"] == previous(numbered)[3:]
    partly = opened("/partly.ipynb")
    partly("a", "Something else?")
    partly("b")
    assert [None, "resp_7"] == previous(numbered)[6:], (
        "a changed cell before it is the one that it continues"
    )


def test_other_notebooks_with_the_same_ids(opened, numbered, tmp_path):
    """A notebook with the cell ids of an existing one, such as its template, is another notebook, and may begin at any cell."""
    for name in ("template", "other"):
        (tmp_path / f"{name}.ipynb").touch()
    template = opened(str(tmp_path / "template.ipynb"))
    for cell in "abc":
        template(cell)
    other = opened(str(tmp_path / "other.ipynb"))
    other("c", "Something else?")
    other("b", "And then?")
    assert [None, "resp_4"] == previous(numbered)[3:]
    (tmp_path / "other.ipynb").rename(tmp_path / "renamed.ipynb")
    with pytest.raises(errors.BadInput, match=r"other\.ipynb"):
        opened(str(tmp_path / "renamed.ipynb"))("b", "And what then?")


def test_new_notebook(opened, numbered):
    """A new notebook can ask, with or without cell ids, even if another one asked the same."""
    first = opened("/one.ipynb")
    for cell in "abc":
        first(cell)
    opened("/two.ipynb")("x", "In c?")
    opened("/three.ipynb")("run 1/1", "In b?")
    assert [None, None] == previous(numbered)[3:]


def test_new_ids(opened, numbered):
    """If a front end changes the ids of cells, each is recognized by its question, and an edited cell is continued as before."""
    first = opened("/one.ipynb")
    for cell in "abcd":
        first(cell)
    later = opened("/one.ipynb")
    assert all(later(f"new {cell}", f"In {cell}?").replayed for cell in "cbda")
    later("new b", "In b, otherwise?")
    later("new c", "In c?")
    assert ["resp_1", "resp_5"] == previous(numbered)[4:]


def test_ids_that_name_their_notebook(opened, numbered, tmp_path):
    """Notebooks of one folder in VS Code have separate conversations; a renamed one is recognized."""

    def cell(notebook, number):
        return (
            f"vscode-notebook-cell:{quote(str(tmp_path))}/{notebook}.ipynb#W{number}sZmlsZQ%3D%3D"
        )

    for name in ("one", "other one"):
        (tmp_path / f"{name}.ipynb").touch()
    first = opened(str(tmp_path))
    for number, words in enumerate(("First?", "Why?", "More.")):
        first(cell("one", number), words)
    other = opened(str(tmp_path))
    other(cell("other%20one", 0), "Why?")
    other(cell("other%20one", 1), "More.")
    assert [None, "resp_4"] == previous(numbered)[3:]
    assert opened(str(tmp_path))(cell("one", 7), "More.").replayed, "numbered anew"
    (tmp_path / "one.ipynb").rename(tmp_path / "two.ipynb")
    assert "resp_3" == opened(str(tmp_path))(cell("two", 2), "More.").id
    assert 5 == len(numbered.posts)


def test_shifted_ids(opened, numbered):
    """If a front end numbers its cells, a shifted cell keeps its place, and a new cell before it gets its own."""
    first = opened("/one.ipynb")
    for cell in "abcd":
        first(cell)
    later = opened("/one.ipynb")
    assert later("c", "In b?").replayed
    assert later("d", "In c?").replayed
    assert later("e", "In d?").replayed
    from_the_top = opened("/one.ipynb")
    assert from_the_top("a").replayed
    from_the_top("b", "New between a and b?")
    from_the_top("c", "In b?")
    assert ["resp_1", "resp_5"] == previous(numbered)[4:]


def test_repeated_words(opened, numbered):
    """A new cell continues the last one, even if its question was asked before."""
    first = opened("/one.ipynb")
    for cell in "abc":
        first(cell)
    later = opened("/one.ipynb")
    assert later("a").replayed
    later("x", "In c?")
    assert ["resp_1"] == previous(numbered)[3:]


def test_two_cells_with_one_id(opened, numbered):
    """Two cells with one id are one place, in which each question is asked once, and replayed after a restart."""
    for _ in range(2):
        notebook = opened("/one.ipynb")
        for _ in range(2):
            notebook("a")
            notebook("same", "One?")
            notebook("same", "Two?")
            notebook("d")
    assert [None, "resp_1", "resp_1", "resp_3"] == previous(numbered)


def test_moved_elsewhere(home, numbered, tmp_path, monkeypatch):
    """Without Jupyter's server a notebook is identified by the folder in which it began, also after %cd."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIML_MAGIC_JOURNAL", "mine.sqlite3")
    for go, cells in (("pass", "abc"), ("%cd sub", "c"), ("import os; os.chdir('/')", "cb")):
        with kernel() as running:
            running.run(f"{go}\n%config O3Pro.base_url = {numbered.url!r}")
            for cell in cells:
                assert running.run(f"%o3pro -q In {cell}?", cell).error is None
            assert "mine.sqlite3" in running.run("%aiml status").stream
    assert 3 == len(numbered.posts)
    assert ["mine.sqlite3"] == [path.name for path in tmp_path.rglob("*.sqlite3")]
    with kernel() as running:
        running.run(
            f"%unload_ext aiml_magic\n%cd sub\n%load_ext aiml_magic\n%config O3Pro.base_url = {numbered.url!r}"
        )
        assert running.run("%o3pro -q In c?", "c").error is None
    assert 3 == len(numbered.posts)
