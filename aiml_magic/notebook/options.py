"""The options of %%o3pro: their table, and the parser of a line.

A line has options, then the question. The question is everything from the first word that is not an
option, exactly as typed: quotes, apostrophes and braces have no meaning in it.
"""

from __future__ import annotations

import itertools
import keyword
import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from aiml_magic.errors import NOTHING_SENT, BadInput
from aiml_magic.notebook.params import field_and_json
from aiml_magic.text import as_python_reads, did_you_mean

Given = Mapping[str, Any]  # options of a question, by name
WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")


class Option(NamedTuple):
    """One option, such as `-m, --model MODEL`; without `read` it is a flag.

    `read` parses its value, and raises ValueError with the expected form. `choices`, if any, are
    the allowed values.
    """

    usage: str
    help: str
    read: Callable[[str], Any] | None = None
    is_repeatable: bool = False
    choices: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        return re.findall(r"--?[a-z-]+", self.usage)

    @property
    def long(self) -> str:
        return "--" + self.usage.partition("--")[2].partition(" ")[0]

    @property
    def name(self) -> str:
        return self.long.removeprefix("--").replace("-", "_")

    @property
    def metavar(self) -> str:
        return self.usage.partition(self.long)[2].strip()

    def value(self, text: str) -> Any:
        """The value that `text` stands for. Raises ValueError with the expected form."""
        assert self.read is not None
        if self.choices and text not in self.choices:
            raise ValueError(
                f"one of {', '.join(self.choices)}. {did_you_mean(text, self.choices)}".rstrip()
            )
        return self.read(text)


def whole_number(least: int, most: int = 999_999_999) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"a whole number, at least {least} and at most {most:,}")
        return int(text)

    return read


def seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,7}(\.\d+)?", text, re.ASCII) or float(text) <= 0:
        raise ValueError("a number of seconds above 0")
    return float(text)


def variable_name(text: str) -> str:
    name = normalized_name(text)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError("a name that a variable can have")
    return name


def normalized_name(text: str) -> str:
    return as_python_reads(words(text))


def words(text: str) -> str:
    if not text.strip():
        raise ValueError("some text")
    return text


def encodable_words(text: str) -> str:
    try:
        words(text).encode()
    except UnicodeEncodeError as error:  # of a lone surrogate, which the journal cannot store
        raise ValueError("a text without lone surrogates") from error
    return text


EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MODES = ("standard", "pro")
SUMMARIES = ("auto", "concise", "detailed")
OPTIONS = (
    Option("-o, --out NAME", "also bind the answer to NAME", variable_name),
    Option("-q, --quiet", "do not show the answer"),
    Option(
        "-m, --model MODEL",
        "which model to ask (default openai/o3-pro); repeatable, side by side",
        words,
        is_repeatable=True,
    ),
    Option(
        "-e, --effort LEVEL",
        f"how much to reason: {', '.join(EFFORTS)}, as the model takes it; repeatable",
        words,
        is_repeatable=True,
        choices=EFFORTS,
    ),
    Option(
        "    --mode MODE",
        "how to reason: standard or pro, as the model takes it",
        words,
        choices=MODES,
    ),
    Option("    --samples K", "K independent answers to the question", whole_number(1, 1000)),
    Option(
        "    --summary KIND",
        "show a summary of the reasoning: auto, concise or detailed",
        words,
        choices=SUMMARIES,
    ),
    Option("-i, --instructions TEXT", "how to answer; sent with this turn", words),
    Option(
        "-t, --max-output-tokens N",
        "stop at N tokens, reasoning included; at least 16",
        whole_number(16),
    ),
    Option(
        "-a, --attach X",
        "send along a file, an image's address, or a variable; repeatable",
        words,
        is_repeatable=True,
    ),
    Option(
        "-s, --schema NAME",
        "answer as this type: a pydantic model, dataclass, TypedDict or JSON Schema",
        variable_name,
    ),
    Option(
        "-f, --tool NAME",
        "let the model use a function, web_search, or a dict of any tool; repeatable",
        normalized_name,
        is_repeatable=True,
    ),
    Option("    --tool-choice NAME", "auto, none, required, or the tool to use", normalized_name),
    Option(
        "    --param KEY=JSON",
        "any other field of the API, merged with those of the options; repeatable",
        field_and_json,
        is_repeatable=True,
    ),
    Option("-c, --chat NAME", "which conversation to go on with (default main)", encodable_words),
    Option("-n, --new", "start the conversation afresh"),
    Option(
        "    --after ID",
        "continue from that answer: a variable that holds it, its number or its id",
        normalized_name,
    ),
    Option("    --alone", "ask outside every conversation"),
    Option("    --fresh", "ask again, although the journal has the answer"),
    Option(
        "-b, --background", "return at once with a job, whose answer comes into this cell later"
    ),
    Option(
        "    --timeout SECONDS",
        "give up after so many seconds without a byte (default 3600)",
        seconds,
    ),
    Option("    --raw", "send the question as it is, {{...}} included"),
    Option("    --no-stream", "receive the answer in one piece"),
    Option("    --no-store", "ask the server not to store the answer"),
    Option("    --dry-run", "show the request and its highest cost; send nothing"),
)


def by_flag(several: Iterable[Option]) -> dict[str, Option]:
    return {flag: option for option in several for flag in option.flags}


FLAGS = by_flag(OPTIONS)


def read_line(line: str) -> tuple[Given, str]:
    """The options at the beginning of `line` by name, and the question. Raises BadInput."""
    values: dict[str, Any] = {}
    left = list(WORD.finditer(line))
    while left and left[0].group().startswith("-"):
        word = left.pop(0)
        if word.group() == "--":
            return values, line[word.end() :].strip()
        flag, equals, attached = word.group().partition("=")
        option = FLAGS.get(flag)
        if option is None:
            hint = did_you_mean(flag, FLAGS) or "%%o3pro? lists them all."
            raise BadInput(
                f"There is no option {flag}. {NOTHING_SENT}",
                f"{hint} A question that begins with a dash goes after --.",
            )
        if option.read is None:
            if equals:
                raise BadInput(f"{flag} takes no value. {NOTHING_SENT}", f"Write just {flag}.")
            values[option.name] = True
            continue
        if not equals and not left:
            raise BadInput(
                f"{flag} needs a value: {option.metavar}. {NOTHING_SENT}",
                f"{option.long}: {option.help}.",
            )
        value = _read(option, flag, unquoted(attached if equals else left.pop(0).group()))
        values[option.name] = (
            [*values.get(option.name, []), value] if option.is_repeatable else value
        )
    return values, line[left[0].start() :].strip() if left else ""


def each(given: Given) -> Iterator[Given]:
    """The options of each question: every model with every effort, each in K samples."""
    whole = dict(given)
    samples = whole.pop("samples", None)
    count = 1 if samples is None else check(FLAGS["--samples"], samples)
    models, efforts = (_several(whole.pop(name, None), name) for name in ("model", "effort"))
    for model, effort, sample in itertools.product(models, efforts, range(1, count + 1)):
        one = {"model": model, "effort": effort, "sample": sample if sample > 1 else None}
        yield whole | {name: value for name, value in one.items() if value is not None}


def _several(value: Any, name: str) -> list[Any]:
    """The values of a repeatable option, each once."""
    if not isinstance(value, list | tuple) or not value:
        return [value]
    option = FLAGS[f"--{name}"]
    return list(dict.fromkeys(None if one is None else check(option, one) for one in value))


def check(option: Option, value: Any) -> Any:
    """The value of an option that was given in Python, validated as text. Raises BadInput."""
    if option.read is None:
        if not isinstance(value, bool):
            raise BadInput(
                f"{option.long} cannot be a {type(value).__name__}. {NOTHING_SENT}",
                "It takes True or False.",
            )
        return value
    if not isinstance(value, str | numbers.Real) or isinstance(value, bool):
        raise BadInput(
            f"{option.long} cannot be a {type(value).__name__}. {NOTHING_SENT}",
            f"It takes a text: {option.help}.",
        )
    return _read(option, option.long, str(value))


def _read(option: Option, flag: str, text: str) -> Any:
    try:
        return option.value(text)
    except ValueError as error:
        shown = text.partition("=")[0] + "=…" if option.name == "param" else text
        raise BadInput(
            f"{flag} cannot be {shown[:60]!r}. {NOTHING_SENT}", f"It takes {error}."
        ) from None  # its frames may hold a secret


def unquoted(text: str) -> str:
    is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


def usage(settings: Mapping[str, str]) -> str:
    """The help of %%o3pro."""
    rows = "\n".join(f"  {option.usage:<30} {option.help}" for option in OPTIONS)
    defaults = "\n".join(f"  {name:<30} {meaning}" for name, meaning in settings.items())
    return f"""Ask o3-pro, and show its answer.

    %%o3pro [options]
    The question, over as many lines as it needs.

    %o3pro [options] question
    answer = %o3pro [options] question

The value is the answer: .text .reasoning .usage .cost_usd .seconds .status .id .model .raw
A cell continues the conversation of the cell run before it; run again, it keeps its place.
The same question in the same place is not asked again: its answer is replayed from the journal,
for $0.
{{{{name}}}} in the question is replaced by that variable (a table by its CSV, a figure goes along),
also {{{{table.shape[0]}}}} and {{{{x:.2f}}}}.
An interrupt of the kernel stops the question and keeps the text received.

Options:
{rows}

Settings, as %config O3Pro.effort = "high":
{defaults}

Examples:
  %%o3pro                                    ask in the conversation of this notebook
  %%o3pro -o answer -e high --summary auto   think hard, say how, keep the answer in a variable
  %%o3pro -n -i "You are a strict referee."  begin anew, with instructions
  %%o3pro -c ideas -t 4000                   another conversation, at most 4,000 tokens
  %%o3pro --dry-run -e high                  show what would be sent, and what it may cost
  %%o3pro --after 12 --fresh                 continue answer 12, asked anew even if asked before
  %%o3pro -b --timeout 600 -m openai/o3-pro  go on working; give up after ten minutes of silence
  %%o3pro -s Rating --no-stream -q -o rated  the answer as a Rating in rated.parsed, shown nowhere
  %%o3pro -f area --tool-choice required     have the model call the function area of the notebook
  %%o3pro -m openai/gpt-5.6-sol --mode pro   another model, thinking as hard as it can
  %%o3pro --samples 5 -e low -e high         five answers with each effort, side by side
  %%o3pro --alone --no-store --raw           no conversation, not stored there, {{{{braces}}}} kept
  %%o3pro -a figure -a table.csv             with a figure of the notebook and a file
  %o3pro --param truncation="auto" -- -1 is the square of what?

See also: %aiml help
"""
