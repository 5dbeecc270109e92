"""Node.js steps."""

from __future__ import annotations

import json
from pathlib import Path

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
    "source",
    [
        "export default defineComponent({ async run({ steps, $ }) { return steps.trigger.event.n } })",
        "export default { run({ steps }) { return steps.trigger.event.n } }",
        "export default ({ steps }) => steps.trigger.event.n",
        "module.exports = defineComponent({ run({ steps }) { return steps.trigger.event.n } })",
        "const os = require('os');\nmodule.exports = { async run({ steps }) { return steps.trigger.event.n } }",
        "const c = { run({ steps }) { return steps.trigger.event.n } };\nexport { c as default }",
    ],
)
async def test_forms_of_a_component(bench: Bench, source: str) -> None:
    """`defineComponent`, a bare object, a function, and CommonJS are supported."""
    outcome = await bench.run("node", source)

    assert outcome.error is None
    assert outcome.exports == {"$return_value": 7}


async def test_exports_are_copied_immediately(bench: Bench) -> None:
    """`$.export` stores the value at the time of the call."""
    outcome = await bench.run(
        "node", component("const a = [1]; $.export('a', a); a.push(2); $.export('$summary', 'done')")
    )

    assert outcome.exports == {"a": [1], "$summary": "done"}


async def test_null_is_exported_and_undefined_is_not(bench: Bench) -> None:
    """`return null` exports null."""
    null = await bench.run("node", component("return null"))
    nothing = await bench.run("node", component("return"))

    assert null.exports == {"$return_value": None}
    assert nothing.exports == {}


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


async def test_missing_package_is_named(bench: Bench) -> None:
    """The error has the package, the line and a fix."""
    outcome = await bench.run(
        "node", "// one\nimport x from '@scope/pkg/sub';\nexport default { run() {} }", line_offset=1
    )

    assert outcome.error is not None
    assert outcome.error.message == "The package '@scope/pkg' is not installed."
    assert "literal name" in outcome.error.fix
    assert outcome.error.line == 3


async def test_this_has_methods_props_and_apps(bench: Bench) -> None:
    """Methods are bound, defaults apply, and the `$auth` of an app is available by prop name or slug."""
    source = component(
        "const { shout } = this; return [shout('a'), this.given, this.absent, this.api.$auth.key, Object.keys(this.api.$auth)]",
        extra="props: { api: { type: 'app', app: 'my_api' }, given: { type: 'string', default: 'no' }, absent: { type: 'integer', default: 5 } }, "
        "methods: { shout(text) { return text + '!' + this.given } },",
    )

    outcome = await bench.run("node", source, props={"given": "yes"}, credentials={"my_api": {"key": "k1"}})

    assert outcome.error is None
    assert outcome.exports["$return_value"] == ["a!yes", "yes", 5, "k1", ["key"]]


async def test_printed_or_returned_app_has_no_credential(bench: Bench) -> None:
    """`$auth` is not enumerable."""
    source = component(
        "console.log(this, this.slack, JSON.stringify(this)); return this.slack",
        extra="props: { slack: { type: 'app', app: 'slack' } },",
    )

    outcome = await bench.run("node", source, credentials={"slack": {"oauth_access_token": "xoxb-very-secret"}})

    assert outcome.exports == {"$return_value": {}}
    assert "xoxb" not in bench.printed()


async def test_app_file_provides_its_methods(bench: Bench) -> None:
    """Methods of an app prop's definition see its `$auth`."""
    source = (
        "const app = { type: 'app', app: 'a', methods: { token() { return this.$auth.t } } };\n"
        "export default { props: { app }, run() { return this.app.token() } }"
    )

    outcome = await bench.run("node", source, credentials={"app": {"t": "T"}})

    assert outcome.exports["$return_value"] == "T"


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


@pytest.mark.parametrize(
    ("thrown", "message"),
    [
        ("'just text'", "just text"),
        ("Object.assign(new Error('no stack'), { stack: null })", "no stack"),
        ("{ code: 5 }", '{"code":5}'),
        ("null", "null"),
        ("undefined", "undefined"),
    ],
)
async def test_thrown_value_of_any_type_is_reported(bench: Bench, thrown: str, message: str) -> None:
    """A thrown value may be another type than Error."""
    outcome = await bench.run("node", component(f"throw {thrown}"))

    assert outcome.error is not None
    assert outcome.error.message == message


async def test_line_of_the_cause_is_the_line_of_the_error(bench: Bench) -> None:
    """An error without a frame of the cell has the line of its cause."""
    outcome = await bench.run(
        "node",
        component(
            "const cause = new TypeError('inner');\nthrow Object.assign(new Error('outer', { cause }), { stack: 'Error: outer' })"
        ),
    )

    assert outcome.error is not None
    assert (outcome.error.message, outcome.error.line) == ("outer", 2)


async def test_configuration_error_is_recognized_by_its_name(bench: Bench) -> None:
    """Several copies of the platform's package exist, so only the name identifies the error."""
    outcome = await bench.run(
        "node", component("const e = new Error('Pick a channel'); e.name = 'ConfigurationError'; throw e")
    )

    assert outcome.error is not None
    assert outcome.error.name == "ConfigurationError"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("export default {\n  run() {\n    let = ;\n  }\n}\n", 6),
        ("const x = require('os');\nmodule.exports = { run() {\n  return (;\n} }\n", 6),
    ],
)
async def test_syntax_error_has_line_and_caret(bench: Bench, source: str, line: int) -> None:
    """A syntax error is reported at the line of the cell."""
    outcome = await bench.run("node", source, line_offset=3)

    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.line) == ("SyntaxError", line)
    assert "^" in str(outcome.error.stack)


async def test_syntax_error_of_json_parse_has_the_line_of_the_call(bench: Bench) -> None:
    """A SyntaxError that running code throws has the line of that code."""
    outcome = await bench.run("node", component("\nJSON.parse('{')"))

    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.line) == ("SyntaxError", 3)


@pytest.mark.parametrize(
    "source", ["const x = 1;", "export const a = 1;", "", "export default 5", "export default { props: {} }"]
)
async def test_missing_default_export_is_an_entry_point_error(bench: Bench, source: str) -> None:
    """The error of a cell without a default export that can run has an example."""
    outcome = await bench.run("node", source)

    assert outcome.error is not None
    assert outcome.error.code == "entry_point"
    assert "export default defineComponent" in outcome.error.fix


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{ a: [0, { big: 10n }] }", "$return_value.a[1].big is a BigInt"),
        (
            "(() => { const o = { a: {} }; o.a['odd key'] = o; return o })()",
            '$return_value.a["odd key"] contains itself',
        ),
        ("new (class Reply { constructor() { this.self = this } })()", "$return_value.self contains itself"),
        (
            "({ a: new (class { constructor() { this.self = this } })(), b: { big: 1n } })",
            "$return_value.b.big is a BigInt",
        ),
    ],
)
async def test_error_of_a_value_that_is_not_json_has_its_path(bench: Bench, expression: str, message: str) -> None:
    """The path inside the value is in the message, and earlier exports are kept."""
    outcome = await bench.run("node", component(f"$.export('kept', 1); return {expression}"))

    assert outcome.error is not None
    assert outcome.error.code == "export_not_json"
    assert message in outcome.error.message
    assert outcome.exports == {"kept": 1}


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


async def test_instance_that_keeps_its_content_elsewhere_is_a_warning(bench: Bench) -> None:
    """A response of `fetch` has no properties of its own: its content is not exported."""
    outcome = await bench.run("node", component("return { answer: new Response('text'), empty: {} }"))

    assert outcome.exports["$return_value"] == {"answer": {}, "empty": {}}
    assert outcome.warnings == ("$return_value.answer is a Response, so it is exported without its content.",)


async def test_value_with_its_own_json_is_exported_without_a_warning(bench: Bench) -> None:
    """Dates, URLs and other objects with `toJSON` are exported as that, whatever they hold."""
    outcome = await bench.run(
        "node",
        component(
            "const own = { a: 1n, toJSON() { return 'own' } }; own.self = own; return [new Date(0), new URL('https://a.test/'), own]"
        ),
    )

    assert outcome.exports["$return_value"] == ["1970-01-01T00:00:00.000Z", "https://a.test/", "own"]
    assert outcome.warnings == ()


async def test_value_that_stringify_drops_is_a_warning(bench: Bench) -> None:
    """Functions, NaN and Maps are exported as JSON.stringify does, and a warning has the path."""
    outcome = await bench.run(
        "node", component("const o = {}; return { f() {}, n: [NaN], m: new Map(), u: undefined, again: [o, o] }")
    )

    assert outcome.exports["$return_value"] == {"n": [None], "m": {}, "again": [{}, {}]}
    assert outcome.warnings == (
        "$return_value.f is a function, so it is not exported.",
        "$return_value.n[0] is NaN, which JSON does not support, so it is exported as null.",
        "$return_value.m is a Map, so it is exported without its content.",
    )


async def test_flow_exit_with_and_without_return(bench: Bench) -> None:
    """`$.flow.exit` ends the run; without return the rest of the step still runs."""
    returned = await bench.run("node", component("return $.flow.exit('enough'); $.export('late', 1)"))
    bare = await bench.run("node", component("$.flow.exit(); $.export('late', 1)"))

    assert (returned.has_exited, returned.exit_reason, returned.exports) == (True, "enough", {})
    assert (bare.has_exited, bare.exit_reason, bare.exports) == (True, None, {"late": 1})


@pytest.mark.parametrize(
    ("body", "expected"),
    [("'text'", "text"), ("{ a: 1 }", {"a": 1}), ("Buffer.from('hi')", {"$base64": "aGk="}), ("undefined", None)],
)
async def test_bodies_of_a_response(bench: Bench, body: str, expected: object) -> None:
    """The body of a response is a text, an object or bytes."""
    outcome = await bench.run(
        "node", component(f"await $.respond({{ status: 200, headers: {{ 'x-n': 1 }}, body: {body} }})")
    )

    assert outcome.response == {"status": 200, "headers": {"x-n": "1"}, "body": expected}


async def test_header_of_a_response_is_a_text_or_a_list_of_texts(bench: Bench) -> None:
    """A number or boolean in a header becomes text, also in a list."""
    outcome = await bench.run(
        "node", component("await $.respond({ status: 200, headers: { a: true, b: [1, false, 'c'], d: [] } })")
    )

    assert outcome.response == {
        "status": 200,
        "headers": {"a": "true", "b": ["1", "false", "c"], "d": []},
        "body": None,
    }


async def test_response_may_be_immediate_or_a_stream(bench: Bench) -> None:
    """An immediate response is marked; a stream is read to its end."""
    immediate = await bench.run("node", component("await $.respond({ status: 202, immediate: true })"))
    source = "import { Readable } from 'stream';\nexport default { async run({ $ }) { await $.respond({ status: 200, body: Readable.from(BODY) }) } }"
    stream = await bench.run("node", source.replace("BODY", "['a', 'b']"))
    mixed = await bench.run("node", source.replace("BODY", "[Buffer.from('a'), 'b']"))

    assert immediate.response == {"status": 202, "headers": {}, "body": None, "immediate": True}
    assert stream.response is not None
    assert stream.response["body"] == "ab"
    assert mixed.response is not None
    assert mixed.response["body"] == {"$base64": "YWI="}


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


@pytest.mark.parametrize(
    "call",
    [
        "$.flow.refreshTimeout()",
        "$.files.open('x')",
    ],
)
async def test_unsupported_feature_is_an_error(bench: Bench, call: str) -> None:
    """Unsupported features of the platform are clear errors."""
    outcome = await bench.run("node", component(call))

    assert outcome.error is not None
    assert outcome.error.code == "unsupported"
    assert "is not supported by this version" in outcome.error.message
    assert outcome.error.line == 2


async def test_context_is_a_plain_object(bench: Bench) -> None:
    """`$.context` has the trigger's context and more, and is writable."""
    outcome = await bench.run("node", component("$.context.mine = 1; return $.context"), context={"deadline": 5})

    assert outcome.exports["$return_value"] == {"id": "ctx1", "deadline": 5, "mine": 1}


async def test_unhandled_rejection_fails_the_running_step(bench: Bench) -> None:
    """A promise that fails without `await` fails the step."""
    outcome = await bench.run(
        "node", component("Promise.reject(new Error('forgotten'));\nawait new Promise((r) => setTimeout(r, 5000))")
    )

    assert outcome.error is not None
    assert (outcome.error.message, outcome.error.line) == ("forgotten", 2)


async def test_throw_in_a_callback_fails_the_running_step(bench: Bench) -> None:
    """An exception outside of promises fails the step too."""
    outcome = await bench.run(
        "node",
        component("setTimeout(() => { throw new Error('thrown') }, 1);\nawait new Promise((r) => setTimeout(r, 5000))"),
    )

    assert outcome.error is not None
    assert outcome.error.message == "thrown"


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


async def test_code_of_an_earlier_step_has_no_effect_on_the_running_step(bench: Bench) -> None:
    """Exports, responses and calls of a step that has ended are not those of the step that runs."""
    first = component(
        "const poll = setInterval(() => {\n"
        "  if (!globalThis.isSecond) return;\n"
        "  clearInterval(poll); $.export('late', 1); $.respond({ status: 500 }); $.flow.exit('late'); $.send.emit(1);\n"
        "  $.flow.trigger('p_1').catch((error) => { globalThis.refused = error.message; globalThis.isSecond = false });\n"
        "}, 1).unref()"
    )
    second = component(
        "globalThis.isSecond = true; while (globalThis.isSecond) await new Promise((r) => setTimeout(r, 1)); return globalThis.refused"
    )

    await bench.run("node", first, name="first")
    outcome = await bench.run("node", second, name="second")

    assert outcome.error is None
    assert outcome.exports == {"$return_value": "The step has ended, so it cannot call flow.trigger."}
    assert (outcome.response, outcome.has_exited, outcome.queued_sends, outcome.warnings) == (None, False, (), ())


async def test_failure_of_an_earlier_step_does_not_fail_the_running_step(bench: Bench) -> None:
    """Code that a step left running fails while another step runs: the other step has a warning."""
    first = component(
        "const poll = setInterval(() => {\n"
        "  if (!globalThis.isSecond) return;\n"
        "  clearInterval(poll); globalThis.isSecond = false; throw new Error('too late')\n"
        "}, 1).unref()"
    )
    second = component(
        "globalThis.isSecond = true; while (globalThis.isSecond) await new Promise((r) => setTimeout(r, 1)); return 1"
    )

    await bench.run("node", first, name="first")
    outcome = await bench.run("node", second, name="second")

    assert (outcome.error, outcome.exports) == (None, {"$return_value": 1})
    assert outcome.warnings == ("A step failed after it had ended: too late",)


async def test_running_code_is_stopped_and_reported(bench: Bench) -> None:
    """Output of code that a step left running is not in the logs of the next step."""
    first = await bench.run("node", component("setInterval(() => console.log('late'), 1)"), name="first")
    second = await bench.run("node", component("await new Promise((r) => setTimeout(r, 60)); return 1"), name="second")

    assert "still running" in first.warnings[0]
    assert second.exports == {"$return_value": 1}
    assert bench.recorder.logs == ()
    assert second.warnings == ()


async def test_step_does_not_affect_the_next_step(bench: Bench) -> None:
    """Changes of a step to globals, console, environment and working folder do not reach the next step."""
    await bench.run(
        "node",
        component(
            "globalThis.leak = 1; delete globalThis.URL; console.log = null; process.env.LEAK = '1'; delete process.env.TOKEN; process.chdir('/')"
        ),
        name="first",
    )

    outcome = await bench.run(
        "node",
        component(
            "console.log('listener'); return [typeof leak, typeof URL, process.env.LEAK ?? null, process.env.TOKEN, process.cwd() === process.env.TMPDIR]"
        ),
        name="second",
    )

    assert outcome.error is None
    assert outcome.exports["$return_value"] == ["undefined", "function", None, "tok-123456", True]
    assert bench.printed() == "listener\n"


async def test_form_of_stacks_of_a_step_does_not_reach_the_next_step(bench: Bench) -> None:
    """A step that replaces the form of stacks does not take the lines from the errors of the next step."""
    await bench.run("node", component("Error.prepareStackTrace = (_, frames) => frames"), name="first")

    outcome = await bench.run("node", component("throw new Error('no')"), name="second")

    assert outcome.error is not None
    assert outcome.error.line is not None
    assert "<step second>" in str(outcome.error.stack)


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


async def test_failed_fetch_has_its_reason(bench: Bench) -> None:
    """The message of a failed `fetch` has the reason, which Node.js has in the error's cause only."""
    outcome = await bench.run(
        "node", component("await fetch('http://127.0.0.1:1/')")
    )  # a port that `fetch` never calls

    assert outcome.error is not None
    assert outcome.error.message == "fetch failed: bad port"
    assert "Caused by: Error: bad port" in str(outcome.error.stack)


async def test_line_of_a_syntax_error_with_options_of_node(open_run: OpenRun) -> None:
    """A variable `NODE_OPTIONS` of the workflow does not hide the line of a syntax error."""
    bench = await open_run(variables={"NODE_OPTIONS": "--no-such-option"})

    outcome = await bench.run("node", "export default {\n  run() {\n    const = 1;\n  },\n};\n")

    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.line) == ("SyntaxError", 3)


async def test_exit_code_and_stack_limit_of_a_step_do_not_reach_the_next_step(bench: Bench) -> None:
    """A step that sets the exit code of its process, or shortens stacks, changes neither for the next step."""
    setting = "return [process.exitCode ?? null, Error.stackTraceLimit]"
    await bench.run("node", component("process.exitCode = 3; Error.stackTraceLimit = 0"), name="first")

    outcome = await bench.run("node", component(setting), name="second")

    assert outcome.exports["$return_value"] == [None, 50]


async def test_lazy_globals_of_a_step_do_not_reach_the_next_step(bench: Bench) -> None:
    """A step that replaces or deletes a global that Node.js loads at the first access does not affect the next step."""
    await bench.run(
        "node", component("globalThis.FormData = 1; delete globalThis.Response; new Headers()"), name="first"
    )

    outcome = await bench.run("node", component("return [typeof FormData, new Response('x').status]"), name="second")

    assert outcome.exports["$return_value"] == ["function", 200]


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
