"""Replies of workers: which are valid, and which are refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdkernel.errors import ExportNotJSONError, StepError, exit_status_of
from pdkernel.model import JSON
from pdkernel.workers.declarations import ComponentDescription, PropDeclaration, PropOptionsPage
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import (
    Ask,
    Done,
    Effect,
    Emitted,
    Exit,
    Export,
    Fault,
    Late,
    Pause,
    ReplyError,
    Respond,
    Response,
    StoreWrite,
    Warn,
    WorkerProtocolError,
    decode_reply,
    evaluations,
)
from pdkernel.workers.worker import StepExchange, Worker
from pdkernel.workers.worker_process import WorkerProcess
from tests.workers.conftest import ListenerSpy

DONE = '{"t":"done","error":null,"busy":false,"dirty":false,"spoiled":false}'
FAULT = '{"code":"c","name":"N","message":"m","line":1,"stack":null,"fix":""}'

GOOD: dict[str, object] = {
    DONE: Done(None, False, False, False),
    DONE.replace("null", FAULT): Done(Fault("c", "N", "m", 1, None, ""), False, False, False),
    DONE[:-1] + ',"value":[1]}': Done(None, False, False, False, [1]),
    '{"t":"export","n":"a","v":{"b":[1,-0.5,"é"]}}': Export("a", {"b": [1, -0.5, "é"]}),
    '{"t":"respond","r":{"status":201,"headers":{"a":"b","c":["d","e"]},"body":null}}': Respond(
        Response(201, {"a": "b", "c": ["d", "e"]}, None)
    ),
    '{"t":"effect","kind":"sse","payload":{"a":1},"line":3}': Effect("sse", {"a": 1}, 3),
    '{"t":"pause","kind":"rerun","ms":5,"context":{"n":1},"max":3}': Pause("rerun", 5, {"n": 1}, 3),
    '{"t":"emitted","event":{"a":1},"id":7,"ts":1.5}': Emitted({"a": 1}, 7, None, None, 1.5),
    '{"t":"db","key":"k","value":null}': StoreWrite("k", None),
    '{"t":"db","key":"k"}': StoreWrite("k"),
    '{"t":"exit","reason":null}': Exit(None),
    '{"t":"warn","text":"w"}': Warn("w"),
    '{"t":"late","text":"l"}': Late("l"),
    '{"t":"ask","id":1,"call":"store.get","args":{}}': Ask(1, "store.get", {}),
}
BAD = {
    "": "it is not JSON",
    "garbage": "it is not JSON",
    '{"t":"export","n":"a","v":NaN}': "it is not JSON",
    '{"t":"export","n":"\\ud800","v":NaN}': "it is not JSON",
    '{"t":"export","n":"\\ud800","v":1e999}': "it is not JSON",
    '{"t":"export","n":"a","v":1e999}': "number out of range - at `$.v`",
    '{"t":"export","n":"a","v":' + "1" * 5000 + "}": "integer value out of range - at `$.v`",
    "[]": "expected `object`, got `array`",
    "{}": "object missing required field `t`",
    '{"t":"SECRET"}': "invalid value - at `$.t`",
    '{"t":"export","v":1}': "object missing required field `n`",
    '{"t":"export","n":1,"v":1}': "expected `str`, got `int` - at `$.n`",
    '{"t":"exit","reason":null,"SECRET":1}': "object contains unknown field",
    '{"t":"respond","r":null}': "expected `object`, got `null` - at `$.r`",
    '{"t":"respond","r":{"status":"200","headers":{},"body":1}}': "expected `int`, got `str` - at `$.r.status`",
    '{"t":"respond","r":{"status":99,"headers":{},"body":1}}': "expected `int` >= 100 - at `$.r.status`",
    '{"t":"respond","r":{"status":600,"headers":{},"body":1}}': "expected `int` <= 599 - at `$.r.status`",
    '{"t":"respond","r":{"status":true,"headers":{},"body":1}}': "expected `int`, got `bool` - at `$.r.status`",
    '{"t":"respond","r":{"status":200,"headers":null,"body":1}}': "expected `object`, got `null` - at `$.r.headers`",
    '{"t":"respond","r":{"status":200,"headers":{"SECRET":1},"body":1}}': (
        "expected `str | array`, got `int` - at `$.r.headers[...]`"
    ),
    '{"t":"respond","r":{"status":200,"headers":{"a":["\\ud800",null]},"body":1}}': (
        "expected `str`, got `null` - at `$.r.headers[...][1]`"
    ),
    '{"t":"effect","kind":"SECRET","payload":{}}': "invalid enum value - at `$.kind`",
    '{"t":"effect","kind":"http","payload":[]}': "expected `object`, got `array` - at `$.payload`",
    '{"t":"pause","kind":"delay","ms":-1}': "expected `int` >= 0 - at `$.ms`",
    '{"t":"pause","kind":"delay","ms":1e300}': "expected `int`, got `float` - at `$.ms`",
    '{"t":"pause","kind":"delay","ms":' + "9" * 30 + "}": "expected `int` <= 9007199254740991 - at `$.ms`",
    '{"t":"pause","kind":"rerun","ms":1,"max":null}': "expected `int`, got `null` - at `$.max`",
    '{"t":"done"}': "object missing required field `error`",
    DONE.replace("null", "true"): "expected `object | null`, got `bool` - at `$.error`",
    DONE.replace("null", "{}"): "object missing required field `code` - at `$.error`",
    DONE.replace("false", "0"): "expected `bool`, got `int` - at `$.busy`",
    '{"t":"ask","id":"1","call":"x","args":{}}': "expected `int`, got `str` - at `$.id`",
    '{"t":"emitted","event":1,"id":[]}': "expected `int | float | str | null`, got `array` - at `$.id`",
}

TEXTS = st.text(st.characters(), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(
    ["done", "export", "respond", "effect", "pause", "emitted", "db", "exit", "warn", "late", "ask", "ready", "x"]
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "n": TEXTS,
    "v": VALUES,
    "r": st.fixed_dictionaries(
        {}, optional={"status": VALUES | st.integers(0, 700), "headers": VALUES, "body": VALUES, "immediate": VALUES}
    ),
    "kind": st.sampled_from(["http", "delay", "rerun", "no"]) | VALUES,
    "payload": st.dictionaries(TEXTS, VALUES, max_size=2) | VALUES,
    "line": VALUES,
    "ms": VALUES,
    "max": VALUES,
    "context": VALUES,
    "event": VALUES,
    "id": VALUES,
    "ts": VALUES,
    "key": VALUES,
    "value": VALUES,
    "reason": VALUES,
    "text": VALUES,
    "call": VALUES,
    "args": VALUES,
    "error": st.none() | VALUES | st.just(json.loads(FAULT)),
    "busy": st.booleans() | VALUES,
    "dirty": st.booleans(),
    "spoiled": st.booleans(),
}
FORGED = KINDS.flatmap(lambda kind: st.fixed_dictionaries({"t": st.just(kind)}, optional=FIELDS))
LINES = (FORGED | VALUES).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)

WORKER = """
import json, os, sys
replies = json.loads(sys.argv[1])
requests = os.fdopen(3, "rb")
os.write(4, b'0 {"t":"ready"}\\n')
for lines in replies:
    number = json.loads(requests.readline())["request"]
    os.write(4, "".join(line.replace("N", str(number)) + "\\n" for line in lines).encode())
requests.read()
"""

Start = Callable[..., Worker]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """A factory of workers that answer each request with the lines that are given, `N` being its number."""
    started: list[Worker] = []

    def start_one(*replies: list[str]) -> Worker:
        started.append(Worker("python", [sys.executable, "-c", WORKER, json.dumps(replies)], {}, None))
        return started[-1]

    yield start_one
    for worker in started:
        worker.kill()


async def asked(worker: Worker, name: str = "work", listener: ListenerSpy | None = None, **more: Any) -> StepExchange:
    """A request to *worker*, when it is over."""
    talk = StepExchange(worker, StepRecorder(listener or ListenerSpy()), name=name, **more)
    talk.send({"op": "run"}, [], timeout_s=20)
    await asyncio.wait([talk.reply])
    worker.rest()
    return talk


class OnlyTheFirst(StepExchange):
    """A request that detaches from its worker at the first `done`, before the next line is read."""

    def on_line(self, line: bytes) -> None:
        """Read the line, then detach the request from the worker."""
        super().on_line(line)
        if self.reply.done():
            self._worker.rest()


def refusal(talk: StepExchange) -> WorkerProtocolError:
    """What the request failed with."""
    error = talk.broken or talk.reply.exception()
    assert isinstance(error, WorkerProtocolError)
    return error


@pytest.mark.parametrize(("text", "reply"), GOOD.items())
def test_a_reply_is_decoded_as_its_kind(text: str, reply: object) -> None:
    """Each kind of reply is decoded from the runtime's line."""
    assert decode_reply(text) == reply


@pytest.mark.parametrize(("text", "why"), BAD.items())
def test_what_is_not_a_reply_is_refused(text: str, why: str) -> None:
    """The reason names the path and the types, without content of the reply."""
    with pytest.raises(ReplyError) as caught:
        decode_reply(text.encode())

    assert str(caught.value) == why


def test_half_a_surrogate_pair_stays() -> None:
    """JavaScript and Python strings can hold half a pair, and JSON can write it."""
    text = '{"t":"export","n":"\\ud800","v":["\\udc00x",12345678901234567890123]}'

    assert decode_reply(text.encode()) == Export("\ud800", ["\udc00x", 12345678901234567890123])


@given(VALUES.filter(lambda value: "NaN" not in json.dumps(value) and "Infinity" not in json.dumps(value)))
def test_an_export_is_decoded_as_json(value: JSON) -> None:
    """Numbers of any size, texts and nesting arrive as they were sent."""
    reply = decode_reply(json.dumps({"t": "export", "n": "a", "v": value}).encode())

    assert isinstance(reply, Export)
    assert json.dumps(reply.value) == json.dumps(value)


@given(LINES)
@example(b'{"t":"export","n":"a","v":"\xff"}')
def test_any_line_is_a_reply_or_refused(line: bytes) -> None:
    """Nothing but `ReplyError` is raised."""
    with contextlib.suppress(ReplyError):
        assert isinstance(decode_reply(line), msgspec.Struct)


async def test_any_line_ends_in_a_reply_or_the_documented_error(start: Start) -> None:
    """For any line of a worker, the request continues, ends, or fails with an error of the step."""
    worker = start()
    kinds: set[type] = set()

    @given(LINES)
    def write(line: bytes) -> None:
        recorder = StepRecorder(ListenerSpy())
        talk = StepExchange(worker, recorder, name="work")
        talk.send({"op": "run"}, [], timeout_s=20)
        talk.on_line(f"{worker.request} ".encode() + line)
        talk.on_line(line)
        if talk.reply.done():
            error = talk.broken or talk.reply.exception()
            kinds.add(type(error))
            assert error is None or isinstance(error, WorkerProtocolError)
        recorder.outcome()
        talk.close()

    write()

    assert WorkerProtocolError in kinds


CONTENT_TYPES = st.sampled_from(
    ["text/plain", "text/html; charset=\ud800", "application/json; charset*=x'y'z", ";", ""]
)
HEADERS = st.dictionaries(st.sampled_from(["content-type", "a"]), CONTENT_TYPES | st.lists(CONTENT_TYPES) | TEXTS)


@given(st.integers(100, 599), HEADERS, VALUES | st.fixed_dictionaries({"$base64": VALUES | st.just("YQ==")}))
@example(200, {"content-type": "text/plain"}, {"$base64": "é"})
@example(200, {"content-type": ["text/plain"]}, {"$base64": "YQ=="})
@example(200, {"content-type": "text/html; charset=\ud800"}, {"$base64": "YQ=="})
def test_any_response_is_recorded(status: int, headers: dict[str, str | list[str]], body: JSON) -> None:
    """Any response is recorded with its status and headers."""
    listener = ListenerSpy()

    StepRecorder(listener).parse_message(Respond(Response(status, headers, body)))

    assert [(response["status"], response["headers"]) for response in listener.responses] == [(status, headers)]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["N garbage"], "it is not JSON"),
        (["garbage"], "it is not JSON"),
        ([DONE], "it is not JSON"),
        ([f"7{DONE}"], "it is not JSON"),
        ([f"N7 {DONE}"], "it belongs to another step"),
        ([f"0 {DONE}"], "it belongs to another step"),
        (['N {"t":"respond","r":{"status":200,"headers":[],"body":1}}', f"N {DONE}"], "expected `object`, got `array`"),
        (['0 {"t":"ready"}'], "invalid value - at `$.t`"),
        ([f"N {DONE}", f"N {DONE}"], "it came after the last one"),
        ([f"N {DONE}", 'N {"t":"export","n":"a","v":1}'], "it came after the last one"),
        ([f"N {DONE}", "N garbage"], "it is not JSON"),
    ],
)
async def test_a_step_fails_with_a_reply_that_is_refused(start: Start, lines: list[str], why: str) -> None:
    """The error names the step and the reason, and the worker is not used again."""
    worker = start(lines)

    error = refusal(await asked(worker, "send_mail"))

    assert error.message.startswith(f"Step `send_mail` sent a reply that pdkernel does not understand: {why}")
    assert not worker.is_healthy


async def test_a_reply_when_no_step_runs_ends_the_worker(start: Start) -> None:
    """A second `done` that comes later is not taken for the next step's."""
    worker = start([f"N {DONE}\nN {DONE.replace('false', 'true', 1)}"])
    talk = OnlyTheFirst(worker, StepRecorder(ListenerSpy()), name="one")
    talk.send({"op": "run"}, [], timeout_s=20)
    await talk.reply

    error = refusal(await asked(worker, "two"))

    assert not worker.is_alive
    assert error.message.startswith(
        "Step `two` sent a reply that pdkernel does not understand: it came when no step ran"
    )


async def test_code_that_fails_too_late_is_not_refused(start: Start) -> None:
    """A failure of what an earlier step left behind ends neither the worker nor the step that runs."""
    late = '{"t":"late","text":"too late"}'
    worker = start([f"N {DONE}", f"N {late}"], [f"1 {late}", f"N {late}", f"N {DONE}"])
    await asked(worker)

    recorder = StepRecorder(ListenerSpy())
    talk = StepExchange(worker, recorder)
    talk.send({"op": "run"}, [], timeout_s=20)
    await talk.reply

    assert worker.is_healthy
    assert recorder.warnings == ("too late",)


async def test_a_worker_that_comes_up_unasked_is_ready(start: Start) -> None:
    """The time of its first step counts from its request then."""
    worker = start([f"N {DONE}"])
    while not worker.is_ready:
        await asyncio.sleep(0.001)

    talk = await asked(worker)

    assert talk.reply.result() == Done(None, False, False, False)
    assert talk.elapsed_s > 0


async def test_a_line_without_an_end_is_refused() -> None:
    """A line above the limit is not buffered."""
    program = "import os\nwhile True: os.write(4, b'x' * 100)"
    flooded = asyncio.get_running_loop().create_future()

    class Listener:
        def on_line(self, line: bytes) -> None:
            raise AssertionError

        def on_output(self, stream: Any, data: bytes) -> None:
            raise AssertionError

        def flooded(self) -> None:
            flooded.set_result(True)

        def on_closed(self) -> None:
            raise AssertionError

    process = WorkerProcess([sys.executable, "-c", program], {}, longest=10_000)
    process.listener = Listener()
    try:
        assert await flooded
    finally:
        process.kill()


async def test_a_flood_fails_the_step(start: Start) -> None:
    """The error names the step."""
    talk = StepExchange(start([]), StepRecorder(ListenerSpy()), name="work")
    talk.flooded()

    assert "Step `work` sent a reply that pdkernel does not understand: it is too long." in refusal(talk).message


async def test_an_export_that_is_too_deep_is_reported(start: Start) -> None:
    """Nesting beyond what any reader takes is an error of the export."""
    deep = "[" * 20_000 + "]" * 20_000
    talk = await asked(start([f'N {{"t":"export","n":"a","v":{deep}}}']))

    assert isinstance(talk.reply.exception(), ExportNotJSONError)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ('{"apps":[{"prop":1,"app":"x"}]}', ComponentDescription),
        ('{"props":[{}]}', ComponentDescription),
        ("[]", ComponentDescription),
        ('{"options":[1]}', PropOptionsPage),
        ('{"options":[{"value":1}]}', PropOptionsPage),
        ('[{"name":"x"}]', tuple[PropDeclaration, ...]),
        ("null", tuple[PropDeclaration, ...]),
    ],
)
async def test_an_answer_of_the_wrong_shape_is_refused(start: Start, value: str, kind: Any) -> None:
    """The description of a component is validated like a step's replies."""
    worker = start([f'N {DONE[:-1]},"value":{value}}}'])

    talk = await asked(worker, read=lambda found: msgspec.convert(found, kind))

    assert "Step `work` sent a reply" in refusal(talk).message
    assert not worker.is_healthy


@pytest.mark.parametrize(
    "value", [None, [], [{}], [{"value": 1}, {"value": 2}], [{"value": 1, "undefined": True}], [{"error": {"name": 1}}]]
)
def test_results_of_expressions_are_one_for_each(value: JSON) -> None:
    """Each is a value, undefined, or an error."""
    with pytest.raises(msgspec.ValidationError):
        evaluations(value, 1)


def test_the_error_is_the_steps() -> None:
    """It is an error of the step, with exit status 1."""
    assert issubclass(WorkerProtocolError, StepError)
    assert exit_status_of("protocol") == 1
