"""Bodies that are too much, and what is left of their requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.builders import python_step
from tests.server.endpoint.conftest import ECHO, Serve
from tests.server.site import Site

KB = 1024


async def test_a_record_of_a_body_that_is_too_large(echo: Site) -> None:
    """413, and the run stands in the history with the error, its steps not run, as the platform lists it."""
    answer = await echo.http.post(echo.path(), content=b"x" * (512 * KB + 1), headers={"x-pd-external-user-id": "ada"})
    (run,) = await echo.runs()

    assert answer.status_code == 413
    assert "x-pd-upload-body" in answer.text
    assert (run.status, run.external_user, [step.status for step in run.steps]) == ("error", "ada", ["not_run"])
    assert run.error is not None
    assert "512 KB" in run.error.message
    assert "body" not in run.event
    assert (await echo.said(1))[0].endswith("error: RequestError")


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_client_that_is_still_sending(echo: Site, kind: str) -> None:
    """It hears why, and not of a broken connection: what is left of a body of some megabytes is read and forgotten."""
    host, _, port = echo.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + b"a" * 8_000_000
    head = f"POST {echo.path()} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_large_body_in_one_chunk(echo: Site) -> None:
    """It was read to its end already."""
    host, _, port = echo.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {echo.path()} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (600 * KB, b"a" * 600 * KB)
    writer.write(head.encode() + body)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_more_than_the_last_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """What follows a request that was to be the last is not read: the request has its answer, and the log no traceback."""
    site = await serve(python_step("slow", "import time; time.sleep(0.5)"), response="default")
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {site.path()} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    await asyncio.sleep(0.2)  # so that it is read by itself

    writer.write(b"more")
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert [record.message for record in caplog.records if record.exc_info] == []


async def test_a_large_body_of_no_environment(echo: Site) -> None:
    """What is wrong with the request besides is a 400, as with a small body."""
    answer = await echo.http.post(echo.path(), content=b"x" * (600 * KB), headers={"x-pd-environment": "staging"})

    assert answer.status_code == 400
    assert await echo.runs() == []


async def test_no_record_where_none_is_wanted(echo: Site) -> None:
    """`x-pd-nostore` holds for a refused body, too."""
    answer = await echo.http.post(echo.path(), content=b"x" * (600 * KB), headers={"x-pd-nostore": "1"})

    assert answer.status_code == 413
    assert await echo.runs() == []


async def test_fields_and_heads_count_together(echo: Site) -> None:
    """Many small fields, and one part's endless head, are as much too large as one field; the file beside them is not."""
    fields = await echo.http.post(echo.path(), data={f"f{n}": "x" * 10_000 for n in range(60)}, files={"f": b"1"})
    head = b'--x\r\ncontent-disposition: form-data; name="a"\r\nx-more: ' + b"b" * (600 * KB)
    heads = await echo.http.post(
        echo.path(), content=head, headers={"content-type": "multipart/form-data; boundary=x"}
    )  # fmt: skip
    file = await echo.http.post(echo.path(), data={"a": "1"}, files={"f": b"x" * (600 * KB)})

    assert (fields.status_code, heads.status_code // 100, file.status_code) == (413, 4, 200)


async def test_many_files(echo: Site) -> None:
    """A hundred files are taken; one more is refused, since each holds a file of the process open."""

    async def send(count: int) -> int:
        answer = await echo.http.post(echo.path(), files=[("f", (f"{n}", b"1")) for n in range(count)])
        return answer.status_code

    assert (await send(100), await send(101)) == (200, 400)


async def test_charsets_that_are_none(serve: Serve) -> None:
    """Python's own codecs, some of which take minutes for half a megabyte, are no charset: the text is read as UTF-8."""
    site = await serve(python_step("echo", ECHO))
    content = b"a0" * (200 * KB)
    began = time.monotonic()
    kept: list[Any] = []
    for charset in ("punycode", "idna", "unicode_escape", "undefined"):
        kind = {"content-type": f"text/plain; charset={charset}"}
        kept.append((await site.http.post(site.path(), content=content, headers=kind)).json()["body"])
    form = await site.http.post(
        site.path(),
        content=b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + content + b"\r\n--x--\r\n",
        headers={"content-type": "multipart/form-data; boundary=x; charset=punycode"},
    )

    assert kept == [content.decode()] * 4
    assert form.json()["body"] == {"a": content.decode()}
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "request_of", [{"content": b"x", "headers": {"x-pd-upload-body": "1"}}, {"files": {"a": b"x"}}]
)
async def test_a_file_that_cannot_be_kept(echo: Site, request_of: dict[str, Any]) -> None:
    """The caller hears that nothing has run, and is not asked to try again by a status of 5xx."""
    echo.context.project.folder.joinpath("uploads").write_text("in the folder's way")

    answer = await echo.http.post(echo.path(), **request_of)

    assert answer.status_code == 400
    assert "could not be stored: File exists. No step has run." in answer.text
    assert await echo.runs() == []
