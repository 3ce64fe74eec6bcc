"""The response to a request by rule: no model, no state, no clock.

The same conversation always gets the same answer, id and date, so that a notebook with the sandbox
has the same outputs in every run. A line in the question orders delays and faults:

    sandbox: delay=5 pace=0.02 fault=503 times=1

`delay` is in seconds, `pace` in seconds per word; `fault` is an HTTP status, or html, reset, cut,
silent, incomplete, refusal, failed, empty or error; `times` limits the number of faults;
`phase=commentary` adds a message of that phase before the answer. Unknown orders are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from aiml_magic.api.responses import Raw
from aiml_magic.sandbox import catalog
from aiml_magic.sandbox.calls import calls, filled
from aiml_magic.text import count_of, cut, dump

Orders = Mapping[str, str]  # delays and faults, by name
Turn = tuple[str, str]  # a question and its answer

CREATED_AT = 1_767_225_600  # 2026-01-01, fixed so that outputs can be compared
_REASONING = {  # tokens
    "none": 0,
    "minimal": 16,
    "low": 64,
    "medium": 256,
    "high": 1024,
    "xhigh": 4096,
    "max": 16384,
}
_ORDER = re.compile(r"^sandbox:((?:[ \t]+\w+=[\w.-]+)+)[ \t]*$", re.MULTILINE)
_ORDERS = {  # the allowed values of each
    "delay": r"\d{1,9}(\.\d+)?",
    "pace": r"\d{1,9}(\.\d+)?",
    "fault": r"[45]\d\d|html|reset|cut|silent|incomplete|refusal|failed|empty|error",
    "times": r"\d{1,9}",
    "phase": r"commentary",
}
# The defaults of a response's fields.
_FIELDS: dict[str, Any] = {
    "background": False,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "temperature": 1,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "disabled",
    "user": None,
}


def orders(question: str) -> dict[str, str]:
    """The orders to the sandbox in a question."""
    match = _ORDER.search(question)
    return dict(order.split("=", 1) for order in match[1].split()) if match else {}


def wrong_order(given: Orders) -> str:
    """A message about the first unknown order; empty if all are known."""
    for name, value in given.items():
        if not re.fullmatch(_ORDERS.get(name, "(?!)"), value):
            rule = "delay and pace are in seconds, times is a number, fault a status or a word"
            return f"{name}={value} is not an order for the sandbox: {rule}"
    return ""


def conversation(asked: Any, earlier: list[Turn]) -> tuple[list[Turn], str]:
    """The turns before the newest question, and that question, from a request's `input`."""
    if isinstance(asked, str):
        return earlier, asked
    turns, question, is_open = list(earlier), "", False
    outputs: list[str] = []
    for item in asked:
        match item.get("type") or "message":
            case "function_call" if is_open:
                turns.append((question, ""))
                is_open = False
            case "function_call_output":
                outputs += _texts(item["output"])[:1]
                question, is_open = f"(what came of the tools: {'; '.join(outputs)})", True
            case "message" if "role" in item:
                text = "".join(_texts(item["content"])[:1])
                if item["role"] != "assistant":
                    question, is_open, outputs = text, True, []
                elif is_open:
                    turns.append((question, text))
                    is_open, outputs = False, []
    return turns, question


def respond(
    body: Raw,
    turns: list[Turn],
    question: str,
    *,
    answer: str,
    orders: Orders,
) -> Raw:
    """The whole response to a request, completed unless a limit or a fault prevents it."""
    reasoning = body.get("reasoning") or {}
    effort = reasoning.get("effort") or "medium"
    read = [question, body.get("instructions") or "", *(part for turn in turns for part in turn)]
    given = {name: body[name] for name in _FIELDS if body.get(name) is not None}
    response = {
        **_FIELDS,
        **given,
        "id": _response_id(body, turns),
        "object": "response",
        "created_at": CREATED_AT,
        "completed_at": CREATED_AT,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": f"{body['model'].rpartition('/')[2]}-sandbox",
        "output": _output(body, question, answer, orders),
        "reasoning": {**reasoning, "effort": effort, "summary": reasoning.get("summary")},
        "text": _text_options(body.get("text") or {}),
        "tools": [_without_secrets(tool) for tool in body.get("tools") or []],
        "usage": _usage(sum(map(_tokens, read)), _tokens(answer), _REASONING[effort]),
    }
    _limit(response, body.get("max_output_tokens"))
    _apply_fault(response, orders.get("fault", ""))
    if response["status"] != "completed":
        response["completed_at"] = None
    return response


def unfinished(response: Raw, status: str) -> Raw:
    """A response without output, with a status such as queued or in progress."""
    return {**response, "status": status, "completed_at": None, "output": [], "usage": None}


def answer_to(body: Raw, turns: list[Turn], question: str) -> str:
    """The text of an answer: an instance of the requested schema, else a report on the request."""
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        return dump(filled(wanted["schema"], wanted["schema"]))
    return _report(body, turns, _ORDER.sub("", question).strip())


def cost(usage: Raw | None) -> Raw:
    """The cost of a response in the vendor's form; it is play money."""
    tokens = usage or {}
    usd = sum(
        tokens.get(f"{kind}_tokens", 0) * price / 1e6 for kind, price in catalog.PRICES.items()
    )
    return {"credits_used": round(usd * 2e6), "usd_spent": round(usd, 6)}


def _response_id(body: Raw, turns: list[Turn]) -> str:
    names = ("input", "model", "instructions")
    decisive = [turns, *map(body.get, names), body.get("reasoning") or {}]
    if (choice := body.get("tool_choice") or "auto") != "auto":
        decisive.append(choice)
    return "sandbox_" + hashlib.sha256(dump(decisive).encode()).hexdigest()[:16]


def _output(body: Raw, question: str, answer: str, orders: Orders) -> list[Raw]:
    """The items: reasoning, calls, and a message unless a function is called."""
    reasoning = body.get("reasoning") or {}
    text = f"**Counting words**\n\nThe question has {len(question.split())}."
    summary = [{"type": "summary_text", "text": text}] if reasoning.get("summary") else []
    items: list[Raw] = []
    if reasoning.get("effort") != "none":
        items.append({"id": "rs_1", "type": "reasoning", "summary": summary})
    if orders.get("phase") == "commentary":
        items.append(_message("msg_0", "The sandbox counts the words first.", "commentary"))
    items += calls(body, question)
    if not any(item["type"] == "function_call" for item in items):
        items.append(_message("msg_1", answer, "final_answer"))
    return items


def _message(message_id: str, text: str, phase: str) -> Raw:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": phase,
        "content": [content],
    }


def _text_options(given: Raw) -> Raw:
    wanted = given.get("format") or {"type": "text"}
    if wanted["type"] == "json_schema":
        wanted = {"description": None, "strict": False, **wanted}
    return {"verbosity": "medium", **given, "format": wanted}


def _without_secrets(tool: Raw) -> Raw:
    """A tool as a response shows it: with all fields of a function, without headers."""
    if tool["type"] == "function":
        return {"description": None, "parameters": None, "strict": True, **tool}
    return {name: tool[name] for name in tool if name not in ("headers", "authorization")}


def _report(body: Raw, turns: list[Turn], question: str) -> str:
    """A report in Markdown on the question, the options and the conversation."""
    form = "by the id of the last answer" if body.get("previous_response_id") else "as a transcript"
    rows = {
        "model": f"`{body['model']}`",
        "effort": (body.get("reasoning") or {}).get("effort") or "medium",
        "instructions": body.get("instructions") or "none",
        "conversation": f"{len(turns)} earlier, sent {form}" if turns else "it begins here",
    }
    if mode := (body.get("reasoning") or {}).get("mode"):
        rows["mode"] = mode
    if attached := _attached(body["input"]):
        rows["attached"] = attached
    table = "".join(
        f"| {name} | {' '.join(value.split())[:80].replace('|', '/')} |\n"
        for name, value in rows.items()
    )
    read = "orders, and no question."
    if words := len(question.split()):
        quote = "  \n".join(f"> {line}" for line in question[:400].splitlines())
        read = f"your question of {count_of(words, 'word')}:\n\n{quote}"
    text = (
        f"**This is the sandbox; no model is behind it.** It read {read}\n\n"
        f"| sent with it | |\n|---|---|\n{table}"
    )
    if not turns:
        return text
    earlier = "".join(
        f"{number}. {cut(' '.join(_ORDER.sub('', asked).split())) or 'orders alone'}\n"
        for number, (asked, _) in enumerate(turns, start=1)
    )
    return f"{text}\nEarlier in this conversation you asked:\n\n{earlier}"


def _attached(asked: Any) -> str:
    """The labels of the newest message's attachments."""
    newest = asked[-1] if isinstance(asked, list) else {}
    texts = _texts(newest.get("content") or "")[1:]
    names = (text.partition("\n")[0].removesuffix(":") for text in texts)
    return "; ".join(name.removeprefix("Attachment ") for name in names)


def _texts(content: Any) -> list[str]:
    """The texts of a message or of a tool's output."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part.get("text")]


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


def _usage(given: int, written: int, reasoned: int) -> Raw:
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written + reasoned,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": given + written + reasoned,
    }


def _limit(response: dict[str, Any], limit: int | None) -> None:
    """Cuts a response at `max_output_tokens`; the tokens of the reasoning come first."""
    usage = response["usage"]
    if limit is None or usage["output_tokens"] <= limit:
        return
    reasoned = min(limit, usage["output_tokens_details"]["reasoning_tokens"])
    last = response["output"][-1]
    if last["type"] == "message":
        last["content"][0]["text"] = last["content"][0]["text"][: 4 * (limit - reasoned)]
    last["status"] = "incomplete"
    response["usage"] = _usage(usage["input_tokens"], limit - reasoned, reasoned)
    response.update(status="incomplete", incomplete_details={"reason": "max_output_tokens"})


def _apply_fault(response: dict[str, Any], fault: str) -> None:
    match fault:
        case "incomplete":
            _limit(response, response["usage"]["output_tokens_details"]["reasoning_tokens"] + 8)
        case "refusal":
            refusal = {"type": "refusal", "refusal": "The sandbox was told to refuse."}
            response["output"][-1]["content"] = [refusal]
        case "failed":
            error = {"code": "server_error", "message": "The sandbox was told to fail."}
            response.update(status="failed", error=error, output=[], usage=None)
