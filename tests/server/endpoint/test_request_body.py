"""`steps.trigger.event.body` for every kind of body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.site import Site

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


async def body_of(site: Site, content: bytes, kind: str | None) -> Any:
    """The event's body for *content* of media type *kind*."""
    headers = {"content-type": kind} if kind else {}
    answer = await site.http.post(site.path(), content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["body"]


@pytest.mark.parametrize(
    ("kind", "content", "body"),
    [
        (JSON, b'{"a": [1, null, "\xc3\xa9"]}', {"a": [1, None, "é"]}),
        ("application/vnd.api+json; charset=utf-8", b"[1]", [1]),
        (JSON, b"12", 12),
        (JSON, b"{broken", "{broken"),
        (JSON, b"message=Hello+World&n=%7B%27a%27%3A+1%7D", {"message": "Hello World", "n": "{'a': 1}"}),
        (JSON, b'{"a": NaN}', '{"a": NaN}'),
        (JSON, b"9" * 4300, int("9" * 4300)),
        (FORM, b"a=1&b=&a=2&c=%C3%A9", {"a": ["1", "2"], "b": "", "c": "é"}),
        ("text/plain", b'{"a": 1}', '{"a": 1}'),
        ("text/plain; charset=latin-1", b"\xe9", "é"),
        ("text/plain; charset=rot13", b"abc", "abc"),
        ("application/xml", b"<a/>", "<a/>"),
        ("application/octet-stream", b"\xff\x00", "\ufffd\x00"),
        (None, b"plain", "plain"),
    ],
)
async def test_media_types(echo: Site, kind: str | None, content: bytes, body: Any) -> None:
    """JSON and forms are parsed, a form under the name of JSON too; everything else is text."""
    assert await body_of(echo, content, kind) == body


async def test_a_number_too_long_for_python_leaves_the_body_a_text(echo: Site) -> None:
    """JSON with a whole number of 400,000 digits, which Python does not convert, is a text as other broken JSON is."""
    content = b'{"n": -' + b"9" * 400_000 + b"}"

    assert await body_of(echo, content, JSON) == content.decode()


async def test_no_body(echo: Site) -> None:
    """A GET without a body has no `body`; an empty POST has an empty one."""
    got = (await echo.http.get(echo.path())).json()
    posted = (await echo.http.post(echo.path())).json()

    assert "body" not in got
    assert posted["body"] == ""


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "PURGE"])
async def test_methods(echo: Site, method: str) -> None:
    """Any method starts the workflow."""
    answer = await echo.http.request(method, echo.path(), json={"a": 1})

    assert (answer.json()["method"], answer.json()["body"]) == (method, {"a": 1})


async def test_files(echo: Site) -> None:
    """A file of a form is stored: the event holds its name, type and a URL that gives its bytes."""
    content = bytes(range(256)) * 4096  # 1 MB: more than a body may have
    answer = await echo.http.post(
        echo.path(), data={"note": "hi"}, files={"picture": ("naïve x.png", content, "image/png")}
    )
    picture = answer.json()["body"]["picture"]
    got = await echo.http.get(picture["url"])

    assert answer.json()["body"]["note"] == "hi"
    assert (picture["filename"], picture["mimetype"]) == ("naïve x.png", "image/png")
    assert got.content == content
    assert got.headers["content-disposition"].startswith("attachment;")


async def test_several_files_of_one_name(echo: Site) -> None:
    """A name that stands several times has a list."""
    answer = await echo.http.post(echo.path(), files=[("f", ("a.txt", b"a")), ("f", ("b.txt", b"b"))])

    assert [file["filename"] for file in answer.json()["body"]["f"]] == ["a.txt", "b.txt"]


async def test_a_file_that_nobody_sent(echo: Site) -> None:
    """Another name is 404, one that leaves the folder among them."""
    answers = [await echo.http.get(f"/-/uploads/{name}") for name in ("x" * 43, "..%2Fkey", "%2e%2e")]

    assert [answer.status_code for answer in answers] == [404, 404, 404]


@pytest.mark.parametrize(
    "request_of", [{"headers": {"x-pd-upload-body": "1"}}, {"params": {"pipedream_upload_body": "1"}}]
)
async def test_upload_body(echo: Site, request_of: dict[str, Any]) -> None:
    """With the switch, a body of any size is stored and the event holds its URL."""
    content = b"x" * 3_000_000
    answer = await echo.http.post(echo.path(), content=content, **request_of)
    got = await echo.http.get(answer.json()["body"]["raw_body_url"])

    assert got.content == content


async def test_too_large(echo: Site) -> None:
    """More than 512 KB is 413, said or not, and no step runs."""

    async def pieces() -> Any:
        for _ in range(9):
            yield b"x" * 65536

    said = await echo.http.post(echo.path(), content=b"x" * (512 * 1024 + 1))
    streamed = await echo.http.post(echo.path(), content=pieces())
    field = await echo.http.post(echo.path(), data={"a": "x" * (512 * 1024 + 1)}, files={"f": b"1"})
    most = await echo.http.post(echo.path(), content=b"x" * (512 * 1024))

    assert [answer.status_code for answer in (said, streamed, field, most)] == [413, 413, 413, 200]
    assert [run.status for run in await echo.runs()] == ["error"] * 3 + ["success"]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (JSON, b"[" * 400 + b"]" * 400),
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"nothing of that"),
    ],
)
async def test_unreadable(echo: Site, kind: str, content: bytes) -> None:
    """A form that is none, and values nested too deeply, are 400."""
    answer = await echo.http.post(echo.path(), content=content, headers={"content-type": kind})

    assert answer.status_code == 400


async def test_headers_of_the_event(echo: Site) -> None:
    """Names are in lower case; one that stands twice has both values."""
    headers = [(b"x-twice", b"a"), (b"X-Twice", b"b"), (b"x-pd-custom", "Ü".encode("latin-1"))]
    answer = await echo.http.post(echo.path(), headers=headers)

    assert answer.json()["headers"]["x-twice"] == "a, b"
    assert answer.json()["headers"]["x-pd-custom"] == "Ü"


async def test_what_the_event_holds_can_be_written(echo: Site) -> None:
    """Half a surrogate and a NUL go through the workflow, the journal and the run page."""
    body: Any = {"half": "\ud800", "nul": "\x00", "\u2028": "\u202e"}
    answer = await echo.http.post(echo.path(), content=json.dumps(body), headers={"content-type": JSON})
    (run,) = await echo.runs()
    page = await echo.http.get(f"/-/runs/{run.id}")

    assert answer.status_code == 200
    assert page.status_code == 200
    assert run.status == "success"
