"""The end of a model: an early warning, an error that names its successor, and replays without the model."""

from __future__ import annotations

import json
import threading
import time
from datetime import date

import pytest
import wire
from asking import KEY, Asker
from catalogue import FEED, GONE, LISTED, NEXT, PRO, looks
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic import errors
from aiml_magic.api import models
from aiml_magic.api.models import Catalogue, read
from aiml_magic.journal import offers
from aiml_magic.session import advice
from aiml_magic.session.budget import most_output, price_in
from aiml_magic.show import details

TODAY = date(2026, 11, 26)
SAID = Catalogue(models.read(LISTED), models.read(FEED), 1.0)


def serving(*, gone: bool = False, refusal: wire.Reply | None = None, quiet: bool = False):
    """A server with a feed and a list of models. With `gone` it has no o3-pro; with `quiet` neither feed nor list."""

    def answer(request):
        if request.method == "GET":
            if quiet:
                return wire.json_reply({"message": "Not Found", "statusCode": 404}, 404)
            return wire.json_reply(FEED if request.path.endswith("/deprecations") else LISTED)
        if gone and request.body["model"] != NEXT:
            return refusal or wire.json_reply(GONE, 404)
        return wire.json_reply(wire.response("Fine."))

    return wire.serve(answer, has_models=True)


def eventually(claim, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.05)
    return claim()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (PRO, f"{PRO}: until 2099-12-11, then {NEXT}"),
        ("o3-pro-2025-06-10", f"o3-pro-2025-06-10: until 2099-12-11, then {NEXT}"),
        ("o3-pro", f"o3-pro: until 2099-12-11, then {NEXT}"),
        ("openai/o1", f"openai/o1: ended on 2026-07-01, then {NEXT}"),
        ("openai/o3", f"openai/o3: withdrawn, then {NEXT}"),
        ("openai/gpt-4", "openai/gpt-4: superseded"),
        ("openai/gpt-5-pro", "openai/gpt-5-pro: until 2099-01-31"),
        ("a", "a: withdrawn"),
        (NEXT, ""),
        ("nobody/knows", ""),
        ("other/o3-pro", ""),
    ],
)
def test_fate(name, told):
    """A line has the end of a model and its successor; a successor that ended itself is skipped."""
    assert told == SAID.fate(name, TODAY)


def test_end_is_a_day():
    """A model has ended from the day of its end on."""
    said = Catalogue(ending=models.read([{"id": "m", "shutdown_at": "2026-12-11T00:00:00Z"}]))
    assert "m: until 2026-12-11" == said.fate("m", date(2026, 12, 10))
    assert "m: ended on 2026-12-11" == said.fate("m", date(2026, 12, 11))


def test_told_a_cell_later(asker):
    """Feed and list are requested once a day for each server, after the answer; live details then show the end, the static copy never."""
    with serving() as server:
        first = asker.ask(server.url)
        assert "until" not in details.line_with_replay(first)
        assert eventually(lambda: 2 == len(looks(server)) and offers.cached(first.server).ending)
        second = asker.ask(server.url)
        later = Asker(asker.path)
        try:
            later.ask(server.url)
            assert later.session.updates._thread is None, "it was asked for today"
        finally:
            later.session.close(10)
        assert "POST" == server.requests[0].method
        assert ["/v1/models?include=pricing,capabilities", "/v1/models/deprecations"] == looks(
            server
        )
    assert f"{PRO}: until 2099-12-11, then {NEXT}" in details.line_with_replay(second)
    live, copy = details.details(second)
    assert "2099-12-11" in live
    assert "2099-12-11" not in copy, "it is compared from run to run"
    feed = next(request for request in server.requests if request.path.endswith("deprecations"))
    assert KEY not in str(feed.headers), "the feed needs no key"


def test_never_in_the_way(asker, monkeypatch):
    """No list is requested while a question is in flight or by a replay; a server without a feed is asked for it once."""
    monkeypatch.setattr(advice, "_LOOK_EVERY", 0.05)
    go_on = threading.Event()

    def answer(request):
        if request.method == "POST":
            go_on.wait(60)
            return wire.json_reply(wire.response())
        return wire.json_reply({}, 404)

    with wire.serve(answer, has_models=True) as server:
        job = asker.start(server.url, cell="a")
        time.sleep(1)
        assert [] == looks(server)
        go_on.set()
        job.wait(60)
        assert eventually(lambda: 2 == len(looks(server)))
        assert eventually(lambda: offers.is_of_today(offers.cached(server.url)))
        for file in asker.path.parent.glob("models-*.json"):
            file.unlink()
        assert eventually(lambda: not asker.session.updates._thread.is_alive())
        assert asker.ask(server.url, cell="a", replay="auto").replayed
        assert not asker.session.updates._thread.is_alive(), "nothing looks again"
        assert 2 == len(looks(server))


def test_only_asks_nothing(home):
    """With replay "only" no list is requested, not even once a day; cached models are shown."""
    asker = Asker(home / "journal.sqlite3")
    asker.session.replay = lambda: "only"
    with serving() as server:
        offers.cache(server.url, Catalogue(SAID.offered, SAID.ending, 1.0))
        asking = asker.session.on(server.url, asker.path)
        assert PRO in asking.models().fate(PRO, TODAY)
        with pytest.raises(errors.ReplayMiss):
            asking.models(is_wanted=True)
        assert [] == server.requests
    asker.session.close(10)


SHAPES = {
    "OpenAI": wire.json_reply(GONE, 404),
    "400": wire.json_reply(GONE, 400),
    "403": wire.json_reply({"error": {"message": "Project has no access to model `o3-pro`", "code": "model_not_found"}}, 403),
    "AI/ML API": wire.json_reply({"message": "Model not found", "statusCode": 404, "path": "/v1/responses", "requestId": "r"}, 404),
    "410": wire.json_reply({"message": "Gone", "statusCode": 410}, 410),
    "empty": wire.Reply(404, {}, []),
    "page": wire.Reply(404, {"Content-Type": "text/html"}, [b"<title>Not Found</title>"]),
    "vLLM": wire.json_reply({"object": "error", "message": "The model `o3-pro` does not exist.", "type": "NotFoundError", "code": 404}, 404),
    "Ollama": wire.json_reply({"error": "model 'o3-pro' not found"}, 400),
    "decommissioned": wire.json_reply({"error": {"message": "The model has been decommissioned.", "code": "model_decommissioned"}}, 400),
    "not supported": wire.json_reply({"error": {"code": "model_not_supported", "message": "The requested model is not supported."}}, 400),
    "FastAPI": wire.json_reply({"detail": [{"loc": ["body", "model"], "msg": "Input should be 'x'", "type": "enum"}]}, 422),
    "issues": wire.json_reply({"statusCode": 400, "message": "Invalid enum value", "issues": [{"path": ["model"], "message": "Invalid"}]}, 400),
    "in a stream": wire.Reply(200, {"Content-Type": "text/event-stream"}, [f"data: {json.dumps({'type': 'error', **GONE})}\n\n".encode()]),
    "in success": wire.json_reply(GONE, 200),
    "failed run": wire.json_reply(wire.response(status="failed", output=[], error={"code": "model_not_found", "message": "No such model"})),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_model_that_is_gone(module_asker, tmp_path, shape):
    """For any form of the refusal of an ended model, the error names its successor and the setting for it, in at most four lines."""
    asker = module_asker
    with serving(gone=True, refusal=SHAPES[shape]) as server:
        with pytest.raises(errors.RequestFailed) as failed:
            asker.ask(server.url, stream=shape == "in a stream", store=True)
        assert 1 == len(server.posts)
    lines = failed.value._render_traceback_()
    assert len(lines) <= 4
    assert f'%config O3Pro.model = "{NEXT}"' in lines
    assert any(f"{PRO}: until 2099-12-11, then {NEXT}" in line for line in lines)
    assert not failed.value.may_cost or "%aiml check" in str(failed.value)


def test_nearest_name(asker):
    """For an unknown model, the error suggests the nearest offered one that has not ended."""
    with serving(gone=True) as server:
        with pytest.raises(errors.NotFound) as failed:
            asker.ask(server.url, model="openai/gpt-5-por")
        assert '%config O3Pro.model = "openai/gpt-5-pro"' in str(failed.value)
        with pytest.raises(errors.NotFound) as failed:
            asker.ask(server.url, model="quite/another-thing")
        assert "%config O3Pro.model" not in str(failed.value)
    assert "openai/o3" != SAID.nearest("openai/o3x", TODAY), "it is withdrawn"


def test_server_that_says_nothing(asker):
    """Without a feed and a list the error stays unchanged, and they are not requested with each error."""
    with serving(gone=True, quiet=True) as server:
        for _ in range(2):
            with pytest.raises(errors.NotFound) as failed:
                asker.ask(server.url)
            assert "--model" in failed.value.hint
        assert 2 == len(looks(server))


def test_model_that_is_there(asker):
    """A 404 with another cause suggests no other model if the model is listed and has not ended."""
    refusal = wire.json_reply({"message": "Cannot POST /v1/responses", "statusCode": 404}, 404)
    with serving(gone=True, refusal=refusal) as server, pytest.raises(errors.NotFound) as failed:
        asker.ask(server.url, model="openai/gpt-6")
    assert "%config O3Pro.model =" not in str(failed.value)
    assert "%config O3Pro.base_url" in str(failed.value)


REFUSALS = {
    "Unsupported value: 'xhigh' is not supported with this model. Supported values are: 'low', 'medium', and 'high'.": ("low, medium, high", "-e high"),
    "Invalid enum value. Expected 'low' | 'medium', received 'xhigh' (reasoning.effort)": ("low, medium", "-e medium"),
    "body.reasoning.effort: Input should be 'minimal' or 'ultra'": ("minimal, ultra", "-e ultra"),
    "reasoning.mode must be one of standard": ("standard", "--mode standard"),
    "Unsupported parameter: 'reasoning.effort' is not supported with this model.": ("without -e",),
    "Unrecognized key(s) in object: 'reasoning'": ("without -e",),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSALS)
def test_refusal_of_an_effort(module_asker, words):
    """The error for a refused effort, mode or `reasoning` quotes the server, and its hint has an accepted value."""
    refusal = wire.json_reply(
        {"error": {"message": words, "param": "reasoning.effort", "code": "unsupported_value"}}, 400
    )
    with (
        serving(gone=True, refusal=refusal) as server,
        pytest.raises(errors.InvalidRequest) as failed,
    ):
        module_asker.ask(server.url, effort="xhigh")
    assert all(said in failed.value.hint for said in REFUSALS[words])
    assert 2 == len(str(failed.value).splitlines())


def test_longest_answer():
    """The longest answer is the limit that is set, else the server's, else 128,000 tokens."""
    known, unknown = (
        price_in(Catalogue(read(listed)).find(name))
        for listed, name in (
            (LISTED, PRO),
            ({"data": [{"id": "m", "pricing": LISTED["data"][0]["pricing"]}]}, "m"),
        )
    )
    assert 100_000 == most_output(known, None)[0]
    assert 128_000 == most_output(unknown, None)[0]
    assert 1_000 == most_output(known, 1_000)[0]


scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9) | st.sampled_from(
    ["2026-12-11", "x" * 300, "{__import__('os')}", '"; rm', "a\x1b[2Jb", "m\n%run x", PRO]
)  # fmt: skip
keys = st.sampled_from(
    ["id", "aliases", "status", "shutdown_at", "shutdown_date", "replaced_by", "pricing", "kind", "units", "contextLength", "outputMax", "data", "info"]
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=25,
)
entries = st.fixed_dictionaries({"id": scalars}, optional={"replaced_by": scalars, "shutdown_at": scalars, "status": scalars, "info": anything})  # fmt: skip


@given(anything | st.lists(entries), anything | st.lists(entries), scalars.map(str))
def test_any_list_and_feed(listed, feed, name):
    """For any list or feed, each model is one harmless line, only a plain name is suggested, and the cache returns what was read."""
    said = Catalogue(models.read(listed), models.read(feed), time.time())
    for model in said.all[:5]:
        assert advice.line(model.id, said).isprintable()
        assert len(advice.line(model.id, said)) < 500
    for other in (said.successor(name, TODAY), said.nearest(name, TODAY)):
        assert other is None or not set(other) & set("\"'`{}$\\ \n\r\x1b;")
    again = json.loads(json.dumps([model.as_entry() for model in said.offered]))
    assert said.offered == models.read(again)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\x00", b'{"server": 1}', b"[" * 100_000, b'{"asked_at": "x", "offered": 1, "ending": {}}']
)  # fmt: skip
def test_damaged_file(home, content):
    """A damaged cache of a server's models counts as missing, and is written anew, readable by this user only."""
    offers.cache("https://e.example", SAID)
    (path,) = home.glob("models-*.json")
    assert SAID == offers.cached("https://e.example")
    assert 0o600 == path.stat().st_mode & 0o777
    path.write_bytes(content)
    assert Catalogue() == offers.cached("https://e.example")
    offers.cache("https://e.example", SAID)
    assert SAID == offers.cached("https://e.example")
    assert Catalogue() == offers.cached("https://another.example")


def test_silent_list(asker):
    """An error waits briefly for a list that does not arrive, and the next error does not wait."""

    def answer(request):
        is_list = request.method == "GET"
        return wire.Reply(end="silence") if is_list else wire.json_reply(GONE, 404)

    with wire.serve(answer, has_models=True) as server:
        began = time.monotonic()
        for text in ("One?", "Two?"):
            with pytest.raises(errors.NotFound):
                asker.ask(server.url, text)
        assert time.monotonic() - began < 12, "less than one wait of a person who lists them"
        assert 1 == len(looks(server))


def test_no_disk(asker, tmp_path, monkeypatch):
    """Without a disk for the cache, the models are still requested once and shown."""
    monkeypatch.setattr(advice, "_LOOK_EVERY", 0.02)
    (tmp_path / "file").touch()
    monkeypatch.setenv("AIML_MAGIC_HOME", str(tmp_path / "file"))
    with serving() as server:
        asker.ask(server.url)
        assert eventually(lambda: offers.is_of_today(offers.cached(server.url)))
        assert eventually(lambda: not asker.session.updates._thread.is_alive())
        second = asker.ask(server.url)
        assert not asker.session.updates._thread.is_alive(), "nothing looks again"
        assert 2 == len(looks(server))
        assert "until 2099-12-11" in details.line_with_replay(second)


def test_long_lists_are_bounded():
    """A list of a hundred thousand models is read, cached and searched with bounded time and memory."""
    said = Catalogue(models.read([{"id": f"m/{number}"} for number in range(100_000)]))
    assert models.MAX_MODELS == len(said.offered)
    began = time.monotonic()
    assert all(advice.line(model.id, said) for model in said.all)
    assert time.monotonic() - began < 30, "linear, not quadratic"
