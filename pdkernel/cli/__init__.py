"""
The `pdkernel` command: arguments, output and exit statuses.

    app               the command group, common options, help, error handling
    terminal          questions, colors, JSON, and files that options name
    run_output        what the commands that run a workflow share

Each other module holds one command or one group of commands, and imports heavy modules when it runs.
"""

from pdkernel.cli import (  # noqa: F401 - each module adds its commands
    accounts,
    actions,
    clients,
    crash_test,
    doctor,
    export,
    import_workflows,
    invoke,
    migrate,
    migrate_record,
    migrate_shadow,
    migrate_urls,
    new,
    project,
    run,
    runs,
    serve,
    shape,
    sources,
    stores,
    triggers,
)
from pdkernel.cli.app import pdkernel

__all__ = ["main", "pdkernel"]


def main() -> None:
    """Run the console script."""
    pdkernel(prog_name="pdkernel")
