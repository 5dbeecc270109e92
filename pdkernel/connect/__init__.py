"""
Directories of external users and accounts: whoever implements `identity.Directory`.

    local   the local project's own tables
"""

from pdkernel.connect.local import LocalDirectory

__all__ = ["LocalDirectory"]
