"""The elements and attributes of a page, and the inert ones."""

from __future__ import annotations

import html
import html.parser
import re

from markdown_it import MarkdownIt


class Elements(html.parser.HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


TAGS = {
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "s", "del",
    "table", "thead", "tbody", "tr", "th", "td", "a", "span", "sub", "sup",
}  # fmt: skip


ATTRIBUTES = {"href", "class", "style", "start", "rel"}


def check_inert(page: str) -> None:
    elements = Elements()
    elements.feed(page)
    for tag, attributes in elements.found:
        assert tag in TAGS, page
        assert set(attributes) <= ATTRIBUTES, page
        assert re.match(r"https?://|mailto:|#", attributes.get("href") or "#", re.IGNORECASE), page
        assert re.fullmatch(
            r"text-align: ?(left|center|right);?", attributes.get("style") or "text-align:left"
        ), page
        assert re.fullmatch(
            r"language-[\w+#]+|mathjax_ignore tex2jax_ignore",
            attributes.get("class") or "language-c",
        ), page


def rendered(markdown: str) -> str:
    """The page of a front end that lets all HTML through."""
    return (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    )


def cells(markdown: str) -> list[str]:
    """The texts of all table cells."""
    found = re.findall(r"<t[hd]>(.*?)</t[hd]>", rendered(markdown))
    return [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in found]
