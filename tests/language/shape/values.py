"""JSON values for the tests of shapes."""

from __future__ import annotations

from hypothesis import strategies as st

from pdkernel.model import JSON

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "long " * 20]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=40,
)
COMMITS: JSON = {
    "ref": "main",
    "commits": [
        {"id": "a1", "author": {"name": "ada"}, "added": ["one.py", "two.py"]},
        {"id": "b2", "author": {"name": "bob", "email": "bob@example.com"}, "added": []},
    ],
    "tags": ["x", 1],
}
