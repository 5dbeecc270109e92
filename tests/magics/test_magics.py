"""The magics, cell by cell, in a real IPython shell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.magics.conftest import Notebook, Run

CHECK = '%%pdstep check\ndef handler(pd):\n    print("checking")\n    return {"name": pd.steps["trigger"]["event"]["body"]["name"]}\n'
GREET = "%%pdstep greet --lang node\nexport default defineComponent({\n  async run({ steps }) {\n    return `Hello, ${steps.check.$return_value.name}`;\n  },\n});\n"


def test_step_without_an_event_is_registered(run: Run) -> None:
    """Without an event a step cell says where the step stands and how to run it."""
    shown = run(CHECK)

    assert "Step check is step 1 of 1" in shown
    assert "%pdevent" in shown


def test_step_cell_runs_that_step_alone(notebook: Notebook, run: Run) -> None:
    """With an event a step cell runs its step, on the exports of the steps above."""
    run("%pdevent hello")
    run(CHECK)

    shown = run(GREET)

    assert notebook.error is None, shown
    assert "Hello, Ada" in shown
    assert "checking" not in shown


def test_logs_and_exports_are_shown(run: Run) -> None:
    """A step cell shows what the step printed and exported."""
    run("%pdevent hello")

    shown = run(CHECK)

    assert "checking" in shown
    assert "Ada" in shown


def test_comment_above_the_directive_works(notebook: Notebook, run: Run) -> None:
    """A comment line above `%%pdstep` is fine, and an error's line is still the cell's."""
    run("%pdevent hello")

    shown = run("# a remark\n\n%%pdstep bad\ndef handler(pd):\n    return 1 / 0\n")

    assert "line 5 of its cell" in shown


def test_failed_step_stops_run_all_and_shows_no_stack_of_ours(notebook: Notebook, run: Run) -> None:
    """A failed step raises in the cell, with the user's frames and locals alone."""
    run("%pdevent hello")

    shown = run("%%pdstep bad\ndef handler(pd):\n    count = 0\n    return 1 / count\n")

    assert notebook.error is not None
    assert "ZeroDivisionError" in shown
    assert "count = 0" in shown
    assert "site-packages" not in shown
    assert "interpreter.py" not in shown


def test_name_error_says_that_plain_cells_are_not_seen(run: Run) -> None:
    """A name from a plain cell is not seen by a step, and the error says so."""
    run("%pdevent hello")
    run("helper = 1")

    shown = run("%%pdstep bad\ndef handler(pd):\n    return helper\n")

    assert "NameError" in shown
    assert "plain cells" in shown


def test_header_cell_says_what_it_set(notebook: Notebook, run: Run) -> None:
    """`%%pdworkflow` names the workflow and says who may call it and who answers."""
    shown = run("%%pdworkflow\nname: Greetings\ntrigger:\n  type: http\n  response: custom\n")

    assert "Greetings" in shown
    assert notebook.session.workflow.trigger.response == "custom"


def test_pdegress_says_how_calls_leave(run: Run) -> None:
    """A proxy and hosts that stay closed follow the mode; the proxy's password is not said."""
    shown = run("%pdegress allow=slack.com via=http://me:secret@proxy.test:3128 unopened=pinned.test")

    assert "go to slack.com only" in shown
    assert "through the proxy proxy.test." in shown
    assert "Calls to pinned.test pass through without decryption." in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%%pdstep my-step\n", "my_step"),
        ("%%pdstep a --lang ruby\n", "ruby"),
        ("%%pdstep a --colour red\n", "--colour"),
        ("%%pdworkflow\nname: [\n", "line"),
        ("%pdevent nowhere", "hello"),
        ("%pdpin nowhere", "no step"),
        ("%pdegress sometimes", "not a mode"),
        ("%pdrun", "No event is chosen"),
        ("%pdrun nowhere", "nowhere"),
        ("%pdenv set A=b", "must not stand on this line"),
    ],
)
def test_mistakes_are_messages(notebook: Notebook, run: Run, cell: str, words: str) -> None:
    """A mistake in a cell shows one message with a fix, without a traceback of pdkernel."""
    shown = run(cell)

    assert notebook.error is not None
    assert words in shown
    assert "Traceback" not in shown


def test_run_all_then_run_shows_every_step(run: Run) -> None:
    """`%pdrun` runs the workflow and shows every step and the response."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    shown = run("%pdrun")

    assert "check" in shown
    assert "greet" in shown
    assert "default response" in shown


def test_editing_a_step_marks_those_below_stale(run: Run) -> None:
    """Running an edited step marks the steps below where they were shown."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    shown = run(CHECK.replace('"checking"', '"again"'))

    assert re.search(r"greet +.*stale|stale.*greet", shown, re.DOTALL)


def test_stale_steps_that_were_not_shown_are_named(run: Run) -> None:
    """Steps below that ran with the whole workflow only are named."""
    run(CHECK.replace("check", "check --no-run", 1))
    run(GREET.replace("--lang node", "--lang node --no-run"))
    run("%pdevent hello")
    run("%pdrun")

    shown = run(CHECK)

    assert "Stale: greet" in shown


def test_pin_and_release(run: Run) -> None:
    """`%pdpin` fixes exports, lists them, and releases them."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    pinned = run('%pdpin check \'{"$return_value": {"name": "Grace"}}\'')
    greeted = run(GREET)
    listed = run("%pdpin")
    released = run("%pdpin --clear check")

    assert "Export and serving ignore pins" in pinned
    assert "Hello, Grace" in greeted
    assert "check is pinned" in listed
    assert "Released: check" in released


def test_pinned_step_cell_does_not_run(run: Run) -> None:
    """The cell of a pinned step registers it and says that it is pinned."""
    run("%pdevent hello")
    run(CHECK)
    run("%pdpin check")

    shown = run(CHECK)

    assert "pinned" in shown
    assert "checking" not in shown


def test_user_line_form_says_what_is_missing(notebook: Notebook, run: Run) -> None:
    """`%pduser ID` chooses the user and names the account that is missing with the command for it."""
    run("%%pdstep send --app slack --no-run\ndef handler(pd):\n    return 1\n")

    shown = run("%pduser ada")

    assert notebook.session.external_user_id == "ada"
    assert "slack" in shown
    assert "pdkernel accounts add --external-user ada --app slack" in shown


def test_user_line_form_counts_accounts_of_ones_own(notebook: Notebook, run: Run) -> None:
    """An own account that is not there is missing, too, with the command for it; then it is ready like any."""
    run("%%pdstep send --app slack=apn_own1 --no-run\ndef handler(pd):\n    return 1\n")

    before = run("%pduser ada")
    notebook.session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "x" * 9}, external_user_id=None, account_id="apn_own1"
    )
    after = run("%pduser ada")

    assert "1 account to connect" in before
    assert "pdkernel accounts add --own --app slack --id apn_own1" in before
    assert "every account is connected" in after


def test_shape_is_shown(run: Run) -> None:
    """`%pdshape` shows the paths of the chosen event."""
    run("%pdevent hello")

    shown = run("%pdshape")

    assert "body" in shown
    assert "name" in shown


def test_event_is_a_variable_with_views(notebook: Notebook, run: Run) -> None:
    """The chosen event is `event`: a table by `frame()`, a JSON Schema by `schema()`."""
    run("%pdevent hello")

    run("kinds = (type(event.frame()).__name__, event.schema()['type'])")

    assert notebook.shell.user_ns["kinds"] == ("DataFrame", "object")


def test_event_saved_under_a_name(run: Run, tmp_path: Path) -> None:
    """`%pdevent --save NAME` writes the event to the library."""
    run("%pdevent hello")

    shown = run("%pdevent --save copy")

    assert "events/copy.json" in shown
    assert (tmp_path / "events" / "copy.json").is_file()


def test_export_shows_and_writes(run: Run, tmp_path: Path) -> None:
    """`%pdexport` shows what would be written; with `--to` it writes."""
    run(CHECK)
    run(GREET)

    preview = run("%pdexport")
    assert "No file was written. To write the files" in preview
    assert not (tmp_path / "out").exists()

    run("%pdexport --to out")
    assert (tmp_path / "out" / "workflow.yaml").is_file()
    assert (tmp_path / "out" / "check" / "entry.py").read_text() == CHECK.split("\n", 1)[1]


def test_export_patches_a_synced_folder(run: Run, tmp_path: Path) -> None:
    """`%pdexport --into` patches a synced folder; with `--dry-run` it shows what it would change."""
    (tmp_path / "flow").mkdir()
    synced = tmp_path / "flow" / "workflow.yaml"
    synced.write_text("name: flow # ours\ntriggers:\n- id: hi_1\n")
    run("%%pdworkflow\nname: flow\n")
    run(CHECK)

    shown = run("%pdexport --into flow --dry-run")
    assert "+- namespace: check" in shown
    assert "No file was written" in shown
    assert "steps" not in synced.read_text()

    told = json.loads(run("%pdexport --into flow --json"))
    assert [file["state"] for file in told["files"]] == ["changed", "new"]
    assert synced.read_text().startswith("name: flow # ours\ntriggers:\n- id: hi_1\nsteps:\n- namespace: check\n")


def test_help_is_there(run: Run, notebook: Notebook) -> None:
    """Each magic explains itself."""
    for name in ("pduser", "pdevent", "pdrun", "pdpin", "pdshape", "pdenv", "pdegress", "pdexport"):
        assert notebook.shell.find_line_magic(name).__doc__
    assert "--lang LANGUAGE" in notebook.shell.find_cell_magic("pdstep").__doc__


def test_first_cell_names_what_is_missing(run: Run) -> None:
    """In a new project the first cell says which users and variables the workflow needs, with commands."""
    shown = run('%%pdstep send --app slack\nimport os\ndef handler(pd):\n    return os.environ["CHANNEL"]\n')

    assert "pdkernel accounts add --external-user ID --app slack" in shown
    assert "pdkernel env set CHANNEL" in shown


def test_second_load_changes_nothing(run: Run, notebook: Notebook) -> None:
    """Loading the extension again is silent and registers nothing twice."""
    matchers = len(notebook.shell.Completer.custom_matchers)

    run("%load_ext pdkernel")

    assert len(notebook.shell.Completer.custom_matchers) == matchers


def test_contract_is_shown(run: Run) -> None:
    """`%pdshape --contract` says what the steps read, where, and whether the chosen event has it."""
    run("%pdevent hello")
    run(CHECK)

    shown = run("%pdshape --contract")

    assert re.search(r"required +body.name +check \(.*line 4\)", shown), shown
    assert "✓ hello fulfils the contract." in shown
    assert "An event that fulfils the contract" in shown


def test_contract_of_a_named_event(run: Run, tmp_path: Path) -> None:
    """`%pdshape --contract FILE` looks at that event, and says what is missing."""
    (tmp_path / "events" / "empty.json").write_text('{"method": "GET"}')
    run(CHECK)

    shown = run("%pdshape --contract empty")

    assert "body is missing, and with it body.name" in shown


def test_choosing_an_event_says_drift(run: Run, tmp_path: Path) -> None:
    """Choosing or sending an event whose read fields are not as before names field, step and cell; others say nothing."""
    (tmp_path / "events" / "new.json").write_text('{"method": "POST", "body": {"name": 7, "more": 1}}')
    (tmp_path / "events" / "same.json").write_text('{"method": "POST", "body": {"name": "Bo", "more": [1]}}')
    run(CHECK)

    chosen, sent, same = run("%pdevent new"), run("%pdevent new --send"), run("%pdevent same")

    assert re.search(r"body.name is now number; in earlier events it was string. Read by check \(.*line 4\)", chosen), (
        chosen
    )
    assert "body.name is now number" in sent
    assert "body.name" not in same
