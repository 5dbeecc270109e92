"""
The `pdkernel` command: arguments, output and exit statuses.

    app               the command group, common options, error handling
    command_help      sections, examples and exit statuses in the help
    terminal          questions, colors, JSON, and files that options name
    commands          the list of modules with commands, the console script

Each other module holds one command or one group of commands.
"""

from pdkernel.cli.commands import main

__all__ = ["main"]
