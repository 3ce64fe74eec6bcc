"""The details of an answer: a line, and HTML without active content."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from itertools import chain
from typing import Any

from aiml_magic.api.responses import Raw, as_object, as_objects, is_web_link
from aiml_magic.journal import offers
from aiml_magic.journal.answer import Answer
from aiml_magic.question.attachments import kind_of, labels
from aiml_magic.show import links
from aiml_magic.show.answers import money, total_tokens
from aiml_magic.show.safe import escape
from aiml_magic.text import dump, plain

# Limits of long content, as bytes of HTML in all and characters of one value: for the widget, for
# its copy, and for the part that the widget fetches, which is not in the notebook file. With them a
# cell adds at most the answer twice and 8 kB to the file.
_ROOM_LIVE, _ROOM_STATIC, _ROOM_OPENED = (200, 200), (650, 200), (2_000_000, 200_000)
_MAX_IMAGE = 2 * 2**20  # bytes

_USAGE = {
    "Input tokens": "input_tokens",
    "of them cached": "cached_tokens",
    "Output tokens": "output_tokens",
    "of them reasoning": "reasoning_tokens",
    "Total": "total_tokens",
}
# The remarks of an answer, below their codes.
_CAVEATS = {
    "status_missing": "The server sent no status; the answer looks complete.",
    "item_not_completed": "The server calls a part of this complete answer unfinished.",
    "usage_missing": "The server did not report any usage.",
    "usage_exceeds_max_output_tokens": (
        "The server reports more output tokens than it allowed: these may be credits."
    ),
    "max_output_tokens_changed": "The server lowered the limit of output tokens.",
    "background_not_honoured": "The server answered at once, although background was asked for.",
    "tool_arguments_not_json": "The arguments of a tool call are not JSON.",
    "citation_out_of_range": "A citation points outside the text.",
    "citation_unsafe_url": "A citation names an address that is not a web link.",
    "mcp_error": "A tool server reported an error.",
    "event_not_json": "The stream held something that is not JSON; it was left out.",
    "no_terminal_event": "The stream ended without a final event.",
    "salvaged_unterminated_event": "The stream ended early, but its last event was complete.",
    "salvaged_after_cut": "The connection ended early, but the answer was complete.",
    "final_differs_from_stream": (
        "The final text differs from what was streamed; the final one is shown."
    ),
    "final_left_out": (
        "The final response left out a part of what was streamed; that part is shown."
    ),
    "error_before_end": "The stream reported an error before it ended.",
    "store_refused": "The server does not store answers, so it was asked without storage.",
    "not_in_journal": "This answer could not be written to the journal.",
    "parent_changed": "It was asked again, since the answer that it continues has changed.",
    "chain_refused": (
        "The server does not know the earlier answers; the conversation was sent as a transcript."
    ),
}

# `!important`, since front ends style tables, as results of computations, by more specific rules.
_STYLE = (
    "<style>.aiml-details{line-height:1.5}.aiml-details summary{cursor:pointer}"
    ".aiml-details a{text-decoration:underline}"
    ".aiml-details details details>*+*{margin:.2em 0 .2em 1em!important}"
    ".aiml-details table{font-size:inherit}.aiml-details tr{background:none!important}"
    ".aiml-details :is(th,td)"
    "{text-align:left!important;vertical-align:top;padding:0 1em 0 0}"
    # nbconvert's page shows the highlighted code of an answer in its text font.
    ".aiml-details pre,.jp-RenderedMarkdown pre{font-family:var(--jp-code-font-family,monospace)}"
    ".aiml-details pre{max-height:20em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}"
    # In its dark theme Jupyter Book puts a bright box around HTML, even if it is empty.
    ".text_html:is(:has(.aiml-details),:not(:has(*))){all:revert!important}"
    # On paper, the copy's sections are open, but not the last one, the raw JSON.
    "@media print{[id^=o3pro-] details:not(details>div>:last-child)::details-content"
    "{content-visibility:visible}}"
    # The button below the details, and its content, are visible while the details are open.
    ".aiml-box:not(:has(.aiml-details>[open]))>.aiml-more{display:none}"
    ".aiml-more{width:auto;max-width:100%;background:none!important;border:0;"
    "box-shadow:none!important;color:inherit;text-align:left;padding:0 1em;font-size:inherit}"
    "</style>"
)
# A screen reader announces text that appears in an existing element with role=status, so the text
# appears a second after the element.
_NEWS = (
    "<style>.aiml-news{display:none}.aiml-new .aiml-news{display:block;height:1px;"
    "margin-bottom:-1px;overflow:hidden;animation:aiml-news 1s step-end}"
    "@keyframes aiml-news{from{visibility:hidden}}</style>"
    '<div role="status"><div class="aiml-news">The answer is there.</div></div>'
)
# Hides JupyterLab's line above the copy, which says that a reopened notebook has no widget.
_HIDE_DEAD_WIDGET = (
    "<style>.jp-OutputArea-child:has(+.jp-OutputArea-child #{key})"
    ">.jupyter-widgets:not(:has(*)){{display:none}}</style>"
)


def details_line(answer: Answer) -> str:
    """The details on one line: tokens, cost, time, model."""
    return _line(answer, money(answer.cost_usd))


def line_with_replay(answer: Answer) -> str:
    """As `details_line`, with the replay and the model's end, which differ from run to run."""
    then, day = money(answer.cost_usd), f"{answer.asked_at:%Y-%m-%d}"
    match answer.replayed, answer.recorded:
        case True, True:
            then = f"replayed from a recording of {day}, $0 now, {then} then"
        case True, False:
            then = f"replayed from {day}, $0 now, {then} then"
        case False, True:
            then = f"from a recording of {day}, {then} then"
    today = datetime.now().astimezone().date()
    fate = offers.cached(answer.server).fate(str(answer.request.get("model")), today)
    return " · ".join(filter(None, (_line(answer, then), plain(fate))))


def _line(answer: Answer, cost: str) -> str:
    tokens = total_tokens(answer.usage)
    if answer.usage.reasoning_tokens:
        tokens += f" ({answer.usage.reasoning_tokens:,} reasoning)"
    model = (answer.model or "unknown model")[:80]
    return plain(" · ".join([tokens, cost, _duration(answer.seconds), model]))


def details(answer: Answer) -> tuple[str, str]:
    """The details as HTML: for a widget, and a static copy for front ends without widgets.

    The widget hides the copy while it is live; a screen reader announces it if it has the class
    `aiml-new`. The copy has nothing that differs from run to run, so that notebooks can be
    compared. Both are in the notebook file, so long content is cut; `opened` has all of it. Images
    are in the file once, beside the copy, and always shown.
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
    """The sections that `details` cut, and the raw JSON, as HTML."""
    live, room = _sections(answer, _Room(*_ROOM_LIVE)), _Room(*_ROOM_OPENED)
    cut = {title: html for title, html in _sections(answer, room).items() if html != live[title]}
    return _box(_folds(cut | {"Raw JSON": _raw_json(answer, room)}, " open"))


class _Room:
    """Limits of long content: bytes of HTML `left` in all, `value` characters of one value."""

    def __init__(self, left: float, value: int) -> None:
        self.left = left
        self._value = value

    def cut(self, value: Any) -> str:
        """A value; a long one as its beginning and its length."""
        text = _scalar(value)
        if len(text) <= self._value:
            return text
        return f"{text[: self._value]} … ({len(text):,} characters)"

    def fill(
        self, pieces: Iterable[str], attribute: str, within: str = "{}", share: float = 1
    ) -> str:
        """The first pieces of HTML that fit into the space left, or into a `share` of it.

        The rest is replaced by the name of the answer's attribute that has it.
        """
        shown: list[str] = []
        rest = ""
        end = self.left * (1 - share)
        for piece in pieces:
            size = len(dump(piece))
            if self.left - size < end:
                rest = f"<p>{'More' if shown else 'It'} is in <code>answer.{attribute}</code>.</p>"
                break
            self.left -= size
            shown.append(piece)
        return (within.format("".join(shown)) if shown else "") + rest


def _folded(line: str, sections: Mapping[str, str]) -> str:
    # An inline style, since some front ends remove style sheets.
    inside = f'<div style="margin-left:1em">{_folds(sections)}</div>'
    return _box(f"<details><summary>{escape(line)}</summary>{inside}</details>")


def _folds(sections: Mapping[str, str], state: str = "") -> str:
    shown = ((title, html) for title, html in sections.items() if html)
    return "".join(
        f"<details{state}><summary>{title}</summary>{html}</details>" for title, html in shown
    )


def _box(html: str) -> str:
    # No formulas here: a model's text is typeset in the answer only.
    return f'<div class="aiml-details mathjax_ignore tex2jax_ignore">{html}</div>'


def _sections(answer: Answer, room: _Room) -> dict[str, str]:
    """The folded sections by title, as HTML within the limits; empty ones are not shown."""
    usage, response, request = answer.usage, answer.response, answer.request
    rows_of_usage = [(title, _tokens(getattr(usage, name))) for title, name in _USAGE.items()]
    hidden = ("input", "reasoning")
    asked = [(name, room.cut(value)) for name, value in request.items() if name not in hidden]
    attached = _entries(map(room.cut, labels(request)))
    remarks = _entries(map(room.cut, _remarks(answer)))
    return {
        "Usage": _table([*rows_of_usage, ("Cost", money(answer.cost_usd))]),
        "Reasoning": _table([("Effort", room.cut(_effort(answer)))])
        + room.fill(_thoughts(response.summaries, room), "reasoning", share=0.7)
        + room.fill(map(_pre, map(room.cut, response.reasoning_texts)), "items", share=0.7),
        "Commentary": room.fill(_thoughts(response.commentary, room), "items", share=0.8),
        "Response": _table(_rows_of_response(answer, room)),
        "Request": room.fill(_rows(asked), "request", "<table>{}</table>"),
        "Attachments": room.fill(attached, "request", "<ul>{}</ul>"),
        "Calls": room.fill(_calls(answer, room), "items"),
        "Sources": room.fill(_sources(answer), "citations", "<ul>{}</ul>"),
        "Remarks": room.fill(remarks, "notices", "<ul>{}</ul>"),
    }


def _effort(answer: Answer) -> Any:
    """The effort of the request, else the server's, else a word for the default."""
    for raw in (answer.request, answer.response.raw):
        if effort := as_object(raw.get("reasoning")).get("effort"):
            return effort
    return "the model's default"


def _rows_of_response(answer: Answer, room: _Room) -> list[tuple[str, Any]]:
    named = [
        ("Id", answer.id),
        ("Model", answer.model),
        ("Status", answer.status),
        ("Created", _created(answer.response.raw)),
    ]
    return [(name, value and room.cut(value)) for name, value in named]


def _thoughts(summaries: Iterable[str], room: _Room) -> Iterator[str]:
    """The paragraphs of the reasoning."""
    return (
        _html(room.cut(paragraph)) for summary in summaries for paragraph in summary.split("\n\n")
    )


def _html(text: str) -> str:
    """Markdown as HTML; as text where nh3 is missing, as in some versions of Pyodide."""
    try:
        from aiml_magic.show import pages
    except ImportError:
        return f'<p style="white-space:pre-wrap">{escape(text)}</p>'
    return pages.html(text)


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    return f"<table>{''.join(_rows(rows))}</table>"


def _rows(rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for name, value in rows:
        if value is not None:
            yield f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"


def _entries(lines: Iterable[str]) -> Iterator[str]:
    return (f"<li>{escape(line)}</li>" for line in lines)


def _sources(answer: Answer) -> Iterator[str]:
    for citation in answer.response.citations:
        title, url = escape(citation.title or citation.url), escape(citation.url)
        file = escape(f" (file {citation.file_id})") if citation.file_id else ""
        if is_web_link(citation.url) and links.is_address(citation.url):
            yield f'<li><a href="{url}" rel="noopener noreferrer">{title}</a></li>'
        else:
            yield f"<li>{title}{file}</li>"


def _remarks(answer: Answer) -> Iterator[str]:
    yield from (_CAVEATS[code] for code in answer.notices if code in _CAVEATS)
    for kind in answer.response.unknown_types:
        yield f"An item, or a part of one, of a kind unknown to this version: {kind}"


def _images(answer: Answer) -> str:
    """The images that the model made, recognized by their content."""
    return "".join(map(_image, answer.images))


def _image(image: bytes) -> str:
    kind, words = kind_of(image)
    if not kind.startswith("image/"):
        return "<p>An image that is neither PNG, JPEG, WebP nor GIF.</p>"
    if len(image) > _MAX_IMAGE:
        size = f"{len(image) / 2**20:.1f} MiB"
        whole = "<code>answer.images</code> holds it"
        return f"<p>A {words} of {size}, too large to store here; {whole}.</p>"
    url = f"data:{kind};base64,{base64.b64encode(image).decode()}"
    return f'<img alt="Made by the model" style="max-width:100%" src="{url}">'


def _calls(answer: Answer, room: _Room) -> Iterator[str]:
    """Calls of functions and tools, searches, code, and items of an unknown type."""
    functions = ((f"{call.name}({call.arguments})", call.result or "") for call in answer.calls)
    for name, result in chain(functions, filter(None, map(_call, answer.items))):
        summary = escape(room.cut(name))
        yield f"<details><summary>{summary}</summary>{_pre(room.cut(result))}</details>"


def _call(item: Raw) -> tuple[str, Any] | None:
    """The name and the result of a call; None for an item of another section."""
    call = f"{item.get('name')}({item.get('arguments')})"
    match item.get("type"):
        case "function_call" | "mcp_approval_request":
            return call, "Not called yet."
        case "mcp_call":
            return call, item.get("error") or item.get("output") or ""
        case "mcp_list_tools":
            names = (str(tool.get("name")) for tool in as_objects(item.get("tools")))
            return f"tools of {item.get('server_label')}", item.get("error") or ", ".join(names)
        case "web_search_call":
            return "web search", _scalar(item.get("action") or item.get("status"))
        case "code_interpreter_call":
            return "code", f"{item.get('code')}\n\n{_scalar(item.get('outputs'))}"
        case "message" | "reasoning" | "image_generation_call":
            return None
        case kind:
            return str(kind), _scalar(_without_secrets(item))


def _raw_json(answer: Answer, room: _Room) -> str:
    try:
        raw = _without_secrets(answer.raw)
        lines = dump(raw)
        if len(lines) <= room.left:  # indented JSON is longer, and slow to write
            lines = json.dumps(raw, indent=1, ensure_ascii=False)
    except RecursionError:
        lines = "It is nested too deeply to be shown; answer.raw holds it."
    return room.fill([_pre(lines)], "raw")


def _pre(text: str) -> str:
    return f'<pre tabindex="0">{escape(text)}</pre>'  # so that the keyboard can scroll it


def _without_secrets(value: Any) -> Any:
    """A JSON value without encrypted reasoning, which only the next turn needs."""
    if isinstance(value, list):
        return [_without_secrets(entry) for entry in value]
    if isinstance(value, Mapping):
        hidden = {"encrypted_content": f"({len(str(value.get('encrypted_content'))):,} characters)"}
        return {name: hidden.get(name) or _without_secrets(entry) for name, entry in value.items()}
    return value


def _key(answer: Answer) -> str:
    """An HTML id for the details of this answer, the same in every run."""
    named = str(answer.id or answer.journal_id).encode("utf-8", "replace")
    return f"o3pro-{hashlib.sha256(named).hexdigest()[:12]}"


def _created(raw: Raw) -> str | None:
    try:
        return _moment(datetime.fromtimestamp(raw["created_at"], timezone.utc))
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _tokens(count: int | None) -> str:
    return "not reported" if count is None else f"{count:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown"
    if seconds < 10:
        return "under 10 s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else dump(value)
