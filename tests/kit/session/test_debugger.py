"""Steps with `--debug`, which run in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.loop_thread import LoopThread
from pdkernel.common.redaction import Redactor, Secret
from pdkernel.egress import CallContext, parse_policy
from pdkernel.kit.session.debugger import KernelDebugger
from pdkernel.model import JSON
from pdkernel.workers import RunSetup, StepCall, StepRecorder
from tests.builders import python_step

TOKEN = "tok-0123456789abcdef"


class OtherWorkflow:
    """The services of a step, which get a secret from a triggered workflow."""

    def __init__(self, context: CallContext) -> None:
        self._context = context

    async def call(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """Return the secret, which the step's run redacts from now on."""
        self._context.redactor = Redactor([Secret("env/TOKEN", TOKEN)])
        return TOKEN


def test_breakpoints_hide_the_secrets_that_the_step_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `breakpoint()` prints is redacted with the secrets of the step's run, wherever they come from."""
    debugger = KernelDebugger()
    context = CallContext(
        step="look",
        policy=parse_policy("live"),
        redactor=Redactor(),
        on_call_finished=lambda _: None,
        on_call_refused=lambda _: None,
    )
    step = python_step("look", "token = pd.flow.trigger('other')\nbreakpoint()\nreturn 1")
    setup = RunSetup("run_1", "Test", {"event": {}, "context": {}}, {}, tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("p token\nc\n"))
    loop = LoopThread()

    call = StepCall(step, call_context=context, services=OtherWorkflow(context))
    task: Any = loop.submit(debugger.run_step(call, setup, str(tmp_path), StepRecorder()))
    debugger.run_in_main_thread(task)
    loop.close()

    assert "'⟦secret:env/TOKEN⟧'" in capsys.readouterr().out
