"""The tool calls of a response: of tools that the question names, or that are required."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from aiml_magic.api.responses import Raw
from aiml_magic.text import dump, target

# Of the formats of a string.
_EXAMPLES = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00",
    "time": "00:00:00",
    "duration": "PT1H",
    "email": "sandbox@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

_LIMITS = "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()
_MOST = 20  # entries of a list


def wrong_choice(body: Raw) -> str:
    """Why `tool_choice` cannot be followed; empty if it can."""
    choice = body.get("tool_choice")
    if choice == "required" and not body.get("tools"):
        return "Tool choice 'required' must be specified with 'tools' parameter."
    if isinstance(choice, Mapping) and not _chosen(body.get("tools") or [], choice):
        name = choice.get("name") or choice["type"]
        return f"Tool choice '{name}' not found in 'tools' parameter."
    return ""


def calls(body: Raw, question: str) -> list[Raw]:
    """The items of the calls that `tool_choice` requires or allows."""
    choice, tools = body.get("tool_choice") or "auto", body.get("tools") or []
    if choice == "none":
        return []
    asked = body["input"]
    has_outputs = isinstance(asked, list) and asked[-1].get("type") == "function_call_output"
    wanted = [tool for tool in tools if _is_named(tool, question) and not has_outputs]
    if isinstance(choice, Mapping):
        allowed = _chosen(tools, choice)
        wanted = [tool for tool in wanted if tool in allowed]
        if choice.get("mode") != "auto":
            wanted = wanted or allowed[:1]
    elif choice == "required":
        wanted = wanted or tools[:1]
    if body.get("parallel_tool_calls") is False:
        wanted = wanted[:1]
    return [
        item
        for number, tool in enumerate(wanted, start=1)
        if (item := _call(tool, number, question))
    ]


def filled(schema: Any, root: Raw, depth: int = 0) -> Any:
    """The simplest value that fits a schema."""
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    if "$ref" in schema:
        try:
            part = target(root, str(schema["$ref"]))
        except ValueError:
            part = None
        return filled(part, root, depth + 1)
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    if schema.get("anyOf"):
        return filled(schema["anyOf"][0 if depth < 4 else -1], root, depth + 1)
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = schema.get("properties") or {}
            return {name: filled(entry, root, depth + 1) for name, entry in properties.items()}
        case "array":
            needed = schema.get("minItems") or (1 if depth < 4 else 0)
            count = min(needed, _MOST) if isinstance(needed, int) else 1
            return [filled(schema.get("items"), root, depth + 1)] * count
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "string":
            return _EXAMPLES.get(schema.get("format", ""), "sandbox")
        case _:
            return None


def _number(schema: Raw) -> float:
    """The simplest number within the limits of a schema."""
    from jsonschema import Draft202012Validator

    limits = {name: schema[name] for name in _LIMITS if isinstance(schema.get(name), int | float)}
    with suppress(ArithmeticError, ValueError):  # limits out of reach, or infinite
        step = limits.get("multipleOf") or 1
        low = limits.get("minimum", limits.get("exclusiveMinimum", step))
        high = limits.get("maximum", limits.get("exclusiveMaximum", low))
        first, last = math.ceil(low / step) * step, math.floor(high / step) * step
        numbers = (1, step, first, first + step, last, last - step, (low + high) / 2)
        is_valid = Draft202012Validator(limits).is_valid
        return next((number for number in numbers if is_valid(number)), 1)
    return 1


def _is_named(tool: Raw, question: str) -> bool:
    """Whether the question has a function's name, or all its longer words, such as "weather"."""
    if tool["type"] != "function":
        return False
    words = re.findall(r"[a-z]{4,}|[A-Z][a-z]{3,}", tool["name"])
    return tool["name"] in question or (
        bool(words) and all(word.lower() in question.lower() for word in words)
    )


def _chosen(tools: list[Any], choice: Raw) -> list[Any]:
    """The tools that a choice names."""
    named = choice["tools"] if choice["type"] == "allowed_tools" else [choice]
    return [tool for tool in tools if any(_is_same(tool, one) for one in named)]


def _is_same(tool: Raw, named: Raw) -> bool:
    return all(
        tool.get(field) == named[field]
        for field in ("type", "name", "server_label")
        if field in named
    )


def _call(tool: Raw, number: int, question: str) -> Raw | None:
    """The item of a call; `None` for a kind of tool that the sandbox does not know."""
    match tool["type"]:
        case "function":
            parameters = tool.get("parameters") or {"type": "object"}
            return {
                "id": f"fc_{number}",
                "type": "function_call",
                "call_id": f"call_{number}",
                "name": tool["name"],
                "status": "completed",
                "arguments": dump(filled(parameters, parameters)),
            }
        case "mcp":
            return {
                "id": f"mcp_{number}",
                "type": "mcp_call",
                "server_label": tool["server_label"],
                "name": "sandbox",
                "arguments": "{}",
                "output": "The sandbox called no server.",
                "error": None,
                "status": "completed",
            }
        case kind if kind.startswith("web_search"):
            return {
                "id": f"ws_{number}",
                "type": "web_search_call",
                "status": "completed",
                "action": {"type": "search", "query": " ".join(question.split())[:80]},
            }
        case _:
            return None
