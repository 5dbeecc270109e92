"""What a caller is told when the project's disk fails."""

from __future__ import annotations

from tests.builders import python_step
from tests.server.endpoint.conftest import Serve


async def test_a_run_that_cannot_be_recorded(serve: Serve) -> None:
    """The caller is not told of a run that nobody will find, nor asked to send the request again."""
    site = await serve(python_step(), response="default")
    await site.context.engine.journal.close()
    answer = await site.http.post(site.path(), json={})

    assert answer.status_code == 400
    assert "could not be recorded" in answer.text
    assert "error: ProjectError" in (await site.said(1))[0]
