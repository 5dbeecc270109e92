"""The help of a command: sections of commands, examples and exit statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click
import cloup

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
        """The commands in the order of the section."""
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
