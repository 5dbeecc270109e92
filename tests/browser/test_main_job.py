"""
The whole job, as a person does it in JupyterLab on the quickstart, from an empty project to exported files.

It is done once, by the fixture `job`, which notes what could be seen on the way; each test states one fact of it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.harness import LabPage
from tests.lab_files import CHECKOUT

TOKENS = {"ada": "xoxb-token-of-ada-0001", "grace": "xoxb-token-of-grace-0002"}
QUICKSTART = CHECKOUT / "notebooks" / "01_quickstart.ipynb"
CELLS = {cell["id"]: index for index, cell in enumerate(json.loads(QUICKSTART.read_text(encoding="utf-8"))["cells"])}


@dataclass
class Job:
    """The job under way, and what was seen of it: text by name."""

    page: LabPage
    folder: Path
    seen: dict[str, str] = field(default_factory=dict)

    def output(self, cell: str) -> Locator:
        """The output of a cell of the quickstart."""
        return self.page.output(CELLS[cell])

    def note(self, name: str, place: Locator) -> None:
        """Keep what can be read there, and a picture."""
        self.seen[name] = place.inner_text()
        self.page.screenshot(f"job-{len(self.seen):02d}-{name}")

    def run(self, cell: str) -> None:
        """Run a cell of the quickstart."""
        self.page.run_cell(CELLS[cell])

    def do(self) -> None:
        """Do the whole job."""
        self.page.open_notebook("job/01_quickstart.ipynb", reload=True)
        self.page.run_all()
        self.note("no account yet", self.output("notify"))
        self.connect("ada")
        self.page.run_all()
        self.note("steps one by one", self.output("notify"))
        self.send()
        self.wrong_body()
        self.run("run")
        self.note("run again", self.output("run"))
        self.another_user()
        self.copy_paths()
        self.edit_a_step()
        self.pin()
        self.export()
        self.page.save()

    def connect(self, user: str) -> None:
        """Type a Slack token for *user* into the picker and connect it."""
        picker = self.output("picker")
        secret = picker.locator("input[type=password]").first
        secret.fill(TOKENS[user])
        self.note(f"typed for {user}", picker)
        picker.get_by_role("button", name=re.compile("^Connect")).first.click()
        expect(picker.get_by_text(re.compile(r"apn_\w+")).first).to_be_visible()
        self.seen[f"field after connecting {user}"] = "".join(
            each.input_value() for each in picker.locator("input[type=password]").all()
        )
        self.note(f"connected {user}", picker)

    def send(self) -> None:
        """Send the event from the composer and wait for the timeline."""
        composer = self.output("composer")
        self.note("composer", composer)
        composer.get_by_role("button", name="Send", exact=True).click()
        expect(composer.get_by_text("made by the workflow").first).to_be_visible(timeout=30_000)
        self.note("sent", composer)

    def wrong_body(self) -> None:
        """Type a body that is not JSON, look, and put it right again."""
        composer = self.output("composer")
        body = composer.locator("textarea").last
        right = body.input_value()
        body.fill('{\n  "action": \n}')
        expect(composer.get_by_text(re.compile("line 3, column 1"))).to_be_visible()
        self.note("wrong body", composer)
        self.seen["send while wrong"] = str(composer.get_by_role("button", name="Send", exact=True).is_enabled())
        body.fill(right)

    def another_user(self) -> None:
        """Pick grace, who has no account, connect one for her, and send as her."""
        picker = self.output("picker")
        picker.locator(".widget-text").filter(has_text="new user").locator("input").fill("grace")
        picker.get_by_role("button", name="Use", exact=True).click()
        expect(picker.get_by_text(re.compile("Steps run as grace")).first).to_be_visible()
        self.connect("grace")
        self.run("run")
        self.note("run as grace", self.output("run"))

    def copy_paths(self) -> None:
        """Click the title's path as Node.js writes it and as Python does."""
        shape = self.output("shape")
        for summary in ("body", "issue"):
            place = (
                shape.locator("details:not([open]) > summary").filter(has_text=re.compile(rf"^\s*{summary}\b")).first
            )
            if place.count():
                place.click(position={"x": 3, "y": 8})
        for name, path in (
            ("node", "steps.trigger.event.body.issue.title"),
            ("python", 'pd.steps["trigger"]["event"]["body"]["issue"]["title"]'),
        ):
            shape.locator(f"code.pd-k[title='Copy {path}']").first.click()
            self.page.page.wait_for_function(
                "path => navigator.clipboard.readText().then(text => text === path)", arg=path
            )
            self.seen[f"copied for {name}"] = self.page.clipboard()
        self.note("shape", shape)

    def edit_a_step(self) -> None:
        """Change the message and run that cell alone."""
        cell = self.page.editor(CELLS["message"])
        text = "\n".join(cell.locator(".cm-line").all_inner_texts())
        self.page.edit_cell(CELLS["message"], text.replace("New issue in", "Please look at"))
        self.run("message")
        self.note("edited", self.output("message"))
        self.note("below", self.output("route"))

    def pin(self) -> None:
        """Pin a step in a cell of its own and run it all."""
        self.page.edit_cell(CELLS["run"], "%pdpin check")
        self.run("run")
        self.note("pin", self.output("run"))
        self.page.edit_cell(CELLS["run"], "%pdrun")
        self.run("run")
        self.note("run with a pin", self.output("run"))

    def export(self) -> None:
        """Export twice, the second time with a step changed."""
        self.run("export")
        self.note("exported again", self.output("export"))


@pytest.fixture(scope="module")
def job(lab_page: LabPage) -> Iterator[Job]:
    """The whole job, done."""
    folder = lab_page.lab.root / "job"
    shutil.copytree(
        CHECKOUT / "notebooks", folder, ignore=shutil.ignore_patterns("exported", ".pdkernel", ".ipynb_checkpoints")
    )
    done = Job(lab_page, folder)
    done.do()
    yield done
    lab_page.close_all()
    lab_page.lab.end_sessions()


def test_account_that_is_missing_is_said(job: Job) -> None:
    """Without an account the last step stops, in the platform's words, and says what to do."""
    assert "Pipedream Connect Error: No matching external user ID: ada in development" in job.seen["no account yet"]
    assert "with %pduser" in job.seen["no account yet"]


def test_account_is_connected_in_the_picker(job: Job) -> None:
    """Typing a token and pressing Connect makes the external user and their account; the field is empty after."""
    assert "apn_" in job.seen["connected ada"]
    assert job.seen["field after connecting ada"] == ""


def test_last_step_runs_with_the_account(job: Job) -> None:
    """The step then sends with that account, and the stand-in shows what the user would have received."""
    assert "external user's" in job.seen["steps one by one"]
    assert "Slack message to #bugs" in job.seen["steps one by one"]


def test_headers_of_the_picker_stand_in_the_composer(job: Job) -> None:
    """The two headers are filled in from the picker and visible."""
    assert "x-pd-environment" in job.seen["composer"]
    assert "x-pd-external-user-id" in job.seen["composer"]


def test_sent_event_runs_every_step(job: Job) -> None:
    """Send runs the workflow and shows four steps, their languages and the response."""
    for word in ("check", "message", "route", "notify", "Python", "Node.js", "Bash", "200, made by the workflow"):
        assert word in job.seen["sent"]


def test_message_is_not_sent_twice(job: Job) -> None:
    """Run All followed by Send does not post twice, and says so."""
    assert re.search(r"NOT SENT \(same as \d\d:\d\d\)", job.seen["sent"])
    assert re.search(r"NOT SENT \(same as \d\d:\d\d\)", job.seen["run again"])


def test_wrong_body_is_said_while_typing(job: Job) -> None:
    """A body that is not JSON is said with line and column, and cannot be sent."""
    assert "line 3, column 1" in job.seen["wrong body"]
    assert job.seen["send while wrong"] == "False"


def test_second_user_has_her_own_account(job: Job) -> None:
    """The same event for another external user is another message, with her account."""
    assert "external user grace" in job.seen["run as grace"]
    assert "NOT SENT (same as" not in job.seen["run as grace"]


def test_paths_are_copied_as_either_language_writes_them(job: Job) -> None:
    """A click copies the title's path for Node.js or for Python."""
    assert job.seen["copied for node"] == "steps.trigger.event.body.issue.title"
    assert job.seen["copied for python"] == 'pd.steps["trigger"]["event"]["body"]["issue"]["title"]'


def test_edited_step_runs_alone(job: Job) -> None:
    """Running an edited cell runs that step only."""
    assert "Please look at" in job.seen["edited"]
    assert "check" not in job.seen["edited"]


def test_steps_below_are_marked_stale(job: Job) -> None:
    """The steps below the edited one are marked stale where they stand."""
    assert "stale" in job.seen["below"]


def test_pinned_step_is_marked(job: Job) -> None:
    """A pinned step does not run and says that it is pinned."""
    assert "Export and serving ignore pins" in job.seen["pin"]
    assert "pinned" in job.seen["run with a pin"]


def test_folder_is_exported(job: Job) -> None:
    """The files are on disk, the second export shows what changed, and the checklist says what Git cannot carry."""
    folder = job.folder / "exported" / "open-issue-to-slack"

    assert "Please look at" in (folder / "message" / "entry.js").read_text(encoding="utf-8")
    assert "1 changed, 5 unchanged" in job.seen["exported again"]
    assert "Pins are not exported" in job.seen["exported again"]


def test_no_token_is_in_the_saved_notebook(job: Job) -> None:
    """The saved notebook holds neither user's token."""
    text = (job.folder / "01_quickstart.ipynb").read_text(encoding="utf-8")

    assert "Slack message to #bugs" in text
    assert not [user for user, token in TOKENS.items() if token in text]


def test_nothing_left_the_machine(job: Job) -> None:
    """The page asked for nothing outside of this Lab."""
    assert job.page.external == []
