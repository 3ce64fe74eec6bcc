"""Strategies of hypothesis for the JSON of an API."""

from __future__ import annotations

from hypothesis import strategies as st

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
)


FIELDS = ["id", "status", "output", "output_text", "error", "usage", "type", "content", "text", "summary", "meta", "response",
          "delta", "item", "item_id", "output_index", "content_index", "annotations", "incomplete_details", "refusal"]  # fmt: skip


KINDS = ["message", "output_text", "refusal", "reasoning", "function_call", "mcp_call", "response.output_text.delta",
         "response.output_item.done", "response.completed", "response.created", "error", "completed"]  # fmt: skip


values = st.recursive(
    scalars | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
    ),
    max_leaves=12,
)


objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8)
