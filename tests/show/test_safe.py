"""Model text as Markdown and HTML without active content, and without a loss for the reader."""

from __future__ import annotations

import html
import html.parser
import json
import re
import time
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from elements import ATTRIBUTES, TAGS, Elements, cells, check_inert, rendered
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from aiml_magic.api.responses import Response, Usage
from aiml_magic.show import answers, pages, parse, safe
from aiml_magic.show.typeset import typeset
from aiml_magic.text import plain

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "<iframe srcdoc='<script>alert(1)</script>'>",
    "<details open ontoggle=alert(1)>", "[x](javascript:alert(1))", "[x](  javascript&colon;alert(1))", "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<script>1</script>)", "[x](vbscript:1)", "[x](command:workbench.action)", "[x](attachment:a.html)",
    "![x](https://evil.example/p.png)", "![x](javascript:1)", "[x]: javascript:alert(1)\n\n[x]", "<javascript:alert(1)>",
    "<button data-commandlinker-command=\"x\">", "<style>*{position:fixed}</style>", "<a href=javascript:1>x</a>", "<!--\n-->\n<b>x</b>",
    "$\\unicode[x;position:fixed;background:url(https://evil.example)]{65}$", "$\\href{javascript:alert(1)}{x}$",
    "\\(\\href{javascript:1}{x}\\)", "$$\\require{html}\\class{x}{y}$$", "\\[\\style{position:fixed}{x}\\]",
    "\\begin{align}\\href{javascript:1}{x}\\end{align}", "$\\def\\x{\\href{javascript:1}{y}}\\x$", "$\\text{<img src=x onerror=1>}$",
    "$<img src=x onerror=alert(1)>$", "$x](javascript:1)$", "```mermaid\ngraph TD; click A href \"javascript:1\"\n```",
    "```html\n<script>alert(1)</script>\n```", "`<script>alert(1)</script>`", "``[x](javascript:1)``", "    <script>1</script>",
    "- ```\n  <script>1</script>\n  ```", "> <script>1</script>", "| <script>1</script> |\n|---|\n| [x](javascript:1) |",
    "# <script>1</script>", "1. <img src=x onerror=1>", "a <b\nonclick=alert(1)>x", "<<script>script>alert(1)<</script>/script>",
    "&lt;script&gt;", "&#x3c;script&#x3e;", "[&#x6a;avascript:1](&#x6a;avascript:1)", "\\<script>", "`$` <b>$x$</b> `$`",
    "```\n$\n```\n<img src=x onerror=1>\n```\n$\n```", "- ```\n  $a\n  ```\n  b$ <i onclick=1>\n", "@@0@@ $x$ @@1@@",
    "<math><mtext><script>1</script></mtext></math>", "<form action=https://evil.example><input name=x>", "<base href=https://evil.example>",
    "<meta http-equiv=refresh content=0>", "<object data=x>", "<embed src=x>", "<link rel=stylesheet href=x>", "\x00<script>1</script>",
    "<scr\x00ipt>1</scr\x00ipt>", "[a](<https://e.org/\" onclick=\"alert(1)>)", "[a](https://e.org \"title\" onclick=1)",
    "<https://e.org/\"onmouseover=\"alert(1)>", "https://e.org/\"><script>1</script>", "[x](https://e.org/`<b>`)", "~~~~html\n<b>\n",
    "\\![x](https://evil.example/p.png)", "&excl;[x](https://evil.example/p.png)", "!https://evil.example/p.png", "[x](/api/kernels)",
    "\\\n[x](https://e.org/autofocus/onfocus=1)", "> \\\n> [x](https://e.org/style=position:fixed)", "\\\n\\\nhttps://e.org/onfocus=1",
    "[x](//evil.example)", "[x](a.html \"title\")", "@[@0@@](javascript:1)", "[<img src=x onerror=1>](https://e.org)", "**<b>**", "*[x](javascript:1)*", "<a href=\"#\" data-commandlinker-command=x>",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text):
    """No attack leaves an element, an attribute or an address, in Markdown or in HTML."""
    check_inert(rendered(safe.markdown(text)))
    check_inert(rendered(safe.markdown(f"before\n\n{text}\n\nafter")))
    check_inert(pages.html(text))


@pytest.mark.parametrize(
    "text",
    [
        "ftp://e.org",
        "ftp:\\/\\/e.org",
        "ftp:[//e.org](x)",
        "ftp:/[/e.org](x)",
        "ftp[://e.org](x)",
        "HTTP-ftp://e.org",
    ],
)
def test_no_other_scheme_is_linked(text):
    """A front end that links bare addresses finds only web addresses."""
    assert "://" not in safe.markdown(text)
    assert "://" in html.unescape(safe.markdown(text))


def test_no_attributes():
    """The output has no brace that a dialect of Markdown could read as attributes, a role or a template."""
    for text in (
        "[x](https://e.org){onclick=1}",
        "# x {: .y onclick=1}",
        "*x*{: #y}",
        "{eval}`x`",
        "{{ x }}",
    ):
        assert "{" not in safe.markdown(text)
        assert "{" in html.unescape(safe.markdown(text))


@pytest.mark.parametrize("end", ["&#13;", "&#10;", "&NewLine;", "&#10;&#10;", "&#10;&#9;", "&#12;"])
@pytest.mark.parametrize("mark", ["# ", "- ", "> ", "    ", "```"])
def test_no_line_by_entity(end, mark):
    """An entity does not end a line, and so does not begin a block."""
    for shown in (rendered(safe.markdown(f"a{end}{mark}x")), pages.html(f"a{end}{mark}x")):
        assert re.fullmatch(r"<p>[^\n]*</p>\n?", shown)
        assert not re.search(r"<(?!/?p>)", shown)


def test_raw_html_is_shown():
    """Raw HTML is shown as text, in Markdown and in HTML."""
    for page in (
        rendered(safe.markdown("a <script>alert(1)</script>\n\n<b>x</b>")),
        pages.html("a <script>alert(1)</script>\n\n<b>x</b>"),
    ):
        assert "<script>alert(1)</script>" in html.unescape(page)
        assert "<b>x</b>" in html.unescape(page)


def test_the_check_sees():
    """The check finds most payloads active in unsafe Markdown."""

    def is_active(text):
        try:
            check_inert(rendered(text))
        except AssertionError:
            return True
        return False

    assert sum(map(is_active, HOSTILE)) > 25


fragments = st.lists(
    st.sampled_from(HOSTILE)
    | st.sampled_from(
        [
            "$",
            "$$",
            "`",
            "```",
            "\n",
            "\n\n",
            "- ",
            "> ",
            "    ",
            "<",
            "\\",
            "[",
            "](",
            "|",
            "**",
            "!",
            "@",
            "https:",
            "/",
            "<sub>",
            "</sub>",
            "<br>",
            "{",
            "}",
            "\\$",
            "\\ce{",
            "\\text{",
            "\\color{",
            "\\hspace{",
            "\\begin{",
            "array}",
            "\\href{javascript:1}{x}",
        ]
    )
).map("".join)


@given(fragments | st.text())
def test_any_text_is_inert(text):
    """No text becomes active, even if it is made safe a second time."""
    check_inert(rendered(safe.markdown(text)))
    check_inert(rendered(safe.markdown(safe.markdown(text))))
    check_inert(pages.html(text))


@given(fragments)
def test_tags_are_ours(text):
    """Every tag in the output is ours, without text of the model, even if the output is read as raw HTML."""
    shown = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", safe.markdown(text))
    ours = (
        r"</?(pre|code|span|sub|sup|ul|ol|li|blockquote)>|<ol start=\"\d+\">|<br>|<!-- -->"
        r"|<span class=\"mathjax_ignore tex2jax_ignore\">"
    )
    assert "<" not in re.sub(ours, "", shown)


@given(fragments)
def test_math_is_ours(text):
    """Each dollar outside code belongs to a typeset formula; no other mathematics reaches MathJax."""
    shown = re.sub(
        r"(?ms)^(`{3,}).*?^\1$|<code>.*?</code>|`[^`]*`|<[^>]*>", " ", safe.markdown(text)
    )
    formula = r"\$\$?((?:\\.|[^$\\])*)\$\$?"
    for found in re.findall(formula, shown):
        assert typeset(found) is not None
        assert "\\href" not in found
    assert not re.search(r"\$|\\\(|\\begin", re.sub(formula, "", shown))


FAITHFUL = [
    ("# Title\n\nText *em* **strong** ~~gone~~ `code`.", "<h1>Title</h1>"),
    ("a_b_c snake_case 2*3*4", "a_b_c snake_case"),
    ("- a\n- b\n  - c\n\n1. d\n2. e", "<li>a</li>"),
    ("3. three\n4. four", '<ol start="3">'),
    ("```python\nif a < b:\n    pass\n```", '<pre><code class="language-python">if a &lt; b:'),
    ("- item\n\n  ```\n  x = 1\n    y\n  ```", "x = 1\n  y"),
    ("| a | b |\n|:--|--:|\n| 1 | 2 |", '<td style="text-align:right">2</td>'),
    ("> quote\n>\n> - list", "<blockquote>"),
    ("[link](https://e.org/a_b?x=1&y=2)", 'href="https://e.org/a_b?x=1&amp;y=2"'),
    ("see https://e.org/x_y.", 'href="https://e.org/x_y"'),
    ("<b>bold</b> & 1 < 2", "&lt;b&gt;bold&lt;/b&gt; &amp; 1 &lt; 2"),
    ("a  \nb", "a<br>"),
    ("# a \\#", "<h1>a #</h1>"),
    ("# `a` &#35;&#35;", "<h1><code>a</code> ##</h1>"),
    ("a \\#\n===", "<h1>a #</h1>"),
    (
        "999999999. a\n1. b\n1. c",
        '<ol start="999999999">\n<li>a</li>\n<li>b</li>\n<li>c</li>\n</ol>',
    ),
    ("line one\nline two", "line one\nline two"),
    ("1986\\. A year", "1986. A year"),
    ("日本語 العربية 😀 naïve", "日本語 العربية 😀 naïve"),
    ("C:\\Users\\new", "Users"),
    ("```\nunclosed", "unclosed"),
]


@pytest.mark.parametrize(("text", "shown"), FAITHFUL)
def test_faithful(text, shown):
    """The output keeps structure, code, links, tables, and any script of writing."""
    page = rendered(safe.markdown(text))
    assert shown in page or shown in html.unescape(page)


def test_faithful_html():
    """HTML keeps structure, code, links and tables, and a formula as source text."""
    page = pages.html(
        "3. a ~~b~~\n\n| x |\n|---|\n| $a_1 * b_1$ |\n\n$$\n\\frac{a}{b}\n$$\n\n```python\n1 < 2\n```"
    )
    for shown in (
        '<ol start="3">',
        "<s>b</s>",
        "<td><code>$a_1 * b_1$</code></td>",
        "<code>$$\\frac{a}{b}$$</code>",
        "1 &lt; 2",
    ):
        assert shown in page


ON_A_PAGE = {"div", "span", "sup", "li", "a", *(f"h{level}" for level in range(1, 7))}


def check_page(page: str) -> None:
    """As `check_inert`, with footnotes, headings and highlighted code."""
    elements = Elements()
    elements.feed(page)
    for tag, attributes in elements.found:
        assert tag in TAGS | ON_A_PAGE, page
        assert set(attributes) <= ATTRIBUTES | ({"id"} if tag in ON_A_PAGE else {"tabindex"}), page
        assert re.match(r"https?://|mailto:|#", attributes.get("href") or "#", re.IGNORECASE), page
        assert re.fullmatch(r"(turn\d|fn:|fnref)[\w.:-]*", attributes.get("id") or "fn:1"), page


@given(
    fragments
    | st.sampled_from(HOSTILE).map(
        lambda text: f"a[^1] [^x]\n\n[^1]: {text}\n[^x]: b {text}\n\n## {text}"
    )
)
def test_any_page_is_inert(text):
    """An exported page has no active content, including its footnotes and headings."""
    page = pages.Page()
    check_page(page.html(text))
    check_page(page.html(text))


def test_page():
    """A page has footnotes with links in both directions, separate for each turn, highlighted code, and headings with ids."""
    page = pages.Page()
    text = (
        "# One *two*\n\nSo[^a] `[^a]`.\n\n[^a]: It is *so*.\n\n```python\nx = 1\n```\n\n# One *two*"
    )
    first, second = page.html(text), page.html(text)
    assert [("turn2-one-two", "One two"), ("turn2-one-two_1", "One two")] == page.headings
    for made in (first, second):
        (note,) = re.findall(r'class="footnote-ref" href="#([^"]+)"', made)
        assert f'<li id="{note}">' in made
        assert "It is <em>so</em>." in made
        assert "<code>[^a]</code>" in made
        assert '<span class="mi">1</span>' in made
        assert '<h3 id="turn' in made
    assert not set(re.findall(r'id="([^"]+)"', first)) & set(re.findall(r'id="([^"]+)"', second))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("So[^1].\n\n[^1]: It is.\n\n[^1]: It is not.", ["It is.", "It is not."]),
        ("So[^1].\n\n[^1]: It is.\n\n///Footnotes Go Here///", ["///Footnotes Go Here///"]),
        ("So[^1].\n\n```\n&#91;^1&#93;\n```\n\n[^1]: It is.", ["&#91;^1&#93;"]),
        ("So[^1](https://e.org).\n\n[^1]: It is.", ['href="https://e.org"', ">^1</a>"]),
    ],
    ids=["two of one name", "where the library would put them", "in code", "as a link"],
)
def test_footnotes_hide_nothing(text, shown):
    """A footnote removes nothing else from the page: no footnote of the same name, line, code or link."""
    page = html.unescape(pages.Page().html(text))
    assert [] == [part for part in shown if part not in page]


def test_long_code_on_a_page():
    """Code that is too long to be highlighted in linear time is shown without colours."""
    for code, is_coloured in (
        ("x = 1\n" * 100, True),
        ("x = 1\n" * 2000, False),
        ("x = 1;" * 200, False),
    ):
        page = pages.Page().html(f"```python\n{code}\n```")
        assert is_coloured == ('<span class="mi">' in page)
        assert code.strip() == html.unescape(re.sub("<[^>]*>", "", page)).strip()


def test_contents():
    """The headings of a page are listed as text, without empty ones."""
    page = pages.Page()
    page.html("# <b> & {x}\n\n#\n\n## `a < b`")
    assert [("turn1-b-x", "<b> & {x}"), ("turn1-a-b", "a < b")] == page.headings


def test_footnote_in_a_notebook():
    """In a notebook, whose Markdown has no footnotes, they are shown as source text."""
    assert "<p>So[^1].</p>\n<p>[^1]: It is so.</p>\n" == html.unescape(
        rendered(safe.markdown("So[^1].\n\n[^1]: It is so."))
    )


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "*a",
        "[",
        "`",
        "- ",
        "> ",
        "<",
        "$",
        "[^1]",
        "&#91;",
        "|a",
        "~~",
        "_",
        "a*",
        "a[^1]\n\n[^1]: b\n\n",
        "[^1]: b[^1]",
    ],
    ids=repr,
)
def test_time_of_a_page(text):
    """Four times as much of a hostile text takes at most about ten times as long: the time is not quadratic."""

    def seconds(length: int) -> float:
        begun = time.process_time()
        pages.Page().html((text + " ") * (length // (len(text) + 1)))
        return time.process_time() - begun

    seconds(100)
    assert seconds(8_000) < 10 * (seconds(2_000) + 0.02)


def test_pictures():
    """A picture is a link, in Markdown and in HTML."""
    for page in (
        rendered(safe.markdown("![a cat](https://e.org/cat.png)")),
        pages.html("![a cat](https://e.org/cat.png)"),
    ):
        assert 'href="https://e.org/cat.png"' in page
        assert "picture: a cat" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<https://e.org/x>", "[https://e.org/x](https://e.org/x)"),
        ("[https://e.org](https://e.org/x)", "[https://e.org](https://e.org/x)"),
        ("[**see https://e.org**](https://e.org/x)", "[**see https://e.org**](https://e.org/x)"),
        (
            "[![logo](https://e.org/l.png) of https://e.org](https://e.org/x)",
            "[picture: logo of https://e.org](https://e.org/x)",
        ),
        ("[![logo](https://e.org/l.png)](ftp://e.org)", "[picture: logo](https://e.org/l.png)"),
    ],
)
def test_no_link_within_a_link(text, shown):
    """An address or a picture in the text of a link is text: there is one link, and no visible bracket."""
    assert shown == safe.markdown(text)
    assert 1 == rendered(shown).count("<a ") == len(re.findall("<a href=[^<]", pages.html(text)))
    assert not re.search(r"<a href[^>]*></a>", pages.html(text))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://en.wikipedia.org/wiki/Fold_(higher-order_function)", "https://en.wikipedia.org/wiki/Fold_(higher-order_function)"),
        ("(see https://e.org/a_(b).)", "https://e.org/a_(b)"), ("https://e.org/a_(b)/c_(d)#e.", "https://e.org/a_(b)/c_(d)#e"),
        ("https://e.org/a(b", "https://e.org/a"), ("(https://e.org/a)", "https://e.org/a"), ("https://e.org/(a)?", "https://e.org/(a)"),
        ("https://ja.wikipedia.org/wiki/日本", "https://ja.wikipedia.org/wiki/日本"), ("https://de.wikipedia.org/wiki/Zürich.", "https://de.wikipedia.org/wiki/Zürich"),
        ("https://hi.wikipedia.org/wiki/हिन्दी।", "https://hi.wikipedia.org/wiki/हिन्दी"), ("https://ar.wikipedia.org/wiki/عربية، ثم", "https://ar.wikipedia.org/wiki/عربية"),
        ("https://ja.wikipedia.org/wiki/ハリー・ポッター、本", "https://ja.wikipedia.org/wiki/ハリー・ポッター"), ("「https://e.org/日本」。", "https://e.org/日本"),
        ("（https://e.org/a）", "https://e.org/a"), ("https://e.org/a。次", "https://e.org/a"), ("https://e.org/日本，和", "https://e.org/日本"),
        ("请看https://e.org吧", "https://e.org"), ("https://e.org:8080を", "https://e.org:8080"), ("https://www.münchen.de/x", "https://www.münchen.de/x"),
        ("https://e.org/?", "https://e.org/"), ("https://e.org?", "https://e.org"), ("https://e.org?a=b!", "https://e.org?a=b"), ("https://e.org...", "https://e.org"),
        ("https://e.org/a,b: c", "https://e.org/a,b"), ("http://localhost:8888/lab", "http://localhost:8888/lab"), ("https://u@e.org/", "https://u@e.org/"),
        ("https://e.org/a😀", "https://e.org/a"), ("https://e.рф/a", ""), ("https://", ""), ("https://!", ""), ("https://e.org/a\u2069", "https://e.org/a"),
    ],
)  # fmt: skip
def test_bare_addresses(text, address):
    """A bare address is a link to the whole address, in any script, without the sentence around it."""
    page = rendered(safe.markdown(text))
    assert html.unescape(re.sub("<[^>]*>", "", page)).strip() == text
    linked = [
        (html.unescape(shown), unquote(to))
        for to, shown in re.findall('<a href="([^"]*)">([^<]*)</a>', page)
    ]
    assert linked == ([(address, address.replace("münchen", "xn--mnchen-3ya"))] if address else [])


@pytest.mark.parametrize("mark", ["*", "**", "***", "~~"])
@pytest.mark.parametrize(
    "text", ["请看{0}https://e.org{0}吧", "{0}https://e.org{0}を参照", "a{0}https://e.org{0}1", "を{0}「~~https://e.org/~~」{0}を", "は{0}https://e.org と{0}。"]
)  # fmt: skip
def test_emphasis_of_addresses(text, mark):
    """Emphasis of an address beside letters stays, although the marks of its link are punctuation."""
    original, shown = (
        re.sub(r"</?a\b[^>]*>", "", rendered(one))
        for one in (text.format(mark), safe.markdown(text.format(mark)))
    )
    assert original == shown


@pytest.mark.parametrize(
    "formula",
    [
        "\\newcommand{\\a}[1]{#1#1#1#1}" + "\\a{" * 10 + "x" + "}" * 10,
        "\\def\\a{xxxx}"
        + "".join(f"\\def\\{b}{{\\{a}\\{a}\\{a}\\{a}}}" for a, b in zip("abcdefg", "bcdefgh", strict=True))
        + "\\h\\h",
        "\\newcommand{\\a}{" + "x" * 900 + "}" + "\\a" * 900,
        "\\def\\a{\\a\\a}\\a",
        "\\def\\a{\\href{javascript:1}}\\a{x}",
    ],
)  # fmt: skip
def test_definitions_are_bounded(formula):
    """The expansion of a model's macros is bounded, and a formula that could do more is code."""
    shown = safe.markdown(f"${formula}$ " * 20)
    assert len(shown) < 60 * len(formula) * 20 + 60_000
    assert "$\\href" not in shown
    check_inert(rendered(shown))


def test_depth_of_labels():
    """Of deeply nested brackets the innermost link is found, in less time than the library takes."""
    text = "![" * 2000 + "[a](https://e.org)"
    begun = time.process_time()
    MarkdownIt("commonmark").parse(text)
    parsed = time.process_time()
    shown = safe.markdown(text)
    assert time.process_time() - parsed < parsed - begun
    assert 1 == rendered(shown).count("<a ")


@pytest.mark.parametrize("mark", ["> ", "- ", "1. ", "> - "])
def test_depth(mark):
    """Blocks beyond the maximal depth lose no text."""
    text = mark * 500 + "the end"
    assert "the end" in safe.markdown(text)
    assert "the end" in pages.html(text)
    check_inert(rendered(safe.markdown(mark * 500 + "<script>1</script>")))


@pytest.mark.parametrize(
    "text",
    [
        "**a " * 2000 + "a** " * 2000,
        "*a **a " * 1000 + "a** a* " * 1000,
        "~~a " * 2000 + "a~~ " * 2000,
    ],
)
def test_depth_of_emphasis(text):
    """Emphasis that is nested too deeply is shown by its marks."""
    for shown in (
        rendered(safe.markdown(text)),
        pages.html(text),
        "".join(token.content for token in parse.each(parse.tokens(text))),
    ):
        assert 4000 <= re.sub(r"<[^>]*>", "", shown).count("a")
        assert not re.search(r"(<(em|strong|s)>[^<>]*){50}", shown)


@given(fragments)
def test_line(text):
    """`line` gives one line of text that begins no block, also inside emphasis."""
    shown = safe.line(text)
    assert "\n" not in shown
    check_inert(rendered(f"*{shown}*"))
    assert "<pre>" not in rendered(shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_refusal(text):
    """A refusal is inert below its title, even if it begins with a block."""
    for refusal in (text, f"```\n{text}\n```", f"- {text}"):
        content = [{"type": "refusal", "refusal": refusal}]
        response = Response(
            {"status": "completed", "output": [{"type": "message", "content": content}]}
        )
        answer = SimpleNamespace(response=response, usage=Usage(), notices=(), status="completed")
        banner = answers.banner(answer)
        assert banner.startswith("> **Refused.**")
        check_inert(rendered(banner))


def structured(value):
    """The output of a notebook for an answer with this value as JSON."""
    response, request = (
        Response({"status": "completed"}),
        {"text": {"format": {"type": "json_object"}}},
    )
    answer = SimpleNamespace(
        response=response,
        usage=Usage(),
        notices=(),
        status="completed",
        text=json.dumps(value),
        request=request,
    )
    return answers.answer_bundle(answer)["text/markdown"]


words = st.sampled_from(
    [
        "__init__",
        "2*3*4",
        "C:\\new\\*.py",
        "a|b",
        "\\|",
        "$x$",
        "`x`",
        "<b>",
        "&lt;",
        "https://e.org/a_b",
        "(x)",
        "",
        "# x",
        "1.",
    ]
)
words |= st.text(st.characters(exclude_characters="\r\n"))


@given(
    st.dictionaries(
        words, words | st.integers() | st.none() | st.booleans(), min_size=2, max_size=3
    )
)
def test_table_of_values(value):
    """Flat JSON is shown as a table of its values, without markup in them."""

    def word(value):
        return " ".join(plain(value if isinstance(value, str) else json.dumps(value)).split())

    pairs = [word(one) for pair in value.items() for one in pair]
    assert ["name", "value", *pairs] == cells(structured(value))
    names, values = pairs[::2], pairs[1::2]
    assert [*names, *values, *values] == cells(structured([value, value]))
    check_inert(rendered(structured(value)))


def test_values_of_many_lines():
    """A value of many lines is shown as JSON, which keeps its lines."""
    code = "def f(x):\n    if x:\n        return 1"
    for value in (
        {"code": code},
        {"name": "f", "code": code},
        [{"a": 1, "b": code}],
        {"a\nb": 1},
        {"a": "b\r"},
    ):
        assert json.dumps(value, indent=2) in html.unescape(
            re.sub(r"<[^>]*>", "", rendered(structured(value)))
        )


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("$x^2$", "$x^2$"), ("\\(x_1\\)", "$x_1$"), ("\\[\\frac{a}{b}\\]", "$$\\frac{a}{b}$$"), ("$$\na\n- b\n$$", "$$a - b$$"),
        ("$a < b$", "$a \\lt  b$"), ("\\begin{x}", None), ("$5 and $6", None), ("it costs $5.", None), ("$5 million, $6 million", None),
        ("$$\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}$$", "$$\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}$$"),
        ("- \\(\\alpha\\)", "$\\alpha$"), ("| $x$ |\n|---|\n| $y_1$ |", "$y_1$"), ("`$x$`", None), ("$\\text{if } x$", "$\\text{if } x$"),
        ("$\\text{p < 0.05}$", "${\\text{p }{\\lt}\\text{ 0.05}}$"), ("$\\textbf {a>b}<c$", "${\\textbf {a}{\\gt}\\textbf {b}}\\lt c$"),
        ("$$\\begin{aligned} a \\\\[4pt] b \\\\ [-.5 em]\n c \\end{aligned}$$", "$$\\begin{aligned} a \\\\ b \\\\ c \\end{aligned}$$"),
        ("$a \\\\[1pt][2pt] b$", None), ("$a \\\\[x] b$", None), ("$a \\\\\\[4pt] b$", None), ("$a \\lesssim b \\gtrsim c$", "$a \\lesssim b \\gtrsim c$"),
        ("$a\\\\text{b<c}$", "a\\\\text{b\\lt c}"), ("$\\text{a {<b}}$", None), ("$\\text{a}\\frac{1}{|x| < 2}$", "$\\text{a}\\frac{1}{|x| \\lt  2}$"), ("$\\tag{<}$", "({\\text{}{\\lt}\\text{}})"),
    ],
)  # fmt: skip
def test_mathematics(text, formula):
    """Formulas in all four delimiters are typeset; amounts of money and code stay."""
    shown = safe.markdown(text)
    if formula is None:
        assert "$" not in re.sub(r"`[^`]*`|<code>.*?</code>", "", shown)
    else:
        assert formula in shown


OVERRIDES, ISOLATES = "\u202a\u202b\u202c\u202d\u202e", "\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize("sign", OVERRIDES + ISOLATES)
def test_code_is_what_it_looks(sign):
    """Code has no character that reverses the direction of others; text keeps those that right-to-left scripts need."""
    for text in (
        f"`a{sign}b`",
        f"```python\na{sign}b\n```",
        f"- x\n\n      {{a{sign}b",
        f"$\\unknown{sign}$",
        "> " * 50 + sign,
    ):
        in_terminal = [
            token.content for token in parse.each(parse.tokens(text)) if token.type != "inline"
        ]
        for shown in (safe.markdown(text), pages.html(text), "".join(in_terminal)):
            assert "\ufffd" in shown
            assert sign not in shown
    for text in (
        f"a{sign}b",
        f"a&#{ord(sign)};b",
        f"[a{sign}b](https://e.org)",
        f"![a{sign}b](https://e.org)",
    ):
        for shown in (safe.markdown(text), pages.html(text), safe.line(html.unescape(text))):
            assert (sign in shown) == (sign in ISOLATES)


def test_right_to_left():
    """Text in right-to-left scripts stays unchanged, with its direction marks."""
    for text in (
        "שלום עולם",
        "العربية \u200fو English\u200e",
        "\u2067עברית\u2069 a",
        "می\u200cخواهم",
    ):
        assert text == plain(text) == safe.markdown(text) == safe.line(text)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("$\\|x\\|$", "$\\vert x\\vert$"), ("$\\\\|x\\\\|$", "$\\Vert x\\Vert$"), ("$P(A\\|B)$", "$P(A\\vert B)$"),
        ("**\\(\\left\\|x\\right\\|_2\\)**", "$\\left\\vert x\\right\\vert _2$"), ("$\\text{a\\|b}$", "${\\text{a}{\\vert}\\text{b}}$"),
        ("$\\begin{array}{c\\|c}a&b\\end{array}$", None), ("$\\text{a {b\\|c}}$", None),
    ],
)  # fmt: skip
def test_mathematics_in_a_table(text, formula):
    """A formula in a table has no bar, which would end its cell; if a bar cannot be replaced, the formula is code."""
    shown = safe.markdown(f"| {text} | norm |\n|---|---|\n| {text} | norm |")
    page = rendered(shown)
    assert 2 == page.count("<th>") == page.count("<td>") == page.count("norm")
    assert [9, 9, 9] == [3 * row.count("|") for row in shown.split("\n")]
    assert (formula or "<code>") in shown


@given(st.text())
def test_plain(text):
    """Plain text has no control character, surrogate or bidirectional override, and can be encoded."""
    shown = plain(text)
    shown.encode()
    assert not set(shown) & set(OVERRIDES)
    assert all(sign.isprintable() or sign in "\n\t" or ord(sign) > 0x9F for sign in shown)


@given(st.text(st.sampled_from("ab *_#>-1.`\n"), max_size=40))
def test_stable(text):
    """Text that is made safe twice is rendered like text made safe once."""

    def letters(shown):
        return re.sub(r"[^ab]", "", re.sub(r"<[^>]*>", "", rendered(shown)))

    once = safe.markdown(text)
    assert (
        letters(text)
        == letters(once)
        == letters(safe.markdown(once.replace("<br>", "  ").replace("<!-- -->", "")))
    )
