"""
Directories of external users and accounts: whoever implements `identity.Directory`.

    local       the local project's own tables
    remote      a Connect project at Pipedream, asked (`asking`) over the SDK (`sdk`); its answers, read (`told`)
    moving      webhooks of sources deployed at Pipedream, to be led elsewhere
    brief       answers that are good for a moment
    apps        apps that a project was told of
    providers   how accounts of an app are connected by OAuth 2
    oauth       what is said to such a provider
    renewal     access tokens, kept and renewed
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.connect.local import LocalDirectory
from pdkernel.identity import Directory
from pdkernel.project import Project

__all__ = ["LocalDirectory", "open_directory"]


def open_directory(project: Project, environ: Mapping[str, str]) -> Directory:
    """
    The directory that counts: of the Connect project that *project* is logged in to, else of *project* itself.

    Asks nobody; the first question to the directory does.

    Raises:
        ConnectSettingsError: The login's secret is gone.
    """
    login = project.login.load(environ)
    if login is None:
        return LocalDirectory(project)
    from pdkernel.connect.remote import RemoteDirectory
    from pdkernel.connect.sdk import Sdk

    return RemoteDirectory(project, Sdk(login))
