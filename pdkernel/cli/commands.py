"""
Every command, and the console script.

Knows which modules add commands; heavy imports wait inside each command.
"""

from pdkernel.cli import export, packages, people, run, settings, start, stores
from pdkernel.cli.app import pdkernel

MODULES = (export, packages, people, run, settings, start, stores)


def main() -> None:
    """The console script."""
    pdkernel(prog_name="pdkernel")
