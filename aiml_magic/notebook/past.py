"""Commands of %aiml for earlier answers: show, chart, record, export and forget them."""

from __future__ import annotations

from pathlib import Path

from aiml_magic import addresses
from aiml_magic.errors import BadInput, error_from_dict
from aiml_magic.journal.answer import Answer
from aiml_magic.journal.rows import Row
from aiml_magic.notebook import options
from aiml_magic.notebook.account import spent
from aiml_magic.notebook.context import (
    Context,
    fields_of,
    line,
    needed,
    row_of,
    value_of,
)
from aiml_magic.session import conversation
from aiml_magic.text import count_of, did_you_mean, say

_MOST_ROWS = 1_000_000  # of one notebook in an export


def history(context: Context, _: str) -> None:
    from aiml_magic.show import charts

    rows = context.journal.history(context.session.notebook)
    say("\n".join(map(line, rows)) or "Nothing was asked in this notebook yet.")
    say(f"Spent: {spent(context)}")
    reported = [(row, row.answer().usage) for row in rows]
    context.view().show_chart(
        charts.usage(
            [
                charts.Turn(row.id, usage.output_tokens, usage.reasoning_tokens, row.cost_usd)
                for row, usage in reported
            ]
        )
    )


def search(context: Context, rest: str) -> None:
    rows = context.journal.search(needed(rest, "search", "some words"))
    say("\n".join(map(line, rows)) or "No question and no answer has these words.")


def show(context: Context, rest: str) -> None:
    row = row_of(context, rest, "show")
    context.view().show(row.answer())
    if row.error is not None:
        say(error_from_dict(row.error))


def diff(context: Context, rest: str) -> None:
    from aiml_magic.show import comparison

    names = [options.unquoted(word.group()) for word in options.WORD.finditer(rest)]
    if len(names) != 2:
        raise BadInput(
            "%aiml diff needs two answers.", "Name both, as in %aiml diff answers[0] answers[1]."
        )
    first, second = (_answer(context, name) for name in names)
    context.view().show_bundle(comparison.bundle(first, second, (names[0], names[1])))


def _answer(context: Context, name: str) -> Answer:
    """The answer of a variable or an id, else the last one of a conversation. Raises BadInput."""
    if isinstance(value := value_of(name, context.variables), Answer):
        return value
    try:
        row = row_of(context, name, "diff")
    except BadInput:
        if (head := context.asking.chats.head(name)) is None:
            raise
        row = context.journal.row(head)
    if row.state == "forgotten":
        raise BadInput(
            f"Answer {row.id} is forgotten: there is nothing to compare.",
            "%aiml history lists the others.",
        )
    return context.journal.answers([row])[0]


def tree(context: Context, _: str) -> None:
    from aiml_magic.show import charts

    entries = conversation.tree(context.journal.history(context.session.notebook))
    lines, leaves = [], []
    for depth, row, is_stale in entries:
        lines.append(f"{'   ' * depth}{line(row)}{' (stale)' if is_stale else ''}")
        when, status, cost, words = fields_of(row)
        facts = " · ".join([*([] if status == "completed" else [status]), cost, when])
        leaves.append(charts.Leaf(depth, row.id, row.parent, row.chat, words, facts, is_stale))
    context.view().show_chart(
        charts.tree(leaves), "\n".join(lines) or "Nothing was asked in this notebook yet."
    )


def record(context: Context, rest: str) -> None:
    name = needed(rest, "record", "a file, such as tutorial.o3pro")
    count = context.session.recordings.start(_path(name))
    earlier = f"; it has {count} already" if count else ""
    say(f"Every answer is also written to {name} from now on{earlier}.")


def replay(context: Context, rest: str) -> None:
    name = needed(rest, "replay", "a file that %aiml record has written")
    count = context.asking.replay_file(_path(name))
    answers = count_of(count, "answer")
    say(f"{answers} of {name} can be replayed, without a key and without a network.")


def export(
    context: Context,
    rest: str,
    *,
    chat: str | None = None,
    all: bool = False,  # noqa: A002  # as it is typed
    overwrite: bool = False,
) -> None:
    from aiml_magic.show import export

    name = needed(rest, "export", "a file that ends with .md, .html, .jsonl, .tex or .bib")
    if all and chat is not None:
        raise BadInput(
            "--all is every conversation, and -c is one. Nothing was written.",
            "Leave out one of them.",
        )
    rows = _everything(context) if all else _chat(context, chat or "main")
    turns = context.journal.answers(rows)
    export.write(Path(name), turns, may_replace=overwrite)
    say(f"{count_of(len(turns), 'turn')} written to {name}.")


def _everything(context: Context) -> list[Row]:
    """All answers of this notebook: of each chat, of single questions, of maps.

    Included are the recorded answers that were replayed in this session.
    """
    replayed = sorted(context.session.recordings.replayed[context.journal])
    rows = context.journal.history(context.session.notebook, limit=_MOST_ROWS)
    rows = [*map(context.journal.row, replayed), *rows]
    if not rows:
        raise BadInput("Nothing was asked in this notebook yet.", "Ask something first.")
    return rows


def _chat(context: Context, chat: str) -> list[Row]:
    head = context.asking.chats.head(chat)
    if head is None:
        known = context.asking.chats.names()
        hint = did_you_mean(chat, known) or "Ask something first, or run %aiml resume."
        raise BadInput(f"There is no conversation {chat[:40]} to export yet.", hint)
    return context.journal.ancestors(head)


def forget(context: Context, rest: str) -> None:
    rows = [
        row_of(context, name, "forget")
        for name in needed(rest, "forget", "the ids of answers").split()
    ]
    for row in rows:
        changed = context.asking.forget(row)
        places = " and ".join(["the journal", *(path.name for path in changed)])
        removed = f"its texts are removed from {places}, what it cost is kept"
        say(f"Answer {row.id} is forgotten: {removed}.")
    say("Notebooks, exports, and recordings made earlier are not changed.")


def _path(name: str) -> Path:
    """The absolute path of a file, which %cd does not change. Raises BadInput."""
    try:
        return addresses.absolute(Path(name).expanduser())
    except RuntimeError as error:
        raise BadInput(
            f"{name[:60]} names an unknown user.", "Name the file by its whole path."
        ) from error
