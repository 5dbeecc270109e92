"""Login, sessions of requests, and the protection of actions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from sqlalchemy import update

from pdkernel.server.console_sessions import CODE_INTERVAL_S, MAX_FAILED_ATTEMPTS, SESSION_LIFETIME_S
from pdkernel.storage.schema import console_logins
from tests.builders import a_workflow, python_step
from tests.server.console.conftest import ADMIN, HTML, JSON, Console, Serve, app_state, log_in
from tests.server.endpoint.conftest import ECHO
from tests.server.site import Site, site_of

PAGES = ["/-/", "/-/runs", "/-/runs/x", "/-/users", "/-/events/runs", "/-/events/runs/x"]
ACTIONS = ["approve", "cancel", "fork", "reject", "replay", "resume"]
BEARER = {"authorization": f"Bearer {ADMIN}"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A server on a terminal, without an admin token."""
    async with site_of(tmp_path) as site:
        yield site


@pytest.mark.parametrize("peer", [{}, {"x-forwarded-for": "127.0.0.1"}])
async def test_nothing_opens_without_a_login(tmp_path: Path, peer: dict[str, str]) -> None:
    """No page and no action opens for a client on this machine that has not logged in."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        run_id = (await site.http.post(site.path())).json()["event_id"]
        (run,) = await site.runs()
        pages = [await site.http.get(path, headers={**JSON, **peer}) for path in [*PAGES, f"/-/runs/{run_id}"]]
        acted = [await site.http.post(f"/-/runs/{run_id}/{name}", headers={**JSON, **peer}) for name in ACTIONS]
        after = await site.runs()

    assert {answer.status_code for answer in pages + acted} == {401}
    assert all(run_id not in answer.text and "Test" not in answer.text for answer in pages)
    assert after == [run]


async def test_a_code_opens_the_console_once(site: Site) -> None:
    """The link shows a button and does not use the code up; the form does, and its cookie is closed to scripts, sites and ports."""
    app_state(site).console.print_new_code()
    code = site.codes[0]
    link = f"/-/login?{urlencode({'code': code})}"
    previews = [await site.http.get(link, headers=HTML) for _ in range(2)]
    first = await log_in(site, f" {code.lower().replace('-', ' ')} ")  # as a person may type it
    page = await site.http.get("/-/", headers=HTML)
    site.http.cookies.clear()
    second = await log_in(site, code)
    refused = await site.http.get("/-/", headers=HTML)
    lines = "\n".join(await site.wait_for_lines(6))

    (cookie,) = SimpleCookie(first.headers["set-cookie"]).values()
    assert [(answer.status_code, "set-cookie" in answer.headers) for answer in previews] == [(200, False)] * 2
    assert f'value="{code}"' in previews[0].text
    assert (first.status_code, first.headers["location"]) == (303, "/-/")
    assert (cookie["path"], cookie["httponly"], cookie["samesite"], cookie["secure"]) == ("/-/", True, "strict", "")
    assert (cookie.key, cookie["max-age"]) == (f"pdkernel_console_{urlsplit(site.url).port}", str(SESSION_LIFETIME_S))
    assert len(cookie.value) >= 43
    assert (page.status_code, second.status_code, refused.status_code) == (200, 401, 303)
    assert ("/-/login" in lines, code in lines) == (True, False)


async def test_the_admin_token_opens_the_console(serve: Serve) -> None:
    """A person types the admin token any number of times; without one, an empty text opens nothing."""
    console = await serve()
    answers = []
    for secret in (ADMIN, f" {ADMIN} ", "", "wrong"):
        async with httpx.AsyncClient(base_url=console.site.url, timeout=60) as http:
            answers.append((await log_in(console.site, secret, http)).status_code)

    assert answers == [303, 303, 401, 401]


async def test_without_an_admin_token_no_token_is_accepted(site: Site) -> None:
    """If no admin token is set, no bearer token opens a page."""
    tokens = ("x", "y", "0" * 64, hashlib.sha256(b"").hexdigest())
    answers = [await site.http.get("/-/", headers={"authorization": f"Bearer {each}"}) for each in tokens]

    assert {answer.status_code for answer in answers} == {401}


async def test_a_program_sends_the_admin_token(serve: Serve) -> None:
    """With the admin token as a bearer token, a program gets JSON and acts without a form's token; Basic opens nothing."""
    console = await serve(a_workflow(python_step()))
    run_id = await console.start()
    await console.wait_until(run_id, "success")
    site = console.site
    listed = (await site.http.get("/-/runs", headers=BEARER)).json()
    shown = (await site.http.get(f"/-/runs/{run_id}", headers=BEARER)).json()
    replayed = await site.http.post(f"/-/runs/{run_id}/replay", headers=BEARER)
    wrong = await site.http.get("/-/runs", headers={"authorization": "Bearer wrong"})
    basic = await site.http.get("/-/runs", auth=("any", ADMIN))

    assert [run["id"] for run in listed] == [run_id]
    assert shown == listed[0]
    assert replayed.json()["replay_of"] == run_id
    assert (wrong.status_code, basic.status_code) == (401, 401)


async def test_failed_attempts_are_limited(serve: Serve) -> None:
    """After ten wrong codes in a minute an address cannot use a code; the admin token and a session still open the console."""
    console = await serve()
    for _ in range(MAX_FAILED_ATTEMPTS):
        await log_in(console.site, "wrong")
        await console.site.http.get("/-/", headers={"authorization": "Bearer wrong"})
    code = await log_in(console.site, app_state(console.site).console.create_code())
    bearer = await console.site.http.get("/-/", headers=BEARER)
    form = await log_in(console.site, ADMIN)

    assert (code.status_code, bearer.status_code, form.status_code) == (429, 200, 303)
    assert "Workflows" in await console.page("/-/")


@pytest.mark.parametrize(
    ("headers", "settings", "secure"),
    [
        ({}, {"base_url": "https://flows.example.com"}, True),
        ({"x-forwarded-proto": "https"}, {"trusted_proxies": ("127.0.0.0/8",)}, True),
        ({"x-forwarded-proto": "https"}, {}, False),
    ],
)
async def test_the_cookie_is_secure_behind_https(
    tmp_path: Path, headers: dict[str, str], settings: dict[str, Any], secure: bool
) -> None:
    """The cookie is Secure if the public URL or a trusted proxy uses https."""
    async with site_of(tmp_path, **settings) as site:
        app_state(site).console.print_new_code()
        answer = await site.http.post("/-/login", data={"secret": site.codes[0]}, headers=headers)

    assert ("secure" in answer.headers["set-cookie"].lower()) == secure


async def test_a_public_url_with_a_path(tmp_path: Path) -> None:
    """Below a public URL's path, the cookie, links and redirects have the path."""
    host = {"host": "flows.example.com", **HTML}
    async with site_of(tmp_path, base_url="https://flows.example.com/base") as site:
        app_state(site).console.print_new_code()
        front = await site.http.get("/base/", headers=host)
        page = await site.http.get("/base/-/", headers=host)
        answer = await site.http.post("/base/-/login", data={"secret": site.codes[0]}, headers=host)

    assert front.headers["location"] == "/base/-/"
    assert page.headers["location"] == "/base/-/login?next=%2F-%2F"
    assert (answer.headers["location"], "Path=/base/-/;" in answer.headers["set-cookie"]) == ("/base/-/", True)


async def test_a_login_leads_back_to_a_page_of_the_console(serve: Serve) -> None:
    """After the login, a person is where they wanted to be, but never on another site."""
    console = await serve()
    foreign = ("//evil.example", "/-//evil.example", "https://evil.example/-/", "/-/\\evil.example")
    for given, target in {
        "/-/runs/abc": "/-/runs/abc",
        "/-/runs?workflow=A+b&status=error": "/-/runs?workflow=A+b&status=error",
        **dict.fromkeys((*foreign, "/-/logout", "/-/runs/abc\r\nset-cookie: a=b"), "/-/"),
    }.items():
        answer = await console.site.http.post("/-/login", data={"secret": ADMIN, "next": given})

        assert answer.headers["location"] == target, given


async def test_an_inspect_url_leads_to_the_login_and_back(tmp_path: Path) -> None:
    """The `inspect` URL of a default response leads to the login, whose form leads to the run, also after a wrong code."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        url = (await site.http.post(site.path())).json()["inspect"]
        refused = await site.http.get(url, headers=HTML)
        page = await site.http.get(refused.headers["location"], headers=HTML)
        app_state(site).console.print_new_code()
        target = url.removeprefix(site.url)
        wrong = await site.http.post("/-/login", data={"secret": "wrong", "next": target}, headers=HTML)
        filtered = await site.http.get("/-/runs?status=error", headers=HTML)
        answer = await site.http.post("/-/login", data={"secret": site.codes[0], "next": target}, headers=HTML)
        run = await site.http.get(answer.headers["location"], headers=HTML)
        again = await site.http.get(refused.headers["location"], headers=HTML)

    assert (refused.status_code, run.status_code) == (303, 200)
    assert [f'name="next" value="{target}"' in each.text for each in (page, wrong)] == [True, True]
    assert filtered.headers["location"].endswith(f"?{urlencode({'next': '/-/runs?status=error'})}")
    assert again.headers["location"] == target


async def test_a_logout_ends_the_session(serve: Serve) -> None:
    """A program's logout ends no session; after a person's own the old cookie opens nothing, also if it is sent again."""
    console = await serve()
    token, site = dict(console.http.cookies), console.site
    program = await console.site.http.post("/-/logout", headers=BEARER)
    before = await console.page("/-/")
    answer = await console.http.post("/-/logout", data={"csrf": await console.csrf()}, headers=HTML)
    async with httpx.AsyncClient(base_url=site.url, cookies=token, timeout=60) as http:
        again = await http.get("/-/", headers=HTML)

    assert (program.status_code, "Workflows" in before) == (303, True)
    assert (answer.status_code, answer.headers["location"]) == (303, "/-/login")
    assert again.status_code == 303


async def test_a_form_with_too_many_fields_is_not_read(serve: Serve) -> None:
    """A form with more than 200 fields counts as empty: a correct token among them does not act."""
    console = await serve(a_workflow(python_step("ask", "pd.flow.suspend(60000)")))
    run_id = await console.start_paused()
    csrf = await console.csrf()
    path, data = f"/-/runs/{run_id}/cancel", {"csrf": csrf, **{f"f{number}": "" for number in range(200)}}
    refused = await console.http.post(path, data=data)
    before = await console.wait_until(run_id, "paused")
    data.pop("f0")
    accepted = await console.http.post(path, data=data)

    assert (refused.status_code, before.status, accepted.status_code) == (403, "paused", 303)


FOREIGN = [
    *({"origin": origin} for origin in ("https://evil.example", "null")),
    *({"sec-fetch-site": kind} for kind in ("cross-site", "same-site")),
]


async def test_other_sites_cannot_act(serve: Serve) -> None:
    """An action, a login and a new code are refused if a page of another site sends them, even with all tokens."""
    console = await serve(a_workflow(python_step("ask", "pd.flow.suspend(60000)")))
    run_id = await console.start_paused()
    data, codes = {"csrf": await console.csrf(), "secret": ADMIN}, len(console.site.codes)
    paths = [*(f"/-/runs/{run_id}/{name}" for name in ACTIONS), "/-/login", "/-/login/code", "/-/logout"]
    for headers in FOREIGN:
        answers = [await console.http.post(path, data=data, headers=headers) for path in paths]
        answers.append(await console.site.http.post(f"/-/runs/{run_id}/cancel", headers={**BEARER, **headers}))

        assert {answer.status_code for answer in answers} == {403}, headers
    await console.wait_until(run_id, "paused")
    assert len(console.site.codes) == codes
    assert "Workflows" in await console.page("/-/")


async def test_an_action_requires_the_token_of_its_session(serve: Serve) -> None:
    """A form without a token, with a wrong token, or with the token of another session does nothing."""
    console = await serve(a_workflow(python_step("ask", "pd.flow.suspend(60000)")))
    run_id = await console.start_paused()
    first = await console.csrf()
    await log_in(console.site, ADMIN, console.http)
    answers = [
        await console.http.post(f"/-/runs/{run_id}/cancel", data=data)
        for data in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": "\u00e4"}, {"csrf": first}, {"csrf": "x" * 100_000})
    ]
    as_file = await console.http.post(f"/-/runs/{run_id}/cancel", files={"csrf": (await console.csrf()).encode()})
    run = await console.wait_until(run_id, "paused")

    assert {answer.status_code for answer in [*answers, as_file]} == {403}
    assert run.status == "paused"


async def test_steps_never_see_the_cookie(serve: Serve) -> None:
    """No path to which a browser sends the cookie leads to an endpoint."""
    console = await serve(a_workflow(python_step("echo", ECHO), response="custom"))
    path = console.site.path()
    answers = [
        await console.http.request(method, prefix + path)
        for method in ("GET", "POST", "PUT")
        for prefix in ("/-", "/-/x", "/-/uploads", "/-/runs/x", "/-/static")
    ]
    endpoint = await console.http.get(path)

    assert {answer.status_code for answer in answers} <= {404, 405}
    assert len(await console.site.runs()) == 1
    assert "cookie" not in endpoint.json()["headers"]


async def test_the_front_page_leads_to_the_console(serve: Serve) -> None:
    """`/` leads to the console, unless the host names an endpoint."""
    console = await serve(a_workflow(python_step("echo", ECHO), response="custom"))
    front = await console.site.http.get("/")
    at_host = await console.site.http.get("/", headers={"host": f"{console.site.key()}.localhost"})

    assert (front.status_code, front.headers["location"]) == (303, "/-/")
    assert at_host.json()["path"] == "/"


async def test_a_new_code_is_printed_on_the_terminal(site: Site) -> None:
    """The page can have a new code printed, at most one in half a minute; earlier codes stay valid, and the form its target."""
    console = app_state(site).console
    console.print_new_code()
    with site.context.project.sqlalchemy_engine.begin() as connection:
        connection.execute(update(console_logins).values(created=console_logins.c.created - CODE_INTERVAL_S))
    first = await site.http.post("/-/login/code", data={"next": "/-/users"}, headers=HTML)
    second = await site.http.post("/-/login/code", headers=HTML)
    old, new = await log_in(site, site.codes[0]), await log_in(site, site.codes[1])

    assert "shows a new code" in first.text
    assert 'name="next" value="/-/users"' in first.text
    assert site.codes[1] not in first.text
    assert "Wait half a minute" in second.text
    assert (old.status_code, new.status_code) == (303, 303)


async def test_a_step_cannot_use_the_console(serve: Serve) -> None:
    """A step of this server is refused, even if it has the admin token."""
    code = """
    import http.client, urllib.parse
    statuses, url = [], urllib.parse.urlsplit(pd.steps["trigger"]["event"]["body"]["url"])
    headers = {"authorization": "Bearer a-token-of-the-admin", "content-type": "application/x-www-form-urlencoded"}
    for path, form in (("/-/runs", None), ("/-/login", "secret=a-token-of-the-admin"), ("/-/login/code", "")):
        connection = http.client.HTTPConnection(url.netloc)
        connection.request("GET" if form is None else "POST", path, form, headers)
        answer = connection.getresponse()
        statuses.append([answer.status, answer.headers["set-cookie"]])
    return statuses
    """
    console = await serve(a_workflow(python_step("call", code)))
    run_id = await console.start(body={"url": console.site.url})
    run = await console.wait_until(run_id, "success", "error")

    assert run.step("call").return_value == [[403, None]] * 3


OWN = "console-of-a-test.localhost"


@asynccontextmanager
async def with_own_host(serve: Serve) -> AsyncIterator[tuple[Console, httpx.AsyncClient]]:
    """A console with a host name of its own, and a browser that is logged in there."""
    console = await serve(a_workflow(python_step()), console_host=OWN)
    port = console.site.url.rpartition(":")[2]
    form = {"secret": app_state(console.site).console.create_code(), "next": "/-/"}
    async with httpx.AsyncClient(base_url=console.site.url, headers={"host": f"{OWN}:{port}"}, timeout=60) as http:
        answer = await http.post("/-/login", data=form, headers=HTML)
        assert (answer.status_code, "set-cookie" in answer.headers) == (303, True)
        yield console, http


async def test_a_console_with_a_host_of_its_own(serve: Serve) -> None:
    """The console opens at its host name; its cookie opens nothing at another name of this machine, nor at a guessed one."""
    async with with_own_host(serve) as (_, http):
        own = await http.get("/-/runs", headers=HTML)
        hosts = ("127.0.0.1", "localhost", "console-of-another-test.localhost", f"a.{OWN}", "localhost.")
        others = [await http.get("/-/runs", headers={**HTML, "host": host}) for host in hosts]

    assert own.status_code == 200
    assert {(each.status_code, each.headers.get("location")) for each in others} == {(303, "/-/login?next=%2F-%2Fruns")}


async def test_a_login_at_another_host_leads_to_the_console(serve: Serve) -> None:
    """At 127.0.0.1 a code, or the admin token, gets no cookie: it gets a link to the console, which is valid once."""
    async with with_own_host(serve) as (console, http):
        page = await console.site.http.get("/-/login", headers=HTML)
        wrong = await log_in(console.site, "wrong")
        secrets = (app_state(console.site).console.create_code(), ADMIN)
        answers = [await log_in(console.site, secret) for secret in secrets]
        again = await log_in(console.site, secrets[0])
        codes = [re.search(rf"http://{OWN}:[0-9]+/-/login[?]code=([A-Z0-9-]+)", each.text) for each in answers]
        used = [
            (await http.post("/-/login", data={"secret": code[1], "next": "/-/"}, headers=HTML)).status_code
            for code in (*codes, codes[0])
            if code
        ]

    assert OWN not in page.text + wrong.text + again.text
    assert [(each.status_code, "set-cookie" in each.headers) for each in answers] == [(200, False)] * 2
    assert (wrong.status_code, again.status_code, used) == (401, 401, [303, 303, 401])


async def test_the_consoles_host_has_only_the_console(serve: Serve) -> None:
    """At the host of the console there is no endpoint, no API and no link page; a program uses the console at each host."""
    async with with_own_host(serve) as (console, http):
        paths = (console.site.path(), "/v1/oauth/token", "/_static/connect.html")
        found = [(await http.post(path)).status_code for path in paths]
        forwarded = await http.post("/", headers={"x-forwarded-host": f"{console.site.key()}.m.pipedream.net"})
        bearer = await console.site.http.get("/-/runs", headers=BEARER)

    assert (found, forwarded.status_code, bearer.status_code, bearer.json()) == ([404, 404, 404], 404, 200, [])


async def test_no_answer_tells_the_consoles_host(serve: Serve) -> None:
    """The response of an endpoint, the pages without a login, JSON for programs and the log do not name the console's host."""
    async with with_own_host(serve) as (console, _):
        site = console.site
        texts = [
            (await site.http.post(site.path())).text,
            (await site.http.get("/", headers=HTML, follow_redirects=True)).text,
            (await site.http.get("/-/runs", headers=BEARER)).text,
            str((await site.http.get("/-/runs", headers=HTML)).headers),
            *site.lines,
        ]

    assert [text for text in texts if OWN in text] == []
