"""The settings as keywords of ask(), ask.map() and again(): they hold for one call."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import wire

from aiml_magic import ask, errors, history
from aiml_magic.journal.store import journal_at
from aiml_magic.notebook import script
from aiml_magic.notebook.options import OPTIONS
from aiml_magic.notebook.settings import HELP

pytestmark = pytest.mark.usefixtures("plain_script")
SETTINGS = HELP.keys() - {option.name for option in OPTIONS}


class Counting:
    """Answers with its name and the question, after `seconds`; counts the questions in flight."""

    def __init__(self, name: str, seconds: float = 0.0) -> None:
        self.name, self.seconds = name, seconds
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.numbers = itertools.count()

    def __call__(self, request: wire.Request) -> wire.Reply:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        asked = request.body["input"]
        words = asked if isinstance(asked, str) else asked[-1]["content"][0]["text"]
        number = next(self.numbers)
        body = wire.response(f"{self.name}: {words}", id=f"{self.name}_{number}", usd=0.25)
        return wire.json_reply(body)


@pytest.fixture
def server(monkeypatch):
    with wire.serve(Counting("here")) as server:
        monkeypatch.setenv("AIML_API_URL", server.url)
        yield server


UNKNOWN = [
    ({"budget": 1}, "Did you mean budget_usd?"),
    ({"max_concurency": 1}, "Did you mean max_concurrency?"),
    ({"efort": "high"}, "Did you mean effort?"),
    ({"xyz": 1}, "There are model, effort"),
    ({"progres": False}, "Did you mean progress?"),
]
WRONG = [
    ("base_url", 7), ("stream", "no"), ("store", []), ("replay", "onyl"), ("chain", True), ("journal", 5),
    ("budget_usd", "much"), ("budget_usd", True), ("budget_usd", -1), ("budget_usd", float("nan")),
    ("max_concurrency", 2.5), ("max_concurrency", 0), ("max_concurrency", True), ("max_tool_rounds", "8"),
    ("timeout", "soon"), ("timeout", []), ("fresh", "no"),
]  # fmt: skip


def test_names_that_are_none(server):
    """An unknown option is an error with the nearest name, also with on_error="keep" and without rows."""
    for given, hint in UNKNOWN:
        for call in (
            lambda given=given: ask.map("{{row}}", ["a"], on_error="keep", **given),
            lambda given=given: history().again(**given),
        ):
            with pytest.raises(errors.BadInput, match="Nothing was sent") as refused:
                call()
            assert hint in str(refused.value)
        with pytest.raises(errors.BadInput, match="ask has no option"):
            ask("Why?", **given)
    assert not server.posts


def test_values_of_a_wrong_type(server):
    """A value of a wrong type is an error of two lines that names the setting, before anything is sent, even with on_error="keep"."""
    for name, value in WRONG:
        for call in (
            lambda given: ask("Why?", **given),
            lambda given: ask.map("{{row}}", ["a"], on_error="keep", progress=False, **given),
        ):
            with pytest.raises(errors.BadInput, match="Nothing was sent") as refused:
                call({name: value})
            assert name in str(refused.value)
            assert 2 == len(str(refused.value).splitlines())
    assert not server.posts


def test_every_setting_is_a_keyword(server, tmp_path):
    """Every setting is accepted as a keyword; the others have the notebook's values, which stay unchanged."""
    magics = script.loaded_or_new()
    before = {name: getattr(magics, name) for name in HELP}
    values = {name: before[name] for name in SETTINGS} | {
        "journal": tmp_path / "other.sqlite3",
        "max_concurrency": 3,
    }
    assert {"base_url", "replay", "budget_usd", "chain", "max_tool_rounds"} < SETTINGS
    assert "here: One?" == ask("One?", timeout=30, **values).text
    assert "here: One?" == ask.map("{{row}}", ["One?"], progress=False, **values)[0].text
    assert before == {name: getattr(magics, name) for name in HELP}
    assert 1 == len(server.posts), "the journal of the call has the answer"
    assert not history(), "and not that of the notebook"
    assert not ask("One?").replayed


def test_settings_of_one_request(server):
    """The keywords are in the request of their call, and not in the next one."""
    ask("One?", stream=False, store=False)
    ask("Two?")
    one, two = (post.body for post in server.posts)
    assert "stream" not in one
    assert one["store"] is False
    assert two["stream"] is two["store"] is True


def test_replay_of_one_call(server):
    """`only` sends nothing, not even a request for a price; `off` asks again; both hold for one call."""
    with pytest.raises(errors.ReplayMiss):
        ask("One?", replay="only", budget_usd=1)
    assert not server.requests
    ask("One?")
    assert ask("One?", replay="only").replayed
    assert not ask("One?", replay="off").replayed
    assert ask("One?").replayed
    script.loaded_or_new().replay = "only"
    assert "here: Two?" == ask("Two?", replay="auto").text
    with pytest.raises(errors.ReplayMiss):
        ask("Three?")


def test_budget_of_one_call(sandbox_url, monkeypatch):
    """A map has its own limit, which does not hold for the next call."""
    monkeypatch.setenv("AIML_API_URL", sandbox_url)
    with pytest.raises(errors.BudgetExceeded):
        ask("Why?", budget_usd=0.0001)
    kept = ask.map("{{row}}", ["a"], budget_usd=1, max_output_tokens=16, progress=False)
    assert "incomplete" == kept[0].status or kept[0].text
    assert ask("Why?").cost_usd


def test_named_server_is_asked(server):
    """A server named by a call is asked although the notebook uses a sandbox; other calls keep theirs."""
    script.loaded_or_new().session.sandbox_url = "http://127.0.0.1:9/v1"
    assert "here: One?" == ask("One?", base_url=server.url).text
    with pytest.raises(errors.NoKey, match="sandbox is gone"):
        ask("Two?")
    with pytest.raises(errors.NoKey, match="sandbox is gone"):
        ask("Two?", base_url="")


def test_calls_at_once(server, tmp_path):
    """Each of several maps in threads has its own server, concurrency and journal; so do jobs that are awaited together."""
    other = tmp_path / "other.sqlite3"
    few, many = Counting("few", 0.02), Counting("many", 0.1)
    with wire.serve(few) as one, wire.serve(many) as two, ThreadPoolExecutor(3) as threads:
        rows = [f"w{number}" for number in range(16)]
        maps = [
            threads.submit(ask.map, "{{row}}", rows, progress=False, **given)
            for given in (
                {"base_url": one.url, "max_concurrency": 2},
                {"base_url": two.url, "max_concurrency": 16},
                {"journal": other, "replay": "off"},
            )
        ]
        texts = [[answer.text for answer in each.result(60)] for each in maps]
    named = ("few", "many", "here")
    assert [[f"{name}: {row}" for row in rows] for name in named] == texts
    assert few.most <= 2
    assert many.most > 2, "not held to the number of the other"

    async def together():
        with wire.serve(Counting("away")) as away:
            jobs = [
                ask("w1", background=True, base_url=away.url),
                ask("w1", background=True, replay="only", journal=other),
                ask("new", background=True),
            ]
            return [answer.text for answer in await asyncio.gather(*map(_awaited, jobs))]

    assert ["away: w1", "here: w1", "here: new"] == asyncio.run(together())


async def _awaited(job):
    return await job


def test_again_with_settings(server, tmp_path):
    """`again` accepts settings as well; a question that continues an answer is refused for a journal without that answer."""
    ask("One?", chat="main")
    ask("Two?", chat="main")
    with wire.serve(Counting("away")) as away:
        again = history()[:1].again(base_url=away.url, max_concurrency=1, progress=False)
    assert ["away: One?"] == [answer.text for answer in again]
    other = tmp_path / "other.sqlite3"
    alone = history()[:1].again(journal=other, progress=False)
    assert ["here: One?"] == [answer.text for answer in alone]
    posts = len(server.posts)
    with pytest.raises(errors.BadInput, match="other journal"):
        history().again(journal=other)
    assert posts == len(server.posts)
    assert 1 == len(journal_at(other).history())


def test_samples_of_a_journal(server, tmp_path):
    """Each sample and each of several efforts has the settings of its call."""
    given = {"journal": tmp_path / "other.sqlite3", "max_concurrency": 1}
    ask("Rate it.", samples=2, effort=["low", "high"], **given)
    assert 4 == len(server.posts)
    assert all(one.replayed for one in ask("Rate it.", samples=2, effort=["low", "high"], **given))
    assert 4 == len(server.posts)


def test_many_journals(server, tmp_path):
    """After calls with many journals only the runners of the last few are kept."""
    session = script.loaded_or_new().session
    assert ask("Why?", journal=tmp_path / "first.sqlite3").text
    (first,) = session._askings.values()
    for number in range(5):
        with pytest.raises(errors.ReplayMiss):
            ask("Why?", journal=tmp_path / f"{number}.sqlite3", replay="only")
    assert 0 == first.runner._child.process.wait(30)
    assert 4 == len(session._askings)
