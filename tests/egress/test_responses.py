"""Large bodies pass the gateway without being held, and a response that is read in part is recorded."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.egress.message import Response, close_stream, is_bodyless
from pdkernel.egress.pending_call import CallResult, PendingCall
from pdkernel.egress.recording import LargeBody
from pdkernel.egress.responses import UpstreamResult, read_up_to, repeat_response, stream_response
from pdkernel.egress.send_once import NOT_AGAIN, UNKNOWN, StoredResponse
from tests.egress.kit import CLIENTS_FOLDER, HOSTS, PYTHON_HOOK, Ledger, OutsideServer, node_paths

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the tests read the peak of a process's memory from /proc, which only Linux has"
)

MB = 1_000_000
SIZE = 160 * MB
MAX_GROWTH = 100 * MB
"""What the gateway may hold of such a body; without calls that are sent once, it is below 5 MB."""

PYTHON_STEP = """
import http.client, runpy, sys
runpy.run_path(sys.argv[1])
method, host, up, down = sys.argv[2:]
connection = http.client.HTTPConnection(host)
pieces = (bytes(100_000) for _ in range(int(up) // 100_000))
connection.request(method, f"/large/{down}", body=pieces if int(up) else None, headers={"content-length": up})
answer, count = connection.getresponse(), 0
while chunk := answer.read(1 << 18):
    count += len(chunk)
print(answer.status, count)
"""
NODE_STEP = """
const [, , method, host, up, down] = process.argv;
const request = require("node:http").request({ method, host, path: `/large/${down}`, headers: { "content-length": up } });
request.on("response", async (answer) => {
  let count = 0;
  for await (const chunk of answer) count += chunk.length;
  console.log(answer.statusCode, count);
});
let left = Number(up) / 100_000;
const write = () => {
  while (left-- > 0) if (!request.write(Buffer.alloc(100_000))) return request.once("drain", write);
  request.end();
};
write();
"""


class MeasuredGateway:
    """A gateway whose memory is measured, and steps whose calls it routes."""

    def __init__(self, folder: Path, port: int) -> None:
        command = [sys.executable, "-m", "tests.egress.clients.measured_gateway", str(folder), str(port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CLIENTS_FOLDER.parents[2]
        )
        self._answers: list[str] = []
        self.call("python", "GET", mode="live")  # loads the libraries

    def call(
        self, language: str, method: str, *, mode: str, up: int = 0, down: int = 10, send_once: bool = False
    ) -> int:
        """Let a step send *up* and receive *down* bytes; returns the bytes by which the gateway's memory grew at most."""
        environment = self._ask(json.dumps({"mode": mode, "send_once": send_once}))
        assert isinstance(environment, dict)
        arguments = [method, HOSTS[0], str(up), str(down)]
        command = [sys.executable, "-c", PYTHON_STEP, str(PYTHON_HOOK), *arguments]
        if language == "node":
            command = [str(node_paths()["wheel"]), "-e", NODE_STEP, "-", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout.split() == ["200", str(down)]
        growth = self._ask("")
        assert isinstance(growth, int)
        return growth

    def _ask(self, line: str) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the gateway."""
        self._process.communicate()


@pytest.fixture(scope="module")
def measured(plain_outside: OutsideServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredGateway]:
    """A gateway in its own process."""
    gateway = MeasuredGateway(tmp_path_factory.mktemp("measured"), plain_outside.port)
    yield gateway
    gateway.close()


@pytest.mark.parametrize("language", ["python", "node"])
def test_large_response_is_not_held(measured: MeasuredGateway, language: str) -> None:
    """A step receives 160 MB through the gateway, whose memory grows by less than 100 MB."""
    assert measured.call(language, "GET", mode="live", down=SIZE) < MAX_GROWTH


@pytest.mark.parametrize("language", ["python", "node"])
def test_large_upload_is_not_held(measured: MeasuredGateway, language: str) -> None:
    """A step sends 160 MB through the gateway, whose memory grows by less than 100 MB."""
    assert measured.call(language, "POST", mode="live", up=SIZE) < MAX_GROWTH


def test_large_bodies_of_a_request_that_is_sent_once_are_not_held(measured: MeasuredGateway) -> None:
    """The gateway does not hold the bodies of a request that a repeated run does not send again."""
    assert measured.call("python", "POST", mode="live", up=SIZE, down=SIZE, send_once=True) < MAX_GROWTH


def test_large_recorded_bodies_are_not_held(measured: MeasuredGateway, tmp_path: Path) -> None:
    """A recording has the lengths and hashes of bodies that are too large to be searched for secrets."""
    recording = tmp_path / "calls.jsonl"

    assert measured.call("python", "POST", mode=f"record={recording}", up=SIZE, down=SIZE) < MAX_GROWTH

    line = json.loads(recording.read_text())
    digest = hashlib.sha256(bytes(SIZE)).hexdigest()
    left_out = (
        f"{{{{left out: it has 160,000,000 bytes (SHA-256 {digest}), and a recording keeps bodies up to 32 MB}}}}"
    )
    assert line["request"]["body"]["text"] == line["response"]["body"]["text"] == left_out


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [("HEAD", 200, True), ("GET", 204, True), ("GET", 304, True), ("GET", 200, False), ("POST", 205, False)],
)
def test_responses_without_a_body(method: str, status: int, expected: bool) -> None:
    """A response to HEAD, and a 204 or 304, has no body, whatever its length says."""
    assert is_bodyless(method, status) is expected


async def test_a_response_that_is_not_read_to_its_end_is_recorded(ledger: Ledger) -> None:
    """If the step closes the connection early, the row has the bytes so far, and the host's connection is closed."""
    closed: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            yield b"def"
        finally:
            closed.append(True)

    call = PendingCall(ledger.binding("live"), "GET", "https://api.example.test/", ManualClock())
    result = UpstreamResult(Response(200, b"OK", [], b""), CallResult("sent", 200))
    stream = stream_response(call, result, body(), None, has_no_body=False)

    first = await anext(stream)
    await close_stream(stream)

    (row,) = ledger.calls
    assert (first, row.outcome, row.status, row.bytes) == (b"abc", "sent", 200, 3)
    assert closed == [True]


@pytest.mark.parametrize(
    ("sent", "start", "rest"), [([b"abc", b"def"], b"abcdef", None), ([b"abc", b"defg", b"h"], b"abcdefg", [b"h"])]
)
async def test_a_body_is_read_up_to_the_limit(sent: list[bytes], start: bytes, rest: list[bytes] | None) -> None:
    """A body that is exactly as long as the limit is read whole; of a longer one, the rest is still to be read."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in sent:
            yield chunk

    found, unread = await read_up_to(body(), 6)

    assert found == start
    assert (unread and [chunk async for chunk in unread]) == rest


@pytest.mark.parametrize(
    ("sent", "recorded"),
    [
        ([b"abc", b"def"], b"abcdef"),
        ([b"abc", b"defg"], LargeBody(7, hashlib.sha256(b"abcdefg").hexdigest())),
        ([b"abcdefg", b"h"], LargeBody(8, hashlib.sha256(b"abcdefgh").hexdigest())),
    ],
)
async def test_a_body_is_recorded_up_to_the_limit(
    ledger: Ledger, sent: list[bytes], recorded: bytes | LargeBody
) -> None:
    """A body that is exactly as long as the limit is recorded; of a longer one, length and hash are."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in sent:
            yield chunk

    found: list[bytes | LargeBody] = []
    call = PendingCall(ledger.binding("live"), "GET", "https://api.example.test/", ManualClock())
    result = UpstreamResult(Response(200, b"OK", [], b""), CallResult("sent", 200))

    stream = stream_response(
        call, result, body(), lambda _, copy: found.append(copy), has_no_body=False, max_recorded_bytes=6
    )

    assert [chunk async for chunk in stream] == sent
    assert found == [recorded]


def test_a_repeated_response_keeps_its_note_beside_the_doubt(ledger: Ledger) -> None:
    """The row of a failed request that is not sent again has the note of the stand-in and the unknown outcome."""
    call = PendingCall(ledger.binding("live"), "POST", "https://api.example.test/", ManualClock())
    recorded = StoredResponse(500, "", (), b"", "2026-01-01T10:00:00Z", note="answered by the stand-in")

    response = repeat_response(call, recorded, None)

    (row,) = ledger.calls
    assert (response.status, row.outcome) == (500, "not_sent")
    assert row.note == f"answered by the stand-in {UNKNOWN} {NOT_AGAIN}"
