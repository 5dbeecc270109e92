"""The event's body for every kind of request body, and rejected bodies."""

from __future__ import annotations

import asyncio
import encodings.aliases
import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.server.endpoint.request_body import (
    MAX_BODY_BYTES,
    MAX_FIELDS,
    BodyError,
    _decode_text,
    _parse_text,
    collect_fields,
    parse_form,
    parse_query,
)
from tests.builders import python_step
from tests.growth import assert_fast, assert_linear
from tests.server.endpoint.conftest import ECHO, Serve
from tests.server.site import Site

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"


async def body_of(site: Site, content: bytes, kind: str | None) -> Any:
    """The event's body for *content* with the media type *kind*."""
    headers = {"content-type": kind} if kind else {}
    answer = await site.http.post(site.path(), content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["body"]


@pytest.mark.parametrize(
    ("kind", "content", "body"),
    [
        (JSON, b'{"a": [1, null, "\xc3\xa9"]}', {"a": [1, None, "é"]}),
        ("application/vnd.api+json; charset=utf-8", b"[1]", [1]),
        (JSON, b'"%s"' % (b"[" * 300), "[" * 300),
        (JSON, b'["\\"%s", {}]' % (b"{" * 300), ['"' + "{" * 300, {}]),
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
    """JSON and forms are parsed, also a form with a JSON content type; other bodies are text."""
    assert await body_of(echo, content, kind) == body


async def test_a_number_that_python_cannot_parse_leaves_the_body_a_text(echo: Site) -> None:
    """JSON with an integer of 400,000 digits is a text, as other invalid JSON."""
    content = b'{"n": -' + b"9" * 400_000 + b"}"

    assert await body_of(echo, content, JSON) == content.decode()


async def test_a_request_without_a_body(echo: Site) -> None:
    """The event of a GET has no `body`; an empty POST has an empty text."""
    got = (await echo.http.get(echo.path())).json()
    posted = (await echo.http.post(echo.path())).json()

    assert "body" not in got
    assert posted["body"] == ""


async def test_a_file_of_a_form_is_stored(echo: Site) -> None:
    """The event has the file's name, media type and URL; the URL returns the bytes."""
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


async def test_files_with_the_same_name_are_a_list(echo: Site) -> None:
    """Files with the same field name are a list."""
    answer = await echo.http.post(echo.path(), files=[("f", ("a.txt", b"a")), ("f", ("b.txt", b"b"))])

    assert [file["filename"] for file in answer.json()["body"]["f"]] == ["a.txt", "b.txt"]


async def test_an_unknown_file_is_not_found(echo: Site) -> None:
    """An unknown name, also one that leaves the folder, is answered 404."""
    answers = [await echo.http.get(f"/-/uploads/{name}") for name in ("x" * 43, "..%2Fkey", "%2e%2e")]

    assert [answer.status_code for answer in answers] == [404, 404, 404]


@pytest.mark.parametrize(
    "request_of", [{"headers": {"x-pd-upload-body": "1"}}, {"params": {"pipedream_upload_body": "1"}}]
)
async def test_a_whole_body_is_stored(echo: Site, request_of: dict[str, Any]) -> None:
    """With the flag, a body of any size is stored, and the event has its URL."""
    content = b"x" * 3_000_000
    answer = await echo.http.post(echo.path(), content=content, **request_of)
    got = await echo.http.get(answer.json()["body"]["raw_body_url"])

    assert got.content == content


async def test_a_large_body_is_answered_413(echo: Site) -> None:
    """More than 512 KB are answered 413, with or without a declared length, and no step runs."""

    async def pieces() -> Any:
        for _ in range(9):
            yield b"x" * 65536

    declared = await echo.http.post(echo.path(), content=b"x" * (512 * 1024 + 1))
    streamed = await echo.http.post(echo.path(), content=pieces())
    field = await echo.http.post(echo.path(), data={"a": "x" * (512 * 1024 + 1)}, files={"f": b"1"})
    largest = await echo.http.post(echo.path(), content=b"x" * (512 * 1024))

    assert [answer.status_code for answer in (declared, streamed, field, largest)] == [413, 413, 413, 200]
    assert [run.status for run in await echo.runs()] == ["error"] * 3 + ["success"]


async def test_an_invalid_body_is_answered_400(echo: Site) -> None:
    """An invalid form and values nested too deeply are answered 400."""
    for kind, content in (
        (JSON, b"[" * 257 + b"]" * 257),
        (JSON, b'{"a":' * 257 + b"1" + b"}" * 257),
        ("multipart/form-data", b"--x\r\n"),
        (MULTIPART, b"not a form"),
    ):
        answer = await echo.http.post(echo.path(), content=content, headers={"content-type": kind})

        assert answer.status_code == 400, content[:10]


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
async def test_a_body_of_256_levels_is_accepted(echo: Site, start: str, end: str) -> None:
    """A value at the deepest level is not a level: the request starts a run."""
    await echo.http.post(echo.path(), content=start * 256 + "1" + end * 256, headers={"content-type": JSON})

    (run,) = await echo.runs()
    assert len(json.dumps(run.event["body"], separators=(",", ":"))) == len(start + end) * 256 + 1


KB = 1024


async def test_a_large_body_is_recorded(echo: Site) -> None:
    """The run of a rejected body has the error, and its steps did not run; `x-pd-nostore` and an invalid environment prevent it."""
    content, user = b"x" * (512 * KB + 1), {"x-pd-external-user-id": "ada"}
    answer = await echo.http.post(echo.path(), content=content, headers=user)
    (line,) = await echo.wait_for_lines(1)
    others = [
        (await echo.http.post(echo.path(), content=content, headers=headers)).status_code
        for headers in ({"x-pd-nostore": "1"}, {"x-pd-environment": "staging"})
    ]
    (run,) = await echo.runs()

    assert (answer.status_code, others) == (413, [413, 400])
    assert "x-pd-upload-body" in answer.text
    assert (run.status, run.external_user, [step.status for step in run.steps]) == ("error", "ada", ["not_run"])
    assert run.error is not None
    assert "512 KB" in run.error.message
    assert "body" not in run.event
    assert line.endswith("error: RequestError")
    assert (run.response and run.response.status) == 413


async def send_raw(site: Site, *headers: str, body: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a POST of *body* was sent."""
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = [f"POST {site.path()} HTTP/1.1", "host: localhost", *headers, "", ""]
    writer.write("\r\n".join(head).encode() + body)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "chunked"])
async def test_a_client_that_is_still_sending_gets_the_response(echo: Site, kind: str) -> None:
    """The rest of a rejected body is read, so that the client does not get a broken connection; one chunk is a whole body."""
    body = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + b"a" * 8_000_000
    headers = [f"content-type: {kind}", f"content-length: {len(body)}"]
    if kind == "chunked":
        body, headers = b"%x\r\n%s\r\n0\r\n\r\n" % (600 * KB, b"a" * 600 * KB), ["transfer-encoding: chunked"]
    reader, writer = await send_raw(echo, *headers, "connection: close", body=body)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_asks_first_gets_the_413_at_once(echo: Site) -> None:
    """A client that announces a large body with `expect: 100-continue` gets 413, and is not asked for the body."""
    reader, writer = await send_raw(echo, "expect: 100-continue", f"content-length: {600 * KB}")
    answer = await asyncio.wait_for(reader.readline(), 60)
    writer.close()

    assert answer == b"HTTP/1.1 413 Request Entity Too Large\r\n"


async def test_a_client_that_disconnects_starts_no_run(echo: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A request that ends before its body starts no run, and is not an error of the server."""
    _, writer = await send_raw(echo, "content-length: 10", body=b"abc")
    writer.close()
    await echo.wait_for_lines(1)

    assert await echo.runs() == []
    assert [record.message for record in caplog.records if record.exc_info] == []


async def test_fields_and_part_headers_count_towards_the_limit(echo: Site) -> None:
    """Many small fields, or large part headers, exceed the limit; files do not count."""
    fields = await echo.http.post(echo.path(), data={f"f{n}": "x" * 10_000 for n in range(60)}, files={"f": b"1"})
    file = await echo.http.post(echo.path(), data={"a": "1"}, files={"f": b"x" * (600 * KB)})
    head, headers = b'--x\r\ncontent-disposition: form-data; name="a"\r\n', {"content-type": MULTIPART}
    for more in (b"m: " + b"b" * 2_000, b"m" * 2_000 + b": b"):
        content = (head + more + b"\r\n\r\n1\r\n") * 300 + b"--x--\r\n"
        assert (await echo.http.post(echo.path(), content=content, headers=headers)).status_code == 413

    assert (fields.status_code, file.status_code) == (413, 200)


async def test_the_number_of_files_is_limited(echo: Site) -> None:
    """A form with a hundred files is accepted, and one with more files is answered 400."""

    async def send(count: int) -> int:
        answer = await echo.http.post(echo.path(), files=[("f", (f"{n}", b"1")) for n in range(count)])
        return answer.status_code

    assert (await send(100), await send(101)) == (200, 400)


async def test_codecs_of_python_are_not_charsets(serve: Serve) -> None:
    """Codecs that only Python has, some of which are slow, are ignored: the text is UTF-8."""
    site = await serve(python_step("echo", ECHO))
    content = b"a0" * (200 * KB)
    multipart = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + content + b"\r\n--x--\r\n"

    async def send(charset: str) -> tuple[Any, Any, float]:
        began = time.process_time()  # the server runs in this process
        text, form = [
            await site.http.post(site.path(), content=sent, headers={"content-type": f"{kind}; charset={charset}"})
            for kind, sent in (("text/plain", content), ("multipart/form-data; boundary=x", multipart))
        ]
        return text.json()["body"], form.json()["body"], time.process_time() - began

    await send("utf-8")
    *_, usual_s = await send("utf-8")
    for charset in ("punycode", "idna", "unicode_escape", "undefined"):
        text, form, took_s = await send(charset)

        assert (text, form) == (content.decode(), {"a": content.decode()})
        assert took_s < 20 * usual_s


@pytest.mark.parametrize(
    "request_of", [{"content": b"x", "headers": {"x-pd-upload-body": "1"}}, {"files": {"a": b"x"}}]
)
async def test_a_file_that_cannot_be_stored(serve: Serve, request_of: dict[str, Any]) -> None:
    """The response is 400 and not 5xx, after which SDKs would repeat the request."""
    echo = await serve(python_step("echo", ECHO))
    echo.context.project.folder.joinpath("uploads").write_text("a file instead of the folder")

    answer = await echo.http.post(echo.path(), **request_of)

    assert answer.status_code == 400
    assert "could not be stored: File exists. No step has run." in answer.text
    assert await echo.runs() == []


NESTED = b"[" * 250 + b"]" * 250


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (JSON, b"9"),
        (JSON, b"[" + b"9" * 209 + b"],"),
        (JSON, b"{}"),
        (JSON, b"["),
        (JSON, b'"\\ud800'),
        (JSON, NESTED),
        (JSON, b"a=%"),
        (FORM, b"%"),
        ("text/plain; charset=utf-7", b"\xff"),
        ("text/plain; charset=utf-32", b"\xff"),
    ],
)
def test_the_time_of_a_body_grows_with_its_size(kind: str, item: bytes) -> None:
    """Four times the body takes about four times as long."""
    media_type, _, parameters = kind.partition(";")

    def parse(raw: bytes) -> None:
        with suppress(BodyError):
            asyncio.run(_parse_text(raw, media_type, parameters))

    assert_linear(parse, lambda size: item * (size // len(item)))


@pytest.mark.parametrize("item", [b"{}", b"[]", NESTED, b"9" * 209, b"1e100", b'"\\ud800"', b"1"])
def test_a_body_of_json_is_parsed_within_milliseconds(item: bytes) -> None:
    """The largest body of JSON stops the event loop for less than 200 ms on a busy machine."""
    content = b"[" + b",".join([item] * ((MAX_BODY_BYTES - 2) // (len(item) + 1))) + b"]"

    assert_fast(lambda raw: asyncio.run(_parse_text(raw, JSON, "")), content, 0.2)


@pytest.mark.parametrize("codec", sorted({*encodings.aliases.aliases.values(), "utf_8_sig", "utf_16", "utf_32"}))
def test_every_charset_is_decoded_fast(codec: str) -> None:
    """No charset takes much longer than another one, whatever the bytes."""
    for byte in (b"\xff", b"\x80", b"+", b"\x1b", b"~{", b"\x0e", b"\x1b$B", b"A"):
        content = byte * (MAX_BODY_BYTES // 8 // len(byte))

        assert_fast(lambda raw: _decode_text(raw, f"charset={codec}"), content, 0.04)


async def test_too_many_fields_are_answered_400(echo: Site) -> None:
    """A form and a query with too many fields are answered with the reason, and no step runs."""
    content = "a&" * 10_001
    form = await echo.http.post(echo.path(), content=content, headers={"content-type": FORM})
    query = await echo.http.get(f"{echo.path()}?{content}")

    for answer in (form, query):
        assert answer.status_code == 400
        assert "more than 10,000 fields" in answer.text
    assert await echo.runs() == []


@pytest.mark.parametrize("name", [b"content-disposition", b"a" * 4100])
async def test_a_large_header_of_a_part_is_answered_400(echo: Site, name: bytes) -> None:
    """A part's header is limited, because parsing it takes milliseconds for each kilobyte."""
    content = b"--x\r\n" + name + b": form-data; name=a" + b";" * (4150 - len(name)) + b"\r\n\r\n1\r\n--x--\r\n"
    for sent, kind in ((content, MULTIPART), (b"--x--\r\n", MULTIPART + ";" * 5000)):
        answer = await echo.http.post(echo.path(), content=sent, headers={"content-type": kind})

        assert answer.status_code == 400
        assert "larger than 4 KB" in answer.text


SLICE = 32 * 1024


@given(st.text(alphabet="%&=+;a4Ff0é\ud7ff \0", max_size=60))
def test_the_fields_are_those_of_the_standard_library(text: str) -> None:
    """Valid and invalid escapes, blanks, empty names and repeated names are read as `parse_qsl` reads them."""
    expected = collect_fields(parse_qsl(text, keep_blank_values=True))

    assert parse_query(text) == expected
    assert asyncio.run(parse_form(text)) == expected


@pytest.mark.parametrize("before", range(SLICE - 6, SLICE + 2))
@pytest.mark.parametrize("escape", ["%41", "%C3%A9", "%%41", "%4", "%"])
def test_an_escape_between_two_slices(before: int, escape: str) -> None:
    """A long value is parsed in slices, none of which cuts an escape."""
    text = f"a={'x' * before}{escape}"

    assert asyncio.run(parse_form(text)) == dict(parse_qsl(text))


@pytest.mark.parametrize("item", ["%", "%4", "%41", "%41a", "%41%", "é%41", "%ff", "+", "="])
def test_the_time_grows_with_the_size(item: str) -> None:
    """Four times the text takes about four times as long, whatever the escapes."""
    assert_linear(lambda text: asyncio.run(parse_form(text)), lambda size: "a=" + item * (size // len(item)))


@pytest.mark.parametrize("item", ["a&", "%=&", "%41=%41&"])
def test_the_number_of_fields_is_limited(item: str) -> None:
    """More fields than the limit are refused, of a form and of a query."""
    assert parse_query(item * (MAX_FIELDS - 1))
    with pytest.raises(BodyError, match="more than 10,000 fields"):
        parse_query(item * (MAX_FIELDS + 1))
    with pytest.raises(BodyError):
        asyncio.run(parse_form(item * (MAX_FIELDS + 1)))


@pytest.mark.parametrize("text", ["a=" + "%41a" * 128 * 1024, "%41=%41&" * (MAX_FIELDS - 1)])
async def test_other_tasks_run_while_a_form_is_parsed(text: str) -> None:
    """A long value and many fields do not stop the event loop for long."""
    stops = []

    async def watch() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            stops.append(time.thread_time() - began)

    watching = asyncio.create_task(watch())
    await parse_form(text)
    watching.cancel()

    assert max(stops) < 0.05
