"""A project with a key-based app and an OAuth app, served in another process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.apps import OAuthProvider, register_app, register_provider
from pdkernel.storage import Project
from tests.oauth_provider import CLIENT_ID, CLIENT_SECRET, oauth_provider
from tests.serve_process import serving


@dataclass
class Site:
    """
    A project, served in another process.

    Attributes:
        project: The project, also opened in this process.
        url: The address of the server.
        token: An access token of a client.
    """

    project: Project
    url: str
    token: str = field(repr=False)

    def connect_token(self, user: str, **fields: Any) -> dict[str, Any]:
        """A Connect token for *user*, as a product's back end gets one."""
        answer = httpx.post(
            f"{self.url}/v1/connect/{self.project.project_id}/tokens",
            headers={"authorization": f"Bearer {self.token}"},
            json={"external_user_id": user, **fields},
            verify=False,
            timeout=60,
        )
        made: dict[str, Any] = answer.json()
        return made

    def link(self, app: str, user: str, **fields: Any) -> str:
        """A link for *user*."""
        return f"{self.connect_token(user, **fields)['connect_link_url']}&app={app}"

    def credentials(self, app: str, user: str) -> dict[str, str]:
        """The credentials of *user*'s newest account."""
        directory = LocalDirectory(self.project)
        account = directory.newest_account(user, "development", app)
        return {} if account is None else dict(directory.credentials(account.id))


@contextmanager
def link_site(folder: Path, *words: str) -> Iterator[Site]:
    """Serve the project in *folder*; *words* are options of `pdkernel serve`."""
    with Project.open(folder / ".pdkernel") as project, oauth_provider() as provider:
        register_app(project, "my_crm", ["subdomain", "api_key"])
        authorize, token = f"{provider.url}/authorize", f"{provider.url}/token"
        register_provider(project, "my_mail", OAuthProvider(authorize, token, CLIENT_ID, CLIENT_SECRET))
        client = project.oauth_clients.create("tests")
        with serving(folder, *words) as (printed, _):
            asked = {"client_id": client.client.id, "client_secret": client.secret, "grant_type": "client_credentials"}
            answer = httpx.post(f"{printed['url']}/v1/oauth/token", json=asked, verify=False, timeout=60)
            yield Site(project, printed["url"], answer.json()["access_token"])
