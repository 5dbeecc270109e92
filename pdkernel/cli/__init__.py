"""
The `pdkernel` command: the acts of the notebook, on files.

    app        the command itself, options that all commands take, how errors end
    actions    pdkernel actions, apps
    run        pdkernel run
    export     pdkernel export, shape
    importing  pdkernel import
    people     pdkernel users, accounts
    login      pdkernel login
    settings   pdkernel env, project
    stores     pdkernel store
    start      pdkernel new, demo, doctor, lab

Knows arguments, exit statuses and what is printed. What the commands do is the lower floors' work.
"""

from pdkernel.cli.commands import main

__all__ = ["main"]
