"""An owner of steps that a test kills: starts a step, says so, and waits."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pdkernel.model import Step
from pdkernel.workers import RunSetup, StepCall, WorkerPool


class Teller:
    """Passes a step's first print on, with the marks of every process."""

    def log(self, stream: str, text: str) -> None:
        """Say that the step is up."""
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
    guests = await WorkerPool().open_run(setup)
    await guests.run_step(StepCall(Step("forever", language, source), timeout_s=600), Teller())


if __name__ == "__main__":
    language, source, folder = json.loads(sys.argv[1])
    asyncio.run(main(language, source, Path(folder)))
