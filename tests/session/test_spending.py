"""Limits in dollars: kept by the journal, over restarts and between kernels; and questions that are confirmed first."""

from __future__ import annotations

import datetime as dt
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import wire
from asking import Asker
from catalogue import looks
from processes import wait_until
from rows import new

from aiml_magic import errors
from aiml_magic.api import models
from aiml_magic.api.models import Catalogue
from aiml_magic.api.responses import Cost
from aiml_magic.journal import offers
from aiml_magic.journal.costs import Scope
from aiml_magic.journal.rows import Result
from aiml_magic.session import budget, spending
from aiml_magic.session.question import Delivery
from aiml_magic.show.follow import status_line

MODEL = "openai/o3-pro"
PRICED = {"data": [{"id": MODEL, "outputMax": 100_000, "pricing": {"kind": "fixed", "units": [
    {"unit": "input_token", "price": 21.0, "per": 1_000_000}, {"unit": "output_token", "price": 84.0, "per": 1_000_000}]}}]}  # fmt: skip
PER = ("budget_usd", "budget_usd_per_notebook", "budget_usd_per_day")


def costing(usd: float | None = 0.5, before=lambda: None, **fields):
    """A server with prices, whose answers cost that much; `None` is not reported."""

    def answer(request):
        if "/models" in request.path:
            return wire.json_reply(PRICED)
        before()
        meta = {} if usd is None else {"meta": {"usage": {"usd_spent": usd}}}
        return wire.json_reply(wire.response("Fine.", **meta, **fields))

    return wire.serve(answer, has_models=True)


@pytest.fixture
def another(asker):
    """Another kernel of the same notebook and journal: after a restart, or beside the first."""
    another = Asker(asker.path)
    yield another
    another.session.close(10)


@pytest.mark.parametrize("setting", PER[1:])
def test_restart(asker, another, setting):
    """The spending of a notebook or a day counts after a restart: nothing is sent until the limit is raised."""
    with costing(4.0) as server:
        asker.ask(server.url, "One?", **{setting: 12.0})
        with pytest.raises(errors.BudgetExceeded, match=r"\$8\.40 .*\$4\.00 spent") as refused:
            another.ask(server.url, "Two?", **{setting: 12.0})
        assert 2 == len(str(refused.value).splitlines())
        assert f"O3Pro.{setting}." in refused.value.hint
        assert 1 == len(server.posts)
        another.ask(server.url, "Two?", **{setting: 13.0})
        assert 2 == len(server.posts)


def test_session_begins_anew(asker, another):
    """`budget_usd` holds for one session: the next one starts at zero."""
    with costing(4.0) as server:
        for one in (asker, another):
            one.ask(server.url, "One?", budget_usd=12.0)
            with pytest.raises(errors.BudgetExceeded, match="in this session"):
                one.ask(server.url, "Two?", budget_usd=12.0)


@pytest.mark.parametrize("setting", PER[1:])
def test_two_kernels(asker, another, setting):
    """A question in flight of another kernel counts with its highest cost, later with its charge."""
    go_on = threading.Event()
    with costing(0.1, lambda: go_on.wait(600)) as server:
        job = asker.start(server.url, "One?", **{setting: 10.0})
        with pytest.raises(errors.BudgetExceeded, match="not settled"):
            another.ask(server.url, "Two?", **{setting: 10.0})
        go_on.set()
        job.wait(30)
        another.ask(server.url, "Two?", **{setting: 10.0})
        assert 2 == len(server.posts)


SUPPORT = Path(__file__).parents[1] / "support"


def test_two_at_once(home):
    """Processes that ask at the same moment pass no limit together: the sum of their reservations is within it."""
    ask = (
        f"import sys; sys.path.insert(0, {str(SUPPORT)!r}); from asking import Asker; from pathlib import Path; from aiml_magic import errors\n"
        "asker = Asker(Path(sys.argv[1]))\n"
        "asker.session.prices.known(sys.argv[2], 'openai/o3-pro')\n"
        "print('ready', flush=True); sys.stdin.readline(); jobs = []\n"
        "for number in range(8):\n"
        "    try: jobs.append(asker.start(sys.argv[2], f'{sys.argv[3]} {number}?', chat=None, budget_usd_per_day=50.0))\n"
        "    except errors.BudgetExceeded: pass\n"
        "for job in jobs: job.wait(60)\n"
        "asker.session.close(10)\n"
    )
    go_on = threading.Event()
    with costing(0.1, lambda: go_on.wait(600)) as server:
        offers.cache(server.url, Catalogue(models.read(PRICED), (), time.time()))
        command = [sys.executable, "-c", ask, str(home / "journal.sqlite3"), server.url]
        kernels = [
            subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for name in "ab"
        ]
        for one in kernels:
            assert b"ready\n" == one.stdout.readline()
        for one in kernels:
            one.stdin.write(b"go\n")
            one.stdin.flush()
        try:
            wait_until(lambda: len(server.posts) >= 5, 60)
        finally:
            go_on.set()
        assert [0, 0] == [one.wait(90) for one in kernels]
        assert 5 == len(server.posts), "five times $8.40 are within $50, six times are not"
        for one in kernels:
            one.stdin.close()
            one.stdout.close()


def queued(asker, url, **fields):
    """A queued row whose kernel has died."""
    question = {"input": "Left?", "model": MODEL}
    row = asker.journal.add(**new(base_url=url, server=url, request=question, worst_usd=8.4,
                                  notebook=asker.session.notebook) | fields)  # fmt: skip
    with asker.journal._transaction() as db:
        db.execute("UPDATE requests SET alive_at = ? WHERE id = ?", (time.time() - 60, row.id))
    return row.id


def test_dead_kernel(asker):
    """An unsent question of a dead kernel loses its reservation, and is not sent by a runner that was only asleep."""
    with costing() as server:
        left = queued(asker, server.url)
        asker.ask(server.url, "Room for both?", budget_usd_per_day=20.0)
        assert "queued" == asker.journal.row(left).state, "there was room"
        asker.ask(server.url, "And now?", budget_usd_per_day=10.0)
        assert asker.journal.claim(left) is None
        lost = errors.error_from_dict(asker.journal.row(left).error)
        assert "Nothing was sent" in str(lost)
        assert 2 == len(str(lost).splitlines())


def test_living_kernel(asker, another):
    """Questions that a live kernel is about to send keep their reservations; so do those of this kernel after a sleep."""
    with costing() as server:
        left = queued(asker, server.url)
        asker.journal.reserve(left, "one", 8.4)
        with pytest.raises(errors.BudgetExceeded):
            another.ask(server.url, budget_usd_per_day=10.0)
        asleep = queued(asker, server.url)
        asker.journal.lapse(Scope(None), [asleep])
        assert "queued" == asker.journal.row(asleep).state


def test_resumed(asker):
    """A question that is resumed after a restart reserves its cost again, for this session and day, and stays queued without room."""
    go_on = threading.Event()
    with costing(4.0, before=lambda: go_on.wait(30)) as server:
        yesterday = time.time() - 2 * 86400
        for number in range(3):
            queued(asker, server.url, asked_at=yesterday, session="before", cell=f"c{number}")
        limits = Delivery(budget_usd=18.0, budget_usd_per_day=18.0)
        jobs = asker.on(server.url).unfinished(limits)
        go_on.set()
        assert 2 == len(jobs), "before an answer settles less than its highest cost"
        for job in jobs:
            job.wait(30)
        assert (8.0, 0) == asker.journal.spent(None, session=asker.session.id)
        assert (8.0, 0) == asker.journal.spent(None, since=spending.midnight())
        careful = replace(limits, budget_usd=None, budget_usd_per_day=None, confirm_above_usd=1.0)
        assert [] == asker.on(server.url).unfinished(careful)


@pytest.mark.parametrize("fate", ["answered", "lost", "killed"])
def test_unknown_costs(asker, another, fate):
    """A question that ended without a known cost counts with its highest cost until the cost is known."""
    reply = wire.json_reply(wire.response()) if fate == "answered" else wire.Reply(end="close")
    listed = {"/v1/models": wire.json_reply(PRICED)}
    with wire.serve(lambda request: listed.get(request.path.split("?")[0], reply), has_models=True) as server:  # fmt: skip
        if fate == "killed":
            row_id = queued(asker, server.url)
            asker.journal.claim(row_id)
        else:
            with suppress(errors.ConnectionLost):
                asker.ask(server.url, "One?", budget_usd_per_notebook=10.0)
            row_id = asker.journal.history()[-1].id
        with pytest.raises(errors.BudgetExceeded, match=r"up to \$8\.40 not settled") as refused:
            another.ask(server.url, "Two?", budget_usd_per_notebook=10.0)
        assert "%aiml check" in refused.value.hint
        asker.journal.note_free(row_id)
        with suppress(errors.ConnectionLost):
            another.ask(server.url, "Two?", budget_usd_per_notebook=10.0)
        assert (1 if fate == "killed" else 2) == len(server.posts)


def test_check_finds_the_cost(asker):
    """The cost of an answer that its server did not report is found in the log, and then counted."""

    def answer(request):
        if "/models" in request.path:
            return wire.json_reply(PRICED)
        if "/logs" in request.path:
            asked = asker.journal.history()[0].client_request_id
            entry = {"client_request_id": asked, "status": "succeeded", "cost": {"usd": 0.25}}
            return wire.json_reply({"data": [entry]})
        return wire.json_reply(wire.response())

    with wire.serve(answer, has_models=True) as server:
        row_id = asker.ask(server.url, "One?", budget_usd=10.0).journal_id
        with pytest.raises(errors.BudgetExceeded):
            asker.ask(server.url, "Two?", budget_usd=10.0)
        assert ("done", 0.25) == asker.on(server.url).check(asker.journal.row(row_id))
        asker.ask(server.url, "Two?", budget_usd=10.0)


def test_asked_before_a_price_was_known(asker):
    """A question of unknown cost that was asked without a limit counts with today's price."""
    with costing(None) as server:
        asker.ask(server.url, "One?")
        assert asker.journal.history()[0].worst_usd is None
        with pytest.raises(errors.BudgetExceeded, match="not settled"):
            asker.ask(server.url, "Two?", budget_usd=10.0)


def test_forgotten(asker):
    """A forgotten question counts as before: with its cost, or its highest possible cost."""
    with costing(None) as server:
        row_id = asker.ask(server.url, "One?", budget_usd=10.0).journal_id
        for _ in range(2):
            asker.journal.forget(row_id)
            with pytest.raises(errors.BudgetExceeded):
                asker.ask(server.url, "Two?", budget_usd=10.0)


def test_failed_and_free(asker):
    """Refused and withdrawn questions cost nothing."""
    journal = asker.journal
    ids = [journal.add(**new(worst_usd=8.4)).id for _ in range(2)]
    journal.claim(ids[0])
    journal.finish(ids[0], Result("failed", seconds=1, error=errors.InvalidRequest("No.", "Mend.")))
    journal.withdraw(ids[1])
    assert 0.0 == journal.sums(Scope(None)).reserved_usd


def test_renamed(asker, another):
    """A notebook that was renamed has spent what it had spent under its former name."""
    with costing(4.0) as server:
        asker.ask(server.url, "One?", budget_usd_per_notebook=12.0)
        another.session.notebook = "renamed.ipynb"
        another.journal.note_past("renamed.ipynb", asker.session.notebook)
        with pytest.raises(errors.BudgetExceeded, match="in this notebook"):
            another.ask(server.url, "Two?", budget_usd_per_notebook=12.0)


def test_sandbox_counts_apart(asker):
    """The costs of all servers are summed; the sandbox's play money is counted separately."""
    with costing() as server:
        asker.journal.finish(asker.journal.add(**new(server="sandbox")).id, _paid(90.0))
        asker.ask(server.url, budget_usd_per_day=10.0)
        asker.journal.finish(asker.journal.add(**new(server="https://elsewhere")).id, _paid(9.0))
        with pytest.raises(errors.BudgetExceeded, match=r"\$9\.50 spent today"):
            asker.ask(server.url, budget_usd_per_day=10.0)


def _paid(usd: float) -> Result:
    return Result("done", {"output_text": "Fine."}, 1.0, cost=Cost(usd, None, "headers"))


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="has no such clock")
@pytest.mark.parametrize(
    ("zone", "now", "midnight"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00"),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00"),
        ("America/Havana", "2026-03-08T12:00-04:00", "2026-03-08T01:00-04:00"),
        ("America/Havana", "2026-11-01T12:00-05:00", "2026-11-01T00:00-04:00"),
        ("Pacific/Kiritimati", "2026-11-26T00:00+14:00", "2026-11-26T00:00+14:00"),
        ("UTC", "2026-11-26T23:59:59+00:00", "2026-11-26T00:00+00:00"),
    ],
)
def test_midnight(monkeypatch, zone, now, midnight):
    """A day begins at midnight in this machine's time zone, also when daylight saving time begins."""
    moment = dt.datetime.fromisoformat(now)

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(moment.timestamp(), tz)

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        monkeypatch.setattr(spending, "datetime", Clock)
        assert dt.datetime.fromisoformat(midnight).timestamp() == spending.midnight()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_days(asker):
    """Questions before midnight do not count; those in the future, after a clock was set back, do."""
    journal = asker.journal
    for when in (-1.0, 1.0, 5 * 86400.0):
        row = journal.add(**new(asked_at=spending.midnight() + when))
        journal.finish(row.id, _paid(1.0))
    assert (2.0, 0) == journal.spent(None, since=spending.midnight())


def test_limit_of_zero(asker):
    """With a limit of 0 nothing is sent, and replays are free."""
    with costing() as server:
        asker.ask(server.url, cell="a", replay="auto")
        for setting in PER:
            assert asker.ask(server.url, cell="a", replay="auto", **{setting: 0.0}).replayed
            with pytest.raises(errors.BudgetExceeded):
                asker.ask(server.url, cell="b", **{setting: 0.0})
        assert 1 == len(server.posts)


def test_another_journal(asker, tmp_path):
    """Another journal counts from zero: the limits are kept there."""
    with costing(4.0) as server:
        asker.ask(server.url, budget_usd_per_day=12.0)
        asker.path = tmp_path / "another.sqlite3"
        asker.ask(server.url, budget_usd_per_day=12.0)
        assert 2 == len(server.posts)


def test_longest_answer_is_said(asker):
    """The message names the output tokens of the estimate and their source: the list, the option, or neither."""
    with costing() as server:
        for options, words in (
            ({}, "100,000 output tokens, the most that its server lists"),
            ({"max_output_tokens": 50_000}, "50,000 output tokens\\)"),
            ({"params": {"max_output_tokens": 60_000}}, "60,000 output tokens\\)"),
        ):
            with pytest.raises(errors.BudgetExceeded, match=words):
                asker.ask(server.url, budget_usd=1.0, **options)
    unlisted = {"data": [{key: value for key, value in PRICED["data"][0].items() if key != "outputMax"}]}  # fmt: skip
    with (
        wire.serve(lambda _: wire.json_reply(unlisted), has_models=True) as server,
        pytest.raises(errors.BudgetExceeded, match="128,000 output tokens, since its server"),
    ):
        asker.ask(server.url, budget_usd=1.0)


UNPRICED = {
    "web_search": {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]},
    "service_tier priority": {"service_tier": "priority"},
    "prompt": {"prompt": {"id": "pmpt_1"}},
    "input_file": {
        "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]
    },
}
PRICED_TOO = {
    "service_tier": "flex",
    "tools": [{"type": "function", "name": "f"}],
    "conversation": None,
}


def test_what_has_no_price(asker, monkeypatch):
    """A cost without a listed price is named, never estimated too low: a limit refuses it, otherwise it is confirmed."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda words: asked.append(words) or "y")
    with costing() as server:
        for what, fields in UNPRICED.items():
            with pytest.raises(errors.BudgetExceeded, match=f"no price for {what}, so a budget"):
                asker.ask(server.url, budget_usd=1e6, params=fields)
            asker.ask(server.url, confirm_above_usd=1e6, params=fields)
            assert f"unknown: the server lists no price for {what}" in asked.pop()
        asker.ask(server.url, budget_usd=20.0, confirm_above_usd=20.0, params=PRICED_TOO)
        assert not asked
    lost = asker.journal.add(
        **new(
            base_url=server.url,
            server=server.url,
            request={"input": "a", "model": MODEL} | UNPRICED["web_search"],
        )
    )
    asker.journal.claim(lost.id)
    offers.cache(server.url, Catalogue(models.read(PRICED), (), time.time()))
    [limit] = asker.on(server.url).spending.limits(Delivery(budget_usd_per_day=100.0), server.url)
    assert 8.4 == pytest.approx(limit.reserved, abs=0.01), "what it costs for sure"


def test_prices_of_the_list(asker):
    """The price in a list of today needs no request; an old list does."""
    with costing() as server:
        offers.cache(server.url, Catalogue(models.read(PRICED), (), time.time()))
        asker.ask(server.url, budget_usd=10.0)
        assert [] == looks(server)
        offers.cache(server.url, Catalogue(models.read(PRICED), (), time.time() - 90_000))
        asker.ask(server.url, "More?", budget_usd=10.0)
        assert 1 == len(looks(server))


def test_missing_price_is_requested_once(asker):
    """A price that the server cannot give now is not requested for each row of a map."""
    with wire.serve(lambda _: wire.json_reply({}, status=500), has_models=True) as server:
        for number in range(3):
            with pytest.raises(errors.BudgetExceeded):
                asker.ask(server.url, f"Row {number}?", budget_usd=10.0)
        assert 1 == len(looks(server))
        assert [] == server.posts


def test_conversation_counts(asker):
    """The conversation counts as input: by its server's count, else by its texts; an unfinished answer counts with its limit."""
    price, journal = budget.Price(1.0, 0.0, 1000), asker.journal
    worst = asker.asking.spending.worst_case
    request = {"input": "a" * 30, "model": "m"}
    told = journal.add(**new(request=request))
    coming = worst(request, told.id, price).usd - worst(request, None, price).usd
    assert 1000 + 30 / 3 == pytest.approx(coming)
    journal.finish(told.id, Result("done", {"output_text": "b" * 60}, 1.0))
    by_text = worst(request, told.id, price).usd - worst(request, None, price).usd
    assert (30 + 60) / 3 == pytest.approx(by_text)
    counted = journal.add(**new(request=request, parent=told.id))
    usage = {"input_tokens": 500, "output_tokens": 70}
    journal.finish(counted.id, Result("done", {"output_text": "b", "usage": usage}, 1.0))
    by_server = worst(request, counted.id, price).usd - worst(request, None, price).usd
    assert 570 == pytest.approx(by_server)
    assert budget.size_of("日本") == 3 * budget.size_of("jp")
    image = {"type": "input_image", "image_url": "https://example.org/x.png"}
    assert (
        9_000 == budget.size_of(image) == budget.size_of(image | {"image_url": "data:image/png,"})
    )


def test_of_a_row(asker):
    """The question of another model, asked again, has that model's price and limit."""
    with costing() as server, pytest.raises(errors.BudgetExceeded, match="no price for other"):
        asker.ask(server.url, params={"model": "other"}, budget_usd=100.0)


def test_panel(asker):
    """The line of a running question has its highest cost if a price is known, without a request for it."""
    go_on = threading.Event()
    with costing(0.1, lambda: go_on.wait(600)) as server:
        job = asker.start(server.url, "One?")
        assert "may cost" not in status_line(job.progress)
        offers.cache(server.url, Catalogue(models.read(PRICED), (), 1.0))
        job = asker.start(server.url, "Two?")
        wait_until(lambda: job.progress.state == "sent")
        assert status_line(job.progress).endswith(" s, may cost up to $8.40")
        go_on.set()
        job.wait(30)
        assert [] == looks(server)


REFUSALS = ("", "n", "maybe", EOFError(), RuntimeError(), OSError(), KeyboardInterrupt())


def test_confirmed(asker, monkeypatch):
    """A question above `confirm_above_usd` is sent only after a confirmation; not without a person, or after an interrupt."""
    asked, answers = [], iter([*REFUSALS, "y", "Yes "])

    def answer(words):
        asked.append(words)
        said = next(answers)
        if isinstance(said, BaseException):
            raise said
        return said

    monkeypatch.setattr("builtins.input", answer)
    with costing() as server:
        for said in REFUSALS:
            with pytest.raises((errors.BadInput, errors.Interrupted), match=r"(?i)nothing was sent") as refused:  # fmt: skip
                asker.ask(server.url, confirm_above_usd=8.0)
            assert 2 == len(str(refused.value).splitlines()), said
        assert [] == server.posts
        assert [] == asker.journal.history()
        for cell in "ab":
            asker.ask(server.url, cell=cell, confirm_above_usd=8.0, replay="auto")
            assert asker.ask(server.url, cell=cell, confirm_above_usd=8.0, replay="auto").replayed
        asker.ask(server.url, "Cheap?", confirm_above_usd=8.0, max_output_tokens=1000)
        assert 3 == len(server.posts)
    assert len(REFUSALS) + 2 == len(asked)
    assert "It may cost up to $8.40 (100,000 output tokens" in asked[0]


@pytest.mark.parametrize("options", [{"background": True}, {"is_attended": False}])
def test_nobody_is_asked(asker, monkeypatch, options):
    """In the background and in a map no confirmation is asked for: the question is refused in two lines before it is sent."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    with costing() as server:
        with pytest.raises(errors.BadInput, match="cannot be confirmed") as refused:
            asker.ask(server.url, confirm_above_usd=8.0, **options)
        assert 2 == len(str(refused.value).splitlines())
        assert [] == server.posts


def test_unknown_price_is_confirmed(asker, monkeypatch):
    """A question without a known price must be confirmed."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda words: asked.append(words) or "y")
    with wire.serve(lambda _: wire.json_reply(wire.response("Fine."))) as server:
        assert "Fine." == asker.ask(server.url, confirm_above_usd=100.0).text
    assert "unknown" in asked[0]


def test_refused_is_not_confirmed(asker, monkeypatch):
    """A question that a limit refuses asks for no confirmation."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    with costing() as server, pytest.raises(errors.BudgetExceeded):
        asker.ask(server.url, confirm_above_usd=1.0, budget_usd=2.0)


def test_old_journal(asker):
    """The costs of an earlier version's journal are counted; unknown ones with their highest value."""
    journal = asker.journal
    journal.finish(journal.add(**new()).id, _paid(1.0))
    journal.claim(journal.add(**new(request={"input": "Lost?", "model": MODEL})).id)
    asker.session.close(10)
    journal._disconnect()
    with closing(sqlite3.connect(asker.path)) as db:
        db.execute("DROP INDEX requests_by_day")
        db.execute("ALTER TABLE requests DROP COLUMN worst_usd")
        db.execute("ALTER TABLE requests DROP COLUMN reserved_at")
        db.execute("PRAGMA user_version = 6")
        db.commit()
    with (
        costing() as server,
        pytest.raises(errors.BudgetExceeded, match=r"\$1\.00 spent today, up to \$8\.40 not"),
    ):
        asker.ask(server.url, budget_usd_per_day=10.0)
