"""The platform's limits: an error above a limit, a warning near it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdkernel.engine.limits import (
    DEFAULT_MEMORY_MB,
    MAX_EXPORT_DEPTH,
    PayloadCounter,
    describe_inexact_number,
    exceeds_depth,
    memory_limit_mb,
    suggest_longer_timeout,
    warn_near_limits,
)
from pdkernel.errors import StepTimeoutError
from pdkernel.execution import Execution, Log, StepResult
from pdkernel.model import JSON, MAX_PAYLOAD_BYTES, MAX_PROP_BYTES, Step
from pdkernel.runtimes.isolation import MIN_LANDLOCK_PORT_VERSION, landlock_version
from pdkernel.workers import StepOutcome
from tests.builders import Gate, a_workflow, an_event, bash_step, node_step, python_step, skip_time
from tests.engine.conftest import Run, error_of
from tests.growth import assert_linear


def log_of(execution: Execution, step: str = "code") -> str:
    """Return the step's log."""
    return "".join(log.text for log in execution.step(step).logs)


def deep(levels: int) -> str:
    """A JSON list of nested lists."""
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "step",
    [
        python_step("two", 'return "x" * 4_000_000'),
        node_step("two", 'return "x".repeat(4_000_000)'),
        bash_step("two", 'printf "big=%04000000d\\n" 0 >> "$PIPEDREAM_EXPORTS"'),
    ],
    ids=["python", "node", "bash"],
)
async def test_payload_above_the_limit_fails_the_step(shared_run: Run, step: Step) -> None:
    """Event, exports and logs count together; the step that exceeds the limit fails with a complete record."""
    execution = await shared_run(
        python_step("one", 'return "y" * 2_000_000'), step, python_step("three"), event=an_event("z" * 500_000)
    )

    assert execution.status == "error"
    assert execution.error is not None
    assert (execution.error.code, execution.error.step) == ("payload_limit", "two")
    assert execution.error.message.startswith("Function Payload Limit Exceeded: ")
    assert "6.2 MB together" in execution.error.message
    assert execution.step("two").exports != {}
    assert execution.step("three").status == "skipped"


@pytest.mark.parametrize(
    ("step", "size"),
    [
        (python_step(body='pd.export("a", 1)\nreturn "x" * 30_000_000'), "an export of step `code` has 28.6 MB"),
        (
            node_step(body='$.export("a", 1); return "x".repeat(70_000_000);'),
            "a message of step `code` has more than 64 MB",
        ),
        (
            bash_step(body='{ echo a:json=1; printf "big:json=%030000000d\\n" 0; } >> "$PIPEDREAM_EXPORTS"'),
            "$PIPEDREAM_EXPORTS has 28.6 MB",
        ),
        (
            bash_step(body='truncate -s 300000000 "$PIPEDREAM_RESPONSE"; echo a:json=1 >> "$PIPEDREAM_EXPORTS"'),
            "$PIPEDREAM_RESPONSE has 286.1 MB",
        ),
    ],
    ids=["python", "node", "bash", "bash-response"],
)
async def test_export_far_above_the_limit_is_not_parsed(shared_run: Run, step: Step, size: str) -> None:
    """The error of an export far above the limit has its size; exports before it are in the record."""
    execution = await shared_run(step)

    assert execution.error is not None
    assert execution.error.code == "payload_limit"
    assert execution.error.message.startswith(f"Function Payload Limit Exceeded: {size}, and the limit is 6.0 MB.")
    assert execution.step("code").exports == {"a": 1}


async def test_payload_near_the_limit_is_a_warning(shared_run: Run) -> None:
    """A run near the limit goes on, and the step's log has a warning."""
    execution = await shared_run(python_step(body='print("x" * 500_000)\nreturn "y" * 5_000_000'))

    assert execution.status == "success"
    assert "87% of the limit of 6.0 MB" in log_of(execution)


def test_payload_is_counted_in_bytes() -> None:
    """Logs and exports are counted in bytes of UTF-8; as many as the limit are allowed."""
    payload = PayloadCounter({})
    error, near = payload.add({"a": "ä" * 1_000_000}, [Log("stdout", "ä" * (MAX_PAYLOAD_BYTES // 2 - 1_000_000))])
    full = PayloadCounter({})
    fits = full.add({}, [Log("stdout", "x" * (MAX_PAYLOAD_BYTES - len("{}{}")))])

    assert near is None
    assert error is not None
    assert fits[0] is None
    assert "100% of the limit of 6.0 MB" in str(fits[1])
    assert full.add({}, [Log("stdout", "x")])[0] is not None


DEEP: dict[str, Callable[[int], Step]] = {
    "node": lambda levels: node_step(body=f"let v = []; for (let i = 1; i < {levels}; i++) v = [v]; return v;"),
    "python": lambda levels: python_step(body=f"v = []\nfor _ in range({levels - 1}): v = [v]\nreturn v"),
    "bash": lambda levels: bash_step(body=f'echo "v:json={deep(levels)}" >> "$PIPEDREAM_EXPORTS"'),
}


@pytest.mark.parametrize("language", DEEP)
async def test_export_has_at_most_256_levels(shared_run: Run, language: str) -> None:
    """An export of 256 levels is allowed in every language; one of more levels fails with the platform's message."""
    allowed, refused = await shared_run(DEEP[language](256)), await shared_run(DEEP[language](257))

    assert allowed.status == "success"
    assert refused.error is not None
    assert refused.error.message.startswith("JSON Nested Property Limit Exceeded: ")
    assert refused.error.code == "export_not_json"


async def test_too_large_prop_refuses_the_run(shared_run: Run) -> None:
    """A static prop of more than 64 KB refuses the run, unless its step is disabled."""
    step = node_step(props="{ text: 'string' }")
    large = {"text": "ä" * (MAX_PROP_BYTES // 2 + 1)}

    refused = await shared_run(Step("code", "node", step.source, props=large))
    ignored = await shared_run(Step("code", "node", step.source, props=large, disabled=True), python_step("next"))
    taken = await shared_run(Step("code", "node", step.source, props={"text": "x" * MAX_PROP_BYTES}))

    assert refused.error is not None
    assert "The prop text of step 'code' has 65,538 bytes" in refused.error.message
    assert refused.step("code").status == "not_run"
    assert (ignored.status, ignored.step("code").status) == ("success", "disabled")
    assert taken.status == "success"


@pytest.mark.parametrize(
    ("options", "limit", "message"),
    [
        ("--timeout 0.2", 60, "The step sets this limit: raise --timeout 0.2 on its %%pdstep line, at most 750 seconds."),
        ("", 0.2, "The workflow sets this limit: raise `settings: {lambda_timeout: ...}`"),
    ],
    ids=["step", "workflow"],
)  # fmt: skip
async def test_timeout_names_the_setting_of_its_limit(
    shared_run: Run, options: str, limit: float, message: str
) -> None:
    """A step that exceeds its time limit fails with the platform's `Timeout` and the setting of the limit: the step's line or the workflow's settings."""
    step = python_step(body="while True: pass", options=options)

    error = error_of(await shared_run(a_workflow(step, lambda_timeout=limit)))

    assert error.message.startswith("Timeout: the step ran longer than 0.2 seconds and was stopped.\n")
    assert message in error.message


def test_default_timeout_names_the_trigger() -> None:
    """For a default limit the message names the trigger and both settings."""
    step = python_step()

    assert suggest_longer_timeout(a_workflow(step), step).startswith(
        "This limit is the default for the trigger (type: http): "
    )


async def test_step_near_its_time_limit_has_a_warning(run: Run, tmp_path: Path) -> None:
    """A step near its time limit logs the used share; other steps log nothing."""
    gate = Gate(tmp_path)
    steps = python_step("quick", options="--timeout 300"), python_step("slow", gate.code, options="--timeout 300")
    running = asyncio.ensure_future(run(*steps))
    await gate.wait_until_reached()

    await skip_time(250)
    gate.open()
    execution = await running

    assert "% of the time limit (2" in log_of(execution, "slow")
    assert " of 300 s)." in log_of(execution, "slow")
    assert log_of(execution, "quick") == ""


@pytest.mark.parametrize(
    "step",
    [
        python_step(body="import time\nkept = bytearray(400 << 20)\ntime.sleep(20)"),
        node_step(
            body="globalThis.kept = Buffer.alloc(400 << 20, 1); await new Promise((r) => setTimeout(r, 20_000));"
        ),
        bash_step(body="python3 -c 'import time; kept = bytearray(400 << 20); time.sleep(20)'\necho never"),
    ],
    ids=["python", "node", "bash"],
)
async def test_step_above_the_memory_limit_is_ended(shared_run: Run, step: Step) -> None:
    """A step that uses more than settings.memory is ended with the platform's message."""
    error = error_of(await shared_run(a_workflow(step, memory=300)))

    assert error.code == "memory"
    assert error.message.startswith("Out of Memory: the step used ")


async def test_memory_of_a_short_step_is_measured_at_its_end(shared_run: Run) -> None:
    """The memory of a short step is measured at its end."""
    step = python_step(body="import sys\nsys.kept = bytearray(400 << 20)")

    assert (await shared_run(step)).status == "success"
    limited = await shared_run(a_workflow(step, memory=300))

    assert limited.error is not None
    assert limited.error.code == "memory"


async def test_memory_above_the_default_is_a_warning(shared_run: Run) -> None:
    """Without a memory setting the step is not ended; a warning names the platform's default."""
    execution = await shared_run(python_step(body="import sys\nsys.kept = bytearray(400 << 20)"))

    assert execution.status == "success"
    assert "settings: {lambda_memory: ...}" in log_of(execution)


@pytest.mark.parametrize(
    ("outcome", "memory_mb", "words"),
    [
        (StepOutcome(duration_s=7.98), None, []),
        (StepOutcome(duration_s=8), None, ["80% of the time limit (8.0 of 10 s)"]),
        (StepOutcome(duration_s=10, error=StepTimeoutError("slow")), None, []),
        (StepOutcome(peak_memory_mb=600), 512, []),
        (StepOutcome(peak_memory_mb=DEFAULT_MEMORY_MB + 1), None, ["257 MB of memory. The platform's limit is 256 MB"]),
        (StepOutcome(duration_s=9.1), None, ["91% of the time limit (9.1 of 10 s)"]),
        (StepOutcome(duration_s=10.4), None, ["100% of the time limit"]),
        (StepOutcome(peak_memory_mb=470), 512, ["92% of the memory limit (470 of 512 MB)"]),
        (StepOutcome(peak_memory_mb=300), 512, []),
        (StepOutcome(peak_memory_mb=DEFAULT_MEMORY_MB), None, []),
    ],
)
def test_warnings_near_limits(outcome: StepOutcome, memory_mb: int | None, words: list[Any]) -> None:
    """From 80% of a limit on, the step's log has a warning."""
    found = list(warn_near_limits(outcome, timeout_s=10, memory_mb=memory_mb))

    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_the_platforms_name_of_the_memory_limit() -> None:
    """`lambda_memory`, the name in synced files, sets the limit, also beside `memory`; text sets none."""
    settings: list[dict[str, Any]] = [
        {"lambda_memory": 512},
        {"memory": 512},
        {"lambda_memory": 512, "memory": 1024},
        {"lambda_memory": "512"},
        {},
    ]

    assert [memory_limit_mb(a_workflow(python_step(), **each)) for each in settings] == [512, 512, 512, None, None]


LISTENERS: dict[str, tuple[Callable[[str, str], Step], str]] = {
    "python": (
        python_step,
        "import socket\nsock = socket.socket()\nsock.bind(('127.0.0.1', PORT))\nreturn sock.getsockname()[1] > 0",
    ),
    "asyncio": (
        python_step,
        (
            "import asyncio\nasync def main():\n    server = await asyncio.start_server(print, '::1', PORT)\n    server.close()\n"
            "asyncio.run(main())\nreturn True"
        ),
    ),
    "node": (
        node_step,
        (
            "const { createServer } = await import('node:net');\nconst server = createServer();\n"
            "await new Promise((done, fail) => server.once('error', fail).listen(PORT, '::1', done));\n"
            "const port = server.address().port;\nserver.close();\nreturn port > 0;"
        ),
    ),
}


@pytest.mark.skipif(landlock_version() < MIN_LANDLOCK_PORT_VERSION, reason="Landlock has no rules for ports here")
@pytest.mark.parametrize("language", LISTENERS)
async def test_a_step_listens_on_free_and_named_ports(shared_run: Run, language: str) -> None:
    """A free port needs no setting; another one is refused with the setting that permits it, whatever the address is."""

    async def listen(port: int, **settings: Any) -> StepResult:
        build, code = LISTENERS[language]
        return (await shared_run(a_workflow(build("code", code.replace("PORT", str(port))), **settings))).step("code")

    port = 20_000 + os.getpid() % 12_000  # another one in each process of the tests
    free, refused, named = await listen(0), await listen(port), await listen(port, listen=[port])
    again = await listen(port)

    assert free.return_value is named.return_value is True
    for each in (refused, again):
        assert each.error is not None
        assert "settings: {listen: [8080]}" in each.error.message


@pytest.mark.parametrize("levels", [MAX_EXPORT_DEPTH - 3, MAX_EXPORT_DEPTH, MAX_EXPORT_DEPTH + 1, 5 * MAX_EXPORT_DEPTH])
@pytest.mark.parametrize("beside", [[], [1, None], [10**30, "\ud800"]], ids=["nothing", "scalars", "special"])
def test_depth_of_a_value(levels: int, beside: list[JSON]) -> None:
    """A value is too deep if any of its lists and objects are, also among others and beside special numbers and texts."""
    value = _nested(levels - 1, beside)

    assert exceeds_depth([[], value, {}]) == (levels > MAX_EXPORT_DEPTH)
    assert exceeds_depth({"a": [], "b": value}) == (levels > MAX_EXPORT_DEPTH)


@pytest.mark.parametrize("levels", [1, 200, MAX_EXPORT_DEPTH - 1])
def test_the_time_to_find_the_depth_grows_linearly(levels: int) -> None:
    """Many lists of the same depth take a time that grows with their number."""
    assert_linear(exceeds_depth, lambda size: [_nested(levels, []) for _ in range(size // levels)])


def _nested(levels: int, beside: list[JSON]) -> JSON:
    """Lists of that many levels, each with the items *beside* before the next level."""
    value: JSON = []
    for _ in range(levels - 1):
        value = [*beside, value]
    return value


GREAT = 2**53 + 1


async def log_of_first(run: Run, *steps: Step) -> str:
    """Return the first step's log."""
    execution = await run(*steps)
    assert execution.status == "success", execution.error
    return "".join(log.text for log in execution.steps[0].logs)


@pytest.mark.parametrize(
    "steps",
    [
        (python_step("one", f'return {{"ids": [1, {GREAT}], "more": {GREAT}}}'), node_step("two")),
        (
            bash_step(
                "one", f'echo \'$return_value:json={{"ids": [1, {GREAT}], "more": {GREAT}}}\' >> "$PIPEDREAM_EXPORTS"'
            ),
            node_step("two"),
        ),
        (
            python_step("one", f'return {{"ids": [1, {GREAT}], "more": {GREAT}}}'),
            python_step("two", options="--prop 'n={{ steps.one.$return_value }}'"),
        ),
    ],
    ids=["python", "bash", "an expression below"],
)
async def test_rounded_number_is_reported_once(shared_run: Run, steps: tuple[Step, ...]) -> None:
    """The log of the exporting step has the path, the number and the value that JavaScript or an expression reads, once."""
    text = await log_of_first(shared_run, *steps)

    assert text.count("[pdkernel]") == 1
    assert "$return_value.ids[1] (and 1 other) is 9007199254740993" in text
    assert "read it as 9007199254740992" in text


@pytest.mark.parametrize(
    "steps",
    [
        (python_step("one", f"return {GREAT}"), python_step("two", 'return pd.steps["one"]["$return_value"]')),
        (python_step("one", f"return [{2**60}, 2.0**70, '{GREAT}']"), node_step("two")),
        (node_step("one", f"return {GREAT}"), node_step("two")),
    ],
    ids=["no JavaScript below", "exact", "JavaScript itself"],
)
async def test_exact_number_causes_no_warning(shared_run: Run, steps: tuple[Step, ...]) -> None:
    """Numbers that JavaScript reads exactly cause no warning."""
    assert await log_of_first(shared_run, *steps) == ""


@pytest.mark.parametrize(
    ("exports", "warning"),
    [
        ({"a": GREAT}, "a is 9007199254740993. Node.js steps and expressions read it as 9007199254740992."),
        ({"a": {"b": [GREAT]}, "c": GREAT}, "a.b[0] (and 1 other) is 9007199254740993."),
        ({"a": 10**20 + 1}, "read it as 100000000000000000000."),
        ({"a": 10**21 + 1}, "read it as 1e+21."),
        ({"a": -(10**22) - 1}, "read it as -1e+22."),
        ({"a": -(10**400)}, f"is -1{'0' * 28}... (402 digits). Node.js steps and expressions read it as -Infinity."),
        ({"a": 2**53, "b": str(GREAT)}, None),
    ],
)
def test_the_value_that_javascript_reads(exports: dict[str, JSON], warning: str | None) -> None:
    """The first number that JavaScript rounds is named as JavaScript writes it, with the number of others."""
    found = describe_inexact_number(exports)

    assert found is None if warning is None else found is not None and warning in found
