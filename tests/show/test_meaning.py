"""An answer is rendered as Markdown means it, in every front end."""

from __future__ import annotations

import functools
import html
import html.parser
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from elements import cells, rendered
from hypothesis import given
from hypothesis import strategies as st

from aiml_magic.show import pages, safe
from aiml_magic.show.typeset import typeset


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$2 + 3 = 5$, $7 \\le n$", "$2 + 3 = 5$, $7 \\le n$"), ("$5 kg$, $3 cm^2$", "$5 kg$, $3 cm^2$"), ("US$x, \\(x_{\\text{max}}\\) $y$", 'US<span class="mathjax_ignore tex2jax_ignore">&#36;</span>x, $x_{\\text{max}}$ $y$'), ("设 $3 \\mid a$，$5 \\mid b$，$x$", "设 $3 \\mid a$，$5 \\mid b$，$x$"),
        ("$ a = b^2 $", "$a = b^2$"), ("$ \\alpha$", "$\\alpha$"), ("$\\bold{x}\\mathds{R}\\Bbb{R}$", "$\\mathbf{x}\\mathbb{R}\\Bbb{R}$"),
        ("$\\ket{x}\\hspace{1em}\\fbox{y}$", "$\\ket{x}\\hspace{1em}\\fbox{y}$"), ("> $$\n> a + b\n> $$", "> $$a + b$$"), ("- $$\n  a\n  - b\n  $$", "- $$a - b$$"),
        ("> - $$\n>   x\n>   $$\n> - b", "> - $$x$$\n> - b"), ("\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}", "$$\\begin{align} a &= b \\\\ c &= d \\end{align}$$"),
        ("so \\begin{pmatrix} a \\\\ b \\end{pmatrix}.", "so $$\\begin{pmatrix} a \\\\ b \\end{pmatrix}$$."),
        ("1. Speed:\n\\[ v = s/t \\]\nwith s\n2. Force:", "1. Speed:\n   $$v = s/t$$\n   with s\n2. Force:"),
        ("1. Speed:\n\\[\nv\n\\]\nwith s\n2. Force:", "1. Speed:\n   $$v$$\n   with s\n2. Force:"),
        ("$n$th, 2$\\pi$, 函数$f$在", "$n$&#116;h, &#50;$\\pi$, 函数$f$在"), ("$x\\tag{1}$", "$$x\\tag{1}$$"),
        ("$\\newcommand{\\R}[1][n]{\\mathbb{R}^{#1}} x$, $\\R, \\R[m]$", "$x$, $\\mathbb{R}^{n}, \\mathbb{R}^{m}$"), ("$\\DeclareMathOperator*{\\amx}{a\\,b}$$\\amx_x$", "$\\operatorname*{a\\,b}_x$"), ("$\\def\\p#1{#1^2}\\p{x}$ $\\let\\q=\\alpha\\q$", "$x^2$ $\\alpha$"),
        ("$\\def\\x{\\x\\x}\\x$", "<code>&#36;&#92;def&#92;x&#123;&#92;x&#92;x&#125;&#92;x&#36;</code>"), ("$\\newcommand{\\nrm}[1]{\\lVert#1\\rVert}\\nrm{x}$", "$\\lVert x\\rVert$"), ("$\\require{cancel}$ $\\require{a}\\cancel{x}$", "$\\cancel{x}$"),
        ("$ n $, $ f(x) $; $20 kg m$, $2 π r$, $2! = 2$", "$n$, $f(x)$; $20 kg m$, $2 π r$, $2! = 2$"), ("$2 sin x$, $3 log n$ $$ ABC $$ $∞$", "$2 sin x$, $3 log n$ $$ABC$$ $∞$"), ("$x \\\\[1em] y$", "$\\begin{gathered} x \\\\ y \\end{gathered}$"), ("は**$x$で**最小", "&#12399;**$x$で**最小"), ("**答$x$**即", "**答$x$**&#21363;"),
        ("$$\n\na\n\n$$\n\nb", "$$a$$\n\nb"), ("- \\[\n  a\n\n  b\n  \\]", "- $$a b$$"),
        ("\\begin{tikzcd}\nA \\arrow[r]\n\\end{tikzcd}", "```text\n\\begin{tikzcd}\nA \\arrow[r]\n\\end{tikzcd}\n```"), ("$$\n" + "x + y\n" * 300 + "$$", "$$" + "x + y " * 299 + "x + y$$"),
        ("So \\alpha + \\beta in C:\\Users\\new", "So \\alpha + \\beta in C:\\Users\\new"), ("\\ a \\- b", "&#92; a - b"),
    ],
)  # fmt: skip
def test_formulas_as_they_were_meant(text, shown):
    """A formula is typeset in every context, without the markup around it; text stays readable."""
    assert shown == safe.markdown(text)


@pytest.mark.parametrize(
    "text",
    [
        "$5", "$5 and $6", "$40 million", "$5 (or US$)", "US$5, CA$x", "花了$5，他付$x", "$5 a day, US$", "$ 5 and $ 6", "$ HOME = $ PATH", "$5 CA$, US$6", "$5/$10 or $6+$7", "$5 (or $6), $7 (or $8)",
        "|US$|C$|\n|---|---|\n|1|2|", "$\\hspace{999em}$", "$\\hspace{-5em}$", "$x$2", "in C$. Then US$", "100US$，200HK$", "PHP: $a = $b + $c", "100$ + 50$ = 150$", "$ ls $ x", "$$ is cheap, $$ is not", "$HOME/bin:$PATH", "$5-10, R$ 5", "$...$ or $$...$$", "so \\[1\\], \\[2, 3–5\\], \\[x\\](https://e.org) and \\(see below\\)", "$$\n\nWe see that it is so.\n\n$$", "\\( and \\)", "\\unicode[x]{65}", "$\\href{x}{y}$", "$\\def\\x{\\href{x}{y}}$",
    ],
)  # fmt: skip
def test_dollars_that_are_text(text):
    """Amounts of money are text, and a formula that would cover other text is code."""
    assert "$" not in re.sub(r"`[^`]*`|<code>.*?</code>", "", safe.markdown(text))


@pytest.mark.parametrize(
    "text",
    [
        "\\\\(x",
        "\\\\[x",
        "\\\\$x",
        "\\\\\\\\x",
        "\\begin{x",
        "\\ref{x}",
        "\\eqref{x}",
        "\\end",
        "a\\",
    ],
)
def test_backslash_that_mathjax_reads(text):
    """A backslash that could begin mathematics is in an element that MathJax ignores."""
    assert f'ignore">{"&#92;"}</span>' in safe.markdown(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://example.org/files/_slow_glass_/12_b", None), ("https://e.org/*a*/b", None), ("https://e.org/~~a~~b", "https://e.org/"),
        ("www.e.org/_a_b", "http://www.e.org/_a_b"), ("_https://e.org/a_", "https://e.org/a"), ("*https://e.org/a*", "https://e.org/a"),
        ("https://e.org/a\\_b", "https://e.org/a_b"), ("https://e.org/?a=1&amp;b=2", "https://e.org/?a=1&amp;b=2"),
    ],
)  # fmt: skip
def test_marks_in_bare_addresses(text, address):
    """A bare address has no emphasis inside, and ends at the emphasis mark that was opened before it."""
    assert [address or text] == [
        unquote(link) for link in re.findall('<a href="([^"]*)"', rendered(safe.markdown(text)))
    ]


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ("| late | $P(A|B)$ is small |", ["late", "$P(A\\vert B)$ is small"]), ("| \\(|x|\\) | $|y|$ |", ["$\\vert x\\vert$", "$\\vert y\\vert$"]),
        ("| $5 | $6 |", ["$5", "$6"]), ("|US$|C$|", ["US$", "C$"]), ("| $x$ | $y$ |", ["$x$", "$y$"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "> ", "  "])
def test_bars_of_formulas(row, texts, before):
    """A bar inside a formula does not end a cell; any other bar does."""
    table = "\n".join(before + line for line in (row, "|---|---|", row))
    assert texts * 2 == cells(safe.markdown(table))


def test_languages():
    """A fence keeps its language only if Pygments knows it: an export would print an unknown one."""
    from pygments.lexers import get_lexer_by_name

    assert all(map(get_lexer_by_name, safe._LANGUAGES))
    assert "```text\na,b\n```" == safe.markdown("```csv\na,b\n```")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("- [ ] a\n- [x] *b* [ ]\n- [X] c", "- ☐ a\n- ☑ *b* &#91; &#93;\n- ☑ c"), ("1. [x] a", "1. ☑ a"), ("> - [ ] a", "> - ☐ a"),
        ("- [x] a\n\n  | b |\n  |---|", "<ul>\n<li>\n\n☑ a\n\n| b |\n|---|\n\n</li>\n</ul>"), ("- a\n\n  [x] b", "- a\n  \n  &#91;x&#93; b"),
        ("- [x]y", "- &#91;x&#93;y"), ("- [ ]", "- &#91; &#93;"), ("[ ] a", "&#91; &#93; a"), ("- [x](https://e.org) a", "- [x](https://e.org) a"),
    ],
)  # fmt: skip
def test_tasks(text, shown):
    """The mark of a task is a box in a list, and text elsewhere."""
    assert shown == safe.markdown(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$x$\n\n```sh\necho $HOME\n```", "$x$\n\n```sh\necho $HOME\n```"),
        ("```latex\n\\begin{align}\n```", "```text\n\\begin{align}\n```"),
        ("- ```c\n  if (a < b && c) puts(\"x\\n\");\n  ```", "- ```c\n  if (a < b && c) puts(\"x\\n\");\n  ```"),
        ("- ```sh\n  a \\\n    b\n  ```", "- ```sh\n  a \\\n    b\n  ```"),
    ],
)  # fmt: skip
def test_code_in_fences(text, shown):
    """Code is a fence, which LaTeX and reStructuredText keep, also beside formulas, in lists and with TeX."""
    assert shown == safe.markdown(text)


@pytest.mark.parametrize(
    "code", ["<b>", "</b>", "<!--", "&lt;", "&#60;", "\\(x\\)", "\\[x\\]", "\\begin{x}", "\\\\", "$x$", "`x`", "[a](b)", "@@0@@", "https://e.org"]
)  # fmt: skip
def test_code_that_could_be_marks(code):
    """A fence in a list, where front ends differ about code, has nothing that could be a mark or mathematics."""
    assert f"\n  {code}\n" not in safe.markdown(f"- a\n\n  ```\n  {code}\n  ```")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CO<sub>2</sub>, Ca<sup>2+</sup>", "CO<sub>2</sub>, Ca<sup>2+</sup>"), ("e<sup>x<sup>*2*</sup></sup>", "e<sup>x<sup>*2*</sup></sup>"),
        ("<SUB>2</SUB>", "<sub>2</sub>"), ("<sub>2", "&lt;sub&gt;2"), ("2</sub>", "2&lt;/sub&gt;"), ("<sub></sub>", "&lt;sub&gt;&lt;/sub&gt;"),
        ("<sub class=x>2</sub>", "&lt;sub class=x&gt;2&lt;/sub&gt;"), ("<sub>a\n</sub>", "&lt;sub&gt;a\n&lt;/sub&gt;"), ("*<sub>a*</sub>", "&#42;<sub>a&#42;</sub>"),
        ("a<br>b<br/>c<br />\nd", "a<br>b<br>c<br>d"), ("a\n<br>", "a"), ("<br>\na", "<br>a"), ("| a |\n|---|\n| b<br>c |", "| a |\n|---|\n| b<br>c |"),
        ("<br class=x>", "&lt;br class=x&gt;"), ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"), ("- <br>\n- b", "-\n- b"),
    ],
)  # fmt: skip
def test_tags_that_only_place_text(text, shown):
    """`sub`, `sup` and `br` without attributes are written as tags; an unpaired one, and any other tag, is text."""
    assert shown == safe.markdown(text)


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        ("\\ce{2H2 + O2 -> 2H2O}", "2\\,\\mathrm{H}_{2} + \\mathrm{O}_{2} \\longrightarrow 2\\,\\mathrm{H}_{2}\\mathrm{O}"),
        ("\\ce{SO4^2- <=>[H+][\\Delta] BaSO4 v}", "\\mathrm{SO}_{4}^{2-} \\xrightleftharpoons[\\Delta]{\\mathrm{H}^{+}} \\mathrm{BaSO}_{4} \\downarrow"),
        ("\\ce{^{227}_{90}Th+}", "{}^{227}_{90}\\mathrm{Th}^{+}"), ("\\ce{[Cu(NH3)4]^{2+}}", "[\\mathrm{Cu}(\\mathrm{NH}_{3})_{4}]^{2+}"),
        ("\\ce{CuSO4*5H2O(aq)}", "\\mathrm{CuSO}_{4}{\\cdot}5\\,\\mathrm{H}_{2}\\mathrm{O}(\\mathrm{aq})"), ("\\ce{1/2O2}", "\\tfrac{1}{2}\\,\\mathrm{O}_{2}"),
        ("\\ce{CH2=CH-CH3}", "\\mathrm{CH}_{2}{=}\\mathrm{CH}{-}\\mathrm{CH}_{3}"), ("\\ce{A\\href{x}{y}}", None), ("\\ce{A$x$}", "\\mathrm{A}x"), ("\\ce{A", None),
        ("\\pu{1.2e3 J mol^-1}", "1.2\\times 10^{3}\\,\\mathrm{J}\\,\\mathrm{mol}^{-1}"), ("\\pu{5 m/s}", "5\\,\\mathrm{m}/\\mathrm{s}"), ("\\pu{5 <}", None),
        ("\\abs{x}\\R\\argmin_x", "\\lvert x\\rvert\\mathbb{R}\\operatorname*{arg\\,min}_x"), ("\\textcolor{red}{x}\\color{blue}y", "{x}y"),
        ("x\\label{a}\\tag{1}", "x\\tag{1}"), ("\\text{if $x<0$ or \\(y\\)}", "{\\text{if }{x\\lt 0}\\text{ or }{y}\\text{}}"),
        ("\\begin{eqnarray*}a&=&b\\end{eqnarray*}", "\\begin{array}{rcl}a&=&b\\end{array}"), ("a\\kern-2pt b\\mkern3mu c", "a b\\hspace{0.17em} c"), ("a \\\\ [0,1]", "\\begin{gathered} a \\\\ {}[0,1] \\end{gathered}"),
        ("\\dv{x}{t}\\cancelto{0}{y}", "\\frac{\\mathrm{d}x}{\\mathrm{d}t}\\cancel{y}^{0}"), ("\\SI{5}{m}\\medskip", "{5}\\,\\mathrm{m}"), ("\\raisebox{99em}{x}", "\\text{x}"),
        ("5€+\\text{5€}", "5\\text{€}+\\text{5€}"), ("\\text{max_it}", "\\text{max\\_it}"), ("质量=\\mu", "质量=\\mu"),
        ("\\hspace{1e9em}x", None), ("\\hspace{400em}x", None), ("\\kern-99em x", None), ("\\rule{9em}{9em}", None), ("\\raise99em{x}", None), ("\\text{``x''}", "\\text{“x''}"),
        ("\\ce{Ag+(aq) + CuSO4.5H2O}", "\\mathrm{Ag}^{+}(\\mathrm{aq}) + \\mathrm{CuSO}_{4}{\\cdot}5\\,\\mathrm{H}_{2}\\mathrm{O}"), ("\\ce{A ->C[{H+}] \\frac12 B\\bond{=}C^.}", "\\mathrm{A} \\xrightarrow{{\\mathrm{H}^{+}}} \\frac12 \\mathrm{B}{=}\\mathrm{C}^{\\bullet}"),
        ("\\SI{9.8}{\\meter\\per\\second\\squared}", "{9.8}\\,\\mathrm{m}\\,\\mathrm{s}^{-2}"), ("\\qty{3}{\\kilo\\gram}\\qty(x)", "{3}\\,\\mathrm{kg}\\left(x\\right)"), ("\\SI{5}{\\href}", None),
        ("\\dv{x} \\pdv{f}{x}{y}", "\\frac{\\mathrm{d}}{\\mathrm{d}x} \\frac{\\partial^{2}f}{\\partial x\\,\\partial y}"), ("\\pdv[2]{f}{x} g", "\\frac{\\partial^{2}f}{\\partial x^{2}} g"), ("\\abs*{x}\\norm x", "\\lvert x\\rvert\\lVert x\\rVert"),
        ("\\sideset{}{'}\\sum_n", "\\mathop{{}{\\sum}'}_n"), ("\\genfrac{[}{]}{0pt}{}{n}{k}", "{\\left[{n \\atop k}\\right]}"), ("\\genfrac{}{}{9em}{}{n}{k}", None), ("\\rlap{x}\\bbox[2px,red]{y}", "{x}{y}"), ("\\class{a}{x}", None), ("\\bbox[url(x)]{y}", None), ("\\rule{1cm}{1pt}\\rule{0pt}{1em}", "\\rule{2.8em}{0.1em}"), ("\\rule{0pt}{9em}", None),
        ("\\ce{S_N2, CuSO4 \\cdot 5H2O}", "\\mathrm{S}_{N}2, \\mathrm{CuSO}_{4} \\cdot 5\\,\\mathrm{H}_{2}\\mathrm{O}"), ("\\SI[a]{2}{\\per\\square\\meter}", "{2}\\,\\mathrm{m}^{-2}"), ("\\begin{bmatrix}[c|c] 1 & 2 \\end{bmatrix}", "\\left[\\begin{array}{c|c} 1 & 2 \\end{array}\\right]"),
        ("\\tg x + \\KL", "\\operatorname{tg} x + \\operatorname{KL}"), ("\\unicode{x2603}\\textcircled{3}", "☃③"), ("\\unicode{x3c}", None), ("\\unicode{x202e}", None), ("\\enclose{longdiv}{60}", "\\overline{)60}"), ("\\multicolumn{2}{c}{x}", "\\begin{aligned} x& \\end{aligned}"),
        ("\\begin{array}{*{2}{c}@{\\ }p{3cm}} a \\end{array}", "\\begin{array}{ccl} a \\end{array}"), ("\\begin{array}{*{99}{c}} a \\end{array}", None), ("\\pmatrix{a & b \\cr c}", "\\begin{pmatrix}a & b \\cr c\\end{pmatrix}"),
        ("\\begin{CD} A @>f>> B \\\\ @VVgV @| \\\\ C @<<< D \\end{CD}", "\\begin{matrix}A & \\xrightarrow[]{\\;f\\;} & B \\\\ {\\scriptstyle }\\big\\downarrow{\\scriptstyle g} & & \\big\\Vert \\\\ C & \\longleftarrow & D\\end{matrix}"),
        ("a &= b \\\\ &= c", "\\begin{aligned} a &= b \\\\ &= c \\end{aligned}"), ("\\substack{a \\\\ b}", "\\substack{a \\\\ b}"), ("\\left( a \\\\ b \\right)", "\\left( a \\\\ b \\right)"),
        ("\\left( a", "( a"), ("\\begin{align} \\left( a & b \\right. \\end{align}", "\\begin{align} ( a & b \\end{align}"), ("\\{\\left( a \\right]", "\\{\\left( a \\right]"), ("x^2' + y_1_2 + f^{a_{b}}^c", "x^2{}' + y_1{}_2 + f^{a_{b}}{}^c"), ("x_\\max", "x_{\\max}"),
        ("\\begin{aligned} a \\tag{1} \\end{aligned}", "\\begin{aligned} a \\qquad (\\text{1}) \\end{aligned}"), ("\\begin{align} a \\tag{1} \\\\ b \\tag{2} \\end{align}", "\\begin{align} a \\tag{1} \\\\ b \\tag{2} \\end{align}"), ("x \\tag{$*$}", "x \\qquad ({\\text{}{*}\\text{}})"),
        ("\\text{m/s^2 of H_2O, a & b, $5}", "{\\text{m/s}^2\\text{ of H}_2\\text{O, a \\& b, \\$5}}"), ("\\text{it is \\alpha, \\ldots}", "{\\text{it is }{\\alpha}\\text{, }{\\ldots}\\text{}}"), ("\\text{(by \\ref{a}) \\textbf{b<c}}", "{\\text{(by a) }{{\\textbf{b}{\\lt}\\textbf{c}}}\\text{}}"),
        ("\\text{50% off}", "\\text{50\\% off}"), ("x \\tag{a_b}", "x \\qquad (\\text{a\\_b})"), ("p = 5%", "p = 5\\%"), ("5 \\$", "5 \\${}"), ("x \\\\", "x"), ("% a", None), ("a % b", "a"),
    ],
)  # fmt: skip
def test_macros(formula, shown):
    """Macros that a front end lacks are replaced by common ones; those that may grow or cover other text make the formula code."""
    written = typeset(formula)
    assert shown == (written and re.sub(" +", " ", written))


PIECES = {
    "it costs $5": "it costs {$}5", "$5 ($x=5$), $10/$n$": "{$}5 ($x=5$), {$}10/$n$", "$40 million.": "{$}40 million.", "($1,299.99)": "({$}1,299.99)", "US$7, $3–$4": "US{$}7, {$}3–{$}4", "$$ or $$$": "{$}{$} or {$}{$}{$}",
    "https://example.org/files/_slow_glass_/12_b": '<a href="https://example.org/files/_slow_glass_/12_b">https://example.org/files/_slow_glass_/12_b</a>',
    "www.example.org/a*b*": '<a href="http://www.example.org/a*b">www.example.org/a*b</a>*', "[a link](https://e.org/a_b)": '<a href="https://e.org/a_b">a link</a>',
    "CO<sub>2</sub>": "CO<sub>2</sub>", "10<sup>-3</sup> m<br>or so": "10<sup>-3</sup> m<br>or so", "<b>no tag</b>": "&lt;b&gt;no tag&lt;/b&gt;", "a < b & c > d": "a &lt; b &amp; c &gt; d",
    "C:\\new\\_path and \\alpha": "C:\\new_path and \\alpha", "2 * 3 * 4, snake_case_name": "2 * 3 * 4, snake_case_name", "a\\_b \\$5": "a_b {$}5", "**bold** and *it*": "<strong>bold</strong> and <em>it</em>",
    "`x_y = $z`": "<code>x_y = {$}z</code>", "`<b>`": "<code>&lt;b&gt;</code>", "费马大定理，": "费马大定理，", "“quoted” — [^1] {x}": "“quoted” — [^1] {x}", "so \\[12\\] says": "so [12] says", "f(x)!": "f(x)!", "5 > 3 ~ 2": "5 &gt; 3 ~ 2",
}  # fmt: skip
FORMULAS = [
    "x", "2 + 3 = 5", "7 \\le n", "a_1 * b_1", "f(x) = x^2", "3 \\mid a", "2 \\times \\$40", "|x| < 1", "P(A|B)", "\\lVert v\\rVert_2", "\\{1, 2\\}", "\\frac{a}{b}", "\\text{if } x>0", "50\\%",
    "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\ce{H2O}", "\\bm{x}", "x\\in[0,1)", "f[x](y)", "n!", "-1", "\\ket{\\psi}", "\\leftrightarrows", "\\hspace{1em}", "x'", "\\operatorname{rank} A", "A^*", "2 sin x", "∞", "\\dv{y}{x}", "\\text{m/s^2}", "x^2'",
]  # fmt: skip
DISPLAYED = [
    "a + b", "a\n- b\n+ c\n= d", "\\begin{aligned}\na &= b \\\\[4pt]\n&< c\n\\end{aligned}", "\\begin{cases} 1 & \\text{if $x>0$} \\\\ 0 \\end{cases}", "x = 1 \\tag{2}", "\\text{cost} = \\$5", "a &= b \\\\\n&= c", "\\left( a",
]  # fmt: skip
ENVIRONMENTS = [
    "\\begin{align}\na &= b \\\\\nc &> d\n\\end{align}",
    "\\begin{equation}\nE = mc^2\n\\end{equation}",
]
MONEY = '<span class="mathjax_ignore tex2jax_ignore">$</span>'
Both = tuple[str, str]  # Markdown of a model, and the expected page

formulas = st.sampled_from([("$", "$"), ("\\(", "\\)")]).flatmap(
    lambda marks: st.sampled_from(FORMULAS).map(
        lambda tex: (f"{marks[0]}{tex}{marks[1]}", f"${html.escape(typeset(tex), quote=False)}$")
    )
) | st.sampled_from(["a = b^2", "\\alpha", "A = \\begin{bmatrix} 1 \\end{bmatrix}"]).map(
    lambda tex: (f"$ {tex} $", f"${tex}$")
)
pieces = st.sampled_from(sorted(PIECES.items())).map(
    lambda pair: (pair[0], pair[1].replace("{$}", MONEY))
)
spans = st.lists(pieces | formulas, min_size=1, max_size=5).map(
    lambda both: (" ".join(one for one, _ in both), " ".join(other for _, other in both))
)
displays = st.tuples(
    st.sampled_from(["$${}$$", "$$\n{}\n$$", "\\[{}\\]", "\\[\n{}\n\\]"]),
    st.sampled_from(DISPLAYED),
).map(
    lambda both: (both[0].format(both[1]), f"${html.escape(typeset(both[1]), quote=False)}$")
) | st.sampled_from(ENVIRONMENTS).map(lambda tex: (tex, f"${typeset(tex)}$"))


def within(mark: str, rest: str, text: str) -> str:
    """A text as the content of a quote or a list."""
    first, *others = text.split("\n")
    return "\n".join([mark + first, *((rest + line).rstrip() for line in others)])


def a_list(items: list[Both], mark: str, tag: str) -> Both:
    lines = [within(mark, " " * len(mark), markdown) for markdown, _ in items]
    return "\n".join(lines), f"<{tag}>{''.join(f'<li>{page}</li>' for _, page in items)}</{tag}>"


def a_table(rows: list[list[Both]]) -> Both:
    lines = ["| " + " | ".join(cell for cell, _ in row) + " |" for row in rows]
    cells = [["th" if row is rows[0] else "td", *(page for _, page in row)] for row in rows]
    page = "".join(
        f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in row)}</tr>" for tag, *row in cells
    )
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]), f"<table>{page}</table>"


followed = st.tuples(spans, displays, spans).map(
    lambda three: (
        "Text\n" + "\n".join(markdown for markdown, _ in three),
        " ".join(["Text", *(page for _, page in three)]),
    )
)
texts = st.tuples(st.just("So "), spans).map(
    lambda both: (both[0] + both[1][0], both[0] + both[1][1])
)
items = texts | st.tuples(texts, displays).map(
    lambda both: ("\n".join(one for one, _ in both), " ".join(other for _, other in both))
)
in_cells = formulas | pieces.filter(lambda both: "$$" not in both[0])
tables = st.lists(st.lists(in_cells, min_size=2, max_size=2), min_size=2, max_size=3).map(a_table)
CODE = ("```sh\necho `x` <y> [a](b)\n```", "<pre>echo `x` &lt;y&gt; [a](b)</pre>")
held = items | st.tuples(texts, tables | st.just(CODE)).map(
    lambda both: ("\n\n".join(one for one, _ in both), " ".join(other for _, other in both))
)
blocks = st.deferred(
    lambda: texts | followed | displays
    | texts.map(lambda both: ("## " + both[0].replace("<br>", " "), f"<h2>{both[1].replace('<br>', ' ')}</h2>"))
    | st.sampled_from([
        ("```csv\na,$b\n```", "<pre>a,$b</pre>"), ("```latex\n\\begin{align}\n$x$ &< y\n\\end{align}\n```", "<pre>\\begin{align} $x$ &amp;&lt; y \\end{align}</pre>"),
    ])
    | texts.map(lambda both: ("- [x] " + both[0], f"<ul><li>☑ {both[1]}</li></ul>"))
    | st.tuples(st.lists(held, min_size=1, max_size=3), st.sampled_from([("- ", "ul"), ("1. ", "ol")])).map(lambda both: a_list(both[0], *both[1]))
    | texts.map(lambda both: ("1. Speed:\n\\[ v \\]\nwith s\n2. " + both[0], f"<ol><li>Speed: $v$ with s</li><li>{both[1]}</li></ol>"))
    | tables
    | st.lists(held, min_size=1, max_size=2).map(
        lambda both: ("\n>\n".join(within("> ", "> ", one) for one, _ in both), f"<blockquote>{' '.join(page for _, page in both)}</blockquote>")
    )
)  # fmt: skip
MARKS = set("h2 ul ol li blockquote table tr th td pre strong em a br sub sup".split())
FORMULA = re.compile(r"\$\$(?:\\.|[^$\\])+\$\$|\$(?:\\.|[^$\\])+\$")


class Seen(html.parser.HTMLParser):
    """The words, marks and formulas of a page in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._text, self._around = "", [""]
        self.feed(re.sub('<a class="anchor-link".*?</a>', "", page))
        self._mark("end")

    def _mark(self, mark: str) -> None:
        for piece in re.split(f"({FORMULA.pattern})", self._text):
            words = (
                re.sub(r"\s", "", piece) if FORMULA.fullmatch(piece) else " ".join(piece.split())
            )
            self.found += (
                [words.replace("$$", "$").replace("\ue000", "$").replace("\\vert", "|")]
                if words
                else []
            )
        self._text = ""
        self.found.append(mark)

    def handle_starttag(self, tag, attrs):
        if tag in MARKS:
            self._mark(f"<{tag} {unquote(dict(attrs).get('href', ''))}>")
        if tag != "br":
            self._around.append("code" if "mathjax_ignore" in str(attrs) else tag)

    def handle_endtag(self, tag):
        self._around.pop()
        if tag in MARKS:
            self._mark(f"</{tag}>")

    def handle_data(self, data):
        is_literal = self._around[-1] in ("code", "pre")
        self._text += data.replace("$", "\ue000") if is_literal else data


def read_by_nbconvert(markdown: str) -> str:
    """The page of mistune, as in nbconvert's exports."""
    return pytest.importorskip("nbconvert.filters.markdown_mistune").markdown2html_mistune(markdown)


def read_by_markdown_it(markdown: str) -> str:
    """The page of markdown-it, with formulas first, as in VS Code."""
    pattern = rf"(?ms)^(`{{3,}}).*?^\1$|`[^`\n]+`|({FORMULA.pattern})"
    formulas = [found[2] for found in re.finditer(pattern, markdown) if found[2]]
    masked = re.sub(pattern, lambda found: "FORMULA" if found[2] else found[0], markdown)
    following = iter(formulas)
    return re.sub("FORMULA", lambda _: html.escape(next(following), quote=False), rendered(masked))


@functools.cache
def jupyterlab() -> subprocess.Popen[str]:
    """JupyterLab's Markdown renderer in node: a text on each line of its input, a page on each of its output."""
    script = Path(__file__).parents[1] / "tools" / "jupyterlab.mjs"
    return subprocess.Popen(
        ["node", script, os.environ["AIML_TEST_MARKED"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_by_jupyterlab(markdown: str) -> str:
    if "AIML_TEST_MARKED" not in os.environ:
        pytest.skip("AIML_TEST_MARKED names no folder with marked")
    process = jupyterlab()
    process.stdin.write(json.dumps(markdown) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize("read", [read_by_markdown_it, read_by_nbconvert, read_by_jupyterlab])
@given(st.lists(blocks, min_size=1, max_size=4))
def test_readers_see_what_was_meant(read: Callable[[str], str], blocks: list[Both]):
    """A front end shows the expected words, marks and formulas in order."""
    markdown = "\n\nThen\n\n".join(one for one, _ in blocks)
    meant = " Then ".join(page for _, page in blocks)
    assert Seen(meant).found == Seen(read(safe.markdown(markdown))).found


def seen_on_a_page(page: str) -> str:
    """The marks and words of a page without blanks and dollars, since it shows a formula as code."""
    return re.sub(r"[\s$\ue000]", "", " ".join(Seen(re.sub("</?(span|code).*?>", "", page)).found))


@given(st.lists(blocks, min_size=1, max_size=4))
def test_pages_show_what_was_meant(blocks: list[Both]):
    """An exported page has the expected words and marks in order."""
    markdown = "\n\nThen\n\n".join(one for one, _ in blocks)
    meant = " Then ".join(page for _, page in blocks)
    assert seen_on_a_page(meant) == seen_on_a_page(pages.html(markdown))


@given(st.lists(blocks, min_size=1, max_size=4))
def test_size(blocks: list[Both]):
    """Made safe, a text grows by 57 bytes for each dollar or backslash in text, by 7 for another sign, and by its addresses."""
    text = "\n\n".join(one for one, _ in blocks)
    dollars, lines = len(re.findall(r"[$\\]", text)), text.count("\n")
    signs = len(re.findall(r"[^\w\s$\\]|_", text))
    addresses = sum(map(len, re.findall(r"(?:https?://|www\.)\S+", text)))
    assert len(safe.markdown(text)) <= len(text) + 57 * dollars + 7 * signs + addresses + 4 * lines
