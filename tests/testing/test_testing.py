"""The plugin in a separate pytest process: reports of passed and failed tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdkernel.runtimes import process_tree
from tests.notebook_files import notebook_of

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
GREET = (
    '%%pdstep greet\ndef handler(pd):\n    print("greeting")\n    return pd.steps["trigger"]["event"]["body"]["name"]\n'
)
POST = '%%pdstep post --app slack\nimport urllib.request\ndef handler(pd):\n    token = pd.inputs["slack"]["$auth"]["oauth_access_token"]\n    print(token)\n    return urllib.request.urlopen("https://api.example.test/things", data=b"1").status\n'
TOKEN = "xoxb-made-up-for-a-test"
LOADED = 'pytest_plugins = ["pdkernel.testing"]\n'


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with two notebooks and an event, for a separate pytest process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # other plugins take seconds to import
    monkeypatch.delenv("PDKERNEL_EGRESS", raising=False)
    notebook_of(pytester.path / "greet.ipynb", GREET)
    notebook_of(pytester.path / "post.ipynb", POST)
    (pytester.path / "events").mkdir()
    (pytester.path / "events" / "hello.json").write_text(json.dumps({"method": "POST", "body": {"name": "Ada"}}))
    return pytester


def run(folder: pytest.Pytester, *args: str) -> pytest.RunResult:
    """A pytest run in its own process, in which a warning of pytest is an error."""
    return folder.runpytest_subprocess("-W", "error::pytest.PytestWarning", *args, timeout=100)


def test_the_plugin_does_not_load_by_itself(folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin's fixtures exist only with `-p` or `pytest_plugins`, also beside all installed plugins."""
    folder.makepyfile('def test_greet(pd_run):\n    assert pd_run("greet.ipynb", "hello").status == "success"\n')
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-o asyncio_default_fixture_loop_scope=function")

    without, loaded = run(folder), run(folder, "-p", "pdkernel.testing")

    without.stdout.fnmatch_lines(["*fixture 'pd_run' not found*"])
    loaded.assert_outcomes(passed=1)


def test_a_failure_shows_the_timeline(folder: pytest.Pytester) -> None:
    """The report of a failed assertion has the run's timeline; the report of a passed test has none."""
    folder.makepyfile(
        LOADED
        + 'def test_wrong(pd_run):\n    assert pd_run("greet.ipynb", "hello").step("greet").return_value == "Grace"\n'
        + 'def test_right(pd_run):\n    assert pd_run("greet.ipynb", "hello").status == "success"\n'
    )

    result = run(folder)

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*- pdkernel timeline -*", "greet: *success*", "*greet*Python*", "*stdout*greeting*"])
    assert result.stdout.str().count("- pdkernel timeline -") == 1


def test_a_failure_shows_the_crash_test(folder: pytest.Pytester) -> None:
    """The report of a failed assertion about a crash test has the crash test, with what it found and what it did not observe."""
    folder.makepyfile(
        LOADED + 'def test_crash(pd_crash_test):\n    assert pd_crash_test("greet.ipynb", "hello").findings != ()\n'
    )

    result = run(folder)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- pdkernel crash test -*", "greet: * none with a finding *", "Not observed: *"])


def test_the_report_has_a_refused_call_and_no_credential(folder: pytest.Pytester) -> None:
    """The report has a refused call with a fix, and not the account's token, which the step prints."""
    folder.makepyfile(
        LOADED
        + f'def connect(project):\n    project.connect("ada", "slack", oauth_access_token="{TOKEN}")\n'
        + "def test_post(pd_project, pd_run):\n    connect(pd_project)\n"
        + '    execution = pd_run("post.ipynb", external_user="ada")\n    assert execution.status == "success"\n'
    )

    result = run(folder)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*To answer a refused call*egress=*replay=FILE*",
            "*DENIED (403*",
            "*POST https://api.example.test/things was not sent*",
            "*stdout*secret:slack/apn_*/oauth_access_token*",
        ]
    )
    assert TOKEN not in result.stdout.str()


def test_xdist(folder: pytest.Pytester) -> None:
    """Tests in two workers of xdist pass, and each worker has its own processes."""
    folder.makepyfile(
        LOADED
        + "import os, pytest\n"
        + '@pytest.mark.parametrize("n", range(6))\ndef test_greet(pd_run, n, worker_id):\n'
        + '    execution = pd_run("greet.ipynb", {"body": {"name": n}})\n'
        + '    assert execution.step("greet").return_value == n\n    assert worker_id in ("gw0", "gw1")\n'
    )

    run(folder, "-p", "xdist.plugin", "-n", "2").assert_outcomes(passed=6)


def test_no_process_is_left(folder: pytest.Pytester) -> None:
    """After pytest has ended, no process of a step is left."""
    notebook_of(
        folder.path / "pid.ipynb",
        "%%pdstep pid\nimport os\ndef handler(pd):\n    return open('/proc/self/environ').read().split('STEP_PROCESS=')[1][:32]\n",
    )
    folder.makepyfile(
        LOADED
        + "from pathlib import Path\ndef test_pid(pd_run):\n"
        + '    Path("pid").write_text(str(pd_run("pid.ipynb").step("pid").return_value))\n'
    )

    run(folder).assert_outcomes(passed=1)

    assert process_tree.find_processes([], [(folder.path / "pid").read_text()]) == set()
