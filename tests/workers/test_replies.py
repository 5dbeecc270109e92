"""Valid and invalid replies of workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdkernel.errors import ExportNotJSONError, StepError, StepTimeoutError, exit_status_of
from pdkernel.model import JSON
from pdkernel.workers.child_process import ProcessRequest
from pdkernel.workers.declarations import ComponentDescription, PropDeclaration, PropOptionsPage
from pdkernel.workers.interpreters import WorkerCommand
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import (
    MAX_CONTAINERS,
    MAX_CONTAINERS_WITH_SURROGATES,
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
    ServiceCall,
    StepResponse,
    StoreWrite,
    Warn,
    WorkerProtocolError,
    decode_reply,
    decode_step_reply,
    parse_evaluations,
)
from pdkernel.workers.step_errors import PayloadLimitError
from pdkernel.workers.step_exchange import StepExchange
from pdkernel.workers.worker import READY_LINE, Worker, WorkerProcess
from tests.growth import assert_linear

DONE = '{"t":"done","error":null,"busy":false,"dirty":false,"spoiled":false}'
FAULT = '{"code":"c","name":"N","message":"m","line":1,"stack":null,"fix":""}'

GOOD: dict[str, object] = {
    DONE: Done(None, False, False, False),
    DONE.replace("null", FAULT): Done(Fault("c", "N", "m", 1, None, ""), False, False, False),
    DONE[:-1] + ',"value":[1]}': Done(None, False, False, False, [1]),
    '{"t":"export","n":"a","v":{"b":[1,-0.5,"é"]}}': Export("a", {"b": [1, -0.5, "é"]}),
    '{"t":"respond","r":{"status":201,"headers":{"a":"b","c":["d","e"]},"body":null}}': Respond(
        StepResponse(201, {"a": "b", "c": ["d", "e"]}, None)
    ),
    '{"t":"effect","kind":"sse","payload":{"a":1},"line":3}': Effect("sse", {"a": 1}, 3),
    '{"t":"pause","kind":"rerun","ms":5,"context":{"n":1},"max":3}': Pause("rerun", 5, {"n": 1}, 3),
    '{"t":"pause","kind":"rerun","ms":5}': Pause("rerun", 5, None, 10),
    '{"t":"emitted","event":{"a":1},"id":7,"ts":1.5}': Emitted({"a": 1}, 7, None, None, 1.5),
    '{"t":"db","key":"k","value":null}': StoreWrite("k", None),
    '{"t":"db","key":"k"}': StoreWrite("k"),
    '{"t":"exit","reason":null}': Exit(None),
    '{"t":"warn","text":"w"}': Warn("w"),
    '{"t":"late","text":"l"}': Late("l"),
    '{"t":"ask","id":1,"call":"store.get","args":{}}': ServiceCall(1, "store.get", {}),
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
    """A factory of workers that answer each request with the given lines; `N` is the number of the request."""
    started: list[Worker] = []

    def start_one(*replies: list[str]) -> Worker:
        started.append(Worker("python", WorkerCommand([sys.executable, "-c", WORKER, json.dumps(replies)]), {}, None))
        return started[-1]

    yield start_one
    for worker in started:
        worker.kill()


async def send_request(worker: Worker, name: str = "work", **more: Any) -> StepExchange:
    """Send a request to *worker*, and return the finished exchange."""
    exchange = StepExchange(worker, StepRecorder(), name=name, **more)
    exchange.send({"op": "run"}, [], timeout_s=60)
    await asyncio.wait([exchange.reply])
    worker.rest()
    return exchange


class OnlyTheFirst(StepExchange):
    """A request that detaches from its worker at the first `done`, before the next line is read."""

    def on_line(self, line: bytes) -> None:
        """Read the line, then detach the request from the worker."""
        super().on_line(line)
        if self.reply.done():
            self._worker.rest()


def refusal(exchange: StepExchange) -> WorkerProtocolError:
    """Return the error of the request."""
    error = exchange.broken or exchange.reply.exception()
    assert isinstance(error, WorkerProtocolError)
    return error


@pytest.mark.parametrize(("text", "reply"), GOOD.items())
def test_each_kind_of_reply_is_decoded(text: str, reply: object) -> None:
    """Each kind of reply is decoded from the runtime's line."""
    assert decode_reply(text) == reply


@pytest.mark.parametrize("text", [DONE, '{"t":"ask","id":1,"call":"store.get","args":{}}'])
def test_a_step_without_a_worker_sends_no_message_of_a_worker(text: str) -> None:
    """The end of a request and a call of a service are a worker's alone; what a step does is decoded."""
    assert decode_step_reply('{"t":"warn","text":"w"}') == Warn("w")
    with pytest.raises(ReplyError, match="only a worker sends this message"):
        decode_step_reply(text)


@pytest.mark.parametrize(("text", "why"), BAD.items())
def test_invalid_reply_is_refused(text: str, why: str) -> None:
    """The reason names the path and the types, without content of the reply."""
    with pytest.raises(ReplyError) as caught:
        decode_reply(text.encode())

    assert str(caught.value) == why


def test_lone_surrogate_is_unchanged() -> None:
    """JavaScript and Python strings can contain a lone surrogate, and so can JSON."""
    text = '{"t":"export","n":"\\ud800","v":["\\udc00x",12345678901234567890123]}'

    assert decode_reply(text.encode()) == Export("\ud800", ["\udc00x", 12345678901234567890123])


@given(VALUES.filter(lambda value: "NaN" not in json.dumps(value) and "Infinity" not in json.dumps(value)))
def test_export_is_decoded_as_json(value: JSON) -> None:
    """Numbers of any size, texts and nesting arrive unchanged."""
    reply = decode_reply(json.dumps({"t": "export", "n": "a", "v": value}).encode())

    assert isinstance(reply, Export)
    assert json.dumps(reply.value) == json.dumps(value)


@given(LINES)
@example(b'{"t":"export","n":"a","v":"\xff"}')
def test_any_line_is_decoded_or_refused(line: bytes) -> None:
    """`decode_reply` raises no exception but `ReplyError`."""
    with contextlib.suppress(ReplyError):
        assert isinstance(decode_reply(line), msgspec.Struct)


async def test_any_line_ends_in_a_reply_or_a_protocol_error(start: Start) -> None:
    """For any line of a worker, the request continues, ends, or fails with an error of the step."""
    worker = start()
    kinds: set[type] = set()

    @given(LINES)
    def write(line: bytes) -> None:
        recorder = StepRecorder()
        exchange = StepExchange(worker, recorder, name="work")
        exchange.send({"op": "run"}, [], timeout_s=60)
        exchange.on_line(f"{worker.request} ".encode() + line)
        exchange.on_line(line)
        if exchange.reply.done():
            error = exchange.broken or exchange.reply.exception()
            kinds.add(type(error))
            assert error is None or isinstance(error, WorkerProtocolError)
        recorder.outcome()
        exchange.close()

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
    sent: list[dict[str, Any]] = []

    StepRecorder(on_respond=sent.append).add_reply(Respond(StepResponse(status, headers, body)))

    assert [(response["status"], response["headers"]) for response in sent] == [(status, headers)]


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
        ([f"N {DONE}", f"N {DONE}"], "it came after the last reply"),
        ([f"N {DONE}", 'N {"t":"export","n":"a","v":1}'], "it came after the last reply"),
        ([f"N {DONE}", "N garbage"], "it is not JSON"),
    ],
)
async def test_refused_reply_fails_the_step(start: Start, lines: list[str], why: str) -> None:
    """The error names the step and the reason, and the worker is not used again."""
    worker = start(lines)

    error = refusal(await send_request(worker, "send_mail"))

    assert error.message.startswith(f"Step `send_mail` sent a reply that pdkernel does not understand: {why}")
    assert not worker.is_healthy


async def test_reply_without_a_running_step_ends_the_worker(start: Start) -> None:
    """A late second `done` is not used as the reply of the next step."""
    worker = start([f"N {DONE}\nN {DONE.replace('false', 'true', 1)}"])
    exchange = OnlyTheFirst(worker, StepRecorder(), name="one")
    exchange.send({"op": "run"}, [], timeout_s=60)
    await exchange.reply

    error = refusal(await send_request(worker, "two"))

    assert not worker.is_alive
    assert error.message.startswith(
        "Step `two` sent a reply that pdkernel does not understand: it came when no step ran"
    )


async def test_late_failure_of_earlier_code_is_a_warning(start: Start) -> None:
    """A late failure of code of an earlier step ends neither the worker nor the running step."""
    late = '{"t":"late","text":"too late"}'
    worker = start([f"N {DONE}", f"N {late}"], [f"1 {late}", f"N {late}", f"N {DONE}"])
    await send_request(worker)

    recorder = StepRecorder()
    exchange = StepExchange(worker, recorder)
    exchange.send({"op": "run"}, [], timeout_s=60)
    await exchange.reply

    assert worker.is_healthy
    assert recorder.outcome().warnings == ("too late",)


async def test_worker_that_started_early_is_ready(start: Start) -> None:
    """The time of the first step counts from its request."""
    worker = start([f"N {DONE}"])
    while not worker.is_ready:
        await asyncio.sleep(0.001)

    exchange = await send_request(worker)

    assert exchange.reply.result() == Done(None, False, False, False)
    assert exchange.elapsed_s > 0


async def test_start_of_a_worker_is_not_time_of_the_step() -> None:
    """The time limit of a step counts from the time at which its worker is ready."""
    worker = Worker("python", WorkerCommand([sys.executable, "-c", "import time; time.sleep(60)"]), {}, None)
    exchange = StepExchange(worker, StepRecorder())

    exchange.send({"op": "run"}, [], timeout_s=0.001)
    finished, _ = await asyncio.wait([exchange.reply], timeout=0.05)
    elapsed_s = exchange.elapsed_s
    exchange.on_line(READY_LINE)

    with pytest.raises(StepTimeoutError, match=r"longer than 0\.001 seconds"):
        await exchange.reply
    assert (finished, elapsed_s) == (set(), 0)
    worker.kill()


async def test_service_call_ends_with_its_step(start: Start) -> None:
    """A service call that a step has not waited for is cancelled at the end of the step."""
    began, ended = asyncio.Event(), asyncio.Event()

    class Services:
        async def call(self, operation: str, args: Mapping[str, JSON]) -> JSON:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return None

    exchange = StepExchange(start(['N {"t":"ask","id":1,"call":"store.get","args":{}}']), StepRecorder(), Services())
    exchange.send({"op": "run"}, [], timeout_s=60)
    await began.wait()

    exchange.close()

    async with asyncio.timeout(60):
        await ended.wait()
    assert ended.is_set()


async def test_line_above_the_limit_is_refused() -> None:
    """A line above the limit is not buffered."""
    program = "import os\nwhile True: os.write(4, b'x' * 100)"
    flooded = asyncio.get_running_loop().create_future()

    class Listener:
        def on_line(self, line: bytes) -> None:
            raise AssertionError

        def on_output(self, stream: Any, data: bytes) -> None:
            raise AssertionError

        def on_line_too_long(self) -> None:
            flooded.set_result(True)

        def on_closed(self) -> None:
            raise AssertionError

    process = WorkerProcess(
        ProcessRequest([sys.executable, "-c", program], {}, secrets.token_hex(16)), max_line_bytes=10_000
    )
    process.listener = Listener()
    try:
        assert await flooded
    finally:
        process.kill()


async def test_too_long_line_fails_the_step(start: Start) -> None:
    """The error names the step and the limit."""
    exchange = StepExchange(start([]), StepRecorder(), name="work")
    exchange.on_line_too_long()

    error = exchange.reply.exception()
    assert isinstance(error, PayloadLimitError)
    assert error.message.startswith("Function Payload Limit Exceeded: a message of step `work` has more than 64 MB")


async def test_too_deep_export_is_an_error(start: Start) -> None:
    """An export with more levels than the decoder supports is an error of the step."""
    deep = "[" * 20_000 + "]" * 20_000
    exchange = await send_request(start([f'N {{"t":"export","n":"a","v":{deep}}}']))

    assert isinstance(exchange.reply.exception(), ExportNotJSONError)


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
async def test_invalid_description_is_refused(start: Start, value: str, kind: Any) -> None:
    """The description of a component is validated like the replies of a step."""
    worker = start([f'N {DONE[:-1]},"value":{value}}}'])

    exchange = await send_request(worker, read=lambda found: msgspec.convert(found, kind))

    assert "Step `work` sent a reply" in refusal(exchange).message
    assert not worker.is_healthy


@pytest.mark.parametrize(
    "value", [None, [], [{}], [{"value": 1}, {"value": 2}], [{"value": 1, "undefined": True}], [{"error": {"name": 1}}]]
)
def test_invalid_results_of_expressions_are_refused(value: JSON) -> None:
    """Each result must be a value, undefined or an error, one for each expression."""
    with pytest.raises(msgspec.ValidationError):
        parse_evaluations(value, 1)


def test_protocol_error_is_an_error_of_the_step() -> None:
    """The error is a `StepError` with exit status 1."""
    assert issubclass(WorkerProtocolError, StepError)
    assert exit_status_of("protocol") == 1


def an_export(value: str) -> str:
    """The line of an export of the JSON *value*."""
    return f'{{"t":"export","n":"a","v":{value}}}'


@pytest.mark.parametrize("text", [an_export('{"\\ud800":1}'), '{"t":"\\ud800"}', '{"t":"warn","text":1,"\\ud800":1}'])
def test_a_lone_surrogate_in_a_name_is_no_failure_of_pdkernel(text: str) -> None:
    """A reply with half of a character in a key is decoded or refused."""
    with contextlib.suppress(ReplyError):
        assert decode_reply(text) == Export("a", {"\ud800": 1})


def test_many_long_integers_are_refused() -> None:
    """A megabyte of integers that only Python reads is refused, because their conversion takes quadratic time; as texts they may be long."""
    integers, texts = ",".join(["9" * 4000] * 250), ",".join([f'"{"9" * 4000}"'] * 250)

    with pytest.raises(ExportNotJSONError, match="have 1,000,000 digits together; the limit is 65,536"):
        decode_reply(an_export(f"[{integers}]"))

    assert decode_reply(an_export(f"[{texts}]")) == Export("a", ["9" * 4000] * 250)
    assert decode_reply(an_export(f'[{"9" * 400}, "{"a" * 70_000}"]')) == Export("a", [int("9" * 400), "a" * 70_000])


@pytest.mark.parametrize(
    "item",
    ["[]", "[" * 100 + "]" * 100, "9" * 309, "1", '"\\\\\\""', f'"{"9" * 310}"', '"\\ud800 and some text"'],
    ids=lambda item: item[:6],
)
def test_the_time_of_a_reply_grows_with_its_size(item: str) -> None:
    """Four times the reply takes about four times as long, also if it is full of lists, numbers or escapes, or is refused."""

    def decode(text: str) -> None:
        with contextlib.suppress(ExportNotJSONError):
            decode_reply(text)

    assert_linear(decode, lambda size: an_export(f"[{','.join([item] * (size // len(item)))}]"), size=1 << 17)


@pytest.mark.parametrize("item", ["[]", "{}", "[" * 100 + "]" * 100, '"\\"[",[]'])
def test_very_many_lists_and_objects_are_refused(item: str) -> None:
    """More lists and objects than a run can process without stopping the event loop are refused before they are parsed."""
    count = MAX_CONTAINERS // max(item.count("[]"), item.count("{}"), item.count("[") - item.count('"') // 2) + 1
    with pytest.raises(ExportNotJSONError, match="lists and objects; the limit is 500,000"):
        decode_reply(an_export(f"[{','.join([item] * count)}]"))


def test_lists_that_may_be_many_or_few() -> None:
    """A text may have any number of brackets; a lone surrogate needs slow parsers and encoders, so there may be fewer lists beside it."""
    text = '["{\\' * (MAX_CONTAINERS // 2)
    few, many = "[],[]", ",".join(["[]"] * MAX_CONTAINERS_WITH_SURROGATES)

    assert decode_reply(an_export(json.dumps([text, ["\\"], text]))) == Export("a", [text, ["\\"], text])
    assert decode_reply(an_export(f'["\\ud800",{few}]')) == Export("a", ["\ud800", [], []])
    with pytest.raises(ExportNotJSONError, match="the limit is 100,000"):
        decode_reply(an_export(f'["\\ud800",{many}]'))
