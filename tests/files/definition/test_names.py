"""The folder name of a workflow."""

from __future__ import annotations

import pytest

from pdkernel.files.definition.names import slugify


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Random Album Cover (Mastodon)", "random-album-cover-mastodon"),
        ("a_b  -  c", "a_b-c"),
        ("- a -", "a"),
        ("Ärger", "rger"),
        ("v1.2", "v12"),
        ("", "workflow"),
        ("!?", "workflow"),
        (" - ", "workflow"),
    ],
)
def test_a_slug(name: str, slug: str) -> None:
    """Punctuation is dropped, blanks and dashes are one dash, underscores stay; an empty slug is `workflow`."""
    assert slugify(name) == slug
