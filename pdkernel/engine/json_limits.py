"""
Warns about exported integers that JavaScript cannot represent: it reads every number as a double.

A Python or Bash step can export such an integer. Python and Bash steps and the record get it exactly; a Node.js step or
an expression gets the nearest double, as on the platform.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pdkernel.common.encode import DIGITS_TO_ZERO, encode_json
from pdkernel.errors import format_count
from pdkernel.language.expression import iter_templates
from pdkernel.language.shape import Segment, format_node_path
from pdkernel.model import JSON, Step, Workflow

_LONG = b"0" * 16  # 2^53 has 16 digits


def describe_inexact_number(workflow: Workflow, step: Step, exports: Mapping[str, JSON]) -> str | None:
    """Return a warning on the first integer in *exports* that JavaScript would round, if JavaScript runs after *step*."""
    if step.language == "node" or not _is_read_by_javascript(workflow, step) or not _has_long_number(dict(exports)):
        return None
    found = list(_iter_inexact_numbers((), dict(exports)))
    if not found:
        return None
    path, number = found[0]
    others = f" (and {format_count(len(found) - 1, 'other')})" if len(found) > 1 else ""
    return (
        f"{format_node_path(path)}{others} is {_digits(number)}. Node.js steps and expressions read it as "
        f"{_as_javascript(number)}. Export the number as text to keep every digit."
    )


def _has_long_number(exports: dict[str, JSON]) -> bool:
    """Return whether the JSON text has 16 digits in a row: a quick check that is False for most exports."""
    return _LONG in encode_json(exports).translate(DIGITS_TO_ZERO)


def _is_read_by_javascript(workflow: Workflow, step: Step) -> bool:
    """Return whether JavaScript runs after *step*: a Node.js step, or an expression in a prop."""
    below = workflow.steps[workflow.steps.index(step) + 1 :] if step in workflow.steps else ()
    return any(
        not each.disabled and (each.language == "node" or any(True for _ in iter_templates(each.props)))
        for each in below
    )


def _iter_inexact_numbers(
    path: tuple[Segment, ...], value: dict[str, Any]
) -> Iterator[tuple[tuple[Segment, ...], int]]:
    pending = [(path, _items(value))]
    while pending:
        path, items = pending[-1]
        for key, inner in items:
            if isinstance(inner, int):
                if not _is_exact(inner):
                    yield (*path, key), inner
            elif isinstance(inner, dict | list):
                pending.append(((*path, key), _items(inner)))
                break
        else:
            pending.pop()


def _items(value: dict[str, Any] | list[Any]) -> Iterator[tuple[Segment, Any]]:
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


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
