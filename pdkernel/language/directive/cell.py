"""A step's whole cell (lines above the magic, the magic, the body), both ways; and which cells are steps or headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pdkernel.errors import DefinitionError, DirectiveError
from pdkernel.language.directive.located_yaml import LocatedYaml, parse_yaml
from pdkernel.language.directive.psych_yaml import ScalarStyle, choose_style, dump_yaml
from pdkernel.language.directive.step_line import STEP_MAGIC, format_step_line, parse_step_line, with_line
from pdkernel.language.expression import find_closing_braces
from pdkernel.language.expression.template import CLOSING_BRACES, OPENING_BRACES
from pdkernel.model import JSON, RESERVED_STEP_NAMES, STEP_NAME, Step


def dump_cell_yaml(value: Mapping[str, JSON]) -> str:
    """Return *value* as a cell's YAML, which `parse_yaml(..., allow_expressions=True)` reads back if a cell can hold it."""
    return "".join(_dump_item(key, item) for key, item in value.items()) or dump_yaml(value)


def _dump_item(key: str, item: JSON) -> str:
    plain = dump_yaml({key: item})
    if OPENING_BRACES not in plain:
        return plain
    tokens = _ExpressionTokens(plain)
    text = tokens.restore(dump_yaml({key: tokens.tokenize(item)}))
    # Unquoted expressions read back by construction; a quoted one beside them can change how the rest is read.
    return text if (tokens.all_hidden and OPENING_BRACES not in key) or _reads_as(text, {key: item}) else plain


def _reads_as(text: str, value: Mapping[str, JSON]) -> bool:
    try:
        return parse_yaml(text, allow_expressions=True).value == value
    except DefinitionError:
        return False


class _ExpressionTokens:
    """Replaces expressions by tokens that do not occur in *text*."""

    def __init__(self, text: str) -> None:
        mark = "q"
        while re.search(rf"x{mark}\d+x", text):
            mark += "q"
        self._mark = mark
        self._hidden: list[str] = []
        self.all_hidden = True

    def tokenize(self, value: Any) -> Any:
        """Return *value* with a token for each expression that can be written without quotes."""
        if isinstance(value, dict):
            return {key: self.tokenize(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.tokenize(item) for item in value]
        if not isinstance(value, str) or OPENING_BRACES not in value:
            return value
        bare = self._bare(value)
        self.all_hidden = self.all_hidden and bare is not None
        return value if bare is None else bare

    def restore(self, text: str) -> str:
        """Return *text* with its expressions."""
        return re.sub(rf"x{self._mark}(\d+)x", lambda match: self._hidden[int(match[1])], text)

    def _bare(self, text: str) -> str | None:
        if "\n" in text or not text.isprintable():
            return None
        parts: list[str] = []
        found: list[str] = []
        position = 0
        while (opening := text.find(OPENING_BRACES, position)) != -1:
            end = find_closing_braces(text, opening + len(OPENING_BRACES))
            if end is None:
                return None
            parts += [text[position:opening], f"x{self._mark}{len(self._hidden) + len(found)}x"]
            found.append(text[opening : end + len(CLOSING_BRACES)])
            position = end + len(CLOSING_BRACES)
        bare = "".join([*parts, text[position:]])
        if choose_style(bare) is not ScalarStyle.PLAIN:
            return None
        self._hidden += found
        return bare


_ABOVE = re.compile(r"\s*(#.*|//.*)?\Z")
_STEP = re.compile(r"\s*%%pdstep(?![\w?])(?P<rest>.*)", re.DOTALL)
_WORKFLOW = re.compile(r"\s*%%pdworkflow(?![\w?])(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StepCell:
    """A step's cell: the step, and whether the cell only registers it (`--no-run`)."""

    step: Step
    no_run: bool


@dataclass(frozen=True, slots=True)
class SplitCell:
    """A cell split at its magic: the rest of the magic's line, the lines below it, and the number of lines above those."""

    line: str
    body: str
    body_offset: int


def split_cell(text: str, magic: re.Pattern[str]) -> SplitCell | None:
    """Return *text* split at *magic* if only comments and blank lines precede the magic, else None."""
    position = 0
    for number, line in enumerate(text.split("\n"), start=1):
        position += len(line) + 1
        if match := magic.match(line):
            return SplitCell(match["rest"].strip(), text[position:], number)
        if not _ABOVE.match(line):
            return None
    return None


def is_step_cell(text: str) -> bool:
    """Return whether the cell is a step: its first line of content starts with `%%pdstep`."""
    return split_cell(text, _STEP) is not None


def is_workflow_cell(text: str) -> bool:
    """Return whether the cell is the workflow's header, `%%pdworkflow`."""
    return split_cell(text, _WORKFLOW) is not None


def split_workflow_cell(text: str) -> SplitCell | None:
    """Return the header's cell, split; None if the cell is not a header."""
    return split_cell(text, _WORKFLOW)


@lru_cache(maxsize=512)  # a notebook's cells are read again at every run, and a step is a frozen value
def parse_step_cell(text: str, *, cell: int | None = None, notes: str | None = None) -> StepCell:
    """
    Parse a step's whole cell.

    Args:
        text: The cell's text.
        cell: Its index in the notebook, or None.
        notes: The step's note, which a cell does not show.

    Raises:
        DirectiveError: The cell is not a step, or its line or props are invalid; `line` counts within the cell.
        StepNameError: The step's name is invalid.
    """
    found = split_cell(text, _STEP)
    if found is None:
        raise DirectiveError(
            f"This is not a step's cell: it does not start with {STEP_MAGIC}.",
            fix=f"Only comments and blank lines may precede {STEP_MAGIC}.",
            line=1,
        )
    try:
        line = parse_step_line(found.line)
    except DefinitionError as error:
        raise with_line(error, found.body_offset) from None
    props: Mapping[str, JSON] = line.props
    located = LocatedYaml(None, {})
    if line.uses:
        props, located = _with_body(props, found, step=line.name)
    step = Step(
        name=line.name,
        language=line.language,
        source="" if line.uses else found.body,
        uses=line.uses,
        apps=line.apps,
        stores=line.stores,
        props=props,
        timeout_s=line.timeout_s,
        disabled=line.disabled,
        debug=line.debug,
        notes=notes,
        line_offset=found.body_offset,
        cell_index=cell,
        prop_lines=located.lines,
        inside=line.inside,
    )
    return StepCell(step, line.no_run)


def build_unreadable_step(text: str, error: DefinitionError, *, cell: int) -> Step:
    """
    Build the step of a cell that cannot be read, so that the other steps of its notebook can run.

    Args:
        text: The text of a cell that starts with `%%pdstep`.
        error: The error of `parse_step_cell`.
        cell: The index of the cell in the notebook.
    """
    found = split_cell(text, _STEP) or SplitCell("", "", 1)
    word = re.sub(r"\W+", "_", found.line.partition(" ")[0], flags=re.ASCII).strip("_")
    is_name = not found.line.startswith("-") and STEP_NAME.match(word) and word not in RESERVED_STEP_NAMES
    return Step(
        name=word if is_name else f"cell_{cell + 1}",
        source=found.body,
        line_offset=found.body_offset,
        cell_index=cell,
        problem=(str(error), error.line or found.body_offset),
    )


def _with_body(props: Mapping[str, JSON], found: SplitCell, *, step: str) -> tuple[dict[str, JSON], LocatedYaml]:
    """Return the props of the line and the body, without duplicates, and the lines of the body's props."""
    located = parse_yaml(found.body, allow_expressions=True, line_offset=found.body_offset, step=step)
    body = {} if located.value is None else located.value
    if not isinstance(body, dict):
        raise DirectiveError(
            f"Step {step}: the body of a --uses cell must be its props, a mapping in YAML.",
            fix="Write NAME: VALUE, one a line.",
            step=step,
            line=located.get_line(()),
        )
    for name in body:
        if name in props:
            raise DirectiveError(
                f"Step {step}: the prop {name!r} is given on the line and in the body.",
                fix="Remove one of the two.",
                step=step,
                line=located.get_line((name,)),
            )
    return {**props, **body}, located


def format_step_cell(step: Step) -> str:
    """
    Return the whole cell of *step*, without its note: what `parse_step_cell` reads back.

    Raises:
        DirectiveError: A prop's name cannot be written in a cell.
    """
    if not step.uses:
        return f"{format_step_line(step)}\n{step.source}"
    line = format_step_line(step, props=False)
    return f"{line}\n{dump_cell_yaml(step.props)}" if step.props else f"{line}\n"
