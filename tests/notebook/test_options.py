"""A line of options and the question after it."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.errors import BadInput
from aiml_magic.notebook.options import OPTIONS, read_line, usage


@pytest.mark.parametrize(
    ("line", "values", "question"),
    [
        ("", {}, ""),
        ("Why?", {}, "Why?"),
        ("-e high Why?", {"effort": ["high"]}, "Why?"),
        ("--effort=high  What's  \"this\" {x}?", {"effort": ["high"]}, "What's  \"this\" {x}?"),
        ('-i "be brief" -q Why -e?', {"instructions": "be brief", "quiet": True}, "Why -e?"),
        ("-i 'say \"hi\"' x", {"instructions": 'say "hi"'}, "x"),
        ("--instructions=don't x", {"instructions": "don't"}, "x"),
        ("-- -1 is what?", {}, "-1 is what?"),
        ("-t 16 -n --alone --raw --no-stream --no-store", {"max_output_tokens": 16, "new": True, "alone": True, "raw": True,
                                                           "no_stream": True, "no_store": True}, ""),
        ("--timeout 2.5 -c ideas -m other/model -o name", {"timeout": 2.5, "chat": "ideas", "model": ["other/model"], "out": "name"}, ""),
        ('--param truncation="auto" --param include=["reasoning.encrypted_content"] --param \'n={"a": 1}\'',
         {"param": [("truncation", "auto"), ("include", ["reasoning.encrypted_content"]), ("n", {"a": 1})]}, ""),
        ("-o µ -s ﬁt -f µ --tool-choice µ --after µ", {"out": "μ", "schema": "fit", "tool": ["μ"], "tool_choice": "μ", "after": "μ"}, ""),
        ("--summary auto \\frac{a}{b} C:\\new", {"summary": "auto"}, "\\frac{a}{b} C:\\new"),
    ],
)  # fmt: skip
def test_lines(line, values, question):
    """Options are read up to the first other word; the rest is the question, exactly as typed."""
    assert (values, question) == read_line(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--efort high", "Did you mean --effort?"), ("--effort hihg", "Did you mean high?"), ("--summary consise", "Did you mean concise?"), ("-e", "needs a value"),
        ("-t 15", "at least 16"), ("-t many", "whole number"), ("-t 1e3", "whole number"), ("--timeout 0", "above 0"),
        ("--timeout -5", "above 0"), ("-o 1x", "variable"), ("-o a.b", "variable"), ("-o class", "variable"), ("-o None", "variable"), ("-o ｃlass", "variable"), ("-o ''", "some text"), ("-s True", "variable"),
        ("--param metadata=" + "[" * 100_000, "KEY=JSON"), ("--param x", "KEY=JSON"),
        ("--param x={", "KEY=JSON"), ("--param model=\"x\"", "use --model"), ("-q=yes", "takes no value"), ("-5 what?", "goes after --"), ("-x", "There is no option -x"),
        ("--param trunkation=1", "Did you mean truncation?"), ('--param truncation="never"', 'truncation="auto"'),
        ('--param include=["reasoning.encrypted"]', "Did you mean reasoning.encrypted_content?"), ("--param include=3", "include=["),
        ("--param background=1", "background=true"), ("--param prompt={}", 'prompt={"id"'), ("--param text=3", "--schema"),
        ('--param parallel_tool_calls="no"', "parallel_tool_calls=true"),
        ("--summary none", "one of auto, concise, detailed"), ('-i ""', "some text"), ("--new=1", "takes no value"), ("-", "There is no"),
    ],
)  # fmt: skip
def test_refused(line, said):
    """A wrong option or value is an error of two lines with the nearest valid one, and nothing is sent."""
    with pytest.raises(BadInput) as refused:
        read_line(line)
    text = str(refused.value)
    assert said in text
    assert "Nothing was sent" in text
    assert not re.search(r"[.?!]{2}(\s|$)", text), "one mark ends a sentence"
    assert 2 == len(text.splitlines())


@given(
    st.text(st.characters(blacklist_categories=["Z", "C"]), min_size=1).filter(
        lambda word: not word.startswith("-")
    ),
    st.text(),
)
def test_any_question(word, rest):
    """Text that does not begin with a dash is the question, as typed."""
    assert ({"quiet": True}, f"{word}{rest}".strip()) == read_line(f"-q {word}{rest}")


@given(
    st.text(
        st.characters(blacklist_characters="\"'", blacklist_categories=["C"]), min_size=1
    ).filter(str.strip)
)
def test_quoted_values(text):
    """A value in quotes arrives without them, and otherwise as typed."""
    assert ({"instructions": text}, "") == read_line(f'-i "{text}"')


@given(st.text())
def test_never_raises_another_error(line):
    """Any line is read, or refused with BadInput."""
    with contextlib.suppress(BadInput):
        read_line(line)


def test_usage():
    """The help names every option, and all its examples are read without an error."""
    text = usage({})
    assert all(option.long in text for option in OPTIONS)
    examples = [
        line.strip().split("  ")[0] for line in text.splitlines() if line.startswith("  %%o3pro")
    ]
    assert len(examples) >= 5
    for example in examples:
        assert "" == read_line(example.removeprefix("%%o3pro"))[1]


def test_help_shows_each_option_in_use():
    """Every option is used in an example of the help."""
    _, examples = usage({}).split("Examples:")
    used = set(examples.split())
    assert [] == [option.long for option in OPTIONS if not set(option.flags) & used]
