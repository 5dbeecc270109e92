"""
The whole quickstart in a real JupyterLab.

All tests share one notebook. Each stage is a fixture that builds on the previous stage, so a single test runs the
stages that it needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.harness import LabPage, find_barriers
from tests.cli.fork_server import ForkServer
from tests.private_pytest import run_pytest

FOLDER = "job"
NOTEBOOK = f"{FOLDER}/01_quickstart.ipynb"
STEPS = {"check": "Python", "message": "Node.js", "route": "Bash", "notify": "Node.js"}
TITLE = ["steps.trigger.event.body.issue.title", 'pd.steps["trigger"]["event"]["body"]["issue"]["title"]']
TOKEN = "xoxb-first-token-of-grace"
MESSAGE = 'Slack message to #bugs: "New issue in Codertocat/Hello-World'

IS_WITHIN = "node => node.getBoundingClientRect().right <= innerWidth"
"""JavaScript: whether a node fits into the window. JupyterLab lays out a moment after the window has another size."""


class Job:
    """The quickstart in a page, its parts by name."""

    def __init__(self, page: LabPage) -> None:
        self.page = page
        self.folder = page.lab.root / FOLDER
        self.picker = self.output("picker")
        self.composer = self.output("composer")

    def output(self, cell: str) -> Locator:
        """The output of the cell with this id."""
        return self.page.output(self.page.index_of(cell))

    def timeline(self, cell: str) -> Locator:
        """The timeline in a cell's output."""
        return self.output(cell).locator(".pd-timeline")

    def steps(self, cell: str) -> Locator:
        """The steps of that timeline."""
        return self.timeline(cell).locator(".pd-steps > li")

    def run(self, cell: str) -> None:
        """Run one cell."""
        self.page.run_cell(self.page.index_of(cell))

    def button(self, form: Locator, name: str) -> Locator:
        """A form's button."""
        return form.get_by_role("button", name=name, exact=True)

    def connect(self, token: str) -> None:
        """Type a token for the app without an account, and connect."""
        self.picker.locator("input[type=password]").click()
        self.page.page.keyboard.type(token)
        self.button(self.picker, "Connect").click()

    def send(self) -> None:
        """Send the event, and wait for the end of the run."""
        self.button(self.composer, "Send").click()
        expect(self.timeline("composer")).to_contain_text("Response to the caller")

    def look(self, cell: str, name: str) -> None:
        """Take a picture with this cell in view."""
        self.output(cell).scroll_into_view_if_needed()
        self.page.screenshot(name)


@pytest.fixture(scope="module")
def job(lab_page: LabPage) -> Iterator[Job]:
    """The quickstart, opened and not yet run, in its own folder and project."""
    lab_page.lab.copy_notebooks(FOLDER)
    with lab_page.alone(NOTEBOOK):
        lab_page.screenshot("job-00-opened")
        yield Job(lab_page)


@pytest.fixture(scope="module")
def ran(job: Job) -> Job:
    """Every cell after its first run; ada has an account, grace has none."""
    job.page.run_all()
    return job


@pytest.fixture(scope="module")
def connected(ran: Job) -> Job:
    """Grace is chosen in the form, and an account is connected for her."""
    ran.picker.get_by_placeholder("the user's id in your product").fill("grace")
    ran.button(ran.picker, "Use").click()
    expect(ran.picker).to_contain_text("grace has no account yet")
    ran.connect(TOKEN)
    expect(ran.button(ran.picker, "Connect another")).to_be_visible()
    return ran


@pytest.fixture(scope="module")
def sent(connected: Job) -> Job:
    """The event was sent as grace."""
    connected.send()
    return connected


@pytest.fixture(scope="module")
def ran_again(sent: Job) -> Job:
    """Every cell after a second run, as ada."""
    sent.page.run_all()
    return sent


@pytest.fixture(scope="module")
def edited(ran_again: Job) -> Job:
    """The second step's cell, edited and run alone, after a run as ada: the last run of Run All was for grace."""
    ran_again.run("run")
    index = ran_again.page.index_of("message")
    text = str(
        ran_again.page.page.evaluate(
            "index => jupyterapp.shell.currentWidget.content.widgets[index].model.sharedModel.getSource()", index
        )
    )
    ran_again.page.edit_cell(index, text.replace("New issue in", "A new issue in"))
    ran_again.run("message")
    return ran_again


def test_opened_notebook_has_nothing_to_save(job: Job) -> None:
    """Opening the notebook, and the start of its kernel, change nothing."""
    assert job.page.page.evaluate("jupyterapp.shell.currentWidget.context.model.dirty") is False


def test_first_run_succeeds(ran: Job) -> None:
    """The first run executes every step as ada, sends one message, and writes the export."""
    for step in STEPS:
        expect(ran.steps(step)).to_have_count(1)
        expect(ran.steps(step)).to_contain_text("success")

    ran.look("check", "job-01-first-screen")
    expect(ran.steps("notify")).to_contain_text(MESSAGE)
    expect(ran.timeline("run")).to_contain_text("Response to the caller: 200")
    expect(ran.output("export")).to_contain_text("6 new")


def test_the_intended_failure_is_shown_with_a_fix(ran: Job) -> None:
    """The cell of a user without an account shows the platform's error and a fix, and Run All goes on."""
    refused = ran.output("refused")

    ran.look("refused", "job-01-refused")
    expect(refused).to_contain_text("Pipedream Connect Error: No matching external user ID: grace in development")
    expect(refused).to_contain_text("with %pduser, or: pdkernel accounts add --external-user grace --app slack")
    expect(ran.button(ran.composer, "Send")).to_be_enabled()


def test_account_is_connected_by_typing_its_token(connected: Job) -> None:
    """A connected token is in no field and not on the page."""
    expect(connected.picker).to_contain_text("Steps run as grace in development. Accounts: Slack apn_")
    connected.button(connected.picker, "Connect another").click()
    field = connected.picker.locator("input[type=password]")

    expect(field).to_be_visible()
    expect(field).to_have_value("")
    assert TOKEN not in connected.page.page.content()
    connected.look("picker", "job-02-connected")


def test_event_is_sent_from_the_form(sent: Job) -> None:
    """Send runs the four steps as grace, and shows her account, the stand-in's message, the response, and her id in the event."""
    expect(sent.steps("composer")).to_have_count(4)
    for index, (step, language) in enumerate(STEPS.items()):
        expect(sent.steps("composer").nth(index)).to_contain_text(re.compile(rf"success\s*{step}\s*{language}"))

    notify = sent.steps("composer").nth(3)

    sent.look("composer", "job-03-sent")
    expect(notify).to_contain_text(re.compile(r"account\s*Slack (\w+, )?apn_\w+ \(external user's\)"))
    expect(notify).to_contain_text("STAND-IN answered, nothing was sent")
    expect(notify).to_contain_text(MESSAGE)
    expect(sent.timeline("composer")).to_contain_text("Response to the caller: 200")
    expect(sent.timeline("composer")).to_contain_text('"sent": true')
    for header, value in (("x-pd-environment", "development"), ("x-pd-external-user-id", "grace")):
        expect(sent.composer.locator("code", has_text=f"{header}: {value}")).to_be_visible()
    expect(sent.timeline("composer")).to_contain_text("external user grace, development")
    sent.look("picker", "job-05-grace")


def test_an_invalid_body_is_reported_while_typing(sent: Job) -> None:
    """A body that is not JSON is reported with line and column while it is typed, and cannot be sent."""
    body = sent.composer.locator(".pd-body textarea")
    right = body.input_value()

    body.fill('{\n  "action": "opened",\n}')

    expect(sent.composer).to_contain_text(re.compile("line 3, column 1"))
    expect(sent.button(sent.composer, "Send")).to_be_disabled()
    sent.look("composer", "job-04-wrong-body")
    body.fill(right)
    expect(sent.button(sent.composer, "Send")).to_be_enabled()


def test_narrow_window_keeps_the_columns(sent: Job) -> None:
    """In a window of 900 pixels, wrapped text of a form is below the fields and not below their names."""
    page = sent.page.page
    before = page.viewport_size
    page.set_viewport_size({"width": 900, "height": 1300})
    page.wait_for_function(IS_WITHIN, arg=sent.composer.element_handle())
    try:
        column = sent.composer.locator("select").first.bounding_box()
        wrapped = sent.composer.locator("label", has_text="save as").bounding_box()
        sent.look("composer", "job-05-narrow")
    finally:
        page.set_viewport_size(before or {"width": 1400, "height": 1300})

    assert column is not None
    assert wrapped is not None
    assert wrapped["y"] > column["y"] + column["height"] - 1
    assert abs(wrapped["x"] - column["x"]) < 1


def test_message_is_not_sent_twice(ran_again: Job) -> None:
    """A message that was sent for an event and user is not sent again by its cell or by a whole run."""
    for cell in ("notify", "run"):
        expect(ran_again.steps(cell).last).to_contain_text(re.compile(r"NOT SENT AGAIN: answer of \d\d:\d\d"))
        expect(ran_again.steps(cell).last).to_contain_text("success")
    expect(ran_again.timeline("run")).to_contain_text("external user ada, development")
    ran_again.look("run", "job-06-not-sent-twice")


def test_path_is_copied_from_the_shape(ran_again: Job) -> None:
    """A click on a key of the event's shape copies its Node.js path, a click beside it the Python path."""
    shape = ran_again.output("shape").locator(".pd-shape")
    shape.locator(
        "summary", has=ran_again.page.page.get_by_title(f"Copy {TITLE[0].removesuffix('.title')}", exact=True)
    ).click(position={"x": 4, "y": 8})
    for path in TITLE:
        key = shape.locator("code.pd-k").and_(ran_again.page.page.get_by_title(f"Copy {path}", exact=True))

        key.click()

        ran_again.page.expect_copied(path)
    ran_again.look("shape", "job-07-shape")


def test_edited_step_runs_alone(edited: Job) -> None:
    """Running an edited step's cell runs that step only."""
    expect(edited.steps("message")).to_have_count(1)
    expect(edited.steps("message")).to_contain_text("A new issue in Codertocat/Hello-World")
    edited.look("message", "job-08-edited")


def test_steps_below_an_edited_step_are_stale(edited: Job) -> None:
    """The steps below the edited step are marked stale, the steps above are not."""
    for step, stale in (("check", False), ("message", False), ("route", True), ("notify", True)):
        expect(edited.steps(step).get_by_text("stale", exact=True)).to_have_count(int(stale))
    edited.look("notify", "job-08-stale")


def test_saving_makes_nothing_stale(edited: Job) -> None:
    """A step whose cell is saved unchanged after its run is not stale."""
    edited.page.save()

    edited.run("route")

    expect(edited.steps("route").get_by_text("stale", exact=True)).to_have_count(0)
    expect(edited.steps("check").get_by_text("stale", exact=True)).to_have_count(0)
    expect(edited.steps("message").get_by_text("stale", exact=True)).to_have_count(0)


def test_workflow_is_exported(edited: Job) -> None:
    """An export writes and lists the files; the next export shows only the changes of an edit."""
    exported = edited.folder / "exported" / "open-issue-to-slack"
    before = (exported / "message" / "entry.js").read_text()

    edited.page.save()
    edited.run("export")

    edited.look("export", "job-09-exported")
    assert (exported / "message" / "entry.js").read_text() == before.replace("New issue in", "A new issue in")
    expect(edited.output("export")).to_contain_text("1 changed, 5 unchanged")
    expect(edited.output("export").locator("details[open]")).to_contain_text("+      text: `A new issue in")


def test_exports_are_pinned(edited: Job) -> None:
    """A pinned step does not run; the steps below get the pinned exports, and an export ignores the pin."""
    index = edited.page.index_of("run")
    edited.page.edit_cell(index, '%pdpin message {"$return_value": {"text": "As pinned"}}\n%pdrun')
    edited.run("run")

    expect(edited.steps("run").nth(1)).to_contain_text(re.compile(r"pinned\s*message"))
    expect(edited.steps("run").nth(3)).to_contain_text('Slack message to #bugs: "As pinned"')
    edited.look("run", "job-10-pinned")
    edited.run("export")
    expect(edited.output("export")).to_contain_text("Pins are not exported")
    edited.page.edit_cell(index, "%pdpin --clear\n%pdrun")
    edited.run("run")
    expect(edited.steps("run").nth(1)).to_contain_text(re.compile(r"success\s*message"))


def test_saved_notebook_holds_no_token(edited: Job) -> None:
    """The saved notebook has the outputs, and not the typed token."""
    text = edited.page.save().read_text()

    assert "Slack message to #bugs" in text
    assert TOKEN not in text


@pytest.mark.parametrize("width", ["", "300px"])
def test_narrow_window_hides_nothing(edited: Job, width: str) -> None:
    """At 900 pixels, and with cells as narrow as on a phone, each form and timeline fits into its cell, and each field into its form."""
    wide = edited.page.page.viewport_size
    edited.page.page.set_viewport_size({"width": 900, "height": 1100})
    edited.page.page.wait_for_function(IS_WITHIN, arg=edited.output("composer").element_handle())

    cells = ("user", "picker", "composer", "notify", "run", "shape", "export")
    for cell in cells:
        edited.output(cell).evaluate("(node, width) => { node.style.width = width; }", width)
        for output in edited.output(cell).locator(".jp-OutputArea-output").all():
            assert output.evaluate(
                """node => [node, ...node.querySelectorAll('.widget-box')]
                  .every(each => each.scrollWidth <= each.clientWidth + 1)"""
            ), cell

    edited.look("composer", f"job-11-narrow{width}")
    for cell in cells:
        edited.output(cell).evaluate("node => { node.style.width = ''; }")
    assert wide is not None
    edited.page.page.set_viewport_size(wide)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_no_output_has_a_barrier(edited: Job, axe: str, theme: str) -> None:
    """axe-core finds nothing serious in forms, timelines and shapes, with each part of a form open; forms are named groups."""
    page = edited.page.page
    edited.page.execute("apputils:change-theme", theme=theme)
    expect(page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
    for name, opened in (("Connect another", "credential"), ("What if …", "external user")):
        if not edited.picker.get_by_label(opened, exact=True).last.is_visible():
            edited.button(edited.picker, name).click()
        expect(edited.picker.get_by_label(opened, exact=True).last).to_be_visible()

    found = find_barriers(page, axe, ".jp-OutputArea-output")

    edited.look("picker", f"job-14-{theme}")
    edited.page.execute("apputils:change-theme", theme="JupyterLab Light")
    assert found == []
    for name in ("External user", "Test event"):
        expect(page.get_by_role("group", name=name, exact=True)).to_be_visible()


def test_a_run_is_saved_as_a_test(edited: Job, fork_server: ForkServer) -> None:
    """The button below a run writes a test that passes and reports its files, which contain no token."""
    edited.page.save()
    edited.run("run")
    output = edited.output("run")

    output.get_by_role("button", name="Save this run as a test").click()

    expect(output).to_contain_text("Wrote tests/test_issues_opened.py")
    edited.look("run", "job-13-saved-as-a-test")
    assert run_pytest(fork_server, edited.folder) == {"passed": 1}
    files = [path for path in (edited.folder / "tests").rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_the_notebook_can_be_read_without_a_kernel(edited: Job) -> None:
    """In a clone without the kernel and without trust, all outputs can be read, and forms show the choices."""
    page = edited.page.page
    notebook = json.loads(edited.page.save().read_text())
    notebook["metadata"] = {"kernelspec": {"name": "none", "display_name": "None", "language": "python"}}
    notebook["cells"][0]["source"] = "Another text, so that Lab does not take it for the notebook that it trusts."
    (edited.folder / "clone.ipynb").write_text(json.dumps(notebook))

    edited.page.close_all()
    edited.page.execute("docmanager:open", path="job/clone.ipynb")
    page.locator(".jp-Dialog select").select_option(label="No Kernel")
    page.click(".jp-Dialog .jp-mod-accept")

    expect(edited.output("picker")).to_contain_text("Steps run as ada in development. Accounts: Slack apn_")
    expect(edited.output("composer")).to_contain_text("Event issues-opened: POST /")
    expect(edited.steps("notify")).to_contain_text("external user's")
    expect(edited.steps("run")).to_have_count(4)
    expect(edited.timeline("run")).to_contain_text("Response to the caller: 200")
    expect(edited.output("shape").locator("code.pd-k").first).to_be_visible()
    expect(edited.output("export")).to_contain_text("message/entry.js")
    for cell, heading, picture in (
        ("picker", "External user", "apn_"),
        ("composer", "Test event", "x-github-event: issues"),
    ):
        expect(edited.output(cell).locator(".pd-fallback")).to_contain_text(heading)
        expect(edited.output(cell).locator(".pd-picture")).to_contain_text(picture)
    expect(edited.output("run")).to_contain_text("Save this run as a test: %pdrun --save-test NAME")
    for apology in ("model not found", "Loading widget"):
        expect(page.locator(".jp-Notebook")).not_to_contain_text(apology)
    edited.look("composer", "job-12-clone")
