"""`pdkernel actions` and `packages`, and the project's source of actions."""

from __future__ import annotations

import json
import os
import pty
from collections.abc import Iterator
from typing import Any

import pytest

from pdkernel.files.definition import read_sidecar
from pdkernel.packages import NPM_LOCK_NAME, PYTHON_LOCK_NAME
from pdkernel.packages.python_lock import describe_machine
from tests.actions.checkout import write_checkout
from tests.cli.conftest import Shell
from tests.npm_registry import NpmRegistry, npm_registry

PUT = "%%pdstep put --uses depot-put-thing@0.1.2 --app depot\nshelf: s1\nthing: a {{steps.trigger.event.body.name}}\n"


@pytest.fixture
def checkout(pdkernel: Shell) -> Shell:
    """The command in a folder whose project takes actions from a checkout."""
    write_checkout(pdkernel.folder / "checkout")
    ended = pdkernel("project", "set", "actions", "checkout")
    assert ended.status == 0, ended.stderr
    return pdkernel


def test_npm_and_its_licence(pdkernel: Shell) -> None:
    """Npm is refused with the command that accepts its licence; the flag accepts it once for the project, which shows npm."""
    unknown, refused = pdkernel("project", "set", "actions", "nowhere"), pdkernel("project", "set", "actions", "npm")
    accepted = pdkernel("project", "set", "actions", "npm", "--accept-licence")
    pdkernel("project", "set", "actions", "builtin")
    again = pdkernel("project", "set", "actions", "npm")

    assert [ended.status for ended in (unknown, refused, accepted, again)] == [2, 2, 0, 0]
    assert "components/APP/actions" in unknown.stderr
    assert "pdkernel project set actions npm --accept-licence" in refused.stderr
    assert "excludes commercial use" in refused.stderr
    assert pdkernel("project", "show", "--json").json["actions"] == "npm"


def test_several_sources(checkout: Shell) -> None:
    """Several sources are stored in their order; another setting has one value."""
    ended = checkout("project", "set", "actions", "checkout", "npm", "--accept-licence")
    refused = checkout("project", "set", "plan", "free", "business")

    folder = str(checkout.folder / "checkout")
    assert ended.stdout == f"Sources of actions that are not built in, in this order: {folder}, npm.\n"
    assert checkout("project", "show", "--json").json["actions"] == [folder, "npm"]
    assert (refused.status, "plan has one value" in refused.stderr) == (2, True)


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 2)])
def test_npm_on_a_terminal_asks(pdkernel: Shell, answer: str, status: int) -> None:
    """On a terminal the command asks for the licence; the answer no leaves the project unchanged."""
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())

    process = pdkernel.start("project", "set", "actions", "npm", stdin=theirs)
    stdout, stderr = process.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)

    assert process.returncode == status, stderr
    assert "Source Available License" in stdout


def test_search(checkout: Shell) -> None:
    """Built-in actions and the folder's actions are searched together, by words and by app."""
    by_word = checkout("actions", "search", "--json", "record")
    by_app = checkout("actions", "search", "--app", "depot", "--json")
    apps = [each["app"] for each in checkout("apps", "list", "--json").json]

    assert "data_stores-get-record" in [each["key"] for each in by_word.json]
    assert sorted(each["key"] for each in by_app.json) == ["depot-broken", "depot-fill-form", "depot-put-thing"]
    assert "depot" in apps


def test_search_finds_many(checkout: Shell) -> None:
    """A shortened list reports the number of further actions and how to narrow the search; JSON is complete."""
    for n in range(60):
        module = checkout.folder / f"checkout/components/depot/actions/pile-{n}/pile-{n}.mjs"
        module.parent.mkdir()
        module.write_text(
            f'export default {{ key: "depot-pile-{n}", version: "0.0.1", type: "action", props: {{}}, run() {{}} }};'
        )

    listed = checkout("actions", "search", "pile").stdout
    found = checkout("actions", "search", "pile", "--json").json

    assert listed.count("depot-pile-") == 50 * 2  # its key, and as its name
    assert listed.endswith("... and 10 more. To see fewer, add words or --app SLUG.\n")
    assert len(found) == 60


def test_show(checkout: Shell) -> None:
    """An action is shown with its props and a cell that uses it; the error for an unknown key names similar keys."""
    text = checkout("actions", "show", "depot-put-thing").stdout
    value = checkout("actions", "show", "depot-put-thing@0.1.2", "--json").json
    unknown = checkout("actions", "show", "depot-put-thin")

    assert "thing: string, required" in text
    assert "What is put there" in text
    assert "count: integer, default 1" in text
    assert "%%pdstep put_thing --uses depot-put-thing@0.1.2 --app depot" in text
    assert [prop["name"] for prop in value["props"]] == ["shelf", "thing", "count", "note"]
    assert (unknown.status, "depot-put-thing@0.1.2" in unknown.stderr) == (2, True)


def test_shown_cell_is_a_step(checkout: Shell) -> None:
    """The shown cell runs after its required props are filled in; the timeline names the action's source and summary."""
    cell = checkout("actions", "show", "depot-put-thing", "--json").json["cell"]
    filled = cell.replace("\nshelf:\n", "\nshelf: s1\n").replace("\nthing:\n", "\nthing: box\n")
    checkout("accounts", "add", "--external-user", "ada", "--app", "depot", "--credential", "api_key=-", stdin="k-0123456789")  # fmt: skip

    ended = checkout("run", checkout.notebook(filled), "--body", "{}", "--external-user", "ada")

    assert ended.status == 0, ended.stderr
    assert "folder components/depot" in ended.stdout
    assert "Put box on s1" in ended.stdout


def test_an_action_that_is_ready(checkout: Shell) -> None:
    """`add` reports the version and the source of an action that needs no installation."""
    text = checkout("actions", "add", "depot-put-thing")
    value = checkout("actions", "add", "depot-put-thing@0.1.2", "--json").json

    assert text.stdout.startswith("depot-put-thing@0.1.2 is ready (")
    assert (value["version"], value["installed"], value["instead_of"]) == ("0.1.2", True, None)


def test_another_version_by_choice(checkout: Shell) -> None:
    """A missing version is refused until a replacement is chosen."""
    notebook = checkout.notebook(
        "%%pdstep off --uses http-custom-request@0.1.0 --disabled\n", PUT.replace("0.1.2", "0.0.1")
    )
    checkout("accounts", "add", "--external-user", "ada", "--app", "depot", "--credential", "api_key=-", stdin="k-0123456789")  # fmt: skip
    before = checkout("run", notebook, "--body", "{}", "--external-user", "ada")

    other = checkout("actions", "add", "depot-put-thing@0.1.2", "--instead-of", "depot-get-thing@0.0.1")
    chosen = checkout("actions", "add", "depot-put-thing@0.1.2", "--instead-of", "depot-put-thing@0.0.1")
    after = checkout("run", notebook, "--body", '{"name": "box"}', "--external-user", "ada", "--json")

    assert before.status == 2
    assert "--instead-of depot-put-thing@0.0.1" in before.stderr
    assert (other.status, "depot-get-thing@0.0.1 is not a version of depot-put-thing" in other.stderr) == (2, True)
    assert chosen.status == after.status == 0
    assert "instead of 0.0.1" in after.json["steps"][1]["source"]


def test_a_synced_folder_with_several_sources(pdkernel: Shell) -> None:
    """`doctor`, `run`, the lock file, `import` and `export` follow the list in the folder's `pdkernel.yaml`."""
    write_checkout(pdkernel.folder / "public")
    for folder in ("private/acme/actions/weigh", "flow", "books"):
        (pdkernel.folder / folder).mkdir(parents=True)
    pdkernel.write(
        "private/acme/actions/weigh/weigh.mjs",
        'export default { key: "weigh", version: "0.0.3", type: "action", props: {}, async run() { return { grams: 3 } } };',
    )
    pdkernel.write("flow/pdkernel.yaml", "actions:\n- ../private\n- ../public\ntriggers:\n- type: http\n")
    pdkernel.write(
        "flow/workflow.yaml",
        "schema: workflow/2022.04\nname: Flow\ntriggers:\n- id: hi_1\nsteps:\n"
        '- namespace: weigh\n  uses: "@acme/weigh@0.0.3"\n'
        "- namespace: put\n  uses: depot-put-thing@0.1.2\n"
        '  props:\n    shelf: s1\n    thing: "{{steps.weigh.$return_value.grams}}"\n',
    )
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "depot", "--credential", "api_key=-", stdin="k-0123456789")  # fmt: skip

    missing = pdkernel("doctor", "flow", "--external-user", "ada", "--json").json["missing"]
    ran = pdkernel("run", "flow", "--body", "{}", "--external-user", "ada", "--json")
    imported = pdkernel("import", "flow", "--to", "books/flow.ipynb", "--accounts", "external-user")
    again = pdkernel("run", "books/flow.ipynb", "--body", "{}", "--external-user", "ada", "--json")
    exported = pdkernel("export", "books/flow.ipynb", "--to", "out", "--json")

    assert missing == []
    sources = ["folder private/acme", "folder components/depot"]
    assert [step["source"] for step in ran.json["steps"]] == sources
    lock = json.loads((pdkernel.folder / "pdkernel-actions.lock.json").read_text())
    assert lock["sources"] == {"@acme/weigh@0.0.3": "./private", "depot-put-thing@0.1.2": "./public"}
    assert (imported.status, exported.status) == (0, 0), imported.stderr + exported.stderr
    assert [step["source"] for step in again.json["steps"]] == sources
    for file in ("books/flow.pdkernel.yaml", "out/pdkernel.yaml"):
        sidecar = read_sidecar(pdkernel.folder / file)
        assert sidecar is not None
        assert sidecar.actions == ("../private", "../public")


def test_the_licence_command_is_named_once(pdkernel: Shell) -> None:
    """`doctor` and a run name the command once, whether the project or the workflow sets the source."""
    notebook = pdkernel.notebook("%%pdstep notify --uses slack-send-message@0.0.20\ntext: hi\n")

    outputs = [pdkernel("doctor", notebook).stdout, pdkernel("run", notebook, "--body", "{}").stderr]
    (pdkernel.folder / notebook).with_suffix(".pdkernel.yaml").write_text("actions: npm\n")
    outputs += [pdkernel("doctor", notebook).stdout, pdkernel("run", notebook, "--body", "{}").stderr]

    assert [text.count("pdkernel project set actions npm --accept-licence") for text in outputs] == [1] * 4


def test_apps(pdkernel: Shell) -> None:
    """An added app is listed, and commands ask for its fields."""
    added = pdkernel("apps", "add", "my_crm", "--field", "token", "--field", "domain")
    bad = pdkernel("apps", "add", "My CRM", "--field", "token")

    assert (added.status, bad.status) == (0, 2)
    assert pdkernel("apps", "list", "--json").json == [{"app": "my_crm", "fields": ["token", "domain"]}]


STEP = "%%pdstep code --lang node\nimport tiny from 'tiny';\nexport default { run() { return tiny } }"


@pytest.fixture
def registry() -> Iterator[NpmRegistry]:
    """A registry with one package."""
    with npm_registry() as running:
        running.publish("tiny", "1.0.0")
        yield running


@pytest.fixture
def environ(registry: NpmRegistry, pdkernel: Shell) -> dict[str, Any]:
    """The environment variables of a command that installs from the registry."""
    return {name: value for name, value in registry.environ(pdkernel.folder).items() if name.startswith("npm_")}


def test_run_installs_packages(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """Installations are reported on stderr; stdout is the one JSON value."""
    source = pdkernel.notebook(STEP)

    ended = pdkernel("run", source, "--body", "{}", "--json", **environ)

    assert (ended.status, ended.json["steps"][0]["exports"]) == (0, {"$return_value": "1.0.0"})
    assert "installing tiny ...\ninstalled tiny@1.0.0 in " in ended.stderr


def test_no_install_names_the_command(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """`--no-install` and its variable refuse with status 2; after the named command the same run succeeds."""
    off = STEP.replace("%%pdstep code", "%%pdstep off --disabled").replace("'tiny'", "'missing'")
    source = pdkernel.notebook(STEP, off, name="my work.ipynb")
    # the owner of an account does not matter for packages
    pdkernel.write("my work.pdkernel.yaml", "steps: {off: {accounts: {slack: unanswered}}}\n")

    refused = pdkernel("run", source, "--body", "{}", "--no-install", **environ)
    by_variable = pdkernel("run", source, "--body", "{}", "--json", PDKERNEL_NO_INSTALL="1", **environ)
    installed = pdkernel("packages", "install", source, **environ)
    ran = pdkernel("run", source, "--body", "{}", "--no-install", **environ)

    assert (refused.status, by_variable.status) == (2, 2)
    assert "Install it: pdkernel packages install 'my work.ipynb'" in refused.stderr
    assert by_variable.json["error"]["code"] == "package_missing"
    assert (installed.status, ran.status) == (0, 0)
    assert "installing tiny ...\ninstalled tiny@1.0.0 in " in installed.stderr


def test_an_invalid_package_name_is_refused(pdkernel: Shell, environ: dict[str, Any], registry: NpmRegistry) -> None:
    """A run and an installation are refused with status 2 and the step's name; no registry is contacted."""
    source = pdkernel.notebook(STEP.replace("'tiny'", "'tiny@../../x'"))
    for words in (("run", source, "--body", "{}"), ("packages", "install", source)):
        ended = pdkernel(*words, **environ)

        assert ended.status == 2
        assert "Step code (cell 1, line 2)" in ended.stderr
        assert "'tiny@../../x' is not the name of an npm package" in ended.stderr
    assert registry.asked == []


def test_an_installation_is_listed(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """With --json, the packages of each step and the errors are one value; what a fresh checkout has locked is not installed."""
    missing = STEP.replace("tiny", "lodahs").replace("%%pdstep code", "%%pdstep other")
    before = pdkernel("packages", "list")
    done = pdkernel("packages", "install", pdkernel.notebook(STEP, missing), "--json", **environ)
    after = pdkernel("packages", "list", "--json")
    other = pdkernel.folder / "other"
    other.mkdir()
    (other / NPM_LOCK_NAME).write_text((pdkernel.folder / NPM_LOCK_NAME).read_text())
    block = f"# {{0}} for {{0}} | {describe_machine()}\ntiny=={{1}} \\\n    --hash=sha256:{'0' * 64}\n"
    python = "\n".join(block.format(*each) for each in (("a", "1.0"), ("b", "1.0"), ("c", "2.0")))
    (other / PYTHON_LOCK_NAME).write_text(python)
    fresh = pdkernel("packages", "list", "--project", "other", "--json").json

    assert before.stdout.startswith("No packages.")
    assert done.status == 1
    assert (done.json["steps"], done.json["python"]) == ({"code": ["tiny"]}, {})
    assert [(each["step"], each["code"]) for each in done.json["errors"]] == [("other", "package_install")]
    assert "npm error" not in done.stdout + done.stderr
    assert after.json == [{"language": "node", "import": "tiny", "version": "1.0.0", "installed": True}]
    assert sorted((each["language"], each["version"], each["installed"]) for each in fresh) == [
        ("node", "1.0.0", False), ("python", "1.0", False), ("python", "2.0", False)
    ]  # fmt: skip
