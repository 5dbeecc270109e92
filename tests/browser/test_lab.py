"""The kernel and the extension in a real JupyterLab."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

from playwright.sync_api import expect

from pdkernel.cli.new import write_notebook_template
from tests.browser.harness import LabPage

LANGUAGE_CELLS = {
    "python": "%%pdstep check\ndef handler(pd):\n    return {'title': 'x'}  # a comment",
    "javascript": "%%pdstep build --lang node\nexport default defineComponent({\n  async run({ steps, $ }) {\n"
    "    return `Hello ${steps.trigger.event.body.title}`; // a comment\n  },\n});",
    "shell": '# What it does\n\n%%pdstep list --lang=bash\nfor x in a b; do echo "$x"; done  # a comment',
    "go": '%%pdstep count --lang go\npackage main\n\nfunc main() {\n\tprintln("x") // a comment\n}',
    "yaml": "%%pdstep post --uses slack-send-message@0.0.20 --app slack\nchannel: general\ntext: Hello {{ steps.check.title }}",
}
HEADER = "%%pdworkflow\nname: Colours\ntrigger:\n  type: http"

PROVIDER = (
    "from pdkernel.kit.magics.completion import register_matchers\n"
    "register_matchers(get_ipython(), lambda: {'trigger': {'event': {'body': {'action': 'opened', 'issue': {}}, "
    "'headers': {'host': 'x', 'x-github-event': 'issues'}}}})"
)


def test_launcher_has_the_tile(page: LabPage) -> None:
    """The launcher offers "Pipedream workflow" with its icon, as notebook and as console."""
    page.open_launcher()

    tiles = page.page.locator('.jp-LauncherCard[title="Pipedream workflow (pdkernel)"]')

    expect(tiles).to_have_count(2)
    expect(tiles.first.locator("img")).to_have_js_property("complete", value=True)
    assert tiles.first.locator("img").evaluate("image => image.naturalWidth") > 0
    page.screenshot("launcher")


def test_cells_have_their_language(page: LabPage) -> None:
    """Each step's cell is highlighted in its language, with or without comments above the directive; only an edit changes the file."""
    cells = [HEADER, *LANGUAGE_CELLS.values(), "x = 1", "%%pdif triage\nurgent: !steps.check.title\nelse:"]
    page.new_notebook(cells, name="colours.ipynb")

    for index, language in enumerate(["yaml", *LANGUAGE_CELLS, "python", "yaml"]):
        expect(page.editor(index)).to_have_attribute("data-language", language)
    expect(page.editor(2).locator(".cm-line", has_text="export default").locator("span").first).to_be_visible()
    page.screenshot("colours")
    assert page.page.evaluate("jupyterapp.shell.currentWidget.context.model.dirty") is False

    page.type_at_end(2, "//")
    saved = json.loads(page.save().read_text())["cells"]

    cells[2] += "//"
    assert ["".join(cell["source"]) for cell in saved] == cells
    assert [cell["metadata"] for cell in saved if cell["metadata"] not in ({}, {"trusted": True})] == []


def test_language_survives_a_restart_and_follows_the_text(page: LabPage) -> None:
    """The highlighting stays when the kernel restarts and changes with the directive."""
    page.new_notebook(["%%pdstep a --lang node\nlet x"], name="change.ipynb", saved_before=False)
    expect(page.editor(0)).to_have_attribute("data-language", "javascript")

    page.menu("Kernel", "Restart Kernel…")
    page.page.click(".jp-Dialog .jp-mod-accept")
    page.wait_idle()
    expect(page.editor(0)).to_have_attribute("data-language", "javascript")

    page.edit_cell(0, "%%pdstep a --lang bash\necho")
    expect(page.editor(0)).to_have_attribute("data-language", "shell")
    page.edit_cell(0, "print(1)")
    expect(page.editor(0)).to_have_attribute("data-language", "python")


def test_completion_offers_paths_of_the_event(page: LabPage) -> None:
    """Tab offers the paths of the chosen event: in Node.js with unusual keys in brackets, in Python with the closing bracket."""
    cells = [PROVIDER, "%%pdstep a --lang node\nreturn steps.trigger.event.", "%%pdstep b\n"]
    page.new_notebook(cells, name="complete.ipynb")
    page.run_cell(0)

    page.type_at_end(1, "body.")
    assert page.complete() == ["action", "issue"]
    page.screenshot("completion")
    page.page.keyboard.press("Escape")

    page.edit_cell(1, "%%pdstep a --lang node\nreturn steps.trigger.event.headers.")
    page.type_at_end(1, "x")
    assert page.complete() == ['["x-github-event"]']
    page.page.keyboard.press("Enter")
    expect(page.editor(1)).to_contain_text('return steps.trigger.event.headers["x-github-event"]')

    page.type_at_end(2, 'pd.steps["trigger"]["event"]["bo')
    assert page.complete() == ['body"]']
    page.page.keyboard.press("Enter")
    expect(page.editor(2)).to_contain_text('pd.steps["trigger"]["event"]["body"]')


def test_plain_python_kernel_does_the_same(page: LabPage) -> None:
    """`%load_ext pdkernel` in a `python3` kernel prints nothing and has the same effect."""
    cells = ["%load_ext pdkernel", PROVIDER, "%%pdstep a --lang node\nsteps.trigger.event.body."]
    page.new_notebook(cells, name="python3.ipynb", kernel="python3")
    page.run_cell(0)
    page.run_cell(1)

    page.type_at_end(2, "a")

    assert page.complete() == ["action"]
    expect(page.output(0)).to_have_text("")
    expect(page.editor(2)).to_have_attribute("data-language", "javascript")


SLOW = """%%pdstep slow --timeout 600
import sys, time

def handler(pd):
    for number in range(30):
        print("line", number)
    print("to stderr", file=sys.stderr)
    time.sleep(600)"""


def test_running_step_is_watched_and_stopped(page: LabPage) -> None:
    """A running step shows a clock and its newest output; Stop, by click or by keyboard, cancels it, also while it is drawn again."""
    page.new_notebook(["%pdevent slow.json", SLOW], name="slow.ipynb")
    (page.lab.root / "slow" / "slow.json").write_text('{"body": {}}')
    page.run_cell(0)
    timeline = page.output(1).locator(".pd-timeline")
    stop = timeline.get_by_role("button", name="Stop the run")

    def click_slowly() -> None:
        stop.hover()
        stop.evaluate("node => { window.pressed = node; }")
        page.page.mouse.down()
        page.page.wait_for_function("!window.pressed.isConnected")
        page.page.mouse.up()

    presses: tuple[Callable[[], None], ...] = (stop.click, partial(stop.press, "Enter"), click_slowly)
    for press in presses:
        page.editor(1).click()
        page.page.keyboard.press("Control+Enter")
        expect(timeline).to_contain_text(re.compile(r"running\s*slow.*\d s"))
        expect(timeline).to_contain_text("line 29")
        expect(timeline).to_contain_text("to stderr")
        expect(timeline).not_to_contain_text("line 3 ")
        page.screenshot("running")

        press()

        page.wait_idle()
        expect(timeline).to_contain_text("cancelled")
        expect(stop).to_have_count(0)
        page.screenshot("stopped")


def test_stop_of_a_saved_timeline_stops_no_other_cell(page: LabPage) -> None:
    """A Stop button that was saved while its run went on interrupts no other cell; a message has the menu that does."""
    saved = '<div class="pd-timeline"><code class="pd-stop" title="Stop the run"></code></div>'
    wait = "import time\nfrom pathlib import Path\nwhile not Path('go').exists(): time.sleep(0.1)\nprint('was not stopped')"
    page.new_notebook([f"from IPython.display import HTML\nHTML('{saved}')", wait], name="saved_stop.ipynb")
    page.run_cell(0)
    page.editor(1).click()
    page.page.keyboard.press("Control+Enter")
    expect(page.cell(1).locator(".jp-InputPrompt")).to_contain_text("*")

    page.output(0).get_by_role("button", name="Stop the run").click()

    expect(page.page.get_by_text("nothing was stopped")).to_be_visible()
    (page.lab.root / "saved_stop" / "go").touch()
    page.wait_idle()
    expect(page.output(1)).to_have_text("was not stopped")


STEPS = (
    "from pdkernel.kit.magics.notebook_context import get_session\n"
    "print([step.name for step in get_session(get_ipython()).workflow.steps])"
)


def test_the_screen_is_the_draft(page: LabPage) -> None:
    """The kernel has edited, added and removed cells that were neither run nor saved, also after Lab is loaded again."""
    page.new_notebook(["pass", "%%pdstep one\n", STEPS, "%%pdstep two\n"], name="screen.ipynb")
    page.run_cell(2)
    expect(page.output(2)).to_have_text("['one', 'two']")

    page.edit_cell(1, "%%pdstep first --lang node\n")
    page.edit_cell(3, "# two is not a step now")
    page.run_cell(2)
    expect(page.output(2)).to_have_text("['first']")
    page.save()
    page.open_notebook("screen/screen.ipynb", reload=True)
    page.wait_until_shared()
    page.edit_cell(3, "%%pdstep last\n")
    page.run_cell(2)

    expect(page.output(2)).to_have_text("['first', 'last']")


def test_a_kernel_that_loads_pdkernel_again_has_the_screen(page: LabPage) -> None:
    """If a page finds a kernel from which pdkernel was removed, and loads pdkernel, the kernel has edits that were not run."""
    load, unload = "%load_ext pdkernel", "%unload_ext pdkernel"
    page.new_notebook([load, unload, "%%pdstep one\n", STEPS], name="again.ipynb", kernel="python3")
    page.run_cell(0)
    page.run_cell(1)
    page.save()
    page.open_notebook("again/again.ipynb", reload=True)
    page.run_cell(0)
    page.edit_cell(2, "%%pdstep first\n")

    page.run_cell(3)

    expect(page.output(3)).to_have_text("['first']")


def test_a_page_that_leaves_takes_its_cells_along(page: LabPage) -> None:
    """After a page has left, the kernel reads the notebook's file again, not the cells that the page has shown last."""
    page.new_notebook(["%load_ext pdkernel", "%%pdstep one\n", STEPS], name="left.ipynb", kernel="python3")
    page.run_cell(0)
    page.edit_cell(1, "%%pdstep first\n")
    page.run_cell(2)
    expect(page.output(2)).to_have_text("['first']")

    page.page.evaluate("window.dispatchEvent(new Event('pagehide'))")
    page.run_cell(2)

    expect(page.output(2)).to_have_text("['one']")


def test_the_mark_of_an_edited_step_runs_it(page: LabPage) -> None:
    """An edit marks the step's result and the results below at once; a click on a mark, or Enter, runs them again."""
    event = 'open("event.json", "w").write(\'{"body": {}}\');\n%pdevent event.json'
    one, two = (f"%%pdstep {name}\ndef handler(pd):\n    return 1" for name in ("one", "two"))
    page.new_notebook([event, one, two], name="stale.ipynb")
    for index in range(3):
        page.run_cell(index)
    expect(page.output(2).locator(".pd-timeline")).to_contain_text("two")

    page.type_at_end(1, "0")
    mark = page.output(1).locator(".pd-stale")
    expect(mark).to_have_text("edited, not run")
    expect(page.output(2).locator(".pd-stale")).to_have_text("stale")
    page.screenshot("edited")
    mark.click()

    expect(page.page.locator(".pd-stale")).to_have_count(0)
    expect(page.output(1)).to_contain_text("10")

    page.type_at_end(1, "0")
    mark.focus()
    page.page.keyboard.press("Enter")
    expect(page.page.locator(".pd-stale")).to_have_count(0)
    expect(page.output(1)).to_contain_text("100")


def test_a_block_gets_steps_and_another_name(page: LabPage) -> None:
    """In a block's outline, a click adds a step below the branch's last cell, and Rename changes the block in all cells that name it."""
    cells = [
        "%%pdif triage\nurgent: 'true'\nlater: 'false'\nelse:",
        "%%pdstep page --in triage.urgent\ndef handler(pd):\n    return 1",
        '%%pdstep after\ndef handler(pd):\n    return pd.steps["triage"]["$return_value"]',
    ]
    page.new_notebook(cells, name="block.ipynb")
    page.run_cell(0)
    page.screenshot("block")

    page.output(0).get_by_role("button", name="Add a step to triage.later").click()
    expect(page.editor(2)).to_contain_text("%%pdstep later_step --in triage.later")
    rename = page.output(0).get_by_role("button", name="Rename the block triage")
    rename.focus()
    page.page.keyboard.press("Enter")
    page.page.locator(".jp-Dialog input").fill("sorted")
    page.page.locator(".jp-Dialog .jp-mod-accept").click()

    expect(page.output(0).get_by_role("button", name="Rename the block sorted")).to_be_visible()
    expect(page.output(0)).to_contain_text("later_step")
    page.screenshot("block renamed")
    saved = ["".join(cell["source"]) for cell in json.loads(page.save().read_text())["cells"]]
    assert [text.split("\n")[0] for text in saved] == [
        "%%pdif sorted",
        "%%pdstep page --in sorted.urgent",
        "%%pdstep later_step --in sorted.later",
        "%%pdstep after",
    ]
    assert 'pd.steps["sorted"]' in saved[3]


def test_dollars_are_no_mathematics(page: LabPage) -> None:
    """Two expressions of a condition are shown as they are written, in a page that typesets mathematics in other outputs."""
    condition = "steps.trigger.event.body.$a === steps.trigger.event.body.$b"
    mathematics = 'from IPython.display import HTML\nHTML("<p>$x$ and $y$</p>")'
    page.new_notebook([f"%%pdif triage\nboth: {condition}", mathematics], name="dollars.ipynb")

    page.run_cell(0)
    page.run_cell(1)

    expect(page.output(1).locator("mjx-container")).to_have_count(2)
    expect(page.output(0)).to_contain_text(condition)


def test_running_and_saving_changes_no_metadata(page: LabPage) -> None:
    """A notebook that pdkernel wrote has the same metadata, cells and ids after Run All and Save: `nbdime` shows outputs only."""
    path, _ = write_notebook_template(page.lab.root / "churn" / "work.ipynb", template="new.ipynb")
    before = json.loads(path.read_text())
    page.open_notebook("churn/work.ipynb")
    assert page.page.evaluate("jupyterapp.shell.currentWidget.context.model.dirty") is False

    page.run_all()
    page.save()

    after = json.loads(path.read_text())
    assert any(cell.get("outputs") for cell in after["cells"])
    for cell in (*before["cells"], *after["cells"]):
        cell.pop("outputs", None)
        cell.pop("execution_count", None)
    assert after == before


VALUES = {
    "make": """%%pdstep make --prop title={{steps.trigger.event.body.title}} --prop 'user={{steps.trigger.event.body.user}}' --lang node
export default defineComponent({
  props: { title: { type: "string" }, user: { type: "object" } },
  async run() { return { issue: { title: this.title, tags: ["a b", "c"] }, rows: [{ id: 1, name: "one" }, { id: 2, name: "two" }] }; },
});""",
    "read": "%%pdstep read\ndef handler(pd):\n    return pd.steps['make']['$return_value']['rows']",
    "list": "%%pdstep list --lang bash\necho done",
}
TAG = 'pd.steps["make"]["$return_value"]["issue"]["tags"][0]'
NAME = """jq -r '.read["$return_value"][1].name' "$PIPEDREAM_STEPS\""""


def test_values_of_a_step_are_copied_for_the_step_below(page: LabPage) -> None:
    """A step shows its input beside its output; a part of the output copies its path in the language of the step below."""
    page.new_notebook(["%pdevent values.json", *VALUES.values(), "%pdrun"], name="values.ipynb")
    (page.lab.root / "values" / "values.json").write_text('{"body": {"title": "Typo", "user": {"login": "grace"}}}')
    page.run_all()
    make, read = page.output(1).locator(".pd-timeline"), page.output(2).locator(".pd-timeline")

    expect(make).to_contain_text(re.compile(r"input\s*title\s*\"Typo\".*input\s*user.*export", re.DOTALL))
    make.locator("details", has_text="export").locator("summary").first.click(position={"x": 4, "y": 8})
    part = make.get_by_title(f"Copy {TAG}").first
    part.click()
    page.expect_copied(TAG)
    page.screenshot("values")

    read.locator("details", has_text="export").locator("summary").first.click(position={"x": 4, "y": 8})
    read.get_by_text("as a table").click()
    cell = read.locator("td code.pd-k", has_text="two")
    cell.focus()
    page.page.keyboard.press("Enter")
    page.expect_copied(NAME)
    page.screenshot("values-table")
