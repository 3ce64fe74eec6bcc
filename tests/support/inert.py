"""The checks of a page for active content of the model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from playwright.sync_api import Page

# nbconvert's template loads MathJax from the network; this package, which has no safe mode, replaces it if installed.
_PACKAGE = importlib.util.find_spec("jupyter_server_mathjax")
MATHJAX = Path(str(_PACKAGE.origin)).with_name("static").as_uri() if _PACKAGE is not None else ""
MATHJAX_URL = f"{MATHJAX}/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full" if MATHJAX else ""

# The elements of outputs; formulas are checked separately, since their elements are MathJax's.
_TAGS = (
    "a b blockquote br code del details div em h1 h2 h3 h4 h5 h6 hr i ins li nobr ol p pre s small span strong style sub summary sup "
    "table tbody td th thead tr ul"
)
_OURS = r"^(\.aiml-details\{|\.aiml-news\{display:none\}\.aiml-new \.aiml-news\{[^{}]*\}@keyframes aiml-news\{from\{visibility:hidden\}\}$|#o3pro-[0-9a-f]{12}\{display:none\}$|\.jp-OutputArea-child:has\()"
_MATH = "mjx-container, .MathJax, .MathJax_Display, .MathJax_Preview, .MJX_Assistive_MathML, script[type^='math/tex']"
_CHECK = f"""outputs => {{
    const tags = new Set("{_TAGS}".split(" ")), found = [];
    const isActive = (node, isMath) => {{
        const tag = node.localName, style = getComputedStyle(node);
        const isShape = /^(svg|rect|path|title)$/.test(tag) && node.closest(".aiml-chart > svg, .aiml-chart > div > svg");
        const isLabel = tag === "label" && node.matches(".widget-label") && !node.textContent;
        const isButton = tag === "button" && node.matches(".widget-toggle-button.aiml-more");
        const isTask = tag === "input" && node.type === "checkbox" && node.disabled;
        const isContents = node.matches("body > h1:first-child + nav")
            && [...node.querySelectorAll("a")].every(link => link.getAttribute("href").startsWith("#turn"));
        const isFormula = isMath && (tag.startsWith("mjx-") || node.closest("math") || node.type?.startsWith("math/tex"));
        if (isLabel || isButton || isTask) return;
        if (!tags.has(tag) && !isFormula && !isShape && !isContents) return "element";
        if (tag === "style" && !/{_OURS}/.test(node.textContent)) return "style sheet";
        for (const {{ name, value }} of node.attributes) {{
            if (/^on|commandlinker|^(srcset|srcdoc|action|formaction|ping|background|poster|popover|contenteditable)/.test(name)) return name;
            if (/href$/.test(name) && !/^(https?:|mailto:|#)/i.test(value)) return name;
            if (name === "style" && /url|image|expression/i.test(value)) return name;
            if (/pwned/.test(value) && !/href$/.test(name) && !/^h\\d$/.test(tag) && !isMath) return name;
        }}
        if (!isMath && (!/^(static|relative)$/.test(style.position) || style.zIndex !== "auto")) return "position";
    }};
    for (const output of document.querySelectorAll(outputs)) for (const node of output.querySelectorAll("*")) {{
        const why = isActive(node, node.closest("{_MATH}") !== null);
        if (why) found.push(why + ": " + node.outerHTML.slice(0, 300));
    }}
    return found;
}}"""
_OPEN = """() => {
    document.querySelectorAll('details').forEach(node => { node.open = true; });
    document.querySelectorAll('button.aiml-more').forEach(node => node.click());  // which fetches what is not kept in the page
}"""
_TYPESET = "() => new Promise(done => window.MathJax?.Hub ? window.MathJax.Hub.Queue(done) : done())"  # by MathJax 2


class Watched:
    """A page with a list of its requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))

    def active(
        self, outputs: str, *, allowed: tuple[str, ...] = (), wait: float = 1.0
    ) -> list[str]:
        """All active content of the page, `wait` seconds after everything folded was opened.

        `outputs` selects the elements with text of the model; a request is `allowed` by the beginning of its address.
        """
        page = self.page
        page.evaluate(_OPEN)
        page.evaluate(_TYPESET)
        page.wait_for_timeout(1000 * wait)
        own = (*allowed, "data:", "blob:")
        fetched = [url for url in self.requests if "pwned" in url or not url.startswith(own)]
        has_run = page.evaluate("() => String(window.__pwned)")
        ran = [] if has_run == "undefined" else [f"ran: {has_run}"]
        return ran + [f"fetched: {url}" for url in fetched] + page.evaluate(_CHECK, outputs)

    def unseen(self, outputs: str, words: dict[str, str]) -> list[str]:
        """The names of the payloads that are not visible in the outputs."""
        script = "outputs => [...document.querySelectorAll(outputs)].map(node => node.innerText).join('\\n')"
        text = self.page.evaluate(script, outputs)
        return [name for word, name in words.items() if word not in text]
