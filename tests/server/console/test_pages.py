"""Headers of the pages, and the files that they load."""

from __future__ import annotations

import re

from tests.builders import a_workflow, python_step
from tests.server.console.conftest import HTML, Serve


async def test_headers(serve: Serve) -> None:
    """No page is stored or framed, and a page loads only the files of this server, with a nonce of its own."""
    console = await serve()
    used = []
    for path in ("/-/", "/-/", "/-/runs", "/-/runs/none", "/-/users", "/-/login", "/-/nothing"):
        answer = await console.http.get(path, headers=HTML, follow_redirects=True)
        loaded = {url.partition("?")[0] for url in re.findall(r'(?:src|<link[^>]*href)="([^"]+)"', answer.text)}
        used += (nonces := re.findall(r'nonce="([^"]+)"', answer.text))[:1]

        assert loaded <= {f"/-/static/{name}" for name in ("console.css", "console.js", "icon.svg")}
        if path != "/-/nothing":
            policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert {policy[name] for name in ("default-src", "frame-ancestors", "base-uri")} == {"'none'"}
            assert policy["script-src"] == f"'nonce-{nonces[0]}'"
    assert len(set(used)) == len(used) >= 6


async def test_files(serve: Serve) -> None:
    """The files are served without a login, with their types; other names are not found."""
    console = await serve()
    types = {"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8"}
    for name, kind in {**types, "icon.svg": "image/svg+xml"}.items():
        answer = await console.site.http.get(f"/-/static/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    for name in ("pages.py", "..%2fpages.py", "%2e%2e"):
        assert (await console.site.http.get(f"/-/static/{name}")).status_code == 404


ADDRESS = re.compile(r'\b(?:href|src|action|formaction|data-events)="([^"]+)"')


async def test_addresses_below_a_public_url(serve: Serve) -> None:
    """Below a public URL's path, the addresses of every page have the path: links, files, forms, streams, and redirects."""
    ask = a_workflow(python_step("ask", "pd.flow.suspend(60000)"), name="Ask")
    console = await serve(ask, a_workflow(python_step("greet"), name="Greet"), base_url="http://127.0.0.1:4000/base")
    waiting, ended = await console.start(name="Ask"), await console.start(name="Greet")
    await console.wait_until(waiting, "paused")
    await console.wait_until(ended, "success")
    paths = ("/-/", "/-/runs", f"/-/runs?before={ended}", "/-/users?external_user=ada", "/-/runs/none")
    pages = [await console.http.get(f"/base{path}", headers=HTML) for path in paths]
    pages += [await console.http.get(f"/base/-/runs/{run_id}", headers=HTML) for run_id in (waiting, ended)]
    login = await console.site.http.get("/base/-/login", params={"next": "/-/runs"}, headers=HTML)
    (csrf, *_) = re.findall(r'name="csrf" value="([^"]+)"', pages[-1].text)
    acted = await console.http.post(f"/base/-/runs/{waiting}/cancel", data={"csrf": csrf}, headers=HTML)

    found = {address for page in (*pages, login) for address in ADDRESS.findall(page.text)}
    assert [address for address in found if not address.startswith(("/base/-/", "#main"))] == []
    assert {f"/base/-/runs/{waiting}/reject", f"/base/-/events/runs/{waiting}", f"/base/-/runs/{ended}/fork"} <= found
    assert {"/base/-/events/runs?", "/base/-/logout", "/base/-/login", "/base/-/static/icon.svg"} <= found
    assert acted.headers["location"] == f"/base/-/runs/{waiting}?done=cancelled"


async def test_the_navigation_marks_the_page(serve: Serve) -> None:
    """The navigation marks the part of the console that is open."""
    console = await serve()
    paths = ("/-/", "/-/runs", "/-/runs?status=error", "/-/users")
    marked = [re.findall(r'aria-current="page">([^<]+)<', await console.page(path)) for path in paths]

    assert marked == [["Workflows"], ["Runs"], ["Runs"], ["External users"]]
