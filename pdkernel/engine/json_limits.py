"""
Numbers that do not arrive as they were sent: JavaScript reads every number as a double.

A Python or Bash step can export a whole number that no double holds. Steps in those languages get it exactly, and so
does the record; a Node.js step or an expression gets the nearest double, as on the platform. The step that exported
it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pdkernel.encode import encode_json
from pdkernel.expression import iter_templates
from pdkernel.model import JSON, Step, Workflow
from pdkernel.shape import Segment, format_node_path

_LONG = re.compile(rb"\d{16}")  # 2^53 has 16 digits


def describe_inexact_number(workflow: Workflow, step: Step, exports: Mapping[str, JSON]) -> str | None:
    """A sentence on the first number in *exports* that JavaScript reads as another one, if there is who may read it."""
    if step.language == "node" or not _has_long_number(dict(exports)) or not _is_read_by_javascript(workflow, step):
        return None
    found = list(_iter_inexact_numbers((), dict(exports)))
    if not found:
        return None
    path, number = found[0]
    others = f" (and {len(found) - 1:,} others)" if len(found) > 1 else ""
    return (
        f"{format_node_path(path)}{others} is {_digits(number)}, which JavaScript reads as {_as_javascript(number)}: that is what "
        "Node.js steps and expressions get. Export it as a text to keep every digit."
    )


def _has_long_number(exports: dict[str, JSON]) -> bool:
    """Whether so many digits stand together anywhere; false for most."""
    return _LONG.search(encode_json(exports)) is not None


def _is_read_by_javascript(workflow: Workflow, step: Step) -> bool:
    """Whether JavaScript runs after *step*: a Node.js step, or an expression in a prop."""
    below = workflow.steps[workflow.steps.index(step) + 1 :] if step in workflow.steps else ()
    return any(
        not each.disabled and (each.language == "node" or any(True for _ in iter_templates(each.props)))
        for each in below
    )


def _iter_inexact_numbers(path: tuple[Segment, ...], value: Any) -> Iterator[tuple[tuple[Segment, ...], int]]:
    pending = [(path, value)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [((*path, key), inner) for key, inner in reversed(value.items())]
        elif isinstance(value, list):
            pending += [((*path, index), value[index]) for index in reversed(range(len(value)))]
        elif isinstance(value, int) and not _is_exact(value):
            yield path, value


def _is_exact(number: int) -> bool:
    try:
        return int(float(number)) == number
    except OverflowError:
        return False


def _as_javascript(number: int) -> str:
    try:
        nearest = float(number)
    except OverflowError:
        return "Infinity" if number > 0 else "-Infinity"
    return str(int(nearest)) if abs(nearest) < 1e21 else repr(nearest)


def _digits(number: int) -> str:
    written = str(number)
    return written if len(written) <= 40 else f"{written[:30]}... ({len(written)} digits)"
