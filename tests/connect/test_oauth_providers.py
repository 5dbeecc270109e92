"""Origins of the product's pages, as they are given and as browsers write them."""

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
def test_origins_are_written_as_browsers_do(given: str, origin: str) -> None:
    """A URL may be given where an origin is meant."""
    assert format_origin(given) == origin
