"""`pdkernel run --for-each external_user`: progress and summary of runs for many external users."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pdkernel.cli.app import CliContext
from pdkernel.cli.terminal import color_statuses

if TYPE_CHECKING:
    from pdkernel.execution import Execution


def print_progress(state: CliContext, *, is_shown: bool) -> Callable[[Execution], None]:
    """Return a function that prints a line on standard error for each run that has ended."""

    def print_run(execution: Execution) -> None:
        if not is_shown or state.quiet:
            return
        error = f": {execution.error.message}" if execution.error is not None else ""
        line = f"{execution.external_user}  {execution.status}  {execution.id}{error}"
        click.echo(color_statuses(line.splitlines()[0]), err=True)

    return print_run
