"""
The server for the SDK tests: `pdkernel serve` in another process, over HTTP and TLS, on one project.

Users: ada has accounts of two apps, bob of one; grace is in production, where the project's plan does not run
    workflows. Outbound calls go to the Slack stand-in.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pdkernel.accounts import LocalDirectory
from pdkernel.common.identity import parse_environment
from pdkernel.storage import Project
from tests.actions.checkout import write_checkout
from tests.notebook_files import notebook_of
from tests.serve_process import serving

TRIGGER = """%%pdworkflow
name: Greet
trigger: {type: http, auth: oauth, response: custom}
"""
STEP = """%%pdstep greet --app slack
def handler(pd):
    event = pd.steps["trigger"]["event"]
    message, user = event["body"]["message"], event["headers"]["x-pd-external-user-id"]
    account = pd.inputs["slack"]["$auth"]["oauth_access_token"][-3:]
    pd.respond({
        "status": 200,
        "headers": {"x-greeting": f"{message} to {user} by {account}"},
        "body": {"message": message, "user": user, "account": account},
    })
"""
WOKEN = """
export default { key: "depot-new-call", name: "New Call", version: "0.0.1", type: "source", description: "Is called.",
  props: { http: "$.interface.http" }, async run(event) { this.$emit({ said: event.body.say }); } };
"""
ACCOUNTS = (
    ("ada", "development", "slack", "apn_adaslack", {"oauth_access_token": "xoxb-conformance-ada"}),
    ("ada", "development", "depot", "apn_adadepot", {"api_key": "depot-conformance-ada"}),
    ("bob", "development", "depot", "apn_bobdepot", {"api_key": "depot-conformance-bob"}),
    ("grace", "production", "slack", "apn_graceslack", {"oauth_access_token": "xoxb-conformance-grace"}),
)


@dataclass(frozen=True)
class Site:
    """
    A served project.

    Attributes:
        plain: The JSON line of the server over plain HTTP.
        secure: The JSON line of the server over TLS.
        authority: The file with the certificate authority.
        client_id: The id of an OAuth client.
        client_secret: The secret of that client.
        keyed_client_id: The id of a client with a key instead of a secret.
        private_key: The private key of that client.
    """

    plain: dict[str, Any]
    secure: dict[str, Any]
    authority: str
    client_id: str
    client_secret: str
    keyed_client_id: str
    private_key: str

    def settings(self, *, tls: bool, sdk: str) -> dict[str, str]:
        """The settings of a driver."""
        printed = self.secure if tls else self.plain
        # the certificate has both names; JS SDK 1.x has one host for API and workflows
        url = printed["url"].replace("127.0.0.1", "localhost") if tls else printed["url"]
        return {
            "url": url,
            "workflow": f"{url}/{printed['workflows'][0]['endpoint']}",
            "workflow_id": printed["workflows"][0]["id"],
            "project_id": printed["project_id"],
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "keyed_client_id": self.keyed_client_id,
            "private_key": self.private_key,
            "newcomer": f"new, by {sdk}",
        }


def copy_project(folder: Path) -> Path:
    """Copy a folder with its project, because one process serves a project; return the copy."""
    return Path(shutil.copytree(folder, folder.with_name(f"{folder.name}-copy"), symlinks=True))


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Create a project in *folder* and serve it."""
    notebook = notebook_of(folder / "greet.ipynb", TRIGGER, STEP)
    source = write_checkout(folder / "checkout") / "components" / "depot" / "sources" / "new-call" / "new-call.mjs"
    source.parent.mkdir()
    source.write_text(WOKEN)
    with Project.open(folder / ".pdkernel") as project:
        directory = LocalDirectory(project)
        for user, environment, app, account, credentials in ACCOUNTS:
            directory.add_account(
                app=app,
                credentials=credentials,
                external_user_id=user,
                environment=parse_environment(environment),
                account_id=account,
            )
        project.set_plan("free")
        project.settings.set("actions", str(folder / "checkout"))
        client = project.oauth_clients.create("conformance")
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        keyed = project.oauth_clients.create_with_key(public, "conformance, by its key")
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    options = (str(notebook), "--egress", "stand-in=slack")
    with ExitStack() as stack:
        secure, said = stack.enter_context(serving(copy_project(folder), *options, "--tls"))
        plain, _ = stack.enter_context(serving(folder, *options))
        authority = re.search(r"NODE_EXTRA_CA_CERTS=(\S+)", said)
        assert authority is not None, said
        yield Site(plain, secure, authority[1], client.client.id, client.secret, keyed.id, private)
