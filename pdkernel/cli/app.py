"""
The command itself: its options, its project, how an error ends it.

Knows that every option can come from `PDKERNEL_<OPTION>`, and the exit statuses: 0 success or exited, 1 a step failed,
2 refused before any step, 3 our side failed, 4 paused.
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
    """An option that `PDKERNEL_<NAME>` sets too, so that no password must stand on a command line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.envvar is None and self.expose_value and self.name != "json":
            long = max(self.opts, key=len).lstrip("-")
            self.envvar = "PDKERNEL_" + long.upper().replace("-", "_")


class CliContext:
    """What the commands share: where the project is, opened at first use."""

    def __init__(self) -> None:
        self.project_folder: str | None = None
        self.database_url: str | None = None
        self._project: Project | None = None
        self._directory: Directory | None = None

    def open_project(self) -> Project:
        """The local project: `--project`, else the nearest upwards, else one made in the current folder."""
        if self._project is None:
            from pdkernel.project import Project, find_project

            folder = self.project_folder or os.environ.get("PDKERNEL_PROJECT")
            place = _project_folder(Path(folder)) if folder else find_project(Path.cwd())
            key = os.environ.get("PDKERNEL_KEY_FILE")
            self._project = Project.open(
                place,
                database_url=self.database_url or os.environ.get("PDKERNEL_DATABASE"),
                key_file=Path(key) if key else None,
            )
            if self._project.is_new:
                click.echo(f"Made a local project in {place} (ignored by Git; its key is in there too).", err=True)
        return self._project

    def has_project(self) -> bool:
        """Whether there is a project to open: `project` would make none."""
        from pdkernel.project import find_project

        named = (
            self.project_folder
            or self.database_url
            or os.environ.get("PDKERNEL_PROJECT")
            or os.environ.get("PDKERNEL_DATABASE")
        )
        return bool(named) or find_project(Path.cwd()).is_dir()

    def open_directory(self) -> Directory:
        """Users and accounts of the project: its own, or those of the Connect project that it is logged in to."""
        if self._directory is None:
            from pdkernel.connect import open_directory

            self._directory = open_directory(self.open_project(), os.environ)
        return self._directory

    def close(self) -> None:
        """Close what was opened."""
        if self._project is not None:
            self._project.close()


def _project_folder(folder: Path) -> Path:
    return folder if folder.name == ".pdkernel" else folder / ".pdkernel"


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
            callback=_store_on_context("database"),
            help="Database of the project (also PDKERNEL_DATABASE).",
        ),
        click.option(
            "--project",
            metavar="FOLDER",
            expose_value=False,
            callback=_store_on_context("folder"),
            help="Folder of the local project (also PDKERNEL_PROJECT); default: the nearest .pdkernel/ upwards.",
        ),
    ):
        function = decorate(function)
    return function


def env_option(*args: Any, **kwargs: Any) -> Callable[[F], F]:
    """A click option that its environment variable sets too."""
    return click.option(*args, cls=EnvOption, **kwargs)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION)
@project_options
def pdkernel() -> None:
    """Write Pipedream workflows in a notebook, run them as your end users, export them."""


def command(group: click.Group = pdkernel, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Add a command that takes the project's options and ends our errors well."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        return group.command(**settings)(project_options(_handle_errors(function)))

    return decorate


def _handle_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call the command; an error of ours becomes its message and its exit status."""

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
    """An error in the shape of an execution's."""
    return {
        "code": error.code,
        "name": type(error).__name__,
        "message": str(error),
        "step": getattr(error, "step", None),
        "line": getattr(error, "line", None),
        "stack": None,
    }


def print_error(code: str, message: str) -> None:
    """Say on stderr why nothing ran, in few lines."""
    lines = f"Error: {message}".splitlines()
    if len(lines) > MAX_ERROR_LINES - 1:
        hidden = len(lines) - (MAX_ERROR_LINES - 2)
        lines = [*lines[: MAX_ERROR_LINES - 2], f"... and {hidden} lines more ({code}); --json has them all"]
    click.echo("\n".join(lines), err=True)


def is_interactive(stream: TextIO) -> bool:
    """Whether a person sits at *stream*; at a command in a notebook's cell, which has a terminal too, nobody does."""
    return stream.isatty() and "JPY_PARENT_PID" not in os.environ


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def read_input(name: str) -> bytes:
    """The bytes of the file *name*, or of standard input for `-`. Raises `EventError`."""
    from pdkernel.errors import EventError

    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as fault:
        raise EventError(f"{name} cannot be read: {fault.strerror}.") from None
