"""`pdkernel completion`: the script that completes commands and options in a shell."""

from __future__ import annotations

import click
import cloup
from click.shell_completion import get_completion_class

from pdkernel.cli.app import PROJECT, CliContext, command, pdkernel

_EXAMPLES = ('eval "$(pdkernel completion bash)"', "pdkernel completion fish >~/.config/fish/completions/pdkernel.fish")


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
