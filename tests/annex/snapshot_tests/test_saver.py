"""A run saved as a test: the files, and the results of the test before and after a change of a step."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pdkernel.annex.snapshot_tests import save_test
from pdkernel.annex.snapshot_tests.run_inputs import AccountInput, RunInputs
from pdkernel.annex.snapshot_tests.saver import (
    RunExpectation,
    SnapshotScenario,
    _literal,
    build_expectation,
    generate_test_code,
)
from pdkernel.cli.new import write_notebook_template
from pdkernel.common.redaction import Redactor
from pdkernel.egress import Gateway
from pdkernel.engine.run_request import NO_OPTIONS
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Delivery, ErrorRecord, Execution, Log, Response, StepResult
from pdkernel.files.notebook import read_cells
from pdkernel.kit.session import Session
from pdkernel.operations.runs import MAX_TEST_NAME
from tests.annex.snapshot_tests.conftest import Notebook
from tests.cli.fork_server import ForkServer
from tests.egress.kit import OutsideServer
from tests.notebook_files import notebook_of
from tests.private_pytest import run_pytest
from tests.render.builders import an_execution

TOKEN = "xoxb-planted-0123456789"
VARIABLE = "a planted variable of the project"
ONE = "%%pdstep one\ndef handler(pd):\n    return 1\n"
SEND = """%%pdstep send --lang node --app slack
export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run({ steps, $ }) {
    const answer = await fetch("https://slack.com/api/chat.postMessage", {
      method: "POST",
      headers: { authorization: `Bearer ${this.slack.$auth.oauth_access_token}`, "content-type": "application/json" },
      body: JSON.stringify({ channel: "#general", text: process.env.GREETING, secret: this.slack.$auth.oauth_access_token }),
    });
    return { ok: (await answer.json()).ok, token: this.slack.$auth.oauth_access_token };
  },
});
"""
FETCH = '%%pdstep fetch\nimport urllib.request\ndef handler(pd):\n    return len(urllib.request.urlopen("https://api.example.test/big/SIZE").read())\n'
ODD = "%%pdstep odd\nimport os, random, time, uuid\ndef handler(pd):\n    return {'id': str(uuid.uuid4()), 'at': time.time(), 'day': time.strftime('%Y-%m-%d'), 'n': 1, 'list': [random.random(), 2]}\n"
MUTATIONS = {
    "check": ('"number": issue["number"],', '"number": issue["number"] + 1,'),
    "message": ("New issue in", "An issue in"),
    "route": ('channel="#bugs"', 'channel="#urgent"'),
    "notify": ("channel: answer.channel,", 'channel: "another",'),
}


@pytest.fixture
def outside() -> Iterator[OutsideServer]:
    """A server on this machine that answers for every host."""
    server = OutsideServer(None)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quickstart's notebook and a test of a run of it, as `ada` with the stand-in for Slack."""
    folder = tmp_path_factory.mktemp("quickstart")
    notebook, _ = write_notebook_template(folder / "quickstart.ipynb", template="quickstart.ipynb")
    session = Session(folder=folder, notebook=notebook, environ={})
    try:
        for cell in read_cells(notebook):
            if cell.source.startswith("%%"):
                session.record_cell(cell.source, cell_id=cell.id)
        session.directory.add_account(app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id="ada")
        session.choose_user("ada")
        session.load_event("issues-opened")
        session.choose_egress("stand-in=slack")
        execution = session.run()
        save_test(
            session.get_request(execution.id),
            execution,
            name="issue",
            source=session.source,
            directory=session.directory,
        )
    finally:
        session.close()
    shutil.rmtree(folder / ".pdkernel")
    return folder


def test_a_changed_step_fails_the_saved_test(quickstart: Path, fork_server: ForkServer, tmp_path: Path) -> None:
    """The saved test passes without a project; a change of any of the four steps fails it."""
    for step, (before, after) in {"": ("", ""), **MUTATIONS}.items():
        copy = tmp_path / f"change_{step}"
        shutil.copytree(quickstart, copy)
        text = (copy / "quickstart.ipynb").read_text(encoding="utf-8")
        mutated = text.replace(json.dumps(before)[1:-1], json.dumps(after)[1:-1], 1)
        assert (mutated == text) == (step == "")
        (copy / "quickstart.ipynb").write_text(mutated, encoding="utf-8")

    passed = run_pytest(fork_server, tmp_path / "change_")
    failed = run_pytest(fork_server, tmp_path, "--import-mode=importlib", *(f"change_{step}" for step in MUTATIONS))

    assert (passed, failed) == ({"passed": 1}, {"failed": 4})


def test_the_files_of_the_quickstarts_test(quickstart: Path) -> None:
    """A test and its recorded calls are written; the test uses the existing event of the library."""
    files = sorted(path.relative_to(quickstart).as_posix() for path in quickstart.rglob("*") if path.is_file())

    assert files == [
        "events/issues-opened.json",
        "quickstart.ipynb",
        "tests/recorded/issue.jsonl",
        "tests/test_issue.py",
    ]
    assert "'../events/issues-opened.json'" in (quickstart / "tests" / "test_issue.py").read_text()


def test_no_secret_is_written(notebook: Notebook) -> None:
    """No file contains a credential, a variable or a secret header, whatever the step does with them."""
    notebook.write(SEND)
    account = notebook.connect(oauth_access_token=TOKEN)
    notebook.session.project.variables.set("GREETING", VARIABLE)
    headers = {"authorization": "Bearer planted-in-a-header"}
    notebook.session.choose_event(Event({"method": "POST", "headers": headers, "body": {"said": TOKEN}}), "mine")
    notebook.session.choose_egress("stand-in=slack")

    notebook.save(notebook.session.run())

    written = [path for path in notebook.folder.rglob("*") if path.is_file() and ".pdkernel" not in path.parts]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in written)
    assert [secret for secret in (TOKEN, VARIABLE, "planted-in-a-header") if secret in texts] == []
    assert f"'token': '⟦secret:slack/{account}/oauth_access_token⟧'" in notebook.text()
    assert notebook.pytest() == {"passed": 1}


def test_a_secret_prop_gets_a_fake_value(notebook: Notebook) -> None:
    """The test of a workflow with a secret prop holds a fake value of the prop, and passes."""
    notebook.write(
        """%%pdstep ask --prop 'key={"_enc": "x"}'\ndef handler(pd):\n    return {"sent": pd.inputs["key"]}\n"""
    )
    notebook.session.project.variables.set("ask.key", VARIABLE)

    notebook.save(notebook.session.run())

    assert VARIABLE not in notebook.text()
    assert "'ask.key': 'made-up-ask-key'" in notebook.text()
    assert "⟦secret:prop/ask/key⟧" in notebook.text()
    assert notebook.pytest() == {"passed": 1}


def test_unstable_values_are_compared_by_type(notebook: Notebook) -> None:
    """Ids, times and today's date are compared by type and listed, other values by value; the test passes tomorrow."""
    notebook.write(ODD, "%%pdstep say\nimport uuid\ndef handler(pd):\n    print(uuid.uuid4())\n")

    saved = notebook.save(notebook.session.run())

    path = "odd.$return_value"
    assert f"because they differ from run to run: {path}.id, " in saved.format_summary(notebook.folder)
    assert saved.unstable_paths == (f"{path}.id", f"{path}.at", f"{path}.day", f"{path}.list[0]", "say output")
    assert "'id': differs(str)" in notebook.text()
    assert "'list': [differs(int, float), 2]" in notebook.text()
    assert "'n': 1" in notebook.text()
    assert notebook.pytest() == {"passed": 1}


def test_saving_sends_no_request(notebook: Notebook) -> None:
    """The stand-in has received the request of the run only; the test has the account of the user's environment."""
    notebook.write(SEND)
    notebook.session.directory.add_account(
        app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id="ada", environment="production"
    )
    notebook.session.choose_user("ada", "production")
    notebook.session.project.variables.set("GREETING", VARIABLE)
    notebook.session.choose_egress("stand-in=slack")
    execution = notebook.session.run()

    notebook.save(execution)
    notebook.save(notebook.session.run(), "again")

    async def received(runtime: WorkflowEngine) -> int:
        assert isinstance(runtime.gateway, Gateway)
        return len(runtime.gateway.stand_ins["slack"].received)

    assert notebook.session.call_engine(received) == 1
    assert notebook.pytest() == {"passed": 2}


def test_a_long_response_has_its_own_file(notebook: Notebook, outside: OutsideServer) -> None:
    """A response of more than 64 KB is written beside the recorded calls, and replayed completely."""
    notebook.write(FETCH.replace("SIZE", "100000"))
    notebook.session.choose_egress(f"stand-in=http://127.0.0.1:{outside.port}")

    saved = notebook.save(notebook.session.run())

    assert [path.parent.name for path in saved.files[:3]] == ["tests", "recorded", "run.jsonl.bodies"]
    assert "{'$return_value': 100000}" in notebook.text()
    assert notebook.pytest() == {"passed": 1}


def test_a_response_that_is_too_long_cannot_be_saved(notebook: Notebook, outside: OutsideServer) -> None:
    """A run with responses over the memory limit succeeds, and cannot be saved."""
    notebook.write(FETCH.replace("SIZE", "5000000"))
    notebook.session.choose_egress(f"stand-in=http://127.0.0.1:{outside.port}")
    execution = notebook.session.run()

    with pytest.raises(RequestError, match=r"too large for a test: GET https://api\.example\.test/big/5000000"):
        notebook.save(execution)

    assert execution.step("fetch").return_value == 5000000


def test_a_run_without_a_recording_or_an_end_cannot_be_saved(notebook: Notebook) -> None:
    """A run is saved only after its end, and only with the recording of its calls."""
    notebook.write(ONE)
    execution = notebook.session.run()
    request = notebook.session.get_request(execution.id)
    place: dict[str, Any] = {"name": "run", "source": notebook.session.source, "directory": notebook.session.directory}

    with pytest.raises(RequestError, match="were not recorded"):
        save_test(dataclasses.replace(request, options=NO_OPTIONS), execution, **place)
    for status in ("executing", "paused", "cancelled"):
        with pytest.raises(RequestError, match=f"A run that is {status} cannot be saved"):
            save_test(request, replace(execution, status=status), **place)
    with pytest.raises(RequestError, match="Repeated offline, the run ends with success"):
        save_test(request, replace(execution, status="exited"), **place)


def test_a_failed_run_is_saved(notebook: Notebook) -> None:
    """A run that ends with an error is saved with the output and the error, and the test passes while the error occurs."""
    notebook.write(
        '%%pdworkflow\nname: Says """ in C:\\new\n',
        "%%pdstep say\ndef handler(pd):\n    print('hello')\n",
        "%%pdstep bad\ndef handler(pd):\n    raise ValueError('no such issue')\n",
    )

    notebook.save(notebook.session.run())

    assert "assert step.output == 'hello\\n'" in notebook.text()
    assert "assert execution.status == 'error'" in notebook.text()
    assert "['ValueError', 'no such issue']" in notebook.text()
    assert notebook.pytest() == {"passed": 1}


def test_a_partial_run_is_saved_with_its_pins(notebook: Notebook) -> None:
    """A run of one step is saved as that step alone, with the exports of the steps above, and of no step below, pinned."""
    notebook.write(ONE, '%%pdstep two\ndef handler(pd):\n    return pd.steps["one"]["$return_value"] + 1\n', "%%pdstep three\ndef handler(pd):\n    return 3\n")  # fmt: skip
    notebook.session.run(only=frozenset({"one", "three"}))

    notebook.save(notebook.session.run(only=frozenset({"two"})))

    assert "only=['two']" in notebook.text()
    assert "pins={'one': {'$return_value': 1}}" in notebook.text()
    assert notebook.pytest() == {"passed": 1}


def test_saving_again_overwrites_an_unchanged_test(notebook: Notebook) -> None:
    """An unchanged test is overwritten with the current results of the workflow."""
    notebook.write(ONE)
    notebook.save(notebook.session.run())
    notebook.write(ONE.replace("return 1", "return 2"))

    notebook.save(notebook.session.run())

    assert "{'$return_value': 2}" in notebook.text()


def test_a_test_that_an_earlier_version_saved_is_overwritten(notebook: Notebook) -> None:
    """The checksums of a saved test are also read below the header of an earlier version."""
    notebook.write(ONE)
    notebook.session.choose_event(Event({"method": "PUT"}), "unsaved")
    saved = notebook.save(notebook.session.run())
    body = notebook.text().replace("if they are unchanged:", "as before:").rpartition("#   ")[0]
    checksum = hashlib.sha256(body.encode()).hexdigest()[:16]
    saved.files[0].write_text(f"{body}#   {checksum} this file\n")
    notebook.session.choose_event(Event({"method": "POST"}), "unsaved")

    again = notebook.save(notebook.session.run())

    assert again.files == saved.files
    assert '"POST"' in again.files[1].read_text()
    again.files[1].write_text('{"mine": true}')
    notebook.session.choose_event(Event({"method": "GET"}), "unsaved")
    with pytest.raises(RequestError, match=r"run\.json already exists .* or was changed since"):
        notebook.save(notebook.session.run())


@pytest.mark.parametrize("kind", ["folder", "fifo"])
@pytest.mark.parametrize("name", ["tests/test_run.py", "events/run.json"])
def test_a_folder_or_a_fifo_stays(notebook: Notebook, name: str, kind: str) -> None:
    """A folder or a FIFO in the place of a file is named in the error; saving does not wait for the FIFO."""
    notebook.write(ONE)
    notebook.session.choose_event(Event({"method": "PUT"}), "unsaved")
    mine = notebook.folder / name
    mine.parent.mkdir(exist_ok=True)
    mine.mkdir() if kind == "folder" else os.mkfifo(mine)

    with pytest.raises(RequestError, match="already exists"):
        notebook.save(notebook.session.run())


@pytest.mark.parametrize("name", ["tests/test_run.py", "events/run.json"])
def test_a_foreign_or_edited_file_stays(notebook: Notebook, name: str) -> None:
    """An existing foreign file, or an edited saved file, is named and unchanged; no other file is written."""
    notebook.write(ONE)
    notebook.session.choose_event(Event({"method": "PUT"}), "unsaved")
    mine = notebook.folder / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text('{"mine": true}')

    with pytest.raises(RequestError, match="already exists"):
        notebook.save(notebook.session.run())

    assert mine.read_text() == '{"mine": true}'
    assert not (notebook.folder / "tests" / "recorded").exists()


def test_an_edited_test_stays(notebook: Notebook) -> None:
    """A saved test with an added line is not overwritten."""
    notebook.write(ONE)
    saved = notebook.save(notebook.session.run())
    edited = notebook.text().replace("assert execution.status", "print('mine')\n    assert execution.status")
    saved.files[0].write_text(edited)

    with pytest.raises(RequestError, match="was changed since"):
        notebook.save(notebook.session.run())

    assert notebook.text() == edited


def test_a_test_of_unsaved_code_asks_to_save_first(notebook: Notebook) -> None:
    """A run of code that is not saved becomes a test, which names the step to save; it passes once the file has the code."""
    notebook.write(ONE)
    repaired = ONE.replace("return 1", "return 2")
    notebook.session.record_cell(repaired, cell_id="c0")

    summary = notebook.save(notebook.session.run()).format_summary(notebook.folder)
    before = notebook.pytest()
    notebook_of(notebook.path, repaired)

    assert "Save the notebook first: the test reads its file, and in work.ipynb on disk step one differs." in summary
    assert before == {"failed": 1}
    assert notebook.pytest() == {"passed": 1}


def test_a_test_of_a_file_that_cannot_run_names_its_error(notebook: Notebook) -> None:
    """If the notebook's file has an error that the kernel does not have, the summary asks to save, and names the error."""
    notebook_of(notebook.path, ONE.replace("one", "one --nonsense"))
    os.utime(notebook.path, (1, 1))  # the cell ran after the file was saved
    notebook.session.record_cell(ONE, cell_id="c0")
    notebook.session.load_event("hello")

    summary = notebook.save(notebook.session.run()).format_summary(notebook.folder)

    assert "Save the notebook first: the test reads its file, and work.ipynb on disk cannot run (" in summary
    assert "--nonsense" in summary


def test_a_run_whose_account_is_gone_cannot_be_saved(notebook: Notebook) -> None:
    """A run is not saved after its account was removed: what its credentials were is not known."""
    notebook.write("%%pdstep send --app slack\ndef handler(pd):\n    return 1\n")
    account = notebook.connect(oauth_access_token=TOKEN)
    execution = notebook.session.run()
    notebook.session.directory.remove_account(account)

    with pytest.raises(RequestError, match=f"The account {account} of this run no longer exists"):
        notebook.save(execution)

    assert not (notebook.folder / "tests").exists()


def test_a_run_of_code_that_was_edited_since_is_refused(notebook: Notebook) -> None:
    """A step that was edited after the run is named, and no file is written."""
    notebook.write(ONE)
    execution = notebook.session.run()
    notebook.write(ONE.replace("return 1", "return 2"))

    with pytest.raises(RequestError, match="edited after this run: step one differs") as refused:
        notebook.save(execution)

    assert "Run it again" in str(refused.value)
    assert not (notebook.folder / "tests").exists()


def test_a_run_that_requires_a_real_value_is_refused_with_a_fix(notebook: Notebook) -> None:
    """A step that fails with a fake variable is reported; with the variable declared as plain, its value is written and the test passes."""
    notebook.write('%%pdstep mode\nimport os\ndef handler(pd):\n    return {"fast": 1}[os.environ["MODE"]]\n')
    notebook.session.project.variables.set("MODE", "fast")
    execution = notebook.session.run()

    with pytest.raises(RequestError, match="step mode ends with error instead of success") as refused:
        notebook.save(execution)
    notebook.save(execution, non_secret_names=["MODE"])

    assert "MODE" in refused.value.fix
    assert "--plain" in refused.value.fix
    assert notebook.pytest() == {"passed": 1}


@pytest.mark.parametrize("plain", ["slack.oauth_access_token", "NOBODY"])
def test_secrets_cannot_be_plain(notebook: Notebook, plain: str) -> None:
    """A secret credential, and a name that the run did not use, cannot be written."""
    notebook.write("%%pdstep send --app slack\ndef handler(pd):\n    return 1\n")
    notebook.connect(oauth_access_token=TOKEN)

    with pytest.raises(RequestError, match=plain):
        notebook.save(notebook.session.run(), non_secret_names=[plain])


def test_a_secret_in_a_pin_is_not_written(notebook: Notebook) -> None:
    """A run with the values of a variable, a secret prop and a secret header among its pins is not saved."""
    notebook.write(
        ONE,
        """%%pdstep two --prop 'key={"_enc": "x"}'\nimport os\ndef handler(pd):\n    return len(os.environ["GREETING"])\n""",
    )
    notebook.session.project.variables.set("GREETING", VARIABLE)
    notebook.session.project.variables.set("two.key", "planted-in-a-prop")
    headers = {"authorization": "Bearer planted-in-a-header"}
    notebook.session.choose_event(Event({"method": "POST", "headers": headers}), "mine")
    notebook.session.pin("one", {"$return_value": [VARIABLE, "Bearer planted-in-a-header", "planted-in-a-prop"]})

    with pytest.raises(RequestError, match=r"test_run\.py would contain the value of .*env/GREETING") as refused:
        notebook.save(notebook.session.run())

    assert "event/authorization" in refused.value.message
    assert "prop/two/key" in refused.value.message
    assert "planted" not in str(refused.value)

    assert not (notebook.folder / "tests").exists()


def test_a_later_secret_in_the_event_is_not_written(notebook: Notebook) -> None:
    """A run is not saved if its event has the value of a credential that the account got after the run."""
    notebook.write("%%pdstep send --app slack\ndef handler(pd):\n    return 1\n")
    account = notebook.connect(oauth_access_token="xoxb-before-0123456789")
    notebook.session.choose_event(Event({"method": "PUT", "body": {"said": TOKEN}}), "unsaved")
    execution = notebook.session.run()
    notebook.session.directory.reconnect_account(account, {"oauth_access_token": TOKEN})

    with pytest.raises(RequestError, match=rf"run\.json would contain the value of slack/{account}/oauth_access_token"):
        notebook.save(execution)

    assert not (notebook.folder / "tests").exists()
    assert sorted(path.name for path in (notebook.folder / "events").iterdir()) == ["hello.json"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a/b",
        "a\\b",
        "../a",
        "..",
        "a.b",
        "a\0b",
        "a\nb",
        "a\x1b",
        "é",
        "_a",
        "con",
        "NUL",
        "com1",
        "a" * 101,
        "a" * 300,
    ],
)
def test_invalid_names_are_refused(notebook: Notebook, name: str) -> None:
    """A name that is not a valid file name on every system is refused with a short message."""
    notebook.write(ONE)

    with pytest.raises(RequestError, match="cannot name a test") as caught:
        notebook.save(notebook.session.run(), name)

    assert len(str(caught.value)) < 300


def test_the_longest_name_is_saved(notebook: Notebook) -> None:
    """A name of the maximum length makes valid files."""
    notebook.write(ONE)

    saved = notebook.save(notebook.session.run(), "a" * MAX_TEST_NAME)

    assert all(path.is_file() for path in saved.files)


def test_a_run_of_an_earlier_kernel_is_refused(notebook: Notebook) -> None:
    """A run that is not among the latest runs of this kernel is refused; the fix is to run again."""
    notebook.write(ONE)
    execution = notebook.session.run()
    for _ in range(10):
        notebook.session.run()

    with pytest.raises(RequestError, match="not among the latest"):
        notebook.save(execution)


NOW = datetime(2030, 1, 1, tzinfo=UTC)
NO_INPUTS = RunInputs((), {}, Redactor(), ())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values | st.text(min_size=90))
def test_a_value_is_written_as_python(value: Any) -> None:
    """The lines of a value, however long, are Python that has the value."""
    found: dict[str, Any] = {}

    exec("\n".join(_literal("value = ", value, "")), found)

    assert repr(found["value"]) == repr(value)


def expected(*runs: Execution) -> RunExpectation:
    """The expectations of equal or differing runs."""
    return build_expectation(runs, now=NOW, known_text="")


def written(expectation: RunExpectation, **scenario: Any) -> str:
    """The text of a test, which is valid Python."""
    given: dict[str, Any] = {
        "name": "run",
        "workflow": "Work",
        "source": "../work.ipynb",
        "event": "../events/run.json",
        "recorded": None,
        "external_user_id": None,
        "environment": "development",
        "inputs": NO_INPUTS,
    }
    text = generate_test_code(SnapshotScenario(**{**given, **scenario}), expectation)
    ast.parse(text)
    return text


def a_run(**step: Any) -> Execution:
    """A run of one step."""
    return an_execution(steps=(StepResult("one", "success", **step),))


def test_runs_that_differ() -> None:
    """A value that differs is compared by its type and listed with its step."""
    first, second = (a_run(exports={"n": number, "same": "x"}) for number in (1, 2))

    text = written(expected(first, second))

    assert expected(first, second).unstable_paths == ("one.n",)
    assert "#   one.n" in text
    assert "{'n': differs(int, float), 'same': 'x'}" in text
    assert "from pdkernel.testing import differs" in text
    assert "differs" not in written(expected(first, first))


@pytest.mark.parametrize(
    ("step", "has_output"),
    [
        ({"logs": (Log("stdout", "hello\n"),)}, True),
        ({}, False),
        ({"logs": (Log("stdout", "hello\n"),), "exports": {"n": 1}}, False),
        ({"logs": (Log("stdout", "hello\n"),), "error": ErrorRecord("step_failed", "ValueError", "no")}, False),
    ],
)
def test_the_output_counts_if_nothing_else_does(step: dict[str, Any], has_output: bool) -> None:
    """The printed text is compared for a step without exports, calls and error."""
    assert ("assert step.output == 'hello\\n'" in written(expected(a_run(**step)))) is has_output


def test_the_error_of_a_run_that_was_refused() -> None:
    """An error of the run, and of a step, are compared by name and message."""
    error = ErrorRecord("package_missing", "PackageMissing", "Install it.")

    text = written(
        expected(replace(a_run(error=ErrorRecord("step_failed", "ValueError", "no")), status="error", error=error))
    )

    assert "assert [execution.error.name, execution.error.message] == ['PackageMissing', 'Install it.']" in text
    assert "assert [step.error.name, step.error.message] == ['ValueError', 'no']" in text
    assert "assert execution.response is None" in text


def test_what_a_run_sends_is_compared() -> None:
    """Response and sent payloads are compared; a part that differs is listed."""

    def answered(number: int) -> Execution:
        sends = (Delivery("one", "http", outcome="sent", to="GET https://a.test/", payload={"n": number}),)
        return replace(a_run(), response=Response(200, {}, f"answer {number}"), sends=sends)

    same, differing = written(expected(answered(1), answered(1))), expected(answered(1), answered(2))

    assert "assert [[s.step, s.kind, s.to, s.payload] for s in execution.sends] == " in same
    assert "answer 1" in same
    assert differing.unstable_paths == ("response.body", "sends[0][3].n")


def test_a_step_that_did_not_run_has_a_status_only() -> None:
    """Exports and calls of a step that did not run are not compared."""
    text = written(expected(an_execution(steps=(StepResult("one", "not_run"), StepResult("two", "success")))))

    assert text.count("step.status") == 2
    assert text.count("step.exports") == 1


def test_accounts_and_variables_are_set_before_the_run() -> None:
    """The test connects each account with its id, user and environment, and sets the variables, with fake values."""
    account = AccountInput("ada", "slack", "production", "apn_1", {"oauth_access_token": "made-up-token"})
    inputs = RunInputs((account,), {"NAME": "made-up-name", "ask.key": "made-up-key"}, Redactor(), ())

    text = written(
        expected(a_run()),
        inputs=inputs,
        external_user_id="ada",
        environment="production",
        recorded="recorded/run.jsonl",
        pins={"zero": {"$return_value": 1}},
        only=["one"],
    )

    called = "".join(text.split("def test_run", 1)[1].split("execution = pd_run", 1)[0].split())
    assert called.endswith(
        "pd_project.connect('ada','slack',environment='production',account_id='apn_1',"
        "credentials={'oauth_access_token':'made-up-token'},)"
        "pd_project.set_variables(**{'NAME':'made-up-name','ask.key':'made-up-key'})"
    )
    for line in (
        "    external_user='ada',",
        "    environment='production',",
        "    egress=f\"replay={HERE / 'recorded/run.jsonl'}\",",
        "    only=['one'],",
        "    pins={'zero': {'$return_value': 1}},",
    ):
        assert f"    {line}\n" in text
    assert "as ada in production, saved as a test." in text


def test_a_name_cannot_end_the_text_of_the_test() -> None:
    """Quotes, backslashes and line ends of a workflow's name stay in the first line of the test."""
    text = written(expected(a_run()), workflow='Says """ in C:\\new\nline')

    assert text.count('"""') == 4  # of the test, and of its function
