"""Buttons for link pages, followed over HTTP as a browser does, for paused runs and for requests to the draft."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import ipywidgets as ipw
import pytest
from IPython.display import display
from IPython.utils.capture import capture_output
from msgspec.structs import replace

from pdkernel.common.identity import Environment
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, PauseButtons, ProveExportButton, SaveTestButton, UserPicker
from pdkernel.kit.widgets.buttons import ConsoleLinkButton, RequestButtons, StaleStepsButton
from tests.kit.widgets.conftest import Timers
from tests.kit.widgets.front_end import (
    NEEDS_SLACK,
    button,
    enter,
    everything_in_state,
    inside,
    press,
    screen,
    type_into,
)
from tests.render.builders import an_execution
from tests.server.link.visitor import SAME_ORIGIN, Page
from tests.waiting import wait_until

TOKEN = "xoxb-typed-into-the-page"


def send(url: str, **fields: str) -> Page:
    """Open the page and send its form."""
    page = Page(httpx.get(url, timeout=60))
    return Page(httpx.post(url.partition("?")[0], data={**page.hidden, **fields}, headers=SAME_ORIGIN, timeout=60))


def wait_for(picker: UserPicker, words: str) -> str:
    """The picker's text, after it contains *words*."""
    wait_until(lambda: words in screen(picker), report=lambda: screen(picker))
    return screen(picker)


def test_an_account_is_connected(slack_picker: UserPicker, session: Session) -> None:
    """A click shows a link for the chosen user, and the picker shows the result by itself."""
    session.choose_user("ada")
    press(slack_picker, "Connect with Link")
    url = shown_link(slack_picker)
    page = send(url, **{"field:oauth_access_token": TOKEN})

    account = session.directory.newest_account("ada", "development", "slack")
    assert page.status == 200
    assert account is not None
    assert f"Connected: {account.id}." in wait_for(slack_picker, "Connected")
    assert button(slack_picker, "Reconnect with Link")
    assert f"Uses {account.id}" in screen(slack_picker)


def test_an_account_is_of_the_chosen_environment(slack_picker: UserPicker, session: Session) -> None:
    """A link that is made in production connects an account there, and none in development."""
    session.choose_user("ada", "production")
    press(slack_picker, "Connect with Link")
    send(shown_link(slack_picker), **{"field:oauth_access_token": TOKEN})

    assert [account.environment for account in session.directory.accounts(external_user_id="ada")] == ["production"]


def test_a_link_that_is_refused_is_reported(tmp_path: Path) -> None:
    """If no link can be made, the form has the reason below the button."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_EGRESS": "deny", "PDKERNEL_PUBLIC_URL": "http://[hub"})
    session.record_cell(NEEDS_SLACK, cell_id="a")
    session.choose_user("ada")
    picker = UserPicker(session)

    press(picker, "Connect with Link")

    assert "is not a valid public URL" in screen(picker)
    picker.close()
    session.close()


def test_an_account_is_connected_again(slack_picker: UserPicker, session: Session) -> None:
    """With an account, the link gives it new credentials and does not connect a second one."""
    session.choose_user("ada")
    account = session.directory.add_account(app="slack", credentials={"k": "old-value"}, external_user_id="ada")
    session.notify_accounts_changed()
    press(slack_picker, "Reconnect with Link")
    send(shown_link(slack_picker), **{"field:oauth_access_token": TOKEN})

    assert [each.id for each in session.directory.accounts(external_user_id="ada")] == [account.id]
    assert TOKEN in session.directory.credentials(account.id).values()


def test_an_opened_link_is_removed(slack_picker: UserPicker, session: Session) -> None:
    """An opened link and the typed credentials are in no widget's state, which a notebook might save."""
    session.choose_user("ada")
    press(slack_picker, "Connect with Link")
    url = shown_link(slack_picker)
    before = everything_in_state()
    httpx.get(url, timeout=60)
    wait_for(slack_picker, "Continue in the opened page")
    after = everything_in_state()

    assert "ctok_" in before
    assert "ctok_" not in after


@pytest.mark.parametrize(("user", "environment"), [("grace", "development"), ("ada", "production")])
def test_a_user_chosen_meanwhile(
    slack_picker: UserPicker, session: Session, user: str, environment: Environment
) -> None:
    """The result of ada's link is not shown to grace, nor in the other environment, but the accounts are updated."""
    session.choose_user("ada")
    press(slack_picker, "Connect with Link")
    url = shown_link(slack_picker)
    session.choose_user(user, environment)
    hidden = url not in everything_in_state()
    send(url, **{"field:oauth_access_token": TOKEN})
    session.choose_user(user, "development")

    assert hidden
    assert "Connected" not in screen(slack_picker)
    slack_picker.wait()
    assert button(slack_picker, "ada")


def test_cancelling(slack_picker: UserPicker, session: Session) -> None:
    """The form reports that the user cancelled in the page."""
    session.choose_user("ada")
    press(slack_picker, "Connect with Link")
    send(shown_link(slack_picker), cancel="true")

    assert "Slack is not connected" in wait_for(slack_picker, "Cancelled in the page")


def test_a_browser_on_another_machine(slack_picker: UserPicker, session: Session) -> None:
    """The form shows the address of the page, and two ways to reach it from another machine."""
    session.choose_user("ada")
    press(slack_picker, "Connect with Link")

    assert re.search(r"ssh -L (\d+):127\.0\.0\.1:\1 HOST, or set PDKERNEL_PUBLIC_URL", screen(slack_picker))


class TestConsole:
    """The button that opens the console of the draft's server."""

    def test_a_used_link_is_removed(self, session: Session) -> None:
        """A login removes the link from the state of the widgets; the next press shows another one."""
        session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="c1")
        session.server.start(on_run=lambda _: None, log_line=lambda _: None)
        console = ConsoleLinkButton(session.server.create_console_link)
        press(console, "Open the console")
        url = shown_link(console)
        code = httpx.URL(url).params["code"]
        before = everything_in_state()
        link = httpx.URL(url)
        headers = {
            **SAME_ORIGIN,
            "host": link.netloc.decode(),
        }  # which browsers, but not all systems, lead to this machine
        form = {"secret": code, "next": "/-/"}
        httpx.post(link.copy_with(host="127.0.0.1", query=None), data=form, headers=headers, timeout=60)
        after = everything_in_state()
        shown = screen(console)
        press(console, "Open the console")

        assert code in before
        assert code not in after
        assert "The console is open in another tab." in shown
        assert shown_link(console) != url

    def test_a_link_is_shown_for_a_short_time(self, timers: Timers) -> None:
        """An unused link is removed; neither the use nor the time of an earlier link removes a later link."""
        used: list[Callable[[], None]] = []

        def create(on_used: Callable[[], None]) -> str:
            used.append(on_used)
            return f"https://hub.example/-/login?code={len(used)}"

        console = ConsoleLinkButton(create)
        console.show_link()
        console.show_link()
        used[0]()
        timers.ends[0]()
        link = shown_link(console)
        timers.ends[1]()

        assert link.endswith("code=2")
        assert "Press the button again" in screen(console)
        assert "hub.example" not in everything_in_state()

    def test_a_link_of_another_host_needs_no_tunnel(self) -> None:
        """Only an address on the loopback interface is explained; the address is escaped."""
        hints = []
        for host in ("hub.example", "127.0.0.1:8000"):
            console = ConsoleLinkButton(lambda _, host=host: f'https://{host}/-/login?code="1"&a=2')  # type: ignore[misc]
            console.show_link()
            hints.append("ssh -L" in screen(console))
            assert 'login?code=&quot;1&quot;&amp;a=2"' in console.children[1].value

        assert hints == [False, True]

    def test_the_message_of_a_used_link_stays(self, timers: Timers) -> None:
        """After a login, the time of its link replaces the message about the console no more."""
        used: list[Callable[[], None]] = []

        def create(on_used: Callable[[], None]) -> str:
            used.append(on_used)
            return "https://hub.example/-/login?code=1"

        console = ConsoleLinkButton(create)
        console.show_link()
        used[0]()
        timers.ends[0]()

        assert "The console is open in another tab." in screen(console)

    @pytest.mark.usefixtures("_shell")
    def test_the_saved_output_has_no_link(self) -> None:
        """What a notebook saves of the output is the line that shows the button."""
        console = ConsoleLinkButton(lambda _: "https://hub.example/-/login?code=secret")
        console.show_link()
        with capture_output() as captured:
            display(console)

        (output,) = captured.outputs
        assert "secret" not in str(output.data)
        assert output.data["text/plain"] == "Open the console: %pdserve console"

    def test_a_draft_that_is_not_served_has_no_console(self, session: Session) -> None:
        """The message names the line that serves the draft."""
        console = ConsoleLinkButton(session.server.create_console_link)
        console.show_link()

        assert "%pdserve" in screen(console)


def shown_link(form: Any) -> str:
    """The link that the form shows."""
    shown = [each.value for each in inside(form) if isinstance(each, ipw.HTML)]
    [found] = re.findall(r'class="pd-open" href="([^"]+)"', "".join(shown))
    return html.unescape(str(found))


APPROVE = "%%pdstep approve\ndef handler(pd):\n    pd.flow.suspend(3600_000)\n"
RESUME = "Resume now"
CANCEL = "Cancel the run"


@pytest.fixture
def buttons(composer: EventComposer, session: Session) -> PauseButtons:
    """The buttons of a form whose sent run is paused."""
    session.record_cell(APPROVE, cell_id="cell-1")
    press(composer, "Send")
    wait_until(lambda: RESUME in screen(composer))
    return composer.pause_buttons


def test_a_sent_run_is_resumed_with_data(composer: EventComposer, session: Session, buttons: PauseButtons) -> None:
    """The form shows the buttons while its run is paused; the JSON that is typed before Enter is the step's `$resume_data`."""
    while_paused = screen(composer)
    type_into(buttons.data, '{"approved": true}')
    enter(buttons.data)
    composer.wait()
    result = session.get_result("approve")

    assert RESUME in while_paused
    assert RESUME not in screen(composer)
    assert result is not None
    assert result.exports == {"$resume_data": {"approved": True}}
    assert "success" in composer.saved_output.text


def test_a_paused_run_is_cancelled(composer: EventComposer, buttons: PauseButtons) -> None:
    """Cancel ends the run, and the form can send again."""
    press(buttons, CANCEL)
    composer.wait()

    assert "cancelled" in composer.saved_output.text
    assert composer.send_button.description == "Send"


def test_typed_data_stays_while_the_run_is_paused(session: Session) -> None:
    """Data that is typed stays when the same pause is drawn again, and is removed at the next one; an ended run has no buttons."""
    paused = an_execution(status="paused")
    buttons = PauseButtons(session, paused)
    type_into(buttons.data, "1")
    buttons.set_execution(paused)
    kept = buttons.data.value
    buttons.set_execution(an_execution(status="paused", attempt=2))
    emptied = buttons.data.value

    buttons.set_execution(an_execution(status="success"))
    buttons.cancel_button.click()  # a click that was on its way

    assert (kept, emptied) == ("1", "")
    assert screen(buttons) == ""
    assert buttons.message.value == ""


def test_a_paused_run_is_stopped(composer: EventComposer, buttons: PauseButtons) -> None:
    """Stop, too, ends a paused run."""
    press(composer, "Stop")
    composer.wait()

    assert "cancelled" in composer.saved_output.text
    assert RESUME not in screen(composer)


def test_invalid_data_is_reported(composer: EventComposer, buttons: PauseButtons) -> None:
    """Text that is not JSON resumes nothing, and the message names the line and the column."""
    type_into(buttons.data, "{approved")
    press(buttons, RESUME)

    assert "$resume_data is not JSON" in screen(buttons)
    assert RESUME in screen(composer)
    press(composer, "Stop")
    composer.wait()


def test_waits_can_be_skipped(composer: EventComposer, session: Session) -> None:
    """With the box checked, a sent run goes on at once, and the form shows the line with the option."""
    session.record_cell(APPROVE, cell_id="cell-1")
    composer.skip_waits.value = True
    press(composer, "Send")
    composer.wait()

    assert composer.magic_line == "%pdevent --send --skip-waits"
    assert "suspend for 1 hour: skipped." in composer.saved_output.text


ONE = "%%pdstep one\ndef handler(pd):\n    return 1\n"


@pytest.fixture
def run(session: Session) -> Execution:
    """A run started by a POST to /orders."""
    session.record_cell(ONE, cell_id="c1")
    session.choose_event(Event({"method": "POST", "path": "/orders", "body": {"n": 1}}))
    return session.run()


def at(run: Execution, second: int, *, path: str = "/orders", user: str | None = None) -> Execution:
    """*run* as another request, started in the given second."""
    trigger = replace(run.trigger, event={**run.event, "path": path})
    begun = f"2026-11-26T10:00:{second:02}.000Z"
    return replace(run, id=f"run{second}", started_at=begun, trigger=trigger, external_user=user)


def test_each_request_has_its_own_button(run: Execution) -> None:
    """A click uses the request of the button, and shows the equivalent line; a long path is cut."""
    used: list[str] = []

    def use(run_id: str) -> str:
        used.append(run_id)
        return "request abc"

    widget = RequestButtons(use)
    widget.update([at(run, 1), at(run, 2, path="/refunds", user="ada"), at(run, 3, path=f"/{'x' * 32}")])

    press(widget, "10:00:02.000 POST /refunds as ada")

    assert used == ["run2"]
    assert f"10:00:03.000 POST /{'x' * 31}…" in screen(widget).splitlines()
    assert "The test event is now request abc. As a line: %pdserve use run2" in screen(widget)


def test_a_button_stays_with_its_request(run: Execution) -> None:
    """New requests add and remove buttons; the buttons of kept requests are unchanged; one that comes back works again."""
    used: list[str] = []

    def use(run_id: str) -> str:
        used.append(run_id)
        return run_id

    widget = RequestButtons(use)
    widget.update([])
    assert screen(widget) == ""
    widget.update([at(run, 1), at(run, 2)])
    first, second = (button(widget, f"10:00:0{number}.000 POST /orders") for number in (1, 2))

    widget.update([at(run, 2), at(run, 3)])

    assert button(widget, "10:00:02.000 POST /orders") is second
    assert (first.comm is None, second.comm is None) == (True, False)  # a button that left is closed
    assert screen(widget).splitlines()[1:] == ["10:00:02.000 POST /orders", "10:00:03.000 POST /orders"]
    widget.update([at(run, 1)])
    press(widget, "10:00:01.000 POST /orders")
    assert used == ["run1"]


def test_a_request_that_is_no_longer_stored(run: Execution) -> None:
    """An error of a click is shown below the buttons."""

    def none(run_id: str) -> str:
        raise RequestError(f"There is no run {run_id} among the latest requests.")

    widget = RequestButtons(none)
    widget.update([at(run, 1)])
    press(widget, "10:00:01.000 POST /orders")

    assert "There is no run run1 among the latest requests." in screen(widget)


@pytest.mark.usefixtures("_shell")
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda session: PauseButtons(session, an_execution(id="r")), "Resume now: %pdruns resume ID"),
        (lambda _: RequestButtons(str), "Use as the test event: %pdserve use RUN"),
        (lambda session: ProveExportButton(session, Path("out"), "--to out"), "Prove: %pdexport --to out --prove"),
        (SaveTestButton, "Save this run as a test: %pdrun --save-test NAME"),
        (
            lambda session: StaleStepsButton(["one", "two"], session.run),
            "Stale: one, two. To run them again: %pdrun --stale",
        ),
    ],
    ids=["pause", "request", "proof", "test", "stale steps"],
)
def test_without_a_kernel_the_line_is_shown(session: Session, make: Callable[[Session], Any], line: str) -> None:
    """A saved notebook shows the line that does the same in the place of the buttons, as text and HTML."""
    with capture_output() as captured:
        display(make(session))

    data = captured.outputs[0].data
    assert data["text/plain"] == line
    assert html.escape(line.partition("%")[2]) in data["text/html"]
