"""Safe Markdown as HTML, for the reasoning in the details and for exported pages.

The only pipeline is `safe.markdown`, then Python-Markdown, then nh3. Python-Markdown lets HTML
through and is slow on hostile marks, but safe Markdown has neither: every mark is ours, and all
others are entities. Importing this module imports both libraries.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import nh3
from markdown import Markdown
from markdown.extensions import Extension
from markdown.extensions.codehilite import CodeHiliteExtension
from markdown.extensions.footnotes import FootnoteBlockProcessor, FootnoteExtension
from markdown.extensions.toc import TocExtension, slugify_unicode
from markdown.inlinepatterns import InlineProcessor, SimpleTagInlineProcessor
from markdown.util import AtomicString

from aiml_magic.show import links, safe
from aiml_magic.text import plain

_TAGS = set("""
    p br hr h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong s sub sup table thead tbody
    tr th td a
""".split())  # fmt: skip
_PAGE_TAGS = _TAGS | {"div", "span"}
_ALLOWED = {"a": {"href"}, "ol": {"start"}, "th": {"style"}, "td": {"style"}, "code": {"class"}}
_PAGE_ALLOWED = _ALLOWED | {
    "a": {"href", "class"},
    "div": {"class"},
    "span": {"class"},
    **{tag: {"id"} for tag in "h1 h2 h3 h4 h5 h6 sup li".split()},
}
# The allowed values of attributes. (nh3 alone would allow relative paths, which lead to the server
# of the page.)
_ATTRIBUTES = {
    "start": r"\d+",
    "style": r"text-align: ?(left|center|right);?",
    "class": r"language-[\w+#]+|highlight|footnote(-ref|-backref)?|[a-z][a-z0-9]{0,2}",
    "id": r"(turn|fn|fnref)[\w.:-]*",
    "rel": "noopener noreferrer",
}
# Patterns that find nothing in safe Markdown, and that of entities, which need no change: they take
# quadratic time.
_NEEDLESS = """
    entity escape reference image_link image_reference short_reference short_image_ref autolink
    automail
""".split()
_FOOTNOTE = r"&#91;\^([\w-]{1,40})&#93;"  # safe Markdown writes brackets of text as entities


def html(text: str) -> str:
    """The Markdown of a model as HTML without active content; formulas stay source text."""
    return _cleaned(_parser().convert(safe.markdown(text, is_for_page=True)), _TAGS, _ALLOWED)


class Page:
    """The answers of a conversation on one page.

    Their headings are of a lower level than the turns', code is highlighted, and each answer has
    its own footnotes.
    """

    _turn = 0

    def __init__(self) -> None:
        self._parser = _parser(
            CodeHiliteExtension(guess_lang=False, css_class="highlight"),
            _Footnotes(UNIQUE_IDS=True, PLACE_MARKER="\x02here\x03"),  # which no text contains
            TocExtension(baselevel=3, slugify=self._id),
        )

    def html(self, text: str) -> str:
        """As the function `html`, for the next turn."""
        self._turn += 1
        self._parser.reset()
        page = self._parser.convert(safe.markdown(text, is_for_page=True))
        cleaned = _cleaned(page, _PAGE_TAGS, _PAGE_ALLOWED)
        # With a tabindex, the keyboard can scroll wide ones.
        return re.sub("<(pre|table)>", r'<\1 tabindex="0">', cleaned)

    @property
    def style(self) -> str:
        """The style rules of highlighted code."""
        from pygments.formatters import HtmlFormatter

        return str(HtmlFormatter(style="xcode").get_style_defs(".highlight"))

    @property
    def headings(self) -> list[tuple[str, str]]:
        """The id and the text of each heading in the last turn."""
        tokens = _each(self._parser.toc_tokens)  # type: ignore[attr-defined]
        named = ((token["id"], plain(entities.unescape(token["name"]))) for token in tokens)
        return [(anchor, words) for anchor, words in named if words.strip()]

    def _id(self, words: str, separator: str) -> str:
        return f"turn{self._turn}-{slugify_unicode(words, separator)[:60]}"


class _Formula(InlineProcessor):
    """Shows a formula as source text, since pages have no MathJax."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:  # type: ignore[override]  # noqa: ARG002, N802
        code = Element("code")
        code.text = AtomicString(m[0])
        return code, m.start(), m.end()


class _Dialect(Extension):
    """The extensions of safe Markdown: formulas and ~~strikethrough~~."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  # the library's name
        for name in _NEEDLESS:
            md.inlinePatterns.deregister(name)
        md.inlinePatterns.register(_Formula(r"(\$\$?)(?:\\.|[^$\\])+\1", md), "formula", 185)
        md.inlinePatterns.register(SimpleTagInlineProcessor(r"(~~)(.+?)~~", "s"), "struck", 65)


class _Footnotes(FootnoteExtension):
    """Footnotes in the form of safe Markdown; the library's own patterns take quadratic time."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        super().extendMarkdown(md)
        md.inlinePatterns.register(_FootnoteMark(self), "footnote", 175)
        md.parser.blockprocessors.register(_FootnoteText(self), "footnote", 17)

    def reset(self) -> None:
        super().reset()
        self.numbers: dict[str, int] = {}

    def setFootnote(self, id: str, text: str) -> None:  # noqa: A002, N802
        """Adds a footnote; a duplicate name gets a number."""
        name = f"{id}.{len(self.numbers)}" if id in self.numbers else id
        self.numbers[name] = len(self.numbers) + 1
        super().setFootnote(name, text)

    def unique_ref(self, reference: str, found: bool = False) -> str:  # noqa: FBT001, FBT002
        if not found:
            return reference
        count = self.found_refs[reference] = self.found_refs.get(reference, 0) + 1
        return reference if count == 1 else reference.replace("fnref", f"fnref{count}", 1)


class _FootnoteMark(InlineProcessor):
    """The reference to a footnote, if there is one of that name."""

    def __init__(self, footnotes: _Footnotes) -> None:
        super().__init__(_FOOTNOTE)
        self._footnotes = footnotes

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int, int]:  # type: ignore[override]  # noqa: ARG002, N802
        name = m[1]
        if name not in self._footnotes.numbers:
            return None, m.start(), m.end()
        mark = Element("sup", {"id": self._footnotes.makeFootnoteRefId(name, found=True)})
        link = {"href": f"#{self._footnotes.makeFootnoteId(name)}", "class": "footnote-ref"}
        SubElement(mark, "a", link).text = str(self._footnotes.numbers[name])
        return mark, m.start(), m.end()


class _FootnoteText(FootnoteBlockProcessor):
    RE = re.compile(rf"^ {{0,3}}{_FOOTNOTE}:[ ]*(.*)$", re.MULTILINE)

    def test(self, parent: Element, block: str) -> bool:  # noqa: ARG002
        return self.RE.search(block) is not None


def _parser(*extensions: Extension) -> Markdown:
    return Markdown(
        extensions=["tables", "fenced_code", "sane_lists", _Dialect(), *extensions],
        output_format="html",
    )


def _cleaned(page: str, tags: set[str], attributes: dict[str, set[str]]) -> str:
    return nh3.clean(
        page,
        tags=tags,
        attributes=attributes,
        attribute_filter=_attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    ).replace("<p></p>", "")


def _attribute(_: str, name: str, value: str) -> str | None:
    if name != "href":
        return value if re.fullmatch(_ATTRIBUTES.get(name, "(?!)"), value) else None
    address = links.encoded(value)
    return address if links.is_address(address) else None


def _each(tokens: Iterable[Any]) -> Iterator[Any]:
    for token in tokens:
        yield token
        yield from _each(token["children"])
