"""`pdkernel export` and `check`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import httpx

from tests.cli.conftest import Shell
from tests.notebook_files import notebook_of

STEP = "%%pdstep greet\ndef handler(pd):\n    return 'hello'\n"
SECOND = "%%pdstep tell --lang node\nexport default { run() { return 1 } }\n"


def test_export_writes_the_folder(pdkernel: Shell) -> None:
    """`--to` writes and lists the files that Pipedream deploys, and the manual steps."""
    ended = pdkernel("export", pdkernel.notebook(STEP, SECOND), "--to", "flow")

    assert ended.status == 0
    assert sorted(path.relative_to(pdkernel.folder).as_posix() for path in (pdkernel.folder / "flow").rglob("*.*")) == [
        "flow/greet/entry.py", "flow/pdkernel.yaml", "flow/tell/entry.js", "flow/workflow.yaml",
    ]  # fmt: skip
    assert (pdkernel.folder / "flow/greet/entry.py").read_text() == STEP.split("\n", 1)[1]
    assert "flow: 4 new" in ended.stdout
    assert "Set up by hand" in ended.stdout


def test_export_as_json_lists_the_changes(pdkernel: Shell) -> None:
    """The JSON of a second export has the state of each file, with the diff."""
    pdkernel("export", pdkernel.notebook(STEP), "--to", "flow")
    source = pdkernel.notebook(STEP.replace("hello", "good day"), SECOND)

    ended = pdkernel("export", source, "--to", "flow", "--json")

    states = {file["path"]: file["state"] for file in ended.json["files"]}
    diffs = {file["path"]: file["diff"] for file in ended.json["files"]}
    assert states == {
        "workflow.yaml": "changed", "pdkernel.yaml": "unchanged", "greet/entry.py": "changed", "tell/entry.js": "new",
    }  # fmt: skip
    assert "-    return 'hello'\n+    return 'good day'\n" in diffs["greet/entry.py"]
    assert ended.json["checklist"]


def test_into_patches_a_synced_folder(pdkernel: Shell) -> None:
    """`--into` adds the notebook's step to a synced folder and changes nothing else; `--dry-run` only shows the diff."""
    synced = "name: flow # ours\ntriggers:\n- id: hi_1\n"
    (pdkernel.folder / "flow").mkdir()
    pdkernel.write("flow/workflow.yaml", synced)
    source = pdkernel.notebook("%%pdworkflow\nname: flow\n", STEP)

    shown = pdkernel("export", source, "--into", "flow", "--dry-run")
    unchanged = (pdkernel.folder / "flow/workflow.yaml").read_text()
    ended = pdkernel("export", source, "--into", "flow", "--json")

    assert shown.status == 0
    assert "No file was written: --dry-run shows the changes only." in shown.stdout
    assert "+- namespace: greet" in shown.stdout
    assert unchanged == synced
    assert {file["path"]: file["state"] for file in ended.json["files"]} == {
        "workflow.yaml": "changed", "greet/entry.py": "new",
    }  # fmt: skip
    assert (pdkernel.folder / "flow/workflow.yaml").read_text() == (
        f'{synced}steps:\n- namespace: greet\n  runtime: python3.12\n  uses: "./greet/entry.py"\n'
    )


def test_docs_are_overwritten_but_not_a_foreign_readme(pdkernel: Shell) -> None:
    """`--docs` writes a README of the workflow; a README that a user wrote is not overwritten."""
    source = pdkernel.notebook(STEP)

    first = pdkernel("export", source, "--to", "flow", "--docs")
    again = pdkernel("export", source, "--to", "flow", "--docs")
    pdkernel.write("flow/README.md", "# mine\n")
    refused = pdkernel("export", source, "--to", "flow", "--docs")

    assert (first.status, again.status, refused.status) == (0, 0, 2)
    assert "README.md exists and was not written by an export" in refused.stderr
    assert (pdkernel.folder / "flow/README.md").read_text() == "# mine\n"


def test_refused_export_changes_nothing(pdkernel: Shell) -> None:
    """A refused export ends with status 2 and a short message, and changes no file."""
    (pdkernel.folder / "full" / "greet").mkdir(parents=True)
    pdkernel.write("full/greet/entry.py", "written by the user")
    source = pdkernel.notebook(STEP)
    for args, words in (
        ([], "The target folder is missing"),
        (["--to", ""], "The target folder is missing"),
        (["--to", "flow", "--into", "flow"], "--to and --into exclude each other"),
        (["--into", "flow"], "is not a workflow's folder"),
        (["--to", "full"], "was not written by an export"),
    ):
        ended = pdkernel("export", source, *args)

        assert ended.status == 2, ended.lines
        assert words in ended.stderr
        assert len(ended.lines) <= 15
    assert not (pdkernel.folder / "flow").exists()
    assert (pdkernel.folder / "full/greet/entry.py").read_text() == "written by the user"


# ── --prove ─────────────────────────────────────────────────────────────────────────────────────────────


GREET = "%%pdstep greet\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']\n"
TELL = (
    "%%pdstep tell --lang node\nexport default { run({ steps }) { return [steps.greet.$return_value, Date.now()] } }\n"
)
USE = "%%pdstep use --lang node\nlet one = 1;\ntry { one = require('./local.cjs'); } catch {}\nmodule.exports = { run: () => one };\n"


def saved_event(pdkernel: Shell, name: str = "hello") -> None:
    """Save an event beside the notebook."""
    (pdkernel.folder / "events").mkdir(exist_ok=True)
    (pdkernel.folder / "events" / f"{name}.json").write_text('{"method": "POST", "body": {"name": "Ada"}}')


def test_equal_files_are_proven(pdkernel: Shell) -> None:
    """Files that behave like the notebook give a table of events and steps, and status 0."""
    saved_event(pdkernel)

    ended = pdkernel("export", pdkernel.notebook(GREET, TELL), "--to", "flow", "--prove")

    assert ended.status == 0
    lines = ended.stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Proof of flow"))
    assert lines[start : start + 3] == [
        "Proof of flow: workflow same; 1 run, steps: 2 same.",
        "  event  greet  tell  whole run",
        "  hello  same   same  same",
    ]


def test_the_progress_of_a_proof(pdkernel: Shell) -> None:
    """A terminal shows the progress, but not beside the one JSON value of --json."""
    saved_event(pdkernel)
    command = ("export", pdkernel.notebook(GREET), "--to", "flow", "--prove")

    _, shown = pdkernel.on_terminal(*command)
    _, as_json = pdkernel.on_terminal(*command, "--json", "-q")

    assert shown.index("hello") < shown.index("Proof of flow")
    assert json.loads(as_json)["proof"]["verdict"] == "same"


def test_a_difference_ends_with_status_1(pdkernel: Shell) -> None:
    """A difference is shown with both sides, and the status is 1."""
    saved_event(pdkernel)
    source = pdkernel.notebook(USE)
    pdkernel("export", source, "--to", "flow")
    (pdkernel.folder / "flow" / "use" / "local.cjs").write_text("module.exports = 2\n")

    ended = pdkernel("export", source, "--to", "flow", "--prove")

    assert ended.status == 1
    assert "hello, step use: exports.$return_value\n  notebook  1\n  files     2\n" in ended.stdout


def test_invalid_requests(pdkernel: Shell) -> None:
    """A proof requires written files and an owner for every account."""
    source = pdkernel.notebook(
        "%%pdstep send --lang node\nexport default { props: { slack: { type: 'app', app: 'slack' } }, run() {} }\n"
    )
    dry = pdkernel("export", source, "--to", "flow", "--prove", "--dry-run")
    (pdkernel.folder / source).with_suffix(".pdkernel.yaml").write_text(
        "schema: pdkernel/1\nsteps:\n  send:\n    accounts:\n      slack: unanswered\n"
    )
    unanswered = pdkernel("export", source, "--to", "flow", "--prove")

    assert (dry.status, unanswered.status) == (2, 2)
    assert "--prove needs written files, and this export writes none." in dry.stderr
    assert "slack is unanswered" in unanswered.stderr
    assert not (pdkernel.folder / "flow").exists()


TRANSPORT = """%%pdworkflow
name: Parcels
trigger: {type: http, response: custom}
settings: {lambda_timeout: 40}
"""
WEIGH = """%%pdstep weigh --data-store seen
from tariff import price

def handler(pd):
    seen = pd.inputs["seen"]
    seen["count"] = seen.get("count", 0) + 1
    return {"price": price(pd.steps["trigger"]["event"]["body"]["kg"]), "count": seen["count"]}
"""
BOOK = "%%pdstep book --uses depot-book@0.1.0\nparcel: '{{steps.weigh.$return_value.price}}'\n"
REPLY = """%%pdstep reply --lang node
import { words } from "./words.mjs";
export default defineComponent({
  async run({ steps, $ }) {
    await $.respond({ status: 200, body: { ...steps.weigh.$return_value, ...steps.book.$return_value, text: words() } });
  },
});
"""
COMPONENT = """export default {
  key: "depot-book", name: "Book a Parcel", version: "0.1.0", type: "action",
  props: { parcel: { type: "integer" } },
  async run() { return { booked: this.parcel }; },
};
"""


def a_rich_notebook(pdkernel: Shell) -> str:
    """A notebook with helper modules, a store, a folder of components and a `pdkernel.yaml`, in a folder of its own."""
    for folder in ("work", "components/depot/actions/book"):
        (pdkernel.folder / folder).mkdir(parents=True)
    pdkernel.write("components/depot/depot.app.mjs", 'export default { type: "app", app: "depot" };')
    pdkernel.write("components/depot/actions/book/book.mjs", COMPONENT)
    pdkernel.write("work/tariff.py", "def price(kg):\n    return 2 * kg\n")
    pdkernel.write("work/words.mjs", "export const words = () => 'sent';\n")
    pdkernel.write("work/parcels.pdkernel.yaml", "schema: pdkernel/1\nworkflow: Parcels\nactions: ../components\n")
    return pdkernel.notebook(TRANSPORT, WEIGH, BOOK, REPLY, name="work/parcels.ipynb")


def test_the_last_line_serves_the_exported_folder(pdkernel: Shell) -> None:
    """The last line of an export is a command that serves exactly the written folder, although its path has a space."""
    source = a_rich_notebook(pdkernel)
    ended = pdkernel("export", source, "--to", "ready to go/parcels")
    assert ended.status == 0, ended.lines
    command = ended.stdout.splitlines()[-1].removeprefix("To serve the folder: ")

    program, *words = shlex.split(command)
    with pdkernel.start(*words, "--port", "0", "--json") as process:
        try:
            assert process.stdout
            said = json.loads(process.stdout.readline())
            answer = httpx.post(said["workflows"][0]["url"], json={"kg": 4}, timeout=60)
        finally:
            process.kill()

    assert program == "pdkernel"
    assert [each["name"] for each in said["workflows"]] == ["Parcels"]
    assert (answer.status_code, answer.json()) == (200, {"price": 8, "count": 1, "booked": 8, "text": "sent"})


def test_the_serving_command_names_the_project(pdkernel: Shell) -> None:
    """With `--project`, so does the command, and a folder that begins with a dash is not an option; `--json` has the command."""
    source = pdkernel.notebook(STEP)

    ended = pdkernel("--project", "my project", "export", source, "--to=-flow", "--json")

    assert ended.json["serve"] == "pdkernel --project 'my project' serve ./-flow"


def test_a_proof_does_not_hide_the_serving_command(pdkernel: Shell) -> None:
    """The command follows the proof; a dry run wrote no folder and has no command."""
    saved_event(pdkernel)
    source = pdkernel.notebook(STEP)
    dry = pdkernel("export", source, "--to", "flow", "--dry-run")
    proven = pdkernel("export", source, "--to", "flow", "--prove")

    assert "To serve" not in dry.stdout
    assert proven.stdout.splitlines()[-1] == "To serve the folder: pdkernel serve flow"


def test_a_folder_that_cannot_be_served_has_no_command(pdkernel: Shell) -> None:
    """Instead of the command, the end of the export names what `serve` would refuse."""
    pdkernel.write("work.pdkernel.yaml", "schema: pdkernel/1\nsteps: {send: {accounts: {slack: unanswered}}}\n")
    source = pdkernel.notebook(
        "%%pdstep send --lang node\nexport default { props: { slack: { type: 'app', app: 'slack' } }, run() {} };\n"
    )

    ended = pdkernel("export", source, "--to", "flow")

    assert ended.status == 0
    assert "pdkernel serve" not in ended.stdout
    assert "Before you serve the folder:\n  flow/pdkernel.yaml: steps.send.accounts.slack is unanswered" in ended.stdout


def test_the_outbound_policy_of_the_notebook_is_named(pdkernel: Shell) -> None:
    """A folder has no outbound policy, so the export says that calls will be sent, and which option answers them locally."""
    ended = pdkernel("export", pdkernel.notebook("%pdegress stand-in=slack", STEP), "--to", "flow")
    live = pdkernel("export", pdkernel.notebook("%pdegress live", STEP, name="live.ipynb"), "--to", "other")

    assert "the served steps send their calls for real. To keep it, add --egress stand-in=slack\n" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "To serve the folder: pdkernel serve flow"
    assert "for real" not in live.stdout


def test_variables_beside_the_notebook_are_named(pdkernel: Shell) -> None:
    """Variables of the `.env` file that steps read are named with the command that sets them; the file is not copied."""
    pdkernel.write(".env", "API_KEY=made-up-value\nOTHER=1\n")
    source = pdkernel.notebook("%%pdstep greet\nimport os\ndef handler(pd):\n    return os.environ['API_KEY']\n")

    ended = pdkernel("export", source, "--to", "flow")

    assert "API_KEY is in the .env file" in ended.stdout
    assert "pdkernel env set API_KEY" in ended.stdout
    assert "OTHER" not in ended.stdout
    assert "made-up-value" not in ended.stdout
    assert not (pdkernel.folder / "flow/.env").exists()


CHECKED_STEP = "%%pdstep one\ndef handler(pd):\n    return 1"


def outdated(path: Path) -> None:
    """Give the first step of the notebook at *path* an output of other code."""
    data = json.loads(path.read_text())
    cell = next(each for each in data["cells"] if "%%pdstep" in "".join(each["source"]))
    metadata = {"pdkernel": {"cell": "0" * 16}}
    cell["outputs"] = [{"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": metadata}]
    path.write_text(json.dumps(data))


def test_check(pdkernel: Shell) -> None:
    """Each notebook of a folder is checked; one whose output is of other code ends the command with status 1."""
    notebook_of(pdkernel.folder / "a.ipynb", CHECKED_STEP)
    notebook_of(pdkernel.folder / "b.ipynb", CHECKED_STEP)
    passed = pdkernel("check", ".", "--markdown", "summary.md")
    outdated(pdkernel.folder / "b.ipynb")
    failed = pdkernel("check", ".", "--json", "--markdown", "summary.md")
    printed = pdkernel("check", "a.ipynb", "--markdown", "-")
    both = pdkernel("check", "a.ipynb", "--markdown", "-", "--json")
    no_revision = pdkernel("check", "a.ipynb", "--base", "main")

    assert (passed.status, passed.stdout.count("✓")) == (0, 2)
    summary = (pdkernel.folder / "summary.md").read_text()  # the second call has added its summary
    assert (summary.count("### ✅"), summary.count("### ❌")) == (3, 1)
    assert printed.stdout.startswith("### ✅")
    assert (both.status, "both write to standard output" in both.stdout) == (2, True)
    assert (no_revision.status, "main" in no_revision.stderr) == (2, True)
    assert failed.status == 1
    assert [(each["workflow"], each["passed"]) for each in failed.json] == [("a", True), ("b", False)]
    assert failed.json[1]["outdated_outputs"] == [{"cell": 1, "step": "one"}]


def test_check_with_a_proof(pdkernel: Shell) -> None:
    """--prove exports to a temporary folder, and reports whether the export does the same."""
    notebook_of(pdkernel.folder / "a.ipynb", CHECKED_STEP)
    without_event = pdkernel("check", "a.ipynb", "--prove", "--json").json[0]
    (pdkernel.folder / "events").mkdir()
    (pdkernel.folder / "events" / "e.json").write_text('{"method": "POST", "body": {}}')

    done = pdkernel("check", "a.ipynb", "--prove")
    (pdkernel.folder / "b.ipynb").write_text("{")
    unreadable = pdkernel("check", ".", "--prove")

    assert without_event["proof_summary"].startswith("Not proven for every step.")
    assert (done.status, "proof: the export does the same" in done.stdout) == (0, True)
    assert (unreadable.status, "proof: the export does the same" in unreadable.stdout) == (1, True)
    assert "b.ipynb is not a notebook" in unreadable.stdout
    assert sorted(path.name for path in pdkernel.folder.glob("[!.]*")) == ["a.ipynb", "b.ipynb", "events"]


def test_a_notebook_that_cannot_be_proved_does_not_stop_the_others(pdkernel: Shell) -> None:
    """With --prove, an unanswered question of one notebook is its error, and the other notebooks are checked."""
    app = "export default { props: { slack: { type: 'app', app: 'slack' } }, run() {} }"
    notebook_of(pdkernel.folder / "a.ipynb", f"%%pdstep send --lang node\n{app}")
    pdkernel.write("a.pdkernel.yaml", "schema: pdkernel/1\nsteps: {send: {accounts: {slack: unanswered}}}\n")
    notebook_of(pdkernel.folder / "b.ipynb", CHECKED_STEP)

    done = pdkernel("check", ".", "--prove", "--json")

    assert done.status == 1
    assert [each["passed"] for each in done.json] == [False, True]
    assert "slack is unanswered" in done.json[0]["error"]


def test_folder_without_notebooks(pdkernel: Shell) -> None:
    """A folder that contains only synced workflows has nothing to check."""
    (pdkernel.folder / "flow").mkdir()
    (pdkernel.folder / "flow" / "workflow.yaml").write_text("name: flow\ntriggers:\n- id: hi_1\n")

    done = pdkernel("check", ".")

    assert (done.status, "contains no notebook" in done.stderr) == (2, True)
