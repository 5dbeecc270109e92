"""
Directories of external users and accounts: whoever implements `identity.Directory`.

    local       the local project's own tables
    apps        apps that a project was told of
    providers   how accounts of an app are connected by OAuth 2
    oauth       what is said to such a provider
    renewal     access tokens, kept and renewed
"""

from pdkernel.connect.local import LocalDirectory

__all__ = ["LocalDirectory"]
