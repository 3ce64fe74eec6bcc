"""A request in, a response out, by rule: no model, no state, no clock.

The same conversation always gets the same answer, id and date, so that a notebook that uses the
sandbox comes out the same each time. A line in the question makes it slow or makes it fail:

    sandbox: delay=5 pace=0.02 fault=503 times=1

`delay` is in seconds, `pace` in seconds per word; `fault` is an HTTP status, or html, reset, cut,
silent, incomplete, refusal, failed, empty or error; `times` limits how often the fault strikes.
Any other order is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from aiml_magic.text import count_of, cut, dump

Turn = tuple[str, str]  # a question and its answer

PRICES = {"input": 21.0, "output": 84.0}  # dollars for a million tokens, as the real one charges
_CREATED = 1_767_225_600  # the clock of the sandbox stands still, at the beginning of 2026
_REASONING = {"low": 64, "medium": 256, "high": 1024}  # tokens
_ORDER = re.compile(r"^sandbox:((?:[ \t]+\w+=[\w.-]+)+)[ \t]*$", re.MULTILINE)
_ORDERS = {  # the values of each
    "delay": r"\d{1,9}(\.\d+)?",
    "pace": r"\d{1,9}(\.\d+)?",
    "fault": r"[45]\d\d|html|reset|cut|silent|incomplete|refusal|failed|empty|error",
    "times": r"\d{1,9}",
}
_EXAMPLES = {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00"}  # of formats of a string
# Fields of a request with their types, where they are optional.
_TYPES = {
    "instructions": str,
    "previous_response_id": str,
    "reasoning": dict,
    "text": dict,
    "tools": list,
}
_JSON = {str: "string", dict: "object", list: "array"}


def orders(question: str) -> dict[str, str]:
    """The orders to the sandbox in a question."""
    found = _ORDER.search(question)
    return dict(order.split("=", 1) for order in found[1].split()) if found else {}


def wrong_order(given: Mapping[str, str]) -> str:
    """A message about the first unknown order; empty if all are known."""
    for name, value in given.items():
        if not re.fullmatch(_ORDERS.get(name, "(?!)"), value):
            rule = "delay and pace are in seconds, times is a number, fault a status or a word"
            return f"{name}={value} is no order for the sandbox: {rule}"
    return ""


def conversation(asked: Any, earlier: list[Turn]) -> tuple[list[Turn], str]:
    """The turns before the newest question, and that question; `asked` is a request's `input`."""
    if isinstance(asked, str):
        return earlier, asked
    outputs = [
        str(item.get("output")) for item in asked if item.get("type") == "function_call_output"
    ]
    if outputs:
        return earlier, f"(what came of the tools: {'; '.join(outputs)})"
    turns, question = list(earlier), ""
    for item in asked:
        content = item.get("content") or ""
        parts = [str(part.get("text") or "") for part in content if isinstance(part, dict)]
        text = content if isinstance(content, str) else "".join(parts[:1])
        if item.get("role") == "assistant":
            turns.append((question, text))
        else:
            question = text
    return turns, question


def respond(
    body: Mapping[str, Any], turns: list[Turn], question: str, *, answer: str, fault: str = ""
) -> dict[str, Any]:
    """The whole response to a request; it is completed, unless a limit or a fault forbids that."""
    reasoning = body.get("reasoning") or {}
    effort = reasoning.get("effort") or "medium"
    read = [question, body.get("instructions") or "", *(part for turn in turns for part in turn)]
    response = {
        "id": _response_id(body, turns),
        "object": "response",
        "created_at": _CREATED,
        "status": "completed",
        "background": bool(body.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": f"{body['model'].rpartition('/')[2]}-sandbox",
        "output": [
            _reasoning(question, reasoning),
            *(_calls(body, question) or [_message(answer)]),
        ],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": effort, "summary": reasoning.get("summary")},
        "store": bool(body.get("store")),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "truncation": body.get("truncation") or "disabled",
        "usage": _usage(sum(map(_tokens, read)), _tokens(answer), _REASONING[effort]),
    }
    _limit(response, body.get("max_output_tokens"))
    _spoil(response, fault)
    return response


def answer_to(body: Mapping[str, Any], turns: list[Turn], question: str) -> str:
    """The text of an answer: an instance of the requested schema, else a report of the request."""
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        return dump(_filled(wanted["schema"], wanted["schema"]))
    return _report(body, turns, _ORDER.sub("", question).strip())


def cost(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """The cost of a response as the vendor reports it; in the sandbox it is play money."""
    tokens = usage or {}
    usd = sum(tokens.get(f"{kind}_tokens", 0) * price / 1e6 for kind, price in PRICES.items())
    return {"credits_used": round(usd * 2e6), "usd_spent": round(usd, 6)}


def _response_id(body: Mapping[str, Any], turns: list[Turn]) -> str:
    decisive = [
        turns, body["input"], body.get("model"), body.get("instructions"), body.get("reasoning") or {},
    ]  # fmt: skip
    return "sandbox_" + hashlib.sha256(dump(decisive).encode()).hexdigest()[:16]


def _reasoning(question: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    text = f"**Counting words**\n\nThe question has {len(question.split())}."
    summary = [{"type": "summary_text", "text": text}]
    return {"id": "rs_1", "type": "reasoning", "summary": summary if wanted.get("summary") else []}


def _message(text: str) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }


def _report(body: Mapping[str, Any], turns: list[Turn], question: str) -> str:
    """What the sandbox read: the question, the options and the conversation, as Markdown."""
    form = "by the id of the last answer" if body.get("previous_response_id") else "as a transcript"
    rows = {
        "model": f"`{body['model']}`",
        "effort": (body.get("reasoning") or {}).get("effort") or "medium",
        "instructions": body.get("instructions") or "none",
        "conversation": f"{len(turns)} earlier, sent {form}" if turns else "it begins here",
    }
    if attached := _attached(body["input"]):
        rows["attached"] = attached
    table = "".join(
        f"| {name} | {' '.join(value.split())[:80].replace('|', '/')} |\n"
        for name, value in rows.items()
    )
    read = "orders, and no question."
    if words := len(question.split()):
        quote = "\n".join(f"> {line}" for line in question[:400].splitlines())
        read = f"your question of {count_of(words, 'word')}:\n\n{quote}"
    text = (
        f"**This is the sandbox; no model is behind it.** It read {read}\n\n"
        f"| sent with it | |\n|---|---|\n{table}"
    )
    if not turns:
        return text
    earlier = "".join(
        f"{number}. {_first_words(asked) or 'orders alone'}\n"
        for number, (asked, _) in enumerate(turns, start=1)
    )
    return f"{text}\nEarlier in this conversation you asked:\n\n{earlier}"


def _attached(asked: Any) -> str:
    """The attachments of the newest message, by the label before each."""
    parts = asked[-1].get("content") if isinstance(asked, list) and asked else []
    if not isinstance(parts, list):
        return ""
    texts = [str(part.get("text") or "") for part in parts[1:] if isinstance(part, dict)]
    names = (text.partition("\n")[0].removesuffix(":") for text in texts if text)
    return "; ".join(name.removeprefix("Attachment ") for name in names)


def _first_words(text: str) -> str:
    return cut(" ".join(_ORDER.sub("", text).split()))


def _calls(body: Mapping[str, Any], question: str) -> list[dict[str, Any]]:
    """A call of each function that the question names; none after the results of earlier calls."""
    if isinstance(body["input"], list) and any(
        item.get("type") == "function_call_output" for item in body["input"]
    ):
        return []
    named = [
        tool
        for tool in body.get("tools") or []
        if tool.get("type") == "function" and tool["name"] in question
    ]
    return [
        {
            "id": f"fc_{number}",
            "type": "function_call",
            "call_id": f"call_{number}",
            "name": tool["name"],
            "status": "completed",
            "arguments": dump(_filled(tool.get("parameters"), tool.get("parameters"))),
        }
        for number, tool in enumerate(named, start=1)
    ]


def _filled(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """The simplest value that fits a schema."""
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _filled(root.get("$defs", {}).get(name), root, depth + 1)
    if schema.get("anyOf"):
        return _filled(schema["anyOf"][0 if depth < 4 else -1], root, depth + 1)
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties") or {}
            return {name: _filled(entry, root, depth + 1) for name, entry in properties.items()}
        case "array":
            return [_filled(schema.get("items"), root, depth + 1)] if depth < 4 else []
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "string":
            return _EXAMPLES.get(schema.get("format", ""), "sandbox")
        case _:
            return None


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


def _usage(given: int, written: int, reasoned: int) -> dict[str, Any]:
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written + reasoned,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": given + written + reasoned,
    }


def _limit(response: dict[str, Any], limit: int | None) -> None:
    """Cuts a response at `max_output_tokens`: the reasoning counts first, then the text."""
    usage = response["usage"]
    if limit is None or usage["output_tokens"] <= limit:
        return
    reasoned = min(limit, usage["output_tokens_details"]["reasoning_tokens"])
    message = response["output"][1]
    if message["type"] == "message":
        message["content"][0]["text"] = message["content"][0]["text"][: 4 * (limit - reasoned)]
    message["status"] = "incomplete"
    response["usage"] = _usage(usage["input_tokens"], limit - reasoned, reasoned)
    response.update(status="incomplete", incomplete_details={"reason": "max_output_tokens"})


def _spoil(response: dict[str, Any], fault: str) -> None:
    match fault:
        case "incomplete":
            _limit(response, response["usage"]["output_tokens_details"]["reasoning_tokens"] + 8)
        case "refusal":
            refusal = {"type": "refusal", "refusal": "The sandbox was told to refuse."}
            response["output"][1]["content"] = [refusal]
        case "failed":
            error = {"code": "server_error", "message": "The sandbox was told to fail."}
            response.update(status="failed", error=error, output=[], usage=None)


def wrong(body: Any) -> str:
    """The first mistake in a request, in the vendor's words; empty if there is none."""
    if not isinstance(body, dict):
        return "Expected object"
    if not isinstance(body.get("model"), str):
        return "model: Required"
    if not isinstance(body.get("input"), str | list) or not body["input"]:
        return "input: Required"
    limit = body.get("max_output_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 16):
        return "max_output_tokens: Number must be greater than or equal to 16"
    for name, kind in _TYPES.items():
        if not isinstance(body.get(name) or kind(), kind):
            return f"{name}: Expected {_JSON[kind]}"
    if str((body.get("reasoning") or {}).get("effort") or "medium") not in _REASONING:
        return "reasoning.effort: Expected 'low' | 'medium' | 'high'"
    return _wrong_entry(body)


def _wrong_entry(body: Mapping[str, Any]) -> str:
    """As `wrong`, inside the fields."""
    for item in body["input"] if isinstance(body["input"], list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("content") or "", str | list):
            return "input: Expected messages"
    for tool in body.get("tools") or []:
        if not isinstance(tool, dict) or (
            tool.get("type") == "function" and not isinstance(tool.get("name"), str)
        ):
            return "tools: Expected objects, and names of functions"
    wanted = (body.get("text") or {}).get("format") or {}
    if not isinstance(wanted, dict) or (
        wanted.get("type") == "json_schema" and not isinstance(wanted.get("schema"), dict)
    ):
        return "text.format: Expected object, and schema"
    return ""
