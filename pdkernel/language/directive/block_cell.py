"""
A block's whole cell, both ways: `%%pdif`, `%%pdswitch` and `%%pdparallel`, whose body has one branch a line.

    %%pdif triage                                          %%pdswitch route --in triage.urgent
    urgent: steps.check.$return_value.amount >= 1000       expression: steps.user.$return_value.plan
    else:                                                  free: free
                                                           default:
    %%pdparallel notify
    email: always
    sms: steps.user.$return_value.phone != null
    log: never

The body is YAML, except that a condition in the line of its branch is JavaScript as it stands, because YAML would take
`!steps.check.ok` for a tag, `["de"].includes(x)` for a list, and refuse `a ? b : c`. It may continue in indented lines. Rules, a
text in quotes and the values of cases are YAML.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pdkernel.errors import DefinitionError, DirectiveError
from pdkernel.language.directive.cell import SplitCell, dump_cell_yaml, is_step_cell, split_cell
from pdkernel.language.directive.located_yaml import LocatedYaml, parse_yaml
from pdkernel.language.directive.step_line import INSIDE_OPTION, parse_line, with_line
from pdkernel.language.expression import EXPRESSION_KEY, find_closing_braces
from pdkernel.language.expression.template import CLOSING_BRACES, OPENING_BRACES
from pdkernel.model import BLOCK_TYPES, JSON, LAST_BRANCHES, RESERVED_STEP_NAMES, STEP_NAME, Block, BlockType, Branch

BLOCK_MAGICS: Mapping[BlockType, str] = {kind: f"%%pd{kind}" for kind in BLOCK_TYPES}
"""The magic of each type of block."""
_BLOCK = re.compile(rf"\s*%%pd(?:{'|'.join(BLOCK_TYPES)})(?![\w?])(?P<rest>.*)", re.DOTALL)
_TYPE = re.compile(rf"^\s*%%pd({'|'.join(BLOCK_TYPES)})\b", re.MULTILINE)
_YAML_VALUE = re.compile(
    r"\{(?!\{)|[|>][-+0-9]*(?:\s+#.*)?\Z|\"(?:[^\"\\]|\\.)*\"\s*(?:#.*)?\Z|'(?:[^']|'')*'\s*(?:#.*)?\Z"
)
_COMMENT = re.compile(
    r"(?P<text>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|`(?:[^`\\]|\\.)*`)|(?:^|(?<![ \t])[ \t]+)#[^\n]*",
    re.MULTILINE | re.DOTALL,
)
_OTHER_STARTS = " \t:#'\"{[?-"
_WITHOUT_CONDITION: Mapping[str | None, Literal["always", "never"]] = {"always": "always", "never": "never"}
_MAGIC_LINE = re.compile(r"^[ \t]*%%pd\w+[^\n]*", re.MULTILINE)
_NEGATED = re.compile(r"(?<![\w\"'])(op[ \t]*:[ \t]+)(![a-z]+)(?=[ \t]*(?:[,}#]|$))")
"""An operator such as `!exists` without quotes, which YAML reads as a tag."""
_FIRST_TOKEN, _LAST_TOKEN = 0xE100, 0xF8FF  # private use


def is_block_cell(text: str) -> bool:
    """Return whether the cell is a block: its first line of content starts with `%%pdif`, `%%pdswitch` or `%%pdparallel`."""
    return split_cell(text, _BLOCK) is not None


@lru_cache(maxsize=256)  # a notebook's cells are read again at every run, and a block is a frozen value
def parse_block_cell(text: str, *, cell: int | None = None, notes: str | None = None) -> Block:
    """
    Parse a block's whole cell; the block's `place` is 0.

    Args:
        text: The cell's text.
        cell: Its index in the notebook, or None.
        notes: The block's note, which a cell does not show.

    Raises:
        DirectiveError: The cell is not a block, or its line or YAML is invalid; `line` counts within the cell.
        BlockError: Its branches cannot decide what runs.
        StepNameError: The block's name is invalid.
    """
    found = split_cell(text, _BLOCK)
    if found is None:
        raise DirectiveError(
            "This is not a block's cell: it does not start with %%pdif, %%pdswitch or %%pdparallel.",
            fix="Only comments and blank lines may precede the magic.",
            line=1,
        )
    kind = _get_type(text)
    try:
        name, line = parse_line(found.line, BLOCK_MAGICS[kind], (INSIDE_OPTION,), example="triage")
        body = _Body.split(found.body, kind)
        located = parse_yaml(
            body.text,
            allow_expressions=True,
            line_offset=found.body_offset,
            error_class=DirectiveError,
            document_name=f"The block {name}",
        )
        branches, expression = _read_branches(name, kind, body, located)
        return Block(
            name=name,
            type=kind,
            branches=branches,
            expression=expression,
            inside=getattr(line, "in"),
            notes=notes,
            line_offset=found.body_offset,
            cell_index=cell,
            lines={path: number for path, number in located.lines.items() if path},
        )
    except DefinitionError as error:
        raise with_line(error, found.body_offset) from None


def _get_type(text: str) -> BlockType:
    found = _TYPE.search(text)
    assert found is not None
    return next(kind for kind in BLOCK_TYPES if kind == found[1])


@dataclass(frozen=True, slots=True)
class _Body:
    """
    A cell's body as YAML, with a token in the place of each JavaScript.

    Attributes:
        text: The YAML, with as many lines as the body.
        sources: The JavaScript, by its token.
        empty: The branches without a text in their line.
    """

    text: str
    sources: Mapping[str, str]
    empty: frozenset[str]

    @classmethod
    def split(cls, body: str, kind: BlockType) -> _Body:
        """Replace the JavaScript of a body: every condition in the line of its branch, but of a switch block the expression alone."""
        free = (chr(code) for code in range(_FIRST_TOKEN, _LAST_TOKEN + 1) if chr(code) not in body)
        sources: dict[str, str] = {}
        empty: set[str] = set()
        written: list[str] = []
        lines = body.split("\n")
        while len(written) < len(lines):
            line = lines[len(written)]
            name, written_text = _split_branch(line)
            text = _without_comments(written_text)
            if name and not text:
                empty.add(name)
            is_javascript = kind != "switch" or name == EXPRESSION_KEY
            if not name or not text or not is_javascript or _YAML_VALUE.match(written_text):
                written.append(_NEGATED.sub(r'\1"\2"', line))
                continue
            more = _count_continued(lines, len(written) + 1)
            below = lines[len(written) + 1 : len(written) + 1 + more]
            source = _without_comments("\n".join([written_text, *below]))
            token = next(free)
            sources[token] = "\n".join(part.rstrip() for part in source.split("\n") if part.strip())
            written += [f"{name}: {token}", *[""] * more]
        return cls("\n".join(written), sources, frozenset(empty))


def _split_branch(line: str) -> tuple[str, str]:
    """Return the name and the text of `NAME: TEXT`; two empty texts for another line, such as a part of a value in YAML."""
    name, colon, text = line.partition(":")
    if not colon or line[0] in _OTHER_STARTS or text[:1] not in ("", " ", "\t"):
        return "", ""
    return name.rstrip(), text.strip()


def _count_continued(lines: list[str], start: int) -> int:
    """Return how many of *lines* from *start* continue a condition: the indented ones, and blank lines between them."""
    count = 0
    for number, line in enumerate(lines[start:], 1):
        if line.strip() and not line[0].isspace():
            break
        if line.strip():
            count = number
    return count


def _without_comments(source: str) -> str:
    """Return JavaScript without comments of YAML, ` #`, outside of its strings."""
    return _COMMENT.sub(lambda found: found["text"] or "", source)


def _read_branches(
    name: str, kind: BlockType, body: _Body, located: LocatedYaml
) -> tuple[tuple[Branch, ...], str | None]:
    """Return the branches of a block, and the expression of a switch block."""
    value = {} if located.value is None else located.value
    if not isinstance(value, dict):
        raise DirectiveError(
            f"The body of the block {name} is not its branches.",
            fix=f"Write BRANCH: {'VALUE' if kind == 'switch' else 'CONDITION'}, one a line.",
            line=located.get_line(()),
        )
    found: list[Branch] = []
    expression: str | None = None
    for key, read in value.items():
        source = body.sources.get(read) if isinstance(read, str) else None
        if kind == "switch" and key == EXPRESSION_KEY:
            expression = _strip_braces(source if source is not None else "" if read is None else str(read))
        elif kind == "switch" and key in body.empty and read is None and key != LAST_BRANCHES[kind]:
            raise DirectiveError(
                f"The block {name} has no value for {key}.",
                fix=f"Write {key}: VALUE; {key}: null if it is null.",
                line=located.get_line((key,)),
            )
        else:
            found.append(_read_branch(key, kind, read, source))
    return tuple(found), expression


def _read_branch(name: str, kind: BlockType, read: JSON, source: str | None) -> Branch:
    """Return a branch; *source* is its JavaScript if that stands in the line of the branch, else *read* is its YAML."""
    if read is None and (kind != "switch" or name == LAST_BRANCHES[kind]):
        return Branch(name, runs="always")
    if source in _WITHOUT_CONDITION:
        return Branch(name, runs=_WITHOUT_CONDITION[source])
    condition = read if source is None else source
    return Branch(name, _strip_braces(condition) if kind != "switch" and isinstance(condition, str) else condition)


def _strip_braces(source: str) -> str:
    """Return *source* without braces around all of it, which props need and conditions do not."""
    text = source.strip()
    start, end = len(OPENING_BRACES), len(text) - len(CLOSING_BRACES)
    if text.startswith(OPENING_BRACES) and find_closing_braces(text, start) == end:
        return text[start:end].strip()
    return source


def format_block_cell(block: Block) -> str:
    """Return the whole cell of *block*, without its note: what `parse_block_cell` reads back."""
    inside = [] if block.inside is None else [INSIDE_OPTION.flag, block.inside]
    lines = [shlex.join([BLOCK_MAGICS[block.type], block.name, *inside])]
    if block.type == "switch":
        lines.append(_format_source(block.type, EXPRESSION_KEY, block.expression or ""))
    for branch in block.branches:
        if branch.runs != "when":
            lines.append(f"{branch.name}:" if block.type in LAST_BRANCHES else f"{branch.name}: {branch.runs}")
        elif isinstance(branch.condition, str) and block.type != "switch":
            lines.append(_format_source(block.type, branch.name, branch.condition))
        else:
            yaml = dump_cell_yaml({branch.name: branch.condition})
            lines.append(_choose(block.type, branch.name, branch.condition, yaml))
    return "\n".join(lines)


def _format_source(kind: BlockType, name: str, source: str) -> str:
    """Return the line of JavaScript as it stands if it reads back, else as a text of YAML."""
    return _choose(kind, name, source, f"{name}: {source}", dump_cell_yaml({name: source}))


def _choose(kind: BlockType, name: str, value: JSON, *texts: str) -> str:
    """Return the first of *texts* that reads back as *value*; JSON without braces always does."""
    escaped = json.dumps(value, ensure_ascii=False).replace(OPENING_BRACES, "{\\u007b")
    return next((text.rstrip("\n") for text in texts if _reads_as(kind, name, text, value)), f"{name}: {escaped}")


def _reads_as(kind: BlockType, name: str, text: str, value: JSON) -> bool:
    body = _Body.split(text.rstrip("\n"), kind)
    try:
        branches, expression = _read_branches("", kind, body, parse_yaml(body.text, allow_expressions=True))
    except DefinitionError:
        return False
    if kind == "switch" and name == EXPRESSION_KEY:
        return (expression, branches) == (value, ())
    # as JSON: in Python, true equals 1
    return [(each.name, each.runs, json.dumps(each.condition)) for each in branches] == [
        (name, "when", json.dumps(value))
    ]


def build_unreadable_block(text: str, error: DefinitionError, *, cell: int) -> Block:
    """
    Build the block of a cell that cannot be read, so that steps outside of it can run.

    Args:
        text: The text of a cell that starts with the magic of a block.
        error: The error of `parse_block_cell`.
        cell: The index of the cell in the notebook.
    """
    found = split_cell(text, _BLOCK) or SplitCell("", "", 1)
    word = re.sub(r"\W+", "_", found.line.partition(" ")[0], flags=re.ASCII).strip("_")
    is_name = not found.line.startswith("-") and STEP_NAME.match(word) and word not in RESERVED_STEP_NAMES
    return Block(
        name=word if is_name else f"cell_{cell + 1}",
        type=_get_type(text),
        line_offset=found.body_offset,
        cell_index=cell,
        problem=(str(error), error.line or found.body_offset),
    )


def rename_block(text: str, old: str, new: str) -> str:
    """
    Return the *text* of a step's or block's cell after the block *old* was renamed to *new*; unchanged if it does not name the block.

    The block's own cell gets the name, and `--in OLD.BRANCH` becomes `--in NEW.BRANCH`. Reads of `steps.OLD` in code and
    conditions stay, as the platform leaves them.
    """
    found = _MAGIC_LINE.search(text)
    if found is None or not (is_block_cell(text) or is_step_cell(text)):
        return text
    line = re.sub(rf"(?<=\s)(--in[\s=]+['\"]?){re.escape(old)}(?=\.)", rf"\g<1>{new}", found[0])
    if is_block_cell(text):
        line = re.sub(rf"(%%pd\w+\s+['\"]?){re.escape(old)}(?!\w)", rf"\g<1>{new}", line, count=1)
    return text[: found.start()] + line + text[found.end() :]
