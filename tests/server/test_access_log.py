"""Lines of the access log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from starlette.routing import Route

from pdkernel.server.access_log import find_route_words, shorten_path
from pdkernel.server.endpoint import Endpoint
from tests.builders import a_workflow, python_step
from tests.server.site import site_of


async def test_a_line_has_no_secrets(tmp_path: Path) -> None:
    """A line has words of routes, the status and the run, and neither query values, tokens nor the endpoint's key."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        header = {"authorization": "Bearer hidden-token", "x-pd-external-user-id": "ada"}
        answer = await site.http.post(f"{site.path()}/a?key=hidden-value", headers=header)
        await site.wait_for_lines(1)
        await site.http.get(f"/v1/connect/tokens/ctok_{'0' * 32}/validate")
        await site.http.post(f"/https:{site.path()}.m.pipedream.net/b%3Fkey=hidden-value")
        first, second, third = await site.wait_for_lines(3)

    assert first.startswith("POST /*/* 200 ")
    assert " Test (" in first
    assert f"(ada, development) run {answer.json()['event_id']} success" in first
    assert "hidden" not in first
    assert second.startswith("GET /v1/connect/tokens/*/validate 200 ")
    assert third.startswith("POST /*/*/* 200 ")
    assert site.key() not in f"{first}{third}"
    assert "hidden" not in third


async def test_the_line_of_a_run_that_fails(tmp_path: Path) -> None:
    """The line has the run's outcome with the error's name and step, and not the message."""
    async with site_of(tmp_path, a_workflow(python_step("break", "raise ValueError('hidden')"))) as site:
        await site.http.post(site.path(), headers=[(b"x-pd-external-user-id", b"a\x9b31mb")])
        (line,) = await site.wait_for_lines(1)

    assert " 200 " in line
    assert line.endswith(" error: ValueError in break")
    assert "hidden" not in line
    assert "\x9b" not in line


async def test_the_line_of_a_run_that_pauses(tmp_path: Path) -> None:
    """The line of a paused run is written at the pause."""
    steps = python_step("wait", "pd.flow.delay(60_000)"), python_step("after")
    async with site_of(tmp_path, a_workflow(*steps)) as site:
        await site.http.post(site.path())
        (line,) = await site.wait_for_lines(1)

    assert line.endswith(" paused")


TOKEN = "Zx9-Q_w7.k2LmN4pR8sT1vYb5"  # 25 characters


TARGETS = [
    "/{}",
    "{endpoint}/{}",
    "{endpoint}/hook/{}/end",
    "{endpoint}/v1;token={}",
    "{endpoint}?key={}",
    "{endpoint}%3Fkey={}",
    "{endpoint}#{}",
    "{endpoint}//{}@host/",
    "{endpoint}/%2F{}",
    "/-/{}",
    "/-/runs/{}",
    "/-/runs/x/resume/1/{}",
    "/-/uploads/{}",
    "/-/login?code={}",
    "/v1/{}",
    "/v1/connect/{}/accounts/{}",
    "/v1/connect/tokens/{}/validate",
    "/https:/user:{}@host/",
    "/https:{endpoint}.m.pipedream.net/{}?a={}",
    "/./../{}",
]


@pytest.mark.parametrize("secret", [TOKEN, TOKEN[:8], f"{TOKEN}%3D", "".join(f"%{ord(each):02x}" for each in TOKEN)])
async def test_no_spelling_of_a_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, secret: str) -> None:
    """Neither the access log nor another log has a part of a URL that may be a secret, however it is written."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        for target in TARGETS:
            sent = target.replace("{endpoint}", site.path()).replace("{}", secret)
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(site.url).port)
            referer = f"referer: http://user:{secret}@localhost/{secret}"
            writer.write(f"GET {sent} HTTP/1.1\r\nhost: localhost\r\n{referer}\r\nconnection: close\r\n\r\n".encode())
            await reader.read()
            writer.close()
        await site.runs()
        lines = await site.wait_for_lines(len(TARGETS) - 1)  # a request with a fragment is invalid and has no line

    logged = "\n".join([*lines, *(record.getMessage() for record in caplog.records)])
    assert not any(part in unquote(logged) for part in (TOKEN, TOKEN[:8]))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1/connect/users/ada", "/v1/connect/users/*"),
        ("/a\nPOST /b\x1b[31m", "/*/*"),
        ("/" * 60_000, "/" * 199),
        ("/x" * 60_000, "/*" * 100),
        ("/", "/"),
    ],
)
def test_the_path_of_a_line(path: str, shown: str) -> None:
    """Words of routes are shown, every other segment is a star, and a long path is shortened."""
    assert shorten_path(path, {"", "v1", "connect", "users"}) == shown


def test_the_words_of_routes() -> None:
    """Parameters of routes are not words."""
    assert find_route_words([Route("/-/runs/{run_id}", Endpoint())]) == {"", "-", "runs"}
