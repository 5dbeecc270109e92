"""
Blocks in `pdkernel.yaml`: the key `control_flow`, because `workflow.yaml` has the steps of all branches in one list.

    control_flow:
    - name: triage
      type: if
      branches:
      - name: urgent
        condition: steps.check.$return_value.amount >= 1000
        steps: [page, notify]        # steps and blocks of the branch, in order
      - name: else
        runs: always

A block stands above its first step; one without steps has `after`, the step above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pdkernel.errors import DefinitionError, NotebookError, did_you_mean
from pdkernel.language.analysis import with_message
from pdkernel.model import JSON, Block, Branch, Workflow, require_object, split_inside


def build_control_flow(workflow: Workflow) -> tuple[JSON, ...]:
    """Return the blocks of *workflow* as `apply_control_flow` reads them."""
    if not workflow.blocks:
        return ()
    filled = {block.name for step in workflow.steps for block, _ in workflow.branches_around(step.name)}
    return tuple(_build_entry(workflow, block, has_steps=block.name in filled) for block in workflow.blocks)


def _build_entry(workflow: Workflow, block: Block, *, has_steps: bool) -> JSON:
    above = workflow.steps[block.place - 1].name if block.place else None
    fields: dict[str, JSON] = {
        "name": block.name,
        "type": block.type,
        "expression": block.expression,
        "after": None if has_steps else above,
        "notes": block.notes,
        "extra": dict(block.extra) or None,
    }
    branches = [_build_branch(workflow, block, branch) for branch in block.branches]
    return {**{key: value for key, value in fields.items() if value is not None}, "branches": branches}


def _build_branch(workflow: Workflow, block: Block, branch: Branch) -> JSON:
    names: list[JSON] = [entry.name for entry in workflow.entries(f"{block.name}.{branch.name}")]
    decides = {"condition": branch.condition} if branch.runs == "when" else {"runs": branch.runs}
    return {"name": branch.name, **decides, **({"steps": names} if names else {})}


def apply_control_flow(workflow: Workflow, control_flow: Sequence[JSON], *, file: str) -> Workflow:
    """
    Return *workflow*, whose steps are in one list, with the blocks of *control_flow*, which fulfils the schema.

    Args:
        workflow: The workflow of `workflow.yaml`.
        control_flow: The value of the key.
        file: The path of `pdkernel.yaml`, for messages.

    Raises:
        NotebookError: A branch names a step that does not exist, or that another branch has, or steps are not in the order of
            their branches.
    """
    entries = [require_object(entry) for entry in control_flow]
    inside = _find_branches(entries, {step.name for step in workflow.steps}, file)
    steps = [replace(step, inside=inside.get(step.name)) for step in workflow.steps]
    places: dict[str, int] = {}  # of the first step in each block
    for place, step in enumerate(steps):
        for block in _iter_blocks_around(step.name, inside):
            places.setdefault(block, place)
    below = {step.name: place for place, step in enumerate(steps, 1)}
    try:
        blocks = tuple(
            _build_block(entry, inside, places.get(entry["name"], below.get(entry.get("after", ""), 0)))
            for entry in entries
        )
        return replace(workflow, steps=tuple(steps), blocks=blocks)
    except DefinitionError as error:
        message = f"{file}: control_flow: {error.message}"
        fix = "Change the order of the steps, or the branches in pdkernel.yaml."
        raise NotebookError(message, fix=with_message(error, message).fix or fix) from None


def _find_branches(entries: Sequence[Mapping[str, Any]], steps: set[str], file: str) -> dict[str, str]:
    """Return the branch of each step and block that is in one."""
    known = steps | {entry["name"] for entry in entries}
    found: dict[str, str] = {}
    for entry in entries:
        for branch in entry.get("branches", ()):
            for name in branch.get("steps", ()):
                place = f"{entry['name']}.{branch['name']}"
                if name not in known:
                    raise NotebookError(
                        f"{file}: control_flow: the branch {place} has the step {name!r}, and workflow.yaml has no such step.",
                        fix=did_you_mean(name, known, lists_all=False) or "Remove it from the branch, or add the step.",
                    )
                if name in found:
                    raise NotebookError(
                        f"{file}: control_flow: the branches {found[name]} and {place} both have the step {name!r}.",
                        fix="Remove it from one of them.",
                    )
                found[name] = place
    return found


def _build_block(entry: Mapping[str, Any], inside: Mapping[str, str], place: int) -> Block:
    branches = tuple(
        Branch(branch["name"], branch.get("condition"), branch.get("runs", "when"))
        for branch in entry.get("branches", ())
    )
    return Block(
        name=entry["name"],
        type=entry["type"],
        branches=branches,
        expression=entry.get("expression"),
        inside=inside.get(entry["name"]),
        place=place,
        notes=entry.get("notes"),
        extra=entry.get("extra", {}),
    )


def _iter_blocks_around(name: str, inside: Mapping[str, str]) -> Iterator[str]:
    seen: set[str] = set()
    while name in inside and name not in seen:
        seen.add(name)
        name = split_inside(inside[name])[0]
        yield name
