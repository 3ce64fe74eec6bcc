"""The same from Python: one question, or one for each row of a table.

    answer = ask("Why is the sky dark at night?", effort="high")
    answers = ask.map("Rate {{title}} by {{author}}", rows, schema=Rating)
    answers = ask.map("Rate {{title}} by {{author}}", rows, schema=Rating, client=dask_client)

The options are those of %%o3pro, by their long names; attachments, schemas and tools are given as
what they are. The settings are those of the notebook, if there is one. A question stands alone,
unless a chat is named or an answer to continue.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from aiml_magic import errors, hidden
from aiml_magic.journal.answer import Answer
from aiml_magic.notebook import options
from aiml_magic.notebook.magics import O3Pro, loaded
from aiml_magic.notebook.rows import fields_of, rows_of
from aiml_magic.question.prompts import names_in
from aiml_magic.runner.jobs import Job, Sender
from aiml_magic.text import did_you_mean, plain

if TYPE_CHECKING:
    from aiml_magic.runner.cluster import Cluster

_TICK = 0.005  # seconds between two looks at the jobs of a map
_NO_OPTIONS = {"out", "quiet", "dry_run", "raw"}  # these are of a cell


class Answers(list[Any]):
    """Answers in the order of their rows; an error stands for the answer of a row that failed and was kept."""

    def to_frame(self) -> Any:
        """A DataFrame (pandas) with a line for each row: text, the fields of what was parsed, tokens, dollars, seconds, error.

        Its texts are made plain, since a DataFrame is looked at; `text` and `parsed` of each answer
        are what the model wrote.
        """
        import pandas as pd

        return pd.DataFrame([_line(answer) for answer in self])


class Ask:
    """Asks from Python; see the module."""

    def __call__(self, question: str, **given: Any) -> Any:
        """The answer to a question; with `background=True` its job. Raises what a cell would."""
        job = _start(_checked(question), {}, given)
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
        """One answer for each row, asked at once as far as `max_concurrency` allows, in the order of the rows.

        `{{name}}` in the template is a field of the row, `{{row}}` the row itself, as is each name
        where a row is a plain value. Rows are dicts, a table, a dict of columns, records, values. With
        `on_error="keep"` an error takes the place of its answer. Else the first one is raised, with
        an entry for each row as its `answers`, `None` where none came: what was not sent yet is
        taken back, and what was sent is answered into the journal. An interrupt stops that too.
        Asked again, the rows that were answered are replayed.

        With a `distributed.Client` as `client`, the workers of its cluster send what the journal
        lacks, as many at once as they have threads. Each finds the API key where it runs, in
        AIML_API_KEY say; the answers are kept in the journal here.
        """
        _checked(template)
        if on_error not in ("raise", "keep"):
            raise errors.BadInput(
                f"on_error cannot be {on_error!r}. Nothing was sent.", "It takes raise or keep."
            )
        asked = _Asked(on_error, _counter(rows) if progress else _silent)
        cluster = None if client is None else _cluster(client, given)
        places = loaded_or_new().max_concurrency if cluster is None else cluster.places
        try:
            names = names_in(template)
            for row in rows_of(rows):
                asked.add(
                    partial(
                        _start,
                        template,
                        fields_of(row, names),
                        given,
                        is_template=True,
                        sender=cluster,
                    )
                )
                asked.settle(2 * places)  # so that those on their way have others behind them
            asked.settle(1)
        except (errors.AimlMagicError, KeyboardInterrupt) as error:
            raise asked.stopped(error) from error
        except BaseException:  # of the rows themselves
            asked.withdraw()
            raise
        finally:
            asked.show(None)
            if cluster is not None:
                cluster.close()
        return asked.answers


class _Asked:
    """The rows of a map that were asked so far: their answers, and the jobs of those that have none yet."""

    def __init__(self, on_error: str, show: Callable[[int | None], None]) -> None:
        self.answers = Answers()
        self.show = show
        self._keeps_errors = on_error == "keep"
        self._running: dict[int, Job] = {}  # by the place of the row

    def add(self, start: Callable[[], Job]) -> None:
        """Asks the next row.

        A budget that is used up ends the map, but not before what was sent is answered.
        """
        try:
            self._running[len(self.answers)] = start()
        except errors.BudgetExceeded:
            self.settle(1)
            raise
        except errors.AimlMagicError as error:
            if not self._keeps_errors:
                raise
            self.answers.append(error)
        else:
            self.answers.append(None)

    def settle(self, limit: int) -> None:
        """Puts the answers that came in their places, and waits until fewer than `limit` are missing."""
        while True:
            for place in [place for place, job in self._running.items() if job.step()]:
                self.answers[place] = self._outcome(self._running.pop(place))
            self.show(len(self.answers) - len(self._running))
            if len(self._running) < limit:
                return
            time.sleep(_TICK)

    def stopped(self, error: errors.AimlMagicError | KeyboardInterrupt) -> errors.AimlMagicError:
        """The error with which the map ends.

        What is on its way goes on, unless the person interrupted it.
        """
        stopped: errors.AimlMagicError
        if isinstance(error, errors.AimlMagicError):
            stopped = error
            self.withdraw()
        else:
            count = sum(isinstance(answer, Answer) for answer in self.answers)
            again = "Ask again: what was answered is replayed."
            stopped = errors.Interrupted(
                f"Interrupted after {count} answers; they are kept.", again
            )
            for job in self._running.values():
                job.interrupt(0)
        stopped.answers = self.answers  # type: ignore[attr-defined]  # only here there are several
        return stopped

    def withdraw(self) -> None:
        """Takes back what was not sent yet."""
        for job in self._running.values():
            job.withdraw()

    def _outcome(self, job: Job) -> Answer | errors.AimlMagicError:
        try:
            return job.outcome()
        except errors.AimlMagicError as error:
            if not self._keeps_errors:
                raise
            return error


ask = Ask()


@cache
def _without_notebook() -> O3Pro:
    return O3Pro(None)  # type: ignore[arg-type]  # a shell is needed only to show things


_first_use = (
    threading.Lock()
)  # neither `cache` nor, from Python 3.12 on, `cached_property` keeps two threads apart


def loaded_or_new() -> O3Pro:
    """The magics of the notebook with their settings, else those of a plain script; with one session for all threads."""
    with _first_use:
        magics = loaded() or _without_notebook()
        assert magics.session
    return magics


def _start(
    text: str,
    variables: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    is_template: bool = False,
    sender: Sender | None = None,
) -> Job:
    magics = loaded_or_new()
    chosen, things = _chosen(given)
    question = magics.question({**chosen, "raw": not is_template}, text, {**variables, **things})
    return magics.asking.ask(question, sender)


def _checked(question: Any) -> str:
    if isinstance(question, str):
        return question
    raise errors.BadInput(
        f"The question is a {type(question).__name__}, and no text. Nothing was sent.",
        "Write one, and give what it is about with attach=.",
    )


def _cluster(client: Any, given: Mapping[str, Any]) -> Cluster:
    """The cluster of a Dask client. Raises BadInput for what a worker cannot have."""
    from aiml_magic.runner.cluster import Cluster

    if {"chat", "after", "new", "background"} & given.keys() or given.get(
        "tool", "web_search"
    ) not in (
        "web_search",
        ["web_search"],
    ):
        raise errors.BadInput(
            "On a cluster each row stands alone, without functions of the notebook and servers of tools. Nothing was sent.",
            "Leave out chat, after, new, background and tool; or leave out client.",
        )
    if hidden.texts(given.get("param")):
        raise errors.BadInput(
            "On a cluster there is no way for the secrets in param. Nothing was sent.",
            "Leave them out, or leave out client.",
        )
    if getattr(client, "status", None) != "running":
        raise errors.BadInput(
            "The Dask client is not connected. Nothing was sent.",
            "Give client= a distributed.Client that is.",
        )
    return Cluster(client, loaded_or_new().asking.journal)


def _waited(job: Job) -> Answer:
    try:
        return job.wait()
    except KeyboardInterrupt:
        job.interrupt()
        return job.outcome()


def _chosen(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options as a cell would have them, and the things that they name. Raises BadInput."""
    known = {option.name: option for option in options.OPTIONS if option.name not in _NO_OPTIONS}
    chosen: dict[str, Any] = {}
    things: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"There are {', '.join(known)}."
            raise errors.BadInput(f"ask has no option {name}. Nothing was sent.", hint)
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
                chosen[name] = [
                    options.check(known[name], f"{field}={_json(entry)}")
                    for field, entry in dict(value).items()
                ]
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
        return "?"  # which no field takes


def _named(value: Any, name: str, things: dict[str, Any]) -> str:
    """The name of a thing, under which it is then found; a text is a path, an address or a name already."""
    if isinstance(value, str):
        return value
    name = getattr(value, "__name__", name) if callable(value) else name
    things[name] = value
    return name


def _line(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, Answer):
        return {"text": None, "error": str(answer or "not answered")}
    parsed = answer.parsed
    fields = (
        parsed
        if isinstance(parsed, dict)
        else getattr(parsed, "__dict__", {} if parsed is None else {"parsed": parsed})
    )
    told = {
        "text": str(answer),
        "total_tokens": answer.usage.total_tokens,
        "cost_usd": answer.cost_usd,
        "seconds": answer.seconds,
    }
    return {**told, "replayed": answer.replayed, **_plain(dict(fields)), "error": None}


def _plain(value: Any) -> Any:
    """A value with its texts made plain, however deep in lists and dicts they are."""
    match value:
        case str() if type(value) is str:
            return plain(value)
        case dict():
            return {_plain(name): _plain(entry) for name, entry in value.items()}
        case list():
            return [_plain(entry) for entry in value]
        case _:
            return value


def _silent(_: int | None) -> None: ...


def _counter(rows: Any) -> Callable[[int | None], None]:
    """Shows how many rows are answered: by tqdm if it is there, else as the front end can.

    `None` ends it.
    """
    total = len(rows) if hasattr(rows, "__len__") else None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return loaded_or_new().view.counter(total)
    bar = tqdm(total=total, unit="row")

    def show(done: int | None) -> None:
        if done is None:
            bar.close()
        else:
            bar.update(done - bar.n)

    return show
