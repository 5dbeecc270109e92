"""
Every command, and the console script.

Knows which modules add commands; heavy imports wait inside each command.
"""

from pdkernel.cli import (
    actions,
    apps,
    clients,
    export,
    importing,
    invoke,
    login,
    packages,
    people,
    run,
    serve,
    settings,
    sources,
    start,
    stores,
    triggers,
)
from pdkernel.cli.app import pdkernel

MODULES = (
    actions,
    apps,
    clients,
    export,
    importing,
    invoke,
    login,
    packages,
    people,
    run,
    serve,
    settings,
    sources,
    start,
    stores,
    triggers,
)


def main() -> None:
    """The console script."""
    pdkernel(prog_name="pdkernel")
