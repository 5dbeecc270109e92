"""`pdkernel secrets`, and runs of a synced project with encrypted props."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Shell

NAME = "notify-partner-p_Sec4Rt"
FOLDER = Path(__file__).parents[1] / "synced_project" / NAME
PROPS = ("partner_key", "request.headers.Authorization", "request.extra.1")
VALUES = ("key-{{steps.x}}-0123", "Bearer tok-456789", "last-item-0123")
MISSING = [f"call_partner.{prop}" for prop in PROPS]


@pytest.fixture
def synced(pdkernel: Shell) -> Shell:
    """The shell with a copy of the synced workflow in its folder."""
    shutil.copytree(FOLDER, pdkernel.folder / NAME)
    return pdkernel


def give_all(shell: Shell, source: str) -> None:
    """Give a value for each secret prop of the workflow *source*."""
    for prop, value in zip(PROPS, VALUES, strict=True):
        ended = shell("secrets", "set", source, "call_partner", prop, stdin=f"{value}\n")
        assert ended.status == 0, ended.stderr


def test_missing_values_are_named(synced: Shell) -> None:
    """Import, doctor, run and serve name each secret prop without a value; run and serve end with status 2."""
    imported = synced("import", NAME, "--to", "n.ipynb", "--json")
    doctor = synced("doctor", NAME, "--json")
    run, notebook = synced("run", NAME, "--body", "{}"), synced("run", "n.ipynb", "--body", "{}")
    served = synced("serve", NAME, "--port", "0")

    assert [f"{use['step']}.{use['prop']}" for use in imported.json["report"]["secrets"]] == MISSING
    assert doctor.json["ready"] is False
    assert [item["name"] for item in doctor.json["missing"] if item["kind"] == "secret"] == MISSING
    assert [run.status, notebook.status, served.status] == [2, 2, 2]
    for prop in PROPS:
        assert f"pdkernel secrets set {NAME} call_partner {prop}" in run.stderr
        assert f"pdkernel secrets set n.ipynb call_partner {prop}" in notebook.stderr
        assert f"pdkernel secrets set {NAME} call_partner {prop}" in served.stderr
        assert f"%pdsecrets set call_partner {prop}" in (synced.folder / "n.ipynb").read_text()


def test_values_are_used_and_redacted(synced: Shell) -> None:
    """A folder and its notebook run with the same values, which no record shows; the export has the encrypted values."""
    assert synced("import", NAME, "--to", "n.ipynb").status == 0
    give_all(synced, NAME)

    runs = [synced("run", source, "--body", '{"id": 7}', "--json") for source in (NAME, "n.ipynb")]
    shown = synced("runs", "show", runs[0].json["id"], "--json")
    exported = synced("export", "n.ipynb", "--into", NAME)

    for ended in (*runs, shown):
        assert ended.status == 0, ended.stderr
        (step,) = ended.json["steps"]
        assert step["exports"]["$return_value"] == {"isText": True, "length": len(VALUES[0])}
        assert step["exports"]["sent"]["headers"]["X-Order"] == 7
        assert not any(value in ended.stdout + ended.stderr for value in VALUES)
    assert exported.status == 0, exported.stderr
    for file in ("workflow.yaml", "call_partner/entry.js"):
        assert (synced.folder / NAME / file).read_bytes() == (FOLDER / file).read_bytes()
    assert synced("doctor", NAME, "--json").json["ready"] is True


def test_list_and_remove(synced: Shell) -> None:
    """`list` shows which props have values, never a value; `remove` takes a name of the list, or `STEP.PROP`."""
    # a question that is not answered yet keeps a run from starting, but not these commands
    (synced.folder / NAME / "pdkernel.yaml").write_text("steps: {call_partner: {accounts: {slack: unanswered}}}\n")
    give_all(synced, NAME)
    asked = synced("secrets", "remove", MISSING[0])
    (synced.folder / "broken").mkdir()
    (synced.folder / "broken" / "workflow.yaml").write_text("[")
    broken = synced("secrets", "list", "broken")

    stored = [row["name"] for row in synced("secrets", "list", "--json").json]
    removed = [synced("secrets", "remove", name, "--yes") for name in (stored[0], MISSING[1])]
    rows = synced("secrets", "list", ".", "--json").json
    text = synced("secrets", "list", NAME)
    (synced.folder / NAME / ".env").write_text(f"{MISSING[1]}=value-in-a-file\n")
    from_file = synced("secrets", "list", NAME, "--json").json

    assert [row["set"] for row in from_file] == [False, True, True]
    assert (asked.status, f"Remove the value of {stored[0]}: not confirmed" in asked.stderr) == (2, True)
    assert (broken.status, "broken/workflow.yaml" in broken.stderr) == (2, True)
    assert [name.partition("#")[0] for name in stored] == sorted(MISSING)
    assert [ended.status for ended in removed] == [0, 0]
    assert {f"{row['step']}.{row['prop']}": row["set"] for row in rows} == {
        MISSING[0]: False,
        MISSING[1]: False,
        MISSING[2]: True,
    }
    assert f"NOT SET: pdkernel secrets set {NAME} call_partner partner_key" in text.stdout
    assert not any(value in text.stdout for value in VALUES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("set", NAME, "call_partner", "partner_kex"), "Did you mean call_partner.partner_key"),
        (("set", NAME, "call_partner", "partner_key=s3cret-0123"), "must not be part of the line"),
        (("set", NAME, "call_partner", "partner_key"), "is empty"),
        (("set", NAME, "other", "partner_key"), "has no step 'other'"),
        (("remove", "call_partner.partner_key", "--yes"), "There is no secret"),
    ],
)
def test_invalid_calls(synced: Shell, arguments: tuple[str, ...], says: str) -> None:
    """An unknown step or prop, a value on the line and an empty value end with status 2; a value is not repeated."""
    ended = synced("secrets", *arguments)

    assert ended.status == 2
    assert says in ended.stderr
    assert "s3cret-0123" not in ended.stdout + ended.stderr


def test_secrets_as_json(synced: Shell) -> None:
    """With --json, `set` and `remove` print the name of the secret, and no value."""
    given = synced("secrets", "set", NAME, "call_partner", "partner_key", "--json", stdin=VALUES[0])
    removed = synced("secrets", "remove", "call_partner.partner_key", "--yes", "--json")
    none = synced("secrets", "list")

    assert (given.json["step"], given.json["prop"], given.json["set"]) == ("call_partner", "partner_key", True)
    assert removed.json == {"name": given.json["name"], "removed": True}
    assert VALUES[0] not in given.stdout + removed.stdout
    assert none.stdout == "No secrets. To give a value: pdkernel secrets set SOURCE STEP PROP\n"


def test_the_value_comes_from_a_terminal_without_echo(synced: Shell) -> None:
    """On a terminal, the command prompts for the value and does not show it."""
    status, said = synced.on_terminal(
        "secrets", "set", NAME, "call_partner", "partner_key", answers=[("partner_key", VALUES[0])]
    )

    assert status == 0, said
    assert VALUES[0] not in said


def test_a_changed_secret_requires_its_value_again(synced: Shell) -> None:
    """After a sync with another encrypted value, the earlier value is not used."""
    give_all(synced, NAME)
    file = synced.folder / NAME / "workflow.yaml"
    file.write_text(file.read_text().replace("v1.aGVsbG8g", "v1.bmV3IGtl"))

    ended = synced("run", NAME, "--body", "{}")

    assert ended.status == 2
    assert "partner_key of step call_partner" in ended.stderr
    assert PROPS[1] not in ended.stderr
