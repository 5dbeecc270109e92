"""A process that a test kills: it starts a step, prints a line, and waits."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pdkernel.model import Step
from pdkernel.workers import RunSetup, StepCall, WorkerPool


class PrintingListener:
    """Prints the output of a step."""

    def log(self, stream: str, text: str) -> None:
        """Print the step's first output."""
        print(text, end="", flush=True)

    def report_progress(self, text: str) -> None:
        """Not needed."""

    def export(self, name: str, value: Any) -> None:
        """Not needed."""

    def respond(self, response: dict[str, Any]) -> None:
        """Not needed."""


async def main(language: Any, source: str, folder: Path) -> None:
    """Run one step, which is expected never to end."""
    setup = RunSetup("run", "w", {"event": {}, "context": {}}, {}, folder, folder)
    workers = await WorkerPool().open_run(setup)
    await workers.run_step(StepCall(Step("forever", language, source), timeout_s=600), PrintingListener())


if __name__ == "__main__":
    language, source, folder = json.loads(sys.argv[1])
    asyncio.run(main(language, source, Path(folder)))
