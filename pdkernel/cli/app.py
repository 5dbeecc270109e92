"""
The command group: common options, sections and examples of the help, completion, the project, and the report of an error.

Exit statuses: 0 success or exited, 1 a step failed, 2 refused before any step, 3 internal error, 4 paused.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click
import cloup
from click.shell_completion import get_completion_class

from pdkernel.cli.terminal import escape_text, is_interactive, print_json, print_text
from pdkernel.common.version import VERSION
from pdkernel.errors import PdkernelError, RequestError, format_count

if TYPE_CHECKING:
    from pdkernel.common.identity import Directory
    from pdkernel.storage import Project


EXIT_STATUSES: Mapping[int, str] = {
    0: "success",
    2: "refused: the request or the workflow is wrong",
    3: "pdkernel failed",
}
"""The exit statuses of a command that does not run steps."""

RUN_EXIT_STATUSES: Mapping[int, str] = {
    0: "success, or a step ended the workflow",
    1: "a step failed, or the run was cancelled",
    2: "refused before any step: the request or the workflow is wrong",
    3: "pdkernel failed",
    4: "the run is paused",
}
"""The exit statuses of a command that runs steps."""


class Section(cloup.Section):
    """A section of the help; *order* lists its commands."""

    def __init__(self, title: str, *order: str) -> None:
        super().__init__(title)
        self._order = order

    def list_commands(self) -> list[tuple[str, click.Command]]:
        """Return the commands in the order of the section."""
        return sorted(super().list_commands(), key=lambda each: self._order.index(each[0]))


class Command(cloup.Command):
    """
    A command whose help ends with examples and exit statuses.

    Args:
        examples: Command lines, each of them complete.
        exit_statuses: The meaning of each exit status; empty for a group.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        exit_statuses: Mapping[int, str] = EXIT_STATUSES,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.exit_statuses = exit_statuses

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit statuses."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"{'':>{formatter.current_indent}}{line}\n" for line in self.examples))
        if self.exit_statuses:
            with formatter.section("Exit status"):
                formatter.write_dl([(str(status), meaning) for status, meaning in sorted(self.exit_statuses.items())])


class Group(cloup.Group, Command):
    """A group of `Command`."""

    command_class = Command

    def __init__(self, *args: Any, exit_statuses: Mapping[int, str] = MappingProxyType({}), **kwargs: Any) -> None:
        super().__init__(*args, exit_statuses=exit_statuses, **kwargs)


F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MIN_BYTES = 16 * _UNITS["M"]
MAX_ERROR_LINES = 15
HELP_WIDTH = 110


AUTHOR = Section("Author", "lab", "new", "demo", "actions", "packages", "export")
RUN = Section("Run", "run", "runs", "users", "accounts", "apps")
TEST = Section("Test", "doctor", "check", "crash-test", "shape", "source")
MIGRATE = Section("Migrate", "import", "migrate")
SERVE = Section("Serve", "serve", "triggers", "invoke", "clients", "keys")
PROJECT = Section("Project", "project", "env", "secrets", "store", "login", "logout", "completion")
json_option = cloup.option("--json", "as_json", is_flag=True, help="Print only one JSON value.")
yes_option = cloup.option("-y", "--yes", is_flag=True, help="Do not ask for a confirmation.")
# how the system refuses a file that a command names or finds
_REFUSALS = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS}
_EXAMPLES = ('eval "$(pdkernel completion bash)"', "pdkernel completion fish >~/.config/fish/completions/pdkernel.fish")


class CommandLineError(RequestError):
    """The arguments of a command do not fit its options."""

    code = "usage"


class CliContext:
    """State that commands share: project and directory, opened at first use, and how much is printed."""

    def __init__(self) -> None:
        self.project_folder: str | None = None
        self.database_url: str | None = None
        self.quiet = False
        self.verbosity = 0
        self._project: Project | None = None
        self._directory: Directory | None = None

    def open_project(self) -> Project:
        """Open the local project: `--project`, else the nearest upwards, else a new project in the current folder."""
        if self._project is None:
            from pdkernel.operations.projects import open_project

            self._project = open_project(
                Path.cwd(),
                os.environ,
                folder=self.project_folder,
                database_url=self.database_url,
                ask=_ask if is_interactive(sys.stdin) else None,
            )
            if self._project.is_new:
                self.print_note(_describe_new_project(self._project))
            self.print_detail(f"Project {self._project.project_id} in {self._project.folder}.")
        return self._project

    def has_project(self) -> bool:
        """Return whether `open_project` opens an existing project and does not create one."""
        from pdkernel.storage import find_project

        named = (
            self.project_folder
            or self.database_url
            or os.environ.get("PDKERNEL_PROJECT")
            or os.environ.get("PDKERNEL_DATABASE")
        )
        return bool(named) or find_project(Path.cwd()).is_dir()

    def open_directory(self) -> Directory:
        """Open the users and accounts: the project's own, or those of the Connect project after a login."""
        if self._directory is None:
            from pdkernel.accounts import open_directory

            self._directory = open_directory(self.open_project(), os.environ)
        return self._directory

    def print_note(self, text: str) -> None:
        """Print a note or a line of progress to standard error, unless `--quiet` is set."""
        if not self.quiet:
            print_text(text, err=True)

    def print_detail(self, text: str) -> None:
        """Print a detail to standard error if `--verbose` is set."""
        if self.verbosity:
            print_text(text, err=True)

    def close(self) -> None:
        """Close the project if it is open."""
        if self._project is not None:
            self._project.close()


def _ask(question: str) -> bool:
    return click.confirm(escape_text(f"{question}?"), err=True)


class RootGroup(Group):
    """The group `pdkernel`: reports wrong arguments as other errors, with `--json` as JSON."""

    group_class = Group

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command of *args*, and end the process with its exit status."""
        given = list(sys.argv[1:] if args is None else args)
        if os.environ.get("NO_COLOR"):
            extra["color"] = False
        if not standalone_mode:
            return super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            status = super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except click.ClickException as error:
            status = report_error(_usage_error(error), as_json="--json" in given)
        except click.Abort:
            click.echo("Aborted.", err=True)
            status = 1
        sys.exit(status or 0)


def _usage_error(error: click.ClickException) -> CommandLineError:
    ctx = getattr(error, "ctx", None)
    message = error.format_message()
    return CommandLineError(
        message if message.endswith((".", "?", "!")) else f"{message}.",
        fix=f"See: {ctx.command_path} --help" if ctx is not None else "",
    )


def _store_on_context(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        if value:
            setattr(ctx.ensure_object(CliContext), name, value)
        return value

    return callback


def common_options(*, hidden: bool) -> Callable[[F], F]:
    """Add the options that may be written before or after the command's name; only the help of `pdkernel` shows them."""
    options = (
        cloup.option(
            "--project",
            metavar="FOLDER",
            callback=_store_on_context("project_folder"),
            help="Folder of the local project (also PDKERNEL_PROJECT); default: the nearest .pdkernel/ upwards.",
            expose_value=False,
            hidden=hidden,
        ),
        cloup.option(
            "--database",
            metavar="URL",
            callback=_store_on_context("database_url"),
            help="Database of the project (also PDKERNEL_DATABASE).",
            expose_value=False,
            hidden=hidden,
        ),
        cloup.option(
            "-q",
            "--quiet",
            is_flag=True,
            callback=_store_on_context("quiet"),
            help="Print results and errors only: no progress and no notes.",
            expose_value=False,
            hidden=hidden,
        ),
        cloup.option(
            "-v",
            "--verbose",
            count=True,
            callback=_store_on_context("verbosity"),
            help="Print the project, each step as it ends, and log messages; -vv also prints debug messages.",
            expose_value=False,
            hidden=hidden,
        ),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def environment_option(default: str = "development") -> Callable[[F], F]:
    """Return the option `--environment`; its help names *default*, which applies without the option."""
    return cloup.option(
        "--environment",
        type=click.Choice(["development", "production"]),
        help=f"Environment of the external users; default: {default}.",
    )


def egress_option() -> Callable[[F], F]:
    """`--egress`: the outbound policy."""
    return cloup.option(
        "--egress",
        metavar="POLICY",
        help="Outbound calls: live, deny, allow=HOST,..., record=FILE, replay=FILE, stand-in=URL|slack,github,... "
        "(also PDKERNEL_EGRESS; default: that of the notebook's %pdegress cell, else live).",
    )


def parse_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """
    Return the number of bytes of a size such as `512M`, `1.5G` or `2GiB`: the callback of an option.

    Raises:
        click.BadParameter: *value* is not a size, or less than 16 MB, which nothing can work with.
    """
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size. Write a number with a unit, such as 512M or 4G.")
    size = int(float(found[1]) * _UNITS[found[2].upper()])
    if size < _MIN_BYTES:
        raise click.BadParameter(f"{value!r} is less than {_MIN_BYTES // _UNITS['M']}M.")
    return size


@cloup.group(
    cls=RootGroup,
    sections=(AUTHOR, RUN, TEST, MIGRATE, SERVE, PROJECT),
    context_settings=cloup.Context.settings(
        help_option_names=["-h", "--help"],
        show_constraints=True,
        formatter_settings=cloup.HelpFormatter.settings(
            max_width=HELP_WIDTH,
            theme=cloup.HelpTheme(
                invoked_command=cloup.Style(fg="cyan"),
                heading=cloup.Style(bold=True),
                col1=cloup.Style(fg="cyan"),
            ),
        ),
    ),
    examples=(
        "pdkernel new greet",
        "pdkernel run greet.ipynb --event events/issues-opened.json",
        "pdkernel lab greet.ipynb",
    ),
)
@cloup.version_option(VERSION)
@common_options(hidden=False)
def pdkernel() -> None:
    """
    Write Pipedream workflows in a notebook, run them as your end users, export and serve them.

    The help of a command has examples and exit statuses: pdkernel COMMAND --help.
    """


def group(*, section: Section) -> Callable[[Callable[..., Any]], Group]:
    """Add a group of commands."""
    return pdkernel.group(cls=Group, section=section)


def command(
    group: cloup.Group = pdkernel, *, section: Section | None = None, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Add a command with the common options; a `PdkernelError` becomes a message and an exit status."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        add: Callable[[Callable[..., Any]], click.Command] = group.command(section=section, **settings)
        return add(common_options(hidden=True)(_handle_errors(function)))

    return decorate


def _handle_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call the command; report a `PdkernelError`, and a file that the system refuses, as its message and exit status."""

    @functools.wraps(function)
    @click.pass_context
    def call(ctx: click.Context, *args: Any, **kwargs: Any) -> None:
        state = ctx.ensure_object(CliContext)
        configure_logging(state)
        try:
            status = function(state, *args, **kwargs)
        except PdkernelError as error:
            status = report_error(error, as_json=bool(kwargs.get("as_json")))
        except OSError as fault:
            if fault.errno not in _REFUSALS or not isinstance(fault.filename, str):
                raise
            refused = RequestError(
                f"Cannot use {fault.filename}: {fault.strerror}.", fix="Pass another path, or make this one accessible."
            )
            status = report_error(refused, as_json=bool(kwargs.get("as_json")))
        finally:
            state.close()
        ctx.exit(status or 0)

    return call


def configure_logging(state: CliContext) -> None:
    """Print log messages to standard error: warnings, with `--verbose` more, with `--quiet` errors only."""
    logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
    levels = {0: logging.WARNING, 1: logging.INFO}
    level = logging.ERROR if state.quiet else levels.get(state.verbosity, logging.DEBUG)
    logging.getLogger("pdkernel").setLevel(level)


def _describe_new_project(project: Project) -> str:
    """Print where a new project is, and where its key is."""
    key = f"the key is in {project.key_file}"
    if project.sqlite_path is None:
        return f"Created a project in {project.location} ({key})."
    if project.key_file.parent == project.folder.absolute():
        key = "includes the key"
    return f"Created a local project in {project.folder} (ignored by Git; {key})."


def report_error(error: PdkernelError, *, as_json: bool) -> int:
    """Print *error*, as JSON to standard output or as text to standard error. Returns its exit status."""
    if as_json:
        print_json({"error": encode_error(error)})
    else:
        print_error(error.code, str(error))
    return error.exit_status


def encode_error(error: PdkernelError) -> dict[str, Any]:
    """Return an error as JSON, with the keys of an error in an execution."""
    return {
        "code": error.code,
        "name": type(error).__name__,
        "message": str(error),
        "step": getattr(error, "step", None),
        "line": getattr(error, "line", None),
        "stack": None,
    }


def print_error(code: str, message: str) -> None:
    """Print an error to stderr, in at most `MAX_ERROR_LINES` lines and without control characters of names."""
    lines = escape_text(message).splitlines()
    if len(lines) > MAX_ERROR_LINES - 1:
        hidden = len(lines) - (MAX_ERROR_LINES - 2)
        lines = [
            *lines[: MAX_ERROR_LINES - 2],
            f"... and {format_count(hidden, 'more line')} ({code}); --json prints all lines",
        ]
    click.echo(click.style("Error:", fg="red", bold=True) + " " + "\n".join(lines), err=True)


@command(name="completion", section=PROJECT, examples=_EXAMPLES)
@cloup.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(_: CliContext, shell: str) -> int:
    """
    Print the script that completes commands in SHELL.

    For every new shell, add the first example to ~/.bashrc, or with zsh to ~/.zshrc.
    """
    found = get_completion_class(shell)
    assert found is not None, "click completes in these shells"
    click.echo(found(pdkernel, {}, "pdkernel", "_PDKERNEL_COMPLETE").source())
    return 0
