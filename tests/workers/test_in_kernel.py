"""Steps in the process of the kernel."""

from __future__ import annotations

import json
import linecache
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.model import Step
from pdkernel.workers.in_kernel import InKernelRunner, StepChannel
from tests.builders import python_step

FILE = "/debugger/cell_1.py"


class Kernel:
    """Runs steps here, and stores what they send and print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = InKernelRunner()
        self.lines: list[Any] = []
        self.printed: list[tuple[Stream, bytes]] = []

    def run(
        self,
        step: Step,
        *,
        variables: Mapping[str, str] | None = None,
        site: Path | None = None,
        auth: Mapping[str, Mapping[str, str]] | None = None,
    ) -> StepError | None:
        """The error of *step*."""
        request: dict[str, Any] = {
            "step": step.name,
            "file": FILE,
            "props": {},
            "stores": {},
            "context": {},
            "flow": [],
        }
        request["auth"] = auth or {}
        return self.runner.run_step(
            step,
            request,
            {"trigger": b'{"event": {"n": 7}}'},
            variables=variables or {},
            folder=str(self.folder),
            site_packages=site,
            channel=StepChannel(
                send_line=lambda line: self.lines.append(json.loads(line)),
                call_services=lambda _name, _args: None,
                on_output=lambda stream, data: self.printed.append((stream, data)),
                redact=lambda text: text,
            ),
        )

    @property
    def text(self) -> dict[str, bytes]:
        """The output by stream."""
        return {
            name: b"".join(data for stream, data in self.printed if stream == name) for name in ("stdout", "stderr")
        }


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A process that runs steps in *tmp_path*."""
    return Kernel(tmp_path)


def test_files_of_a_step_are_imported_and_forgotten(kernel: Kernel) -> None:
    """A step in the kernel imports its files; afterwards the kernel has neither their modules nor their folders."""
    body = "from helper import VALUE\nimport helper\nreturn [VALUE, helper.__file__.endswith('helper.py')]"
    step = replace(python_step(body=body), files={"helper.py": "VALUE = 1\n"})
    before = [list(sys.path), "helper" in sys.modules]

    errors = [kernel.run(step), kernel.run(replace(step, files={"helper.py": "VALUE = 2\n"}))]

    assert errors == [None, None]
    assert [line["v"] for line in kernel.lines] == [[1, True], [2, True]]
    assert [list(sys.path), "helper" in sys.modules] == before


def process_state() -> list[object]:
    """What a step may change in the process."""
    return [dict(os.environ), os.getcwd(), sys.stdout, sys.stderr, list(sys.path), sys.breakpointhook]  # noqa: PTH109 (as the step sees the folder)


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_as_before_after_a_step(kernel: Kernel, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step has its own variables, working folder and streams, which end with the step."""
    monkeypatch.setenv("OF_THE_KERNEL", "1")
    before = process_state()
    body = "import os, sys\nprint(os.getcwd(), os.environ['A'], 'OF_THE_KERNEL' in os.environ)\nprint('\\udc80', file=sys.stderr)\nos.environ['B'] = '1'\n"

    error = kernel.run(python_step("look", body + ("1 / 0" if fails else "return 3")), variables={"A": "x"})

    assert process_state() == before
    assert kernel.text == {"stdout": f"{kernel.folder} x False\n".encode(), "stderr": b"\\udc80\n"}
    assert (error is not None) == fails
    assert ("$return_value" in json.dumps(kernel.lines)) == (not fails)
    assert "step_look" not in sys.modules


def test_an_error_has_the_lines_of_the_cell(kernel: Kernel) -> None:
    """The error has the line of the cell, and its stack the file name of the step instead of the debugger's."""
    step = replace(python_step("bad", "raise ValueError('no')"), line_offset=3)

    error = kernel.run(step)

    assert error is not None
    assert (error.name, error.message, error.line) == ("ValueError", "no", 5)
    assert error.stack is not None
    assert f'File "{step.filename}", line 5' in error.stack
    assert FILE not in error.stack
    assert linecache.getline(FILE, 5).strip() == "raise ValueError('no')"


def test_secrets_in_local_variables_are_hidden(kernel: Kernel) -> None:
    """The stack of an error has neither the value of a variable nor a field of an account."""
    body = "import os\na, b = os.environ['A'], pd.inputs['slack']['$auth']['token']\n1 / 0"

    error = kernel.run(
        python_step("bad", body), variables={"A": "value-of-a"}, auth={"slack": {"token": "xoxb-of-slack"}}
    )

    assert error is not None
    assert error.stack is not None
    assert "a = '***'" in error.stack
    assert "b = '***'" in error.stack


async def test_a_coroutine_is_awaited_while_the_kernel_has_an_event_loop(kernel: Kernel) -> None:
    """The handler of a step may be a coroutine; its result and its error are those of the step."""
    source = "import asyncio\nasync def handler(pd):\n    await asyncio.sleep(0)\n    return 5 // pd.steps['trigger']['event']['n']\n"
    step = replace(python_step(), source=source)

    errors = [kernel.run(step), kernel.run(replace(step, source=source.replace("5 //", "1 // 0 *")))]

    assert errors[0] is None
    assert [line["v"] for line in kernel.lines] == [0]
    assert errors[1] is not None
    assert (errors[1].name, errors[1].line) == ("ZeroDivisionError", 5)


def test_a_debugger_that_quits_stops_the_step(kernel: Kernel) -> None:
    """`quit` in the debugger fails the step with a message and the line."""
    error = kernel.run(python_step("stop", "import bdb\nraise bdb.BdbQuit"))

    assert error is not None
    assert (error.name, error.message, error.line) == ("Stopped", "The debugger ended the step.", 4)


def test_an_interrupt_reaches_the_kernel(kernel: Kernel) -> None:
    """An interrupt is not an error of the step."""
    before = process_state()

    with pytest.raises(KeyboardInterrupt):
        kernel.run(python_step("stop", "raise KeyboardInterrupt"))

    assert process_state() == before


def test_modules_of_an_environment_stay_with_it(kernel: Kernel, tmp_path: Path) -> None:
    """Each environment has its own modules: they leave the process after a step, and are the same for the next step."""
    sites = [tmp_path / name for name in ("one", "two", "one-more")]
    for site in sites:
        site.mkdir()
        (site / "a_module_of_a_test.py").write_text(f"name = {site.name!r}\n")
    step = python_step("load", "import a_module_of_a_test as it\nit.count = getattr(it, 'count', 0) + 1\nreturn [it.name, it.count]")  # fmt: skip

    for site in (*sites, sites[0]):
        assert kernel.run(step, site=site) is None
        assert "a_module_of_a_test" not in sys.modules

    assert [line["v"] for line in kernel.lines] == [["one", 1], ["two", 1], ["one-more", 1], ["one", 2]]
