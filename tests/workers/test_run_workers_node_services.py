"""Props of type `http_request` and the file store, in real Node.js steps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import JSON
from pdkernel.workers import RunSetup, WorkerPool
from tests.workers.conftest import Bench

STEP = "export default { props: { r: 'http_request' }, async run() { return this.r.execute() } }"


@dataclass
class Server:
    """Answers every request with *answer* and stores the request."""

    url: str = ""
    answer: bytes = b'{"ok": true}'
    status: str = "200 OK"
    head: str = ""
    body: bytes = b""
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of one connection."""
        self.head = (await reader.readuntil(b"\r\n\r\n")).decode()
        for line in self.head.lower().split("\r\n"):
            if line.startswith("content-length:"):
                self.body = await reader.readexactly(int(line.split(":")[1]))
        kind = "application/json" if self.answer.startswith(b"{") else "text/plain"
        writer.write(
            f"HTTP/1.1 {self.status}\r\ncontent-type: {kind}\r\ncontent-length: {len(self.answer)}\r\nconnection: close\r\n\r\n".encode()
            + self.answer
        )
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on loopback."""
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield server
    listening.close()


async def test_request_has_method_params_headers_and_auth(bench: Bench, server: Server) -> None:
    """Rows that are disabled or have no name are ignored."""
    request = {
        "method": "get",
        "url": server.url + "/a?x=1",
        "params": [{"name": "y", "value": "2 3"}, {"name": "z", "value": "9", "disabled": True}],
        "headers": [{"name": "X-Mine", "value": "m"}, {"name": "", "value": "no"}],
        "auth": {"type": "basic", "username": "u", "password": "p"},
    }

    outcome = await bench.run("node", STEP, props={"r": request})

    assert outcome.exports["$return_value"] == {"ok": True}
    assert server.head.startswith("GET /a?x=1&y=2+3 HTTP/1.1\r\n")
    assert "x-mine: m\r\n" in server.head.lower()
    assert "authorization: Basic dTpw\r\n" in server.head


@pytest.mark.parametrize("method", ["GET", "HEAD", "head"])
async def test_fields_may_be_objects(bench: Bench, server: Server, method: str) -> None:
    """Parameters and headers may be objects; a request without a body ignores the field."""
    request = {
        "method": method,
        "url": server.url,
        "params": {"y": "2 3", "n": 5, "o": {"a": 1}},
        "headers": {"X-Mine": "m"},
        "body": {"mode": "raw", "raw": "x"},
    }

    outcome = await bench.run("node", STEP, props={"r": request})

    assert outcome.error is None
    assert server.head.startswith(f"{method.upper()} /?y=2+3&n=5&o=%7B%22a%22%3A1%7D HTTP/1.1\r\n")
    assert "x-mine: m\r\n" in server.head.lower()
    assert server.body == b""


@pytest.mark.parametrize(
    ("body", "kind", "sent"),
    [
        ({"mode": "raw", "raw": '{"a":1}', "contentType": "application/json"}, "application/json", b'{"a":1}'),
        ({"type": "raw", "raw": "hello", "contentType": "text/plain"}, "text/plain", b"hello"),
        ({"raw": {"a": 1}}, "application/json", b'{"a":1}'),
        ({"a": 1}, "application/json", b'{"a":1}'),
        ("hello", "text/plain;charset=utf-8", b"hello"),
        ({"fields": [{"name": "a", "value": 1}, {"name": "b", "disabled": True}]}, "application/json", b'{"a":1}'),
        (
            {"type": "fields", "contentType": "application/json", "fields": [{"name": "a", "value": [1]}]},
            "application/json",
            b'{"a":[1]}',
        ),
        (
            {
                "mode": "fields",
                "contentType": "application/x-www-form-urlencoded",
                "fields": [{"name": "a", "value": "1 2"}],
            },
            "application/x-www-form-urlencoded",
            b"a=1+2",
        ),
    ],
)
async def test_forms_of_a_body(bench: Bench, server: Server, body: Any, kind: str, sent: bytes) -> None:
    """The body is raw text or fields, in the requested content type."""
    request = {"method": "POST", "url": server.url, "body": body, "auth": {"type": "bearer", "token": "T"}}

    outcome = await bench.run("node", STEP, props={"r": request})

    assert outcome.error is None
    assert f"content-type: {kind}\r\n" in server.head.lower()
    assert "authorization: Bearer T\r\n" in server.head
    assert server.body == sent


@pytest.mark.parametrize("body", [None, "", {}, {"mode": "raw", "raw": ""}, {"mode": "fields", "fields": []}])
async def test_empty_body_is_not_sent(bench: Bench, server: Server, body: Any) -> None:
    """A request whose body has no content has no content type."""
    outcome = await bench.run("node", STEP, props={"r": {"method": "POST", "url": server.url, "body": body}})

    assert outcome.error is None
    assert "content-type" not in server.head.lower()
    assert server.body == b""


async def test_headers_of_request_and_response(bench: Bench, server: Server) -> None:
    """A content type among the headers replaces that of the body; the step reads the headers of the response."""
    source = STEP.replace(
        "return this.r.execute()", "await this.r.execute(); return this.r.responseHeaders['content-type']"
    )
    request = {
        "method": "POST",
        "url": f" {server.url} ",
        "headers": [{"name": "Content-Type", "value": "application/vnd.x+json"}],
        "body": {"mode": "raw", "raw": "{}", "contentType": "application/json"},
    }

    outcome = await bench.run("node", source, props={"r": request})

    assert outcome.exports["$return_value"] == "application/json"
    assert "content-type: application/vnd.x+json\r\n" in server.head.lower()


@pytest.mark.parametrize("headers", [[], [{"name": "Content-Type", "value": "multipart/form-data"}]])
async def test_multipart_form(bench: Bench, server: Server, headers: list[Any]) -> None:
    """The client that sends `multipart/form-data` adds the boundary, also to a content type among the headers."""
    body = {"type": "fields", "contentType": "multipart/form-data", "fields": [{"name": "a", "value": "1"}]}

    await bench.run("node", STEP, props={"r": {"method": "POST", "url": server.url, "headers": headers, "body": body}})

    assert "content-type: multipart/form-data; boundary=" in server.head.lower()
    assert b'name="a"' in server.body


async def test_text_is_returned_as_text(bench: Bench, server: Server) -> None:
    """A response that is not JSON is returned as text."""
    server.answer = b"plain"

    outcome = await bench.run("node", STEP, props={"r": {"url": server.url}})

    assert outcome.exports["$return_value"] == "plain"


async def test_failed_request_has_status_and_body(bench: Bench, server: Server) -> None:
    """The first line of the error is the status, then the body; code that catches the error finds the response."""
    server.status, server.answer = "404 Not Found", b'{"why": "gone"}'
    caught = "export default { props: { r: 'http_request' }, async run() { try { await this.r.execute() } catch (e) { return [e.response.status, e.response.data] } } }"

    raised = await bench.run("node", STEP, props={"r": {"url": server.url}})
    handled = await bench.run("node", caught, props={"r": {"url": server.url}})

    assert raised.error is not None
    assert raised.error.message == 'Request failed with status code 404\n{\n  "why": "gone"\n}'
    assert handled.exports["$return_value"] == [404, {"why": "gone"}]


async def test_given_values_override_the_declared_default(bench: Bench, server: Server) -> None:
    """A component may set a default method."""
    source = "export default { props: { r: { type: 'http_request', default: { method: 'POST' } } }, async run() { return [await this.r.execute(), Object.keys(this.r)] } }"

    outcome = await bench.run("node", source, props={"r": {"url": server.url}})

    assert outcome.exports["$return_value"] == [{"ok": True}, ["method", "url"]]
    assert server.head.startswith("POST / ")


async def test_request_without_a_url_is_an_error(bench: Bench) -> None:
    """A request without a URL fails before a call."""
    error = await bench.fail("node", STEP, props={"r": {"method": "GET"}})

    assert (error.name, error.message) == (
        "ConfigurationError",
        "The HTTP request has no URL. Set the field url.",
    )


class Records:
    """A service of data stores, with pages of two records."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.ttls: dict[str, Any] = {}

    async def call(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """Answer a call."""
        assert args["store"] == "orders"
        key = str(args.get("key"))
        match operation:
            case "store.get":
                return {"value": self.records[key]} if key in self.records else None
            case "store.set":
                self.records[key], self.ttls[key] = args["value"], args["ttl"]
            case "store.set_ttl":
                self.ttls[key] = args["ttl"]
            case "store.has":
                return key in self.records
            case "store.keys" | "store.entries":
                what = operation.partition(".")[2]
                start = int(str(args["after"] or 0))
                found: list[JSON] = [key if what == "keys" else [key, value] for key, value in self.records.items()]
                return {what: found[start : start + 2], "after": start + 2 if start + 2 < len(found) else None}
        return None


STORE = "export default { props: { s: 'data_store' }, async run() { const { s } = this; BODY } }"


async def test_data_store_of_a_node_step(bench: Bench) -> None:
    """Records are read page by page; without a time they never expire; what JSON does not support is refused or named."""
    records = Records()
    body = """
    for (let n = 0; n < 5; n++) await s.set(`k${n}`, { n });
    await s.set("k1", [1], { ttl: 60 }); await s.setTtl("k2", 5); await s.setTtl("k3", 5); await s.setTtl("k3");
    await s.set("warned", { f() {} });
    const entries = []; for await (const each of s.entries()) entries.push(each);
    const same = []; for await (const each of s) same.push(each);
    const failed = async (act) => { try { await act() } catch (error) { return `${error.name}: ${error.message}` } };
    return [await s.keys(), entries.length, same.length, entries[4], await s.get("k1"), await s.has("no"), String(await s.get("no")),
      await failed(() => s.get(5)), await failed(() => s.set("a", undefined)), await failed(() => s.set("a", { b: 1n }))];
    """

    outcome = await bench.run("node", STORE.replace("BODY", body), services=records, store_names={"s": "orders"})

    assert outcome.error is None
    keys = [*(f"k{n}" for n in range(5)), "warned"]
    assert outcome.exports["$return_value"] == [
        keys, 6, 6, ["k4", {"n": 4}], [1], False, "undefined",
        "StoreValueError: A key of a data store must be a text, not 5. Use String(...).",
        "StoreValueError: orders['a'] cannot be set to undefined, which JSON does not support. Use delete, or set null.",
        "StoreValueError: orders['a'].b is a BigInt, which JSON does not support. Use String(...) or Number(...).",
    ]  # fmt: skip
    assert records.ttls == {"k0": None, "k1": 60, "k2": 5, "k3": None, "k4": None, "warned": None}
    assert outcome.warnings == ("orders['warned'].f is a function, so it is not stored.",)


@pytest.fixture
async def filing(pool: WorkerPool, tmp_path: Path) -> Bench:
    """A run with a file store in `files`."""
    setup = RunSetup("r", "w@1", {"event": {}, "context": {}}, {}, tmp_path, file_store_folder=tmp_path / "files")
    return Bench(await pool.open_run(setup))


async def test_files_are_written_listed_and_read(filing: Bench, tmp_path: Path) -> None:
    """A later step reads a file of an earlier step, also by an exported file object."""
    first = await filing.run(
        "node",
        "import { Readable } from 'stream';\nimport fs from 'fs';\nexport default { async run({ $ }) {\n"
        "fs.writeFileSync(process.env.TMPDIR + '/x.txt', 'local');\n"
        "await $.files.open('a/one.txt').fromReadableStream(Readable.from(['hello']));\n"
        "await $.files.open('two.txt').fromFile(process.env.TMPDIR + '/x.txt');\n"
        "const w = await $.files.open('three.txt').createWriteStream(); await new Promise((r) => w.end('3', r));\n"
        "return await $.files.open('a/one.txt') } }",
        name="first",
    )
    second = await filing.run(
        "node",
        "import fs from 'fs';\nexport default { async run({ steps, $ }) {\nconst found = [];\n"
        "for await (const f of $.files.dir()) found.push([f.path, f.name, f.isFile(), f.isDirectory()]);\n"
        "for await (const f of $.files.dir('a')) found.push([f.path, f.size]);\n"
        "const file = $.files.openDescriptor(steps.first.$return_value);\n"
        "await file.toFile('copy'); let streamed = ''; for await (const c of await file.createReadStream()) streamed += c;\n"
        "const all = [await file.toEncodedString(), (await file.toBuffer()).length, fs.readFileSync('copy', 'utf8'), streamed];\n"
        "await file.delete(); return { found, all } } }",
        name="second",
    )

    assert first.error is None
    assert first.exports["$return_value"] == {"type": "PipedreamProjectFile", "path": "a/one.txt"}
    assert second.error is None
    assert second.exports["$return_value"] == {
        "found": [
            ["a", "a", False, True],
            ["three.txt", "three.txt", True, False],
            ["two.txt", "two.txt", True, False],
            ["a/one.txt", 5],
        ],
        "all": ["hello", 5, "hello", "hello"],
    }
    assert not (tmp_path / "files" / "a" / "one.txt").exists()


async def test_folders_of_the_file_store(filing: Bench, tmp_path: Path) -> None:
    """A store without files is empty, and a folder that does not exist is an error; entries have the size and the time."""
    empty = await filing.run(
        "node",
        "export default { async run({ $ }) { for await (const f of $.files.dir()) return f.path; return 'none' } }",
    )
    missing = await filing.run(
        "node", "export default { async run({ $ }) { for await (const f of $.files.dir('no')) return f.path } }"
    )
    (tmp_path / "files" / "a" / "b").mkdir(parents=True)
    (tmp_path / "files" / "a" / "x").write_bytes(b"12345678")
    listed = await filing.run(
        "node",
        "export default { async run({ $ }) { const found = [];\n"
        "for await (const f of $.files.dir('/a')) found.push([f.path, f.name, f.isFile(), f.modifiedAt instanceof Date]);\n"
        "return [found, await $.files.open('a/x').toEncodedString('base64', 0, 3), await $.files.open('/a/./x').toEncodedString('utf8', 2, 4)] } }",
    )

    assert empty.exports["$return_value"] == "none"
    assert missing.error is not None
    assert "ENOENT" in missing.error.message
    assert listed.error is None
    assert listed.exports["$return_value"] == [
        [["a/b", "b", False, True], ["a/x", "x", True, True]],
        "MTIz",
        "34",
    ]


async def test_a_missing_file_can_be_deleted(filing: Bench) -> None:
    """To delete a file that does not exist is not an error."""
    outcome = await filing.run(
        "node", "export default { async run({ $ }) { await $.files.open('none.txt').delete(); return 'gone' } }"
    )

    assert outcome.exports == {"$return_value": "gone"}


async def test_file_from_a_url(filing: Bench, server: Server, tmp_path: Path) -> None:
    """The body of the response is the file; a response with an error status is an error."""
    source = f"export default {{ async run({{ $ }}) {{ await $.files.open('u.json').fromUrl('{server.url}') }} }}"

    await filing.run("node", source)
    server.status = "404 Not Found"
    failed = await filing.run("node", source)

    assert json.loads((tmp_path / "files" / "u.json").read_text()) == {"ok": True}
    assert failed.error is not None
    assert failed.error.message == f"{server.url} responded with status code 404."


async def test_exported_files_are_files_in_later_steps(filing: Bench, tmp_path: Path) -> None:
    """A file that a step exports, also inside of other values, is a file in `steps` and in props; Python has its description."""
    await filing.run(
        "node",
        "import { Readable } from 'stream';\nexport default { async run({ $ }) {\n"
        "const file = await $.files.open('a/one.txt').fromReadableStream(Readable.from(['hello']));\n"
        "$.export('found', { files: [file] }); return file } }",
        name="first",
    )
    description = {"type": "PipedreamProjectFile", "path": "a/one.txt"}

    node = await filing.run(
        "node",
        "export default { props: { file: { type: 'any' } }, async run({ steps }) { const { $return_value: file, found } = steps.first;\n"
        "return [await file.toUrl(), file.path, await found.files[0].toEncodedString(), await this.file.toEncodedString(), file] } }",
        name="second",
        props={"file": description},
    )
    python = await filing.run(
        "python", "def handler(pd):\n    return pd.steps['first']['$return_value']\n", name="third"
    )

    assert node.error is None
    url = (tmp_path / "files" / "a" / "one.txt").as_uri()
    assert node.exports["$return_value"] == [url, "a/one.txt", "hello", "hello", description]
    assert python.exports["$return_value"] == description


async def test_a_description_of_a_path_outside_is_no_file(filing: Bench) -> None:
    """An event with the description of a file outside of the store fails the step that reads it."""
    filing.steps["first"] = {"$return_value": {"type": "PipedreamProjectFile", "path": "../secret"}}

    outcome = await filing.run("node", "export default { run({ steps }) { return steps.first } }")

    assert outcome.error is not None
    assert "../secret is outside of the file store" in outcome.error.message


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/../x", "../files-of-others/x", "../filesx"])
async def test_path_outside_of_the_file_store_is_refused(filing: Bench, path: str) -> None:
    """A path with `..` that leaves the file store is refused."""
    outcome = await filing.run("node", f"export default {{ run({{ $ }}) {{ $.files.open('{path}') }} }}")

    assert outcome.error is not None
    assert "is outside of the file store" in outcome.error.message
