"""What is shown of an answer: its banner, its Markdown, and the details; as text and HTML in which nothing is active."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from aiml_magic.api.responses import Raw, is_web_link
from aiml_magic.journal.answer import Answer
from aiml_magic.question.attachments import kind_of, labels
from aiml_magic.question.tools import shown_request
from aiml_magic.show import safe
from aiml_magic.text import dump, load, plain

# What a notebook keeps of what may be long, in the widget and in the copy: bytes in all, and
# characters of one value. With them a cell adds no more than the answer twice and 8 kB. What the
# widget fetches is not kept.
_ROOM_LIVE, _ROOM_STATIC, _ROOM_OPENED = (200, 200), (650, 200), (2_000_000, 200_000)
_MAX_WANTED = 2000  # characters of a call that waits for an approval
_MAX_IMAGE = 2 * 2**20  # bytes

_CAVEATS = {
    "status_missing": "The server did not say how the answer ended; it looks whole.",
    "item_not_completed": "The server calls a part of this whole answer unfinished.",
    "usage_missing": "The server did not report any usage.",
    "usage_exceeds_max_output_tokens": "The server reports more output tokens than it allowed: these may be credits.",
    "max_output_tokens_changed": "The server lowered the limit of output tokens.",
    "background_not_honoured": "The server answered at once, although background was asked for.",
    "tool_arguments_not_json": "The arguments of a tool call are no JSON.",
    "citation_out_of_range": "A citation points outside the text.",
    "citation_unsafe_url": "A citation names an address that is no web link.",
    "mcp_error": "A tool server reported an error.",
    "event_not_json": "The stream held something that is no JSON; it was left out.",
    "no_terminal_event": "The stream ended without saying that it was done.",
    "salvaged_unterminated_event": "The stream ended early, but its last event was whole.",
    "salvaged_after_cut": "The connection ended early, but the answer was whole.",
    "final_differs_from_stream": "The final text differs from what was streamed; the final one is shown.",
    "not_in_journal": "The journal could not take this answer.",
    "parent_changed": "It was asked again, since the answer that it continues has changed.",
    "chain_refused": "The server does not know the earlier answers, so the conversation was sent as a transcript.",
}

# Important: front ends have more specific rules for tables, as for results of computations.
_STYLE = (
    "<style>.aiml-details{line-height:1.5}.aiml-details summary{cursor:pointer}.aiml-details a{text-decoration:underline}"
    ".aiml-details details details>*+*{margin:.2em 0 .2em 1em!important}.aiml-details table{font-size:inherit}"
    ".aiml-details tr{background:none!important}"
    ".aiml-details th,.aiml-details td{text-align:left!important;vertical-align:top;padding:0 1em 0 0}"
    ".aiml-details pre{font-family:var(--jp-code-font-family,monospace);"
    "max-height:20em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}"
    # What the widget can fetch is below the details, and there only while they are open.
    ".aiml-box:not(:has(.aiml-details>details[open]))>.aiml-more{display:none}"
    ".aiml-more{width:auto;max-width:100%;background:none!important;border:0;box-shadow:none!important;color:inherit;"
    "text-align:left;padding:0 1em;font-size:inherit}</style>"
)
# For a screen reader. It tells of what appears in a place that is there, so the words appear a
# second after their place.
_NEWS = (
    "<style>.aiml-news{display:none}.aiml-new .aiml-news{display:block;height:1px;margin-bottom:-1px;overflow:hidden;"
    "animation:aiml-news 1s step-end}@keyframes aiml-news{from{visibility:hidden}}</style>"
    '<div role="status"><div class="aiml-news">The answer is there.</div></div>'
)
# A reopened notebook has no widget any more, and JupyterLab says so above the static copy; this
# hides that line.
_HIDE_DEAD_WIDGET = (
    "<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child #{key}) > .jp-OutputArea-output.jupyter-widgets:not(:has(*))"
    "{{display:none}}</style>"
)


def details_line(answer: Answer) -> str:
    """The details on one line: tokens, money, time, model."""
    return _line(answer, _money(answer.cost_usd))


def line_with_replay(answer: Answer) -> str:
    """The same, and that nothing was paid this time.

    It is said where a comparison of notebooks does not look.
    """
    then, day = _money(answer.cost_usd), f"{answer.asked_at:%Y-%m-%d}"
    match answer.replayed, answer.recorded:
        case True, True:
            return _line(answer, f"replayed from a recording of {day}, $0 now, {then} then")
        case True, False:
            return _line(answer, f"replayed from {day}, $0 now, {then} then")
        case False, True:
            return _line(answer, f"from a recording of {day}, {then} then")
    return _line(answer, then)


def _line(answer: Answer, money: str) -> str:
    usage = answer.usage
    tokens = (
        "tokens not reported" if usage.total_tokens is None else f"{usage.total_tokens:,} tokens"
    )
    if usage.reasoning_tokens:
        tokens += f" ({usage.reasoning_tokens:,} reasoning)"
    return plain(
        " · ".join(
            [tokens, money, _duration(answer.seconds), (answer.model or "unknown model")[:80]]
        )
    )


def banner(answer: Answer) -> str:
    """What a person must know before they read the answer, as Markdown; empty for a plain answer."""
    response = answer.response
    written, thought = answer.usage.output_tokens, answer.usage.reasoning_tokens
    notes = []
    match response.outcome:
        case "incomplete" if response.incomplete_reason == "content_filter":
            notes.append("**Incomplete.** A content filter stopped the answer. Ask in other words.")
        case "incomplete":
            limit = (
                "the limit of output tokens" if written is None else f"{written:,} output tokens"
            )
            spent = f", {thought:,} of them reasoning" if thought else ""
            more = max(16_000, 4 * (written or 0))
            way_out = f"Ask again with `--max-output-tokens {more}`, or with `--effort low`."
            notes.append(f"**Incomplete.** The answer stopped at {limit}{spent}. {way_out}")
        case "refusal":
            # Apart: what begins a block of Markdown is none behind other words.
            notes += ["**Refused.**", safe.markdown(response.refusal or "")]
        case "cancelled":
            notes.append(
                "**Cancelled.** The server stopped working on it. Only `--fresh` asks, and pays, once more."
            )
        case "unknown":
            way_out = "Whether the answer is whole is not known. Only `--fresh` asks, and pays, once more."
            notes.append(
                f"**Ended in another way.** The server calls its status `{_name(answer.status)}`. {way_out}"
            )
        case "tool_calls":
            calls = ", ".join(
                f"`{_name(call.get('name'))}`" for call in response.of_type("function_call")
            )
            notes.append(f"**Waiting for tools.** The model wants to call {calls}.")
        case "approval":
            way_out = f"`%aiml approve {_name(answer.id)}` lets it, `%aiml deny {_name(answer.id)}` does not."
            notes.append(f"**Waiting for approval.** {way_out} The model wants to use:")
            notes += map(_wanted, response.of_type("mcp_approval_request"))
        case "answer" if not answer.text and not response.images and answer.status == "completed":
            notes.append("**Empty.** The answer holds no text; the details show what came.")
    if notes and response.outcome not in ("answer", "approval"):
        notes.append("The conversation does not go on from here.")
    if "later_cells_stale" in answer.notices:
        notes.append(
            "**Later cells are stale.** They continue an earlier answer of this cell; run them again to renew them."
        )
    if "chain_ignored" in answer.notices:
        notes.append(
            "**The model may not know the conversation.** The server did not confirm the earlier answer; "
            "from now on the conversation is sent as a transcript."
        )
    if not answer.status or answer.status == "in_progress":
        notes.append("**Not finished.** This is what had come.")
    return "\n".join(f"> {line}" for line in "\n\n".join(notes).split("\n")) if notes else ""


def _wanted(request: Raw) -> str:
    """What an MCP server is to do, whole, as code; or why that is not shown here."""
    try:
        shown = shown_request(request)
    except ValueError as error:
        return safe.line(f"a tool with arguments that cannot be judged: {error}")
    if len(shown) > _MAX_WANTED:
        return safe.line(
            f"a tool with arguments of {len(shown):,} characters, which %aiml approve shows"
        )
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return safe.markdown(f"{ticks}\n{shown}\n{ticks}")


def with_banner(answer: Answer) -> str:
    return "\n\n".join(part for part in (banner(answer), answer.text) if part) or "(no text)"


def answer_bundle(answer: Answer) -> dict[str, str]:
    """The answer for a notebook, below its banner."""
    parts = [banner(answer), _structured(answer) or safe.markdown(answer.text)]
    return {
        "text/markdown": "\n\n".join(part for part in parts if part) or "*(no text)*",
        "text/plain": plain(with_banner(answer)),
    }


def _structured(answer: Answer) -> str | None:
    """An answer that was asked for as JSON, as Markdown: a table, if it is flat, else the JSON; `None` for any other answer."""
    wanted = answer.request.get("text")
    form = wanted.get("format") if isinstance(wanted, Mapping) else None
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind not in ("json_schema", "json_object"):
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
    # A notebook keeps a text line by line, at a dozen characters for each. What grows too much by
    # it stays as it came.
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
    return not isinstance(value, dict | list) and not (
        isinstance(value, str) and ("\n" in value or "\r" in value)
    )


def _markdown_table(rows: list[dict[str, Any]]) -> str:
    def line(cells: Iterable[Any]) -> str:
        return f"| {' | '.join(safe.line(cell if isinstance(cell, str) else json.dumps(cell)) for cell in cells)} |"

    if len(rows) == 1:
        return "\n".join(["|  |  |", "|---|---|", *(line(pair) for pair in rows[0].items())])
    return "\n".join(
        [line(rows[0]), "|---" * len(rows[0]) + "|", *(line(row.values()) for row in rows)]
    )


def details(answer: Answer) -> tuple[str, str]:
    """The details as HTML: for a widget, with a rule that hides the copy while the widget lives; and that copy.

    The widget's news are told to a screen reader if it has the class `aiml-new`. The copy is for
    whoever has no widget, and leaves out what differs from run to run, so that a notebook can be
    compared. Both are kept in the notebook, so of what may be long they hold what there is room
    for; `opened` has the rest. Images are kept once, beside the copy, and always seen.
    """
    live, room, key = _sections(answer, _Room(*_ROOM_LIVE)), _Room(*_ROOM_STATIC), _key(answer)
    here = [
        ("Journal", answer.journal_id),
        ("Asked", _moment(answer.asked_at)),
        ("Server", answer.server),
    ]
    live["Response"] = _table([*_rows_of_response(answer, room), *here])
    static = _sections(answer, room) | {"Raw JSON": _raw_json(answer, room)}
    copy = f'<div id="{key}">{_folded(details_line(answer), static)}</div>'
    return (
        f"<style>#{key}{{display:none}}</style>{_folded(line_with_replay(answer), live)}{_NEWS}",
        f"{_images(answer)}{_STYLE}{_HIDE_DEAD_WIDGET.format(key=key)}{copy}",
    )


def opened(answer: Answer) -> str:
    """What the widget has no room for, as HTML: what was cut, and the raw JSON."""
    kept, room = _sections(answer, _Room(*_ROOM_LIVE)), _Room(*_ROOM_OPENED)
    cut = {title: html for title, html in _sections(answer, room).items() if html != kept[title]}
    return _box(_folds(cut | {"Raw JSON": _raw_json(answer, room)}, " open"))


class _Room:
    """How much may be said of what may be long: so many bytes of HTML in all, and so many characters of one value."""

    def __init__(self, size: float, value: int) -> None:
        self._size = size
        self._value = value

    def cut(self, value: Any) -> str:
        """The beginning of a value."""
        text = _scalar(value)
        return (
            text
            if len(text) <= self._value
            else f"{text[: self._value]} … ({len(text):,} characters)"
        )

    def fill(self, pieces: Iterable[str], place: str, within: str = "{}", share: float = 1) -> str:
        """As many pieces of HTML as there is room for, or for this share of it, and where the others are to be found."""
        kept: list[str] = []
        rest = ""
        end = self._size * (1 - share)
        for piece in pieces:
            size = len(dump(piece))
            if self._size - size < end:
                rest = f"<p>{'More' if kept else 'It'} is in <code>answer.{place}</code>.</p>"
                break
            self._size -= size
            kept.append(piece)
        return (within.format("".join(kept)) if kept else "") + rest


def _folded(line: str, sections: Mapping[str, str]) -> str:
    # Where styles are taken out, the folds are set in by themselves.
    inside = f'<div style="margin-left:1em">{_folds(sections)}</div>'
    return _box(f"<details><summary>{safe.escape(line)}</summary>{inside}</details>")


def _folds(sections: Mapping[str, str], state: str = "") -> str:
    shown = ((title, html) for title, html in sections.items() if html)
    return "".join(
        f"<details{state}><summary>{title}</summary>{html}</details>" for title, html in shown
    )


def _box(html: str) -> str:
    # What a model wrote is not typeset outside the answer: formulas are let through there only.
    return f'<div class="aiml-details mathjax_ignore tex2jax_ignore">{html}</div>'


def _sections(answer: Answer, room: _Room) -> dict[str, str]:
    """The folded sections by title, as HTML; one with nothing in it is empty.

    What may be long is what there is room for.
    """
    usage, response, request = answer.usage, answer.response, answer.request
    efforts = (
        given.get("effort")
        for raw in (request, response.raw)
        if isinstance(given := raw.get("reasoning"), Mapping)
    )
    effort = next(filter(None, efforts), "the model's default")
    rows_of_usage = [
        ("Input tokens", _tokens(usage.input_tokens)),
        ("of them cached", _tokens(usage.cached_tokens)),
        ("Output tokens", _tokens(usage.output_tokens)),
        ("of them reasoning", _tokens(usage.reasoning_tokens)),
        ("Total", _tokens(usage.total_tokens)),
        ("Cost", _money(answer.cost_usd)),
    ]
    asked = [
        (name, room.cut(value))
        for name, value in request.items()
        if name not in ("input", "reasoning")
    ]
    return {
        "Usage": _table(rows_of_usage),
        "Reasoning": _table([("Effort", room.cut(effort))])
        + room.fill(_thoughts(response.summaries, room), "reasoning", share=0.7),
        "Response": _table(_rows_of_response(answer, room)),
        "Request": room.fill(_rows(asked), "request", "<table>{}</table>"),
        "Attachments": room.fill(
            _entries(map(room.cut, labels(request))), "request", "<ul>{}</ul>"
        ),
        "Calls": room.fill(_calls(answer, room), "items"),
        "Sources": room.fill(_sources(answer), "citations", "<ul>{}</ul>"),
        "Remarks": room.fill(_entries(map(room.cut, _remarks(answer))), "notices", "<ul>{}</ul>"),
    }


def _rows_of_response(answer: Answer, room: _Room) -> list[tuple[str, Any]]:
    named = [
        ("Id", answer.id),
        ("Model", answer.model),
        ("Status", answer.status),
        *_created(answer.response.raw),
    ]
    return [(name, value and room.cut(value)) for name, value in named]


def _thoughts(summaries: Iterable[str], room: _Room) -> Iterator[str]:
    """The paragraphs of the reasoning."""
    from aiml_magic.show import pages

    return (
        pages.html(room.cut(paragraph))
        for summary in summaries
        for paragraph in summary.split("\n\n")
    )


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    return f"<table>{''.join(_rows(rows))}</table>"


def _rows(rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for name, value in rows:
        if value is not None:
            yield f"<tr><th>{safe.escape(name)}</th><td>{safe.escape(value)}</td></tr>"


def _entries(lines: Iterable[str]) -> Iterator[str]:
    return (f"<li>{safe.escape(line)}</li>" for line in lines)


def _sources(answer: Answer) -> Iterator[str]:
    for citation in answer.response.citations:
        title, url = safe.escape(citation.title or citation.url), safe.escape(citation.url)
        file = safe.escape(f" (file {citation.file_id})") if citation.file_id else ""
        is_link = is_web_link(citation.url) and safe.is_address(citation.url)
        yield (
            f'<li><a href="{url}" rel="noopener noreferrer">{title}</a></li>'
            if is_link
            else f"<li>{title}{file}</li>"
        )


def _remarks(answer: Answer) -> list[str]:
    remarks = [_CAVEATS[code] for code in answer.notices if code in _CAVEATS]
    return [
        *remarks,
        *(
            f"An item of a kind unknown to this version: {kind}"
            for kind in answer.response.unknown_types
        ),
    ]


def _images(answer: Answer) -> str:
    """The images that the model made, if they are what they say: a file is known by its content."""
    shown = []
    for image in answer.images:
        kind, words = kind_of(image)
        if not kind.startswith("image/"):
            shown.append("<p>An image that is neither PNG, JPEG, WebP nor GIF.</p>")
        elif len(image) > _MAX_IMAGE:
            shown.append(
                f"<p>A {words} of {len(image) / 2**20:.1f} MiB, too large to keep here; <code>answer.images</code> holds it.</p>"
            )
        else:
            address = f"data:{kind};base64,{base64.b64encode(image).decode()}"
            shown.append(f'<img alt="Made by the model" style="max-width:100%" src="{address}">')
    return "".join(shown)


def _calls(answer: Answer, room: _Room) -> Iterator[str]:
    """What was called on the way, and what waits for it: functions, tools of servers, searches, code, and what is unknown."""
    told = [(f"{call.name}({call.arguments})", call.result or "") for call in answer.calls]
    for item in answer.items:
        match item.get("type"):
            case "function_call" | "mcp_approval_request":
                told.append((f"{item.get('name')}({item.get('arguments')})", "Not called yet."))
            case "mcp_call":
                told.append(
                    (
                        f"{item.get('name')}({item.get('arguments')})",
                        item.get("error") or item.get("output") or "",
                    )
                )
            case "mcp_list_tools":
                listed = item.get("tools")
                names = (
                    [tool.get("name") for tool in listed if isinstance(tool, Mapping)]
                    if isinstance(listed, list)
                    else []
                )
                told.append(
                    (
                        f"tools of {item.get('server_label')}",
                        item.get("error") or ", ".join(map(str, names)),
                    )
                )
            case "web_search_call":
                told.append(("web search", _scalar(item.get("action") or item.get("status"))))
            case "code_interpreter_call":
                told.append(("code", f"{item.get('code')}\n\n{_scalar(item.get('outputs'))}"))
            case "message" | "reasoning" | "image_generation_call":
                pass  # shown elsewhere
            case kind:
                told.append((str(kind), _scalar(_without_secrets(item))))
    for name, result in told:
        yield f"<details><summary>{safe.escape(room.cut(name))}</summary>{_pre(room.cut(result))}</details>"


def _raw_json(answer: Answer, room: _Room) -> str:
    try:
        raw = json.dumps(_without_secrets(answer.raw), indent=1, ensure_ascii=False)
    except RecursionError:
        raw = "It is nested too deeply to be shown; answer.raw holds it."
    return room.fill([_pre(raw)], "raw")


def _pre(text: str) -> str:
    return f'<pre tabindex="0">{safe.escape(text)}</pre>'  # so that it can be scrolled by keyboard


def _without_secrets(value: Any) -> Any:
    """Encrypted reasoning is kept for the next turn, and is of no use to a reader."""
    if isinstance(value, list):
        return [_without_secrets(entry) for entry in value]
    if isinstance(value, Mapping):
        hidden = {"encrypted_content": f"({len(str(value.get('encrypted_content'))):,} characters)"}
        return {name: hidden.get(name) or _without_secrets(entry) for name, entry in value.items()}
    return value


def _key(answer: Answer) -> str:
    """An HTML id for the details of this answer, the same in every run."""
    return (
        "o3pro-"
        + hashlib.sha256(
            str(answer.id or answer.journal_id).encode("utf-8", "replace")
        ).hexdigest()[:12]
    )


def _created(raw: Raw) -> list[tuple[str, str]]:
    try:
        return [("Created", _moment(datetime.fromtimestamp(raw["created_at"], timezone.utc)))]
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return []


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _tokens(count: int | None) -> str:
    return "not reported" if count is None else f"{count:,}"


def _money(usd: float | None) -> str:
    return "cost not reported" if usd is None else f"${usd:,.4f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown"
    if seconds < 10:
        return "under 10 s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else dump(value)


def _name(value: Any) -> str:
    """A tool's name as code: only what a name may hold."""
    return "".join(sign for sign in str(value)[:64] if sign.isalnum() or sign in "_-.") or "?"
