"""One request to a worker: service calls, queued messages, pauses, and the time limit of a step."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from pdkernel.errors import RequestError, StepError
from pdkernel.model import JSON, Language
from pdkernel.workers import Effect, Pause, StepRecorder
from pdkernel.workers.interpreters import WorkerCommand
from pdkernel.workers.step_exchange import StepExchange, StepTimer
from pdkernel.workers.worker import Worker
from tests.workers.conftest import Bench, OpenRun


async def test_a_worker_that_does_not_start_is_no_timeout() -> None:
    """A worker that is never ready fails the step with that reason, however long the step may run."""
    worker = Worker("python", WorkerCommand([sys.executable, "-c", "import time; time.sleep(60)"]), {}, None)
    exchange = StepExchange(worker, StepRecorder("one"))
    try:
        exchange.send({}, [], timeout_s=60, startup_timeout_s=0.01)
        with pytest.raises(StepError) as failed:
            await exchange.reply
    finally:
        exchange.close()
        worker.kill()

    assert failed.value.name == "ProcessNotStarted"
    assert failed.value.message == "The step's process could not be started: it was not ready after 0.01 s."
    assert not worker.is_healthy


async def run_timer(timeout_s: float, *freezes_s: float) -> tuple[float, bool]:
    """Seconds until the end of the limit in a process that is stopped after 0.1 seconds, and whether what was due was read."""
    loop = asyncio.get_running_loop()
    running, began, stopped_s = loop.time, loop.time(), 0.0
    loop.time = lambda: running() + stopped_s  # type: ignore[method-assign]
    ended, has_read = loop.create_future(), asyncio.Event()
    timer = StepTimer(timeout_s, lambda: ended.set_result(loop.time() - began))
    for freeze_s in freezes_s:
        await asyncio.sleep(0.1)
        stopped_s += freeze_s
        loop.call_later(0.05, has_read.set)
    seconds = await ended
    timer.cancel()
    return seconds, has_read.is_set()


@pytest.mark.parametrize(
    ("timeout_s", "freezes_s"),
    [(0.05, ()), (0.7, ()), (0.2, (2.0,)), (0.6, (2.0,)), (1.5, (2.0,)), (0.6, (1.8, 1.8, 1.8))],
    ids=["shorter than a tick", "longer", "short and frozen", "frozen", "long and frozen", "always late"],
)
async def test_a_limit_ends(timeout_s: float, freezes_s: tuple[float, ...]) -> None:
    """A limit ends when it has passed, not before; after a stop of the process, the loop first reads what has arrived."""
    seconds, has_read = await run_timer(timeout_s, *freezes_s)

    assert seconds >= timeout_s
    assert has_read == bool(freezes_s)


async def test_a_cancelled_limit_has_no_end() -> None:
    """A second call of `cancel` does nothing."""
    calls: list[None] = []
    timer = StepTimer(0.01, lambda: calls.append(None))
    timer.cancel()
    timer.cancel()

    await asyncio.sleep(0.05)

    assert calls == []


URLS = {"resume_url": "https://one.invalid/resume", "cancel_url": "https://one.invalid/cancel"}


class Echo:
    """Services that return the operation and its arguments, or refuse."""

    async def call(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """Return the operation and its arguments; refuse the payload "no"."""
        if args.get("payload") == "no":
            raise RequestError("There is no such workflow.", fix="Name another.")
        return None if args.get("payload") is None else {"call": operation, "args": dict(args)}


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shared_runs: OpenRun) -> AsyncIterator[Bench]:
    """A run."""
    bench = await shared_runs()
    yield bench
    await bench.workers.release()


def in_node(body: str) -> str:
    """A Node.js step."""
    return f"export default defineComponent({{ async run({{ steps, $ }}) {{ {body} }} }})"


def in_python(body: str) -> str:
    """A Python step of one line or several."""
    lines = "\n".join(f"    {line}" for line in body.split("\n"))
    return f"def handler(pd):\n{lines}\n"


def calling(language: Language, payload: str) -> str:
    """A step that triggers a workflow with *payload* (as written in both languages)."""
    if language == "node":
        return in_node(f"return await $.flow.trigger('p_1', {payload})")
    return in_python(f"return pd.flow.trigger('p_1', {payload})")


@pytest.mark.parametrize("language", ["node", "python"])
async def test_step_gets_the_answer_of_a_service(bench: Bench, language: Language) -> None:
    """A call returns what the service returns: no value is undefined or None, and a refusal is an exception at the line of the call."""
    value = await bench.value(language, calling(language, "'x'"), services=Echo())
    missing = await bench.run(
        language, calling(language, "undefined" if language == "node" else "None"), services=Echo()
    )
    refusal = await bench.fail(language, calling(language, "'no'"), services=Echo())
    without = await bench.fail(language, calling(language, "'x'"))

    assert isinstance(value, dict)
    assert (value["call"], value["args"]["workflow"]) == ("flow.trigger", "p_1")
    assert missing.error is None
    assert "$return_value" not in missing.exports
    assert (refusal.message, refusal.fix) == ("There is no such workflow.", "Name another.")
    assert refusal.line == (1 if language == "node" else 2)
    assert "flow.trigger" in without.message


class Broken:
    """A service with an error of pdkernel itself."""

    async def call(self, _operation: str, _args: Mapping[str, JSON]) -> JSON:
        """Raise the error."""
        raise ZeroDivisionError("in a service")


@pytest.mark.parametrize("language", ["python", "node"])
async def test_internal_error_of_a_service_reaches_the_caller(bench: Bench, language: Language) -> None:
    """An error of pdkernel in a service is not an answer to the step's code: it ends the step and reaches its caller."""
    code = in_node("await $.flow.trigger('p')") if language == "node" else in_python("pd.flow.trigger('p')")

    with pytest.raises(ZeroDivisionError, match="in a service"):
        await bench.run(language, code, services=Broken())
    after = await bench.run(language, in_node("return 1") if language == "node" else in_python("return 1"))

    assert after.exports == {"$return_value": 1}


class Waiting:
    """A service whose only call never returns."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def call(self, _operation: str, _args: Mapping[str, JSON]) -> JSON:
        """Wait until the call is cancelled."""
        self.began.set()
        try:
            return await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def test_service_call_ends_with_its_step(bench: Bench) -> None:
    """A step that is stopped cancels the service call for whose answer it waits."""
    waiting = Waiting()
    step = asyncio.create_task(bench.run("node", in_node("await $.flow.trigger('p')"), services=waiting))
    await waiting.began.wait()

    bench.workers.fail_step(StepError("Stopped."))
    outcome = await step

    assert outcome.error is not None
    async with asyncio.timeout(60):
        await waiting.cancelled.wait()


@pytest.mark.parametrize(
    ("language", "code"),
    [
        (
            "node",
            in_node(
                "const all = await Promise.all([...Array(50).keys()].map((i) => $.flow.trigger('p', i)));"
                "return all.map((one) => one.args.payload)"
            ),
        ),
        (
            "python",
            in_python(
                "from concurrent.futures import ThreadPoolExecutor\n"
                "with ThreadPoolExecutor(8) as pool:\n"
                "    return list(pool.map(lambda i: pd.flow.trigger('p', i)['args']['payload'], range(50)))"
            ),
        ),
    ],
    ids=["promises", "threads"],
)
async def test_concurrent_service_calls_get_their_own_answers(bench: Bench, language: Language, code: str) -> None:
    """Each of several calls that wait at the same time gets its own answer."""
    assert await bench.value(language, code, services=Echo()) == list(range(50))


@pytest.mark.parametrize(
    ("language", "call", "pause"),
    [
        ("node", "$.flow.delay(5)", Pause("delay", 5)),
        ("node", "$.flow.delay(1e300)", Pause("delay", 2**53 - 1)),
        ("node", "$.flow.rerun(7, null, 1e300)", Pause("rerun", 7, None, 2**53 - 1)),
        ("node", "$.flow.rerun(7, null, 0)", Pause("rerun", 7, None, 0)),
        ("node", "$.flow.rerun(7, null, -1)", Pause("rerun", 7, None, 0)),
        ("node", "$.flow.rerun()", Pause("rerun", 86_400_000, None, 10)),
        ("python", "pd.flow.delay(1e300)", Pause("delay", 2**53 - 1)),
        ("python", "pd.flow.rerun(7, None, 10**30)", Pause("rerun", 7, None, 2**53 - 1)),
        ("python", "pd.flow.rerun(7, None, -1)", Pause("rerun", 7, None, 0)),
        ("python", "pd.flow.rerun()", Pause("rerun", 86_400_000, None, 10)),
        ("node", "$.flow.suspend()", Pause("suspend", 86_400_000)),
        ("node", "$.flow.rerun(7, {n: 1}, 3)", Pause("rerun", 7, {"n": 1}, 3)),
        ("python", "pd.flow.delay(5)", Pause("delay", 5)),
        ("python", "pd.flow.suspend()", Pause("suspend", 86_400_000)),
        ("python", "pd.flow.rerun(7, {'n': 1}, 3)", Pause("rerun", 7, {"n": 1}, 3)),
        ("python", "pd.flow.rerun(7, {'n': 1}, maxRetries=3)", Pause("rerun", 7, {"n": 1}, 3)),
    ],
)
async def test_pause_takes_effect_after_the_step(bench: Bench, language: Language, call: str, pause: Pause) -> None:
    """Delay, suspend and rerun return the two URLs at once; the pause takes effect when the step has ended."""
    code = in_node(f"return {call}") if language == "node" else in_python(f"return {call}")
    outcome = await bench.run(language, code, flow_urls=URLS)
    assert outcome.exports["$return_value"] == URLS
    assert outcome.pause_request == pause


@pytest.mark.parametrize(
    ("language", "call", "effect"),
    [
        ("node", "$.send.http({method: 'POST', url: 'u'})", Effect("http", {"method": "POST", "url": "u"})),
        ("node", "$.send.email({subject: 's'})", Effect("email", {"subject": "s"})),
        ("node", "$.send.emit({a: 1})", Effect("emit", {"event": {"a": 1}, "channel": ""})),
        ("node", "$.send.emit({a: 1}, 'c')", Effect("emit", {"event": {"a": 1}, "channel": "c"})),
        ("node", "$.send.sse('c', 1)", Effect("sse", {"channel": "c", "payload": 1})),
        ("node", "$.send.s3({bucket: 'b'})", Effect("s3", {"bucket": "b"})),
        ("python", "pd.send.http('POST', 'u', data=1)", Effect("http", {"method": "POST", "url": "u", "data": 1})),
        (
            "python",
            "pd.send.email(subject='s', text='t')",
            Effect("email", {"subject": "s", "text": "t", "html": ""}),
        ),
        ("python", "pd.send.emit({'a': 1}, 'c')", Effect("emit", {"event": {"a": 1}, "channel": "c"})),
    ],
)
async def test_messages_are_queued(bench: Bench, language: Language, call: str, effect: Effect) -> None:
    """Code does not see the result of a queued message."""
    code = in_node(f"return {call} ?? 'nothing'") if language == "node" else in_python(f"return {call} or 'nothing'")
    outcome = await bench.run(language, code)
    assert outcome.queued_sends == (effect,)
    assert outcome.exports["$return_value"] == "nothing"


async def test_invalid_pause_fails_at_its_line(bench: Bench) -> None:
    """A value that is not a number of milliseconds is an error."""
    error = await bench.fail("node", in_node("$.flow.delay('soon')"))
    assert "milliseconds" in error.message


@pytest.mark.parametrize("status", ["99", "600", "10**300"])
@pytest.mark.parametrize("language", ["node", "python"])
async def test_invalid_status_of_a_response_fails_at_its_line(bench: Bench, language: Language, status: str) -> None:
    """The step's error names the range."""
    code = (
        in_node(f"\n$.respond({{ status: {status} }})")
        if language == "node"
        else in_python(f"pd.respond({{'status': {status}}})")
    )

    error = await bench.fail(language, code)

    assert (error.name, error.line) == ("TypeError", 2)
    assert "needs a status from 100 to 599" in error.message


@pytest.mark.parametrize("language", ["node", "python"])
async def test_error_with_unusual_attributes_is_reported(bench: Bench, language: Language) -> None:
    """Attributes with internal names on user errors are recorded as text."""
    code = (
        in_node("throw Object.assign(new Error('x'), { pdkernelCode: 1, pdkernelFix: [2], pdkernelProp: 3, name: 4 })")
        if language == "node"
        else in_python("e = ValueError('x')\ne.pdkernel_code, e.pdkernel_name, e.pdkernel_fix = 1, 2, [3]\nraise e")
    )

    error = await bench.fail(language, code)

    assert (type(error), error.message) == (StepError, "x")
