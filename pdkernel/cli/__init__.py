"""
The `pdkernel` command: arguments, output and exit statuses.

    app               the command group, common options, error handling
    command_help      sections, examples and exit statuses in the help
    terminal          questions, colors, JSON, and files that options name

Each other module holds one command or one group of commands, and imports heavy modules when it runs.
"""

from pdkernel.cli import (
    accounts,
    actions,
    apps,
    batches,
    check,
    clients,
    demo,
    doctor,
    export,
    import_workflows,
    invoke,
    lab,
    login,
    migrate,
    migrate_record,
    new,
    packages,
    project,
    replay,
    run,
    runs,
    secrets,
    serve,
    shape,
    sources,
    stores,
    triggers,
)
from pdkernel.cli.app import pdkernel

__all__ = ["COMMAND_MODULES", "main", "pdkernel"]

COMMAND_MODULES = (
    actions,
    apps,
    batches,
    clients,
    export,
    import_workflows,
    migrate,
    migrate_record,
    invoke,
    login,
    packages,
    accounts,
    run,
    runs,
    replay,
    serve,
    shape,
    check,
    project,
    secrets,
    sources,
    new,
    demo,
    lab,
    doctor,
    stores,
    triggers,
)


def main() -> None:
    """The console script."""
    pdkernel(prog_name="pdkernel")
