"""The sample of Pipedream's page (see `README.md`), run with the release that it was written for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pdkernel.workers.interpreters import find_node
from tests.conformance.sdks import GATE
from tests.conformance.site import Site

pytestmark = pytest.mark.network

SDK = next(sdk for sdk in GATE if sdk.tls)

SAMPLE = """
import { createBackendClient, HTTPAuthType } from "@pipedream/sdk/server";

// These secrets should be saved securely and passed to your environment
const pd = createBackendClient({
environment: "development", // change to production if running for a test production account, or in production
credentials: {
clientId: "{oauth_client_id}",
clientSecret: "{oauth_client_secret}",
},
projectId: "{your_project_id}"
});
await pd.invokeWorkflowForExternalUser(
"{your_endpoint_url}", // pass the endpoint ID or full URL here
"{your_external_user_id}" // The end user's ID in your system
{
method: "POST",
body: {
message: "Hello World"
}
},
HTTPAuthType.OAuth // Will automatically send the Authorization header with a fresh token
)
"""
"""The text of the sample, with the names that a reader fills in."""


def _changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.mark.timeout(120)
def test_the_sample_runs(served: Site) -> None:
    """The sample runs with its missing comma added and the address of this server."""
    SDK.install()
    given = served.settings(tls=True, sdk="the page")
    host = given["url"].removeprefix("https://")
    text = _changed(SAMPLE, '"{your_external_user_id}" //', '"{your_external_user_id}", //')
    address = f'projectId: "{{your_project_id}}", apiHost: "{host}", workflowDomain: "localhost"'
    text = _changed(text, 'projectId: "{your_project_id}"', address)
    text = _changed(text, "await pd.invoke", "const answer = await pd.invoke") + ";console.log(JSON.stringify(answer))"
    for name, value in {
        "oauth_client_id": given["client_id"],
        "oauth_client_secret": given["client_secret"],
        "your_project_id": given["project_id"],
        "your_endpoint_url": given["workflow"],
        "your_external_user_id": "ada",
    }.items():
        text = _changed(text, f"{{{name}}}", value)
    program = SDK.folder / "sample.mjs"
    program.write_text(text, encoding="utf-8")

    ended = subprocess.run(
        [str(find_node()), str(program)],
        env={"NODE_EXTRA_CA_CERTS": served.authority},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    program.unlink()
    assert (ended.stdout, ended.stderr) == ('{"message":"Hello World","user":"ada","account":"ada"}\n', "")


def test_the_sample_as_printed_does_not_parse(tmp_path: Path) -> None:
    """The page's own text lacks a comma and is a syntax error."""
    program = tmp_path / "sample.mjs"
    program.write_text(SAMPLE, encoding="utf-8")

    ended = subprocess.run(
        [str(find_node()), "--check", str(program)], capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 1
    assert "SyntaxError: missing ) after argument list" in ended.stderr
