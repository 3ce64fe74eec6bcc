"""The Python interface: one question, or one for each row of a table.

    answer = ask("Why is the sky dark at night?", effort="high")
    answers = ask.map("Rate {{title}} by {{author}}", rows, schema=Rating)
    answers = ask.map("Rate {{title}} by {{author}}", rows, schema=Rating, client=dask_client)

Options have the long names of %%o3pro; attachments, schemas and tools are objects. Settings are
those of the notebook, if there is one; as keywords they are valid for one call. A question is
outside every conversation, unless a chat or an answer to continue is named.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from datetime import date, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from aiml_magic.api import hidden
from aiml_magic.errors import AimlMagicError, BadInput, refusing
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.replay import SAMPLE, sendable, without_delivery
from aiml_magic.journal.store import Journal
from aiml_magic.journal.table import StoredAnswers
from aiml_magic.notebook import options
from aiml_magic.notebook.answers import Answers
from aiml_magic.notebook.magics import O3Pro, loaded
from aiml_magic.notebook.maps import gather
from aiml_magic.notebook.options import Given
from aiml_magic.notebook.rows import fields_of, rows_of
from aiml_magic.notebook.settings import HELP
from aiml_magic.question.prompts import names_in
from aiml_magic.runner.jobs import Job
from aiml_magic.text import did_you_mean, dump, one_line

if TYPE_CHECKING:
    from aiml_magic.runner.cluster import Cluster
    from aiml_magic.session.question import Question
    from aiml_magic.show.follow import Counter

# Several answers are waited for, and those of `again` continue what they continued before.
_WITHOUT_EFFECT = {"ask.map": {"background"}, "again": {"background", "chat", "new"}}
_NO_OPTIONS = {"out", "quiet", "dry_run", "raw"}  # options of a cell only


class Ask:
    """Asks from Python; see the module."""

    def __call__(self, question: str, **given: Any) -> Any:
        """The answer to a question; with `background=True` its job. Raises the errors of a cell.

        Several models, efforts or samples give `Answers`.
        """
        magics, each, things = _read(given, "ask")
        raw = [{**chosen, "raw": True} for chosen in each]
        questions = magics.questions(raw, _checked(question), things)
        if len(questions) > 1:
            return gather(magics.starts(questions), 2 * magics.max_concurrency)
        job = magics.asking.ask(questions[0])
        return job if given.get("background") else _waited(job)

    def map(
        self,
        template: str,
        rows: Iterable[Any],
        *,
        on_error: Literal["raise", "keep"] = "raise",
        progress: bool = True,
        client: Any = None,
        **given: Any,
    ) -> Answers:
        """One answer for each row, in order; at most `max_concurrency` at once.

        Rows are dicts, a table, a dict of columns, records or values. `{{name}}` in the template is
        a field of the row, `{{row}}` the row itself, and any name a plain value. Answered rows are
        replayed. With `on_error="keep"` an error takes the place of its answer; else the first is
        raised, with an entry for each row as its `answers`: unsent rows are cancelled, sent ones
        answered into the journal. An interrupt stops these as well. With a `distributed.Client` as
        `client`, the workers of its cluster send what the journal lacks, a row per thread, with the
        API key of their machine.
        """
        _checked(template)
        keeps_errors = _keeps_errors(on_error)
        magics, each, things = _read(given, "ask.map", "on_error", "progress", "client")
        at_once: float = 2 * magics.max_concurrency  # half of them are queued at the runner
        cluster = None if client is None else _cluster(client, given, magics.asking.journal)
        if cluster is not None:
            at_once = min(2 * cluster.capacity, given.get("max_concurrency") or math.inf)

        def start(row: Any, chosen: Given) -> Job:
            columns = [name for name in chosen.get("attach", ()) if name not in things]
            variables = {**fields_of(row, names, columns), **things}
            question = magics.question(chosen, template, variables)
            return magics.asking.ask(question.unattended(), cluster)

        names = names_in(template)
        starts = (partial(start, row, chosen) for row in rows_of(rows) for chosen in each)
        total = len(rows) * len(each) if isinstance(rows, Sized) else None
        try:
            return gather(
                starts, at_once, keeps_errors=keeps_errors, show=_counter(total, progress)
            )
        finally:
            if cluster is not None:
                cluster.close()

    def again(self, answers: Answers, **given: Any) -> Answers:
        """The questions of `answers` with other options; see `Answers.again`."""
        on_error, progress = given.pop("on_error", "raise"), given.pop("progress", True)
        keeps_errors = _keeps_errors(on_error)
        magics, each, things = _read(given, "again", "on_error", "progress")
        again: Iterable[Any] = map(_asked, answers)
        if given.get("samples") is not None:
            again = _without_samples(again)
        questions = [
            _question_again(magics, answer, chosen, things) for answer in again for chosen in each
        ]
        return gather(
            (partial(magics.asking.ask, question) for question in questions),
            2 * magics.max_concurrency,
            keeps_errors=keeps_errors,
            show=_counter(len(questions), progress),
        )


def history(
    notebook: str | None = None,
    chat: str | None = None,
    words: str | None = None,
    since: Any = None,
) -> Answers:
    """The journal's answers, oldest first: of a notebook, of a chat, with words, since a time.

    Answers are read from the journal when they are used. `since` is a date, a datetime, a text of
    ISO 8601, or seconds since 1970; without a time zone it is local time. Failed and incomplete
    questions are included, with their `status` and `error`. Sends nothing. Raises BadInput.
    """
    magics = loaded_or_new()
    journal = magics.asking.journal
    selected = {"notebook": notebook, "chat": chat, "words": words}
    texts = {name: _text(name, value) for name, value in selected.items()}
    return Answers(StoredAnswers(journal, journal.select(**texts, since=_seconds(since))))


ask = Ask()


@cache
def _without_notebook() -> O3Pro:
    return O3Pro(None)  # type: ignore[arg-type]  # only outputs need a shell


# Neither `cache` nor, since Python 3.12, `cached_property` has a lock against a second thread.
_first_use = threading.Lock()


def loaded_or_new() -> O3Pro:
    """The magics of the notebook, else those of a plain script; one session for all threads."""
    with _first_use:
        magics = loaded() or _without_notebook()
        assert magics.session
    return magics


def _read(
    given: Given, function: str, *own: str
) -> tuple[O3Pro, Sequence[Given], Mapping[str, Any]]:
    """The magics with the settings of a call, the options of each question, and their objects.

    `own` are further parameters of the function. Raises BadInput.
    """
    without = _NO_OPTIONS | _WITHOUT_EFFECT.get(function, set())
    known = [option.name for option in options.OPTIONS if option.name not in without]
    settings = {name: given[name] for name in given if name in HELP and name not in known}
    for name in given.keys() - settings.keys() - set(known):
        names = [*known, *HELP, *own]
        hint = did_you_mean(name, names) or f"There are {', '.join(dict.fromkeys(names))}."
        raise BadInput(f"{function} has no option {name}. Nothing was sent.", hint)
    here = {name: value for name, value in settings.items() if value is not None}
    magics = loaded_or_new().changed(here) if here else loaded_or_new()
    asked = {name: value for name, value in given.items() if name not in settings}
    each, things = zip(*map(_chosen, options.each(asked)), strict=True)
    return magics, each, things[0]


def _asked(entry: Any) -> Any:
    """The answer of an entry; for an error, that of its row, which has the question."""
    if isinstance(entry, AimlMagicError) and entry.row_id is not None:
        journal = loaded_or_new().asking.journal
        return journal.answers([journal.row(entry.row_id)])[0]
    return entry


def _without_samples(answers: Iterable[Any]) -> Iterator[Any]:
    """The answers without their sample numbers, and only the first of several samples."""
    seen: set[str] = set()
    for answer in answers:
        if not isinstance(answer, Answer):
            yield answer
            continue
        request = sendable(answer.request)
        question = dump([request, answer.continues])
        if SAMPLE not in answer.request or question not in seen:
            yield replace(answer, request=request)
        seen.add(question)


def _question_again(
    magics: O3Pro, answer: Any, chosen: Given, things: Mapping[str, Any]
) -> Question:
    """The question of an answer with the chosen options; it continues the same answer as before.

    Raises BadInput for an incomplete question.
    """
    request = without_delivery(answer.request) if isinstance(answer, Answer) else {}
    text, attached = _text_and_parts(request.get("input"))
    functions = [tool for tool in request.get("tools", ()) if tool.get("type") == "function"]
    if text is None or (functions and "tool" not in chosen):
        what = "calls functions of a notebook" if text else "is incomplete"
        raise BadInput(
            f"The question of {answer!r} {what}. Nothing was sent.",
            "Ask it again in its cell, or leave it out.",
        )
    question = magics.question({**chosen, "alone": True, "raw": True}, text, things)
    made = {name: value for name, value in question.request().items() if name in _fields_of(chosen)}
    reasoning = {name: chosen[name] for name in ("effort", "mode", "summary") if name in chosen}
    if reasoning:
        made["reasoning"] = {**request.get("reasoning", {}), **reasoning}
    return question.unattended().as_asked(
        request | made,
        attached=[*attached, *question.attached],
        place=replace(question.place, continues=_parent_of(answer, magics)),
    )


def _text_and_parts(asked: Any) -> tuple[str | None, list[Any]]:
    """The text of a question and its attachments; `None` for an incomplete question."""
    match asked:
        case str():
            return asked, []
        case [{"role": "user", "content": [{"text": str(text)}, *parts]}] if (
            "sha256," not in json.dumps(parts)
        ):
            return text, parts
        case _:
            return None, []


def _fields_of(chosen: Given) -> set[str]:
    """The fields of a request that the chosen options make."""
    named = {"schema": "text", "tool": "tools"}
    fields = {named.get(name, name) for name in chosen}
    return fields | {name for name, _ in chosen.get("param", ())}


def _parent_of(answer: Answer, magics: O3Pro) -> int | None:
    if answer.journal_id is None:
        return None
    journal = loaded_or_new().asking.journal
    parent = journal.row(answer.journal_id).parent
    if parent is not None and magics.asking.journal is not journal:
        raise BadInput(
            f"{answer!r} continues an answer that the other journal does not have. "
            "Nothing was sent.",
            "Ask it again without journal=.",
        )
    return parent


def _text(name: str, value: Any) -> str | None:
    """A text to select by, also from a path or a number. Raises BadInput."""
    if isinstance(value, os.PathLike | numbers.Integral) and not isinstance(value, bool):
        value = str(value)
    if value is None or isinstance(value, str):
        return value
    raise BadInput(f"{name} cannot be {one_line(repr(value), 40)}.", "It takes a text.")


def _seconds(since: Any) -> float | None:
    """Seconds since 1970. Raises BadInput."""
    if since is None:
        return None
    try:
        seconds = _since_1970(since)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if math.isnan(seconds):
        raise BadInput(
            f"since cannot be {one_line(repr(since), 40)}.", "It takes a date, such as 2026-11-25."
        )
    return seconds


def _since_1970(since: Any) -> float:
    match since:
        case bool():
            raise TypeError(since)
        case numbers.Real():
            return float(since)
        case datetime():
            return since.timestamp()
        case date():
            return datetime(since.year, since.month, since.day).timestamp()  # noqa: DTZ001  # local
    return datetime.fromisoformat(str(since).strip()).timestamp()  # also of NumPy


def _keeps_errors(on_error: str) -> bool:
    if on_error not in ("raise", "keep"):
        raise BadInput(
            f"on_error cannot be {on_error!r}. Nothing was sent.", "It takes raise or keep."
        )
    return on_error == "keep"


def _checked(question: Any) -> str:
    if isinstance(question, str):
        return question
    raise BadInput(
        f"The question is a {type(question).__name__}, not a text. Nothing was sent.",
        "Write a text, and attach other objects with attach=.",
    )


def _cluster(client: Any, given: Given, journal: Journal) -> Cluster:
    """The cluster of a Dask client. Raises BadInput for options that a worker cannot use."""
    from aiml_magic.runner.cluster import Cluster

    tool = given.get("tool", "web_search")
    stands_alone = {"chat", "after", "new"}.isdisjoint(given)
    if not stands_alone or tool not in ("web_search", ["web_search"]):
        raise BadInput(
            "On a cluster each row stands alone, and the only tool is web_search. "
            "Nothing was sent.",
            "Leave out chat, after, new and tool; or leave out client.",
        )
    if hidden.texts(given.get("param")):
        raise BadInput(
            "The secrets in param cannot be sent to a cluster. Nothing was sent.",
            "Leave them out, or leave out client.",
        )
    if getattr(client, "status", None) != "running":
        raise BadInput(
            "The Dask client is not connected. Nothing was sent.",
            "Give client= a connected distributed.Client.",
        )
    return Cluster(client, journal)


def _waited(job: Job) -> Answer:
    try:
        return job.wait()
    except KeyboardInterrupt:
        job.interrupt()
        return job.outcome()


def _chosen(given: Given) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options as a cell would have them, and the objects that they name. Raises BadInput."""
    known = {option.name: option for option in options.OPTIONS}
    chosen: dict[str, Any] = {}
    things: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or value is False:
            continue
        match name:
            case "attach" | "tool":
                entries = value if isinstance(value, list | tuple) else [value]
                chosen[name] = [
                    _named(entry, f"{name}_{number}", things)
                    for number, entry in enumerate(entries, start=1)
                ]
            case "schema":
                things["schema"] = value
                chosen[name] = "schema"
            case "param":
                with refusing("param has no fields", "It takes a dict."):
                    fields = dict(value)
                chosen[name] = [
                    options.check(known[name], f"{field}={_json(entry)}")
                    for field, entry in fields.items()
                ]
            case "sample":
                chosen[name] = value
            case "after":
                chosen[name] = str(getattr(value, "journal_id", None) or value)
            case _:
                chosen[name] = options.check(known[name], value)
    if not {"chat", "after", "new"} & chosen.keys():
        chosen["alone"] = True
    return chosen, things


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return "?"  # invalid for every field


def _named(value: Any, name: str, things: dict[str, Any]) -> str:
    """The name under which a value is stored in `things`; a text is a path, a URL or a name."""
    if isinstance(value, str):
        return value
    name = getattr(value, "__name__", name) if callable(value) else name
    things[name] = value
    return name


def _counter(total: int | None, progress: Any) -> Counter:
    """A callback that shows the number of answered rows, by tqdm if installed; `None` ends it.

    Without `progress` it shows nothing.
    """
    if not progress:
        return lambda *_: None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return loaded_or_new().view.counter(total)
    bar, shown = tqdm(total=total, unit="row"), 0

    def show(done: int | None, wait: float) -> None:
        nonlocal shown
        if done is None:
            bar.close()
            return
        if shown != math.ceil(wait):
            shown = math.ceil(wait)
            bar.set_postfix_str(f"waiting {shown} s for the server" if shown else "")
        bar.update(done - bar.n)

    return show
