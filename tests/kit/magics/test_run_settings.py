"""`%pduser`, `%pdevent`, `%pdegress` and `%pdpin`, in a real IPython shell."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import pytest

from pdkernel.kit.session.state import read_pinned_steps
from tests.cli.kiosk import write_kiosk
from tests.cli.test_sources import HEADER, SOURCE, STEP
from tests.kit.magics.conftest import CHECK, GREET, Notebook, Run
from tests.many_users import add_failed_runs, add_users


def test_pduser_reports_a_missing_account(notebook: Notebook, run: Run) -> None:
    """`%pduser ID` chooses the user and names the missing account with a command."""
    run("%%pdstep send --app slack --no-run\ndef handler(pd):\n    return 1\n")

    shown = run("%pduser ada")

    assert notebook.session.external_user_id == "ada"
    assert "slack" in shown
    assert "pdkernel accounts add --external-user ada --app slack" in shown


def test_pduser_search_lists_users(notebook: Notebook, run: Run) -> None:
    """`--search` lists the users that match, the most recently active first, with their marks; it changes no setting."""
    project = notebook.session.project
    add_users(project, 40)
    add_failed_runs(project, {"user-00012": "/failed"}, at=project.clock.now())
    run("%%pdstep send --app slack --no-run\ndef handler(pd):\n    return 1\n")

    found = run("%pduser --search 'COMPANY 1'")
    many = run("%pduser --search user --environment development")
    none = run("%pduser --search user --environment production")

    assert [line.split()[0] for line in found.splitlines()[:3]] == ["user-00012", "user-00001", "user-00010"]
    assert "✓ ready  ! failed today  Company 12 · Slack · active" in found
    assert "11 external users whose id or account name contains 'COMPANY 1'." in found
    assert "20 more. To narrow the search, write a longer text." in many
    assert "There are no external users" in none
    assert (notebook.session.external_user_id, notebook.session.environment) == (None, "development")


def test_pduser_matrix_of_a_search(notebook: Notebook, run: Run) -> None:
    """`--matrix` counts all users first; with `--search` it has only those that match."""
    add_users(notebook.session.project, 120)
    run("%%pdstep send --app slack --no-run\ndef handler(pd):\n    return 1\n")

    whole, some = run("%pduser --matrix"), run("%pduser --matrix --search 'company 11'")

    assert "80 of 120 external users can run it. No code was run.\n80 ready, 40 missing Slack." in whole
    assert "70 more external users are not shown. To find some of them, add --search TEXT." in whole
    assert "6 of 11 external users can run it." in some


def test_pdevent_takes_the_event_of_a_run(notebook: Notebook, run: Run) -> None:
    """`--run` chooses the event and the user of a recorded run, and keeps the outbound policy."""
    project = notebook.session.project
    add_failed_runs(project, {"ada": "/failed"}, at=project.clock.now())
    run("%%pdstep check\ndef handler(pd):\n    return 1\n")
    policy = notebook.session.outbound_policy

    shown = run("%pdevent --run run-ada")
    unknown, both = run("%pdevent --run gone"), run("%pdevent one --run run-ada")

    assert "Event run run-ada: POST /failed" in shown
    assert "as ada in development" in shown
    assert notebook.session.event is not None
    assert notebook.session.event.data["body"] == {"from": "ada"}
    assert notebook.session.outbound_policy == policy
    assert "There is no run 'gone'" in unknown
    assert "An event and --run exclude each other." in both


def test_pduser_changes_what_the_line_names(notebook: Notebook, run: Run) -> None:
    """An environment, a user and `--clear` each keep what the line does not name."""
    choices = []
    for line in ("ada", "--environment production", "grace", "--clear --environment development", "eve", "--clear"):
        run(f"%pduser {line}")
        choices.append((notebook.session.external_user_id, notebook.session.environment[:4]))

    assert choices == [
        ("ada", "deve"),
        ("ada", "prod"),
        ("grace", "prod"),
        (None, "deve"),
        ("eve", "deve"),
        (None, "deve"),
    ]


def test_pduser_connects_a_test_account_once(notebook: Notebook, run: Run) -> None:
    """`--sandbox` connects an account with made-up credentials for a user without one, and keeps an account that is there."""
    heard: list[int] = []
    run("%pduser ada")
    notebook.session.add_listener(lambda: heard.append(1))
    first = run("%pduser ada --sandbox slack")
    changes = len(heard)
    second = run("%pduser ada --sandbox slack")

    (account,) = notebook.session.directory.accounts(external_user_id="ada")
    assert (account.app, account.name) == ("slack", "test account")
    assert "Connected a test account of Slack for ada. Its credentials are made up, for a stand-in." in first
    assert "Connected" not in second
    assert (changes, len(heard) - changes) == (2, 1)  # of the user, and of the accounts


def test_pduser_connects_a_test_account_of_the_picked_user(notebook: Notebook, run: Run) -> None:
    """`--sandbox` alone connects an account for the picked user; without a picked user it is refused."""
    without_user = run("%pduser --sandbox slack")
    run("%pduser ada")
    run("%pduser --sandbox slack")

    assert "An external user's id cannot be blank." in without_user
    assert [account.app for account in notebook.session.directory.accounts(external_user_id="ada")] == ["slack"]


def test_pduser_reports_a_missing_own_account(notebook: Notebook, run: Run) -> None:
    """A missing own account is reported with a command; then it is ready like any account."""
    run("%%pdstep send --app slack=apn_own1 --no-run\ndef handler(pd):\n    return 1\n")

    before = run("%pduser ada")
    notebook.session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "x" * 9}, external_user_id=None, account_id="apn_own1"
    )
    after = run("%pduser ada")

    assert "1 account to connect" in before
    assert "pdkernel accounts add --own --app slack --id apn_own1" in before
    assert "every account is connected" in after


def test_event_is_a_variable_with_views(notebook: Notebook, run: Run) -> None:
    """The variable `event` is the chosen event, with `frame()` as a table and `schema()` as JSON Schema."""
    run("%pdevent hello")

    run("kinds = (type(event.frame()).__name__, event.schema()['type'])")

    assert notebook.shell.user_ns["kinds"] == ("DataFrame", "object")


def test_event_saved_under_a_name(run: Run, tmp_path: Path) -> None:
    """`%pdevent --save NAME` writes the event to the library."""
    run("%pdevent hello")

    shown = run("%pdevent --save copy")

    assert "events/copy.json" in shown
    assert (tmp_path / "events" / "copy.json").is_file()


def test_choosing_an_event_reports_drift(run: Run, tmp_path: Path) -> None:
    """A chosen or sent event with drift is reported with field, step and cell; other events are not."""
    (tmp_path / "events" / "new.json").write_text('{"method": "POST", "body": {"name": 7, "more": 1}}')
    (tmp_path / "events" / "same.json").write_text('{"method": "POST", "body": {"name": "Bo", "more": [1]}}')
    run(CHECK)

    chosen, sent, again = run("%pdevent new"), run("%pdevent new --send"), run("%pdevent --send")
    same = run("%pdevent same")

    assert re.search(r"body.name is now number; in earlier events it was string. Read by check \(.*line 4\)", chosen), (
        chosen
    )
    assert "body.name is now number" in sent
    assert "body.name is now number" in again
    assert "body.name" not in same


def test_pdegress_shows_the_policy(run: Run) -> None:
    """`%pdegress` shows the mode, the proxy without its password, and the unopened hosts."""
    shown = run("%pdegress allow=slack.com via=http://me:secret@proxy.test:3128 unopened=pinned.test")

    assert "go to slack.com only" in shown
    assert "through the proxy proxy.test." in shown
    assert "Calls to pinned.test pass through without decryption." in shown
    assert "secret" not in shown


def test_pdenv_lists_sets_and_removes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`%pdenv` lists variables by name with the steps that read them, and never shows a value."""
    empty = run("%pdenv")
    monkeypatch.setattr(getpass, "getpass", lambda _: "a-value-of-a-test")
    said = [run(f"%pdenv set {name}") for name in "EDCBA"]
    run("%%pdstep read --no-run\nimport os\ndef handler(pd):\n    return [os.environ['Z'], os.environ['B'], os.environ['Y']]\n")  # fmt: skip

    listed = run("%pdenv").strip().split("\n")
    removed, again, unnamed = run("%pdenv remove A"), run("%pdenv remove A"), run("%pdenv remove")

    assert "No environment variables. To set a variable: %pdenv set NAME" in empty
    assert "E is set." in said[0]
    assert listed == [
        "A  set",
        "B  set, read by read",
        "C  set",
        "D  set",
        "E  set",
        "Y  NOT SET, read by read: %pdenv set Y",
        "Z  NOT SET, read by read: %pdenv set Z",
    ]
    assert "A is removed." in removed
    assert "There is no environment variable A." in again
    assert "%pdenv remove NAME" in unnamed


def test_doctor_reads_the_pins_of_a_notebook(notebook: Notebook, run: Run, tmp_path: Path) -> None:
    """A step that is pinned in the session of a notebook is found by its path."""
    run("%%pdstep one --no-run\ndef handler(pd):\n    return 1\n")
    run("%pdpin one 1")

    pinned = read_pinned_steps(notebook.session.project, notebook.session.notebook or notebook.session.folder)

    assert pinned == {"one"}


def test_pdsecrets_lists_sets_and_removes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`%pdsecrets` lists the secret props of the workflow and prompts for a value, with which the step then runs."""
    run("%pdevent hello")
    cell = """%%pdstep ask --prop 'key={"_enc": "x"}'\ndef handler(pd):\n    return len(pd.inputs["key"])\n"""
    refused = run(cell)
    monkeypatch.setattr(getpass, "getpass", lambda _: "a-value-of-a-test")

    before, said, after = run("%pdsecrets"), run("%pdsecrets set ask key"), run("%pdsecrets")
    variables, ran = run("%pdenv"), run(cell)
    unknown, removed = run("%pdsecrets remove ask kye"), run("%pdsecrets remove ask key")
    unnamed = run("%pdsecrets set ask")

    assert "Give the value: %pdsecrets set ask key" in refused
    assert before.strip() == "ask.key  NOT SET: %pdsecrets set ask key"
    assert "ask.key is set." in said
    assert after.strip() == "ask.key  set"
    assert "ask.key" not in variables
    assert str(len("a-value-of-a-test")) in ran
    assert "removed" not in unknown
    assert "removed" in removed
    assert "%pdsecrets set STEP PROP" in unnamed


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
    run('%pdpin check {"n":1}')
    run('%pdpin greet {"n":1}')
    one, all_others, none = run("%pdpin greet --clear"), run("%pdpin --clear"), run("%pdpin --clear")
    assert [shown.strip() for shown in (one, all_others, none)] == [
        "Released: greet.",
        "Released: check.",
        "No step was pinned.",
    ]


# ── %pduser --matrix and --what-if ──────────────────────────────────────────────────────────────────────


SAY = "%%pdstep say --app slack\ndef handler(pd):\n    raise ValueError('it ran')\n"


def connect(notebook: Notebook, user: str) -> None:
    """Connect a slack account."""
    notebook.session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "a-token-of-a-test"}, external_user_id=user
    )


def test_the_matrix_shows_every_user_and_step(notebook: Notebook) -> None:
    """The matrix has users as rows and steps as columns; no step runs and no user is chosen."""
    connect(notebook, "ada")
    notebook.run(SAY)

    said = notebook.run("%pduser --matrix")

    assert "1 of 1 external user can run it. No code was run." in said
    assert ["ada", "ready", "ready"] in [line.split() for line in said.splitlines()]
    assert notebook.session.external_user_id is None
    assert notebook.session.last_execution is None


def test_the_matrix_shows_the_test_users_beside_the_notebook(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Test users in `NAME.pdkernel.yaml` have a row before they have an account."""
    monkeypatch.setenv("PDKERNEL_NOTEBOOK", str(tmp_path / "work.ipynb"))
    (tmp_path / "work.pdkernel.yaml").write_text("test_users: [grace]\n")
    connect(notebook, "ada")
    notebook.run(SAY)

    said = notebook.run("%pduser --matrix")

    assert "1 of 2 external users can run it" in said
    first = [line.split()[0] for line in said.splitlines() if line.split()]
    assert [word for word in first if word in ("ada", "grace")][:2] == ["grace", "ada"]


def test_the_matrix_of_another_environment(notebook: Notebook) -> None:
    """`--matrix --environment` lists the users of that environment, and the choice does not change."""
    connect(notebook, "ada")
    notebook.session.directory.add_account(
        app="slack", credentials={"k": "v"}, external_user_id="eve", environment="production"
    )
    notebook.run(SAY)

    said = notebook.run("%pduser --matrix --environment production")

    assert re.search(r"(?m)^ *eve +ready", said), said
    assert "ada" not in said
    assert notebook.session.environment == "development"


def test_what_if_explains_another_user_and_environment(notebook: Notebook) -> None:
    """The lookup for the named user, or for the picked one, is shown, and the choice does not change."""
    connect(notebook, "ada")
    notebook.run(SAY)
    notebook.run("%pduser ada")

    elsewhere, other, own = (
        notebook.run(f"%pduser {line}--what-if") for line in ("ada --environment production ", "grace ", "")
    )

    assert "✗ external user  ada does not exist in production" in elsewhere
    assert "'ada' exists in development" in elsewhere
    assert "✗ external user  grace does not exist in development" in other
    assert "ada" in own
    assert "✗" not in own
    assert (notebook.session.external_user_id, notebook.session.environment) == ("ada", "development")
    assert notebook.session.last_execution is None


def test_what_if_without_accounts(notebook: Notebook) -> None:
    """A workflow without external users' accounts is shown to run for every user."""
    notebook.run("%%pdstep one --no-run\ndef handler(pd):\n    return 1\n")

    assert "No step uses an external user's account" in notebook.run("%pduser --what-if")


# ── %pdevent --emit ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def parcels(notebook: Notebook, tmp_path: Path) -> Notebook:
    """A notebook with an event source of a component folder as its trigger."""
    place = tmp_path / "components" / "depot" / "sources" / "new-parcel"
    place.mkdir(parents=True)
    place.joinpath("new-parcel.mjs").write_text(SOURCE)
    notebook.session.project.settings.set("actions", str(tmp_path / "components"))
    notebook.run(HEADER)
    return notebook


def test_the_newest_new_event_is_chosen(parcels: Notebook) -> None:
    """The emitted event is chosen for steps; a second poll finds no event and keeps the chosen one."""
    emitted = parcels.run("%pdevent --emit")
    again = parcels.run("%pdevent --emit")
    ran = parcels.run(STEP)

    assert "1. Parcel 7\n1 new event, 0 emitted before." in emitted
    assert "0 new events, 1 emitted before." in again
    event = parcels.session.event
    assert event is not None
    assert event.data == {"parcel": 7}
    assert parcels.error is None, ran
    assert "8" in ran


def test_the_last_of_several_new_events_is_chosen(parcels: Notebook, tmp_path: Path) -> None:
    """Of the new events of one poll, the last one is chosen, with its summary as its name."""
    two = SOURCE.replace(
        'summary: "Parcel 7" })', 'summary: "Parcel 7" }); this.$emit({ parcel: 9 }, { id: 9, summary: "Parcel 9" })'
    )
    tmp_path.joinpath("components", "depot", "sources", "new-parcel", "new-parcel.mjs").write_text(two)

    emitted = parcels.run("%pdevent --emit")

    assert "1. Parcel 7\n2. Parcel 9\n2 new events, 0 emitted before." in emitted
    assert parcels.session.event is not None
    assert (parcels.session.event_name, parcels.session.event.data) == ("Parcel 9", {"parcel": 9})


def test_a_saved_source_event_is_not_a_request(parcels: Notebook) -> None:
    """A saved event of a source is loaded without added fields."""
    parcels.run("%pdevent --emit")
    parcels.run("%pdevent --save parcel")

    loaded = parcels.run("%pdevent parcel")

    assert "Event parcel" in loaded
    assert parcels.session.event is not None
    assert parcels.session.event.data == {"parcel": 7}


def test_a_webhook_source_emits_for_a_request(notebook: Notebook, tmp_path: Path) -> None:
    """`%pdevent --emit` reports that the source waits for an event; with a file the source's emitted event is chosen."""
    write_kiosk(tmp_path)
    notebook.session.project.settings.set("actions", str(tmp_path))
    source = "export default { ...base, key: 'kiosk-rung', version: '0.1.0', type: 'source', async run({ method, body }) { this.$emit({}, { summary: 'First' }); this.$emit({ method, body }, { summary: 'Rung' }) } };"
    place = tmp_path / "components" / "kiosk" / "sources" / "rung"
    place.mkdir()
    place.joinpath("rung.mjs").write_text(f"const base = {{ props: {{ http: '$.interface.http' }} }};\n{source}")
    tmp_path.joinpath("request.json").write_text('{"body": {"bell": 2}}')
    notebook.run(HEADER.replace("depot-new-parcel", "kiosk-rung"))

    notebook.run("%pdevent hello")  # only an event that the line names is passed to the source
    without = notebook.run("%pdevent --emit")
    emitted = notebook.run("%pdevent request.json --emit")

    assert "%pdevent FILE --emit" in without
    assert "1. First\n2. Rung" in emitted
    assert notebook.session.event is not None
    assert notebook.session.event.data == {"method": "POST", "body": {"bell": 2}}


def test_events_before_an_error_of_the_source_count(notebook: Notebook, tmp_path: Path) -> None:
    """The error of a source is shown, and its newest event of before is chosen."""
    place = tmp_path / "components" / "depot" / "sources" / "new-parcel"
    place.mkdir(parents=True)
    place.joinpath("new-parcel.mjs").write_text(
        "export default { key: 'depot-new-parcel', version: '0.0.1', type: 'source', props: {},"
        " async run() { this.$emit({ n: 1 }); throw new Error('out of parcels') } };"
    )
    notebook.session.project.settings.set("actions", str(tmp_path / "components"))
    notebook.run("%%pdworkflow\ntrigger: {type: source, uses: depot-new-parcel@0.0.1}")

    said = notebook.run("%pdevent --emit")

    assert "out of parcels" in said
    assert notebook.session.event is not None
    assert notebook.session.event.data == {"n": 1}


def test_external_user_and_event_of_variables(notebook: Notebook) -> None:
    """Variables of the notebook, which papermill sets, choose the external user and the event."""
    connect(notebook, "ada")
    notebook.run('external_user, event_name = "ada", "hello"')

    notebook.run("%pduser {external_user}\n%pdevent {event_name}")

    assert (notebook.session.external_user_id, notebook.session.event_name) == ("ada", "hello")
