"""
Matches the steps of a notebook to those of a synced folder, renamed steps included.

The order of criteria: name, content, position.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from pdkernel.model import Step


def match_steps(steps: Sequence[Step], folder_steps: Sequence[Step]) -> dict[str, Step]:
    """
    The folder's step for each of *steps*, by name; new steps are left out.

    A renamed step matches by equal content, or by the position of a removed step of the same kind.
    """
    by_name = {step.name: step for step in folder_steps}
    pairs = {step.name: by_name[step.name] for step in steps if step.name in by_name}
    for key in (_content_key, _position_key(steps, folder_steps, pairs)):
        _pair_by(key, steps, folder_steps, pairs)
    return pairs


def is_same_kind(one: Step, other: Step) -> bool:
    """Whether both are code in one language, or the same action in any version."""
    return one.language == other.language and _action(one) == _action(other)


def _action(step: Step) -> str | None:
    return None if step.uses is None else step.uses.rpartition("@")[0]


def _pair_by(
    key: Callable[[Step], Hashable | None], steps: Sequence[Step], folder_steps: Sequence[Step], pairs: dict[str, Step]
) -> None:
    taken = {step.name for step in pairs.values()}
    free: dict[Hashable, list[Step]] = {}
    for step in folder_steps:
        if step.name not in taken and (found := key(step)) is not None:
            free.setdefault(found, []).append(step)
    for step in steps:
        if step.name not in pairs and (found := key(step)) is not None and len(free.get(found, [])) == 1:
            pairs[step.name] = free.pop(found)[0]


def _content_key(step: Step) -> Hashable | None:
    """The step's content, or None if it is too little to identify the step."""
    if step.uses is None:
        return (step.language, step.source) if step.source.strip() else None
    return (step.uses, repr(sorted(step.props.items()))) if step.props else None


def _position_key(
    steps: Sequence[Step], folder_steps: Sequence[Step], pairs: dict[str, Step]
) -> Callable[[Step], Hashable | None]:
    """A key of the step's matched neighbours and its kind."""
    known = {id(step): step.name for step in pairs.values()}
    known |= {id(step): pairs[step.name].name for step in steps if step.name in pairs}
    places: dict[int, Hashable] = {}
    for side in (steps, folder_steps):
        for index, step in enumerate(side):
            if id(step) in known:
                continue
            above = known.get(id(side[index - 1])) if index else "the top"
            below = known.get(id(side[index + 1])) if index + 1 < len(side) else "the end"
            if above is not None and below is not None:
                places[id(step)] = (above, below, step.language, _action(step))
    return lambda step: places.get(id(step))
