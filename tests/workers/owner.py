"""A process that a test kills: it starts a step, prints a line, and waits."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pdkernel.execution import StepResult
from pdkernel.model import Step
from pdkernel.workers import RunSetup, StepCall, StepRecorder, WorkerPool


def print_output(result: StepResult) -> None:
    """Print the output of the step so far."""
    print("".join(log.text for log in result.logs), end="", flush=True)


async def main(language: Any, source: str, folder: Path) -> None:
    """Run one step, which is expected never to end."""
    setup = RunSetup("run", "w", {"event": {}, "context": {}}, {}, folder)
    workers = await WorkerPool().open_run(setup)
    recorder = StepRecorder("forever", on_change=print_output)
    await workers.run_step(StepCall(Step("forever", language, source), timeout_s=600), recorder)


if __name__ == "__main__":
    language, source, folder = json.loads(sys.argv[1])
    asyncio.run(main(language, source, Path(folder)))
