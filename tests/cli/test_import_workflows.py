"""`pdkernel import`: synced folders become notebooks, with and without a terminal."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pdkernel.accounts import LocalDirectory
from pdkernel.cli.app import CliContext
from pdkernel.cli.import_workflows import ImportPrompts
from pdkernel.files.definition import plan_files, read_folder_workflow
from pdkernel.model import Trigger
from pdkernel.operations.importer import AccountQuestion
from pdkernel.storage import Project
from tests.cli.conftest import Shell
from tests.cli.kiosk import Kiosk, open_kiosk
from tests.durability.faults import KILL_AT_RENAME
from tests.files.definition.archives import manifest, pack, step
from tests.files.definition.archives import workflow as workflow_json
from tests.files.definition.builders import synced
from tests.operations.importer.import_helpers import HEAD, PROJECTS, as_written

SEND = """export default defineComponent({
  props: { slack: { type: "app", app: "slack" }, n: { type: "integer" } },
  async run({ steps }) { return { token: this.slack.$auth.oauth_access_token.length, n: this.n, seen: steps.count } },
})
"""
COUNT = 'def handler(pd):\n    pd.export("kind", pd.steps["trigger"]["event"]["body"]["kind"])\n    print("counted")\n    return {"n": 3}\n'
RAISE = 'def handler(pd):\n    raise RuntimeError("it ran")\n'
STEPS = (
    '- namespace: count\n  runtime: python3.12\n  uses: "./count/entry.py"\n'
    "- namespace: only_if\n  runtime: nodejs20.x\n  uses: filter-continue-based-on-condition@0.0.2\n  props:\n"
    '    initialValue: "{{steps.count.$return_value.n}}"\n    condition: NOT_NULL\n'
    '- namespace: send\n  runtime: nodejs20.x\n  uses: "./send/entry.js"\n  props:\n    slack:\n'
    '      authProvisionId: apn_Git\n    n: "{{steps.count.$return_value.n}}"\n'
    "- namespace: unused\n  disabled: true\n  runtime: nodejs20.x\n  uses: slack-gone@0.0.1\n"
)


NOTE = '{"cell_type": "markdown", "id": "mine", "metadata": {}, "source": "mine"}, '


def workflow(pdkernel: Shell, name: str = "send-it-p_1", steps: str = STEPS) -> Path:
    """A synced folder."""
    return synced(pdkernel.folder / name, HEAD + steps, count__entry_DOT_py=COUNT, send__entry_DOT_js=SEND)


def account(pdkernel: Shell, *whose: str) -> None:
    """Add a Slack account."""
    ended = pdkernel("accounts", "add", *whose, "--app", "slack", "--credential", "oauth_access_token=xoxb-12345")
    assert ended.status == 0, ended.stderr


def test_without_a_terminal_nothing_is_asked(pdkernel: Shell) -> None:
    """Standard input is not read; unanswered accounts are listed, the status is 0, and no project is created."""
    workflow(pdkernel)

    ended = pdkernel("import", "send-it-p_1", "--to", "n.ipynb", stdin="1\n1\n1\n")

    assert ended.status == 0, ended.stderr
    assert "n.ipynb: send.slack (slack, apn_Git)" in ended.stdout
    assert "Runs unchanged\n    - count, only_if\n" in ended.stdout
    assert as_written(pdkernel.folder / "n.ipynb")[1].steps["send"].accounts["slack"].account == "unanswered"
    assert not (pdkernel.folder / ".pdkernel").exists()


def test_an_unanswered_notebook_is_exported_not_run_or_served(pdkernel: Shell) -> None:
    """Run and serve end with status 2 and name the place for the answer; doctor lists it; an export writes the id from Git."""
    workflow(pdkernel)
    pdkernel("import", "send-it-p_1", "--to", "n.ipynb")

    refused = [pdkernel("run", "n.ipynb", "--body", "{}"), pdkernel("serve", "n.ipynb", "--port", "0")]
    doctor = pdkernel("doctor", "n.ipynb", "--json")
    exported = pdkernel("export", "n.ipynb", "--to", "out")

    assert [ended.status for ended in refused] == [2, 2]
    assert all("n.pdkernel.yaml: steps.send.accounts.slack is unanswered" in ended.stderr for ended in refused)
    assert [item["name"] for item in doctor.json["missing"] if item["kind"] == "answer"] == ["send.slack"]
    assert doctor.json["report"]["triggers"][0]["id"] == "hi_1"
    assert exported.status == 0, exported.stderr
    assert "authProvisionId: apn_Git" in (pdkernel.folder / "out/workflow.yaml").read_text()
    assert "account: unanswered" in (pdkernel.folder / "out/pdkernel.yaml").read_text()


def test_a_folder_and_its_notebook_run_alike(pdkernel: Shell) -> None:
    """Both executions are equal, except for ids, times and source locations."""
    workflow(pdkernel)
    account(pdkernel, "--external-user", "ada")
    pdkernel("import", "send-it-p_1", "--to", "n.ipynb", "--accounts", "external-user")
    ran = [
        pdkernel("run", source, "--body", '{"kind": "x"}', "--external-user", "ada", "--json")
        for source in ("send-it-p_1", "n.ipynb")
    ]

    folder, notebook = (_comparable(ended.json) for ended in ran)

    assert folder["status"] == "success", ran[0].stdout + ran[0].stderr
    assert [step["status"] for step in folder["steps"]] == ["success", "success", "success", "disabled"]
    assert notebook == folder


def _comparable(execution: dict[str, Any]) -> dict[str, Any]:
    own = {"id", "trace_id", "version", "started_at", "finished_at", "duration_ms", "ts", "workflow_id", "request"}

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key not in own}
        return [without(item) for item in value] if isinstance(value, list) else value

    found: dict[str, Any] = without({**execution, "trigger": {"event": execution["trigger"]["event"]["body"]}})
    return found


@pytest.mark.parametrize("source", ["folder", "notebook"])
def test_a_pin_replaces_a_step_without_code_or_action(pdkernel: Shell, source: str) -> None:
    """Pins of all such steps make the workflow run, though their accounts are unanswered; another such step is refused."""
    steps = (
        '- namespace: gone\n  runtime: nodejs20.x\n  uses: "./gone/entry.js"\n'
        "- namespace: private\n  runtime: nodejs20.x\n  uses: '@acme/look_up@0.0.9'\n  props:\n    crm:\n      authProvisionId: apn_Crm\n"
        '- namespace: count\n  runtime: python3.12\n  uses: "./count/entry.py"\n'
    )
    workflow(pdkernel, "w-p_1", steps)
    assert pdkernel("import", "w-p_1", "--to", "n.ipynb").status == 0
    (pdkernel.folder / "pin.json").write_text('{"id": 7}')
    path = "w-p_1" if source == "folder" else "n.ipynb"

    ran = pdkernel(
        *("run", path, "--body", '{"kind": "x"}', "--json", "--pin", "gone=pin.json", "--pin", "private=pin.json")
    )
    refused = pdkernel("run", path, "--body", "{}", "--pin", "private=pin.json")

    assert ran.status == 0, ran.stdout + ran.stderr
    assert [step["status"] for step in ran.json["steps"]] == ["pinned", "pinned", "success"]
    assert refused.status == 2
    assert "Step gone" in refused.stderr


@pytest.mark.parametrize("source", ["folder", "notebook"])
def test_a_run_refuses_unsupported_entries(pdkernel: Shell, source: str) -> None:
    """Missing code and control flow end a run with status 2 before any step, in the folder and in the notebook."""
    for name, steps, says in (
        ("gone", '- namespace: gone\n  runtime: python3.12\n  uses: "./gone/entry.py"\n', "gone"),
        ("flow", "- namespace: branch\n  type: ifelse\n", "branch has no uses"),
    ):
        workflow(pdkernel, name, steps)
        assert pdkernel("import", name, "--to", f"{name}.ipynb").status == 0

        ended = pdkernel("run", name if source == "folder" else f"{name}.ipynb", "--body", "{}")

        assert ended.status == 2
        assert says in ended.stderr


def test_own_accounts_answer_for_props_of_the_code(pdkernel: Shell) -> None:
    """`--accounts own` gives an app prop that only code declares the developer's one account of the app, and the run uses it."""
    steps = '- namespace: send\n  runtime: nodejs20.x\n  uses: "./send/entry.js"\n  props:\n    n: 3\n'
    workflow(pdkernel, steps=steps)
    account(pdkernel, "--external-user", "ada")
    before = pdkernel("import", "send-it-p_1", "--to", "before.ipynb", "--accounts", "own", "--json")
    account(pdkernel, "--own")

    after = pdkernel("import", "send-it-p_1", "--to", "n.ipynb", "--accounts", "own")
    ran = pdkernel("run", "n.ipynb", "--body", "{}", "--json")

    assert [use["account"] for use in before.json["report"]["accounts"]] == ["unanswered"]
    assert after.status == 0, after.stderr
    assert ran.status == 0, ran.stdout + ran.stderr
    assert [use["owner"] for use in ran.json["steps"][0]["accounts"]] == ["own"]


def test_a_repository(pdkernel: Shell) -> None:
    """An invalid workflow is reported with status 2, and the other workflows are imported."""
    workflow(pdkernel, "repo/good-p_1")
    synced(pdkernel.folder / "repo/team/a-bad-p_2", "schema: workflow/2022.04\nname: a\nname: b\n")
    workflow(pdkernel, "repo/team/also-p_3")

    ended = pdkernel("import", "repo", "--to", "notebooks", "--accounts", "external-user", "--json")
    text = pdkernel("import", "repo", "--to", "notebooks", "--accounts", "external-user")

    assert (ended.status, text.status) == (2, 2)
    states = {Path(one["folder"]).name: one["state"] for one in ended.json}
    assert states == {"good-p_1": "new", "a-bad-p_2": "failed", "also-p_3": "new"}
    error = next(one["error"] for one in ended.json if one["error"])
    assert error["line"] == 3
    assert "repo/team/a-bad-p_2/workflow.yaml has the key 'name' twice (line 3)" in error["message"]
    assert "Not imported: repo/team/a-bad-p_2" in text.stderr
    assert "2 of 3 workflows imported" in text.stdout
    assert sorted(str(path.relative_to(pdkernel.folder)) for path in pdkernel.folder.rglob("*.ipynb")) == [
        "notebooks/good-p_1.ipynb",
        "notebooks/team/also-p_3.ipynb",
    ]


def test_a_repository_cannot_control_the_terminal(pdkernel: Shell) -> None:
    """Control characters in names of folders and steps are shown as text."""
    steps = '- namespace: act\n  uses: "gone-\\aact@0.0.1"\n'
    workflow(pdkernel, "repo/good\a-p_1", steps)
    workflow(pdkernel, "repo/same-p_3")
    synced(pdkernel.folder / "repo/\x1b]0;bad-p_2", "schema: workflow/2022.04\nname: a\nname: b\n")

    ended = pdkernel("import", "repo", "--to", "notebooks")

    assert "Imported repo/good\\x07-p_1 as notebooks/good\\x07-p_1.ipynb" in ended.lines
    assert "Not imported: repo/\\x1b]0;bad-p_2: " in ended.stderr
    assert not {"\a", "\x1b"} & set(ended.stdout + ended.stderr)


def test_the_import_report(pdkernel: Shell) -> None:
    """The report lists sources of actions, variables with their lines, packages, and unsupported entries."""
    ended = pdkernel("import", str(PROJECTS / "every-shape-p_Ab12Cd3"), "--to", "n.ipynb", "--json")

    report = ended.json["report"]
    assert ended.status == 0, ended.stderr
    assert {use["step"]: use["source"] for use in report["actions"] if use["runs"]} == {
        "continue_based_on_condition": "built in",
        "custom_request": "built in",
    }
    assert {item["name"] for item in report["cannot"]} == {
        *("add_single_row", "send_message", "own_action", "gone", "old")
    }
    assert report["variables"] == [
        {"name": "GREETING", "places": ["second, line 11"], "required": False},
        {"name": "REGION", "places": ["first, line 9"], "required": True},
    ]
    assert [(use["name"], use["version"]) for use in report["packages"]] == [
        ("@pipedream/platform", ""),
        ("lodash", "4.17.21"),
        ("requests", "==2.31.0"),
    ]
    assert [use["assumed"] for use in report["triggers"]] == [True] * 5
    assert {use["account"] for use in report["accounts"]} == {"unanswered"}


def test_invalid_calls(pdkernel: Shell) -> None:
    """A missing folder, a folder without a workflow and a target inside the folder end with status 2 and the reason."""
    workflow(pdkernel)
    calls = {
        ("import", "nowhere", "--to", "n.ipynb"): "nowhere does not exist",
        ("import", ".", "--to", "sub/n.ipynb"): "does not write into the folder that it imports",
        ("import", "send-it-p_1", "--to", "n.ipynb", "--accounts", "mine"): "ask",
    }

    for call, says in calls.items():
        ended = pdkernel(*call)
        assert ended.status == 2, ended.stdout
        assert says in ended.stderr


def test_questions_on_a_terminal(pdkernel: Shell) -> None:
    """Each account and each trigger is asked for once; an own account is chosen, and another is created under its id."""
    account(pdkernel, "--own")
    own = pdkernel("accounts", "list", "--own", "--json").json[0]["id"]
    more = "- namespace: more\n  runtime: nodejs20.x\n  uses: slack-x@1.0.0\n  props:\n    slack:\n      authProvisionId: apn_Git\n"
    other = "- namespace: other\n  runtime: nodejs20.x\n  uses: github-x@1.0.0\n  props:\n    github:\n      authProvisionId: apn_Hub\n"
    workflow(pdkernel, steps=STEPS + more + other)

    status, said = pdkernel.on_terminal(
        *("import", "send-it-p_1", "--to", "n.ipynb"),
        answers=[
            ("authentication", "oauth"),
            ("from the platform", "custom"),
            ("Owner of the account", "2"),
            ("github, apn_Hub: used by other.github", "2"),
            ("Names of its credentials", "token"),
            ("token:", "ghp_secret-value"),
        ],
    )

    assert status == 0, said
    assert said.count("slack, apn_Git: used by send.slack, more.slack") == 1
    assert "ghp_secret-value" not in said
    back, sidecar = as_written(pdkernel.folder / "n.ipynb")
    assert (back.trigger.auth, back.trigger.response) == ("oauth", "custom")
    assert [sidecar.steps[name].accounts["slack"].account for name in ("send", "more")] == [own, own]
    assert sidecar.steps["send"].accounts["slack"].synced == "apn_Git"
    assert sidecar.steps["other"].accounts["github"].account == "apn_Hub"
    assert "apn_Hub" in [item["id"] for item in pdkernel("accounts", "list", "--own", "--json").json]


def test_a_subscription_may_be_one_to_errors(pdkernel: Shell) -> None:
    """For a trigger that Git holds as `sub_...`, the answer `errors` makes an errors trigger; a second import reuses the answer."""
    workflow(pdkernel, steps="")
    path = pdkernel.folder / "send-it-p_1" / "workflow.yaml"
    path.write_text(path.read_text().replace("hi_1", "sub_1"))
    command = ("import", "send-it-p_1", "--to", "n.ipynb")

    status, said = pdkernel.on_terminal(*command, answers=[("Event source sub_1", "errors")])
    back, _ = as_written(pdkernel.folder / "n.ipynb")
    again = pdkernel(*command)

    assert (status, again.status) == (0, 0), said + again.stderr
    assert back.triggers == (Trigger("errors", config={"id": "sub_1"}),)
    assert as_written(pdkernel.folder / "n.ipynb")[0].triggers == back.triggers


def test_an_account_that_cannot_be_added_is_asked_for_again(tmp_path: Path) -> None:
    """The error of a new account is shown, and the question is asked again."""
    question = AccountQuestion("slack", "not an id", (("send", "slack"),))

    asked, shown = asking(
        tmp_path, "2", "token", "made-up-token", "1", ask=lambda prompts: prompts.ask_accounts([question])
    )

    assert "Error: " in shown
    assert shown.count("slack, not an id: used by send.slack") == 2
    assert asked == {("slack", "not an id"): "external_user"}


def test_a_large_import_shows_its_progress(pdkernel: Shell) -> None:
    """On a terminal, an import of twenty workflows shows the number of the current one, and clears the line at the end."""
    for number in range(20):
        synced(pdkernel.folder / f"repo/flow-p_{number}", HEAD.removesuffix("\n") + " []\n")

    status, shown = pdkernel.on_terminal("import", "repo", "--to", "notebooks", "--accounts", "external-user")

    assert status == 0, shown
    assert "\r\x1b[Kimporting 7 of 20: flow-p_" in shown
    assert "importing 20 of 20: flow-p_9\r\x1b[K" in shown


def test_the_enter_key_decides_nothing(pdkernel: Shell) -> None:
    """The default of every question leaves the account unanswered."""
    workflow(pdkernel)

    status, said = pdkernel.on_terminal(
        *("import", "send-it-p_1", "--to", "n.ipynb"),
        answers=[("authentication", ""), ("from the platform", ""), ("Owner of the account", "")],
    )

    assert status == 0, said
    assert as_written(pdkernel.folder / "n.ipynb")[1].steps["send"].accounts["slack"].account == "unanswered"
    assert json.loads((pdkernel.folder / "n.ipynb").read_text())["nbformat"] == 4


def test_the_output_of_a_second_import(pdkernel: Shell) -> None:
    """The output distinguishes new, unchanged and replaced notebooks, and names the copy of a replaced one."""
    workflow(pdkernel)
    command = ("import", "send-it-p_1", "--to", "n.ipynb")

    first, second = pdkernel(*command), pdkernel(*command)
    (pdkernel.folder / "send-it-p_1" / "count" / "entry.py").write_text(COUNT.replace("counted", "added"))
    refused, forced = pdkernel(*command), pdkernel(*command, "--force")

    assert first.stdout.startswith("Imported send-it-p_1 as n.ipynb\n")
    assert second.stdout.startswith("Unchanged: send-it-p_1 as n.ipynb\n")
    assert (refused.status, "--force" in refused.stderr) == (2, True)
    assert forced.stdout.startswith("Imported again send-it-p_1 as n.ipynb\n  The previous file is now ")
    backup = Path(forced.stdout.splitlines()[1].removeprefix("  The previous file is now "))
    assert "counted" in (pdkernel.folder / backup).read_text()


def test_action_folders_are_beside_the_settings(pdkernel: Shell) -> None:
    """A folder of components in `pdkernel.yaml` is relative to that file, in a first import and in a later one."""
    place = pdkernel.folder / "components" / "depot" / "actions" / "put"
    place.mkdir(parents=True)
    place.joinpath("put.mjs").write_text(
        'export default { key: "depot-put", name: "Put", version: "0.0.1", type: "action", props: {}, async run() {} };'
    )
    place.parents[1].joinpath("depot.app.mjs").write_text('export default { type: "app", app: "depot" };')
    folder = workflow(pdkernel, "repo/put-p_1", "- namespace: put\n  runtime: nodejs20.x\n  uses: depot-put@0.0.1\n")
    (folder / "pdkernel.yaml").write_text("schema: pdkernel/1\nactions: [../../components]\n")

    reports = [pdkernel("import", "repo/put-p_1", "--to", "n.ipynb", "--json").json["report"] for _ in range(2)]

    assert [[(use["step"], use["runs"]) for use in report["actions"]] for report in reports] == [[("put", True)]] * 2


def test_an_option_replaces_the_questions(pdkernel: Shell) -> None:
    """With --accounts there are no questions on a terminal."""
    workflow(pdkernel)

    status, said = pdkernel.on_terminal("import", "send-it-p_1", "--to", "n.ipynb", "--accounts", "own", answers=[])

    assert status == 0, said
    assert as_written(pdkernel.folder / "n.ipynb")[1].steps["send"].accounts["slack"].account == "apn_Git"


def test_there_are_no_questions_in_a_notebook_cell(pdkernel: Shell) -> None:
    """The terminal of a notebook cell has no input, so the accounts stay unanswered."""
    workflow(pdkernel)

    status, said = pdkernel.on_terminal("import", "send-it-p_1", "--to", "n.ipynb", answers=[], JPY_PARENT_PID="1")

    assert status == 0
    assert "The owner of these accounts is unknown" in said


# ── the questions ───────────────────────────────────────────────────────────────────────────────────────


def asking(
    folder: Path,
    *answers: str,
    ask: Callable[[ImportPrompts], Any],
    workflows: int = 1,
    project: str | None = ".pdkernel",
) -> tuple[Any, str]:
    """Call *ask* with the prompts of an import of *folder* and a person who types *answers*; returns also what is shown."""
    state = CliContext()
    state.project_folder, state.quiet = project and str(folder / project), True
    try:
        with CliRunner().isolation(input="".join(f"{answer}\n" for answer in answers)) as (_, shown, *_rest):
            asked = ask(ImportPrompts(state, root=folder / "repo", workflows=workflows))
            return asked, shown.getvalue().decode()
    finally:
        state.close()


@pytest.mark.parametrize(
    ("answers", "config"),
    [
        (["0 9 * * *", "Asia/Kolkata"], {"cron": "0 9 * * *", "timezone": "Asia/Kolkata"}),
        (["3600", ""], {"interval_seconds": 3600, "timezone": "UTC"}),
        (["\u00b2", ""], {"cron": "\u00b2", "timezone": "UTC"}),
        ([""], None),
    ],
)
def test_a_schedule_is_asked_for(tmp_path: Path, answers: list[str], config: dict[str, Any] | None) -> None:
    """The answers are a cron expression or seconds, and the time zone; an empty answer keeps what is assumed."""
    trigger = Trigger("schedule", config={"id": "ti_1"})

    asked, _ = asking(tmp_path, *answers, ask=lambda prompts: prompts.ask_trigger(trigger))

    assert asked == (None if config is None else Trigger("schedule", config={"id": "ti_1", **config}))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("slack-new-message@0.1.0", Trigger("source", config={"id": "dc_1", "uses": "slack-new-message@0.1.0"})),
        ("errors", Trigger("errors", config={"id": "dc_1"})),
        ("", None),
    ],
)
def test_a_source_is_asked_for(tmp_path: Path, answer: str, expected: Trigger | None) -> None:
    """The answer is a component, or `errors`; an empty answer keeps what is assumed."""
    trigger = Trigger("source", config={"id": "dc_1"})

    assert asking(tmp_path, answer, ask=lambda prompts: prompts.ask_trigger(trigger))[0] == expected


def test_an_http_trigger_is_asked_for(tmp_path: Path) -> None:
    """A token is asked for with bearer authentication only; Enter keeps the response that is assumed."""
    trigger = Trigger("http", response="custom", config={"id": "hi_1"})

    asked, _ = asking(tmp_path, "bearer", "MY_TOKEN", "", ask=lambda prompts: prompts.ask_trigger(trigger))
    plain, _ = asking(tmp_path, "", "default", ask=lambda prompts: prompts.ask_trigger(trigger))

    assert asked == replace(trigger, auth="bearer", token_env="MY_TOKEN")
    assert plain == replace(trigger, response="default")


def test_each_trigger_is_asked_for_once(tmp_path: Path) -> None:
    """Two triggers of one type have answers of their own, which a later workflow with the same trigger takes over."""
    first, second = (Trigger("schedule", config={"id": f"ti_{number}"}) for number in (1, 2))

    def ask(prompts: ImportPrompts) -> list[Any]:
        return [prompts.ask_trigger(each) for each in (first, second, first, Trigger("email", config={"id": "em_1"}))]

    asked, shown = asking(tmp_path, "y", "60", "", "90", "", ask=ask, workflows=2)

    assert [each and each.config["interval_seconds"] for each in asked] == [60, 90, 60, None]
    assert [shown.count(text) for text in ("Enter them now", "Schedule ti_1", "Schedule ti_2")] == [1, 1, 1]


def test_the_questions_of_a_repository_can_be_left_out(tmp_path: Path) -> None:
    """For several workflows the first question is whether to ask for triggers; Enter means no."""
    trigger = Trigger("schedule", config={"id": "ti_1"})

    asked, shown = asking(tmp_path, "", ask=lambda prompts: prompts.ask_trigger(trigger), workflows=2)

    assert (asked, "Schedule ti_1" in shown) == (None, False)


def choices_of(
    folder: Path, account_id: str, *uses: tuple[str, str], project: str | None = ".pdkernel"
) -> tuple[Any, list[str]]:
    """The answer to a question for a Slack account if a person presses Enter, and the lines that are shown."""
    question = AccountQuestion("slack", account_id, uses)
    asked, shown = asking(folder, "", ask=lambda prompts: prompts.ask_accounts([question, question]), project=project)
    return asked[("slack", account_id)], shown.splitlines()


def test_the_choices_of_an_account(tmp_path: Path) -> None:
    """The choices are the external user, own accounts, a new own account with an id of its own, and no decision, the default."""
    with Project.open(tmp_path / ".pdkernel") as project:
        add = LocalDirectory(project).add_account
        add(app="slack", credentials={"a": "b"}, external_user_id=None, account_id="apn_own")
        add(app="slack", credentials={"a": "b"}, external_user_id="ada", account_id="apn_ada")
        add(app="github", credentials={"a": "b"}, external_user_id=None, account_id="apn_hub")
    own, later = "  2  your own apn_own  slack", "decide later: the workflow can be exported, but not run"

    unknown = choices_of(tmp_path, "apn_Git", ("send", "slack"))
    known, without = choices_of(tmp_path, "apn_own"), choices_of(tmp_path, "")

    assert unknown[0] == "unanswered"
    assert unknown[1][:5] == [
        "slack, apn_Git: used by send.slack",
        "  1  the external user's account",
        own,
        "  3  your own account; adds it now with the id apn_Git",
        f"  4  {later}",
    ]
    assert [each[1][1:4] for each in (known, without)] == [
        ["  1  the external user's account", own, f"  3  {later}"],
        ["  1  the external user's account", own, f"  3  {later}"],
    ]


def test_a_question_cannot_control_the_terminal(tmp_path: Path) -> None:
    """Control characters in the name of an own account, and in the id in the file, are shown as text."""
    with Project.open(tmp_path / ".pdkernel") as project:
        LocalDirectory(project).add_account(
            app="slack", credentials={"a": "b"}, external_user_id=None, account_id="apn_own", name="\x1b]0;owned\a"
        )

    _, lines = choices_of(tmp_path, "apn_\a", ("send", "slack"))

    assert lines[0] == "slack, apn_\\x07: used by send.slack"
    assert lines[2] == "  2  your own apn_own  \\x1b]0;owned\\x07"


@pytest.mark.parametrize("has_project", [True, False])
def test_no_project_is_created_in_the_imported_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_project: bool
) -> None:
    """In the imported folder, own accounts are choices if there is a project; otherwise none is created for them."""
    folder = tmp_path / "repo"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("PDKERNEL_PROJECT", "PDKERNEL_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    if has_project:
        with Project.open(folder / ".pdkernel") as project:
            LocalDirectory(project).add_account(
                app="slack", credentials={"a": "b"}, external_user_id=None, account_id="apn_own"
            )

    _, lines = choices_of(tmp_path, "apn_Git", ("send", "slack"), project=None)

    assert len(lines[:-1]) == (5 if has_project else 3)
    assert (folder / ".pdkernel").exists() == has_project


@pytest.mark.parametrize(("count", "more"), [(5, ""), (7, " and 2 more")])
def test_the_first_uses_of_an_account_are_shown(tmp_path: Path, count: int, more: str) -> None:
    """A question lists five uses of the account, and the number of others."""
    uses = [(f"s{number}", "slack") for number in range(count)]

    _, lines = choices_of(tmp_path, "apn_Git", *uses)

    assert lines[0] == f"slack, apn_Git: used by s0.slack, s1.slack, s2.slack, s3.slack, s4.slack{more}"


# ── every form of a prop's value ────────────────────────────────────────────────────────────────────────


FOLDER = "add-rows-p_Ab12Cd3"
KEY = "kiosk-key-77ab01"

APP = """
export default {
  type: "app",
  app: "kiosk",
  propDefinitions: {
    sheet: { type: "string", label: "Sheet", withLabel: false, async options() { return [{ label: "Guests", value: "12" }]; } },
  },
  methods: { columns(sheet) { return { 12: ["Name", "Age"], 13: ["Title"] }[sheet] ?? []; } },
};
"""
ADD_ROW = """
import kiosk from "../../kiosk.app.mjs";

export default {
  key: "kiosk-add-row", name: "Add Row", version: "0.2.1", type: "action",
  props: {
    kiosk,
    sheet: { propDefinition: [kiosk, "sheet"], reloadProps: true },
    folder: { type: "string", label: "Folder", withLabel: true },
    tags: { type: "string[]", label: "Tags", optional: true },
    hasHeaders: { type: "boolean", label: "Headers?", reloadProps: true },
  },
  async additionalProps() {
    const props = {};
    if (!this.hasHeaders) return { rows: { type: "string[]", label: "Rows" } };
    this.kiosk.columns(this.sheet).forEach((label, n) => {
      props[`col_000${n}`] = { type: n ? "integer" : "string", label, optional: n > 0 };
    });
    return props;
  },
  async run({ $ }) {
    const cells = Object.entries(this).filter(([name]) => name.startsWith("col_"));
    $.export("$summary", `Added a row to ${this.sheet}`);
    return { sheet: this.sheet, folder: this.folder, tags: this.tags, cells: Object.fromEntries(cells) };
  },
};
"""
SEND_ACTION = """
import kiosk from "../../kiosk.app.mjs";

export default {
  key: "kiosk-send", name: "Send", version: "0.0.3", type: "action",
  props: { kiosk, httpRequest: { type: "http_request", label: "Request", default: { method: "GET" } } },
  async run() {
    return { method: this.httpRequest.method, got: await this.httpRequest.execute() };
  },
};
"""
CODE = """\
export default defineComponent({
  props: {
    choice: { type: "string", withLabel: true },
    many: { type: "string[]" },
    request: { type: "http_request" },
  },
  async run({ steps, $ }) {
    return { choice: this.choice, many: this.many, got: await this.request.execute() };
  },
})
"""
PYTHON = """\
def handler(pd: "pipedream"):
    return [pd.inputs["kiosk"]["$auth"]["api_key"][-4:], pd.inputs["picked"]]
"""
WORKFLOW = """\
schema: workflow/2022.04
name: Add Rows
settings:
  error_notification: true
triggers:
- id: hi_AbCdEfG
steps:
- namespace: add_row
  runtime: nodejs20.x
  uses: kiosk-add-row@0.2.1
  _props_cursor: dyp_Xk2uYz9
  props:
    kiosk:
      authProvisionId: apn_desk123
    sheet:
      __lv:
        label: Guests
        value: '12'
    folder:
      __lv:
        label: My folder
        value: f_1
    tags:
      __lv:
      - label: Red
        value: r
      - label: Blue
        value: b
    hasHeaders: true
    col_0000: "{{steps.trigger.event.body.name}}"
    col_0001: "{{steps.trigger.event.body.age}}"
- namespace: send
  runtime: nodejs20.x
  uses: kiosk-send@0.0.3
  props:
    kiosk:
      authProvisionId: apn_desk123
    httpRequest:
      auth:
        type: bearer
        token: "{{process.env.DESK_TOKEN}}"
      body:
        type: fields
        contentType: application/json
        fields:
        - name: sheet
          value: "{{steps.add_row.$return_value.sheet}}"
        - name: cells
          value: "{{steps.add_row.$return_value.cells}}"
      headers:
      - name: x-name
        value: row of {{steps.trigger.event.body.name}}
      - name: x-off
        value: 'no'
        disabled: true
      params:
      - name: age
        value: "{{steps.trigger.event.body.age}}"
      tab: body
      method: POST
      url: https://api.kiosk.example/rows
- namespace: code
  runtime: nodejs20.x
  uses: "./code/entry.js"
  props:
    choice:
      __lv:
        label: First
        value: one
    many:
    - __lv:
        label: A
        value: a
    - b
    request:
      method: GET
      url: https://api.kiosk.example/{{steps.send.$return_value.got.id}}
      tab: params
- namespace: check
  runtime: python3.12
  uses: "./check/entry.py"
  props:
    __configurableProps:
    - app: kiosk
      name: kiosk
      type: app
    kiosk:
      authProvisionId: apn_desk123
    picked:
      __lv:
        label: Seven
        value: 7

"""


@pytest.fixture
def kiosk() -> Iterator[Kiosk]:
    """The API of the app."""
    with open_kiosk() as server:
        yield server


@pytest.fixture
def synced_folder(pdkernel: Shell, kiosk: Kiosk) -> Path:
    """The folder, beside a checkout with its actions, in a project with its account and variable."""
    components = pdkernel.folder / "components" / "kiosk"
    files = {
        components / "kiosk.app.mjs": APP,
        components / "actions/add-row/add-row.mjs": ADD_ROW,
        components / "actions/send/send.mjs": SEND_ACTION,
        pdkernel.folder
        / FOLDER
        / ".workflow.state": "# DO NOT EDIT THIS FILE\n---\nschema: workflow.state/2022.04\nid: p_Ab12Cd3\n",
        pdkernel.folder / FOLDER / "workflow.yaml": WORKFLOW,
        pdkernel.folder / FOLDER / "code/entry.js": CODE,
        pdkernel.folder / FOLDER / "check/entry.py": PYTHON,
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert pdkernel("project", "set", "actions", ".").status == 0
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "kiosk", "--credential", "api_key=-", stdin=KEY)
    pdkernel("env", "set", "DESK_TOKEN", stdin="kiosk-token-90ab12")
    return pdkernel.folder / FOLDER


def test_a_synced_folder_runs(pdkernel: Shell, synced_folder: Path, kiosk: Kiosk) -> None:
    """Picked options are their values (with labels if the prop requires them); added props and requests are evaluated."""
    body = json.dumps({"name": "Ada", "age": 36})

    ran = pdkernel(
        "run", FOLDER, "--body", body, "--external-user", "ada", "--egress", f"stand-in={kiosk.url}", "--json"
    )

    assert ran.status == 0, ran.stdout + ran.stderr
    returned = {step["name"]: step["exports"].get("$return_value") for step in ran.json["steps"]}
    assert returned == {
        "add_row": {
            "sheet": "12",
            "folder": {"label": "My folder", "value": "f_1"},
            "tags": ["r", "b"],
            "cells": {"col_0000": "Ada", "col_0001": 36},
        },
        "send": {"method": "POST", "got": {"id": "hook_1"}},
        "code": {"choice": {"label": "First", "value": "one"}, "many": ["a", "b"], "got": {"id": "hook_1"}},
        "check": [KEY[-4:], 7],
    }
    assert kiosk.asked == [
        ("POST", "/rows?age=36", {"sheet": "12", "cells": {"col_0000": "Ada", "col_0001": 36}}),
        ("GET", "/hook_1", None),
    ]
    assert kiosk.keys == {"Bearer kiosk-token-90ab12", None}


def test_an_edited_value_has_no_old_label(pdkernel: Shell, synced_folder: Path) -> None:
    """An unchanged file is written unchanged; an edited value is written and passed to the step without the old label."""
    workflow = read_folder_workflow(synced_folder, assumed_account="own")
    code = workflow.steps[2]
    edited = replace(code, props={**code.props, "choice": "two"})

    same = plan_files(workflow)[0]
    other = plan_files(replace(workflow, steps=(*workflow.steps[:2], edited, workflow.steps[3])))[0]

    assert same.text == WORKFLOW
    assert "label: First" in same.text
    assert "    choice: two\n" in other.text
    assert list(code.picked_options) == ["choice", "many"]
    assert list(edited.picked_options) == ["many"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_kill_between_the_renames_leaves_no_notebook_alone(pdkernel: Shell, number: int) -> None:
    """
    A notebook never stands without the `pdkernel.yaml` that has its answers, and the earlier one is at its place or a backup.

    The renames are those of both earlier files to backups, and those of both new files to their places.
    """
    source = workflow(pdkernel)
    command = ("import", str(source), "--to", "n.ipynb", "--accounts", "own")
    assert pdkernel(*command).status == 0
    notebook, sidecar = pdkernel.folder / "n.ipynb", pdkernel.folder / "n.pdkernel.yaml"
    earlier = notebook.read_text() + "\n"
    notebook.write_text(earlier.replace('"cells": [', '"cells": [' + NOTE, 1))
    earlier = notebook.read_text()

    killed = pdkernel(*command, "--force", before=[KILL_AT_RENAME, number, str(pdkernel.folder)])
    is_alone = notebook.exists() and not sidecar.exists()
    kept = [file.read_text() for file in pdkernel.folder.glob("n.ipynb*")]
    again = pdkernel(*command, "--force")

    assert killed.status == -signal.SIGKILL
    assert not is_alone
    assert earlier in kept
    assert again.status == 0
    assert (notebook.exists(), sidecar.exists()) == (True, True)


def test_modernize_shows_the_difference(pdkernel: Shell) -> None:
    """`--modernize` rewrites an old step in the notebook, and prints the difference."""
    yaml = (
        "schema: workflow/2022.04\nname: W\ntriggers:\n- id: hi_1\nsteps:\n- namespace: old\n  uses: ./old/entry.js\n"
    )
    folder = synced(pdkernel.folder / "git", yaml, old__entry_DOT_js='async (event, steps) => {\n  $end("x");\n}\n')

    done = pdkernel("import", folder.name, "--to", "n.ipynb", "--modernize")

    assert done.status == 0, done.stderr
    assert '-  $end("x");' in done.stdout
    assert '+  return $.flow.exit("x");' in done.stdout
    assert "return $.flow.exit" in (pdkernel.folder / "n.ipynb").read_text()


ARCHIVED = workflow_json(
    "Greet",
    [
        step("count", 'def handler(pd):\n    return {"n": 3}\n', lang="python3.12"),
        {"namespace": "triage", "type": "IfElse", "branches": [{"steps": [step("page", RAISE, lang="python3.12")]}]},
    ],
    workflow_id="p_Ab12Cd3",
)


def test_an_archive_becomes_notebooks(pdkernel: Shell) -> None:
    """Each workflow and each line of the manifest is printed, and what was not understood has a command that shows it."""
    listed = manifest(
        {"id": "p_Ab12Cd3", "name": "Greet", "status": "exported"},
        {"name": "Draft", "status": "skipped_never_deployed"},
    )
    pack(pdkernel.folder / "export.zip", {"Sales/greet.json": ARCHIVED}, listed=listed)

    ended = pdkernel("import", "export.zip", "--to", "notebooks")
    again = pdkernel("import", "export.zip", "--to", "notebooks", "--json")

    assert ended.status == 0, ended.stderr
    assert "Imported export.zip/Sales/greet.json as notebooks/Sales/greet-p_Ab12Cd3.ipynb" in ended.stdout
    assert "  Draft: skipped: it was never deployed." in ended.stdout
    assert "pdkernel import --explain export.zip" in ended.stdout
    assert [line["name"] for line in again.json["lines"]] == ["Greet", "Draft"]
    assert again.json["workflows"][0]["state"] == "unchanged"
    assert again.json["workflows"][0]["report"]["conditions"] == [
        {"step": "page", "path": "$.steps[1].branches[0].steps[0]"}
    ]


def test_a_step_of_an_unknown_branch_never_runs_unasked(pdkernel: Shell) -> None:
    """A run is refused while the unknown part is in the notebook; without it, the step is skipped until it is enabled."""
    pack(pdkernel.folder / "export.zip", {"greet.json": ARCHIVED})
    pdkernel("import", "export.zip", "--to", "notebooks")
    notebook = pdkernel.folder / "notebooks" / "greet-p_Ab12Cd3.ipynb"

    refused = pdkernel("run", str(notebook), "--body", "{}")
    text = json.loads(notebook.read_text())
    text["cells"] = [cell for cell in text["cells"] if not cell["id"].startswith("kept-")]
    notebook.write_text(json.dumps(text))
    ran = pdkernel("run", str(notebook), "--body", "{}", "--json")

    assert refused.status == 2
    assert "triage is unknown ($.steps[1]" in refused.stderr
    assert ran.status == 0, ran.stderr
    assert [(each["name"], each["status"]) for each in ran.json["steps"]] == [
        ("count", "success"),
        ("page", "disabled"),
    ]


def test_an_archive_with_a_secret_needs_its_value(pdkernel: Shell) -> None:
    """A redacted prop stops a run until its value is given, and the step gets it then."""
    code = 'def handler(pd):\n    return pd.inputs["key"]\n'
    item = workflow_json(
        "W", [step("a", code, lang="python3.12", props={"key": "<redacted>"})], workflow_id="p_Ab12Cd3"
    )
    pack(pdkernel.folder / "export.zip", {"w.json": item})
    pdkernel("import", "export.zip", "--to", "w.ipynb")

    refused = pdkernel("run", "w.ipynb", "--body", "{}")
    pdkernel("secrets", "set", "w.ipynb", "a", "key", stdin="the-real-value")
    ran = pdkernel("run", "w.ipynb", "--body", "{}", "--json")

    assert refused.status == 2
    assert "key of step a" in refused.stderr
    assert ran.status == 0, ran.stderr


@pytest.mark.parametrize(("choice", "account"), [("own", "apn_Git1"), ("external-user", "external_user")])
def test_the_accounts_of_an_archive(pdkernel: Shell, choice: str, account: str) -> None:
    """The option answers for the ids of an archive as for those of Git."""
    item = workflow_json("W", [step("a", SEND, props={"slack": {"authProvisionId": "apn_Git1"}})])
    pack(pdkernel.folder / "export.zip", {"w.json": item})

    ended = pdkernel("import", "export.zip", "--to", "n", "--accounts", choice)

    assert ended.status == 0, ended.stderr
    assert as_written(pdkernel.folder / "n" / "w.ipynb")[1].steps["a"].accounts["slack"].account == account


def test_explain_prints_no_values(pdkernel: Shell) -> None:
    """The shapes of what is not understood are printed, and nothing is written."""
    pack(pdkernel.folder / "export.zip", {"w.json": {**ARCHIVED, "owner": {"email": "ada@example.com"}}})

    text = pdkernel("import", "export.zip", "--explain")
    data = pdkernel("import", "--explain", "export.zip", "--json")

    assert text.status == 0, text.stderr
    assert "$.owner: 1 part in 1 workflow\n  (itself): object\n  .email: text\n" in text.stdout
    assert "  .branches[].steps[]: step\n" in text.stdout
    assert "ada@example.com" not in text.stdout + data.stdout
    assert [each["path"] for each in data.json] == ["$.steps[]", "$.owner"]
    assert [path.name for path in pdkernel.folder.iterdir() if path.suffix != ".zip"] == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["export.zip"], "Missing option '--to'"),
        (["export.zip", "--to", "n"], "damaged or not whole"),
        ([".", "--explain"], "is not an archive"),
        ([".", "--to", "n", "--ignore", "meta"], "is not an archive"),
    ],
)
def test_wrong_uses_of_archives_are_refused(pdkernel: Shell, words: list[str], what: str) -> None:
    """A missing target, a damaged archive, and options of archives for a folder end with status 2, and nothing is written."""
    (pdkernel.folder / "export.zip").write_bytes(b"PK\x03\x04")

    ended = pdkernel("import", *words)

    assert ended.status == 2
    assert what in ended.stderr
    assert [path.name for path in pdkernel.folder.iterdir()] == ["export.zip"]
