"""Filling {{names}}: the laws, and every kind of refusal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.errors import BadInput
from aiml_magic.question import prompts

VARIABLES = {
    "x": 5, "pi": 3.14159, "rows": [10, 20], "table": {"a b": 1, "key": "value"}, "name": "O'Hara",
    "thing": SimpleNamespace(size=SimpleNamespace(width=7), μ=8), "μ": 6, "braces": "{{x}} {x} $x", "größe": 1,
    "keys": {"0": 0, 0: 1, "a[1]": 2, "it:s": 3, "it's": 4, "x": {"y": 5}}, "_hidden": 2,
}  # fmt: skip


def fill(template: str, variables) -> str:
    text, attached = prompts.fill(template, variables)
    assert not attached
    return text


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{{x}} and {{ x }}", "5 and 5"),
        ("{{pi:.2f}}", "3.14"),
        ("{{ name!r }}", '"O\'Hara"'),
        ("{{name!r:>10}}", '  "O\'Hara"'),
        ("{{rows[1]}} {{table[key]}} {{table[a b]}}", "20 value 1"),
        ("{{thing.size.width:03d}}", "007"),
        ("{{größe}}", "1"),
        (
            "{{table['key']}} {{ table['a b'] }} {{rows[1]}} {{table[\"key\"]!r:>9}}",
            "value 1 20   'value'",
        ),
        (
            "{{keys['0']}} {{keys[0]}} {{keys['a[1]']}} {{keys['it:s']}} {{keys[it's]}} {{keys['x'][y].real}}",
            "0 1 2 3 4 5",
        ),
        ("{{µ}} {{thing.µ}}", "6 8"),  # as Python reads the key of that name
        ("{{braces}}", "{{x}} {x} $x"),
        (
            "{x} $x ${x} \\frac{a}{b} {k: v for k, v in d} f'{x!r}'",
            "{x} $x ${x} \\frac{a}{b} {k: v for k, v in d} f'{x!r}'",
        ),
        ('{"a": {"b": {}}}', '{"a": {"b": {}}}'),
        ("an open {{x", "an open {{x"),
        ("{{x}}{{x}}", "55"),
    ],
)
def test_filled(template, filled):
    """A field is filled like in a format string; everything else stays unchanged."""
    assert filled == fill(template, VARIABLES)


@pytest.mark.parametrize(
    "template",
    [
        "{{y}}", "{{x.__class__}}", "{{__builtins__}}", "{{_hidden}}", "{{thing._x}}", "{{x.real.__doc__}}", "{{open('f')}}", "{{x + 1}}",
        "{{}}", "{{ }}", "{{1}}", "{{x!z}}", "{{x:%%%}}", "{{rows[9]}}", "{{table[none]}}", "{{thing.nothing}}", "{{x.}}", "{{lambda: 1}}",
        "{{1,2},{3,4}}", "{{ {x} }}", "{{x[]}}", "{{x:{y}}}", "{{x:>99999999999}}",
        "{{table['none']}}", "{{table['k' + 'ey']}}", "{{table['key'}}", "{{table[key']}}", "{{table['']}}",
    ],
)  # fmt: skip
def test_refused(template):
    """Braces without a valid field, a private name and an unknown name are errors of two lines before anything is sent."""
    with pytest.raises(BadInput) as refused:
        fill(template, VARIABLES)
    assert 2 == len(str(refused.value).splitlines())


def test_nearest_name():
    """The error for a misspelt name suggests the nearest one."""
    with pytest.raises(BadInput, match="Did you mean table?"):
        fill("{{tabel}}", VARIABLES)
    with pytest.raises(BadInput, match="Did you mean width?"):
        fill("{{thing.size.widht}}", VARIABLES)


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_double_braces(text):
    """A question without double braces is sent as it is."""
    assert text == fill(text, {})


TEMPLATES = st.lists(
    st.sampled_from(["{{", "}}", "{", "}", "x", "y", "_", ".", "[0]", "['k']", "[", "]", "!r", "!s", ":", ":.2f", ":>9", "__class__",
                     "real", "k", " ", "\n", "(", "0x", "é", "{{x}}", "{{y[k].real:.2f}}"])
).map("".join)  # fmt: skip


@given(TEMPLATES | st.text())
def test_any_template(template):
    """Any text is filled, or is an error of two lines; nothing in it is executed."""
    try:
        fill(template, {"x": 1.5, "y": {"k": 2, "0": [3]}})
    except BadInput as refused:
        assert 2 == len(str(refused).splitlines())


@given(st.text(), st.text(st.characters(blacklist_characters="{}")))
def test_values_are_not_read(value, around):
    """Braces in an inserted value are not filled again."""
    assert f"{around}{value}{around}" == fill(f"{around}{{{{v}}}}{around}", {"v": value})


def test_broken_values():
    """A variable that cannot be written as text is an error of this package, not its own."""

    class Broken:
        def __format__(self, spec):
            raise RuntimeError("no")

    class Silent:
        def __prompt__(self):
            raise RuntimeError("no")

    for broken in (Broken(), Silent()):
        with pytest.raises(BadInput, match="cannot be written as text: no"):
            fill("{{broken}}", {"broken": broken})


class Wordless(Exception):
    def __str__(self):
        raise ValueError


class Hostile:
    """A value that raises at every access."""

    def __str__(self):
        raise Wordless

    __repr__ = __str__

    def __getattr__(self, name):
        raise Wordless

    def __dir__(self):
        raise Wordless


class Proxy:
    """A proxy for a value that does not exist yet."""

    @property
    def __class__(self):
        raise RuntimeError("not bound\nas yet")


@pytest.mark.parametrize(
    "template", ["{{x}}", "{{x!r}}", "{{x.foo}}", "{{x[0]}}", "{{d[x]}}", "{{d}}", "{{proxy[0]}}"]
)
def test_hostile_values(template):
    """A value that raises at every access, also without a message, is an error of two lines."""
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        fill(template, {"x": Hostile(), "d": {Hostile(): 1}, "proxy": Proxy()})
    assert 2 == len(str(refused.value).splitlines())


def test_rows_with_any_names():
    """A mapping may have names that Python's parser would normalize."""
    assert "5" == fill("{{µ}}", {"µ": 5})


def test_many_braces():
    """The time grows linearly with the question, with any braces in it."""
    assert "{{" * 300_000 == fill("{{" * 300_000, {})
    with pytest.raises(BadInput, match="not a variable"):
        fill("{{x" + "['a']" * 1000 + "!}}", {"x": 1})
    assert set() == prompts.names_in("}}" + "{{" * 300_000)
    assert "5}{{}{{" == fill("{{x}}}{{}{{", {"x": 5})
    with pytest.raises(BadInput, match="has no"):
        fill("{{d[zzz]}}", {"d": dict.fromkeys(map(str, range(1_000_000)))})
