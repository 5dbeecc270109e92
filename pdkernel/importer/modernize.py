"""Rewrites steps of the platform's first version in a workflow that is imported; the imported folder stays as it is."""

from __future__ import annotations

import difflib
from dataclasses import replace

from pdkernel.analysis.old_code import find_old_uses, format_old_uses, modernize
from pdkernel.encode import JsonStruct
from pdkernel.importer.notebook_texts import ImportSource


class StepRewrite(JsonStruct, frozen=True):
    """
    The translation of one step.

    Attributes:
        step: The step's name.
        difference: The unified difference of its code; empty if nothing was rewritten.
        left: What a person has to rewrite, a line for each place of the new code.
    """

    step: str
    difference: str
    left: str

    def json_form(self) -> object:
        """`{"step", "difference", "left"}`."""
        return {"step": self.step, "difference": self.difference, "left": self.left.splitlines()}


def modernize_steps(read: ImportSource) -> tuple[ImportSource, tuple[StepRewrite, ...]]:
    """*read* with the code of its old steps rewritten, and what was rewritten."""
    workflow = read.synced.workflow
    steps, rewrites = [], []
    for step in workflow.steps:
        if step.language != "node" or step.uses or not find_old_uses(step.source):
            steps.append(step)
            continue
        modern = modernize(step.source)
        before, after = (text.splitlines(keepends=True) for text in (step.source, modern.source))
        changes = difflib.unified_diff(before, after, f"{step.name} before", step.name)
        difference = "".join(line if line.endswith("\n") else f"{line}\n" for line in changes)
        rewrites.append(StepRewrite(step.name, difference, format_old_uses(modern.left)))
        steps.append(replace(step, source=modern.source))
    written = replace(workflow, steps=tuple(steps))
    return replace(read, synced=replace(read.synced, workflow=written)), tuple(rewrites)
