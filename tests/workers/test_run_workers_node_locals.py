"""Local variables in the stack of a failed Node.js step."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.workers.conftest import Bench, OpenRun

CODE = """export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run({ steps, $ }) {
    const event = steps.trigger.event;
    const header = "Bearer " + this.slack.$auth.oauth_access_token;
    for (const item of [1, 2]) { await null; title(item); }
    function title(n) { const twice = n * 2; return event.body.issue.title.length + twice; }
  },
})"""


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shared_runs: OpenRun) -> AsyncIterator[Bench]:
    """A run from a notebook."""
    bench = await shared_runs(event={"body": {"a": 1}}, context={"test": True})
    yield bench
    await bench.workers.release()


async def stack_of(bench: Bench, code: str, token: str = "xoxb-secret-token") -> str:
    """Return the stack of a step that fails."""
    outcome = await bench.run("node", code, credentials={"slack": {"oauth_access_token": token}})
    assert outcome.error is not None
    return outcome.error.stack or ""


async def test_each_frame_has_its_own_locals(bench: Bench) -> None:
    """The parameters and variables of a function are below its line, those of the caller below the caller's line."""
    stack = await stack_of(bench, CODE)
    inner, outer = stack.split("at Object.run")
    assert "n = 1" in inner
    assert "twice = 2" in inner
    assert "item = 1" in outer
    assert "event = { body: { a: 1 } }" in outer


async def test_calls_of_a_recursive_function_have_their_own_locals(bench: Bench) -> None:
    """Frames at the same line have the variables of their own call."""
    code = """export default { run() {
      const add = (n) => {
        return n < 3 ? 1 + add(n + 1) : null.x;
      };
      return add(1);
    } }"""

    stack = await stack_of(bench, code)

    assert [line.strip() for line in stack.splitlines() if " n = " in line] == ["n = 3", "n = 2", "n = 1"]


async def test_credential_in_a_local_is_replaced(bench: Bench) -> None:
    """Stars replace the value of a local that contains a credential."""
    stack = await stack_of(bench, CODE)
    assert "header = 'Bearer ***'" in stack
    assert "xoxb-secret-token" not in stack


async def test_variable_of_the_workflow_in_a_local_is_replaced(open_run: OpenRun) -> None:
    """Stars replace the values of environment variables; a longer value is replaced before a value that it contains."""
    variables = {"SHORT": "abcd", "LONG": "abcd-long-value"}
    bench = await open_run(context={"test": True}, variables=variables)
    code = "export default { run() { const { SHORT, LONG } = process.env; const all = `${SHORT} ${LONG}`; throw new Error('no') } }"

    assert "all = '*** ***'" in await stack_of(bench, code)


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("xoxb-secret-token", '["x".repeat(190) + token + "y".repeat(30_000)]'),
        ("xoxb-secret-token", '"x".repeat(190) + token.slice(0, -1) + "y".repeat(99)'),
        ("xoxb-" + "abcdefghi" * 1000, "token.repeat(3)"),
    ],
    ids=["in a list", "a part of it", "a long secret"],
)
async def test_shortened_local_ends_before_a_part_of_a_secret(bench: Bench, token: str, value: str) -> None:
    """If a long local is shortened inside a secret, the part of the secret before the end is removed."""
    code = f"""export default defineComponent({{
      props: {{ slack: {{ type: "app", app: "slack" }} }},
      async run() {{ const token = this.slack.$auth.oauth_access_token; const long = {value}; throw new Error("no"); }},
    }})"""

    stack = await stack_of(bench, code, token)

    assert "long = " in stack
    assert "…" in stack
    assert "xoxb" not in stack


async def test_inner_variable_hides_the_outer_one(bench: Bench) -> None:
    """Of two variables with one name, the value that the code sees is shown, once."""
    stack = await stack_of(
        bench, "export default { run() { const x = 1, y = 3; { const x = 2; throw new Error(String(x + y)); } } }"
    )

    assert "x = 2" in stack
    assert "y = 3" in stack
    assert "x = 1" not in stack.split("throw new Error")[-1]


async def test_names_of_pdkernel_are_not_shown(bench: Bench) -> None:
    """`steps` and `$` are not shown among the locals."""
    stack = await stack_of(bench, CODE)
    assert "steps =" not in stack
    assert "$ =" not in stack


async def test_caught_errors_do_not_prevent_locals(bench: Bench) -> None:
    """Caught exceptions do not stop the step, and its real failure still has its locals."""
    code = """export default defineComponent({ async run() {
        let caught = 0;
        for (let i = 0; i < 5; i++) { try { throw new Error("no " + i); } catch { caught++; } }
        throw new Error("in the end");
    }})"""
    assert "caught = 5" in await stack_of(bench, code)


async def test_locals_are_those_of_the_last_run(bench: Bench) -> None:
    """The same error of the same code, on another input, has the values of that input."""
    code = "export default { props: { n: { type: 'integer' } }, run() { const mine = this.n; throw new Error('no') } }"

    stacks = [(await bench.run("node", code, props={"n": n})).error for n in (1, 2)]

    assert ["mine = 1" in str(error and error.stack) for error in stacks] == [True, False]
    assert ["mine = 2" in str(error and error.stack) for error in stacks] == [False, True]


async def test_code_that_fails_again_has_locals(bench: Bench, tmp_path: Path) -> None:
    """Code that has succeeded on the same input before has its locals at the latest in its second failure."""
    file = tmp_path / "file"
    code = f"""import fs from "fs";
    export default {{ run() {{ const seen = fs.existsSync({json.dumps(str(file))}); if (!seen) throw new Error("gone"); }} }}"""
    file.touch()
    await bench.run("node", code)
    file.unlink()

    for _ in range(2):
        bench.steps.clear()
        outcome = await bench.run("node", code)

    assert outcome.error is not None
    assert "seen = false" in str(outcome.error.stack)


@pytest.mark.parametrize(("count", "has_locals"), [(49, True), (50, False)])
async def test_locals_are_read_for_fifty_exceptions(bench: Bench, count: int, has_locals: bool) -> None:
    """The fiftieth exception of a step is the last one whose locals are read."""
    code = f"""export default defineComponent({{ async run() {{
        let caught = 0;
        for (let i = 0; i < {count}; i++) {{ try {{ throw new Error("no " + i); }} catch {{ caught++; }} }}
        throw new Error("in the end");
    }}}})"""

    assert (f"caught = {count}" in await stack_of(bench, code)) is has_locals


async def test_code_with_many_exceptions_ends(bench: Bench) -> None:
    """After about fifty exceptions, locals are not read any more."""
    code = """export default defineComponent({ async run() {
        let caught = 0;
        for (let i = 0; i < 20_000; i++) { try { throw new Error("no " + i); } catch { caught++; } }
        return caught;
    }})"""
    outcome = await bench.run("node", code)
    assert outcome.exports["$return_value"] == 20_000


async def test_repeated_failure_has_locals_again(bench: Bench) -> None:
    """A step that has failed before has locals again in its next failure."""
    await stack_of(bench, CODE)
    assert "twice = 2" in await stack_of(bench, CODE)


async def test_object_that_cannot_be_inspected_is_skipped(bench: Bench) -> None:
    """A proxy that throws is not shown."""
    code = """export default defineComponent({ async run() {
        const fine = 1;
        const trap = new Proxy({}, { get() { throw new Error("no"); }, ownKeys() { throw new Error("no"); } });
        throw new Error("in the end");
    }})"""
    assert "fine = 1" in await stack_of(bench, code)
