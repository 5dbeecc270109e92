"""`%%pdstep` and `%%pdworkflow` cells, and `%pdactions`, in a real IPython shell."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from comm.base_comm import CommManager
from IPython.utils.capture import capture_output

from pdkernel.files.notebook import hash_cell, read_output_hash
from tests.actions.checkout import write_checkout
from tests.kit.magics.conftest import CHECK, GREET, Notebook, Run


def test_step_without_an_event_is_registered(run: Run) -> None:
    """Without an event a step cell shows the step's position and how to run the step."""
    shown = run(CHECK)

    assert "Step check is step 1 of 1" in shown
    assert "%pdevent" in shown


def test_step_cell_runs_that_step_alone(notebook: Notebook, run: Run) -> None:
    """With an event a step cell runs its step, on the exports of the steps above, and shows what it printed and exported."""
    run("%pdevent hello")
    above = run(CHECK)

    shown = run(GREET)

    assert notebook.error is None, shown
    assert "checking" in above
    assert "Ada" in above
    assert "Hello, Ada" in shown
    assert "checking" not in shown


def test_comment_above_the_directive_works(notebook: Notebook, run: Run) -> None:
    """A comment line above `%%pdstep` is accepted, and an error's line counts from the cell's start."""
    run("%pdevent hello")

    shown = run("# a remark\n\n%%pdstep bad\ndef handler(pd):\n    return 1 / 0\n")

    assert "line 5 of cell [2]" in shown


def test_error_has_the_number_beside_the_cell(notebook: Notebook, run: Run) -> None:
    """An error is in the cell with the number that JupyterLab shows, also if another cell runs the step."""
    failing = CHECK.replace("    return", "    1 / 0\n    return")
    run("%pdevent hello")
    run("1 + 1")

    alone = run(failing)
    whole = run("%pdrun")

    assert "ZeroDivisionError at line 4 of cell [3]" in alone
    assert "Cell [3], line 4, in handler" in alone
    assert "ZeroDivisionError at line 4 of cell [3]" in whole


def test_an_error_appears_once(notebook: Notebook, run: Run) -> None:
    """The timeline has the error of a step; the error that stops Run All only points to the timeline."""
    run("%pdevent hello")

    shown = run("%%pdstep bad\ndef handler(pd):\n    raise ValueError('once only'[:4])\n")

    drawings = shown.count("✗ error     bad")
    assert len(re.findall(r"^\s*once$", shown, re.MULTILINE)) == shown.count("ValueError at") == drawings
    assert str(notebook.error) == "Step bad failed: see the error above."


def test_a_bad_header_does_not_stop_the_other_steps(notebook: Notebook, run: Run) -> None:
    """After an edit with a mistake, a run does not take the cell's earlier text, and steps that do not need it run."""
    run(CHECK)
    run("%%pdstep other\ndef handler(pd):\n    return 'the other'\n")
    refused = run(CHECK.replace("check", "check --lng x", 1))
    refused_workflow = run("%%pdworkflow\nnme: Work\n")
    run("%pdevent hello")

    shown = run("%pdrun")

    assert "there is no option --lng.\nDid you mean --lang?" in refused
    assert "checking" not in shown
    assert "DirectiveError at line 1 of cell [3]:" in shown
    assert "the other" in shown
    assert "Cell [4]: %%pdworkflow has an unknown key 'nme' (line 2)." in refused_workflow
    assert "unknown key" not in shown
    for message in (refused_workflow, shown):
        assert "Until the error in cell [4] is corrected, steps run with" in message
    assert str(notebook.error) == "Step check failed: see the error above."


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("%%pdstep x\ndef handler(pd):\n    return pd.steps['trigger']['event']['boddy']\n", "body"),
        ("%%pdstep x\ndef handler(pd):\n    got = pd.steps['check']['$return_value']\n    return got['nme']\n", "name"),
        ("%%pdstep x\ndef handler(pd):\n    return pd.steps['che' + 'kc']\n", "check"),
        ("%%pdstep x\ndef handler(pd):\n    return pd.steps['chek']\n", "check"),
        ("%%pdstep x --lang bash --prop 'p={{steps.chek.x}}'\ntrue\n", "check"),
        (GREET.replace("$return_value.name", "$return_value.nmae.first"), "name"),
        ("%pdrun chekc", "check"),
        ("%pdrun --usres ada", "--users"),
    ],
)
def test_an_unknown_name_has_a_suggestion(run: Run, cell: str, meant: str) -> None:
    """Unknown keys of the event and of exports, steps, and options of magics are followed by the near name that exists."""
    run("%pdevent hello")
    run(CHECK)

    assert f"Did you mean {meant}" in run(cell)


def test_a_refused_run_shows_its_error(notebook: Notebook, run: Run) -> None:
    """The timeline of a run that is refused because of a step has the reason."""
    run("%pdevent hello")

    shown = run("%%pdstep bad\ndef handler(pd):\n    return pd.steps['chek']\n")

    assert shown.count("reads steps.chek") == 1
    assert "(cell [2], line 3)" in shown


def test_failed_step_stops_run_all_without_internal_frames(notebook: Notebook, run: Run) -> None:
    """A failed step raises an error in the cell, with only the user's frames and locals."""
    run("%pdevent hello")

    shown = run("%%pdstep bad\ndef handler(pd):\n    count = 0\n    return 1 / count\n")

    assert notebook.error is not None
    assert "ZeroDivisionError" in shown
    assert "count = 0" in shown
    assert "site-packages" not in shown
    assert "interpreter.py" not in shown


def test_name_error_explains_plain_cells(run: Run) -> None:
    """The error for a name of a plain cell explains that steps do not see plain cells."""
    run("%pdevent hello")
    run("helper = 1")

    shown = run("%%pdstep bad\ndef handler(pd):\n    return helper\n")

    assert "NameError" in shown
    assert "plain cells" in shown


def test_header_cell_shows_its_settings(notebook: Notebook, run: Run) -> None:
    """`%%pdworkflow` shows the workflow's name, the trigger's authorization and the response."""
    shown = run("%%pdworkflow\nname: Greetings\ntrigger:\n  type: http\n  response: custom\n")

    assert "Greetings" in shown
    assert notebook.session.workflow.trigger.response == "custom"


def test_first_cell_reports_missing_requirements(run: Run) -> None:
    """In a new project the first cell lists the missing users and variables with commands."""
    shown = run('%%pdstep send --app slack\nimport os\ndef handler(pd):\n    return os.environ["CHANNEL"]\n')

    assert "pdkernel accounts add --external-user ID --app slack" in shown
    assert "pdkernel env set CHANNEL" in shown


def test_requirements_are_reported_once(notebook: Notebook, run: Run) -> None:
    """Only the first cell of a kernel lists what is missing; it does so for the picked user's environment."""
    run("%pduser ada --environment production")
    notebook.session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "a-token-of-a-test"}, external_user_id="ada"
    )
    cell = "%%pdstep send --app slack --no-run\ndef handler(pd):\n    return 1\n"

    first, second = run(cell), run(cell)

    missing = first.partition("This project is missing:")[2]
    assert "--external-user ada --app slack --environment production" in missing
    assert "missing" not in second


def test_requirements_of_test_users(notebook: Notebook, run: Run, tmp_path: Path) -> None:
    """The first cell checks the picked user and the test users of the notebook's `pdkernel.yaml`."""
    (tmp_path / "work.pdkernel.yaml").write_text("test_users: [grace]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PDKERNEL_NOTEBOOK", str(tmp_path / "work.ipynb"))
        run("%pduser ada")

    shown = run("%%pdstep send --app slack --no-run\ndef handler(pd):\n    return 1\n")

    assert "--external-user ada" in shown
    assert "--external-user grace" in shown


def test_a_disabled_step_does_not_run(notebook: Notebook, run: Run) -> None:
    """The cell of a disabled step reports it."""
    run("%pdevent hello")

    shown = run(CHECK.replace("check", "check --disabled", 1))

    assert "Step check is step 1 of 1. It is disabled." in shown
    assert notebook.session.last_execution is None


def test_a_front_end_reports_deleted_cells(notebook: Notebook, run: Run) -> None:
    """The cells that a front end names as deleted are not steps, once another cell runs."""
    metadata: dict[str, object] = {"cellId": "a"}
    notebook.shell.kernel = SimpleNamespace(
        get_parent=lambda: {"metadata": metadata, "content": {}}, comm_manager=CommManager()
    )
    run("%%pdstep one --no-run\ndef handler(pd):\n    return 1\n")
    metadata |= {"cellId": "b", "deletedCells": ["a"]}
    run("%%pdstep two --no-run\ndef handler(pd):\n    return 2\n")

    assert [step.name for step in notebook.session.workflow.steps] == ["two"]


def test_stale_steps_are_drawn_in_their_own_cells(notebook: Notebook, run: Run) -> None:
    """A request of the front end runs the stale steps; the timelines of other steps do not change."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)
    run(CHECK)
    with capture_output() as captured:
        execution = notebook.shell.magics_manager.registry["StepMagics"].run_stale()

    drawn = [str(output.data["text/plain"]) for output in captured.outputs]
    assert execution.status == "success"
    assert any("Hello, Ada" in text for text in drawn)
    assert not any("not run" in text for text in drawn)


def test_an_edit_marks_the_result_at_once(notebook: Notebook, run: Run) -> None:
    """While a step is edited on the screen, its result is marked "edited, not run" and later results are stale."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    edited = notebook.show(CHECK.replace("checking", "again"), GREET)
    undone = notebook.show(CHECK, GREET)

    assert re.search(r"check +.*edited, not run", edited)
    assert re.search(r"greet +.*stale", edited)
    assert "check" in undone
    assert "greet" in undone
    assert "edited, not run" not in undone
    assert "stale" not in undone


def test_a_run_has_the_code_on_the_screen(notebook: Notebook, run: Run) -> None:
    """`%pdrun` runs the edited text of a cell that has not run, and the result is then not marked."""
    run("%pdevent hello")
    run(CHECK)
    notebook.show(CHECK.replace("checking", "from the screen"))

    shown = run("%pdrun")

    assert "from the screen" in shown
    assert "edited, not run" not in shown


def test_stale_steps_that_were_not_shown_are_named(run: Run) -> None:
    """Stale steps without a displayed result are named."""
    run(CHECK.replace("check", "check --no-run", 1))
    run(GREET.replace("--lang node", "--lang node --no-run"))
    run("%pdevent hello")
    run("%pdrun")

    shown = run(CHECK)

    assert "Stale: greet" in shown


def test_pinned_step_cell_does_not_run(run: Run) -> None:
    """The cell of a pinned step registers the step and reports the pin."""
    run("%pdevent hello")
    run(CHECK)
    run("%pdpin check")

    shown = run(CHECK)

    assert "pinned" in shown
    assert "checking" not in shown


def test_outputs_carry_the_hash_of_their_cell(notebook: Notebook) -> None:
    """The output of a step names the text of the cell that made it, whether the step ran or was only registered."""
    with capture_output() as registered:
        notebook.shell.run_cell(CHECK, store_history=True)
    notebook.run("%pdevent hello")
    with capture_output() as ran:
        notebook.shell.run_cell(CHECK, store_history=True)

    marks = [{read_output_hash({"metadata": each.metadata}) for each in some.outputs} for some in (registered, ran)]
    assert marks == [{hash_cell(CHECK)}, {hash_cell(CHECK)}]


def test_stale_steps_run_again(notebook: Notebook, run: Run) -> None:
    """`%pdrun --stale` runs the steps whose inputs have changed, and no other."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)
    run(CHECK)

    run("%pdrun --stale")

    assert notebook.session.last_execution is not None
    assert [step.name for step in notebook.session.last_execution.steps if step.status == "success"] == ["greet"]
    assert "No step is stale." in run("%pdrun --stale")


PUT = "%%pdstep put --uses depot-put-thing@0.1.2 --no-run\nthing: box\n"


@pytest.fixture
def checkout(notebook: Notebook, tmp_path: Path) -> None:
    """The notebook's project takes actions from a checkout."""
    write_checkout(tmp_path / "checkout")
    notebook.session.catalog.settings.set_sources(["checkout"], base=tmp_path)


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "Actions"),
        ("thing --app depot", "depot-put-thing@0.1.2  Put a Thing"),
        ("zebra", "No action matches"),
        ("depot-put-thin", "depot-put-thing@0.1.2"),
        ("--help", "search for, or KEY[@VERSION] to use that"),
    ],
)
def test_actions_are_searched(notebook: Notebook, run: Run, words: str, expected: str) -> None:
    """Words and an app select actions; an unknown key names the most similar ones; no cell is written."""
    assert expected in run(f"%pdactions {words}")
    assert not hasattr(notebook.shell, "rl_next_input")


@pytest.mark.usefixtures("checkout")
def test_key_shows_props_and_writes_the_cell(notebook: Notebook, run: Run) -> None:
    """A key shows the action's props and writes the next cell, which uses the action."""
    shown = run("%pdactions depot-put-thing")

    cell = notebook.shell.rl_next_input
    assert "thing: string, required" in shown
    assert cell.startswith("%%pdstep put_thing --uses depot-put-thing@0.1.2 --app depot\n")
    assert "# string, required: Thing. What is put there\nthing:" in cell


@pytest.mark.usefixtures("checkout")
def test_a_second_step_gets_a_number(notebook: Notebook, run: Run) -> None:
    """A second step of the same action gets a number."""
    run(PUT.replace("%%pdstep put ", "%%pdstep put_thing "))
    run("%pdactions depot-put-thing")

    assert notebook.shell.rl_next_input.startswith("%%pdstep put_thing_1 ")
    run("%pdactions depot-put-thing --name other")
    assert notebook.shell.rl_next_input.startswith("%%pdstep other ")
    assert "'2nd' is not a valid step name" in run("%pdactions depot-put-thing --name 2nd")


@pytest.mark.usefixtures("checkout")
def test_options(notebook: Notebook, run: Run) -> None:
    """With the user's account the options are listed and paged; without a user the reason is shown."""
    run(PUT)
    without_user = run("%pdactions --options put shelf")
    notebook.session.directory.add_account(app="depot", credentials={"api_key": "k-012345"}, external_user_id="ada")
    run("%pduser ada")

    assert "no external user is chosen" in without_user
    assert '"s00"  Shelf 00 of 345' in run("%pdactions --options put shelf")
    assert '"s12"' in run("%pdactions --options put shelf --page 1")
    assert "--page is below 0" in run("%pdactions --options put shelf --page -1")


@pytest.mark.usefixtures("checkout")
def test_form(run: Run) -> None:
    """The saved form of a step names its cell, for a reader without a kernel."""
    run(PUT)

    shown = run("%pdactions --form put")

    assert "%pdactions --form put" in shown
    assert "thing: box" in shown


@pytest.mark.usefixtures("checkout")
def test_options_are_searched_and_paged(notebook: Notebook, run: Run, tmp_path: Path) -> None:
    """`--query` searches the options, and `--page` loads a page with the context of the page before."""
    place = tmp_path / "checkout" / "components" / "depot" / "actions" / "pages" / "pages.mjs"
    place.parent.mkdir()
    place.write_text(
        'export default { key: "depot-pages", version: "0.0.1", type: "action", props: { at: { type: "string",'
        " async options({ prevContext, query }) { const from = prevContext?.next ?? 0;"
        " return { options: [`${query ?? 'all'} from ${from}`], context: { next: from + 10 } }; } } }, async run() {} };"
    )
    run("%%pdstep pages --uses depot-pages@0.0.1 --no-run\n{}\n")

    assert "all from 0" in run("%pdactions --options pages at")
    assert "all from 20" in run("%pdactions --options pages at --page 2")
    assert "odd from 0" in run("%pdactions --options pages at --query odd")


TRIAGE = "%%pdif triage\nurgent: steps.check.$return_value.amount > 5\nelse:"


def test_a_block_shows_the_outline(notebook: Notebook, run: Run) -> None:
    """A block's cell registers the block and shows where it is in the workflow, with the steps of its branches as they come."""
    run(CHECK)
    first = run(TRIAGE)
    run("%%pdstep page --in triage.urgent --lang node --no-run\nexport default {}")

    again = run(TRIAGE)

    assert notebook.error is None, again
    assert "▸ triage     if" in first
    assert "urgent:  steps.check.$return_value.amount > 5 (no steps)" in first
    assert re.search(r"urgent: +steps\.check\.\$return_value\.amount > 5\n +page +Node\.js\n", again)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%%pdif triage\nurgent", "The body of the block triage is not its branches. Write BRANCH: CONDITION"),
        ("%%pdif triage --in other.x\nurgent: 1", "Block triage is in other.x, and the workflow has no block 'other'."),
        ("%%pdif triage\nurgent: 1 +", "Block triage (cell [2], line 2): urgent: {{1 +}} does not contain exactly one"),
        (
            "%%pdif triage\nurgent: steps.chek.x",
            "Block triage (cell [2], line 2) reads steps.chek, and the workflow has no such",
        ),
        ("%%pdswitch triage\nurgent: 1", "The block triage has no expression to compare with its cases."),
        ("%%pdparallel triage --on x\nurgent: 1", "%%pdparallel: there is no option --on."),
    ],
)
def test_a_block_with_an_error(notebook: Notebook, run: Run, cell: str, message: str) -> None:
    """The error of a block's cell names what is wrong and where; other cells of the notebook stay usable."""
    run(CHECK)

    shown = run(cell)

    assert notebook.error is not None
    assert message in " ".join(shown.split())
    assert "Step other is step 2 of 2." in run("%%pdstep other --no-run\ndef handler(pd): pass")


def test_a_renamed_block_leaves_the_workflow(notebook: Notebook, run: Run) -> None:
    """A block whose cell has another name is another block, and the steps of the old one say that it is gone."""
    page = "%%pdstep page --in triage.urgent\ndef handler(pd): pass"
    notebook.show(TRIAGE, page)
    before = [entry.name for entry in notebook.session.workflow.all_entries]

    notebook.show(TRIAGE.replace("triage", "sort"), page)

    workflow = notebook.session.workflow
    assert (before, [block.name for block in workflow.blocks]) == (["triage", "page"], ["sort"])
    assert "no block 'triage'" in str(workflow.step("page").problem)
