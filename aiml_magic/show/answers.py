"""An answer as Markdown without active content: its banner and its text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from aiml_magic.api.responses import Raw, Usage, format_of
from aiml_magic.journal.answer import Answer
from aiml_magic.question.tools import shown_request
from aiml_magic.show import safe
from aiml_magic.text import fence_for, load, plain

_MAX_WANTED = 2000  # characters of a call that waits for an approval
_NOTES = {
    "later_cells_stale": (
        "**Later cells are stale.** They continue an earlier answer of this cell; "
        "run them again to renew them."
    ),
    "chain_ignored": (
        "**The model may not know the conversation.** The server did not confirm the earlier "
        "answer; from now on the conversation is sent as a transcript."
    ),
}


def money(usd: float | None) -> str:
    return "cost not reported" if usd is None else f"${usd:,.4f}"


def total_tokens(usage: Usage) -> str:
    total = usage.total_tokens
    return "tokens not reported" if total is None else f"{total:,} tokens"


def with_banner(answer: Answer) -> str:
    """The answer for a terminal, below its banner."""
    return _paragraphs(banner(answer), answer.text) or "(no text)"


def answer_bundle(answer: Answer) -> dict[str, str]:
    """The answer for a notebook, below its banner."""
    text = _structured(answer) or safe.markdown(answer.text)
    return {
        "text/markdown": _paragraphs(banner(answer), text) or "*(no text)*",
        "text/plain": plain(with_banner(answer)),
    }


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def banner(answer: Answer) -> str:
    """The warnings above an answer, as a quote in Markdown; often empty."""
    notes = [*_notes_on_outcome(answer)]
    notes += (note for code, note in _NOTES.items() if code in answer.notices)
    if not answer.status or answer.status == "in_progress":
        notes.append("**Not finished.** This is the part received so far.")
    return "\n".join(f"> {line}" for line in _paragraphs(*notes).split("\n")) if notes else ""


def _notes_on_outcome(answer: Answer) -> Iterator[str]:
    response, only_fresh = answer.response, "Only `--fresh` asks, and pays, once more."
    match response.outcome:
        case "incomplete":
            yield f"**Incomplete.** {_why_incomplete(answer)}"
        case "refusal":
            # Its own paragraph, since a list or a heading must begin a line.
            yield _paragraphs("**Refused.**", safe.markdown(response.refusal or ""))
        case "cancelled":
            yield f"**Cancelled.** The server stopped working on it. {only_fresh}"
        case "unknown":
            status = f"The server calls its status `{_name(answer.status)}`."
            unknown = "It is not known whether the answer is complete."
            yield f"**Ended in another way.** {status} {unknown} {only_fresh}"
        case "tool_calls":
            named = (call.get("name") for call in response.of_type("function_call"))
            calls = ", ".join(f"`{_name(name)}`" for name in named)
            yield f"**Waiting for tools.** The model wants to call {calls}."
        case "approval":
            id_ = _name(answer.id)
            way_out = f"`%aiml approve {id_}` allows it, `%aiml deny {id_}` does not."
            yield f"**Waiting for approval.** {way_out} The model wants to use:"
            yield from map(_wanted, response.of_type("mcp_approval_request"))
            return
        case "answer" if response.is_empty:
            yield "**Empty.** The answer has no text; the details show the whole response."
            yield only_fresh
        case _:
            if not answer.text and response.unknown_types:
                yield _unknown(response.unknown_types)
            return
    yield "The conversation does not go on from here."


def _unknown(types: Iterable[str]) -> str:
    kinds = ", ".join(f"`{_name(kind)}`" for kind in types)
    what = f"It has no text, but {kinds}, which this version does not know"
    return f"**Unknown kind of answer.** {what}; the details show the whole response."


def _why_incomplete(answer: Answer) -> str:
    """Why an answer is incomplete, and how to get a complete one."""
    match answer.response.incomplete_reason:
        case "max_output_tokens" | "max_tokens" | "length":
            return _at_limit(answer.usage)
        case "content_filter":
            return "A content filter stopped the answer. Ask in other words."
        case "max_tool_calls":
            way_out = "Ask again with a higher `--param max_tool_calls`."
            return f"The answer stopped at the limit of tool calls. {way_out}"
        case "max_messages":
            return "The answer stopped at the limit of messages. Ask for less at once."
        case "steered":
            return "The model was steered away from the answer. Ask again in other words."
        case None:
            return "The answer stopped before its end; the server does not say why."
        case reason:
            return f"The answer stopped before its end; the server's reason is `{_name(reason)}`."


def _at_limit(usage: Usage) -> str:
    written, thought = usage.output_tokens, usage.reasoning_tokens
    limit = "the limit of output tokens" if written is None else f"{written:,} output tokens"
    spent = f", {thought:,} of them reasoning" if thought else ""
    more = max(16_000, 4 * (written or 0))
    way_out = f"Ask again with `--max-output-tokens {more}`, or with `--effort low`."
    return f"The answer stopped at {limit}{spent}. {way_out}"


def _wanted(request: Raw) -> str:
    """The call of an MCP server as code, or the reason why it is not shown."""
    try:
        shown = shown_request(request)
    except ValueError as error:
        return safe.line(f"a tool with arguments that cannot be judged: {error}")
    if len(shown) > _MAX_WANTED:
        size = f"{len(shown):,} characters"
        return safe.line(f"a tool with arguments of {size}, which %aiml approve shows")
    fence = fence_for(shown)
    return safe.markdown(f"{fence}\n{shown}\n{fence}")


def _structured(answer: Answer) -> str | None:
    """A JSON answer as a table if it is flat, else as JSON; None for other answers."""
    if format_of(answer.request) not in ("json_schema", "json_object"):
        return None
    try:
        value = load(answer.text)
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    rows = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
    rows = rows if isinstance(rows, list) else [value]
    if _is_table(rows):
        return _markdown_table(rows)
    # A notebook file has a dozen characters more for each line: a text that would grow too much
    # is not indented.
    is_longer = len(text) + 12 * text.count("\n") > len(answer.text) + 2000
    return safe.markdown(f"```json\n{answer.text if is_longer else text}\n```")


def _is_table(rows: list[Any]) -> bool:
    return bool(rows) and all(
        isinstance(row, dict)
        and row.keys() == rows[0].keys()
        and all(_is_cell(value) for pair in row.items() for value in pair)
        for row in rows
    )


def _is_cell(value: Any) -> bool:
    if isinstance(value, str):
        return not set("\r\n") & set(value)
    return not isinstance(value, dict | list)


def _markdown_table(rows: list[dict[str, Any]]) -> str:
    if len(rows) == 1:
        return "\n".join(["| name | value |", "|---|---|", *map(_table_row, rows[0].items())])
    ruler = "|---" * len(rows[0]) + "|"
    return "\n".join([_table_row(rows[0]), ruler, *(_table_row(row.values()) for row in rows)])


def _table_row(cells: Iterable[Any]) -> str:
    texts = (cell if isinstance(cell, str) else json.dumps(cell) for cell in cells)
    return f"| {' | '.join(map(safe.line, texts))} |"


def _name(value: Any) -> str:
    """A tool's name for code in Markdown, reduced to letters, digits and `_-.`."""
    return "".join(sign for sign in str(value)[:64] if sign.isalnum() or sign in "_-.") or "?"
