"""The commands of %aiml: everything that asks nothing."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiml_magic import addresses, errors
from aiml_magic.files import short
from aiml_magic.notebook import options, params
from aiml_magic.text import count_of, did_you_mean, one_line, printable, say

if TYPE_CHECKING:
    from aiml_magic.journal.rows import Row
    from aiml_magic.journal.store import Journal
    from aiml_magic.session.asking import Asking, Question, Session
    from aiml_magic.show.follow import View


_MOST_ROWS = 1_000_000  # of a notebook that are exported
_FAR = 5e10  # dollars: more than anybody has
_MOST_MODELS = 200  # lines that one look at a list may have


class Context(NamedTuple):
    """What a command works on.

    `view` gives the view, which is made when it is first needed; `variables` are the notebook's.
    """

    session: Session
    base_url: str
    journal_path: Path
    question: Callable[[], Question]  # an empty one, with the settings
    view: Callable[[], View]
    variables: Mapping[str, Any]

    @property
    def asking(self) -> Asking:
        return self.session.on(self.base_url, self.journal_path)

    @property
    def journal(self) -> Journal:
        return self.asking.journal


def run(line: str, context: Context) -> None:
    """Carries out one command line. Raises BadInput for one that there is not."""
    name, _, rest = line.strip().partition(" ")
    name = name or "help"
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or "%aiml help lists them all."
        raise errors.BadInput(f"%aiml has no command {name[:40]}.", hint)
    given, rest = _given(name, rest.strip())
    COMMANDS[name].carry_out(context, rest, **given)


def _given(name: str, rest: str) -> tuple[dict[str, Any], str]:
    """The options of a command by name, wherever they stand, and what else was typed.

    Raises BadInput.

    A word in quotes and what follows `--` are no options; nor are words to search for, but the
    first.
    """
    known = {
        flag: option
        for option in COMMANDS[name].options
        for flag in (option.short, option.long)
        if flag
    }
    given: dict[str, Any] = {}
    while (word := _option(rest, is_first=name == "search")) is not None:
        flag, equals, value = word.group().partition("=")
        option = known.get(flag)
        if option is None:
            hint = (
                did_you_mean(flag, known)
                or "%aiml help shows how each is written; what begins with a dash goes after --."
            )
            raise errors.BadInput(f"%aiml {name} has no option {flag[:40]}.", hint)
        end = word.end()
        if option.read is not None and not equals:
            behind = options.WORD.search(rest, end)
            if behind is None:
                raise errors.BadInput(
                    f"{flag} needs a value: {option.metavar}.", f"{option.long} is {option.help}."
                )
            value, end = behind.group(), behind.end()
        given[option.name] = (
            True if option.read is None else options.check(option, options.unquoted(value))
        )
        rest = f"{rest[: word.start()].rstrip()} {rest[end:].lstrip()}".strip()
    return given, re.sub(r"(?:^|\s)--(?:\s|$)", " ", rest, count=1).strip()


def _option(rest: str, *, is_first: bool) -> re.Match[str] | None:
    """The first word of a line that is an option, if there is one; with `is_first` only if the line begins with it."""
    words = takewhile(lambda word: word.group() != "--", options.WORD.finditer(rest))
    found = next((word for word in words if re.match(r"--?[A-Za-z]", word.group())), None)
    return None if found is not None and is_first and found.start() > 0 else found


def id_of(name: str, variables: Mapping[str, Any]) -> str:
    """The id that a person means: of the answer or the job that a variable holds, else what they wrote.

    A number holds in one journal only; a notebook that others run names the variable.
    """
    from aiml_magic.journal.answer import Answer
    from aiml_magic.runner.jobs import Job

    match variables.get(name):
        case Answer(journal_id=int(number)) | Job(id=number):
            return str(number)
        case _:
            return name


def usage() -> str:
    """The help of %aiml."""
    rows = "\n".join(f"  %aiml {command.usage:<30} {command.help}" for command in COMMANDS.values())
    return f"Look after keys, answers and the session; asks nothing, costs nothing.\n\n{rows}\n\nTo ask: %%o3pro?\n"


def dry_run(question: Question, asking: Asking) -> str:
    """What would be sent, how large it is, what it may cost, and whether it would be replayed."""
    from aiml_magic.journal.replay import with_file_hashes

    plan = asking.plan(question)
    body = json.dumps(with_file_hashes(plan.request), indent=1, ensure_ascii=False)
    size = len(json.dumps(plan.request, ensure_ascii=False).encode("utf-8", "replace"))
    price = asking.price(question.model)
    lines = [body, f"{size:,} bytes to {plan.server}; nothing was sent."]
    if plan.hidden:
        lines.append(
            "Headers, keys, tokens and passwords in it would be sent, and are shown nowhere."
        )
    lines += [
        f"The vendor's description of a request has no field {name}; it would be sent all the same."
        for name in params.undescribed(plan.request)
    ]
    if plan.parent is not None:
        form = "by its id" if asking.chain(question, plan) == "id" else "as a transcript"
        lines.append(f"It continues answer {plan.parent.id}, sent {form}.")
    if plan.known is not None and plan.known.state == "done":
        lines.append(
            f"It would be replayed: answer {plan.known.id} is in the journal, so it costs nothing."
        )
    elif plan.known is not None and plan.known.is_doubtful:
        lines.append(
            f"It would not be sent: question {plan.known.id} may have been charged. {errors.check(plan.known.id)}"
        )
    elif price is None:
        lines.append("What it may cost is unknown: the server lists no price.")
    else:
        worst = asking.spending.worst_case(question, plan, price)
        lines.append(f"It may cost up to ${worst:,.2f}: an estimate, by the server's price list.")
    return "\n".join(lines)


def _status(context: Context, rest: str) -> None:
    from aiml_magic import credentials

    _no_more(rest)
    is_sandbox = context.session.sandbox_url is not None
    key = None if is_sandbox else credentials.find_key()
    server, _ = context.asking.server
    say(f"Key      {f'{key.source}, {key.ending}' if key else _no_key(context)}")
    say(f"Server   {credentials.Secrets(key.text).mask(server) if key else server}")
    say(f"Balance  {_balance(context)}")
    say(f"Model    {_model_in_use(context)}")
    say(f"Journal  {short(context.journal_path)}")
    say(f"Spent    {_spent(context)}{', in play money' if is_sandbox else ''}")


def _model_in_use(context: Context) -> str:
    """The model that is asked, until when it is there, and what follows it."""
    from aiml_magic.session import advice

    model = context.question().model
    try:
        said = context.asking.models()
    except errors.AimlMagicError:
        return model
    return said.fate(model, advice.today()) or model


def _models(context: Context, rest: str) -> None:
    """Says what the server offers, a line for each model; what it says itself is cut to a length."""
    from aiml_magic.session import advice

    words = rest.lower().split()
    said = context.asking.models(is_wanted=True)
    lines = [advice.line(model.id, said) for model in said.all]
    found = [line for line in lines if all(word in line.lower() for word in words)]
    say("\n".join(found[:_MOST_MODELS]) or "The server lists no model of these words.")
    if len(found) > _MOST_MODELS:
        say(
            f"{len(found) - _MOST_MODELS:,} more; %aiml models WORDS shows those that hold the words."
        )


def _spent(context: Context) -> str:
    server, _ = context.asking.server
    midnight = (
        datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    )
    session, unknown = context.journal.spent(server, session=context.session.id)
    notebook, _ = context.journal.spent(server, notebook=context.session.notebook)
    day, _ = context.journal.spent(server, since=midnight)
    of_unknown_cost = f" (and {unknown} of unknown cost)" if unknown else ""
    return f"${session:,.4f} in this session{of_unknown_cost}, ${notebook:,.4f} in this notebook, ${day:,.4f} today"


def _no_key(context: Context) -> str:
    from aiml_magic import credentials

    if context.session.sandbox_url:
        return "none needed"
    why = credentials.keyring_trouble()
    trouble = f" (the system's keyring does not answer: {why})" if why else ""
    return f"none: %aiml login, or set AIML_API_KEY{trouble}"


def _balance(context: Context) -> str:
    try:
        billing = context.asking.get("/v2/billing")
        return _dollars(billing["current_balance"])
    except errors.AimlMagicError as error:
        return f"unknown ({error.message.split('. ')[0].rstrip('.')})"
    except (KeyError, TypeError, ValueError):
        return "unknown (the server's answer holds none)"


def _dollars(value: Any) -> str:
    """A sum of money as a person writes it. Raises TypeError and ValueError for what is none."""
    if isinstance(value, bool) or not abs(value) < _FAR:
        raise ValueError(value)
    return f"{'-' * (value < 0)}${abs(value):,.2f}"


def _login(context: Context, rest: str) -> None:
    import getpass

    from aiml_magic import credentials

    _no_more(rest)
    try:
        text = credentials.strip(getpass.getpass("AI/ML API key (it is not shown): "))
    except (
        EOFError,
        OSError,
        RuntimeError,
    ) as error:  # IPython's StdinNotImplementedError is a RuntimeError or NotImplementedError
        raise errors.BadInput("Nobody can type a key here.", "Set AIML_API_KEY instead.") from error
    if not credentials.is_key(text):
        raise errors.BadInput(
            "That is no API key; nothing was saved.",
            "Copy one from https://aimlapi.com/app/keys: it has no blanks.",
        )
    say(f"Saved in {credentials.save_key(text)}: {credentials.ending(text)}")
    used = credentials.find_key()
    if used is not None and used.text != text:
        say(f"{used.source} is set, and goes before it.")
    context.session.sandbox_url = None


def _logout(_: Context, rest: str) -> None:
    from aiml_magic import credentials

    _no_more(rest)
    places, why = credentials.forget_key()
    say(f"Removed from {' and '.join(places)}." if places else "No key was saved.")
    if why:
        say(f"The system's keyring does not answer ({why}); a key in it stays there.")
    if (left := credentials.find_key()) is not None:
        say(f"{left.source} still holds one.")


def _help(_: Context, rest: str) -> None:
    _no_more(rest)
    say(usage())


_NOWHERE = "http://127.0.0.1:9/v1"  # nothing listens there


def _sandbox(context: Context, rest: str, *, if_no_key: bool = False) -> None:
    from aiml_magic import credentials
    from aiml_magic.sandbox import start as sandbox

    if rest not in ("", "stop") or (rest and if_no_key):
        hint = did_you_mean(rest, ["--if-no-key", "stop"]) or "It takes --if-no-key or stop."
        raise errors.BadInput(f"%aiml sandbox does not take {rest[:40]}.", hint)
    if rest == "stop":
        context.session.sandbox_url = None
        say(
            "The sandbox is stopped."
            if sandbox.stop(addresses.home())
            else "No sandbox was running."
        )
    elif if_no_key and credentials.find_key() is not None:
        say("A key was found, so the questions go to the API.")
    elif sys.platform == "emscripten":  # a page of JupyterLite
        context.session.sandbox_url = _NOWHERE
        say("No process can run here, and so no sandbox; its recorded answers can be replayed.")
    else:
        context.session.sandbox_url = sandbox.find_or_start(addresses.home())
        say("The sandbox answers from now on: no key, no cost, and no model behind it.")


def _history(context: Context, rest: str) -> None:
    from aiml_magic.show import charts

    _no_more(rest)
    rows = context.journal.history(context.session.notebook)
    say("\n".join(map(_line, rows)) or "Nothing was asked in this notebook yet.")
    say(f"Spent: {_spent(context)}")
    reported = [(row, row.answer().usage) for row in rows]
    context.view().show_chart(
        charts.usage(
            [
                charts.Turn(row.id, usage.output_tokens, usage.reasoning_tokens, row.cost_usd)
                for row, usage in reported
            ]
        )
    )


def _search(context: Context, rest: str) -> None:
    found = context.journal.search(_needed(rest, "search", "some words"))
    say("\n".join(map(_line, found)) or "No question and no answer holds these words.")


def _show(context: Context, rest: str) -> None:
    row = _row(context, rest, "show")
    context.view().show(row.answer())
    if row.error is not None:
        say(errors.from_dict(row.error))


def _tree(context: Context, rest: str) -> None:
    from aiml_magic.session import conversation
    from aiml_magic.show import charts

    _no_more(rest)
    entries = conversation.tree(context.journal.history(context.session.notebook))
    lines = [
        f"{'   ' * depth}{_line(row)}{' (stale)' * is_stale}" for depth, row, is_stale in entries
    ]
    leaves = []
    for depth, row, is_stale in entries:
        when, status, cost, words = _fields(row)
        told = " · ".join([*([] if status == "completed" else [status]), cost, when])
        leaves.append(charts.Leaf(depth, row.id, row.parent, row.chat, words, told, is_stale))
    context.view().show_chart(
        charts.tree(leaves), "\n".join(lines) or "Nothing was asked in this notebook yet."
    )


def _resume(context: Context, rest: str) -> None:
    from aiml_magic.runner.jobs import left_at_cluster

    chats = context.asking.chats.resume(rest.strip("\"'"))
    told = ", ".join(
        f"{printable(chat)} ({count_of(count, 'answer')})" for chat, count in chats.items()
    )
    say(
        f"The conversations of this notebook go on: {told}."
        if chats
        else "Nothing was asked in this notebook yet."
    )
    question = context.question()
    jobs = context.asking.unfinished(question.timeout, question.max_concurrency)
    for job in jobs:
        say(f"Question {job.id} is still being answered.")
        context.view().watch(job)
    for row in context.journal.unfinished(context.session.notebook):
        if row.state == "sent" and not row.is_alive:
            what = f"Question {row.id} was sent, and nobody waits for its answer any more. {errors.check(row.id)}"
            say(what if row.cluster is None else left_at_cluster(row))
        elif row.state == "queued" and row.id not in [job.id for job in jobs]:
            say(f"Question {row.id} was not sent; run its cell to ask it.")


def _jobs(context: Context, rest: str) -> None:
    _no_more(rest)
    rows = context.journal.unfinished(context.session.notebook)
    say("\n".join(map(_line, rows)) or "No question of this notebook waits for its answer.")


def _cancel(context: Context, rest: str) -> None:
    row = _row(context, rest, "cancel")
    if not context.asking.cancel(row):
        say(f"Question {row.id} is in the hands of another kernel; it stops within seconds.")
        return
    is_sent = context.journal.row(row.id).seconds is not None
    say(
        f"Question {row.id} is cancelled; {'it was sent, and may be charged' if is_sent else 'nothing was charged'}."
    )


def _approve(context: Context, rest: str) -> None:
    from aiml_magic.api.responses import Response
    from aiml_magic.question.tools import shown_request

    row = _row(context, rest, "approve")
    for request in Response(row.response).of_type("mcp_approval_request"):
        try:
            say(f"Allowed: {shown_request(request)}")
        except ValueError as error:
            raise errors.BadInput(
                f"Answer {row.id} waits for a call that cannot be judged: {error}. {errors.NOTHING_SENT}",
                f"%aiml deny {row.id} does not allow it.",
            ) from error
    _decide(context, row, is_approved=True)


def _deny(context: Context, rest: str) -> None:
    _decide(context, _row(context, rest, "deny"), is_approved=False)


def _decide(context: Context, row: Row, *, is_approved: bool) -> None:
    job = context.asking.decide(row, context.question(), is_approved=is_approved)
    context.view().follow(job)


def _check(context: Context, rest: str) -> None:
    row = _row(context, rest, "check")
    if row.state == "done":
        say(f"Question {row.id} is answered: %aiml show {row.id}.")
    elif row.is_alive:
        say(f"Question {row.id} is being answered: %aiml jobs.")
    elif row.state == "queued" or (row.state == "cancelled" and row.seconds is None):
        say(f"Question {row.id} was never sent, and cost nothing.")
    else:
        fate, usd = context.asking.check(row)
        say(_FATES[fate].format(id=row.id, usd="an unknown sum" if usd is None else f"${usd:,.4f}"))


_FATES = {
    "answered": "The server still has the answer to question {id}; it is in the journal now: %aiml show {id}.",
    "pending": "The server still works on question {id}.\n"
    "Check again in some minutes, or run its cell again: that waits for the answer, and sends nothing.",
    "charged": "The server finished question {id} and charged {usd}, but does not give out its text.\n"
    "Only --fresh asks once more, and pays once more.",
    "failed": "Question {id} failed at the server; nothing was charged.\nRun its cell again to ask once more.",
    "unknown": "The server's log has no question {id}. It may not have arrived, or is not over: the log is written at the end.\n"
    "Check again in some minutes; if it never appears there, nothing was charged, and --fresh asks once more.",
}


def _record(context: Context, rest: str) -> None:
    name = _needed(rest, "record", "a file, such as tutorial.o3pro")
    known = context.session.recordings.start(_path(name))
    say(
        f"Every answer is also written to {name} from now on{f'; it holds {known} already' if known else ''}."
    )


def _replay(context: Context, rest: str) -> None:
    name = _needed(rest, "replay", "a file that %aiml record has written")
    count = context.asking.replay_file(_path(name))
    say(
        f"{count_of(count, 'answer')} of {name} can be replayed, without a key and without a network."
    )


def _export(
    context: Context,
    rest: str,
    *,
    chat: str = "main",
    all: bool = False,  # noqa: A002  # as it is typed
    overwrite: bool = False,
) -> None:
    from aiml_magic.show import export

    name = _needed(rest, "export", "a file that ends with .md, .html, .jsonl, .tex or .bib")
    rows = _everything(context) if all else _chat(context, chat)
    turns = [row.answer() for row in rows]
    export.write(Path(name), turns, may_replace=overwrite)
    say(f"{count_of(len(turns), 'turn')} written to {name}.")


def _everything(context: Context) -> list[Row]:
    """All that was asked in this notebook: each chat, what stood alone, the rows of maps."""
    rows = context.journal.history(context.session.notebook, limit=_MOST_ROWS)
    if not rows:
        raise errors.BadInput("Nothing was asked in this notebook yet.", "Ask something first.")
    return rows


def _chat(context: Context, chat: str) -> list[Row]:
    head = context.asking.chats.head(chat)
    if head is None:
        known = context.asking.chats.names()
        hint = did_you_mean(chat, known) or "Ask something first, or run %aiml resume."
        raise errors.BadInput(f"There is no conversation {chat[:40]} to export yet.", hint)
    return context.journal.ancestors(head)


def _forget(context: Context, rest: str) -> None:
    rows = [
        _row(context, name, "forget")
        for name in _needed(rest, "forget", "the ids of answers").split()
    ]
    for row in rows:
        changed = context.asking.forget(row)
        places = " and ".join(["the journal", *(path.name for path in changed)])
        say(
            f"Answer {row.id} is forgotten: its texts are removed from {places}, what it cost is kept."
        )
    say("Notebooks, exports, and recordings that were made earlier hold what they held.")


def _path(name: str) -> Path:
    """The file that is meant, wherever the notebook goes from here."""
    try:
        return addresses.absolute(Path(name).expanduser())
    except RuntimeError as error:
        raise errors.BadInput(
            f"{name[:60]} is in the home of nobody.", "Name the file by its whole path."
        ) from error


def _row(context: Context, name: str, command: str) -> Row:
    name = id_of(_needed(name, command, "the id of an answer"), context.variables)
    return context.journal.row(context.journal.find_id(name))


def _line(row: Row) -> str:
    """A row on one line: id, time, status, cost, the question's first words."""
    when, status, cost, words = _fields(row)
    return f"{row.id:>4}  {when}  {status:<10}  {cost:>12}  {words}"


def _fields(row: Row) -> tuple[str, str, str, str]:
    """Of a row its time, status, cost, and the question's first words."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.asked_at))
    cost = "cost unknown" if row.cost_usd is None else f"${row.cost_usd:,.4f}"
    words = one_line(row.question, 60)
    status = str(row.response.get("status") or row.state) if row.state == "done" else row.state
    status = "unknown" if status == "sent" and not row.is_alive else status
    status = "recorded" if row.origin == "recording" else status
    return when, printable(status)[:40], cost, words


def _no_more(rest: str) -> None:
    if rest:
        raise errors.BadInput(
            f"This command takes nothing more, but got {rest[:40]}.",
            "%aiml help shows how each is written.",
        )


def _needed(rest: str, command: str, what: str) -> str:
    rest = rest.strip("\"'")
    if not rest:
        raise errors.BadInput(
            f"%aiml {command} needs {what}.", "%aiml help shows how it is written."
        )
    return rest


class Command(NamedTuple):
    """One command: how it is written, what it is for, and the function that does it."""

    usage: str
    help: str
    carry_out: Callable[
        ..., None
    ]  # of a context, of what was typed behind it, and of its options by name
    options: tuple[options.Option, ...] = ()


_IF_NO_KEY = options.Option("--if-no-key", "use it only where no key is found")
_CHAT = options.Option(
    "--chat", "the conversation that is meant (default main)", "-c", "NAME", options.words
)
_ALL = options.Option("--all", "all of this notebook: each chat, what stood alone, maps")
_OVERWRITE = options.Option("--overwrite", "replace a file that is no export")
COMMANDS = {
    "status": Command(
        "status", "key, server, balance, journal, and what this session spent", _status
    ),
    "login": Command(
        "login",
        "give the API key; it is not shown, and kept in the system's keyring or a private file",
        _login,
    ),
    "logout": Command("logout", "remove the saved key", _logout),
    "sandbox": Command(
        "sandbox [--if-no-key|stop]",
        "try everything without a key: a stand-in server, no model",
        _sandbox,
        (_IF_NO_KEY,),
    ),
    "models": Command(
        "models [WORDS]",
        "what the server offers: price, context, longest answer, until when, and what follows",
        _models,
    ),
    "history": Command("history", "what was asked in this notebook, and what it cost", _history),
    "search": Command("search WORDS", "answers of any notebook that hold these words", _search),
    "show": Command("show ID", "show an answer again; asks nothing", _show),
    "tree": Command("tree", "the conversations of this notebook, as a tree", _tree),
    "resume": Command(
        "resume [NOTEBOOK]",
        "go on with this notebook's conversations, or those of its earlier name",
        _resume,
    ),
    "jobs": Command("jobs", "the questions of this notebook that wait for their answer", _jobs),
    "cancel": Command("cancel ID", "stop a question that waits for its answer", _cancel),
    "approve": Command(
        "approve ID", "let the model use the tool that answer ID asks for, and go on", _approve
    ),
    "deny": Command("deny ID", "do not let it, and go on", _deny),
    "check": Command(
        "check ID", "ask the server what became of a request whose connection died", _check
    ),
    "record": Command(
        "record FILE", "also write every answer to a file, for readers without a key", _record
    ),
    "replay": Command("replay FILE", "replay the answers of such a file", _replay),
    "export": Command(
        "export [-c NAME|--all] FILE",
        "write a conversation as .md, .html, .jsonl, .tex or .bib",
        _export,
        (_CHAT, _ALL, _OVERWRITE),
    ),
    "forget": Command(
        "forget ID...",
        "remove the texts of answers from the journal, and the recording being made",
        _forget,
    ),
    "help": Command("help", "this list", _help),
}
