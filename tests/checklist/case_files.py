"""
Cases: small workflows in files, for each language of a fact.

`cases/NAME.txt` has sections: `=== node` starts the steps of one language, `=== above` the earlier steps of every
language. A folder `cases/NAME/` is a synced workflow with a step for each language.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pdkernel.files.source import load_workflow
from pdkernel.language.directive import parse_step_cell
from pdkernel.model import Step, Trigger, Workflow

FOLDER = Path(__file__).parent / "cases"
ABOVE = "above"
_SECTION = re.compile(r"^=== (\w+)\n", re.MULTILINE)
_CELL = re.compile(r"^(?=%%pdstep )", re.MULTILINE)


def sections(name: str) -> dict[str, str]:
    """The text of each section of a case that is one file."""
    _, *parts = _SECTION.split((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def workflow_of(name: str, language: str, trigger: Trigger) -> Workflow:
    """The workflow of a case in *language*, with *trigger*."""
    if (FOLDER / name).is_dir():
        whole = load_workflow(FOLDER / name)
        languages = {"node", "python", "action"} - {language}
        return replace(
            whole, triggers=(trigger,), steps=tuple(step for step in whole.steps if step.name not in languages)
        )
    found = sections(name)
    steps = (*_steps(found.get(ABOVE, "")), *_steps(found[language]))
    return Workflow("Checklist", triggers=(trigger,), steps=steps)


def _steps(text: str) -> list[Step]:
    return [parse_step_cell(cell.rstrip("\n") + "\n").step for cell in _CELL.split(text)[1:]]


def case_names() -> list[str]:
    """Every case."""
    return sorted({path.stem for path in FOLDER.iterdir()})
