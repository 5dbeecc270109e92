"""Node.js steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import StepError, StepTimeoutError
from pdkernel.model import JSON, AppBinding, Step
from tests.workers.conftest import Bench, OpenRun


@pytest.fixture
def bench(warm_bench: Bench) -> Bench:
    """A run whose processes earlier tests may have used."""
    return warm_bench


def component(body: str, extra: str = "") -> str:
    """A component whose run is *body*."""
    return f"export default defineComponent({{ {extra} async run({{ steps, $ }}) {{\n{body}\n}} }});\n"


@pytest.mark.parametrize(
    ("source", "exports"),
    [
        ("export default defineComponent({ async run({ steps }) { return steps.trigger.event.n } })", 7),
        ("export default { run({ steps }) { return steps.trigger.event.n } }", 7),
        ("export default ({ steps }) => steps.trigger.event.n", 7),
        ("module.exports = defineComponent({ run({ steps }) { return steps.trigger.event.n } })", 7),
        ("const os = require('os');\nmodule.exports = { async run({ steps }) { return steps.trigger.event.n } }", 7),
        ("const c = { run({ steps }) { return steps.trigger.event.n } };\nexport { c as default }", 7),
        (component("return null"), None),
        (component("return"), {}),
        (component("const a = [1]; $.export('a', a); a.push(2); $.export('$summary', 'x')"), {"a": [1], "$summary": "x"}),
    ],
)  # fmt: skip
async def test_forms_of_a_component(bench: Bench, source: str, exports: Any) -> None:
    """`defineComponent`, a bare object, a function, and CommonJS are supported; null is exported, undefined is not, and an export is copied at once."""
    outcome = await bench.run("node", source)

    assert outcome.error is None
    assert outcome.exports == (exports if isinstance(exports, dict) else {"$return_value": exports})


async def test_packages_are_resolved_in_the_folder_of_the_project(open_run: OpenRun, tmp_path: Path) -> None:
    """Bare imports and `require` are resolved in the project's folder; built-in modules work too."""
    bench = await open_run()
    package = tmp_path / "project" / "node_modules" / "tiny"
    package.mkdir(parents=True)
    package.joinpath("package.json").write_text(
        json.dumps({"name": "tiny", "exports": {"import": "./esm.mjs", "require": "./cjs.cjs"}})
    )
    package.joinpath("esm.mjs").write_text("export default 'esm'; export const size = 1")
    package.joinpath("cjs.cjs").write_text("module.exports = 'cjs'")

    esm = await bench.run(
        "node",
        "import tiny, { size } from 'tiny';\nimport { basename } from 'node:path';\nimport fs from 'fs';\n"
        "export default { async run() { return [tiny, size, basename('/a/b'), typeof fs.readFileSync, (await import('tiny')).default] } }",
    )
    cjs = await bench.run("node", "const tiny = require('tiny');\nmodule.exports = { run() { return tiny } }")

    assert esm.exports["$return_value"] == ["esm", 1, "b", "function", "esm"]
    assert cjs.exports["$return_value"] == "cjs"


async def test_printed_or_returned_app_has_no_credential(bench: Bench) -> None:
    """`$auth` is not enumerable."""
    source = component(
        "console.log(this, this.slack, JSON.stringify(this)); return this.slack",
        extra="props: { slack: { type: 'app', app: 'slack' } },",
    )

    outcome = await bench.run("node", source, credentials={"slack": {"oauth_access_token": "xoxb-very-secret"}})

    assert outcome.exports == {"$return_value": {}}
    assert "xoxb" not in bench.printed()


async def test_this_has_methods_props_and_apps(bench: Bench) -> None:
    """Methods are bound, defaults apply, the `$auth` of an app is available by prop name or slug, and the methods of an app see it."""
    source = "const app = { type: 'app', app: 'a', methods: { token() { return this.$auth.t } } };\n" + component(
        "const { shout } = this; return [shout('a'), this.given, this.absent, this.api.$auth.key, Object.keys(this.api.$auth), this.app.token()]",
        extra="props: { app, api: { type: 'app', app: 'my_api' }, given: { type: 'string', default: 'no' }, absent: { type: 'integer', default: 5 } }, "
        "methods: { shout(text) { return text + '!' + this.given } },",
    )

    value = await bench.value(
        "node", source, props={"given": "yes"}, credentials={"my_api": {"key": "k1"}, "app": {"t": "T"}}
    )

    assert value == ["a!yes", "yes", 5, "k1", ["key"], "T"]


async def test_error_has_the_line_of_the_cell(bench: Bench) -> None:
    """The frames are those of the user's code, with their source."""
    source = "export default {\n  async run() {\n    await null;\n    return inner();\n  },\n};\nfunction inner() {\n  throw new TypeError('bad');\n}\n"

    outcome = await bench.run("node", source, line_offset=3)

    error = outcome.error
    assert error is not None
    assert (error.name, error.message, error.line) == ("TypeError", "bad", 11)
    assert error.stack is not None
    assert "<step work>:11:9" in error.stack
    assert "throw new TypeError('bad');" in error.stack
    assert "runtimes" not in error.stack
    assert "node:internal" not in error.stack


async def test_error_of_moved_code_has_its_new_line(bench: Bench) -> None:
    """Unchanged code that moves in its notebook or has another name is reported at its new place."""
    source = "export default {\n  run() { throw new Error('no') }\n}"

    errors = [
        (await bench.run("node", source, line_offset=offset, name=name)).error
        for offset, name in ((0, "one"), (3, "one"), (0, "two"), (3, "one"))
    ]

    assert [(error.line, (error.stack or "").splitlines()[1:3]) for error in errors if error is not None] == [
        (line, [f"    at Object.run (<step {name}>:{line}:17)", "      run() { throw new Error('no') }"])
        for line, name in ((2, "one"), (5, "one"), (2, "two"), (5, "one"))
    ]


WAITS = "await new Promise((r) => setTimeout(r, 5000))"


@pytest.mark.parametrize(
    ("source", "name", "message", "line", "stack"),
    [
        (component("throw 'just text'"), "Error", "just text", None, ""),
        (component("throw Object.assign(new Error('no stack'), { stack: null })"), "Error", "no stack", None, ""),
        (component("throw { code: 5 }"), "Error", '{"code":5}', None, ""),
        (component("throw null"), "Error", "null", None, ""),
        (component("throw undefined"), "Error", "undefined", None, ""),
        (
            component("const cause = new TypeError('in');\nthrow Object.assign(new Error('out', { cause }), { stack: 'Error: out' })"),
            "Error", "out", 5, "",
        ),
        (component("const e = new Error('Pick one'); e.name = 'ConfigurationError'; throw e"), "ConfigurationError", "Pick one", 5, ""),
        ("export default {\n  run() {\n    let = ;\n  }\n}\n", "SyntaxError", None, 6, "^"),
        ("const x = require('os');\nmodule.exports = { run() {\n  return (;\n} }\n", "SyntaxError", None, 6, "^"),
        (component("\nJSON.parse('{')"), "SyntaxError", None, 6, ""),
        (component(f"Promise.reject(new Error('forgotten'));\n{WAITS}"), "Error", "forgotten", 5, ""),
        (component(f"setTimeout(() => {{ throw new Error('thrown') }}, 1);\n{WAITS}"), "Error", "thrown", 5, ""),
        (component("await fetch('http://127.0.0.1:1/')"), "TypeError", "fetch failed: bad port", 5, "Caused by: Error: bad port"),
    ],
    ids=[
        "text", "without a stack", "object", "null", "undefined", "the line of the cause", "known by its name", "syntax of a module",
        "syntax of CommonJS", "SyntaxError while it runs", "without await", "in a callback", "with the reason of a failed fetch",
    ],
)  # fmt: skip
async def test_error_of_a_step(
    bench: Bench, source: str, name: str, message: str | None, line: int | None, stack: str
) -> None:
    """Each thrown value and each failure of a step is reported with its message and its line in the cell."""
    error = await bench.fail("node", source, line_offset=3)

    assert (error.name, error.line) == (name, line)
    assert message is None or error.message == message
    assert stack in str(error.stack)


@pytest.mark.parametrize("call", ["$.flow.refreshTimeout()", "$.files.open('x')"])
async def test_unsupported_feature_is_an_error(bench: Bench, call: str) -> None:
    """Unsupported features of the platform are clear errors."""
    error = await bench.fail("node", component(call))

    assert (error.code, error.line) == ("unsupported", 2)
    assert "is not supported by this version" in error.message


@pytest.mark.parametrize(
    "source", ["const x = 1;", "export const a = 1;", "", "export default 5", "export default { props: {} }"]
)
async def test_missing_default_export_is_an_entry_point_error(bench: Bench, source: str) -> None:
    """The error of a cell without a default export that can run has an example."""
    error = await bench.fail("node", source)

    assert error.code == "entry_point"
    assert "export default defineComponent" in error.fix


async def test_response_of_a_client_library_is_exported_without_its_request(bench: Bench) -> None:
    """A class instance that contains itself, such as the request of an axios response, is dropped with a warning."""
    outcome = await bench.run(
        "node",
        """class ClientRequest { constructor() { this.socket = { owner: this, environment: process.env } } }
        export default { run({ $ }) {
          const respond = (status) => ({ status, data: { id: status }, request: new ClientRequest(), send() {} })
          $.export("one", respond(200))
          class Reply { constructor(status) { Object.assign(this, respond(status)) } }
          return [respond(201), new Reply(404)]
        } }""",
    )

    assert outcome.error is None
    assert outcome.exports == {
        "one": {"status": 200, "data": {"id": 200}},
        "$return_value": [{"status": 201, "data": {"id": 201}}, {"status": 404, "data": {"id": 404}}],
    }
    assert outcome.warnings == (
        "one.request is a ClientRequest that contains itself, so it is not exported.",
        "$return_value[0].request is a ClientRequest that contains itself, so it is not exported.",
        "$return_value[1].request is a ClientRequest that contains itself, so it is not exported.",
    )


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("await new Promise((resolve) => setTimeout(resolve, 5)); return 'waited'", "waited"),
        ("return new Promise((resolve) => fs.readFile('/dev/null', 'utf8', (error, text) => resolve([error, text])))", [None, ""]),
        ("return Promise.resolve(1).then((n) => n + 1).catch(() => 0).finally(() => 9)", 2),
        ("return await util.promisify(setTimeout)(1, 'promised')", "promised"),
        (
            "return Promise.allSettled([1, Promise.reject(new Error('no'))].map(async (each) => await each))",
            [{"status": "fulfilled", "value": 1}, {"status": "rejected", "reason": {}}],
        ),
        ("return Promise.race([new Promise((r) => setTimeout(r, 9999, 'slow').unref()), Promise.resolve('fast')])", "fast"),
        ("const all = []; for await (const each of this.chunks([1, 2, 3], 2)) all.push(each); return all", [[1, 2], [3]]),
        ("const [first] = await events.once(this.emitter(), 'ready'); return first", "now"),
        (
            "const lines = []; for await (const line of this.lines(['a,1\\nb,', '2'])) lines.push(line.split(',')); return lines",
            [["a", "1"], ["b", "2"]],
        ),
        ("return (await text(Readable.from(['a']).pipe(zlib.createGzip()).pipe(zlib.createGunzip()))).toUpperCase()", "A"),
        ("return (await util.promisify(child.execFile)('echo', ['hi'])).stdout", "hi\n"),
        ("return this.answer()", 42),
        ("return [new Date(0), new Date(0).toLocaleString('en-GB', { timeZone: 'Asia/Tokyo' })]", ["1970-01-01T00:00:00.000Z", "01/01/1970, 09:00:00"]),
        ("return crypto.createHmac('sha256', 'key').update('text').digest('base64').length", 44),
        ("return structuredClone({ at: new URL('https://a.test/?b=1').searchParams.get('b') })", {"at": "1"}),
    ],
)  # fmt: skip
async def test_asynchronous_code_and_built_in_modules(bench: Bench, body: str, value: JSON) -> None:
    """A step waits in each way that Node.js offers, and uses its modules."""
    outcome = await bench.run(
        "node",
        """import child from "node:child_process"; import crypto from "node:crypto"; import events from "node:events";
        import fs from "node:fs"; import readline from "node:readline"; import { Readable } from "node:stream";
        import { text } from "node:stream/consumers"; import util from "node:util"; import zlib from "node:zlib";
        import { Worker } from "node:worker_threads";
        export default defineComponent({
          methods: {
            async *chunks(items, size) { for (let n = 0; n < items.length; n += size) yield items.slice(n, n + size) },
            lines(texts) { return readline.createInterface({ input: Readable.from(texts) }) },
            emitter() { const made = new events.EventEmitter(); setTimeout(() => made.emit("ready", "now"), 1); return made },
            answer() {
              const worker = new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true });
              return events.once(worker, "message").then(([found]) => found);
            },
          },
          async run({ steps, $ }) { BODY },
        });""".replace("BODY", body),
    )

    assert outcome.error is None
    assert outcome.exports == {"$return_value": value}


OWN_JSON = "const own = { a: 1n, toJSON() { return 'own' } }; own.self = own;"


@pytest.mark.parametrize(
    ("body", "value", "warnings"),
    [
        (
            "return { answer: new Response('text'), empty: {} }",
            {"answer": {}, "empty": {}},
            [".answer is a Response, so it is exported without its content."],
        ),
        ("return new Response('text')", {}, [" is a Response, so it is exported without its content."]),
        (
            f"{OWN_JSON} return [new Date(0), new URL('https://a.test/'), own, Buffer.from('hi'), -0]",
            ["1970-01-01T00:00:00.000Z", "https://a.test/", "own", {"type": "Buffer", "data": [104, 105]}, 0],
            [],
        ),
        (
            "const o = {}; return { f() {}, n: [NaN, -Infinity], m: new Map(), u: undefined, again: [o, o] }",
            {"n": [None, None], "m": {}, "again": [{}, {}]},
            [
                ".f is a function, so it is not exported.",
                ".n[0] is NaN, which JSON does not support, so it is exported as null.",
                ".n[1] is -Infinity, which JSON does not support, so it is exported as null.",
                ".m is a Map, so it is exported without its content.",
            ],
        ),
        (
            "return { q: new URLSearchParams('b=1'), order: new (class Order { id = 1; total() {} })() }",
            {"q": {}, "order": {"id": 1}},
            [".q is a URLSearchParams, so it is exported without its content."],
        ),
    ],
    ids=["content elsewhere", "no content", "toJSON", "as stringify drops it", "instances"],
)
async def test_value_is_exported_as_stringify_does(bench: Bench, body: str, value: JSON, warnings: list[str]) -> None:
    """A value is exported as JSON.stringify writes it, and a warning has the path of what is lost."""
    outcome = await bench.run("node", component(body))

    assert outcome.exports["$return_value"] == value
    assert outcome.warnings == tuple(f"$return_value{warning}" for warning in warnings)


async def test_flow_exit_with_and_without_return(bench: Bench) -> None:
    """`$.flow.exit` ends the run; without return the rest of the step still runs."""
    returned = await bench.run("node", component("return $.flow.exit('enough'); $.export('late', 1)"))
    bare = await bench.run("node", component("$.flow.exit(); $.export('late', 1)"))

    assert (returned.has_exited, returned.exit_reason, returned.exports) == (True, "enough", {})
    assert (bare.has_exited, bare.exit_reason, bare.exports) == (True, None, {"late": 1})


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("{ status: 200, headers: { 'x-n': 1 }, body: 'text' }", {"headers": {"x-n": "1"}, "body": "text"}),
        ("{ status: 200, body: { a: 1 } }", {"body": {"a": 1}}),
        ("{ status: 200, body: Buffer.from('hi') }", {"body": {"$base64": "aGk="}}),
        ("{ status: 200, body: undefined }", {}),
        (
            "{ status: 200, headers: { a: true, b: [1, false, 'c'], d: [] } }",
            {"headers": {"a": "true", "b": ["1", "false", "c"], "d": []}},
        ),
        ("{ status: 202, immediate: true }", {"status": 202, "immediate": True}),
        ("{ status: 200, body: Readable.from(['a', 'b']) }", {"body": "ab"}),
        ("{ status: 200, body: Readable.from([Buffer.from('a'), 'b']) }", {"body": {"$base64": "YWI="}}),
    ],
)
async def test_forms_of_a_response(bench: Bench, response: str, expected: dict[str, Any]) -> None:
    """A body is a text, an object, bytes or a stream, which is read to its end; numbers and booleans in a header become text; an immediate response is marked."""
    source = f"import {{ Readable }} from 'stream';\nexport default {{ async run({{ $ }}) {{ await $.respond({response}) }} }}"

    outcome = await bench.run("node", source)

    assert outcome.response == {"status": 200, "headers": {}, "body": None} | expected


@pytest.mark.parametrize(
    ("content_type", "data", "expected"),
    [
        ("text/csv", "ä,b", "ä,b"),
        ("application/problem+json; charset=UTF-8", "{}", "{}"),
        ("text/plain; charset=latin1", "ä", {"$base64": "w6Q="}),
        ("image/png", "ab", {"$base64": "YWI="}),
        ("text/plain", "\\xff", {"$base64": "/w=="}),
    ],
    ids=["text", "json", "latin1", "image", "not-utf8"],
)
async def test_bytes_of_a_text_type_become_text(bench: Bench, content_type: str, data: str, expected: object) -> None:
    """A byte stream with a text content type in UTF-8 becomes text; other bytes stay bytes."""
    encoding = "latin1" if "x" in data else "utf8"
    code = (
        "import { Readable } from 'stream';\nexport default { async run({ $ }) { await $.respond({ status: 200, "
        f"headers: {{ 'Content-Type': '{content_type}' }}, "
        f"body: Readable.from([Buffer.from('{data}', '{encoding}')]) }}) }} }}"
    )

    outcome = await bench.run("node", code)

    assert outcome.response is not None
    assert outcome.response["body"] == expected


async def test_context_is_a_plain_object(bench: Bench) -> None:
    """`$.context` has the trigger's context and more, and is writable."""
    outcome = await bench.run("node", component("$.context.mine = 1; return $.context"), context={"deadline": 5})

    assert outcome.exports["$return_value"] == {"id": "ctx1", "deadline": 5, "mine": 1}


@pytest.mark.parametrize(
    "start",
    [
        "import dgram from 'dgram'; const leave = (done) => dgram.createSocket('udp4').bind(0, '127.0.0.1', done);",
        "import net from 'net'; const leave = (done) => net.createServer().listen(0, '127.0.0.1', done);",
        "import net from 'net'; const leave = (done) => net.createServer().listen('socket', done);",
        "import child from 'child_process'; const leave = (done) => child.spawn('sleep', ['1000']).on('spawn', done);",
        """import { Worker } from 'worker_threads';
        const leave = (done) => new Worker('setInterval(() => {}, 99)', { eval: true }).on('online', done);""",
    ],
    ids=["datagrams", "server", "Unix socket", "child", "thread"],
)
async def test_each_kind_of_running_code_is_noticed(bench: Bench, start: str) -> None:
    """A worker whose step left a socket, a program or a thread is not used again."""
    source = f"{start}\nexport default {{ async run() {{ await new Promise(leave); return process.pid }} }}"

    outcome = await bench.run("node", source)
    after = await bench.run("node", component("return process.pid"), name="after")

    assert outcome.error is None
    assert "still running" in outcome.warnings[0]
    assert after.exports != outcome.exports


async def test_thread_that_does_not_keep_the_process_is_not_running_code(bench: Bench) -> None:
    """A thread after `unref`, as loggers start one, and a thread that ends by itself, keep the worker."""
    source = (
        "import { Worker } from 'worker_threads';\nexport default { async run() {\n"
        "new Worker('setInterval(() => {}, 99)', { eval: true }).unref();\n"
        "await new Promise((r) => new Worker('1', { eval: true }).on('exit', r));\nreturn process.pid } }"
    )

    outcome = await bench.run("node", source)
    after = await bench.run("node", component("return process.pid"), name="after")

    assert (outcome.error, outcome.warnings) == (None, ())
    assert after.exports == outcome.exports


def in_the_next_step(code: str) -> str:
    """A component that runs *code*, once, while the step after it runs."""
    return component(
        f"const poll = setInterval(() => {{ if (!globalThis.isSecond) return; clearInterval(poll); {code} }}, 1).unref()"
    )


WAITS_FOR_THE_STEP_BEFORE = component(
    "globalThis.isSecond = true; while (globalThis.isSecond) await new Promise((r) => setTimeout(r, 1)); return globalThis.refused"
)


async def test_code_of_an_earlier_step_has_no_effect_on_the_running_step(bench: Bench) -> None:
    """Exports, responses and calls of a step that has ended are not those of the step that runs, and its failure is a warning."""
    calls = "$.export('late', 1); $.respond({ status: 500 }); $.flow.exit('late'); $.send.emit(1);"
    refused = "(error) => { globalThis.refused = error.message; globalThis.isSecond = false }"
    await bench.run("node", in_the_next_step(f"{calls} $.flow.trigger('p_1').catch({refused})"), name="first")
    outcome = await bench.run("node", WAITS_FOR_THE_STEP_BEFORE, name="second")
    await bench.run("node", in_the_next_step("globalThis.isSecond = false; throw new Error('too late')"), name="third")
    failed = await bench.run("node", WAITS_FOR_THE_STEP_BEFORE, name="fourth")

    assert outcome.error is None
    assert outcome.exports == {"$return_value": "The step has ended, so it cannot call flow.trigger."}
    assert (outcome.response, outcome.has_exited, outcome.queued_sends, outcome.warnings) == (None, False, (), ())
    assert (failed.error, failed.warnings) == (None, ("A step failed after it had ended: too late",))


async def test_running_code_is_stopped_and_reported(bench: Bench) -> None:
    """Output of code that a step left running is not in the logs of the next step."""
    first = await bench.run("node", component("setInterval(() => console.log('late'), 1)"), name="first")
    second = await bench.run("node", component("await new Promise((r) => setTimeout(r, 60)); return 1"), name="second")

    assert "still running" in first.warnings[0]
    assert second.exports == {"$return_value": 1}
    assert bench.recorder.logs == ()
    assert second.warnings == ()


@pytest.mark.parametrize(
    ("changes", "look", "found"),
    [
        (
            "globalThis.leak = 1; delete globalThis.URL; console.log = null; process.env.LEAK = '1'; delete process.env.TOKEN; process.chdir('/')",
            "[typeof leak, typeof URL, process.env.LEAK ?? null, process.env.TOKEN, process.cwd() === process.env.TMPDIR]",
            ["undefined", "function", None, "tok-123456", True],
        ),
        (
            "process.exitCode = 3; Error.stackTraceLimit = 0",
            "[process.exitCode ?? null, Error.stackTraceLimit]",
            [None, 50],
        ),
        (
            "globalThis.FormData = 1; delete globalThis.Response; new Headers()",
            "[typeof FormData, new Response('x').status]",
            ["function", 200],
        ),
    ],
    ids=["globals and environment", "exit code and length of stacks", "globals that are loaded at the first access"],
)
async def test_step_does_not_affect_the_next_step(bench: Bench, changes: str, look: str, found: JSON) -> None:
    """Changes of a step to its process do not reach the next step."""
    await bench.run("node", component(changes), name="first")

    value = await bench.value("node", component(f"console.log('listener'); return {look}"), name="second")

    assert value == found
    assert bench.printed() == "listener\n"


async def test_form_of_stacks_of_a_step_does_not_reach_the_next_step(bench: Bench) -> None:
    """A step that replaces the form of stacks does not take the lines from the errors of the next step."""
    await bench.run("node", component("Error.prepareStackTrace = (_, frames) => frames"), name="first")

    error = await bench.fail("node", component("throw new Error('no')"), name="second")

    assert error.line is not None
    assert "<step second>" in str(error.stack)


@pytest.mark.parametrize("event", ["unhandledRejection", "uncaughtException"])
async def test_listeners_of_a_step_do_not_get_errors_of_the_next_step(bench: Bench, event: str) -> None:
    """A listener that a step adds to its process, or removes from it, is not that of the next step."""
    throws = (
        "setTimeout(() => { throw new Error('late') })"
        if event == "uncaughtException"
        else "Promise.reject(new Error('late'))"
    )
    listens = (
        f"process.on('{event}', (error) => console.log('seen', error.message)); {throws}; await new Promise(() => {{}})"
    )

    for name in ("first", "second"):
        outcome = await bench.run("node", component(listens), name=name)
        assert outcome.error is not None
        assert (outcome.error.message, bench.printed()) == ("late", "seen late\n")
    await bench.run("node", component(f"process.removeAllListeners('{event}')"), name="third")
    outcome = await bench.run("node", component(f"{throws}; await new Promise(() => {{}})"), name="fourth")

    assert outcome.error is not None
    assert (outcome.error.message, bench.printed()) == ("late", "")


async def test_line_of_a_syntax_error_with_options_of_node(open_run: OpenRun) -> None:
    """A variable `NODE_OPTIONS` of the workflow does not hide the line of a syntax error."""
    bench = await open_run(variables={"NODE_OPTIONS": "--no-such-option"})

    error = await bench.fail("node", "export default {\n  run() {\n    const = 1;\n  },\n};\n")

    assert (error.name, error.line) == ("SyntaxError", 3)


async def test_worker_loads_no_expensive_module_before_a_step_needs_it(open_run: OpenRun) -> None:
    """The start of a worker does not load the HTTP client, TLS, the debugger or web streams, which take up to 60 ms of CPU."""
    bench = await open_run()
    loaded = component(
        "return process.moduleLoadList.filter((name) => /^NativeModule (.*undici|tls|http|https|inspector|crypto|.*webstreams.*)$/.test(name))"
    )

    outcome = await bench.run("node", loaded)

    assert outcome.exports["$return_value"] == []


async def test_each_step_has_its_own_lazy_steps_object(bench: Bench) -> None:
    """`steps` can be printed, spread, stringified and changed; changes do not reach the next step."""
    first = await bench.run(
        "node",
        component(
            "console.log(steps); steps.trigger.event.n = 0; steps.other = 1;\n"
            "return [JSON.parse(JSON.stringify({ ...steps })), Object.keys(steps)]"
        ),
        name="first",
    )
    second = await bench.run("node", component("return steps.trigger.event.n"), name="second")
    third = await bench.run("node", component("steps.trigger = 5; return steps.trigger"), name="third")

    assert third.exports["$return_value"] == 5
    assert first.exports["$return_value"] == [
        {"trigger": {"event": {"n": 0, "name": "Ada"}, "context": {"id": "ctx1"}}, "other": 1},
        ["trigger", "other"],
    ]
    assert second.exports["$return_value"] == 7


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("helper.mjs", "export const x = {}", "import {{ x }} from './{}';\nexport default {{ run() {{ return x }} }}"),
        (
            "helper.cjs",
            "exports.x = {}",
            "const {{ x }} = require('./{}');\nmodule.exports = {{ run() {{ return x }} }}",
        ),
        ("x.json", '{{"x": {}}}', "export default {{ async run() {{ return (await import('./{}')).default.x }} }}"),
    ],
)
async def test_edited_file_of_the_project_is_reloaded_in_the_next_run(
    open_run: OpenRun, tmp_path: Path, name: str, text: str, source: str
) -> None:
    """A relative import or `require` is loaded again in each run."""
    source = source.format(name)
    values = []

    for value in (1, 2):
        bench = await open_run()
        tmp_path.joinpath("project", name).write_text(text.format(value))
        values.append((await bench.run("node", source)).exports["$return_value"])
        await bench.workers.release()

    assert values == [1, 2]


async def test_describe_lists_the_declared_apps(bench: Bench) -> None:
    """The description has app props and the types of other props, without running the step."""
    source = component(
        "throw new Error('ran')",
        extra="props: { slack: { type: 'app', app: 'slack' }, channel: { type: 'string' }, n: { type: 'integer', optional: true }, any: 'any' },",
    )

    description = await bench.workers.describe(Step("work", "node", source))

    assert description.apps == (AppBinding("slack", "slack"),)
    assert [(prop.name, prop.type, prop.optional) for prop in description.props] == [
        ("channel", "string", False),
        ("n", "integer", True),
        ("any", "any", False),
    ]


async def test_describe_of_broken_code_has_the_error_of_the_step(bench: Bench) -> None:
    """An error during the evaluation of the module has the line of the cell."""
    step = Step("work", "node", "const props = 1;\nthrow new Error('at load');", line_offset=2)

    with pytest.raises(StepError, match="at load") as caught:
        await bench.workers.describe(step)

    assert caught.value.line == 4


async def test_expressions_are_full_javascript(bench: Bench) -> None:
    """`steps`, `event` and `process.env` are in scope; a failed expression does not stop the others."""
    bench.steps["a"] = {"$return_value": {"items": [1, 2]}}

    results = await bench.workers.evaluate(
        [
            "steps.a.$return_value.items.map((n) => n * event.n)",
            "`${event.name.toUpperCase()}`",
            "process.env.TOKEN",
            "process.env.PATH",
            "{ a: { b: '}}' } }",
            "undefined",
            "steps.missing.x",
            "await 1",
            "null",
        ],
        bench.steps,
    )

    assert results[:6] == [
        {"value": [7, 14]},
        {"value": "ADA"},
        {"value": "tok-123456"},
        {"undefined": True},
        {"value": {"a": {"b": "}}"}}},
        {"undefined": True},
    ]
    assert results[6]["error"]["name"] == "TypeError"
    assert results[7]["error"]["name"] == "SyntaxError"
    assert results[8] == {"value": None}


async def test_expression_does_not_change_the_variables_of_others(bench: Bench) -> None:
    """`process.env` of expressions is a copy of the workflow's variables."""
    await bench.workers.evaluate(["(process.env.TOKEN = 'changed')"], {})

    assert await bench.workers.evaluate(["process.env.TOKEN + ''"], {}) == [{"value": "tok-123456"}]


async def test_describe_and_evaluate_have_time_limits(bench: Bench) -> None:
    """Describing a step and evaluating an expression have time limits."""
    with pytest.raises(StepTimeoutError, match=r"longer than 0\.3 seconds"):
        await bench.workers.describe(Step("work", "node", "const props = 1;\nfor (;;);"), timeout_s=0.3)

    with pytest.raises(StepTimeoutError, match=r"longer than 0\.3 seconds"):
        await bench.workers.evaluate(["(() => { for (;;); })()"], {}, timeout_s=0.3)

    assert await bench.workers.evaluate(["1 + 1"], {}) == [{"value": 2}]


async def test_describe_sees_props_from_another_file(open_run: OpenRun, tmp_path: Path) -> None:
    """A component may spread props from a file of the project."""
    bench = await open_run()
    folder = tmp_path / "project"
    folder.joinpath("base.mjs").write_text("export default { props: { slack: { type: 'app', app: 'slack' } } }")
    source = "import base from './base.mjs';\nexport default { ...base, run() {} }"

    description = await bench.workers.describe(Step("work", "node", source))

    assert description.apps == (AppBinding("slack", "slack"),)
