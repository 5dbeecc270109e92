"""
Directories of external users and accounts: implementations of `identity.Directory`.

    local               a local project: its own tables
    remote              a Connect project at Pipedream
    client, sdk         requests of `remote` over the official SDK, and a cache of their responses
    apps                apps: registrations, names of credentials, OAuth 2 providers, hosts of APIs
    oauth               requests to an OAuth 2 provider, and access tokens that expire
    webhook_migration   webhooks of sources deployed at Pipedream
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.accounts.local import LocalDirectory
from pdkernel.common.identity import Directory
from pdkernel.storage import Project

__all__ = ["LocalDirectory", "open_directory"]


def open_directory(project: Project, environ: Mapping[str, str]) -> Directory:
    """
    Return the directory of the Connect project that *project* is logged in to, or of *project* without a login.

    Sends no request; the first call of the directory does.

    Raises:
        ConnectSettingsError: The secret of the login is missing.
    """
    login = project.login.load(environ)
    if login is None:
        return LocalDirectory(project)
    from pdkernel.accounts.remote import RemoteDirectory
    from pdkernel.accounts.sdk import Sdk

    return RemoteDirectory(project, Sdk(login))
