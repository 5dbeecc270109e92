"""
How a Bash step is started.

Knows Bash's command line. An exit status is not an error, as on the platform; a signal is.
"""

from __future__ import annotations

from pathlib import Path

from pdkernel.model import Step
from pdkernel.workers.interpreters import find_bash


def prepare_bash_command(step: Step, folder: Path) -> tuple[list[str], Path]:
    """
    Write the script of *step* into *folder* and return the command that runs it, and the script.

    Raises:
        InterpreterMissingError: There is no Bash.
    """
    script = folder / f"{step.name}.sh"
    # blank lines above, so that bash names the cell's own lines
    script.write_text("\n" * step.line_offset + step.source, encoding="utf-8", errors="replace")
    return [str(find_bash()), "--noprofile", "--norc", str(script)], script
