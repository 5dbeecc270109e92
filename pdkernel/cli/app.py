"""
The command group: common options, the project, and the exit status of an error.

Exit statuses: 0 success or exited, 1 a step failed, 2 refused before any step, 3 internal error, 4 paused.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from pdkernel.errors import PdkernelError
from pdkernel.version import VERSION

if TYPE_CHECKING:
    from pdkernel.identity import Directory
    from pdkernel.project import Project

F = TypeVar("F", bound=Callable[..., Any])

MAX_ERROR_LINES = 15


class EnvOption(click.Option):
    """An option that `PDKERNEL_<NAME>` sets too: a password on a command line is visible to other users."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.envvar is None and self.expose_value and self.name != "json":
            long = max(self.opts, key=len).lstrip("-")
            self.envvar = "PDKERNEL_" + long.upper().replace("-", "_")


class CliContext:
    """State that commands share: project and directory, opened at first use."""

    def __init__(self) -> None:
        self.project_folder: str | None = None
        self.database_url: str | None = None
        self._project: Project | None = None
        self._directory: Directory | None = None

    def open_project(self) -> Project:
        """Open the local project: `--project`, else the nearest upwards, else a new project in the current folder."""
        if self._project is None:
            from pdkernel.operations.projects import open_project

            self._project = open_project(
                Path.cwd(), os.environ, folder=self.project_folder, database_url=self.database_url
            )
            if self._project.is_new:
                click.echo(
                    f"Created a local project in {self._project.folder} (ignored by Git; includes the key).", err=True
                )
        return self._project

    def has_project(self) -> bool:
        """Whether `open_project` opens an existing project and does not create one."""
        from pdkernel.project import find_project

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
            from pdkernel.connect import open_directory

            self._directory = open_directory(self.open_project(), os.environ)
        return self._directory

    def close(self) -> None:
        """Close the project if it is open."""
        if self._project is not None:
            self._project.close()


def _store_on_context(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        if value is not None:
            setattr(ctx.ensure_object(CliContext), name, value)
        return value

    return callback


def project_options(function: F) -> F:
    """`--project` and `--database`, before or after the command's name."""
    for decorate in (
        click.option(
            "--database",
            metavar="URL",
            expose_value=False,
            callback=_store_on_context("database_url"),
            help="Database of the project (also PDKERNEL_DATABASE).",
        ),
        click.option(
            "--project",
            metavar="FOLDER",
            expose_value=False,
            callback=_store_on_context("project_folder"),
            help="Folder of the local project (also PDKERNEL_PROJECT); default: the nearest .pdkernel/ upwards.",
        ),
    ):
        function = decorate(function)
    return function


def env_option(*args: Any, **kwargs: Any) -> Callable[[F], F]:
    """A click option that an environment variable sets too."""
    return click.option(*args, cls=EnvOption, **kwargs)


json_option = click.option("--json", "as_json", is_flag=True, help="Print only one JSON value.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION)
@project_options
def pdkernel() -> None:
    """Write Pipedream workflows in a notebook, run them as your end users, export them."""


def command(group: click.Group = pdkernel, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Add a command with the project's options; a `PdkernelError` becomes a message and an exit status."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        return group.command(**settings)(project_options(_handle_errors(function)))

    return decorate


def _handle_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call the command; report a `PdkernelError` as its message and exit status."""

    @functools.wraps(function)
    @click.pass_context
    def call(ctx: click.Context, *args: Any, **kwargs: Any) -> None:
        state = ctx.ensure_object(CliContext)
        try:
            status = function(state, *args, **kwargs)
        except PdkernelError as error:
            if kwargs.get("as_json"):
                print_json({"error": encode_error(error)})
            else:
                print_error(error.code, str(error))
            status = error.exit_status
        finally:
            state.close()
        ctx.exit(status or 0)

    return call


def encode_error(error: PdkernelError) -> dict[str, Any]:
    """An error as JSON, with the keys of an error in an execution."""
    return {
        "code": error.code,
        "name": type(error).__name__,
        "message": str(error),
        "step": getattr(error, "step", None),
        "line": getattr(error, "line", None),
        "stack": None,
    }


def print_error(code: str, message: str) -> None:
    """Print an error to stderr, in at most `MAX_ERROR_LINES` lines."""
    lines = f"Error: {message}".splitlines()
    if len(lines) > MAX_ERROR_LINES - 1:
        hidden = len(lines) - (MAX_ERROR_LINES - 2)
        lines = [*lines[: MAX_ERROR_LINES - 2], f"... and {hidden} more lines ({code}); --json prints all lines"]
    click.echo("\n".join(lines), err=True)


def is_interactive(stream: TextIO) -> bool:
    """Whether a person uses *stream* interactively; false in a notebook cell, which has a terminal too."""
    return stream.isatty() and "JPY_PARENT_PID" not in os.environ


def print_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def read_input(name: str) -> bytes:
    """Read the file *name*, or standard input for `-`. Raises `EventError` if the file cannot be read."""
    from pdkernel.errors import EventError

    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as fault:
        raise EventError(
            f"Cannot read {name}: {fault.strerror}.", fix="Name a readable file, or - for standard input."
        ) from None
