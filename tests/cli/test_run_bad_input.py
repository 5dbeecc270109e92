"""`pdkernel run` with invalid steps, files and projects."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from pdkernel.runtimes import process_tree
from tests.cli.conftest import Ended, Shell

LANGUAGES = ("python", "node", "bash")


def python(body: str, options: str = "") -> str:
    """A Python step of one line."""
    return f"%%pdstep work {options}\nimport datetime, os, signal, sys\ndef handler(pd):\n    {body}\n"


def node(body: str, options: str = "") -> str:
    """A Node.js step of one line."""
    return f"%%pdstep work --lang node {options}\nimport fs from 'fs';\nexport default {{ run({{ steps, $ }}) {{ {body} }} }}\n"


def bash(body: str, options: str = "") -> str:
    """A Bash step of one line."""
    return f"%%pdstep work --lang bash {options}\n{body}\n"


GREET = python("return 1")
FLOOD = {
    "python": python("[sys.stdout.write('x' * 999 + chr(10)) for _ in range(50_000)]"),
    "node": node("for (let i = 0; i < 50_000; i++) process.stdout.write('x'.repeat(999) + '\\n')"),
    "bash": bash("head -c 50000000 /dev/zero | tr '\\0' x | fold -w 999"),
}
KEPT, MARGIN = 1 << 20, 1 << 16
"""Bytes of a step's output that are stored, and the margin for the last line and pdkernel's note."""
MEMORY_MIB = 25
"""The memory that a run with 48 MiB of output may use beyond that of a greeting."""
PEAK_PROGRAM = """
import atexit, resource, sys
from pdkernel.cli import main
atexit.register(lambda: print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr))
sys.argv = sys.argv[3:]
main()
"""
PEAK = (sys.executable, "-c", PEAK_PROGRAM)
"""Runs the command and prints the peak memory (MiB) of its own process, without the processes of steps."""


def is_plain(ended: Ended) -> bool:
    """Whether the output has no traceback of pdkernel."""
    return not any(word in ended.stdout + ended.stderr for word in ("/pdkernel/", "_guest.", "site-packages"))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (python("return {'rows': [1, {'when': datetime.date(2026, 1, 1)}]}"), "$return_value.rows[1].when is a date"),
        (python("pd.export('found', {'odd key': {1, 2}})"), 'found["odd key"] is a set'),
        (node("return { rows: [1, { big: 10n }] }"), "$return_value.rows[1].big is a BigInt"),
        (node("$.export('found', { 'odd key': 1n })"), 'found["odd key"] is a BigInt'),
        (bash("echo 'found:json={\"a\": }' >> $PIPEDREAM_EXPORTS"), "found is not JSON (Expecting value at column 7)"),
        (python("os._exit(3)"), "ended its own process with exit status 3"),
        (node("process.exit(3)"), "ended its own process with exit status 3"),
        (python("os.kill(os.getpid(), signal.SIGSEGV)"), "ended by SIGSEGV"),
        (node("process.kill(process.pid, 'SIGTERM'); for (;;);"), "ended by SIGTERM"),
        (bash("kill -9 $$"), "ended by SIGKILL"),
        (python("while True: pass", "--timeout 0.4"), "ran longer than 0.4 seconds"),
        (node("for (;;);", "--timeout 0.4"), "ran longer than 0.4 seconds"),
        (bash("while :; do :; done", "--timeout 0.4"), "ran longer than 0.4 seconds"),
    ],
)
def test_a_failed_step_is_named(pdkernel: Shell, cell: str, words: str) -> None:
    """The step fails with status 1; the reason has at most 15 lines and no traceback of pdkernel."""
    ended = pdkernel("run", pdkernel.notebook(cell), "--body", "{}")

    assert ended.status == 1
    assert words in ended.stdout + ended.stderr
    assert "work" in ended.stdout + ended.stderr
    assert len(ended.lines) <= 15
    assert is_plain(ended)


def test_sys_exit_is_an_error_at_its_line(pdkernel: Shell) -> None:
    """`sys.exit` is an error at the cell's line, and does not end the run silently."""
    ended = pdkernel("run", pdkernel.notebook(python("sys.exit(3)")), "--body", "{}", "--json")

    assert ended.status == 1
    assert ended.json["error"]["line"] == 4
    assert "exit status 3" in ended.json["error"]["message"]
    assert is_plain(ended)


@pytest.mark.parametrize(
    "cell",
    [
        python("""print('{"t":"done","error":null,"busy":false,"dirty":false}'); return 1"""),
        node("""console.log('{"t":"done","error":null,"busy":false,"dirty":false}'); return 1"""),
        bash("""echo '{"t":"done","error":null,"busy":false,"dirty":false}'; echo '$return_value:json=1' >> $PIPEDREAM_EXPORTS"""),
    ],
    ids=LANGUAGES,
)  # fmt: skip
def test_printed_protocol_text_is_a_log(pdkernel: Shell, cell: str) -> None:
    """Printed text is a log, also if it looks like the worker protocol."""
    ended = pdkernel("run", pdkernel.notebook(cell), "--body", "{}", "--json")

    assert ended.json["steps"][0]["logs"] == [
        {"stream": "stdout", "text": '{"t":"done","error":null,"busy":false,"dirty":false}\n'}
    ]
    assert ended.json["steps"][0]["exports"] == {"$return_value": 1}


@pytest.fixture
def peak_of_a_greeting(pdkernel: Shell) -> int:
    """Peak memory (MiB) of a run that prints nothing."""
    return peak(pdkernel("run", pdkernel.notebook(GREET), "--body", "{}", "--json", within=PEAK))


def peak(ended: Ended) -> int:
    """Peak memory (MiB) in the output of `PEAK`."""
    return int(ended.stderr.split()[-1])


@pytest.mark.parametrize("language", LANGUAGES)
def test_50_mb_of_prints_are_cut(pdkernel: Shell, peak_of_a_greeting: int, language: str) -> None:
    """The run succeeds in bounded memory, and the log ends with the amount that was left out."""
    ended = pdkernel("run", pdkernel.notebook(FLOOD[language]), "--body", "{}", "--json", within=PEAK)
    logs = ended.json["steps"][0]["logs"]

    assert ended.status == 0
    assert KEPT <= sum(len(log["text"]) for log in logs) <= KEPT + MARGIN
    assert "more bytes of output were dropped: the limit is 1,048,576 bytes per step." in logs[-1]["text"]
    assert peak(ended) - peak_of_a_greeting < MEMORY_MIB


def test_a_file_that_is_not_a_database_is_refused(pdkernel: Shell) -> None:
    """A database file of another kind is refused with status 3 by name, and left unchanged."""
    pdkernel("env", "list")
    database = pdkernel.folder / ".pdkernel" / "project.db"
    database.write_bytes(b"not a database at all\n" * 500)

    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}")

    assert ended.status == 3
    assert "project.db is damaged" in ended.stderr
    assert len(ended.lines) <= 15
    assert is_plain(ended)
    assert database.read_bytes().startswith(b"not a database")


def test_a_read_only_project_is_refused(pdkernel: Shell) -> None:
    """A read-only project is refused with status 3 and a fix."""
    pdkernel("env", "list")
    folder = pdkernel.folder / ".pdkernel"
    for path in (folder, *folder.iterdir()):
        path.chmod(0o500 if path.is_dir() else 0o400)

    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}", unprivileged=True)
    folder.chmod(0o700)

    assert ended.status == 3
    assert "cannot be written" in ended.stderr
    assert "--project" in ended.stderr
    assert len(ended.lines) <= 15
    assert is_plain(ended)


def test_a_refused_project_as_json(pdkernel: Shell) -> None:
    """With `--json` an unusable project is an error object."""
    (pdkernel.folder / ".pdkernel").write_text("a file")

    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}", "--json")

    assert ended.status == 3
    assert ended.json["error"]["code"] == "project"
    assert ".pdkernel" in ended.json["error"]["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not UTF-8 text (byte 1)"),
        (b'{"cells": [\n<<<<<<< HEAD\n]}', "line 2, column 1"),
        (b'{"method": "POST", "body": {}}', "it has no list of cells"),
    ],
)
def test_an_invalid_notebook_is_refused(pdkernel: Shell, content: bytes, words: str) -> None:
    """The error names the problem of the file and its place."""
    (pdkernel.folder / "work.ipynb").write_bytes(content)

    ended = pdkernel("run", "work.ipynb", "--body", "{}")

    assert ended.status == 2
    assert "work.ipynb is not a notebook" in ended.stderr
    assert words in ended.stderr
    assert is_plain(ended)


@pytest.mark.parametrize("mode", ["record", "replay"])
def test_a_recording_that_cannot_be_read_refuses_the_run(pdkernel: Shell, mode: str) -> None:
    """No step runs; the error names file and line, with status 2."""
    pdkernel.write("calls.jsonl", '{"key": "a", "step": "work", "nth": 0}\n')
    ran = pdkernel.folder / "ran"
    name = pdkernel.notebook(python(f"open({str(ran)!r}, 'w')"))

    ended = pdkernel("run", name, "--body", "{}", "--egress", f"{mode}=calls.jsonl", "--json")

    assert ended.status == 2
    assert ended.json["error"]["code"] == "recording"
    assert "calls.jsonl, line 1, is not a recorded call" in ended.json["error"]["message"]
    assert [step["status"] for step in ended.json["steps"]] == ["not_run"]
    assert not ran.exists()


@pytest.mark.parametrize("language", LANGUAGES)
def test_ctrl_c_ends_the_step_and_is_recorded(pdkernel: Shell, tmp_path: Path, language: str) -> None:
    """An interrupted command prints the cancelled execution, exits with 1 and leaves no process."""
    up = tmp_path / "up"
    loop = {
        "python": python(f"open({str(up)!r}, 'w').write(str(os.getpid()))\n    while True: pass"),
        "node": node(f"fs.writeFileSync({str(up)!r}, String(process.pid)); for (;;);"),
        "bash": bash(f"echo -n $$ > {up}; while :; do :; done"),
    }
    process = pdkernel.start("run", pdkernel.notebook(loop[language]), "--body", "{}", "--json")
    mark = mark_in(up)

    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)

    ended = Ended(process.returncode, stdout, stderr)
    assert ended.status == 1
    assert ended.json["status"] == "cancelled"
    assert ended.json["steps"][0]["error"]["message"] == "The run was cancelled while this step ran."
    assert process_tree.find_processes([], [mark]) == set()


def mark_in(file: Path) -> str:
    """The environment mark of the process whose number is in *file*."""
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, "the step did not start"
        time.sleep(0.02)
    return psutil.Process(int(file.read_text())).environ()[process_tree.PROCESS_TAG_VARIABLE]
