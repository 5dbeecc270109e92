"""OAuth providers, and origins of URLs."""

from __future__ import annotations

import pytest

from pdkernel.connect.oauth_providers import format_origin


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://App.Example.com:443/settings?a=1", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80/", "http://[::1]"),
        ("https://user:pw@example.com:8443", "https://example.com:8443"),
    ],
)
def test_the_origin_of_a_url(given: str, origin: str) -> None:
    """An origin has the form that browsers use; the path and credentials of a URL are dropped."""
    assert format_origin(given) == origin
