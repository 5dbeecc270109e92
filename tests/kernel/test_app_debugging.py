"""Steps with `--debug`, in a real kernel, with the messages of a front end's debugger."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.kernel.conftest import TIMEOUT_S, RunningKernel, text_of

Start = Callable[..., RunningKernel]
EVENT = 'open("event.json", "w").write(\'{"body": {"n": 20}}\');\n%pdevent event.json'
CELL = """%%pdstep build --debug
def handler(pd):
    n = pd.steps["trigger"]["event"]["body"]["n"]
    print("n is", n)
    return n + 1"""
LINE_OF_PRINT = 4


class Debugger:
    """The debugging side of a front end (the Debug Adapter Protocol over the control channel)."""

    def __init__(self, kernel: RunningKernel) -> None:
        self._kernel = kernel
        self._numbers = itertools.count(1)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The body of the response to *command*."""
        client = self._kernel.client
        request = {"type": "request", "seq": next(self._numbers), "command": command, "arguments": arguments}
        message = client.session.msg("debug_request", request)
        client.control_channel.send(message)
        while True:
            reply = client.get_control_msg(timeout=TIMEOUT_S)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                content = reply["content"]
                assert content.get("success"), content
                body = content.get("body") or {}
                assert isinstance(body, dict)
                return body

    def attach(self, cell: str, line: int) -> None:
        """Set a breakpoint at *line* of *cell*."""
        self.ask("initialize", clientID="test", adapterID="", linesStartAt1=True, columnsStartAt1=True, locale="en")
        self.ask("attach")
        path = self.ask("dumpCell", code=cell)["sourcePath"]
        self.ask("setBreakpoints", breakpoints=[{"line": line}], source={"path": path}, sourceModified=False)
        self.ask("configurationDone")


@pytest.fixture
def kernel(start_kernel: Start) -> RunningKernel:
    """A kernel that allows outbound calls, with a chosen event."""
    kernel = start_kernel("pdkernel", PDKERNEL_EGRESS="live")
    kernel.run(EVENT)
    return kernel


def outputs(answers: list[dict[str, Any]]) -> str:
    """All displayed output, as text."""
    return "\n".join(text_of(answer) for answer in answers)


def test_a_breakpoint_set_in_the_cell_stops_the_step(kernel: RunningKernel) -> None:
    """JupyterLab's debugger stops at the cell's line, sees the step's variables, and continues."""
    debugger = Debugger(kernel)
    debugger.attach(CELL, LINE_OF_PRINT)
    cell = kernel.client.execute(CELL)
    while True:
        message = kernel.client.get_iopub_msg(timeout=TIMEOUT_S)
        if message["msg_type"] == "debug_event" and message["content"].get("event") == "stopped":
            break

    thread = message["content"]["body"]["threadId"]
    frame = debugger.ask("stackTrace", threadId=thread)["stackFrames"][0]
    value = debugger.ask("evaluate", expression="n * 2", frameId=frame["id"], context="repl")["result"]
    debugger.ask("continue", threadId=thread)
    shown = outputs(list(kernel.answers(cell)))

    assert (frame["name"], frame["line"], value) == ("handler", LINE_OF_PRINT, "40")
    assert "build" in shown
    assert "n is 20" in shown


def test_other_steps_run_while_a_debugger_is_attached(kernel: RunningKernel) -> None:
    """A step without --debug runs in its worker, and the debugger is in no child process of the kernel."""
    Debugger(kernel).attach(CELL, LINE_OF_PRINT)

    shown = outputs(kernel.run("%%pdstep plain\ndef handler(pd):\n    return 'from a worker'"))

    children = psutil.Process(kernel.manager.provisioner.pid).children(recursive=True)
    assert "from a worker" in shown
    assert children
    assert [child.pid for child in children if "pydevd" in " ".join(child.cmdline())] == []


def test_breakpoint_hides_secrets(kernel: RunningKernel) -> None:
    """`breakpoint()` asks for commands in the cell; its output is redacted, and the step's output is recorded."""
    kernel.run('open(".env", "w").write("TOKEN=tok-0123456789abcdef")')
    text = '%%pdstep look --debug\nimport os\ndef handler(pd):\n    token = os.environ["TOKEN"]\n    breakpoint()\n    print("after")\n    return 1'
    cell = kernel.client.execute(text, allow_stdin=True)
    for command in ("p token", "c"):
        assert kernel.client.get_stdin_msg(timeout=TIMEOUT_S)["msg_type"] == "input_request"
        kernel.client.input(command)

    shown = outputs(list(kernel.answers(cell)))

    assert "tok-0123456789abcdef" not in shown
    assert "env/TOKEN" in shown
    assert "after" in shown


def test_debug_is_refused_in_the_mode_deny(start_kernel: Start) -> None:
    """Calls of the kernel itself cannot be denied, so the step does not run."""
    kernel = start_kernel("pdkernel", PDKERNEL_EGRESS="deny")
    kernel.run(EVENT)

    shown = outputs(kernel.run(CELL))

    assert "the outbound policy 'deny' does not apply" in shown
    assert "n is 20" not in shown


def test_the_kernel_is_unchanged_after_the_step(kernel: RunningKernel) -> None:
    """Variables, folder, import path and streams are restored; later steps get the exports."""
    look = "import os, sys, json; print(json.dumps([sorted(os.environ), os.getcwd(), sys.path, type(sys.stdout).__name__]))"
    before = outputs(kernel.run(look))
    kernel.run(CELL)
    below = outputs(
        kernel.run('%%pdstep below\ndef handler(pd):\n    return {"got": pd.steps["build"]["$return_value"]}')
    )

    assert json.loads(outputs(kernel.run(look))) == json.loads(before)
    assert "21" in below


def test_a_failure_is_at_the_cells_line(kernel: RunningKernel) -> None:
    """A step that fails in the debugger reports the line and its locals, without frames of pdkernel."""
    shown = outputs(kernel.run("%%pdstep bad --debug\nasync def handler(pd):\n    zero = 0\n    return 1 / zero"))

    assert "ZeroDivisionError" in shown
    assert "<step bad>" in shown
    assert "zero = 0" in shown
    assert "python_step" not in shown
