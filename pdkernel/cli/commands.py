"""
Every command, and the console script.

Knows which modules add commands; heavy imports wait inside each command.
"""

from pdkernel.cli import (
    accounts,
    actions,
    apps,
    clients,
    doctor,
    export,
    import_workflows,
    invoke,
    login,
    packages,
    project,
    run,
    serve,
    sources,
    stores,
    triggers,
)
from pdkernel.cli.app import pdkernel

COMMAND_MODULES = (
    actions,
    apps,
    clients,
    export,
    import_workflows,
    invoke,
    login,
    packages,
    accounts,
    run,
    serve,
    project,
    sources,
    doctor,
    stores,
    triggers,
)


def main() -> None:
    """The console script."""
    pdkernel(prog_name="pdkernel")
