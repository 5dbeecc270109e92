"""Runs beside the cells of a notebook in a real JupyterLab: requests to the served draft, and a paused run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.harness import LabPage

FOLDER = "background"
HEADER = "%%pdworkflow\nname: Background\ntrigger:\n  type: http\n"
STEP = """%%pdstep wait --no-run
def handler(pd):
    body = pd.steps["trigger"]["event"]["body"]
    if body.get("pause"):
        pd.flow.suspend(3600_000)
    return body["name"]
"""
CELLS = ("%load_ext pdkernel", HEADER, STEP, "%pdevent pause.json", "%pdrun", "%pdserve")
RUN, SERVE = 4, 5


@pytest.fixture(scope="module")
def ran(lab_page: LabPage) -> Iterator[LabPage]:
    """A notebook with a paused run, whose draft is served."""
    lab_page.lab.write_notebook(f"{FOLDER}/work.ipynb", CELLS)
    (lab_page.lab.root / FOLDER / "pause.json").write_text('{"body": {"pause": true, "name": "x"}}')
    with lab_page.alone(f"{FOLDER}/work.ipynb"):
        lab_page.run_all()
        yield lab_page


def test_a_paused_run_is_resumed_by_its_button(ran: LabPage) -> None:
    """The paused run of a cell has buttons; the typed data resumes it, its timeline ends, and the buttons are gone."""
    output = ran.output(RUN)
    expect(output).to_contain_text("‖ paused")
    ran.screenshot("background-paused")
    output.get_by_label("$resume_data").fill('{"approved": true, "note": "by hand"}')
    output.get_by_role("button", name="Resume now").click()

    expect(output).to_contain_text('"note": "by hand"')
    expect(output).to_contain_text("✓ success")
    expect(output.get_by_role("button", name="Resume now")).to_be_hidden()


def test_each_request_has_its_own_button(ran: LabPage) -> None:
    """The serving cell lists its requests, logged in the terminal only; a click on the button of an older one makes its event the test event."""
    output = ran.output(SERVE)
    url = re.search(r"http://127\.0\.0\.1:\d+/\w+", output.inner_text())
    assert url is not None
    for user, body in (("ada", {"name": "a"}), ("grace", {})):
        headers = {"x-pd-external-user-id": user, "x-pd-environment": "development"}
        httpx.post(url[0], json=body, headers=headers, timeout=60)
    expect(output).to_contain_text(re.compile(r"as ada\s+✓ success.*as grace\s+✗ error", re.DOTALL))
    buttons = output.get_by_role("button", name=re.compile("POST . as (ada|grace)$"))
    expect(buttons).to_have_count(2)

    buttons.first.click()

    expect(output).to_contain_text(re.compile(r"The test event is now request \w{6}\. As a line: %pdserve use \w{27}"))
    ran.screenshot("background-used")
    saved = ran.save().read_text(encoding="utf-8")
    log = re.compile(r"POST /\S* 200")
    assert "Use as the test event: %pdserve use RUN" in saved
    assert log.search(saved) is None
    assert log.search((ran.lab.folder / "lab.log").read_text(encoding="utf-8"))
