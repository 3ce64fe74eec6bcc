"""An answer with all kinds of Markdown, and its stream."""

from __future__ import annotations

import json

import wire

DOCUMENT = r"""# Why $\zeta(2)$ is finite

The series converges, **absolutely**, since $\sum_{n=1}^\infty \frac{1}{n^2} = \frac{\pi^2}{6}$, and \(e^{i\pi} + 1 = 0\) too.

$$
\int_0^1 \frac{\ln(1-x)}{x}\,dx = -\frac{\pi^2}{6}
$$

\[ \begin{pmatrix} a & b \\ c & d \end{pmatrix} \begin{pmatrix} x \\ y \end{pmatrix} = 0 \]

A coffee is $5, two are $10; with tax $5.40 and then $x$ more.

| method | terms | error |
|:--|--:|:-:|
| direct sum | 1,000 | $10^{-3}$ |
| Euler–Maclaurin | 10 | `1e-12` |
| `a \| b` | 2 | *none* |

```python
def zeta(s: float, terms: int = 1000) -> float:
    return sum(n**-s for n in range(1, terms + 1))  # not fast
```

```bash
echo "$HOME costs $5"
```

1. First, compare.
   - with an integral
     - from below
     - from above
   - with a telescope
2. Then, sum:

   ```bash
   echo "inside a list"
   ```

   ```python
   terms = {n: 1 / n**2 for n in [1, 2]}
   ```

- [x] checked by hand
- [ ] checked by machine

> A quotation,
> over two lines.
>
> > And one inside.

See [the proof](https://example.org/proof?a=1&b=2) or https://example.org/notes_on_it, and a note[^1].
A picture: ![a plot](https://example.org/plot.png)

Inline <b>HTML</b>, a <script>window.__pwned = 1</script> and a <br> are text. So is &copy; as it is written: `&copy;`.

漢字とかな、中文：费马大定理。 שלום עולם, مرحبا بالعالم. Family 👩‍👩‍👧, flag 🇸🇰, ✓, naïve café.

[^1]: The note says that it was *Euler*.
"""


def streamed(text: str, *, chunks: int, pace: float = 0.0) -> wire.Reply:
    """A stream of `text` in `chunks` chunks, `pace` seconds apart, with reasoning before it and usage after it."""
    words = [text[start : start + 7] for start in range(0, len(text), 7)]
    reasoning = {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "**Comparing**\n\nWith an *integral*."}],
    }
    note = {
        "type": "url_citation",
        "title": "The proof",
        "url": "https://example.org/proof",
        "start_index": 0,
        "end_index": 9,
    }
    search = {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "Basel problem"},
    }
    content = [{"type": "output_text", "text": text, "annotations": [note]}]
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
    usage = {
        "input_tokens": 1234, "input_tokens_details": {"cached_tokens": 1024},
        "output_tokens": 5678, "output_tokens_details": {"reasoning_tokens": 4321}, "total_tokens": 6912,
    }  # fmt: skip
    whole = wire.response(
        output=[reasoning, search, message], usage=usage, reasoning={"effort": "high"}
    )
    delta = {
        "type": "response.output_text.delta",
        "output_index": 2,
        "content_index": 0,
        "item_id": "msg_1",
    }
    events = [
        {
            "type": "response.created",
            "response": {**whole, "status": "in_progress", "output": [], "usage": None},
        },
        {
            "type": "response.output_item.added",
            "output_index": 2,
            "item": {**message, "content": []},
        },
        *({**delta, "delta": word} for word in words),
        {"type": "response.completed", "response": whole},
    ]
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    lines.append(b'data: {"meta": {"usage": {"usd_spent": 0.4832}}}\n\n')
    size = -(-len(lines) // chunks)
    grouped = [b"".join(lines[start : start + size]) for start in range(0, len(lines), size)]
    return wire.Reply(200, {"Content-Type": "text/event-stream"}, grouped, pace=pace)
