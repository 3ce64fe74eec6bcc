"""Several answers as one value: the journal as a table, and the same questions with other options."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from dataclasses import make_dataclass
from pathlib import Path

import pytest
import rows
import wire
from shells import run

from aiml_magic import ask, errors, history
from aiml_magic.journal import table
from aiml_magic.journal.replay import request_key
from aiml_magic.journal.rows import Result
from aiml_magic.notebook import script
from aiml_magic.notebook.answers import Answers

pytestmark = pytest.mark.usefixtures("plain_script")


@pytest.fixture
def server(monkeypatch):
    """Answers with the question and the effort; "fail" fails."""

    def answer(request):
        asked = request.body["input"]
        words = asked if isinstance(asked, str) else asked[-1]["content"][0]["text"]
        if "fail" in words:
            return wire.json_reply({"error": {"message": "No."}}, status=400)
        effort = request.body.get("reasoning", {}).get("effort")
        body = wire.response(f"{words} {effort}", id=f"resp_{len(server.requests)}", usd=0.25)
        return wire.json_reply(body)

    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        yield server


def test_history(server):
    """The history has all questions in order, failed ones included, and its sums are those of the journal."""
    ask("One?", chat="main")
    with pytest.raises(errors.InvalidRequest):
        ask("fail")
    ask.map("{{x}}", ["Two?", "Three?"], effort="low", progress=False)
    kept = history()
    assert ["One?", "fail", "Two?", "Three?"] == [answer.request["input"] for answer in kept]
    assert ["One? None", "", "Two? low", "Three? low"] == [answer.text for answer in kept]
    assert "No." in kept[1].error
    assert [kept[0]] == history(chat="main") == kept[:1]
    assert ["Three? low"] == [answer.text for answer in history(words="three")]
    assert 4 == len(history(since=dt.datetime.now() - dt.timedelta(hours=1)))  # noqa: DTZ005
    assert not history(since="2100-01-01")
    assert not history(notebook="another.ipynb")
    pytest.importorskip("pandas")
    frame = kept.to_frame()
    journal = script.loaded_or_new().asking.journal
    assert journal.spent(kept[0].server)[0] == frame["cost_usd"].sum()
    assert ["completed", "failed", "completed", "completed"] == list(frame["status"])
    assert ["", "", "low", "low"] == list(frame["effort"].fillna(""))
    assert str(frame["asked_at"].dtype).endswith("UTC]")


def test_lines_are_the_same(server):
    """A record of a data frame is the same from the row in the file as from its answer."""
    pytest.importorskip("pandas")
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}, "title": "Star"}
    with wire.serve(lambda _: wire.json_reply(wire.response('{"id": 7}'))) as other:
        script.loaded_or_new().base_url = other.url
        ask("Which?", schema=schema)
        script.loaded_or_new().base_url = ""
    ask("Why?", effort="high")
    journal = script.loaded_or_new().asking.journal
    row = journal.add(**rows.new(request={"input": "Half \ud83d?"}))
    journal.finish(journal.claim(row.id).id, Result("cancelled", text='half of "it"'))
    read, made = history().to_frame(), Answers(list(history())).to_frame()
    assert ["completed", "completed", "cancelled"] == list(read.pop("status"))
    assert ["completed", "completed"] == list(made.pop("status").dropna())
    assert read.equals(made)
    assert 7 == read["parsed.id"][0]
    assert 'half of "it"' == read["text"][2]
    assert 1 == read["id"][0], "no field of a schema stands for one of ours"


@pytest.mark.parametrize(
    "since", ["yesterday", [], object(), float("nan"), 10**400, dt.date.min, True]
)
def test_times_that_are_none(since):
    """A value that cannot be a time is an error of two lines."""
    with pytest.raises(errors.BadInput, match="since cannot be"):
        history(since=since)


def test_names_that_are_none(plain_script):
    """A value other than a text is an error of two lines; a path and a number are read as text."""
    for name in ("notebook", "chat", "words"):
        for value in (["main"], b"main", True):
            with pytest.raises(errors.BadInput, match=f"{name} cannot be"):
                history(**{name: value})
        assert not any(history(**{name: value}) for value in (Path("3.ipynb"), 3, "\ud800"))


def test_again(server):
    """The same questions are asked with other options; they continue the same answers, and are stored and replayed."""
    first = ask("One?", chat="main", instructions="Be brief.", effort="high")
    ask("Two?", chat="main")
    again = history().again(effort="low", progress=False)
    assert ["One? low", "Two? low"] == [answer.text for answer in again]
    one, two = sorted(server.posts[2:], key=lambda post: len(json.dumps(post.body["input"])))
    assert "Be brief." == one.body["instructions"]
    assert "instructions" not in two.body
    earlier = [turn["content"][0]["text"] for turn in two.body["input"][:-1]]
    assert ["One?", first.text] == earlier
    history()[:2].again(effort="low", progress=False)
    assert 4 == len(server.posts), "asked once"
    assert [None, None] == [answer.chat for answer in again]


def test_again_of_samples(numbered):
    """Each sample is asked again as that sample; with `samples=` they count as one question, and known samples are replayed."""

    def texts(answers, **options):
        return [answer.text for answer in answers.again(progress=False, **options)]

    three = ask("Rate it.", samples=3)
    kept = texts(three)
    assert [answer.text for answer in three] == kept
    five = texts(three, samples=5)
    assert kept == five[:3]
    assert 5 == len(set(five)) == len(numbered.posts)
    assert five[:2] == texts(three[1:], samples=2)
    twice = ask.map("{{x}}", ["Rate it."] * 2, progress=False)
    assert five[:2] * 2 == texts(twice, samples=2), "rows of a map stay"
    assert 5 == len(numbered.posts)


def test_again_of_errors(server):
    """A failed question is asked again as well; an option without an effect is an error."""
    kept = ask.map("{{x}}", ["fail", "Two?"], on_error="keep", progress=False)
    again = kept.again(on_error="keep", effort="low", progress=False)
    assert ["InvalidRequest", "Answer"] == [type(entry).__name__ for entry in again]
    assert "fail" in [post.body["input"] for post in server.posts[2:]]
    for name in ("background", "chat", "new"):
        with pytest.raises(errors.BadInput, match=f"again has no option {name}"):
            kept.again(**{name: True})


def test_again_without_settings(server):
    """A later change of a setting does not apply to the old question."""
    ask("One?")
    script.loaded_or_new().effort = "high"
    again = history().again(model="other", progress=False)
    assert ["One? None"] == [answer.text for answer in again]
    assert "other" == server.posts[1].body["model"]


def test_again_with_attachments(server):
    """Attachments are sent again; an incomplete question is refused before anything is sent."""
    ask.map("Sum up.", [{"it": "words " * 9}], attach="it", progress=False)
    history().again(effort="low", progress=False)
    assert server.posts[0].body["input"] == server.posts[1].body["input"]
    with pytest.raises(errors.BadInput, match="is incomplete"):
        Answers([errors.ConnectionLost("It is gone.")]).again()
    assert 2 == len(server.posts)


def test_fields_of_a_dataclass_with_slots():
    """A parsed dataclass with slots has a column for each field, like any other."""
    parsed = make_dataclass("Rating", ["id", "score"], slots=True)(7, 9)
    shown = table.line({}, None, text="", parsed=parsed, id=1)
    assert (1, 7, 9) == (shown["id"], shown["parsed.id"], shown["parsed.score"])


def test_frame_without_pandas(monkeypatch):
    """Where pandas is not installed, the error names it, in two lines."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(errors.BadInput, match="needs pandas") as refused:
        Answers([]).to_frame()
    assert 2 == len(str(refused.value).splitlines())


def test_as_a_table(server):
    """Several answers are a table of their differences, numbers on the right, with the answers folded below; also in a terminal."""
    answers = ask.map("{{x}}", ["One <b>?", "Two?", "fail"], on_error="keep", progress=False)
    shown = answers._repr_mimebundle_()
    assert "| question |" in shown["text/markdown"]
    assert "effort |" not in shown["text/markdown"].splitlines()[0]
    rulers = shown["text/markdown"].splitlines()[1].strip("| ").split(" | ")
    assert ["-", ":", ":", ":", "-"] == [ruler[-1] for ruler in rulers][-5:]
    assert 3 == shown["text/markdown"].count("<details>")
    assert "<b>" not in shown["text/markdown"]
    assert "[2] Two? None" in shown["text/plain"]
    assert "failed" in shown["text/plain"]


def _numbered(request):
    """A text with the number of the call."""
    _numbered.count += 1
    return wire.json_reply(wire.response(f"{_numbered.count}", id=f"resp_{_numbered.count}"))


@pytest.fixture
def numbered(monkeypatch):
    _numbered.count = 0
    with wire.serve(_numbered) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        yield server


def test_samples(numbered, tmp_path):
    """Each sample is asked once and stored; a larger number asks only the missing ones; the first is the plain question."""
    three = ask("Rate it.", samples=3)
    assert {"1", "2", "3"} == {answer.text for answer in three}
    assert 3 == len(numbered.posts)
    assert all(set(post.body) == {"model", "input", "stream", "store"} for post in numbered.posts)
    again = ask("Rate it.", samples=3)
    assert [answer.text for answer in three] == [answer.text for answer in again]
    assert all(answer.replayed for answer in again)
    assert three._repr_mimebundle_() == again._repr_mimebundle_(), "a notebook compares equal"
    five = ask("Rate it.", samples=5)
    assert [answer.text for answer in three] == [answer.text for answer in five[:3]]
    assert 5 == len(numbered.posts)
    assert five[0].text == ask("Rate it.").text
    ask("Rate it.", samples=2, fresh=True)
    assert 7 == len(numbered.posts)


def test_lost_sample(shell, monkeypatch):
    """The command in the error of a sample that may have been charged asks that sample alone again; then it is replayed."""

    def answer(request):
        is_lost = len(server.posts) == 2
        return wire.Reply(end="close") if is_lost else _numbered(request)

    _numbered.count = 0
    with wire.serve(answer) as server:
        run(shell, f"%config O3Pro.base_url = {server.url!r}")
        cell = "%%o3pro -q --alone --samples 3 -o three\nRate it."
        lost = run(shell, cell)
        assert isinstance(lost, errors.ConnectionLost)
        command = re.search(r"only (%aiml again \d) asks, and pays, once more", lost.hint)[1]
        assert isinstance(run(shell, cell), errors.ConnectionLost)
        assert 3 == len(server.posts)
        (which,) = (
            at for at, one in enumerate(shell.user_ns["three"]) if isinstance(one, Exception)
        )
        assert isinstance(run(shell, "%aiml again three"), errors.BadInput)
        assert run(shell, f"%aiml again three[{which}]") is None
        assert command == f"%aiml again {shell.user_ns['three'][which].row_id}"
        assert run(shell, cell) is None
        assert 4 == len(server.posts)
        assert 3 == len({answer.text for answer in shell.user_ns["three"]})
        assert all(answer.replayed for answer in shell.user_ns["three"])


def test_samples_of_rows(numbered):
    """A map with samples has all samples of a row before those of the next."""
    answers = ask.map("Rate {{x}}", ["ab", "c"], samples=2, progress=False)
    assert ["Rate ab", "Rate ab", "Rate c", "Rate c"] == [one.request["input"] for one in answers]
    assert 4 == len({answer.text for answer in answers}) == len(numbered.posts)


NONE = {
    "samples": [0, -1, 1.5, "many", True, 1001, 10**9],
    "model": [True, [["a"]], [True], ["a", " "], {"a"}],
    "effort": [["low", "lo"], [["low"]], {"low"}],
    "param": [3, ["a"], {"a": object()}],
    "chat": ["\ud800"],
}


@pytest.mark.parametrize("name", NONE)
def test_options_that_are_none(numbered, name):
    """An invalid value of an option, also in a list, is an error of two lines before anything is sent."""
    for value in NONE[name]:
        with pytest.raises(errors.BadInput, match=f"{name} (cannot be|has no)") as refused:
            ask("Rate it.", **{name: value})
        assert 2 == len(str(refused.value).splitlines())
    assert not numbered.posts


def test_models_and_efforts(server):
    """Each model is asked with each effort, once, and the differing options are in the table."""
    answers = ask("Why?", model=["a", "b", "a"], effort=["low", "high"])
    asked = [(post.body["model"], post.body["reasoning"]["effort"]) for post in server.posts]
    assert {("a", "low"), ("a", "high"), ("b", "low"), ("b", "high")} == set(asked)
    assert 4 == len(asked)
    header = answers._repr_mimebundle_()["text/markdown"].splitlines()[0]
    assert "| model | effort |" in header
    ask("Why?", model=["a", "b"], effort=["low", "high"])
    assert 4 == len(server.posts)


def test_answer_beside_an_error(shell, server):
    """An answer is stored and bound although another question was refused; one that does not fit its schema is shown with its cost."""
    pytest.importorskip("pandas")
    assert run(shell, f"%config O3Pro.base_url = {server.url!r}") is None
    assert run(shell, "%o3pro -q --alone -m good Why?") is None
    run(shell, "%config O3Pro.replay = 'only'")
    missed = run(shell, "%%o3pro -q --alone -m gone -m good -o both\nWhy?")
    assert isinstance(missed, errors.ReplayMiss)
    assert "Why? None" == shell.user_ns["both"][1].text
    run(shell, "%config O3Pro.replay = 'auto'")
    kept = ask.map("{{x}}", ["Rate it."], schema=list[int], on_error="keep", progress=False)
    (line,) = kept.to_frame().to_dict("records")
    assert ("Rate it. None", 5, 7) == (line["text"], line["input_tokens"], line["output_tokens"])
    assert "does not fit" in line["error"]
    for shown in kept._repr_mimebundle_().values():
        assert "Rate it. None" in shown
        assert "It was paid for" in shown


def test_diff(shell, server, capsys):
    """Two answers are named by variable, entry, number, response id or conversation; their differences are shown."""
    shell.user_ns["rated"] = ask("Rate it.", effort=["low", "high"], chat="ideas")
    shell.user_ns["one"] = shell.user_ns["rated"][0]
    for several in ("rated", "\ud800"):  # Python 3.13 has no tokens for a cell with the latter
        with pytest.raises(errors.BadInput):
            shell.run_line_magic("aiml", f"diff {several} 1")
    assert isinstance(run(shell, "%aiml export --all -c ideas x.md"), errors.BadInput)
    for first, second in (
        ("rated[0]", "rated[-1]"),
        ("one", "2"),
        ("1", "rated[1]"),
        (shell.user_ns["one"].id, "2"),
        ("ideas", '"2"'),
    ):
        assert run(shell, f"%aiml diff {first} {second}") is None
        out = capsys.readouterr().out
        assert "reasoning.effort: low -> high" in out.replace("→", "->")
        assert "text: Rate it. low -> Rate it. high" in out.replace("→", "->")
    posts = len(server.posts)
    run(shell, "%aiml forget 1")
    for line in ("", "2", "2 2 3", "2 nobody", "rated[7] 2", "rated 2", "-x 2 2", "1 2"):
        refused = run(shell, f"%aiml diff {line}")
        assert isinstance(refused, errors.BadInput), line
        assert 2 == len(str(refused).splitlines())
    assert posts == len(server.posts)


def test_entry_that_is_continued(shell, server):
    """A conversation continues from a named entry of several answers."""
    assert run(shell, "%%o3pro -q -o rated -n --samples 2\nRate it.") is None
    assert run(shell, "%o3pro -q -o next --after rated[1] And why?") is None
    rated, following = shell.user_ns["rated"], shell.user_ns["next"]
    assert rated[1].id == following.continues


def test_lines_of_an_export(shell, server, tmp_path):
    """From each line of an export its request can be built again, with the key of its row."""
    assert run(shell, "%%o3pro -q -n --samples 2\nOne?") is None
    shell.user_ns["table"] = b"a,b"
    assert run(shell, "%o3pro -q -a table -e low Two?") is None
    assert run(shell, f"%aiml export --all {tmp_path}/all.jsonl") is None
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [None, None, lines[0]["id"]] == [line["parent"] for line in lines]
    for line in lines:
        assert line["key"] == request_key(line["server"], line["request"], line["parent"])


def test_export_of_a_replay(shell, server, tmp_path):
    """The export of a notebook has the recorded answers that it replayed, and no other recorded ones."""
    assert run(shell, f"%aiml record {tmp_path}/all.o3pro") is None
    assert run(shell, "%o3pro -q --samples 2 --alone One?") is None
    assert run(shell, "%o3pro -q --alone Two?") is None
    shell.run_line_magic("config", f"O3Pro.journal = '{tmp_path}/other.sqlite3'")
    assert run(shell, f"%aiml replay {tmp_path}/all.o3pro") is None
    assert isinstance(run(shell, f"%aiml export --all {tmp_path}/all.jsonl"), errors.BadInput)
    assert run(shell, "%o3pro -q --samples 2 --alone One?") is None
    assert 3 == len(server.posts)
    assert run(shell, f"%aiml export --all {tmp_path}/all.jsonl") is None
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert ["One?", "One?"] == [line["question"] for line in lines]
