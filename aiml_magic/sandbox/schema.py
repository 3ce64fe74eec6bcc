"""The JSON Schema of a request, and the first mistake in one, in the vendor's words.

It follows the vendor's description of o3-pro, but accepts what other models and servers add, such
as more kinds of tools or `metadata`. `open_responses` is the schema of the Open Responses
specification, which requires less.

One keyword is ours: `kinds` has a schema for each value of the field `by`. For an item without a
type, `untyped` finds its kind by its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

Schema = dict[str, Any]

_ALL_EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_EFFORTS = {"openai/o3-pro": ["low", "medium", "high"]}  # of the vendor's own description
_INCLUDED = """
    message.input_image.image_url computer_call_output.output.image_url reasoning.encrypted_content
    code_interpreter_call.outputs file_search_call.results message.output_text.logprobs
    web_search_call.action.sources web_search_call.results
""".split()
_WEB_SEARCH = (
    "web_search web_search_2025_08_26 web_search_preview web_search_preview_2025_03_11".split()
)
# Tools without a field that every server requires.
_HOSTED = """
    apply_patch code_interpreter computer computer_use computer_use_preview custom file_search
    image_generation local_shell namespace programmatic_tool_calling shell tool_search x_search
""".split()


def _enum(*values: str | None) -> Schema:
    return {"enum": list(values)}


def _type(*names: str) -> Schema:
    return {"type": list(names)}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _object(required: str = "", /, **fields: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": fields}


def _texts(required: str, /, **fields: Schema) -> Schema:
    """An object whose required fields are texts, except for those among `fields`."""
    return _object(required, **dict.fromkeys(required.split(), _TEXT) | fields)


def _kinds(by: str = "type", /, **kinds: Schema) -> Schema:
    return {"kinds": kinds, "by": by, "type": "object"}


_ANY: Schema = {}
_TEXT, _FLAG = _type("string"), _type("boolean")
_TEXT_OR_NULL, _FLAG_OR_NULL = _type("string", "null"), _type("boolean", "null")
_STATUS = _enum("in_progress", "completed", "incomplete")
_INPUT = {
    "input_text": _texts("text"),
    "input_image": _object(
        image_url=_TEXT_OR_NULL, detail=_enum("high", "low", "auto", "original", None)
    ),
    "input_file": _object(file_data=_TEXT_OR_NULL, filename=_TEXT_OR_NULL, file_url=_TEXT_OR_NULL),
}
_CITATION = _texts(
    "start_index end_index title url", start_index=_type("integer"), end_index=_type("integer")
)
_PROMPT = _texts("id", version=_TEXT_OR_NULL, variables=_type("object", "null"))
_SUMMARY = _list(_kinds(summary_text=_texts("text")))


def _nullable(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


def _number(kind: str, low: float, high: float | None = None) -> Schema:
    return {"type": [kind, "null"], "minimum": low} | ({} if high is None else {"maximum": high})


def _message(content: dict[str, Schema], *, is_answer: bool = False) -> Schema:
    """A message; one with output of a model must name the role."""
    parts = {"type": ["string", "array"], "items": _kinds(**content)}
    message = _object(
        "role content",
        content=parts,
        status=_STATUS,
        phase=_enum("commentary", "final_answer", None),
    )
    if is_answer:
        output = {"properties": {"type": _enum("output_text", "refusal")}}
        message["if"] = {"properties": {"content": {"type": "array", "contains": output}}}
        message["then"] = {"required": ["id", "status"]}
    return message


def _item(*, is_vendors: bool) -> Schema:
    answer = {
        **_INPUT,
        "output_text": _object(
            "text annotations" if is_vendors else "text",
            text=_TEXT,
            annotations=_list(_kinds(url_citation=_CITATION) if is_vendors else _ANY),
        ),
        "refusal": _texts("refusal"),
    }
    question = _message(_INPUT)
    output = _TEXT if is_vendors else {"type": ["string", "array"], "items": _kinds(**_INPUT)}
    kinds = _kinds(
        message=_kinds(
            "role",
            user=question,
            system=question,
            developer=question,
            assistant=_message(answer, is_answer=is_vendors),
        ),
        web_search_call=_texts(
            "id status", status=_enum("in_progress", "completed", "searching", "failed")
        ),
        function_call=_texts("arguments call_id name", id=_TEXT, server_label=_TEXT),
        function_call_output=_texts("call_id output", output=output),
        reasoning=_object("id summary" if is_vendors else "summary", id=_TEXT, summary=_SUMMARY),
        mcp_list_tools=_object(
            "id server_label tools", server_label=_TEXT, tools=_list(_type("object"))
        ),
        mcp_approval_request=_texts("arguments id name server_label"),
        mcp_approval_response=_texts("approval_request_id approve", approve=_FLAG),
        mcp_call=_texts("arguments id name server_label", output=_TEXT_OR_NULL),
        item_reference=_texts("id"),
    )
    return kinds | {"untyped": {"role": "message", "id": "item_reference"}}


def _tool(*, is_vendors: bool) -> Schema:
    function = _object(
        "name parameters strict" if is_vendors else "name",
        name=_TEXT,
        parameters=_type("object") if is_vendors else _type("object", "null"),
        strict=_FLAG if is_vendors else _FLAG_OR_NULL,
        description=_TEXT if is_vendors else _TEXT_OR_NULL,
    )
    mcp = _texts(
        "server_label",
        server_url=_TEXT,
        connector_id=_TEXT,
        allowed_tools={"type": ["array", "object", "null"], "items": _TEXT},
        headers={"type": ["object", "null"], "additionalProperties": _TEXT},
        require_approval={"type": ["string", "object", "null"]},
    )
    mcp["if"] = {"not": {"required": ["connector_id"]}}
    mcp["then"] = {"required": ["server_url"]}
    search = _object(
        search_context_size=_enum("low", "medium", "high"),
        user_location=_nullable(_object("type", type=_enum("approximate"))),
    )
    hosted = dict.fromkeys(_HOSTED, _type("object")) | dict.fromkeys(_WEB_SEARCH, search)
    return _kinds(function=function, mcp=mcp, **hosted)


def _choice() -> Schema:
    kinds = dict.fromkeys([*_HOSTED, *_WEB_SEARCH, "mcp"], _type("object"))
    named = dict.fromkeys(("function", "custom"), _texts("name"))
    allowed = _object("mode tools", mode=_enum("auto", "required"), tools=_list(_texts("type")))
    return {
        "type": ["string", "object"],
        "if": _TEXT,
        "then": _enum("none", "auto", "required"),
        "else": _kinds(**kinds | named, allowed_tools=allowed),
    }


def _text() -> Schema:
    plain = _object(type=_ANY) | {"additionalProperties": False}
    described = _texts(
        "name schema",
        schema=_type("object"),
        strict=_FLAG_OR_NULL,
        description=_TEXT_OR_NULL,
    )
    return {
        **_object(
            format=_kinds(text=plain, json_object=plain, json_schema=described),
            verbosity=_enum("low", "medium", "high", None),
        ),
        "if": {"not": {"required": ["verbosity"]}},  # which the vendor's description lacks
        "then": {"required": ["format"]},
    }


def _request(efforts: list[str], *, is_vendors: bool) -> Schema:
    reasoning = _object(
        effort=_enum(*efforts, None),
        summary=_enum("auto", "concise", "detailed", None),
        mode=_enum("standard", "pro", None),
    )
    return _texts(
        "model input",
        input={
            "type": ["string", "array"],
            "minLength": 1,
            "minItems": 1,
            "items": _item(is_vendors=is_vendors),
        },
        background=_FLAG if is_vendors else _FLAG_OR_NULL,
        frequency_penalty=_number("number", -2, 2),
        include=_nullable(_list(_enum(*_INCLUDED))),
        instructions=_TEXT_OR_NULL,
        max_output_tokens={"type": "integer", "minimum": 16},
        max_tool_calls=_number("integer", 1),
        metadata=_nullable(_object()) | {"additionalProperties": _TEXT},
        parallel_tool_calls=_FLAG_OR_NULL,
        presence_penalty=_number("number", -2, 2),
        previous_response_id=_TEXT_OR_NULL,
        prompt=_nullable(_PROMPT),
        prompt_cache_key=_TEXT_OR_NULL,
        reasoning=_nullable(reasoning),
        safety_identifier=_TEXT_OR_NULL,
        service_tier=_TEXT_OR_NULL,
        store=_FLAG_OR_NULL,
        stream=_FLAG_OR_NULL,
        temperature=_number("number", 0, 2),
        text=_text(),
        tool_choice=_choice(),
        tools=_list(_tool(is_vendors=is_vendors)),
        top_logprobs=_number("integer", 0, 20),
        top_p=_number("number", 0, 1),
        truncation=_enum("auto", "disabled"),
        user=_TEXT_OR_NULL,
    )


def wrong(body: Any, *, is_vendors: bool = True) -> str:
    """The first mistake in a request, as `field: expectation`; empty if there is none."""
    model = body.get("model") if isinstance(body, dict) else None
    efforts = _EFFORTS.get(model, _ALL_EFFORTS) if isinstance(model, str) else _ALL_EFFORTS
    for error in _validator(tuple(efforts), is_vendors).iter_errors(body):
        path = list(error.absolute_path)
        if error.validator == "required":
            path.append(next(name for name in error.validator_value if name not in error.instance))
        return ": ".join(filter(None, [".".join(map(str, path)), _expected(error)]))
    return ""


@cache
def _validator(efforts: tuple[str, ...], is_vendors: bool) -> Any:  # noqa: FBT001  # a key of the cache
    from jsonschema import Draft202012Validator, ValidationError, validators

    def kinds(validator: Any, kinds: Schema, value: Any, schema: Schema) -> Iterator[Any]:
        if not isinstance(value, Mapping):
            return  # reported by the keyword `type`
        kind = value.get(schema["by"])
        if kind is None:
            untyped = schema.get("untyped", {})
            kind = next((untyped[name] for name in untyped if name in value), None)
        if isinstance(kind, str) and kind in kinds:
            yield from validator.descend(value, kinds[kind])
        else:
            yield ValidationError("", validator="enum", validator_value=kinds, path=[schema["by"]])

    extended = validators.extend(Draft202012Validator, {"kinds": kinds})
    return extended(_request(list(efforts), is_vendors=is_vendors))


def _expected(error: Any) -> str:
    """The expectation of the schema, in the words of the vendor's own validation."""
    wanted = error.validator_value
    match error.validator:
        case "type":
            return f"Expected {wanted if isinstance(wanted, str) else ' | '.join(wanted)}"
        case "enum":
            return f"Expected {' | '.join(repr(name) for name in wanted if name)}"
        case "minimum":
            return f"Number must be greater than or equal to {wanted}"
        case "maximum":
            return f"Number must be less than or equal to {wanted}"
        case "additionalProperties":
            return "Unrecognized key"
        case _:
            return "Required"
