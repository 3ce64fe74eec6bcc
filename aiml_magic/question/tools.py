"""Functions of the notebook and tools of the API in a request, and calls of these functions.

A function runs in the caller's thread, with arguments validated against its type hints. An
exception is sent to the model as its result; only an interrupt ends the question.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from aiml_magic.api.responses import Raw, ToolCall, as_object, type_of
from aiml_magic.errors import NOTHING_SENT, BadInput
from aiml_magic.question import attachments, values
from aiml_magic.question.values import Function, Variables
from aiml_magic.text import agreed, did_you_mean

_WEB_SEARCH = {"type": "web_search_preview"}
_CHOICES = ("auto", "none", "required")
_NEEDED = {  # required fields of a tool by its type; one of each group
    "mcp": (("server_label",), ("server_url", "connector_id")),
    "function": (("name",), ("parameters",)),
}
_MAX_RESULT = 200_000  # characters of a result that are sent to the model
_MAX_SHOWN = 20_000  # characters of a call that a person is asked to confirm
_CONFIRM = "__aiml_magic_confirm__"
# Invisible characters that `str.isprintable` accepts: fillers, joiners, variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def confirm(function: Function) -> Function:
    """Marks a function whose calls by a model run only after the person has confirmed each."""
    setattr(function, _CONFIRM, True)
    return function


@dataclass(frozen=True)
class Tools:
    """The tools of a question: their specifications with secrets, and the functions by name."""

    specifications: tuple[Raw, ...] = field(repr=False)
    functions: Mapping[str, Function]


NO_TOOLS = Tools((), {})


def tools_of(
    named: Sequence[str], variables: Variables, specifications: Sequence[Any] = ()
) -> Tools:
    """The tools of these names, then those of `specifications`. Raises BadInput.

    A name is that of a function or a dict of the notebook, or `web_search`.
    """
    wanted: list[Raw] = []
    functions: dict[str, Function] = {}
    for name in named:
        value = variables.get(name) if not name.startswith("_") else None
        if name == "web_search" and value is None:
            wanted.append(_WEB_SEARCH)
        elif isinstance(value, Mapping):
            wanted.append(_of_dict(value, name))
        elif callable(value):
            tool = _of_function(value)
            known = functions.setdefault(tool["name"], value)
            if known is not value:
                raise BadInput(
                    f"{name[:60]} is the second function called {tool['name']}. {NOTHING_SENT}",
                    "Give each function a name of its own.",
                )
            wanted += [tool] if tool not in wanted else []
        else:
            raise _no_tool(name, variables)
    wanted += [_of_dict(given, "of --param tools") for given in specifications]
    return Tools(tuple(wanted), functions)


def _no_tool(name: str, variables: Variables) -> BadInput:
    functions = [known for known in variables if callable(variables[known]) and known[0] != "_"]
    # Another text may be a whole tool with its secrets.
    shown = f" {name[:60]}" if re.fullmatch(r"[\w ]+", name) else " of this name"
    return BadInput(
        f"There is no function and no tool{shown}. {NOTHING_SENT}",
        did_you_mean(name, ["web_search", *functions])
        or "Define the function, or put the tool's dict into a variable and name that.",
    )


def choice(named: str, tools: Tools) -> Any:
    """The `tool_choice` of this name: auto, none, required, or one of the tools.

    Raises BadInput.
    """
    if named in _CHOICES:
        return named
    known = [*_CHOICES]
    for tool in tools.specifications:
        names, fields = _named(tool)
        if named in names:
            return {"type": tool["type"], **fields}
        known.append(names[0])
    raise BadInput(
        f"--tool-choice cannot be {named[:60]}. {NOTHING_SENT}",
        did_you_mean(named, known) or f"It takes {', '.join(known)}.",
    )


def _named(tool: Raw) -> tuple[list[str], dict[str, str]]:
    """The names by which a tool may be chosen, best first, and the other fields of the choice."""
    kind = str(tool["type"])
    match tool:
        case {"type": "function" | "custom", "name": str(name)}:
            return [name], {"name": name}
        case {"type": "mcp", "server_label": str(label)}:
            return [label, kind], {"server_label": label}
    return ["web_search" if kind.startswith("web_search") else kind, kind], {}


def run(call: ToolCall, functions: Mapping[str, Function]) -> str:
    """The result of a call for the model: the function's value as text, or its error.

    Raises KeyboardInterrupt only.
    """
    from aiml_magic.question import schemas

    function = functions.get(call.name)
    if function is None:
        return _error(f"there is no tool {call.name}; there are {', '.join(functions)}")
    try:
        given = read_arguments(call.arguments) or {}
        arguments = schemas.arguments_of(function, given)
        if getattr(function, _CONFIRM, False):
            wanted = shown(
                call.name, {name: given.get(name, value) for name, value in arguments.items()}
            )
            if not agreed(f"Run {wanted}?"):
                return _error("the person did not allow this call")
        value = function(**arguments)
        return _result_text(_awaited(value) if inspect.isawaitable(value) else value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # the model gets the error, also of sys.exit
        return _error(_message(error))


def read_arguments(text: str) -> Any:
    """The arguments of a call. Raises ValueError for ambiguous JSON: a duplicate name, or NaN."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("the arguments are nested too deeply") from error


def shown(name: str, arguments: Raw) -> str:
    """A whole call on one line for a person to judge, with invisible characters escaped.

    Raises ValueError for one that is too long or too deep.
    """
    try:
        given = ", ".join(f"{_as_name(key)}={_literal(value)}" for key, value in arguments.items())
    except RecursionError as error:
        raise ValueError("the arguments are nested too deeply") from error
    call = f"{_as_name(name)}({given})"
    if len(call) > _MAX_SHOWN:
        raise ValueError(f"its {len(call):,} characters are too many for a person to judge")
    return call


def shown_request(request: Raw) -> str:
    """As `shown`, for the approval request of an MCP server's call. Raises ValueError."""
    text = request.get("arguments")
    given = read_arguments(text) if isinstance(text, str) and text.strip() else text or {}
    arguments = given if isinstance(given, Mapping) else {"arguments": given}
    call = shown(str(request.get("name")), arguments)
    return f"{call} of {_as_name(str(request.get('server_label')))}"


def _as_name(text: str) -> str:
    return text if re.fullmatch(r"[\w.-]{1,100}", text, re.ASCII) else _literal(text)


def _literal(value: Any) -> str:
    return _INVISIBLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), repr(value))


def _message(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # a class of the notebook may fail to write its text
        return type(error).__name__


def _of_function(function: Function) -> dict[str, Any]:
    name = str(getattr(function, "__name__", ""))
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise BadInput(
            f"{name or 'A callable'} has no name that the API accepts. {NOTHING_SENT}",
            "Define it with def.",
        )
    from aiml_magic.question.schemas import of_parameters

    parameters = of_parameters(function)
    docstring = function.__doc__ if isinstance(function.__doc__, str) else ""
    words = {"description": inspect.cleandoc(docstring)} if docstring else {}
    return {"type": "function", "name": name, "parameters": parameters, "strict": True} | words


def _of_dict(value: Any, name: str) -> dict[str, Any]:
    """A tool in the API's form; the server validates its type. Raises BadInput."""
    kind = type_of(as_object(value))
    if not kind.strip():
        raise BadInput(
            f"The tool {name} has no type. {NOTHING_SENT}",
            'Such as {"type": "web_search_preview"}.',
        )
    missing = [
        " or ".join(fields)
        for fields in _NEEDED.get(kind, ())
        if not any(value.get(name_of_field) for name_of_field in fields)
    ]
    if missing:
        raise BadInput(
            f"The tool {name} lacks {', '.join(missing)}. {NOTHING_SENT}",
            f"A tool of type {kind} needs it.",
        )
    _check_headers(value.get("headers"), name)
    try:
        return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"The tool {name} is not JSON: {type(error).__name__}. {NOTHING_SENT}",
            "Give it in the API's form: texts, numbers, lists and dicts.",
        ) from None  # its frames and its message may hold a secret


def _check_headers(headers: Any, name: str) -> None:
    """Raises BadInput for headers other than texts by name."""
    if headers and not (
        isinstance(headers, Mapping)
        and all(isinstance(text, str) for pair in headers.items() for text in pair)
    ):
        raise BadInput(
            f"The headers of {name[:60]} are not a dict of texts. {NOTHING_SENT}",
            'Such as {"Authorization": "…"}.',
        )


def _awaited(awaitable: Any) -> Any:
    """The result of an awaitable, from a loop in another thread: that of the notebook is busy."""
    outcome: Future[Any] = Future()

    async def wait() -> Any:
        return await awaitable

    def run_loop() -> None:
        try:
            outcome.set_result(asyncio.run(wait()))
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            outcome.set_exception(error)

    thread = threading.Thread(target=run_loop, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)  # in steps: an interrupt is raised between two
    return outcome.result()


def _result_text(value: Any) -> str:
    text: str = value
    if not isinstance(value, str):
        table = attachments.as_csv(value)
        text = table or json.dumps(_with_text_keys(value), default=_plain, ensure_ascii=False)
    if len(text) > _MAX_RESULT:
        return f"{text[:_MAX_RESULT]}\n(cut off; it has {len(text):,} characters)"
    return text


def _with_text_keys(value: Any) -> Any:
    """A value with texts in place of the keys that JSON does not have, also in its entries."""
    match value:
        case dict():
            return {
                key if isinstance(key, str | int | float | None) else values.whole(key): (
                    _with_text_keys(entry)
                )
                for key, entry in value.items()
            }
        case list() | tuple():
            return [_with_text_keys(entry) for entry in value]
    return value


def _plain(value: Any) -> Any:
    """A JSON value for `value`: the number of a NumPy scalar, else its text.

    Raises ValueError for a text that leaves something out.
    """
    if getattr(value, "shape", None) != () or getattr(value, "mask", False):
        return values.whole(value)
    plain, kind = value.item(), getattr(getattr(value, "dtype", None), "kind", "")
    if kind in "mM" and isinstance(plain, int):  # a time, counted in nanoseconds
        return str(value)
    if type(plain) is not type(value):
        return plain
    # A number of more digits than Python's own, or a quantity with its unit.
    is_number = type(value).__module__ == "numpy" and kind == "f"
    return float(value) if is_number else values.whole(value)


def _error(words: str) -> str:
    return json.dumps({"error": words[:2000]}, ensure_ascii=False)
