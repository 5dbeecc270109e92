"""Runs with Go and Bash steps: accounts, responses, outbound calls, refusals."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import detect_sandbox, parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.model import Step
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event, bash_step, go_step, node_step, python_step
from tests.engine.conftest import Run, error_of
from tests.http_servers import AnsweringServer, serve


@pytest.fixture
def project(project: Project, go_cache: Path) -> Project:
    """A project with the packages of Go's standard library compiled."""
    cache = project.folder / "cache"
    cache.mkdir(exist_ok=True)
    (cache / "go").symlink_to(go_cache)
    return project


@pytest.fixture
def stand_in() -> Iterator[AnsweringServer]:
    """A stand-in for all outbound calls."""
    with serve(AnsweringServer(lambda _: (200, b"ok"))) as server:
        yield server


def seen_by(stand_in: AnsweringServer) -> list[tuple[str, str, str]]:
    """Path, original host and credentials of each call."""
    return [(each.path, each.headers["x-forwarded-host"], each.headers["authorization"]) for each in stand_in.requests]


async def test_exports_pass_through_four_languages(run: Run) -> None:
    """A Go step reads the exports of steps above it, and steps below read its exports."""
    execution = await run(
        python_step("one", 'return pd.steps["trigger"]["event"]["body"]["n"] + 1'),
        node_step("two", "return { n: steps.one.$return_value + 1, text: 'ü<&' };"),
        go_step("three", 'two := pd.Steps["two"].(map[string]interface{})["$return_value"]; pd.Export("two", two)'),
        bash_step("four", 'echo "text=$(jq -r .three.two.text "$PIPEDREAM_STEPS")" >> "$PIPEDREAM_EXPORTS"'),
        python_step("five", 'return [pd.steps["three"]["two"]["n"], pd.steps["four"]["text"]]'),
        event=an_event({"n": 1}),
    )

    assert execution.status == "success", execution.error
    assert execution.step("five").return_value == [3, "ü<&"]


async def test_panic_and_compile_error_have_the_line_of_the_cell(run: Run) -> None:
    """Errors have lines of the cell; the first line is the directive."""
    panicked = await run(go_step("one", '\npanic("no")'))
    broken = await run(go_step("one", "\nnothing()"))

    for execution, name in ((panicked, "panic"), (broken, "CompileError")):
        assert execution.error is not None
        assert (execution.error.name, execution.error.step, execution.error.line) == (name, "one", 9)


async def test_compilation_is_reported_once(run: Run) -> None:
    """The step's log reports the compilation once; the next run has no such line."""
    number = time.time_ns()
    step = go_step("one", f'println("hello", {number})')

    first, second = await run(step), await run(step)

    assert [log.text for log in first.step("one").logs] == ["[pdkernel] compiling one.go\n", f"hello {number}\n"]
    assert [log.text for log in second.step("one").logs] == [f"hello {number}\n"]


READS_ACCOUNT = {
    "bash": bash_step(
        "one", 'echo "n=$(jq -r .slack.oauth_access_token $PIPEDREAM_ACCOUNTS | wc -c)" >> $PIPEDREAM_EXPORTS\n'
        "cat $PIPEDREAM_ACCOUNTS; stat -c %a $PIPEDREAM_ACCOUNTS; echo path=$PIPEDREAM_ACCOUNTS >> $PIPEDREAM_EXPORTS",
        options="--app slack",
    ),
    "go": go_step(
        "one",
        'pd.Export("n", fmt.Sprint(len(pd.Accounts["slack"]["oauth_access_token"]) + 1))\n'
        'text, _ := os.ReadFile(os.Getenv("PIPEDREAM_ACCOUNTS")); info, _ := os.Stat(os.Getenv("PIPEDREAM_ACCOUNTS"))\n'
        'fmt.Println(string(text)); fmt.Printf("%o", info.Mode()); pd.Export("path", os.Getenv("PIPEDREAM_ACCOUNTS"))',
        "fmt",
        "os",
    ),
}  # fmt: skip


@pytest.mark.parametrize("step", READS_ACCOUNT.values(), ids=READS_ACCOUNT)
async def test_account_of_the_external_user(run: Run, connect: Callable[..., str], step: Step) -> None:
    """A file of mode 0600 holds the credentials while the step runs; the record contains none of them."""
    account = connect("ada", "xoxb-0123456789")

    execution = await run(step, external_user_id="ada")

    done = execution.step("one")
    assert execution.status == "success", execution.error
    assert done.exports["n"] == str(len("xoxb-0123456789") + 1)
    assert [use.id for use in done.accounts] == [account]
    assert "600" in done.logs[-1].text
    assert "xoxb" not in json.dumps(execution.to_json())
    assert not Path(str(done.exports["path"])).exists()


@pytest.mark.parametrize("step", READS_ACCOUNT.values(), ids=READS_ACCOUNT)
async def test_missing_account_refuses_the_run(run: Run, connect: Callable[..., str], step: Step) -> None:
    """A missing account refuses the run with the platform's error; a Go step needs no app on its directive."""
    connect("grace", app="github")

    error = error_of(await run(step, external_user_id="grace"))

    assert error.code == "account_not_found"


@pytest.mark.parametrize(
    "step",
    [
        bash_step("one", """echo '{"status": 201, "headers": {"x-a": "b"}, "body": [1]}' > $PIPEDREAM_RESPONSE"""),
        go_step("one", 'pd.Respond(201, map[string]string{"x-a": "b"}, []int{1})'),
    ],
    ids=["bash", "go"],
)
async def test_custom_response(run: Run, step: Step) -> None:
    """A workflow with a custom response answers with the response of the step."""
    execution = await run(a_workflow(step, response="custom"))

    assert execution.response is not None
    assert execution.response.to_json() == {"status": 201, "headers": {"x-a": "b"}, "body": [1]}


def calling_step(*clients: str) -> Step:
    """A Go step that makes a call with each of *clients*, and exports the statuses and the answers."""
    body = f"""
statuses, answers := []int{{}}, []string{{}}
for _, client := range []*http.Client{{{", ".join(clients)}}} {{
    request, _ := http.NewRequest("GET", "https://api.example.test/things?id=7", nil)
    request.Header.Set("authorization", "Bearer " + os.Getenv("TOKEN"))
    answer, err := client.Do(request)
    if err != nil {{ panic(err) }}
    text, _ := io.ReadAll(answer.Body)
    statuses, answers = append(statuses, answer.StatusCode), append(answers, string(text))
}}
pd.Export("statuses", statuses)
pd.Export("answers", answers)
_ = time.Minute
"""
    return go_step("one", body, "io", "net/http", "os", "time")


CLIENTS = calling_step(
    "http.DefaultClient",
    "&http.Client{Timeout: time.Minute}",
    "&http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}",
)


async def test_outbound_call_goes_through_the_gateway(run: Run, stand_in: AnsweringServer) -> None:
    """Go's default transport trusts the project's certificate; the record has the calls without their token. Denied calls are answered 403."""
    variables = {"TOKEN": "tok-0123456789"}

    execution = await run(CLIENTS, egress=f"stand-in={stand_in.url}", variables=variables)
    denied = await run(CLIENTS, egress="deny", variables=variables)

    assert execution.status == "success", execution.error
    assert execution.step("one").exports == {"statuses": [200] * 3, "answers": ["ok"] * 3}
    assert seen_by(stand_in) == [("/things?id=7", "api.example.test", "Bearer tok-0123456789")] * 3
    assert [(call.method, call.url) for call in execution.step("one").requests] == [
        ("GET", "https://api.example.test/things?id=7")
    ] * 3
    assert denied.step("one").exports["statuses"] == [403] * 3
    assert [call.outcome for call in denied.step("one").requests] == ["denied"] * 3


@pytest.mark.skipif(detect_sandbox() != "redirect", reason="this system does not permit a seccomp listener")
async def test_custom_transport_cannot_bypass_the_gateway(run: Run, stand_in: AnsweringServer) -> None:
    """A transport that reads no proxy variables is redirected to the gateway by the operating system."""
    step = calling_step("&http.Client{Transport: &http.Transport{}}")

    execution = await run(step, egress=f"stand-in={stand_in.url}", variables={"TOKEN": "tok-0123456789"})

    assert execution.status == "success", execution.error
    assert seen_by(stand_in) == [("/things?id=7", "api.example.test", "Bearer tok-0123456789")]


async def test_unreachable_host_is_an_error(run: Run) -> None:
    """`http.Get` returns an error; the step's error names the host and the cause."""
    code = 'if _, err := http.Get("https://nowhere.invalid/things"); err != nil { panic(err) }'

    error = error_of(await run(go_step("call", code, "net/http"), egress="live"), "call")

    assert "CONNECT https://nowhere.invalid got no response: nowhere.invalid " in error.message


ELSEWHERE = 'package main\nimport "example.test/nowhere"\nfunc main() { nowhere.Go() }\n'
NO_MAIN = ("entry_point", "no `func main()` in a `package main`")


@pytest.mark.parametrize(
    ("source", "code", "texts"),
    [
        ("package main\n", *NO_MAIN),
        ("package other\nfunc main() {}\n", *NO_MAIN),
        ("", *NO_MAIN),
        (ELSEWHERE, "package_missing", "example.test/nowhere|pdkernel packages install"),
    ],
    ids=["no main", "another package", "no code", "a missing module"],
)
async def test_code_that_cannot_start_is_refused(run: Run, source: str, code: str, texts: str) -> None:
    """Code without `main`, or with modules that must not be installed, refuses the run before its first step, with a fix."""
    execution = await run(python_step("zero"), Step("one", "go", source), install=False)

    assert execution.error is not None
    assert execution.error.code == code
    assert all(text in execution.error.message for text in texts.split("|"))
    assert execution.step("zero").status == "not_run"


async def test_missing_module_fails_its_step(project: Project, directory: LocalDirectory, tmp_path: Path) -> None:
    """A missing module fails its step at the line of the import; the steps above it run."""
    environ = {**os.environ, "GOPROXY": tmp_path.as_uri(), "GONOSUMDB": "*"}
    workflow = a_workflow(python_step("zero"), Step("one", "go", ELSEWHERE))
    async with await WorkflowEngine.start(project, directory, environ=environ) as runtime:
        execution = await runtime.run(RunRequest(workflow, an_event(), parse_policy("deny"), folder=tmp_path))

    assert (execution.step("zero").status, execution.step("one").status) == ("success", "error")
    error = execution.step("one").error
    assert error is not None
    assert (error.code, error.name, error.line) == ("package_install", "PackageInstallError", 2)
    assert error.message.startswith(
        "The Go module example.test/nowhere cannot be found or reached.\nCheck the spelling "
    )
