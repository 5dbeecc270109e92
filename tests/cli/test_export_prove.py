"""`pdkernel export --prove`."""

from __future__ import annotations

from tests.cli.conftest import Shell

GREET = "%%pdstep greet\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']\n"
TELL = (
    "%%pdstep tell --lang node\nexport default { run({ steps }) { return [steps.greet.$return_value, Date.now()] } }\n"
)
FETCH = "%%pdstep fetch\nimport urllib.request\ndef handler(pd):\n    return urllib.request.urlopen('https://api.example.test/x').status\n"
USE = "%%pdstep use --lang node\nimport { one } from './helper.mjs'\nexport default { run: () => one }\n"
SYNCED = """schema: workflow/2022.04
name: Synced
settings:
  error_notification: true
triggers:
- id: hi_AbCdEfG
steps:
- namespace: greet
  runtime: python3.12
  uses: "./greet/entry.py"
  props:
    __configurableProps:
    - app: slack
      name: slack
      type: app
      authType: oauth
      appId: app_1
    slack:
      authProvisionId: apn_mnhDZVl
- namespace: tell
  runtime: nodejs20.x
  uses: "./tell/entry.js"
  props:
    many: "{{steps.greet.$return_value}}"
    'yes': 'yes'

"""


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


def test_as_json(pdkernel: Shell) -> None:
    """The JSON has the files and the proof: verdicts, reasons for skipped comparisons, and every field's grade."""
    saved_event(pdkernel)

    ended = pdkernel("export", pdkernel.notebook(FETCH), "--to", "flow", "--prove", "--json")

    proof = ended.json["proof"]
    assert (ended.status, proof["verdict"], proof["definition"]) == (0, "not compared", [])
    (step,) = proof["cases"][0]["steps"]
    assert step["verdict"] == "not compared"
    assert "--egress record=events/hello.recorded.jsonl" in step["why"]
    assert {"file": "workflow.yaml", "field": "steps[].uses", "grade": "observed", "steps": ["fetch"]} in proof[
        "fields"
    ]


def test_a_difference_ends_with_status_1(pdkernel: Shell) -> None:
    """A difference is shown with both sides, and the status is 1."""
    saved_event(pdkernel)
    (pdkernel.folder / "helper.mjs").write_text("export const one = 1\n")

    ended = pdkernel("export", pdkernel.notebook(USE), "--to", "flow", "--prove")

    assert ended.status == 1
    assert 'hello, step use: status\n  notebook  "success"\n  files     "error"\n' in ended.stdout


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


def test_a_synced_folder(pdkernel: Shell) -> None:
    """A synced folder that was imported, changed and patched is proven like a new folder."""
    flow = pdkernel.folder / "synced-p_abc1234"
    for name, text in {
        "workflow.yaml": SYNCED,
        "greet/entry.py": GREET.split("\n", 1)[1],
        "tell/entry.js": "export default { props: { many: 'any', yes: 'string' }, run() { return [this.many, this.yes] } }\n",
    }.items():
        path = flow / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    saved_event(pdkernel)
    imported = pdkernel("import", flow.name, "--to", "work.ipynb", "--accounts", "external-user")
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "token=made-up-token")
    notebook = pdkernel.folder / "work.ipynb"
    notebook.write_text(notebook.read_text().replace("return [this.many", "return [1, this.many"))

    ended = pdkernel("export", "work.ipynb", "--into", flow.name, "--prove", "--json")

    assert imported.status == 0
    assert ended.json["proof"]["definition"] == []
    assert (ended.status, ended.json["proof"]["verdict"]) == (0, "same")
    (case,) = ended.json["proof"]["cases"]
    assert (case["external_user"], [step["verdict"] for step in case["steps"]]) == ("ada", ["same", "same"])
