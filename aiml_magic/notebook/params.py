"""`--param KEY=JSON`: fields of the API, merged with those of the options; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from aiml_magic.errors import NOTHING_SENT, BadInput
from aiml_magic.text import did_you_mean

_OF_OPTIONS = {
    "model": "--model",
    "input": "the cell",
    "instructions": "--instructions",
    "max_output_tokens": "--max-output-tokens",
    "stream": "--no-stream",
    "store": "--no-store",
    "previous_response_id": "--after",
}
# By AI/ML API, for o3-pro.
_DESCRIBED = (
    "background include parallel_tool_calls prompt reasoning text tool_choice tools truncation"
).split()
# Of other models and servers.
_UNDESCRIBED = """
    background_options context_management conversation frequency_penalty logprobs max_tool_calls
    metadata min_p moderation presence_penalty prompt_cache_key prompt_cache_options
    prompt_cache_retention safety_identifier seed service_tier stop stream_options temperature
    top_k top_logprobs top_p user
""".split()
FIELDS = _DESCRIBED + _UNDESCRIBED  # names that are not misspelt
_INCLUDED = """
    message.input_image.image_url computer_call_output.output.image_url reasoning.encrypted_content
    code_interpreter_call.outputs file_search_call.results message.output_text.logprobs
    web_search_call.action.sources web_search_call.results
""".split()
_FORMS: dict[str, tuple[Any, str]] = {  # the type of a field's value, and its form in words
    "background": (bool, "background=true or background=false"),
    "include": (list, f"include=[…] of {', '.join(_INCLUDED)}"),
    "parallel_tool_calls": (bool, "parallel_tool_calls=true or parallel_tool_calls=false"),
    "prompt": (dict, 'prompt={"id": "…"}, with "variables" and "version" if needed'),
    "reasoning": (dict, 'reasoning={"context": "all_turns"}, for example; for effort use --effort'),
    "text": (
        dict,
        'text={"format": {"type": "json_object"}}, for example; for a type use --schema',
    ),
    "tools": (list, 'tools=[{"type": "web_search_preview"}], for example; or --tool with a dict'),
    "truncation": (object, 'truncation="auto" or truncation="disabled"'),
}
_MADE_BY = {
    "reasoning.effort": "--effort",
    "reasoning.mode": "--mode",
    "reasoning.summary": "--summary",
    "text.format": "--schema",
    "tool_choice": "--tool-choice",
}
_CLOSE = 0.8  # similarity of a misspelt name: a letter or two are wrong
_WANTED = 'KEY=JSON, such as truncation="auto" or include=["reasoning.encrypted_content"]'


def field_and_json(text: str) -> tuple[str, Any]:
    """The name of a field and its value. Raises ValueError with the expected form."""
    name, _, value = text.partition("=")
    if name in _OF_OPTIONS:
        raise ValueError(f"a field without an option; for {name} use {_OF_OPTIONS[name]}")
    if name not in FIELDS and (close := did_you_mean(name, (*FIELDS, *_OF_OPTIONS), _CLOSE)):
        raise ValueError(f"a field of the API. {close}")
    try:
        read = json.loads(value) if re.fullmatch(r"[a-z][a-z0-9_]*", name) else ...
    except (ValueError, RecursionError):
        read = ...
    if read is ...:
        raise ValueError(_WANTED)
    _check(name, read)
    return name, read


def undescribed(request: Mapping[str, Any]) -> list[str]:
    """The fields of a request that AI/ML API does not describe."""
    return [name for name in request if name not in (*_DESCRIBED, *_OF_OPTIONS)]


def joined(params: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of several --param as one object. Raises BadInput for duplicates."""
    together: dict[str, Any] = {}
    for name, value in params:
        together = merged(together, {name: value}, twice="by --param twice")
    return together


def merged(
    made: Mapping[str, Any], given: Mapping[str, Any], path: str = "", *, twice: str = ""
) -> dict[str, Any]:
    """The fields `made` by options merged with those `given` by --param.

    Objects are merged, lists joined. Raises BadInput for a value in both.
    """
    together = dict(made)
    for name, value in given.items():
        where = f"{path}.{name}".removeprefix(".")
        match together.get(name), value:
            case None, _:
                together[name] = value
            case Mapping() as ours, Mapping():
                together[name] = merged(ours, value, where, twice=twice)
            case list(ours), list():
                together[name] = [*ours, *value]
            case _:
                makers = (_MADE_BY[made] for made in _MADE_BY if where.startswith(made))
                by = twice or f"by {next(makers)} and by --param"
                raise BadInput(f"{where} is set {by}. {NOTHING_SENT}", "Leave one of them out.")
    return together


def _check(name: str, value: Any) -> None:
    """Raises ValueError for a value that the API's schema does not allow in this field.

    The server validates the values of other fields.
    """
    kind, form = _FORMS.get(name, (object, ""))
    if not isinstance(value, kind):
        raise ValueError(form)
    match name:
        case "truncation" if value not in ("auto", "disabled"):
            raise ValueError(form)
        case "prompt" if not isinstance(value.get("id"), str):
            raise ValueError(form)
        case "include":
            others = (str(entry) for entry in value if entry not in _INCLUDED)
            close = (did_you_mean(other, _INCLUDED, _CLOSE) for other in others)
            if meant := next(filter(None, close), ""):
                raise ValueError(f"{form}. {meant}")
