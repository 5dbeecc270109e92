"""Lines of the access log."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.server.access_log import redact_path
from tests.builders import a_workflow, python_step
from tests.server.site import site_of


async def test_a_line_has_no_secrets(tmp_path: Path) -> None:
    """A line has the path, the status and the run, and neither query values nor tokens."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        header = {"authorization": "Bearer hidden-token", "x-pd-external-user-id": "ada"}
        answer = await site.http.post(f"{site.path()}/a?key=hidden-value", headers=header)
        await site.wait_for_lines(1)
        await site.http.get(f"/v1/connect/tokens/ctok_{'0' * 32}/validate")
        await site.http.post(f"/https:{site.path()}.m.pipedream.net/b%3Fkey=hidden-value")
        first, second, third = await site.wait_for_lines(3)

    assert first.startswith(f"POST {site.path()}/a 200 ")
    assert f"(ada, development) run {answer.json()['event_id']} success" in first
    assert "hidden" not in first
    assert "ctok_0" not in second
    assert third.startswith(f"POST /https:{site.path()}.m.pipedream.net/b 200 ")
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


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1/connect/users/ada", "/v1/connect/users/ada"),
        (f"/v1/connect/tokens/ctok_{'0' * 32}/validate", "/v1/connect/tokens/***/validate"),
        (f"/x/{'a' * 40}/y", f"/x/{'a' * 40}/y"),
        (f"/x/{'a' * 41}/y", "/x/***/y"),
        (f"/x/eyJ{'a' * 20}.b.c/y", "/x/***/y"),
        (f"/-/resume/run/ask/1.1.{'0f' * 16}", "/-/resume/run/ask/1.1.***"),
        ("/https:/eo1.m.pipedream.net/a?key=hidden", "/https:/eo1.m.pipedream.net/a"),
        ("/a\nPOST /b\x1b[31m", "/a?POST /b?[31m"),
        (f"/{'ab/' * 60}{'t' * 64}", f"/{'ab/' * 60}***"),
        (f"/{'ab/' * 100}", f"/{'ab/' * 66}a"),
    ],
)
def test_the_path_of_a_line(path: str, shown: str) -> None:
    """Tokens are masked before a long path is shortened; a query and control characters are not shown."""
    assert redact_path({"path": path}) == shown
