"""Go steps, and the errors that Go reports."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.errors import ExportNotJSONError, PackageInstallError, ProjectError, StepError
from pdkernel.execution import Log
from pdkernel.language.analysis.go_code import HELPER_IMPORT_PATH
from pdkernel.model import JSON, Step
from pdkernel.packages import ProgressUpdate
from pdkernel.workers import GoBuildCache, RunSetup, StepCompileError, WorkerPool
from pdkernel.workers import go_build as go_module
from pdkernel.workers.go_build import parse_compile_error, parse_module_error, parse_panic
from pdkernel.workers.zygote import ZYGOTES
from tests.workers.conftest import Bench, OpenRun


def program(body: str, *packages: str) -> str:
    """A program whose `main` is *body*; its first line is line 4."""
    imports = "".join(f'"{package}"; ' for package in packages)
    return f'package main\nimport ({imports}pd "github.com/PipedreamHQ/pipedream-go")\nfunc main() {{\n{body}\n}}\nvar _ = pd.Steps\n'


async def test_helper_module(bench: Bench) -> None:
    """Steps are a map, `Unmarshal` fills a struct, `Export` accepts any JSON."""
    bench.steps["build"] = {"$return_value": {"text": "hi"}}

    outcome = await bench.run(
        "go",
        program("""
            var typed struct{ Trigger struct{ Event struct{ N int; Name string } } }
            if err := pd.Unmarshal(&typed); err != nil { panic(err) }
            build := pd.Steps["build"].(map[string]interface{})["$return_value"].(map[string]interface{})
            pd.Export("text", build["text"])
            pd.Export("list", []interface{}{typed.Trigger.Event.N, typed.Trigger.Event.Name, nil, map[string]int{"a": 1}})
        """),
    )

    assert outcome.error is None
    assert outcome.exports == {"text": "hi", "list": [7, "Ada", None, {"a": 1}]}


async def test_step_without_the_helper_module(bench: Bench) -> None:
    """A step may use the platform's files directly, and its output is in the logs."""
    outcome = await bench.run(
        "go",
        'package main\nimport ("fmt"; "os")\nfunc main() {\n'
        'f, _ := os.OpenFile(os.Getenv("PIPEDREAM_EXPORTS"), os.O_APPEND|os.O_WRONLY, 0644)\n'
        'fmt.Fprintln(f, "text=plain"); fmt.Println(os.Getenv("TOKEN")) }\n',
    )

    assert outcome.exports == {"text": "plain"}
    assert bench.printed() == "tok-123456\n"


async def test_steps_with_users_of_their_own_execute_programs(go_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that root starts gives each slot a user, who may execute the programs of a project that others may enter."""
    monkeypatch.delenv(STEP_PATHS_VARIABLE, raising=False)
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/var/tmp") as base:
        Path(base).chmod(0o755)
        folder = Path(base, "go")
        folder.mkdir()
        (folder / "build").symlink_to(go_cache / "build")
        pool = WorkerPool(go_cache=GoBuildCache(folder, lock=folder / "go.mod"))
        run = Bench(await pool.open_run(RunSetup("run", "demo", {"event": {}, "context": {}}, {}, Path(base))))

        outcome = await run.run("go", program('pd.Export("user", os.Getuid())', "os"))

        await pool.close()
    assert outcome.error is None
    assert (outcome.exports["user"] == os.geteuid()) == (ZYGOTES.isolation().first_uid is None)


async def test_exports_of_many_goroutines_are_complete(bench: Bench) -> None:
    """No export is lost or truncated by another."""
    outcome = await bench.run(
        "go",
        program(
            'var all sync.WaitGroup\nfor i := 0; i < 200; i++ { i := i; all.Add(1); go func() { defer all.Done(); pd.Export(fmt.Sprint("e", i), strings.Repeat("x", 9999)) }() }\nall.Wait()',
            "fmt",
            "strings",
            "sync",
        ),
    )

    assert len(outcome.exports) == 200
    assert set(outcome.exports.values()) == {"x" * 9999}


async def test_exit_status_is_a_warning(bench: Bench) -> None:
    """`os.Exit(2)` ends the step, and the workflow goes on, also after output that only looks like a panic of the Go runtime."""
    outcome = await bench.run("go", program('pd.Export("a", 1); println("panic: no"); os.Exit(2)', "os"))

    assert (outcome.error, outcome.exports, outcome.warnings) == (None, {"a": 1}, ("exit status 2",))


async def test_panic_is_an_error_at_the_line_of_the_cell(bench: Bench) -> None:
    """The error has the message, the line and the frames of the user's code; earlier exports are kept."""
    outcome = await bench.run("go", program('pd.Export("a", 1)\nvar list []int\nlist[5] = 1'), line_offset=3)

    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.line) == ("panic", 9)
    assert outcome.error.message == "runtime error: index out of range [5] with length 0"
    assert outcome.error.stack == "main.main()\n\twork.go:9"
    assert outcome.exports == {"a": 1}


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        ('panic(errors.New("no luck"))', "panic", "no luck"),
        ('panic(fmt.Sprintf("two\\nlines"))', "panic", "two\n\tlines"),
        ("var p *int; *p = 1", "panic", "runtime error: invalid memory address or nil pointer dereference"),
        ("select {}", "fatal error", "all goroutines are asleep - deadlock!"),
        ('for i := 0; i < 2000; i++ { println(strings.Repeat("x", 99)) }; panic("at last")', "panic", "at last"),
    ],
)
async def test_kinds_of_panics(bench: Bench, body: str, name: str, message: str) -> None:
    """Errors, texts, signals and deadlocks keep their messages, also after much output."""
    used = f"_, _, _ = fmt.Sprint, errors.New, strings.Repeat\n{body}"

    error = await bench.fail("go", program(used, "errors", "fmt", "strings"))

    assert (error.name, error.message, error.line) == (name, message, 5)


async def test_compile_error_has_the_line_of_the_cell(bench: Bench) -> None:
    """The error has all messages of the compiler, and the line of the first message."""
    outcome = await bench.run("go", program("one()\ntwo()"), line_offset=2)

    assert isinstance(outcome.error, StepCompileError)
    assert outcome.error.line == 6
    assert outcome.error.message == "work.go:6:1: undefined: one\nwork.go:7:1: undefined: two"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("package main\nfunc main() {\n\tx :=\n}\n", 4),
        ('package main\nimport "no/such"\nfunc main() {}\n', 2),
    ],
)
async def test_syntax_error_and_unknown_package_are_compile_errors(bench: Bench, source: str, line: int) -> None:
    """A syntax error and an unknown package of the standard library are compile errors."""
    outcome = await bench.run("go", source)

    assert isinstance(outcome.error, StepCompileError)
    assert outcome.error.line == line


@pytest.mark.parametrize("value", ["math.NaN()", "math.Inf(1)", "func() {}", "make(chan int)"])
async def test_export_that_is_not_json_is_an_error(bench: Bench, value: str) -> None:
    """NaN, infinity, functions and channels are refused at the export."""
    error = await bench.fail("go", program(f'_ = math.Pi\npd.Export("bad", {value})', "math"))

    assert (error.code, error.line) == ("export_not_json", 5)
    assert error.message.startswith('pd.Export("bad"): json: unsupported')


@pytest.mark.parametrize("name", ["", "a=b", "a\\nb", "a\\rb"])
async def test_export_needs_a_name(bench: Bench, name: str) -> None:
    """A name that would end the name or the line in the file of exports is refused at the export."""
    outcome = await bench.run("go", program(f'pd.Export("kept", 1)\npd.Export("{name}", 1)'))

    assert outcome.error is not None
    assert outcome.error.line == 5
    assert "the name must not be empty and must not contain = or a line break" in outcome.error.message
    assert outcome.exports == {"kept": 1}


async def test_numbers(open_run: OpenRun) -> None:
    """`pd.Steps` has float64, so a large integer loses digits there; as int64 the integer is exact. -0 stays."""
    bench = await open_run(event={"n": 2**53 + 1})

    outcome = await bench.run(
        "go",
        program("""
            var typed struct{ Trigger struct{ Event struct{ N int64 } } }
            pd.MustUnmarshal(&typed)
            pd.Export("typed", typed.Trigger.Event.N)
            pd.Export("loose", pd.Steps["trigger"].(map[string]interface{})["event"].(map[string]interface{})["n"])
            pd.Export("zero", math.Copysign(0, -1))
        """, "math"),
    )  # fmt: skip

    assert outcome.exports["typed"] == 2**53 + 1
    assert outcome.exports["loose"] == 2**53
    assert str(outcome.exports["zero"]) == "-0.0"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def doubles(value: JSON) -> JSON:
    """*value* with every number as a double: 6.6e16 and 66000000000000000 are equal."""
    if isinstance(value, list):
        return [doubles(item) for item in value]
    if isinstance(value, dict):
        return {key: doubles(item) for key, item in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@settings(max_examples=settings().max_examples // 4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(JSON_VALUES, min_size=10, max_size=30))
async def test_values_are_unchanged(bench: Bench, values: list[JSON]) -> None:
    """Any JSON value is returned equal, with numbers as doubles."""
    bench.steps["above"] = {"values": values}

    outcome = await bench.run("go", program('pd.Export("values", pd.Steps["above"].(map[string]any)["values"])'))

    assert outcome.error is None
    assert doubles(outcome.exports["values"]) == doubles(values)


async def test_lone_surrogate_becomes_the_replacement_character(open_run: OpenRun) -> None:
    """Go's strings are UTF-8."""
    bench = await open_run(event={"text": "a\ud800b"})

    outcome = await bench.run(
        "go", program('pd.Export("text", pd.Steps["trigger"].(map[string]any)["event"].(map[string]any)["text"])')
    )

    assert outcome.exports == {"text": "a\ufffdb"}


async def test_default_client_on_macos_trusts_the_certificate_of_the_project(
    go_programs: GoBuildCache, tmp_path: Path
) -> None:
    """In the build for macOS, the default transport reads the certificate from PD_CA."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = HTTPServer(("localhost", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://localhost:{server.server_port}/"
    source = program(f'_, err := http.Get("{url}"); println(err == nil)', "net/http").replace(
        "import (", f'import (_ "{HELPER_IMPORT_PATH}/rootca"; '
    )
    built = await go_programs.build_program(Step("work", "go", source), install=False, report_progress=lambda _: None)

    succeeded = {
        name: subprocess.run([built], env=environment, capture_output=True, text=True, check=True).stderr
        for name, environment in {"with": {"PD_CA": str(tmp_path / "ca.pem")}, "without": {}}.items()
    }
    server.shutdown()
    server.server_close()

    assert succeeded == {"with": "true\n", "without": "false\n"}


async def test_accounts(bench: Bench) -> None:
    """A step with an app has the fields of the account; without an app there are no accounts."""
    source = program('pd.Export("token", pd.Accounts["slack"]["oauth_access_token"])')

    without = await bench.run("go", source)
    outcome = await bench.run("go", source, credentials={"slack": {"oauth_access_token": "xoxb-1"}})

    assert (without.exports, outcome.exports) == ({"token": ""}, {"token": "xoxb-1"})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('"hello"', "hello"),
        ("[]byte{251, 255}", {"$base64": "+/8="}),
        ('map[string]int{"a": 1}', {"a": 1}),
        ("nil", None),
    ],
)
async def test_response(bench: Bench, body: str, expected: object) -> None:
    """The response has a status, headers and a body of any kind; the first response wins."""
    outcome = await bench.run(
        "go", program(f'pd.Respond(201, map[string]string{{"x-a": "b"}}, {body}); pd.Respond(500, nil, nil)')
    )

    assert outcome.response == {"status": 201, "headers": {"x-a": "b"}, "body": expected}
    assert outcome.warnings == ("The step responded more than once; the first response was sent.",)


def lasting(reported: list[str]) -> list[str]:
    """The reported lines without updates, which come each second."""
    return [line for line in reported if not isinstance(line, ProgressUpdate)]


async def test_compilation_is_reported_and_cached(open_run: OpenRun, tmp_path: Path, go_cache: Path) -> None:
    """A note reports the compilation; another run starts the cached program without a note."""
    source = program(f'pd.Export("n", {time.time_ns()})')
    first, second = await open_run(), await open_run()

    await first.run("go", source)
    reported = first.recorder.logs
    await second.run("go", source)

    assert reported == (Log("stderr", "[pdkernel] compiling work.go\n"),)
    assert second.recorder.logs == ()


@pytest.mark.parametrize(("caches", "compiled"), [(4, 4), (1, 1)], ids=["processes", "runs"])
async def test_same_step_may_be_built_concurrently(go_cache: Path, caches: int, compiled: int) -> None:
    """Each of several builders of one cache gets the complete program, and one builder compiles for all of its runs once."""
    step = Step("work", "go", program(f'println("{time.time_ns()}")'))
    builders = [GoBuildCache(go_cache, lock=go_cache / "go.mod") for _ in range(caches)]
    reported: list[str] = []

    built = await asyncio.gather(
        *(
            builders[number % caches].build_program(step, install=False, report_progress=reported.append)
            for number in range(4)
        )
    )

    assert lasting(reported) == ["compiling work.go"] * compiled
    assert len(set(built)) == 1
    assert os.access(built[0], os.X_OK)
    assert not list(go_cache.glob("work-*"))


async def test_step_is_compiled_for_this_machine(go_cache: Path) -> None:
    """Variables of the user that name another system have no effect."""
    environ = {**os.environ, "GOOS": "plan9", "GOARCH": "386", "GOFLAGS": "-mod=vendor", "GOWORK": "/nothing"}
    programs = GoBuildCache(go_cache, lock=go_cache / "go.mod", environ=environ)
    step = Step("work", "go", program(f'println("{time.time_ns()}")'))

    built = await programs.build_program(step, install=False, report_progress=lambda _: None)

    assert subprocess.run([built], check=False, capture_output=True).returncode == 0


async def test_least_recently_used_programs_are_removed(go_programs: GoBuildCache, go_cache: Path) -> None:
    """The cache is limited, and keeps the programs that were used last, however old they are."""
    kept = Step("kept", "go", program(f'println("kept {time.time_ns()}")'))
    used = await go_programs.build_program(kept, install=False, report_progress=lambda _: None)
    os.utime(used, (0, 0))
    old = [go_cache / "programs" / f"old{number}" for number in range(go_module.MAX_CACHED_PROGRAMS)]
    go_cache.joinpath("programs").mkdir(exist_ok=True)
    for path in old:
        path.touch()
        os.utime(path, (0, 0))
    step = Step("work", "go", program(f'println("{time.time_ns()}")'))

    await go_programs.build_program(kept, install=False, report_progress=lambda _: None)
    built = await go_programs.build_program(step, install=False, report_progress=lambda _: None)

    assert built.is_file()
    assert used.is_file()
    assert len(list(built.parent.iterdir())) == go_module.MAX_CACHED_PROGRAMS
    for path in old:
        path.unlink(missing_ok=True)


@pytest.fixture
async def endless(go_cache: Path, tmp_path: Path) -> AsyncIterator[WorkerPool]:
    """A pool whose compiler writes its process id into its temporary folder and does not end by itself."""
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(
        f'#!/bin/sh\nif [ "$1" = env ]; then echo \'{{"GOROOT": "{tmp_path}", "GOVERSION": "go1.99"}}\'; exit; fi\n'
        "echo $$ > $TMPDIR/writing && mv $TMPDIR/writing $TMPDIR/compiler\nexec sleep 1000\n"
    )
    go.chmod(0o755)
    cache = GoBuildCache(go_cache, lock=go_cache / "go.mod", environ={**os.environ, "PDKERNEL_GO": str(go)})
    pool = WorkerPool(max_active_runs=1, go_cache=cache)
    yield pool
    await pool.close()


async def compiler_of(go_cache: Path) -> psutil.Process:
    """The compiler of the `endless` pool, which runs."""
    while not (found := list(go_cache.glob("work-*/tmp/compiler"))):
        await asyncio.sleep(0.01)
    return psutil.Process(int(found[0].read_text()))


@pytest.mark.parametrize("end", ["cancel", "kill"])
async def test_end_of_a_run_ends_the_compiler(open_run: OpenRun, go_cache: Path, endless: WorkerPool, end: str) -> None:
    """After the cancellation or the `kill` of a run, no compiler runs, and no file of the build is left."""
    bench = await open_run(of=endless)
    task = asyncio.create_task(bench.run("go", program(f'println("{time.time_ns()}")')))
    compiler = await compiler_of(go_cache)

    if end == "cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        bench.workers.kill()
        outcome = await task
        assert outcome.error is not None
        assert outcome.error.code == "step_died"

    assert not compiler.is_running()
    assert not list(go_cache.glob("work-*"))


async def test_unwritable_cache_is_reported(tmp_path: Path) -> None:
    """A file at the path of the cache folder is a clear error."""
    (tmp_path / "cache").touch()
    programs = GoBuildCache(tmp_path / "cache", lock=tmp_path / "go.mod")

    with pytest.raises(ProjectError, match="Step work cannot be compiled"):
        await programs.build_program(Step("work", "go", program("")), install=False, report_progress=lambda _: None)


async def test_full_disk_is_reported(tmp_path: Path) -> None:
    """A compiler that runs out of disk space is not reported as an error of the code."""
    compiler = tmp_path / "bin" / "go"
    compiler.parent.mkdir()
    compiler.write_text(
        f"""#!/bin/sh\nif [ "$1" = env ]; then echo '{{"GOROOT": "{tmp_path}", "GOVERSION": "go1.99.0"}}'; exit; fi\n"""
        'echo "# step" >&2; echo "write $WORK/b001/_pkg_.a: no space left on device" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    programs = GoBuildCache(
        tmp_path / "cache", lock=tmp_path / "go.mod", environ={"PDKERNEL_GO": str(compiler), "PATH": os.defpath}
    )

    with pytest.raises(ProjectError, match="no space left on device") as caught:
        await programs.build_program(Step("work", "go", program("")), install=False, report_progress=lambda _: None)

    assert "free disk space" in caught.value.fix


def proxy_with(folder: Path, module: str, version: str, source: str, assembly: str | None = None) -> str:
    """A module proxy in a folder, with one module of Go code and perhaps assembly; returns its GOPROXY."""
    versions = folder / module / "@v"
    versions.mkdir(parents=True, exist_ok=True)
    versions.joinpath("list").write_text("".join(f"{path.stem}\n" for path in versions.glob("*.mod")) + f"{version}\n")
    versions.joinpath(f"{version}.info").write_text(json.dumps({"Version": version, "Time": "2024-01-01T00:00:00Z"}))
    versions.joinpath(f"{version}.mod").write_text(f"module {module}\n\ngo 1.21\n")
    with zipfile.ZipFile(versions / f"{version}.zip", "w") as archive:
        archive.writestr(f"{module}@{version}/go.mod", f"module {module}\n\ngo 1.21\n")
        archive.writestr(f"{module}@{version}/words.go", source)
        if assembly is not None:
            archive.writestr(f"{module}@{version}/words.s", assembly)
    return folder.as_uri()


MODULE = "example.test/words"
IMPORTER = f'package main\nimport "{MODULE}"\nfunc main() {{ println(words.Word) }}\n'


async def test_downloaded_modules_keep_their_version(go_cache: Path, tmp_path: Path) -> None:
    """A module of a step is downloaded once; a newer version that appears later is not used."""
    proxy = proxy_with(tmp_path / "proxy", MODULE, "v1.0.0", 'package words\n\nconst Word = "one"\n')
    environ = {**os.environ, "GOPROXY": proxy, "GONOSUMDB": "*", "GOFLAGS": ""}
    lock = tmp_path / "go.mod"
    programs = GoBuildCache(go_cache, lock=lock, environ=environ)
    reported: list[str] = []
    await programs.build_program(Step("work", "go", IMPORTER), install=True, report_progress=reported.append)
    proxy_with(tmp_path / "proxy", MODULE, "v1.1.0", 'package words\n\nconst Word = "two"\n')

    await programs.build_program(Step("work", "go", IMPORTER), install=False, report_progress=reported.append)
    await programs.build_program(
        Step("work", "go", IMPORTER + "// edited\n"), install=True, report_progress=reported.append
    )

    assert lasting(reported) == [f"compiling work.go with {MODULE}"] * 2
    assert f"{MODULE} v1.0.0" in lock.read_text()
    assert f"{MODULE} v1.0.0 h1:" in lock.with_suffix(".sum").read_text()
    assert str(tmp_path) not in lock.read_text()
    assert "PipedreamHQ" not in lock.read_text()


async def test_modules_of_a_lock_replace_those_of_the_project(go_cache: Path, tmp_path: Path) -> None:
    """A step is compiled with the modules of a lock that is passed; the project's lock file is not changed."""
    proxy = proxy_with(tmp_path / "proxy", MODULE, "v1.0.0", 'package words\n\nconst Word = "one"\n')
    environ = {**os.environ, "GOPROXY": proxy, "GONOSUMDB": "*", "GOFLAGS": ""}
    lock = tmp_path / "go.mod"
    programs = GoBuildCache(go_cache, lock=lock, environ=environ)
    step = Step("work", "go", IMPORTER)
    old = await programs.build_program(step, install=True, report_progress=lambda _: None)
    began = programs.read_lock()
    lock.unlink()
    proxy_with(tmp_path / "proxy", MODULE, "v1.1.0", 'package words\n\nconst Word = "two"\n')
    new = await programs.build_program(step, install=True, report_progress=lambda _: None)
    changed = programs.read_lock()
    old.unlink()

    again = await programs.build_program(step, install=True, report_progress=lambda _: None, lock=began)

    assert [subprocess.run([path], capture_output=True, check=True).stderr for path in (again, new)] == [
        b"one\n",
        b"two\n",
    ]
    assert again == old
    assert programs.read_lock() == changed


async def test_run_with_a_lock_uses_its_modules(go_cache: Path, tmp_path: Path) -> None:
    """Go steps of a run have the modules of its setup, not those of the project's lock file."""
    module = "example.test/terms"
    source = IMPORTER.replace("words", "terms")
    environ = {**os.environ, "GONOSUMDB": "*", "GOFLAGS": ""}
    locks = []
    for version in ("v1.0.0", "v1.1.0"):
        environ["GOPROXY"] = proxy_with(
            tmp_path / version, module, version, f'package terms\n\nconst Word = "{version}"\n'
        )
        programs = GoBuildCache(go_cache, lock=tmp_path / f"{version}.mod", environ=environ)
        await programs.build_program(Step("work", "go", source), install=True, report_progress=lambda _: None)
        locks.append(programs.read_lock())
    pool = WorkerPool(go_cache=programs)
    printed = []
    for lock in (locks[0], None):
        setup = RunSetup("run", "demo", {"event": {}, "context": {}}, {}, tmp_path, go_lock=lock)
        run = Bench(await pool.open_run(setup))
        outcome = await run.run("go", source)
        printed.append((outcome.error, run.printed("stderr")))
        await run.workers.release()
    await pool.close()

    assert printed == [(None, "v1.0.0\n"), (None, "v1.1.0\n")]


@pytest.mark.parametrize(
    ("proxy", "install", "message", "fix"),
    [
        (
            "empty",
            True,
            "The Go module example.test/nowhere cannot be found or reached.",
            "Check the spelling of the import",
        ),
        ("http://127.0.0.1:9", True, "cannot be installed: the Go module proxy cannot be reached.", "HTTPS_PROXY"),
        ("empty", False, "cannot be installed: installation is off.", "--no-install"),
    ],
    ids=["not-there", "no-network", "no-install"],
)
async def test_module_that_cannot_be_installed(
    go_cache: Path, tmp_path: Path, proxy: str, install: bool, message: str, fix: str
) -> None:
    """The error has the package, the line and a fix, as for packages of other languages, and contains no address."""
    tmp_path.joinpath("empty").mkdir()
    address = tmp_path.joinpath("empty").as_uri() if proxy == "empty" else proxy
    environ = {**os.environ, "GOPROXY": address, "GONOSUMDB": "*"}
    programs = GoBuildCache(go_cache, lock=tmp_path / "go.mod", environ=environ)
    source = 'package main\nimport "example.test/nowhere"\nfunc main() { nowhere.Go() }\n'

    with pytest.raises(PackageInstallError) as caught:
        await programs.build_program(
            Step("work", "go", source, line_offset=3), install=install, report_progress=lambda _: None
        )

    error = caught.value
    assert (error.code, error.package, error.line) == ("package_install", "example.test/nowhere", 5)
    assert error.message.endswith(message)
    assert address not in str(error)
    assert fix in error.fix


async def test_missing_dependency_of_a_module_is_named(go_cache: Path, tmp_path: Path) -> None:
    """The error names the import of the step and the missing dependency."""
    proxy = proxy_with(tmp_path / "proxy", MODULE, "v1.0.0", 'package words\n\nimport "example.test/deep"\n')
    environ = {**os.environ, "GOPROXY": proxy, "GONOSUMDB": "*", "GOMODCACHE": "", "GOFLAGS": ""}
    programs = GoBuildCache(tmp_path / "go", lock=tmp_path / "go.mod", environ=environ)

    with pytest.raises(PackageInstallError) as caught:
        await programs.build_program(Step("work", "go", IMPORTER), install=True, report_progress=lambda _: None)

    assert caught.value.message == (
        f"{MODULE} cannot be installed: the dependency example.test/deep cannot be found or reached."
    )
    assert caught.value.line == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has walls around the compiler")
@pytest.mark.parametrize("included", ["{folder}/key", "/proc/self/environ", "/proc/{server}/environ", "/etc/passwd"])
async def test_a_module_includes_no_file_of_the_server(go_cache: Path, tmp_path: Path, included: str) -> None:
    """Assembly of a module is compiled without the files of the server, which an error message would show."""
    (tmp_path / "key").write_text("PlantedKey\n")
    path = included.format(folder=tmp_path, server=os.getpid())
    module = f"example.test/{path.replace('/', '-').strip('-').lower()}"
    source, assembly = (
        "package words\n\nconst Word = 1\n\nfunc F()\n",
        f'TEXT ·F(SB), 4, $0-0\n#include "{path}"\nRET\n',
    )
    proxy = proxy_with(tmp_path / "proxy", module, "v1.0.0", source, assembly)
    environ = {"PLANTED": "Planted", **os.environ, "GOPROXY": proxy, "GONOSUMDB": "*", "GOFLAGS": ""}
    programs = GoBuildCache(go_cache, lock=tmp_path / "go.mod", environ=environ)
    step = Step(
        "work", "go", f'package main\nimport words "{module}"\nfunc main() {{ println(words.Word); words.F() }}\n'
    )

    with pytest.raises(StepCompileError) as caught:
        await programs.build_program(step, install=True, report_progress=lambda _: None)

    assert "no such file or directory" in caught.value.message
    assert "unrecognized" not in caught.value.message


async def test_a_module_with_assembly_is_compiled(go_cache: Path, tmp_path: Path) -> None:
    """A module may have assembly that includes the files of Go."""
    assembly = '#include "textflag.h"\n\nTEXT ·F(SB), NOSPLIT, $0-0\n\tRET\n'
    source = 'package words\n\nconst Word = "assembled"\n\nfunc F()\n'
    proxy = proxy_with(tmp_path / "proxy", "example.test/assembled", "v1.0.0", source, assembly)
    environ = {**os.environ, "GOPROXY": proxy, "GONOSUMDB": "*", "GOFLAGS": ""}
    programs = GoBuildCache(go_cache, lock=tmp_path / "go.mod", environ=environ)
    step = Step("work", "go", IMPORTER.replace(MODULE, "example.test/assembled").replace('import "', 'import words "'))

    built = await programs.build_program(step, install=True, report_progress=lambda _: None)

    assert subprocess.run([built], capture_output=True, check=True).stderr == b"assembled\n"


LINES = {"example.test/a": 4, "example.test/b/sub": 3}
NO_MODULE = "no required module provides package"
PANIC = """\
panic: oh no

goroutine 1 [running]:
main.fail(...)
\tstep/entry.go:9 +0x1
main.main()
\tstep/entry.go:12 +0x2
runtime.main()
\t/go/src/runtime/proc.go:1 +0x3

goroutine 2 [running]:
main.other()
\tstep/entry.go:20 +0x4
exit status 2
"""


@pytest.mark.parametrize(
    ("output", "install", "package", "line", "message", "fix"),
    [
        ("verifying: checksum mismatch", True, None, 3, "example.test/a, example.test/b/sub: the registry's files", "pdkernel-go.sum"),
        (f"entry.go:4: {NO_MODULE} example.test/a; to add it", False, "example.test/a", 4, "example.test/a cannot be installed: installation is off.", "--no-install"),
        (f"{NO_MODULE} example.test/b: dial tcp", True, "example.test/b/sub", 3, "example.test/b/sub cannot be installed: the Go module proxy", "HTTPS_PROXY"),
        (f"{NO_MODULE} example.test/a: x", True, "example.test/a", 4, "The Go module example.test/a cannot be found", "GOPRIVATE"),
        ("example.test/a@v1: unrecognized import path: dial tcp", True, "example.test/a", 4, "The Go module example.test/a cannot be found", "GOPRIVATE"),
        (f"{NO_MODULE} other.test/x: 404", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency other.test/x", "Import another version"),
        (f"{NO_MODULE} example.test/ab: 404", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency example.test/ab", "Import another version"),
        (f"{NO_MODULE} example.test/b/su: 404", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency example.test/b/su", "Import another version"),
        ("module example.test/a@v1 found (v1.0.0), but does not contain package example.test/a/x", True, None, 3, "example.test/a, example.test/b/sub cannot be installed: the dependency example.test/a/x", "Import another version"),
    ],
)  # fmt: skip
def test_a_missing_module(output: str, install: bool, package: str | None, line: int, message: str, fix: str) -> None:
    """The error has the package, the line of its import, the cause and a fix."""
    error = parse_module_error(output, install=install, import_lines=LINES)

    assert error is not None
    assert (error.package, error.line, error.message[: len(message)]) == (package, line, message)
    assert fix in error.fix


@pytest.mark.parametrize(
    ("output", "lines"),
    [("entry.go:4: undefined: x", LINES), (f"{NO_MODULE} a.test/b", {}), ("checksum mismatch", {})],
)
def test_other_failures_of_a_build(output: str, lines: dict[str, int]) -> None:
    """A build that failed for another reason, or of a step without modules, has no missing module."""
    assert parse_module_error(output, install=True, import_lines=lines) is None


@pytest.mark.parametrize(
    ("output", "message", "line"),
    [
        ("# step\n./entry.go:4:2: undefined: x\n", "entry.go:4:2: undefined: x", 4),
        ("go: downloading a\ngo: finding b\ngo: found c\nentry.go:7: bad", "entry.go:7: bad", 7),
        ("link failed", "link failed", None),
        ("", "go build failed without a message.", None),
        ("\n".join(map(str, range(21))), "\n".join(map(str, range(20))), None),
    ],
)
def test_a_compile_error(output: str, message: str, line: int | None) -> None:
    """The message has the first twenty lines of the compiler, without progress, and the line of the first fault."""
    error = parse_compile_error(output)

    assert (error.message, error.name, error.line) == (message, "CompileError", line)


def test_a_panic() -> None:
    """The error of a panic has the frames of the step in the goroutine that failed."""
    error = parse_panic(2, f"printed before\n{PANIC}")

    assert type(error) is StepError
    assert (error.message, error.name, error.line) == ("oh no", "panic", 9)
    assert error.stack == "main.fail(...)\n\tentry.go:9\nmain.main()\n\tentry.go:12"


@pytest.mark.parametrize(
    ("trace", "kind", "name", "line"),
    [
        (PANIC.replace("oh no", "pd.Export(x): no"), ExportNotJSONError, "ExportNotJSONError", 9),
        (PANIC.replace("panic: oh no", "fatal error: all goroutines are asleep"), StepError, "fatal error", 9),
        (PANIC.replace("oh no\n", "oh no\n[signal SIGSEGV: x]\n"), StepError, "panic", 9),
        (PANIC.replace("step/", "/go/src/"), StepError, "panic", None),
    ],
)
def test_kinds_of_panic_traces(trace: str, kind: type[Any], name: str, line: int | None) -> None:
    """A value that is not JSON, a fatal error and a signal have their own names; without a frame there is no line."""
    error = parse_panic(2, trace)

    assert error is not None
    assert type(error) is kind
    assert (error.name, error.line) == (name, line)
    assert (error.stack is None) == (line is None)


@pytest.mark.parametrize(("code", "stderr"), [(1, PANIC), (0, PANIC), (2, "usage: x"), (2, "panic: oh no")])
def test_an_exit_status_is_not_a_panic(code: int, stderr: str) -> None:
    """Another status, or output without a trace, is the step's own exit."""
    assert parse_panic(code, stderr) is None
