"""Model text to Markdown and HTML in which nothing is active.

A notebook that was just run is trusted: JupyterLab executes what its `text/markdown` and
`text/html` hold. So the answer's Markdown is parsed, and written anew from what was understood. One
rule decides what survives: every mark in the result is ours, and every character of the model's is
one of four things.

* Text, in which each character that Markdown, HTML or MathJax could take for a mark is an entity.
* Code, in a fence where no front end can misread it, else in entities.
* An address that begins with https, http, mailto or #, in characters that cannot end it.
* Mathematics made of known commands that only set type; any other formula is shown as code.

Raw HTML is text, a picture is a link (showing it would fetch it), and a language name that makes a
front end draw is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from string import punctuation
from typing import TYPE_CHECKING, Any

from aiml_magic.show.formulas import CLOSERS
from aiml_magic.show.links import BARE_LINK, encoded, is_address, with_scheme
from aiml_magic.show.parse import parser
from aiml_magic.show.typeset import typeset
from aiml_magic.text import fence_for, plain, plain_line

if TYPE_CHECKING:
    from markdown_it.tree import SyntaxTreeNode

# MathJax 3 and 2 read no formulas inside it.
_IGNORED = '<span class="mathjax_ignore tex2jax_ignore">{}</span>'
_MARKS = re.compile(
    r"[<>&*`\[\]{~|$]|\\(?!(?!begin|end|ref|eqref)[A-Za-z0-9])|(?<![^\W_])_|_(?![^\W_])|@(?=@)|!(?=\[)|(?<!http)(?<!https):(?=//)"
)
_NO_MATHEMATICS = frozenset(punctuation + " \n") - frozenset("()[]$\\")  # behind a backslash
_SIGNS_APART = {"![", "@@", ":/", "//"}  # two signs that are, or begin, a mark
_LINE_START = re.compile(r"^(\s*)([#+=:-]|\d{1,9}[.)])")
_LANGUAGES = frozenset(
    "bash c c++ clojure cmake console cpp cs csharp css dart diff docker dockerfile elixir erlang "
    "fortran fsharp go graphql haskell haskell html http ini java javascript js json jsx julia "
    "kotlin latex lisp lua make makefile markdown matlab md nix nim objc ocaml pascal perl php "
    "powershell prolog proto ps1 py pycon python python3 r rb rs ruby rust sas scala scheme sh "
    "shell sql stan swift tcl tex text toml ts tsx typescript verilog vhdl vim xml "
    "yaml yml zig".split()
)
# Characters: what colours the code of a page takes quadratic time, in some languages, for longer
# lines, and for more. (For Terraform it takes longer still, which is why that is not among the
# languages.)
_LONG_LINE, _LONG_CODE = 1000, 10_000
_HARMLESS = re.compile(
    r"[\w \n.,;=+*()'\"#%^?/-]*"
)  # code in which nothing would be active if it were Markdown
_BREAKS = re.compile(r"(?:\s|<br>)+$")
_LISTS = ("bullet_list", "ordered_list")


def markdown(text: str, *, is_for_page: bool = False) -> str:
    """The Markdown `text` of a model as Markdown in which nothing is active.

    For a page, where Python-Markdown reads it, lists are four columns wide, and code inside them
    and in quotes is HTML.
    """
    from markdown_it.tree import SyntaxTreeNode

    parsed = parser().parse(plain(text))
    for token in parsed if is_for_page else []:
        token.meta["is_for_page"] = True
    root = SyntaxTreeNode(parsed)
    has_formula = any(node.type.startswith("formula") for node in root.walk())
    return "\n\n".join(
        _blocks(root.children, lambda node: _fence(node, has_formula=has_formula) or _block(node))
    )


def line(text: str) -> str:
    """`text` as one line of Markdown in which nothing is a mark."""
    return _begun(_text(plain_line(text)))


def _block(node: SyntaxTreeNode) -> str:
    match node.type:
        case "heading":
            text = _inline(node.children[0]).replace("\n", " ")
            return (
                "#" * int(node.tag[1]) + " " + re.sub("#$", _entity("#"), text)
            )  # which would else be the heading's end
        case "paragraph":
            return _inline(node.children[0])
        case "blockquote":
            return _indented("> ", "> ", "\n\n".join(_blocks(node.children)))
        case "bullet_list":
            return _list(node, ("- " for _ in node.children))
        case "ordered_list":
            first = int(node.attrs.get("start", 1))
            return _list(
                node,
                (f"{min(first + count, 999_999_999)}. " for count in range(len(node.children))),
            )  # nine digits at most
        case "fence" | "code_block":
            return _code_block(node)
        case "formula_block":
            return _math(node.content, node.markup)
        case "table":
            return _table(node)
        case "hr":
            return "* * *"
        case _:
            return _entities(node.content)


def _blocks(
    nodes: Sequence[SyntaxTreeNode], write: Callable[[SyntaxTreeNode], str] = _block
) -> Iterator[str]:
    """Each block; between two lists that follow each other a comment keeps them apart."""
    for node, following in zip_longest(
        nodes, nodes[1:]
    ):  # a node looks for its neighbours among all
        is_apart = (
            node.type in _LISTS
            and following is not None
            and following.type in (*_LISTS, "code_block")
        )
        yield write(node) + "\n\n<!-- -->" * is_apart


def _list(node: SyntaxTreeNode, markers: Iterator[str]) -> str:
    wide = (marker.ljust(4 if "is_for_page" in node.meta else 0) for marker in markers)
    items = [
        _indented(marker, " " * len(marker), _item(item))
        for marker, item in zip(wide, node.children, strict=True)
    ]
    is_tight = all(
        child.hidden
        for item in node.children
        for child in item.children
        if child.type == "paragraph"
    )
    return ("\n" if is_tight else "\n\n").join(items)


def _item(node: SyntaxTreeNode) -> str:
    """The blocks of a list item; a list follows its tight paragraph without a blank line."""
    text, is_below_tight = "", False
    for child, block in zip(node.children, _blocks(node.children), strict=True):
        is_tight = is_below_tight and child.type in _LISTS
        text += ("\n" if is_tight else "\n\n" if text else "") + block
        is_below_tight = bool(text) and child.hidden
    return text


def _indented(first: str, rest: str, text: str) -> str:
    lines = text.split("\n")
    return "\n".join(
        (first if number == 0 else rest) + line for number, line in enumerate(lines)
    ).rstrip(" ")


def _fence(node: SyntaxTreeNode, *, has_formula: bool) -> str | None:
    """Code at the margin as Markdown; `None` where MathJax could pair a dollar in it."""
    if node.type not in ("fence", "code_block") or re.search(r"@@|\\begin|\\end", node.content):
        return None
    return None if has_formula and "$" in node.content else _fenced(node)


def _fenced(node: SyntaxTreeNode) -> str:
    content = node.content.removesuffix("\n")
    language = node.info.split()[0].lower() if node.info.split() else ""
    is_long = len(content) > _LONG_CODE or max(map(len, content.split("\n"))) > _LONG_LINE
    if language not in _LANGUAGES or ("is_for_page" in node.meta and is_long):
        language = ""
    ticks = fence_for(content)
    return f"{ticks}{language}\n{content}\n{ticks}"


def _code_block(node: SyntaxTreeNode) -> str:
    """Code anywhere: a fence where no front end reads it otherwise, since LaTeX drops HTML."""
    if _HARMLESS.fullmatch(node.content) and "is_for_page" not in node.meta:
        return _fenced(node)
    return f"<pre><code>{_entities(node.content.removesuffix(chr(10)))}</code></pre>"


def _table(node: SyntaxTreeNode) -> str:
    rows = [row for part in node.children for row in part.children]
    lines = [
        "| "
        + " | ".join(_inline(cell.children[0]).replace("\n", " ") for cell in row.children)
        + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join(_alignment(cell) for cell in rows[0].children) + "|")
    return "\n".join(lines)


def _alignment(cell: SyntaxTreeNode) -> str:
    style = str(cell.attrs.get("style", ""))
    return {"text-align:left": ":--", "text-align:center": ":-:", "text-align:right": "--:"}.get(
        style, "---"
    )


def _inline(node: SyntaxTreeNode) -> str:
    """A text without a break at its end: a tag alone on its line begins a block of raw HTML."""
    return "\n".join(_begun(line.strip(" ")) for line in _BREAKS.sub("", _spans(node)).split("\n"))


def _begun(line: str) -> str:
    """A line of inline content, with what begins it kept from beginning a block."""
    return _LINE_START.sub(lambda start: start[1] + _entity_of_mark(start[2]), line)


def _spans(node: SyntaxTreeNode) -> str:
    return _joined(map(_span, node.children))


def _joined(spans: Iterable[str]) -> str:
    """The spans in a row, without new marks where two meet, as two formulas, or "!" and a link."""
    text = before = ""
    for span in filter(None, spans):
        joint = text[-1:] + span[0]
        if joint in _SIGNS_APART or _is_lost_beside(text[-1:], span):
            text = text[:-1] + _entity(text[-1])
        first = _entity(span[0]) if _is_lost_beside(span[0], before[::-1]) else span[0]
        text += " " * (joint == "$$") + first + span[1:]
        before = span
    return text


def _is_lost_beside(sign: str, emphasis: str) -> bool:
    """Writes letters next to emphasis as entities where CommonMark would ignore the mark.

    It does so between punctuation inside and a letter outside (flanking rule, 6.2).
    """
    inside = emphasis.lstrip("*~")
    return (
        inside != emphasis
        and inside[:1] in punctuation
        and sign not in punctuation
        and not sign.isspace()
    )


def _span(node: SyntaxTreeNode) -> str:
    match node.type:
        case "text" | "text_special":
            return _literal(node.content) if _is_linked(node) else _text(node.content)
        case "softbreak":
            return "\n"
        case "hardbreak":
            return "<br>"  # with the line going on
        case "code_inline":
            return _code(node.content)
        case "sub" | "sup":
            return f"<{node.type}>{_spans(node)}</{node.type}>"
        case "em" | "strong" | "s":
            mark = {"em": "*", "strong": "**", "s": "~~"}[node.type]
            return mark + _spans(node) + mark
        case "link":
            return _link(_spans(node), str(node.attrs.get("href", "")))
        case "image":
            return _link(
                _literal(f"picture: {node.content or 'untitled'}"), str(node.attrs.get("src", ""))
            )
        case "formula":
            return _math(
                node.content,
                node.markup,
                in_table=any(outer.type in ("th", "td") for outer in _around(node)),
            )
        case _:
            return _entities(node.content)


def _is_linked(node: SyntaxTreeNode) -> bool:
    """It is within a link, in which there can be no other."""
    return any(
        outer.type == "link" and is_address(str(outer.attrs.get("href", "")))
        for outer in _around(node)
    )


def _around(node: SyntaxTreeNode) -> Iterator[SyntaxTreeNode]:
    """What a node is in, from the inside out."""
    while node.parent is not None:
        node = node.parent
        yield node


def _text(text: str) -> str:
    """Text in which nothing is a mark, and bare addresses are links."""
    pieces, end = [], 0
    for found in BARE_LINK.finditer(text):
        pieces += [
            _literal(text[end : found.start()]),
            _link(_literal(found[0]), parser().normalizeLink(with_scheme(found[0]))),
        ]
        end = found.end()
    return _joined([*pieces, _literal(text[end:])])


def _literal(text: str) -> str:
    """Text without marks; a backslash stays where neither Markdown nor MathJax reads it."""
    return _MARKS.sub(lambda mark: _entity(mark[0], text[mark.end() : mark.end() + 1]), text)


def _entity(sign: str, following: str = "") -> str:
    names = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    entity = names.get(sign, f"&#{ord(sign)};")
    is_mathematics = sign == "$" or (sign == "\\" and following not in _NO_MATHEMATICS)
    return _IGNORED.format(entity) if is_mathematics else entity


def _entity_of_mark(mark: str) -> str:
    return mark[:-1] + f"&#{ord(mark[-1])};"


def _entities(text: str) -> str:
    """`text` as entities, but for letters, digits and spaces: no front end reads a mark in it."""
    return re.sub(r"[^\w \u0080-\U0010ffff]|_", lambda sign: f"&#{ord(sign.group())};", text)


def _code(content: str) -> str:
    if (
        re.fullmatch(r"[^`$<>&|\\\n\[\]@]*[^`$<>&|\\\n\[\]@ ][^`$<>&|\\\n\[\]@]*", content)
        and content == content.strip()
    ):
        return f"`{content}`"
    return f"<code>{_entities(content)}</code>"


def _link(text: str, url: str) -> str:
    if not is_address(url):
        return text
    # Without angles, so that no tag of ours holds anything of the model's, whatever a front end
    # takes this for.
    return f"[{text}]({encoded(url).replace('&', '&amp;')})"


def _math(content: str, opener: str, *, in_table: bool = False) -> str:
    line = typeset(content, in_table=in_table)
    dollars = "$$" if opener in ("$$", "\\[", "") else "$"
    return (
        _code(opener + content + CLOSERS[opener]) if line is None else f"{dollars}{line}{dollars}"
    )


def escape(value: Any) -> str:
    """Any scalar as HTML text: nothing in it is a mark for HTML."""
    import html as entities

    return entities.escape(plain(str(value)), quote=True)
