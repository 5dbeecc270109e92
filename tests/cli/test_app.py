"""What all commands share: help, exit statuses, usage errors, confirmations, `--quiet`, `--verbose`, colors, completion."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pdkernel.cli import pdkernel as root
from pdkernel.cli.app import CliContext, Command, Section, configure_logging, parse_size, print_error
from pdkernel.server.link.connect_page import CALLBACK_PATH
from tests.cli.conftest import Shell

GREET = "%%pdstep greet\ndef handler(pd):\n    return 1\n"
TRIGGER_SECTIONS = ["Author", "Run", "Test", "Migrate", "Serve", "Project"]


def commands(command: click.Command = root, name: str = "pdkernel") -> Iterator[tuple[str, click.Command]]:
    """Each command without the groups, with its full name."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for word, below in command.commands.items():
        yield from commands(below, f"{name} {word}")


def help_of(name: str) -> str:
    """The help of a command, without colors, 100 columns wide."""
    command: click.Command = root
    ctx = command.make_context("pdkernel", [], resilient_parsing=True, terminal_width=100)
    for word in name.split()[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[word]
        ctx = command.make_context(word, [], parent=ctx, resilient_parsing=True)
    return click.unstyle(command.get_help(ctx))


def test_the_help_lists_commands_in_sections() -> None:
    """The help lists its sections in the order of a project's life, and every command is in one of them."""
    sections = root.list_sections(click.Context(root))

    assert [section.title for section in sections] == TRIGGER_SECTIONS
    assert all(isinstance(section, Section) for section in sections)
    assert {name for section in sections for name, _ in section.list_commands()} == set(root.commands)


def test_each_help_is_complete() -> None:
    """It ends with examples, which fit the options, and exit statuses; its first sentence fits into a line of its group's help."""
    for name, command in commands():
        text = help_of(name)
        examples = re.search(r"\nExamples:\n((?:  .+\n)+)", text)

        assert examples is not None, name
        assert all(name in line for line in examples[1].splitlines()), name
        assert re.search(r"\nExit status:\n  0  ", text), name
        assert not command.get_short_help_str(limit=65).endswith("..."), name
        assert isinstance(command, Command)
        for line in command.examples:
            words = shlex.split(re.sub(r' <\S+$| >\S+$|^eval "\$\(|\)"$', "", line))
            assert " ".join(words).startswith(name), line
            command.make_context(name, words[len(name.split()) :], resilient_parsing=False)


def test_common_options_are_shown_once() -> None:
    """`--project` and `--database` are in the help of `pdkernel`, and not in the help of a command that accepts them."""
    assert "--project FOLDER" in help_of("pdkernel")
    assert all(
        "--project" not in help_of(name).split("Examples:")[0].replace("--project-id", "") for name, _ in commands()
    )


def test_an_environment_is_a_choice() -> None:
    """Each `--environment` names the two environments."""
    options = [option for _, command in commands() for option in command.params if option.name == "environment"]

    assert len(options) > 5
    assert all(isinstance(option.type, click.Choice) or option.metavar == "ENV" for option in options)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run"], "Missing argument 'SOURCE'"),
        (["run", "a.ipynb", "--evnt", "x"], "Did you mean"),
        (["run", "a.ipynb", "--environment", "staging"], "'staging' is not one of"),
        (["serve", "--port", "many"], "'many' is not a valid integer"),
        (["users", "lisst"], "Did you mean"),
    ],
)
def test_usage_errors(pdkernel: Shell, args: list[str], message: str) -> None:
    """A wrong argument has status 2 and names the help; with `--json` it is one JSON value on standard output, as other errors."""
    ended, text = pdkernel(*args, "--json"), pdkernel(*args)

    assert (ended.status, ended.stderr, text.status, text.stdout) == (2, "", 2, "")
    assert message in ended.json["error"]["message"]
    assert ended.json["error"]["code"] == "usage"
    assert text.stderr.startswith("Error: ")
    assert re.search(r"\nSee: pdkernel.* --help\n\Z", text.stderr)


@pytest.mark.parametrize(
    "args",
    [["run"], ["doctor"], ["serve"], ["new"], ["check"], ["migrate", "report"], ["export", "--to", "x"], ["lab"]],
    ids=" ".join,
)
def test_a_file_that_the_system_refuses_is_an_error(pdkernel: Shell, args: list[str]) -> None:
    """A path that is too long, such as a text instead of a path, ends a command with a message and exit status 2."""
    ended = pdkernel(*args, "x" * 300)

    assert (ended.status, ended.stdout) == (2, "")
    assert re.search(r"Error: Cannot use .*x{300}.*: File name too long\.\nPass another path, .*\n\Z", ended.stderr)


OAUTH = (
    *("--oauth-authorize-url", "https://crm.example.com/authorize"),
    *("--oauth-token-url", "https://crm.example.com/token", "--oauth-client-id", "c-1"),
)
REMOVALS = [
    ["users", "remove", "ada"],
    ["accounts", "remove", "apn_1"],
    ["env", "remove", "KEY"],
    ["store", "remove", "orders"],
    ["store", "remove", "orders", "a"],
    ["store", "import", "orders", "-", "--clear"],
    ["keys", "rotate"],
]


@pytest.fixture
def filled(pdkernel: Shell) -> Shell:
    """A project with a user, an account, a variable and a store."""
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--id", "apn_1", "--credential", "a=b")
    pdkernel("env", "set", "KEY", stdin="value-of-key")
    pdkernel("store", "set", "orders", "a", "1")
    return pdkernel


def test_removals_need_yes_without_a_terminal(filled: Shell) -> None:
    """Without a terminal, a command that removes or rotates changes nothing unless `--yes` is given; `--json` confirms nothing."""
    refused = [filled(*args) for args in REMOVALS]
    as_json = [filled(*args, "--json") for args in REMOVALS]

    assert {ended.status for ended in refused} == {2}
    assert all("add --yes" in ended.stderr for ended in refused)
    assert [ended.json["error"]["code"] for ended in as_json] == ["request"] * len(REMOVALS)
    assert filled("accounts", "list", "--json").json[0]["id"] == "apn_1"
    assert filled("env", "list", "--json").json == [{"name": "KEY"}]
    assert filled("store", "get", "orders", "a").stdout == "1\n"


@pytest.mark.parametrize(("typed", "left"), [("n", ["KEY"]), ("y", [])])
def test_removals_ask_on_a_terminal(filled: Shell, typed: str, left: list[str]) -> None:
    """On a terminal the command asks, and removes only after a yes."""
    _, output = filled.on_terminal("env", "remove", "KEY", answers=[("[y/N]", typed)])

    assert "Remove KEY and its value? [y/N]" in output
    assert [each["name"] for each in filled("env", "list", "--json").json] == left


@pytest.mark.parametrize(
    ("args", "stdin", "expected"),
    [
        (["accounts", "show", "apn_1"], "", {"id": "apn_1", "owner": "external_user", "fields": ["a"]}),
        (["accounts", "remove", "apn_1", "--yes"], "", {"id": "apn_1", "external_user_id": "ada"}),
        (["env", "set", "OTHER"], "planted-value", {"name": "OTHER", "set": True}),
        (["apps", "add", "crm", "--field", "key"], "", {"app": "crm", "fields": ["key"]}),
        (["apps", "add", "crm", *OAUTH], "planted-value", {"oauth_client_id": "c-1", "callback": CALLBACK_PATH}),
        (["store", "set", "orders", "b", "[2]"], "", {"key": "b", "value": [2]}),
        (["logout"], "", {"removed": False}),
    ],
)
def test_a_change_is_one_json_value(filled: Shell, args: list[str], stdin: str, expected: dict[str, Any]) -> None:
    """With --json, a command that changes something prints the result and no secret."""
    ended = filled(*args, "--json", stdin=stdin)

    assert ended.status == 0, ended.stderr
    assert expected.items() <= ended.json.items()
    assert "planted-value" not in ended.stdout
    assert "credentials" not in ended.json


def test_quiet_leaves_out_notes(pdkernel: Shell) -> None:
    """`--quiet`, before or after the command's name, prints results and errors only."""
    loud = pdkernel("--project", "one", "env", "list")
    before = pdkernel("--quiet", "--project", "two", "env", "list")
    after = pdkernel("env", "list", "-q", "--project", "three")

    assert "Created a local project" in loud.stderr
    assert (before.stderr, after.stderr) == ("", "")
    assert loud.stdout == before.stdout == after.stdout


def test_verbose_reports_steps_as_they_end(pdkernel: Shell) -> None:
    """`--verbose` prints the project, the workflow and each step that has ended to standard error."""
    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}", "--json", "-v")

    assert ended.json["status"] == "success"
    assert re.search(r"^Project proj_\w+ in .*\.pdkernel\.$", ended.stderr, re.MULTILINE)
    assert re.search(r"^Step greet: success in \d+ ms\.$", ended.stderr, re.MULTILINE)


def test_colors_are_for_terminals(pdkernel: Shell) -> None:
    """A terminal shows colors unless NO_COLOR is set; a pipe does not."""
    _, colored = pdkernel.on_terminal("--help")
    _, plain = pdkernel.on_terminal("--help", NO_COLOR="1")
    piped = pdkernel("--help").stdout

    assert "\x1b[36m" in colored
    assert "\x1b[" not in plain + piped


@pytest.mark.parametrize("count", [1, 14, 15, 30])
def test_a_long_error_is_cut(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """An error has at most 15 lines, the last of which has the number of lines that are left out."""
    lines = [f"line {number}" for number in range(count)]

    print_error("entry_point", "\n".join(lines))

    shown = capsys.readouterr().err.removeprefix("Error: ").splitlines()
    if count < 15:
        assert shown == lines
    else:
        assert shown == [*lines[:13], f"... and {count - 13} more lines (entry_point); --json prints all lines"]


def test_foreign_names_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters are shown as text in errors, whose lines stay, notes and details."""
    state = CliContext()
    state.verbosity = 1

    print_error("unsupported_form", "2 problems:\n- \x1b]0;owned\x07 has no uses")
    state.print_note("one\n\x1b]0;owned\x07")
    state.print_detail("\x1b[2Jtwo\r")

    shown = capsys.readouterr().err
    assert shown == "Error: 2 problems:\n- \\x1b]0;owned\\x07 has no uses\none\n\\x1b]0;owned\\x07\ntwo\\x0d\n"


@pytest.mark.parametrize(
    ("quiet", "verbosity", "level"),
    [(False, 0, logging.WARNING), (False, 1, logging.INFO), (False, 2, logging.DEBUG), (True, 2, logging.ERROR)],
)
def test_log_messages(quiet: bool, verbosity: int, level: int) -> None:
    """Warnings are printed, with -v more, with -q errors only."""
    state = CliContext()
    state.quiet, state.verbosity = quiet, verbosity
    logger = logging.getLogger("pdkernel")
    before = logger.level
    try:
        configure_logging(state)
        assert logger.level == level
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize("named", ["option", "database", "PDKERNEL_PROJECT", "PDKERNEL_DATABASE", "folder", None])
def test_a_project_exists_or_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    """A project is there if an option, a variable or a folder upwards names it; otherwise a command would create one."""
    for name in ("PDKERNEL_PROJECT", "PDKERNEL_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    state = CliContext()
    match named:
        case "option":
            state.project_folder = "elsewhere"
        case "database":
            state.database_url = "postgresql://h.test/db"
        case "folder":
            (tmp_path / ".pdkernel").mkdir()
        case str():
            monkeypatch.setenv(named, "elsewhere")

    assert state.has_project() == (named is not None)


def test_a_new_project_names_its_key(pdkernel: Shell, postgres_url: str) -> None:
    """The note about a new project has its folder or its database, and where its key is."""
    key = pdkernel.folder / "keys" / "shared"
    own = pdkernel("env", "list")
    apart = pdkernel("env", "list", "--project", "two", PDKERNEL_KEY_FILE=str(key))
    database = pdkernel("env", "list", "--project", "three", "--database", postgres_url)
    again = pdkernel("env", "list")

    place = pdkernel.folder / ".pdkernel"
    assert own.stderr == f"Created a local project in {place} (ignored by Git; includes the key).\n"
    assert apart.stderr.endswith(f"(ignored by Git; the key is in {key}).\n")
    assert re.fullmatch(r"Created a project in postgresql://\S+ \(the key is in \S+\)\.\n", database.stderr)
    assert again.stderr == ""


def test_a_command_closes_its_project(pdkernel: Shell) -> None:
    """After a command, also one that is refused, the database is one file: it can be copied."""
    pdkernel("env", "set", "KEY", stdin="value-of-key")
    files = [{path.name for path in (pdkernel.folder / ".pdkernel").glob("project.db*")}]
    pdkernel("env", "remove", "OTHER", "--yes")
    files.append({path.name for path in (pdkernel.folder / ".pdkernel").glob("project.db*")})

    assert files == [{"project.db"}] * 2


def test_completion(pdkernel: Shell) -> None:
    """The script of each shell completes `pdkernel`, and the beginning of a command offers the command."""
    for shell in ("bash", "zsh", "fish"):
        ended = pdkernel("completion", shell)

        assert (ended.status, "_PDKERNEL_COMPLETE" in ended.stdout) == (0, True)
    offered = pdkernel(_PDKERNEL_COMPLETE="bash_complete", COMP_WORDS="pdkernel acc", COMP_CWORD="1")
    assert offered.stdout == "plain,accounts\n"


@pytest.mark.parametrize("option", [["run", "x.ipynb"], ["invoke", "http://127.0.0.1:1/x"]])
def test_a_body_that_names_no_file_says_so(pdkernel: Shell, option: list[str]) -> None:
    """A word that is neither JSON nor a file is reported as a missing file."""
    pdkernel.notebook(GREET, name="x.ipynb")

    ended = pdkernel(*option, "--body", "nope.json")

    assert ended.status == 2
    assert "there is no such file" in ended.stderr


CONTEXT, OPTION = click.Context(click.Command("serve")), click.Option(["--memory"])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        ("16M", 16 << 20),
        ("16384k", 16 << 20),
        ("16777216", 16 << 20),
        ("1.5G", 3 << 29),
        ("2GiB", 2 << 30),
        (" 2 gb ", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_a_size(text: str | None, size: int | None) -> None:
    """A unit is a power of 1024, with and without `B` and `iB`, in any case; 16 MB is enough."""
    assert parse_size(CONTEXT, OPTION, text) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *[("16383K", "less than 16M"), ("0", "less than"), ("-1G", "not a size")],
        *((text, "is not a size") for text in ("", "G", "1.G", "1P", "1 2G", "1,5G")),
    ],
)
def test_a_size_that_is_refused(text: str, says: str) -> None:
    """A size is a number with one unit; below 16 MB it is too small for a worker."""
    with pytest.raises(click.BadParameter, match=says):
        parse_size(CONTEXT, OPTION, text)
