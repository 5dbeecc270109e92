"""Headers of the pages, and the files that they load."""

from __future__ import annotations

import re

import pytest

from tests.server.console.conftest import HTML, Serve


@pytest.mark.parametrize("path", ["/-/", "/-/runs", "/-/runs/none", "/-/users", "/-/login", "/-/nothing"])
async def test_headers(serve: Serve, path: str) -> None:
    """No page is stored or framed, and a page loads only the files of this server."""
    console = await serve()
    answer = await console.http.get(path, headers=HTML, follow_redirects=True)
    loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]+)"', answer.text)
    nonces = re.findall(r'nonce="([^"]+)"', answer.text)

    assert {url.partition("?")[0] for url in loaded} <= {
        "/-/static/console.css",
        "/-/static/console.js",
        "/-/static/icon.svg",
    }
    if path != "/-/nothing":
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (policy["default-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'", "'none'", "'none'")
        assert policy["script-src"] == f"'nonce-{nonces[0]}'"


async def test_a_nonce_is_used_once(serve: Serve) -> None:
    """Each page has a nonce of its own."""
    console = await serve()
    pages = [await console.page("/-/") for _ in range(2)]

    assert len({nonce for page in pages for nonce in re.findall(r'nonce="([^"]+)"', page)}) == 2


async def test_files(serve: Serve) -> None:
    """The files are served without a login, with their types; other names are not found."""
    console = await serve()
    found = [
        (answer.status_code, answer.headers.get("content-type"))
        for name in ("console.css", "console.js", "icon.svg", "pages.py", "..%2fpages.py", "%2e%2e")
        for answer in [await console.site.http.get(f"/-/static/{name}")]
    ]

    assert found[:3] == [
        (200, "text/css; charset=utf-8"),
        (200, "text/javascript; charset=utf-8"),
        (200, "image/svg+xml"),
    ]
    assert {status for status, _ in found[3:]} == {404}
