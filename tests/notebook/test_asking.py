"""ask() and ask.map(): the options of a cell from Python, many questions at once, and the answers kept after a failure."""

from __future__ import annotations

import datetime as dt
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import environment
import pytest
import wire
from kernels import kernel

from aiml_magic import ask, errors
from aiml_magic.journal.store import Journal
from aiml_magic.notebook import script as asking
from aiml_magic.notebook.script import Answers


@dataclass
class Rating:
    score: int


pytestmark = pytest.mark.usefixtures("plain_script")


@pytest.fixture
def echo(monkeypatch):
    """A server that answers each question with itself."""

    def answer(request: wire.Request) -> wire.Reply:
        told = request.body["input"]
        asked = told if isinstance(told, str) else told[-1]["content"][0]["text"]
        if "fail" in asked:
            return wire.json_reply({"message": "No."}, 400)
        return wire.json_reply(
            wire.response(
                f"On {asked}",
                id=f"resp_{asked}",
                previous_response_id=request.body.get("previous_response_id"),
            )
        )

    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        yield server


def test_ask(echo):
    """A question from Python takes the options by their names, is outside every conversation, keeps its braces, and is replayed."""
    answer = ask(
        "Why {{x}}?",
        effort="high",
        max_output_tokens=99,
        param={"truncation": "auto"},
        no_stream=True,
    )
    assert "On Why {{x}}?" == answer.text
    body = echo.posts[0].body
    assert ({"effort": "high"}, 99, "auto") == (
        body["reasoning"],
        body["max_output_tokens"],
        body["truncation"],
    )
    assert ask(
        "Why {{x}}?", effort="high", max_output_tokens=99, param={"truncation": "auto"}
    ).replayed
    assert not ask(
        "Why {{x}}?", effort="high", max_output_tokens=99, param={"truncation": "auto"}, fresh=True
    ).replayed
    ask("Other?")
    assert "previous_response_id" not in echo.posts[-1].body


def test_conversation(echo):
    """A question with a chat or `after` continues a conversation."""
    one = ask("one", chat="a")
    ask("two", chat="a")
    ask("three", after=one)
    assert [None, "resp_one", "resp_one"] == [
        post.body.get("previous_response_id") for post in echo.posts
    ]


def test_things(echo):
    """Attachments, schemas and tools are given as objects."""
    with pytest.raises(errors.SchemaMismatch):
        ask("Rate.", attach=[b"notes", b"more"], schema=Rating)
    content = echo.posts[0].body["input"][0]["content"]
    assert ["Rate.", "Attachment attach_1 (text, 5 bytes):"] == [
        part["text"].partition("\n")[0] for part in content[:2]
    ]
    assert "Rating" == echo.posts[0].body["text"]["format"]["name"]

    def look(what: str) -> str:
        """Looks."""
        return what

    ask("Look.", tool=look)
    assert "look" == echo.posts[-1].body["tools"][0]["name"]
    assert 4 == len(ask.map("Look at {{x}}.", "a b".split(), tool=look, samples=2, progress=False))


@pytest.mark.parametrize(
    "wrong",
    [
        {"efort": "high"},
        {"effort": "hihg"},
        {"max_output_tokens": 3},
        {"timeout": "soon"},
        {"quiet": True},
        {"tool": 7},
        {"schema": 7},
    ],
)
def test_wrong_options(echo, wrong):
    """A wrong option is the same error as in a cell, and nothing is sent."""
    with pytest.raises(errors.BadInput, match="Nothing was sent") as refused:
        ask("Why?", **wrong)
    assert 2 == len(str(refused.value).splitlines())
    assert not echo.posts


def test_background(echo):
    """In the background one answer is a job; several are refused before anything is sent."""
    assert "On Why?" == ask("Why?", background=True).wait(10).text
    with pytest.raises(errors.BadInput, match="Nothing was sent"):
        ask("Why not?", background=True, samples=2)
    assert 1 == len(echo.posts)


def test_threads_that_ask_first(home):
    """Threads that ask for the first time at once share one session, one journal and the conversations."""
    code = """
import sys, threading
from aiml_magic.notebook import script
sys.setswitchinterval(1e-6)
together, found = threading.Barrier(16), []
def ask_first():
    together.wait()
    asking = script.loaded_or_new().asking
    found.append((asking.session, asking.journal, asking.chats))
threads = [threading.Thread(target=ask_first) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len({tuple(map(id, one)) for one in found}))
"""
    told = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(3)
    ]
    assert ["1\n"] * 3 == told


def test_two_threads(echo):
    """Each of two threads gets its own answers, and each chat has its own conversation."""
    came: dict[str, list[str]] = {"a": [], "b": []}

    def talk(chat: str) -> None:
        for number in range(5):
            came[chat].append(ask(f"{chat}{number}", chat=chat).text)

    threads = [threading.Thread(target=talk, args=(chat,)) for chat in came]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {chat: [f"On {chat}{number}" for number in range(5)] for chat in came} == came
    parents = {post.body["input"]: post.body.get("previous_response_id") for post in echo.posts}
    assert all(
        parents[f"{chat}{number}"] == f"resp_{chat}{number - 1}"
        for chat in came
        for number in range(1, 5)
    )


ROWS = [{"word": f"w{number}"} for number in range(30)]


def test_map(echo):
    """One answer for each row of any kind, in order; asked again, nothing is sent."""
    expected = [f"On Of w{number}" for number in range(30)]
    assert expected == [answer.text for answer in ask.map("Of {{word}}", ROWS, progress=False)]
    assert expected == [
        answer.text for answer in ask.map("Of {{it}}", (row["word"] for row in ROWS))
    ]
    assert 30 == len(echo.posts)


def test_map_of_tables(echo):
    """Each kind of table is read as its rows, and the answers become a data frame."""
    pd = pytest.importorskip("pandas")
    answers = ask.map("Of {{word}}", pd.DataFrame(ROWS[:3]))
    frame = answers.to_frame()
    assert ["On Of w0", "On Of w1", "On Of w2"] == list(frame["text"])
    pl = pytest.importorskip("polars")
    table = pl.DataFrame(ROWS[:3])
    for rows in (table, table.lazy()):
        assert all(answer.replayed for answer in ask.map("Of {{word}}", rows))
    with pytest.raises(errors.BadInput, match="cannot be collected"):
        ask.map("Of {{word}}", table.lazy().select("absent"))


class Paper(NamedTuple):
    title: str
    year: int


class Slotted:
    __slots__ = ("_year", "title")

    def __init__(self, title, year):
        self.title, self._year = title, year

    @property
    def year(self):
        return self._year


class Named:
    """Like a row of SQLAlchemy: its names are a property, and its values are not in its `__dict__`."""

    __slots__ = ("_values",)
    _fields = property(lambda self: ("title", "year"))

    def __init__(self, *values):
        self._values = values

    def __getattr__(self, name):
        if name not in self._fields:
            raise AttributeError(name)
        return self._values[self._fields.index(name)]


def _rows_of_every_kind():
    pairs = [("Stars", 1998), ("Dust", 2001)]
    dicts = [{"title": title, "year": year} for title, year in pairs]
    yield "dicts", dicts
    yield "a dict of columns", {"title": ["Stars", "Dust"], "year": (1998, 2001)}
    yield "named tuples", [Paper(*pair) for pair in pairs]
    yield "dataclasses", [dataclass_of(title=title, year=year) for title, year in pairs]
    yield "objects", [SimpleNamespace(**row) for row in dicts]
    yield "slots and properties", [Slotted(*pair) for pair in pairs]
    yield "names in a property", [Named(*pair) for pair in pairs]
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    yield (
        "SQLite",
        database.execute(
            "SELECT 'Stars' AS title, 1998 AS year UNION ALL SELECT 'Dust', 2001"
        ).fetchall(),
    )
    database.close()
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", title=str, year=int)
    yield "models", [model(**row) for row in dicts]
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(dicts)
    frame["rating"] = [0.5, 0.25]
    yield "pandas, beside a column of floats", frame
    yield "a structured array", frame[["title", "year"]].to_records(index=False)
    yield "columns of NumPy", {name: frame[name].to_numpy() for name in ("title", "year")}
    yield "Series", [row for _, row in frame[["title", "year"]].astype(object).iterrows()]


def dataclass_of(**fields):
    return make_dataclass("Entry", fields)(**fields)


def test_map_of_rows_of_every_kind(echo):
    """In every container of rows a field keeps its type, and a name without a field is the whole row."""
    expected = ["On Of Stars, 1998", "On Of Dust, 2001"]
    for kind, rows in _rows_of_every_kind():
        answers = ask.map("Of {{title}}, {{year}}", rows, progress=False)
        assert expected == [answer.text for answer in answers], kind
    assert "On Stars" == ask.map("{{row.title}}", [Paper("Stars", 1998)], progress=False)[0].text
    assert "On Paper" == ask.map("{{paper}}", [Paper("Stars", 1998)], progress=False)[0].text[:8]
    with pytest.raises(errors.BadInput, match="no variable yaer"):
        ask.map("{{title}}, {{yaer}}", [Paper("Stars", 1998)], progress=False)
    pd = pytest.importorskip("pandas")
    with pytest.raises(errors.BadInput, match="More than one column is named a"):
        ask.map("{{a}}", pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_map_of_values(echo):
    """A plain value is inserted for each name, even if its class has an attribute of that name."""
    day = dt.date(2026, 12, 11)
    rows = [("text", "title"), (day, "year"), (Path("a/b"), "name"), (7, "real")]
    for row, name in rows:
        assert f"On Of {row}" == ask.map(f"Of {{{{{name}}}}}", [row], progress=False)[0].text


def test_columns_with_blanks(echo):
    """`{{Paper Title}}` and `{{row['Paper Title']}}` are a column whose name has a blank."""
    rows = {"Paper Title": ["Stars"], "n": [3]}
    assert "On Stars" == ask.map("{{ Paper Title }}", rows, progress=False)[0].text
    assert "On Stars of 3" == ask.map("{{row['Paper Title']}} of {{n}}", rows)[0].text
    with pytest.raises(errors.BadInput):
        ask.map("{{Paper Titel}}", rows)


def test_column_of_files(echo, tmp_path):
    """A column named by `attach` is a file for each row."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"of {name}")
    paths = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    files = [SimpleNamespace(file=path) for path in paths]
    for rows, named in [({"file name": paths}, "file name"), (files, "file"), (paths, "row")]:
        sent = len(echo.posts)
        ask.map(f"Sum up, by {named}.", rows, attach=named, progress=False)
        texts = sorted(post.body["input"][0]["content"][1]["text"] for post in echo.posts[sent:])
        assert [True, True] == ["of a" in texts[0], "of b" in texts[1]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("one text", "each letter"),
        (b"bytes", "each letter"),
        (7, "int"),
        ({"title": "one"}, "single value"),
        ({"title": 7}, "single value"),
        ({"a": [1, 2], "b": [1]}, "different lengths"),
        ({"one": {"title": "Stars"}, "two": {"title": "Dust"}}, "a dict, which has no order"),
        ({"title": {"Stars", "Dust"}}, "a set, which has no order"),
        (bytearray(b"bytes"), "each letter"),
    ],
)
def test_rows_that_are_none(echo, rows, words):
    """A text is not split into letters, and columns of different lengths are an error before anything is sent."""
    with pytest.raises(errors.BadInput, match=words) as refused:
        ask.map("{{a}}", rows)
    assert "Nothing was sent." in str(refused.value)
    assert not echo.posts


def test_map_keeps_what_came(echo):
    """The first error is raised with the answers received so far in order, or takes the place of its answer."""
    rows = ["a", "fail", "b"]
    with pytest.raises(errors.InvalidRequest) as failed:
        ask.map("{{row}}", rows)
    assert failed.value.answers[1] is None
    assert {"On a", "On b"} >= {answer.text for answer in failed.value.answers if answer}
    kept = ask.map("{{row}}", rows, on_error="keep")
    assert isinstance(kept, Answers)
    assert ["On a", "InvalidRequest", "On b"] == [
        getattr(answer, "text", type(answer).__name__) for answer in kept
    ]
    with pytest.raises(errors.BadInput, match="no variable"):
        ask.map("{{nothing}}", [{"a": 1}])


def test_map_is_lazy(echo):
    """An endless generator is read only as far as its rows are asked."""
    asking.loaded_or_new().max_concurrency = 2
    read = []

    def rows():
        for number in range(10**9):
            read.append(number)
            yield f"fail {number}" if number == 5 else f"w{number}"

    with pytest.raises(errors.InvalidRequest):
        ask.map("{{row}}", rows())
    assert len(read) < 12


def test_slow_row_holds_no_other_back(home, monkeypatch):
    """A slow row does not hold up the others: they are answered while it is waiting."""
    others = threading.Semaphore(0)

    def answer(request):
        if request.body["input"] == "w0":
            for _ in range(19):
                assert others.acquire(timeout=30)
        else:
            others.release()
        return wire.json_reply(wire.response(f"On {request.body['input']}"))

    asking.loaded_or_new().max_concurrency = 2
    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        answers = ask.map("{{row}}", [f"w{number}" for number in range(20)], progress=False)
    assert [f"On w{number}" for number in range(20)] == [answer.text for answer in answers]


def test_error_drops_no_answer_that_was_sent(home, monkeypatch):
    """The error of one row ends a map at once; sent rows are answered into the journal, the others are withdrawn."""
    is_over = threading.Event()

    def answer(request):
        if request.body["input"] == "fail":
            return wire.json_reply({"error": {"message": "No.", "code": "bad"}}, status=400)
        is_over.wait(30)
        return wire.json_reply(wire.response(f"On {request.body['input']}"))

    asking.loaded_or_new().max_concurrency = 2
    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        with pytest.raises(errors.InvalidRequest):
            ask.map("{{row}}", ["slow", "fail", "late", "later"], progress=False)
        is_over.set()
        assert "On slow" == ask("slow").text
        sent = [request.body["input"] for request in server.posts]
        assert 1 == sent.count("slow")
        assert 4 > len(sent)
        assert ["On late", "On later"] == [
            answer.text for answer in ask.map("{{row}}", ["late", "later"], progress=False)
        ]


def test_map_keeps_to_the_budget(echo, sandbox_url, monkeypatch):
    """The budget ends a map before the row that could pass it; rows in flight count."""
    monkeypatch.setenv("AIML_API_URL", sandbox_url)
    asking.loaded_or_new().budget_usd = 0.5
    with pytest.raises(errors.BudgetExceeded) as stopped:
        ask.map("Rate {{row}}", [f"w{number}" for number in range(100)], max_output_tokens=1000)
    assert 0 < len(stopped.value.answers) < 20
    assert all(stopped.value.answers), "what was sent before is waited for"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize(("soft", "hard"), [(64, 64), (64, 4096)])
def test_few_file_handles(home, monkeypatch, soft, hard):
    """A map with few file handles waits for a free one, or raises the limit if possible: no row fails, and each is sent once."""

    def answer(request):
        time.sleep(0.1)
        return wire.json_reply(wire.response(f"On {request.body['input']}"))

    code = "from aiml_magic import ask; from aiml_magic.notebook import script as asking; asking.loaded_or_new().max_concurrency = 200; "
    code += "print(len(ask.map('{{x}}', range(100), progress=False)))"
    # A process cannot raise its hard limit.
    hard = min(hard, environment.files_at_once())
    command = [
        "bash",
        "-c",
        f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" -c "$1"',
        sys.executable,
        code,
    ]
    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ("100", "") == (done.stdout.strip(), done.stderr)
    assert 100 == len({request.body["input"] for request in server.posts}) == len(server.posts)


def test_script_without_a_notebook(echo, home):
    """A plain script asks, and its process ends by itself."""
    code = "from aiml_magic import ask; print(ask('Why?').text, [answer.text for answer in ask.map('{{x}}', ['a', 'b'])])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "On Why? ['On a', 'On b']" == done.stdout.strip()


@pytest.mark.parametrize("field", ["previous_response_id", "max_output_tokens", "model", "store"])
def test_fields_that_have_options(home, field):
    """A field with an option of its own is refused as by --param: it would bypass the replay or the budget."""
    with pytest.raises(errors.BadInput, match="param"):
        ask("Why?", param={field: 1})


def test_rows_that_fail(home, monkeypatch):
    """An iterable of rows that raises ends a map with its own error; unsent questions are withdrawn."""
    go_on = threading.Event()

    def answer(request):
        go_on.wait(20)
        return wire.json_reply(wire.response(f"On {request.body['input']}"))

    def rows():
        yield from "abcde"  # two in line behind three
        while len(server.posts) < 2:
            time.sleep(0.01)
        raise ValueError("a bad line in the file")

    asking.loaded_or_new().max_concurrency = 3
    with wire.serve(answer) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        with pytest.raises(ValueError, match="bad line"):
            ask.map("{{row}}", rows(), progress=False)
        journal = asking.loaded_or_new().asking.journal
        while any(row.state == "queued" for row in journal.history()):
            time.sleep(0.01)
        go_on.set()
        while not all(row.is_over for row in journal.history()):
            time.sleep(0.01)
        assert 3 >= len(server.posts)


def test_interrupt_of_a_map(home):
    """An interrupt stops a map, and keeps the answers received."""

    def answer(request):
        if request.body["input"] != "w0":
            time.sleep(20)
        return wire.json_reply(wire.response(f"On {request.body['input']}"))

    with wire.serve(answer) as server, kernel() as running:
        running.run(f"%config O3Pro.base_url = {server.url!r}")
        request = running.start(
            "from aiml_magic import ask\ntry: ask.map('{{r}}', ['w0', 'w1', 'w2'])\nexcept KeyboardInterrupt as e: print([a and a.text for a in e.answers], e)"
        )
        while not any(row.state == "done" for row in Journal(home / "journal.sqlite3").history()):
            time.sleep(0.01)
        time.sleep(1.0)  # for the kernel to hear of it
        os.kill(running.manager.provisioner.process.pid, signal.SIGINT)
        told = running.finish(request).stream
    assert (
        "['On w0', None, None] Interrupted after 1 answer; 2 questions under way may be charged."
        in told
    )


def test_settings_of_the_notebook(home, sandbox_url):
    """In a notebook, ask has the notebook's settings and its sandbox."""
    with kernel() as running:
        running.run(f"%config O3Pro.base_url = {sandbox_url!r}\n%config O3Pro.effort = 'high'")
        assert "high" in running.run("from aiml_magic import ask\nprint(ask('Why?').text)").stream


def test_progress(home, sandbox_url):
    """Without tqdm a notebook shows the number of answered rows in one line, and an unattended script prints nothing."""
    map_rows = "from aiml_magic import ask\nanswers = ask.map('Rate {{x}}', range(3))"
    with kernel() as running:
        running.run(
            f"import sys\nsys.modules['tqdm.auto'] = None\n%config O3Pro.base_url = {sandbox_url!r}"
        )
        ran = running.run(map_rows)
        running.wait_for_update(lambda update: "3 of 3 answered" == update["data"]["text/plain"])
        assert "" == ran.stream
    code = f"import sys; sys.modules['tqdm.auto'] = None\n{map_rows}"
    environment = os.environ | {"AIML_API_URL": sandbox_url}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    )
    assert ("", "") == (done.stdout, done.stderr)


class Plain: ...


@pytest.mark.parametrize(
    "start",
    [
        lambda: ask("Why?", instructions=Plain()), lambda: ask(Plain()), lambda: ask("Why?", model=len), lambda: ask("Why?", attach=Plain()),
        lambda: ask.map("Rate {{x}}", [{"x": "one"}, {"x": Plain()}]), lambda: ask.map("Rate {{x}}", [Plain()]), lambda: ask.map(Plain(), [1]),
        lambda: ask.map("Rate {{x}}", [{"x": [Plain()]}]), lambda: ask.map("Rate", [{"x": Plain()}], instructions="As {{x}}"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_not_sent(echo, start):
    """An object whose text is only a name and an address is refused from Python as in a cell."""
    with pytest.raises(errors.BadInput, match="Nothing was sent") as refused:
        start()
    assert 2 == len(str(refused.value).splitlines())
    assert not any("Plain object" in str(post.body) for post in echo.posts)


def test_instructions_are_filled(echo):
    """The fields of a row are filled into the instructions as well; in a single question their braces are text."""
    ask.map(
        "Rate {{title}}", [{"title": "a", "role": "referee"}], instructions="You are a {{role}}."
    )
    assert "You are a referee." == echo.posts[-1].body["instructions"]
    ask("Why?", instructions="{{role}}")
    assert "{{role}}" == echo.posts[-1].body["instructions"]
