"""`pdkernel runs`."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Shell

GREET = (
    "%%pdworkflow\nname: Greet\n",
    '%%pdstep greet\ndef handler(pd):\n    return pd.steps["trigger"]["event"]["body"]["name"]\n',
)


@pytest.fixture
def shell(pdkernel: Shell) -> Shell:
    """A project with three runs: of ada, of grace in production, and a failed one."""
    notebook = pdkernel.notebook(*GREET, name="greet.ipynb")
    pdkernel("run", notebook, "--body", '{"name": "Ada"}', "--external-user", "ada")
    pdkernel("run", notebook, "--body", '{"name": "G"}', "--external-user", "grace", "--environment", "production")
    pdkernel("run", notebook, "--body", "{}")
    return pdkernel


def users(shell: Shell, *args: str) -> list[str | None]:
    """The external users of the listed runs."""
    return [each["external_user"] for each in shell("runs", "list", *args, "--json").json]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ([], [None, "grace", "ada"]),
        (["--external-user", "ada"], ["ada"]),
        (["--environment", "production"], ["grace"]),
        (["--status", "error"], [None]),
        (["--workflow", "Greet", "--limit", "2"], [None, "grace"]),
        (["--workflow", "Other"], []),
        (["--since", "1h"], [None, "grace", "ada"]),
        (["--until", "1h"], []),
        (["--since", "last tuesday", "--until", "2100-01-01"], [None, "grace", "ada"]),
    ],
)
def test_filters(shell: Shell, args: list[str], found: list[str | None]) -> None:
    """The list has the runs that fulfil all options, newest first."""
    assert users(shell, *args) == found


def test_a_list_is_continued(shell: Shell) -> None:
    """`--before ID` lists the runs that are older than a run; a full page names the option."""
    page = shell("runs", "list", "--limit", "2")

    hint = re.search(r"--before (\w+)", page.stderr)
    assert hint is not None
    assert users(shell, "--before", hint[1]) == ["ada"]


def test_the_list_as_text(shell: Shell) -> None:
    """A line has status, id, start, duration, user and workflow; a failed run also has its step and error."""
    lines = shell("runs", "list").stdout.splitlines()

    assert lines[0] == "3 runs"
    assert re.fullmatch(r"  ✗ error    \w{27}  [-\d]+ [:\d]+ UTC  .*\bm?s +- +Greet", lines[1])
    assert lines[2] == "      greet: KeyError: 'name'"
    assert "grace (production)" in lines[3]


def test_a_run_is_shown_as_it_ended(shell: Shell) -> None:
    """`runs show ID --json` is the execution that `run --json` printed; without ID, the newest run is shown."""
    printed = shell("run", "greet.ipynb", "--body", '{"name": "Lin"}', "--json").json

    assert shell("runs", "show", printed["id"], "--json").json == printed
    assert shell("runs", "show", "--json").json == printed
    assert printed["id"] in shell("runs", "show").stdout


def test_missing_runs_are_named(pdkernel: Shell) -> None:
    """An unknown id, and a project without runs, are exit status 2 with the next command."""
    unknown, empty, wrong = (
        pdkernel("runs", "show", "nope"),
        pdkernel("runs", "show"),
        pdkernel("runs", "list", "--since", "x"),
    )

    assert (unknown.status, empty.status, wrong.status) == (2, 2, 2)
    assert "pdkernel runs list" in unknown.stderr
    assert "pdkernel run SOURCE" in empty.stderr
    assert "--since x is not a time" in wrong.stderr
    assert pdkernel("runs", "list").stdout == "No runs.\n"
