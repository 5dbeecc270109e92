"""The console in Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect
from sqlalchemy import update

from pdkernel.common.loop_thread import LoopThread
from pdkernel.journal import Claim, NewRun, encode_event, encode_output
from pdkernel.server.console_sessions import CODE_INTERVAL_S
from pdkernel.storage.schema import console_logins
from tests.browser.harness import find_barriers
from tests.builders import a_workflow, python_step
from tests.server.console.conftest import app_state
from tests.server.site import Site, site_of

GREETS = a_workflow(python_step("greet", "return {'text': 'Hello'}"), name="Greet")
FAILS = a_workflow(python_step("look", "return {}['a key that is not in the answer of the API']"), name="Fails")
ASKS = a_workflow(
    python_step("ask", "pd.flow.suspend(600000)"),
    python_step("answer", 'return pd.steps["ask"]["$resume_data"]'),
    name="Pay out",
)
PAYS = a_workflow(
    python_step("ask", "pd.flow.suspend(600000)"), python_step("post_payment", 'return "posted"'), name="Pay invoice"
)
SLACK = a_workflow(python_step("post", "return 1", options="--app slack"), name="Post to Slack")


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = (color) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)].map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
      .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll('p, a, h1, h2, h3, label, time')].map((each) => {
    const [dark, bright] = [light(getComputedStyle(each).color), ground].sort((one, other) => one - other);
    return (bright + 0.05) / (dark + 0.05);
  }));
}"""
"""JavaScript: the lowest contrast of the page's texts with its ground."""


@dataclass
class ConsoleSite:
    """A served project, and a person's page that is logged in to its console."""

    site: Site
    page: Page
    loop: LoopThread

    def call(self, name: str, **headers: str) -> str:
        """Call an endpoint; return the id of the run."""
        answer = httpx.post(self.site.url + self.site.path(name), json={"amount": 12}, headers=headers, timeout=60)
        return str(answer.json()["event_id"])

    def store(self, number: int, workflow: str) -> None:
        """Store a finished run without running it; the run with a higher number is newer."""
        self.loop.run(store_run(self.site, number, workflow))

    def cancel(self, run_id: str) -> None:
        """Cancel a run, as another process does."""
        assert self.loop.run(self.site.context.engine.journal.cancel(run_id))

    def renew_code(self) -> None:
        """Print a new code, which a person may do once in half a minute."""
        with self.site.context.project.sqlalchemy_engine.begin() as connection:
            connection.execute(update(console_logins).values(created=console_logins.c.created - CODE_INTERVAL_S))
        app_state(self.site).console.print_new_code()

    def open(self, path: str) -> Page:
        """Open a page of the console."""
        self.page.goto(self.site.url + path)
        return self.page

    def open_ended(self, name: str) -> Page:
        """Call an endpoint, and open the page of its run, which has ended."""
        page = self.open(f"/-/runs/{self.call(name)}")
        expect(page.get_by_role("button", name="Replay")).to_be_visible()
        return page

    def screenshot(self, name: str) -> None:
        """Take a picture of the page into the folder PDKERNEL_SCREENSHOTS, if the variable is set."""
        folder = os.environ.get("PDKERNEL_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


async def store_run(site: Site, number: int, workflow: str) -> None:
    """Store a finished run without running it."""
    journal, run_id = site.context.engine.journal, f"{number:027d}"
    definition = await journal.store_definition(replace(GREETS, name=workflow))
    await journal.accept_run(
        NewRun(run_id, "t", workflow, definition, encode_event({}, {}), environment="development", created=1e9 + number)
    )
    await journal.finish(Claim.first(run_id), "success", encode_output())


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    """The thread of the server."""
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def site(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A project whose server runs in a thread."""
    stack = AsyncExitStack()
    folder = tmp_path_factory.mktemp("console")
    site = loop.run(stack.enter_async_context(site_of(folder, GREETS, FAILS, ASKS, PAYS, SLACK)))
    site.directory.add_account(app="slack", credentials={"oauth_access_token": "xoxb-1"}, external_user_id="ada")
    site.directory.add_account(app="github", credentials={"oauth_access_token": "gho-1"}, external_user_id="grace")
    yield site
    loop.run(stack.aclose())


@pytest.fixture(scope="module")
def console(browser: BrowserContext, site: Site, loop: LoopThread) -> Iterator[ConsoleSite]:
    """A page that has logged in by the link with a code; no page has violated its policy, and no script has failed."""
    page, problems = browser.new_page(), list[str]()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(f"Content Security Policy or not: {error}"))
    app_state(site).console.print_new_code()
    page.goto(f"{site.url}/-/login?code={site.codes[-1]}")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Workflows")
    yield ConsoleSite(site, page, loop)
    page.close()
    assert [problem for problem in problems if "Content Security Policy" in problem] == []


def test_the_list_is_live(console: ConsoleSite) -> None:
    """A new run appears in the open list, and its row follows the run's status."""
    page = console.open("/-/runs?workflow=Pay+out")
    expect(page.locator("body.live")).to_be_attached()
    run_id = console.call("Pay out")
    row = page.locator(f"#run-{run_id}")
    expect(row).to_contain_text("paused")
    announced = page.get_by_role("status").inner_text()
    console.cancel(run_id)

    expect(row).to_contain_text("cancelled")
    assert "Pay out" in announced


def test_a_suspended_run_is_approved(console: ConsoleSite) -> None:
    """The page of a suspended run has the decision; after it, the page follows the run to its end without a reload."""
    run_id = console.call("Pay out")
    page = console.open(f"/-/runs/{run_id}")
    page.get_by_label("Note").fill("Checked <b>twice</b>")
    console.screenshot("suspended")
    page.get_by_role("button", name="Approve").click()

    expect(page.get_by_text("The run was approved, and goes on.")).to_be_visible()
    expect(page.get_by_role("button", name="Replay")).to_be_visible()
    expect(page.locator("#timeline")).to_contain_text('{"approved": true, "note": "Checked <b>twice</b>"}')
    console.screenshot("approved")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_rejected_run_is_cancelled(console: ConsoleSite, scheme: Literal["light", "dark"]) -> None:
    """A person sees the event first, and what Reject does; after it, nothing was posted, and the page tells who decided."""
    run_id = console.call("Pay invoice")
    console.page.emulate_media(color_scheme=scheme)
    page = console.open(f"/-/runs/{run_id}")
    expect(page.locator("#live")).to_have_text("Status: paused")
    top = page.locator("#event").bounding_box()
    below = page.get_by_role("button", name="Approve").bounding_box()
    page.get_by_label("Note").fill("Twice the agreed amount")
    console.screenshot(f"reject-{scheme}")
    page.get_by_role("button", name="Reject and cancel the run").click()

    expect(page.get_by_text("The run was rejected and cancelled. No further step starts.")).to_be_visible()
    expect(page.locator("#event")).to_contain_text("amount: 12")
    expect(page.locator("#timeline")).to_contain_text("Step ask was rejected by console session")
    expect(page.locator("#timeline")).to_contain_text("Twice the agreed amount")
    expect(page.locator("#timeline")).not_to_contain_text("posted")
    console.screenshot(f"rejected-{scheme}")
    page.emulate_media(color_scheme="light")
    assert top is not None
    assert below is not None
    assert top["y"] + top["height"] <= below["y"]


def test_the_second_person_is_told_who_decided(console: ConsoleSite) -> None:
    """Of two persons with the page of one run, the first decides; the second reads who has decided, and what the answer was."""
    run_id = console.call("Pay out")
    first = console.open(f"/-/runs/{run_id}")
    second = first.context.new_page()
    second.goto(first.url)
    second.evaluate("disconnect(); ended = true")  # the page has not been updated yet
    expect(
        second.get_by_role("button", name="Reject: the run goes on, and step answer gets the answer")
    ).to_be_visible()
    first.get_by_role("button", name="Approve").click()
    expect(first.get_by_text("The run was approved, and goes on.")).to_be_visible()
    second.get_by_role("button", name="Reject: the run goes on").click()

    expect(second.get_by_role("alert")).to_contain_text("Step ask was approved by console session")
    second.close()


def test_an_update_does_not_take_the_focus(console: ConsoleSite) -> None:
    """Text that is typed while the page is updated is in the field."""
    run_id = console.call("Pay out")
    page = console.open(f"/-/runs/{run_id}")
    expect(page.locator("#live")).to_have_text("Status: paused")
    page.get_by_label("Note").press_sequentially("Before ")
    page.evaluate("showContent(forms, shown.get(forms) + '<p>changed</p>')")
    page.keyboard.type("and after")

    expect(page.get_by_text("changed")).to_be_visible()
    expect(page.get_by_label("Note")).to_have_value("Before and after")


def test_the_first_update_leaves_forms_that_have_not_changed(console: ConsoleSite) -> None:
    """The stream sends the forms as the page has them, so that they are not replaced under a person's hands."""
    run_id = console.call("Pay out")
    expect(console.open(f"/-/runs/{run_id}").locator("#live")).to_have_text("Status: paused")
    response = console.page.reload()  # now, the page begins with the forms of a paused run
    assert response is not None
    expect(console.page.locator("#live")).to_have_text("Status: paused")
    same = "html => new DOMParser().parseFromString(html, 'text/html').querySelector('#actions').innerHTML.trim() === shown.get(forms)"

    assert console.page.evaluate(same, response.text())


def test_the_keyboard_alone(console: ConsoleSite) -> None:
    """Tab reaches the skip link, the navigation and the first row, each with a visible focus; Enter opens them."""
    run_id = console.call("Greet")
    page = console.open("/-/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Runs", exact=True)).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.keyboard.press("Enter")
    page.wait_for_url("**/-/runs")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#runs li')?.id") == f"run-{run_id}":
            break
    page.keyboard.press("Enter")

    page.wait_for_url(f"**/-/runs/{run_id}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(run_id)
    assert outline == "solid"


def test_a_path_is_copied(console: ConsoleSite) -> None:
    """A click on an export copies the path that its title names, and shows a message."""
    page = console.open_ended("Greet")
    key = page.locator("#timeline code.pd-k").first
    path = (key.get_attribute("title") or "").removeprefix("Copy ")

    key.click()

    expect(page.locator("#live")).to_have_text(f"Copied {path}")
    assert path
    assert page.evaluate("navigator.clipboard.readText()") == path


def test_a_path_is_copied_by_the_keyboard(console: ConsoleSite) -> None:
    """A part of an export can be focused, and Enter copies its path."""
    page = console.open_ended("Greet")
    page.evaluate("document.querySelectorAll('#timeline details').forEach((each) => { each.open = true; })")
    key = page.locator("#timeline code.pd-k[role=button]").first
    path = (key.get_attribute("title") or "").removeprefix("Copy ")

    key.press("Enter")

    expect(page.locator("#live")).to_have_text(f"Copied {path}")
    assert path
    assert page.evaluate("navigator.clipboard.readText()") == path


def test_a_path_that_is_not_copied(console: ConsoleSite) -> None:
    """If the browser does not permit the copy, the page reports that."""
    page = console.open_ended("Greet")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not permitted')); }")
    key = page.locator("#timeline code.pd-k").first

    key.click()

    expect(page.locator("#live")).to_have_text((key.get_attribute("title") or "").replace("Copy ", "Could not copy "))


HIDE = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true}); document.dispatchEvent(new Event('visibilitychange')); }"
"""JavaScript: the page is hidden behind another tab, or visible again."""


def test_a_hidden_page_has_no_connection(console: ConsoleSite) -> None:
    """A hidden page closes its stream, and opens it again when it is visible, unless the run has ended."""
    run_id = console.call("Pay out")
    page = console.open(f"/-/runs/{run_id}")
    expect(page.locator("body.live")).to_be_attached()
    page.evaluate(HIDE, True)
    hidden = page.evaluate("source === null && !document.body.classList.contains('live')")
    page.evaluate(HIDE, False)
    expect(page.locator("body.live")).to_be_attached()
    console.cancel(run_id)
    expect(page.locator("#live")).to_have_text("Status: cancelled")
    page.wait_for_function("ended")
    page.evaluate(HIDE, True)
    page.evaluate(HIDE, False)

    assert hidden
    assert page.evaluate("source === null")


def test_a_second_click_does_not_act_twice(console: ConsoleSite) -> None:
    """A form is sent once; after the Back button it can be sent again."""
    page = console.open(f"/-/runs/{console.call('Pay out')}")
    expect(page.locator("#live")).to_have_text("Status: paused")  # a change of the status replaces the forms
    page.evaluate(
        """() => {
          window.prevented = [];
          addEventListener('submit', (event) => { window.prevented.push(event.defaultPrevented); event.preventDefault(); });
        }"""
    )
    cancel = page.get_by_role("button", name="Cancel")
    cancel.click()
    cancel.click()
    page.evaluate("dispatchEvent(new Event('pageshow'))")  # the browser shows a page that it has kept
    cancel.click()

    assert page.evaluate("prevented") == [False, True, False]


def test_an_update_keeps_open_parts(console: ConsoleSite) -> None:
    """A part that a person has opened stays open when its content changes."""
    page = console.open(f"/-/runs/{console.call('Pay out')}")
    expect(page.locator("#live")).to_have_text("Status: paused")
    part = "<details><summary>{0}</summary>{0}</details>"
    page.evaluate("markup => showContent(forms, markup)", part.format("one") * 2)
    page.locator("#actions summary").last.click()
    page.evaluate("markup => showContent(forms, markup)", part.format("two") * 2)

    opened = page.locator("#actions details").evaluate_all(
        "parts => parts.map((each) => [each.open, each.innerText.trim()])"
    )
    assert [(is_open, text.split()[0]) for is_open, text in opened] == [(False, "two"), (True, "two")]


def test_a_row_that_changes_keeps_the_focus(console: ConsoleSite) -> None:
    """The first run of a list replaces the words that there are none; a row that is updated keeps the focus on its link."""
    page = console.open("/-/runs?workflow=Pay+out&status=paused&external_user=rosa")
    expect(page.get_by_text("No runs match.")).to_be_visible()
    expect(page.locator("body.live")).to_be_attached()
    run_id = console.call("Pay out", **{"x-pd-external-user-id": "rosa"})
    link = page.locator(f"#run-{run_id} a")
    expect(link).to_be_visible()
    none = page.get_by_text("No runs match.").is_visible()
    link.focus()
    console.cancel(run_id)

    expect(page.locator(f"#run-{run_id}")).to_contain_text("cancelled")
    expect(link).to_be_focused()
    assert not none


def test_the_end_of_the_updates_is_reported(console: ConsoleSite) -> None:
    """If the server refuses the stream, the page reports that, and waits for no more updates; a short interruption is not reported."""
    page = console.open(f"/-/runs/{console.call('Pay out')}")
    expect(page.locator("#live")).to_have_text("Status: paused")
    page.evaluate("source.dispatchEvent(new Event('error'))")
    interrupted = page.locator("#live").inner_text(), page.evaluate("source !== null")
    page.evaluate("() => { const old = source; old.close(); old.dispatchEvent(new Event('error')); }")

    expect(page.locator("#live")).to_have_text(
        "Updates have ended: the session or the server has. Load the page again."
    )
    assert interrupted == ("Status: paused", True)
    assert page.evaluate("source === null && !document.body.classList.contains('live')")


def test_a_long_list(console: ConsoleSite) -> None:
    """An open list has at most two hundred rows, newest first; its link to older runs follows the last row."""
    for number in range(51):
        console.store(number, "Long")
    page = console.open("/-/runs?workflow=Long")
    expect(page.locator("#older")).to_be_attached()
    expect(page.locator("body.live")).to_be_attached()
    console.store(51, "Long")
    expect(page.locator("#runs li")).to_have_count(51)
    first = page.evaluate(
        """() => {
          const [row] = region.children;
          for (let number = 0; number < 160; number += 1) {
            const id = String(number + 1000).padStart(27, '0');
            showRow({ id, html: row.outerHTML.replaceAll(row.id.slice(4), id) });
          }
          return region.firstElementChild.id;
        }"""
    )
    last = page.locator("#runs li").last.get_attribute("id") or ""

    assert page.locator("#runs li").count() == 200
    assert first == f"run-{1159:027d}"
    older = page.locator("#older").get_attribute("href") or ""
    assert parse_qs(urlsplit(older).query) == {"workflow": ["Long"], "before": [last.removeprefix("run-")]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier(console: ConsoleSite, axe: str, scheme: Literal["light", "dark"]) -> None:
    """axe-core finds nothing serious in the console's pages and in the timelines of a failed, a refused and a paused run."""
    failed = console.call("Fails", **{"x-pd-external-user-id": "ada"})
    refused = console.call("Post to Slack", **{"x-pd-external-user-id": "grace"})
    paused = console.call("Pay out")
    runs = [f"/-/runs/{run_id}" for run_id in (failed, refused, paused)]
    console.page.emulate_media(color_scheme=scheme)

    found = {
        path: find_barriers(console.open(path), axe) for path in ("/-/", "/-/runs", *runs, "/-/users", "/-/runs/none")
    }
    console.page.emulate_media(color_scheme="light")

    assert {path: barriers for path, barriers in found.items() if barriers} == {}


LONG = "user-with-a-very-long-id-without-any-space-" * 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window(console: ConsoleSite, scheme: Literal["light", "dark"]) -> None:
    """At 390 pixels no page scrolls sideways, and its text has contrast with the ground in the light and the dark theme."""
    console.call("Fails", **{"x-pd-external-user-id": LONG})
    refused = console.call("Post to Slack", **{"x-pd-external-user-id": "grace"})
    paused = console.call("Pay out")
    page = console.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    found = {}
    for name, path in {
        "workflows": "/-/",
        "runs": "/-/runs",
        "run": f"/-/runs/{refused}",
        "paused": f"/-/runs/{paused}",
        "users": "/-/users",
    }.items():
        console.open(path)
        found[name] = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        console.screenshot(f"{name}-390-{scheme}")
        assert page.evaluate(CONTRAST) > 4.5, name
    page.set_viewport_size({"width": 1400, "height": 1300})
    for name, path in {"workflows": "/-/", "runs": "/-/runs", "run": f"/-/runs/{refused}", "users": "/-/users"}.items():
        if os.environ.get("PDKERNEL_SCREENSHOTS"):
            console.open(path)
            console.screenshot(f"{name}-1400-{scheme}")
    page.emulate_media(color_scheme="light")

    assert found == dict.fromkeys(found, 0)


def test_logging_out_ends_the_session(site: Site, browser: BrowserContext, console: ConsoleSite) -> None:
    """After the logout an `inspect` URL leads to the login, and the login leads back to the run."""
    run_id = console.call("Greet")
    page = console.open("/-/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in to the console")
    console.screenshot("login")
    console.open(f"/-/runs/{run_id}")
    page.get_by_role("textbox").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not a valid code")
    console.renew_code()
    page.get_by_role("textbox").fill(site.codes[-1].lower())
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("heading", level=1)).to_contain_text(run_id)


class Listener(BaseHTTPRequestHandler):
    """A program that listens on another port of this machine, and keeps what browsers send to it: (host name, path, cookie)."""

    requests: ClassVar[list[tuple[str | None, str, str]]] = []

    def do_GET(self) -> None:
        """Keep the request, and answer."""
        host = urlsplit(f"//{self.headers['host']}").hostname
        self.requests.append((host, self.path, self.headers.get("cookie", "")))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_a_listener_on_another_port_gets_no_cookie(browser: BrowserContext, loop: LoopThread, tmp_path: Path) -> None:
    """The console at its own host sends its cookie to no other port of this machine's known names; the login at 127.0.0.1 leads there."""
    stack, page = AsyncExitStack(), browser.new_page()
    own, known = "console-" + "a2" * 13 + ".localhost", ("127.0.0.1", "localhost", "console.localhost")
    site = loop.run(stack.enter_async_context(site_of(tmp_path, GREETS, console_host=own)))
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    port = listener.server_port
    thread = Thread(target=listener.serve_forever)
    thread.start()
    try:
        app_state(site).console.print_new_code()
        page.goto(f"{site.url}/-/runs")
        page.get_by_label("Code of the terminal").fill(site.codes[-1])
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Open the console").click()
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
        at_console = page.url
        for host in known:
            page.goto(f"http://{host}:{port}/-/runs")
        page.goto(f"http://{own}:{port}/-/runs")  # who knows the name could receive it
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
        page.close()
        loop.run(stack.aclose())

    cookie = f"pdkernel_console_{urlsplit(site.url).port}="
    assert urlsplit(at_console).hostname == own
    # Chromium also asks each host for /favicon.ico, at any time and after the next page too, so the order tells nothing.
    pages = {host: sent for host, path, sent in Listener.requests if path == "/-/runs"}
    assert pages.keys() == {*known, own}
    assert cookie in pages[own]
    assert {host for host, _, sent in Listener.requests if cookie in sent} == {own}
