"""Unmodified actions from npm, installed for this test run only."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.egress import Gateway, parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.model import AppBinding, Step
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event
from tests.sweep.apps import APPS, FEW
from tests.sweep.sweep import sweep

pytestmark = pytest.mark.network

TOKEN = "glpat-4f9a1c7e52d84b06a3"
CREATE_ISSUE = """
import action from "@pipedream/gitlab/actions/create-issue/create-issue.mjs";
export default action;
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("app", FEW)
async def test_every_importable_action_is_described_and_entered(installed: Path, app: str) -> None:
    """No action needs an unsupported feature, and the number of actions is as counted."""
    row = await sweep(installed, app)

    assert row.lacking == []
    assert (row.importable, row.described, row.entered) == (APPS[app].actions,) * 3, row.trouble
    assert row.sources == APPS[app].sources


@pytest.fixture
async def refusing(tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """A server that answers 404 to every request, by TLS; its port and the certificate to trust."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("gitlab.example").configure_cert(context)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"message":"404 Project Not Found"}'
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\nconnection: close\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], file
    server.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("written", ["import", "uses"])
async def test_a_token_that_an_action_prints_is_not_in_the_record(
    installed: Path, tmp_path: Path, refusing: tuple[int, Path], written: str
) -> None:
    """The gitlab action logs its whole request, with the account's token, when the response is 404."""
    port, authority = refusing
    project = Project.open(tmp_path / ".pdkernel")
    directory = LocalDirectory(project)
    credentials = {"oauth_access_token": TOKEN, "base_api_url": "gitlab.example"}
    directory.add_account(external_user_id="ada", app="gitlab", credentials=credentials)
    gateway = await Gateway.start(
        tmp_path / "egress",
        host_overrides={("gitlab.example", 443): ("127.0.0.1", port)},
        extra_ca_file=authority,
        environ={},
    )
    choices = Catalog.for_project(project, environ={}).settings
    choices.accept_licence()
    choices.set_sources(["npm"], base=tmp_path)
    imported = written == "import"
    step = Step(
        "issue",
        "node",
        CREATE_ISSUE if imported else "",
        uses=None if imported else "gitlab-create-issue@0.2.2",
        apps=(AppBinding("gitlab", "gitlab"),),
        props={"projectId": 7, "title": "Broken"},
    )
    request = RunRequest(a_workflow(step), an_event(), parse_policy("live"), external_user_id="ada", folder=installed)

    async with await WorkflowEngine.start(project, directory, gateway=gateway) as runtime:
        execution = await runtime.run(request)
    project.close()

    found = execution.step("issue")
    assert found.error is not None
    assert found.error.message == 'Request failed with status code 404\n{\n  "message": "404 Project Not Found"\n}'
    printed = "".join(log.text for log in found.logs)
    assert "Bearer ⟦secret:gitlab/" in printed
    assert TOKEN not in str(execution.to_json())
    files = [path for path in (tmp_path / ".pdkernel").rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
