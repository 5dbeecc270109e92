"""
Reads the cells of a notebook file; nbformat converts older formats, and jupytext reads Python files in percent format.

It also finds the cells that set the outbound policy (`%pdegress`), so that commands obey them without running the notebook.

The parts of a step that its cell's text cannot show are stored under `pdkernel` in the cell's metadata. If text and metadata
disagree, the cell's text wins.

    notes     the step's note, shown in a separate Markdown cell
    extra     `Step.extra`: keys that only the platform understands, and data for writing a definition
    source    the code, if the cell shows it without its byte order mark or with other line ends
    stores    data stores whose prop cannot be written on a magic's line
    props     values that cannot be written in a cell, with the order of all props
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pdkernel.common.safe_files import BYTE_ORDER_MARK, read_file
from pdkernel.errors import DefinitionError, NotebookError
from pdkernel.language.directive import format_block_cell, format_step_cell, parse_step_cell
from pdkernel.model import JSON, Block, Step, StoreBinding

if TYPE_CHECKING:
    from pdkernel.egress import PolicyCell

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def encode_mapping(value: Mapping[str, JSON]) -> JSON:
    """Return *value* for metadata: as JSON text unless its keys are sorted, because Jupyter saves metadata with sorted keys."""
    text = json.dumps(value, ensure_ascii=False)
    return dict(value) if text == json.dumps(value, ensure_ascii=False, sort_keys=True) else text


def decode_mapping(kept: object) -> dict[str, JSON] | None:
    """Return the reverse of `encode_mapping`; None if *kept* is not a mapping."""
    if isinstance(kept, str):
        try:
            kept = json.loads(kept)
        except ValueError:
            return None
    return kept if isinstance(kept, dict) else None


def normalize_source(source: str) -> str:
    """Return *source* as a cell shows it: without a byte order mark, with LF as line ends."""
    return source.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


def restore_source(body: str, stored_source: object) -> str:
    """
    Return the code of a cell, with its original byte order mark and line ends.

    Args:
        body: The cell's text below its magic.
        stored_source: The code in the metadata, if any.

    Returns:
        *stored_source* if the cell still shows it; else *body*, with the original form of each unchanged line.
    """
    if not isinstance(stored_source, str) or not stored_source:
        return body
    if normalize_source(stored_source) == body:
        return stored_source
    before = _LINES.findall(stored_source.removeprefix(BYTE_ORDER_MARK))
    known = [normalize_source(line) for line in before]
    now = _LINES.findall(body)
    end = "\r\n" if sum(line.endswith("\r\n") for line in before) * 2 > len(before) else "\n"
    result: list[str] = []
    matcher = difflib.SequenceMatcher(None, known, now, autojunk=False)
    for kind, start, stop, first, last in matcher.get_opcodes():
        result += before[start:stop] if kind == "equal" else (line.replace("\n", end) for line in now[first:last])
    return (BYTE_ORDER_MARK if stored_source.startswith(BYTE_ORDER_MARK) else "") + "".join(result)


def build_step_cell(step: Step) -> tuple[str, dict[str, JSON]]:
    """
    Return the text and metadata of *step*'s cell, from which `restore_step` builds *step* again.

    The step's apps are left out: `pdkernel.yaml` stores their account choices.
    """
    hidden: dict[str, Any] = {}
    if step.notes is not None:
        hidden["notes"] = step.notes
    if step.extra:
        hidden["extra"] = encode_mapping(step.extra)
    source = normalize_source(step.source)
    if source != step.source:
        hidden["source"] = step.source
    shown = replace(step, source=source, apps=())
    unwritable = [
        store
        for store in step.stores
        if _format_exact_cell(replace(shown, source="", props={}, stores=(store,))) is None
    ]
    if unwritable or {store.prop for store in step.stores} & step.props.keys():
        hidden["stores"] = [[store.prop, store.store] for store in step.stores]
        shown = replace(shown, stores=())
    text = _format_exact_cell(shown)
    if text is None:
        props = {name: value for name, value in step.props.items() if not _fits_in_cell(shown, name)}
        hidden["props"] = encode_stored_values(props, step.props)
        shown = replace(shown, props={name: value for name, value in step.props.items() if name not in props})
        text = _format_exact_cell(shown)
    if text is None:  # each value reads back alone, but not together with the others
        hidden["props"] = encode_stored_values(step.props, step.props)
        text = format_step_cell(replace(shown, props={}))
    return text, hidden


def _fits_in_cell(step: Step, name: str) -> bool:
    return _format_exact_cell(replace(step, source="", props={name: step.props[name]})) is not None


def _format_exact_cell(step: Step) -> str | None:
    """Return the cell of *step*, or None if it does not read back as *step*."""
    try:
        text = format_step_cell(step)
        if not _needs_check(step):
            return text
        back = parse_step_cell(text).step
    except DefinitionError:
        return None
    same = back.props == step.props and list(back.props) == list(step.props)
    return text if same and back.stores == step.stores else None


def _needs_check(step: Step) -> bool:
    """Return whether the cell might not read back the same (a `{{`, an unusual name); the check itself is slow."""
    names = (*step.props, *(store.prop for store in step.stores))
    if not all(name.isidentifier() and name.isascii() for name in names):
        return True
    return any(store.store is not None and not store.store.strip() for store in step.stores) or any(
        _holds_braces(value) for value in step.props.values()
    )


def _holds_braces(value: JSON) -> bool:
    if isinstance(value, dict):
        return any("{{" in key or _holds_braces(item) for key, item in value.items())
    if isinstance(value, list):
        return any(_holds_braces(item) for item in value)
    return isinstance(value, str) and "{{" in value


def restore_step(step: Step, metadata: Mapping[str, Any], *, note: str | None = None) -> Step:
    """
    *step*, completed with the cell's metadata.

    Args:
        step: The step in the cell's text.
        metadata: The cell's metadata under `pdkernel`.
        note: The text of the Markdown cell with the step's note, if any; it wins over the metadata.
    """
    notes = metadata.get("notes")
    return replace(
        step,
        notes=note if note is not None else notes if isinstance(notes, str) else None,
        extra=decode_mapping(metadata.get("extra")) or {},
        source="" if step.uses else restore_source(step.source, metadata.get("source")),
        props=merge_stored_values(step.props, metadata.get("props")),
        stores=_stores(step, metadata.get("stores")),
    )


def build_block_cell(block: Block) -> tuple[str, dict[str, JSON]]:
    """Return the text and metadata of *block*'s cell, from which `restore_block` builds *block* again."""
    notes = {} if block.notes is None else {"notes": block.notes}
    return format_block_cell(block), {**notes, **({"extra": encode_mapping(block.extra)} if block.extra else {})}


def restore_block(block: Block, metadata: Mapping[str, Any], *, note: str | None = None) -> Block:
    """Return *block*, completed with its cell's metadata and note as `restore_step` completes a step."""
    notes = metadata.get("notes")
    notes = note if note is not None else notes if isinstance(notes, str) else None
    return replace(block, notes=notes, extra=decode_mapping(metadata.get("extra")) or {})


def encode_stored_values(values: Mapping[str, JSON], order: Iterable[str]) -> JSON:
    """Return *values*, which a cell cannot show, for metadata, with the *order* of all values."""
    return {"values": encode_mapping(values), "order": list(order)}


def merge_stored_values(shown: Mapping[str, JSON], stored: object) -> Mapping[str, JSON]:
    """Return the values of a cell's text and its metadata; the text wins."""
    given = decode_mapping(stored.get("values")) if isinstance(stored, dict) else None
    if given is None or not isinstance(stored, dict):
        return shown
    values = {**given, **shown}
    order = [name for name in stored.get("order", []) if name in values]
    return {name: values[name] for name in (*order, *values)}


def _stores(step: Step, kept: object) -> tuple[StoreBinding, ...]:
    shown = {store.prop for store in step.stores}
    read = [StoreBinding(*item) for item in kept if item[0] not in shown] if isinstance(kept, list) else []
    return (*read, *step.stores)


METADATA_KEY = "pdkernel"
"""The metadata key for data that a cell's text cannot show; see the head of this module and `notebook_text`."""

_NBFORMAT_VERSION = 4
_PERCENT_SUFFIX = ".py"
_PERCENT_CELL = re.compile(r"^# ?%%", re.MULTILINE)
# comments and blank lines are matched in one way only: a file without a step is searched in linear time
_PERCENT_WORKFLOW = re.compile(
    r"^# ?%% ?.*\n(?:(?!# ?%%)#.*\n|[^\S\n]*\n)*+# ?%%pd(?:step|workflow|if|switch|parallel)\b", re.MULTILINE
)
_MAX_PERCENT_BYTES = 10 * 1024 * 1024
MAX_NOTEBOOK_BYTES = 64 * 1024 * 1024
"""The size up to which a notebook is read: JupyterLab has long become slow there, and only outputs are so large."""
MAX_CELLS_BYTES = 2 * 1024 * 1024
"""The maximum size of a notebook without outputs: up to there it is parsed in this process, within about 20 ms."""
_REMOVAL_TIMEOUT_S = 30
_REMOVE_OUTPUTS = """
import json, sys
notebook = json.loads(sys.stdin.buffer.read().decode("utf-8-sig"))
for holder in [notebook, *(notebook.get("worksheets") or [])]:
    for cell in holder.get("cells") or []:
        cell.pop("outputs", None)
sys.stdout.write(json.dumps({name: notebook[name] for name in ("nbformat", "nbformat_minor", "cells", "worksheets", "metadata") if name in notebook}))
"""
CellType = Literal["code", "markdown", "raw"]
_IPYTHON_CELL_MAGICS = ("%%capture", "%%prun", "%%time", "%%timeit")
"""Cell magics whose body IPython runs; the body of any other cell magic is a step, a file or another language."""
_MAGIC = re.compile(
    r"^(?P<indent>[^\S\n]*)"
    r"(?:(?P<magic>%pdegress\b)|(?P<automagic>pdegress(?=[^\S\n]+[a-z-]+(?:=|[^\S\n]|$)))|(?P<call>.*\bpdegress\b))"
    r"(?P<text>.*)$",
    re.MULTILINE,
)
_CALL = re.compile(r"=\s*%pdegress\b|run_(?:line_)?magic\(")
_STRINGS = re.compile(
    r"#[^\n]*|(?P<long>'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\")"
    r"|'(?:\\[^\n]|[^'\\\n])*'|\"(?:\\[^\n]|[^\"\\\n])*\"",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class NotebookCell:
    """
    One cell.

    Attributes:
        source: The cell's text.
        type: The cell's type; only code cells can be steps.
        id: The cell's id, or None in an old notebook.
        metadata: The cell's metadata, unchanged.
        index: The cell's index in the file, from 0; None for a cell without a file.
        outputs: The saved outputs, as nbformat holds them.
        execution_count: The number that JupyterLab shows beside the cell, or None.
        file_line: The line of a `.py` file with the cell's first line; None for a cell without a directive, or of another file.
    """

    source: str
    type: CellType = "code"
    id: str | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    index: int | None = field(default=None, compare=False)
    outputs: Sequence[Mapping[str, Any]] = field(default=(), compare=False, repr=False)
    execution_count: int | None = field(default=None, compare=False)
    file_line: int | None = field(default=None, compare=False, repr=False)

    @property
    def pdkernel_metadata(self) -> Mapping[str, Any]:
        """The metadata under `pdkernel`."""
        hidden = self.metadata.get(METADATA_KEY)
        return hidden if isinstance(hidden, dict) else {}


def is_notebook_file(path: Path) -> bool:
    """Return whether *path* ends with `.ipynb`, or is a `.py` file in percent format that has a cell of a workflow."""
    if path.suffix == ".ipynb":
        return path.is_file()
    if path.suffix != _PERCENT_SUFFIX:
        return False
    try:
        if path.stat().st_size > _MAX_PERCENT_BYTES:
            return False
        return _PERCENT_WORKFLOW.search(read_file(path).decode("utf-8-sig")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def read_cells(path: Path, *, with_outputs: bool = False) -> tuple[NotebookCell, ...]:
    """
    Return the cells of the notebook at *path*, in the file's order.

    Args:
        path: The file.
        with_outputs: Whether the outputs of a notebook of more than 2 MB are read; a smaller one always has them.

    Raises:
        NotebookError: The file does not exist, is too large, or is not a notebook; the message gives the reason.
    """
    found = enumerate(_read(path, with_outputs=with_outputs).get("cells", ()))
    return tuple(replace(_cell(cell), index=place) for place, cell in found)


def hash_cell(source: str) -> str:
    """Return the hash of a cell's text that its outputs carry, 16 hexadecimal digits; line ends and outer blank lines do not count."""
    text = "\n".join(line.rstrip() for line in source.strip().splitlines())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_output_metadata(source: str) -> dict[str, JSON]:
    """Return the metadata of an output of the cell with the text *source*: `{"pdkernel": {"cell": HASH}}`."""
    return {METADATA_KEY: {"cell": hash_cell(source)}}


def read_output_hash(output: Mapping[str, Any]) -> str | None:
    """Return the hash in the metadata of a saved *output*, or None if it has none."""
    metadata = output.get("metadata")
    hidden = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    found = hidden.get("cell") if isinstance(hidden, dict) else None
    return found if isinstance(found, str) else None


def enumerate_cells(cells: Iterable[NotebookCell]) -> Iterator[tuple[int, NotebookCell]]:
    """Yield *cells* with their indexes; a cell without an index follows the cell before it."""
    place = -1
    for cell in cells:
        place = place + 1 if cell.index is None else cell.index
        yield place, cell


def _read(path: Path, *, with_outputs: bool) -> Mapping[str, Any]:
    try:
        if (size := path.stat().st_size) > MAX_NOTEBOOK_BYTES:
            raise NotebookError(
                f"{path} has {size / 1024**2:.0f} MB, and a notebook may have {MAX_NOTEBOOK_BYTES // 1024**2} MB.",
                fix="Clear its outputs in JupyterLab (Edit, Clear Outputs of All Cells), and save it.",
            )
        content = read_file(path)
        if size > MAX_CELLS_BYTES and path.suffix != _PERCENT_SUFFIX and not with_outputs:
            content = _remove_outputs(path, content)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise NotebookError(f"There is no notebook {path}.") from None
    except UnicodeDecodeError as fault:
        raise NotebookError(f"{path} is not a notebook: it is not UTF-8 text (byte {fault.start + 1}).") from None
    except OSError as fault:
        raise NotebookError(f"{path} cannot be read: {fault.strerror or fault}.") from None
    if path.suffix == _PERCENT_SUFFIX:
        return _read_percent(path, text)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as fault:
        raise NotebookError(
            f"{path} is not a notebook: it is not JSON ({fault.msg} at line {fault.lineno}, column {fault.colno}).",
            fix="Two versions merged by Git leave such marks: open the file in a text editor.",
            line=fault.lineno,
        ) from None
    except RecursionError:
        raise NotebookError(f"{path} is not a notebook: its JSON is nested too deeply.") from None
    except ValueError:  # a number with more digits than Python reads
        # from the start of a number: otherwise each of its digits is one
        number = re.search(rf"(?<!\d)\d{{{sys.get_int_max_str_digits()},}}", text)
        line = text.count("\n", 0, number.start()) + 1 if number else 1
        raise NotebookError(
            f"{path} is not a notebook: it holds a number that is too long (line {line}).", line=line
        ) from None
    return _as_version_4(path, data, text)


def _remove_outputs(path: Path, content: bytes) -> bytes:
    """
    Return the JSON of a large notebook without outputs, which another process has removed.

    A parser in this process would stop its other threads for seconds.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _REMOVE_OUTPUTS],
            input=content,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_REMOVAL_TIMEOUT_S,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as fault:
        raise NotebookError(
            f"{path} cannot be read: it has {len(content) / 1024**2:.1f} MB, and its outputs cannot be left out "
            f"({type(fault).__name__}).",
            fix="Check that the file is a notebook, clear its outputs in JupyterLab, and save it.",
        ) from None
    if len(ran.stdout) > MAX_CELLS_BYTES:
        raise NotebookError(
            f"The cells of {path} have {len(ran.stdout) / 1024**2:.1f} MB without outputs, and may have "
            f"{MAX_CELLS_BYTES // 1024**2} MB.",
            fix="Move data from cells into files.",
        )
    return ran.stdout


def _read_percent(path: Path, text: str) -> Mapping[str, Any]:
    text = text.replace("\r\n", "\n")
    if not _PERCENT_CELL.search(text):
        raise NotebookError(
            f"{path} is not a notebook: it is a Python file without `# %%` cells.",
            fix="Pass a notebook (.ipynb), or a .py file in percent format, as Jupytext writes.",
        )
    import jupytext

    try:
        notebook = cast("dict[str, Any]", jupytext.reads(text, fmt="py:percent"))
    except (TypeError, ValueError, KeyError, AttributeError) as fault:
        raise NotebookError(
            f"{path} is not a notebook that can be read: its header is not Jupytext's ({fault}).",
            fix="Remove the lines from `# ---` to `# ---` at the top of the file.",
        ) from None
    lines = iter(enumerate(text.split("\n"), 1))
    for cell in notebook["cells"]:
        cell.pop("id", None)  # the file has no ids: they would be new at each reading
        written = [line.strip() for line in cell["source"].split("\n")]
        directive = next((line for line in written if line.startswith("%%pd")), None)
        if cell["cell_type"] == "code" and directive is not None:
            found = (number for number, line in lines if line.lstrip("# \t").rstrip() == directive)
            cell["file_line"] = next(found, 0) - written.index(directive)
    return notebook


def _as_version_4(path: Path, data: JSON, text: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise NotebookError(f"{path} is not a notebook: it is JSON, but not an object.")
    cells = data.get("cells", data.get("worksheets"))
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise NotebookError(
            f"{path} is not a notebook: it is JSON, but it has no list of cells.",
            fix="For an event use --event, for a notebook a file that Jupyter has saved.",
        )
    for number, cell in enumerate(cells, 1):
        source = cell.get("source", "")
        if not isinstance(source, str) and not (
            isinstance(source, list) and all(isinstance(each, str) for each in source)
        ):
            raise NotebookError(f"{path} is not a notebook: the source of its cell {number} is not text.")
    if not isinstance(data.get("nbformat"), int):
        raise NotebookError(f"{path} is not a notebook: it has no nbformat.")
    if data["nbformat"] == _NBFORMAT_VERSION:
        # Not passed to nbformat, which would only validate: an invalid output is not an error of the workflow.
        return data
    import nbformat

    try:
        return cast("Mapping[str, Any]", nbformat.convert(nbformat.reader.reads(text), _NBFORMAT_VERSION))
    except (nbformat.ValidationError, ValueError, KeyError, AttributeError, TypeError) as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise NotebookError(f"{path} is not a notebook that can be read: {reason}.") from None


def _cell(cell: Mapping[str, Any]) -> NotebookCell:
    source = cell.get("source", "")
    metadata = cell.get("metadata")
    kind = cell.get("cell_type")
    return NotebookCell(
        source="".join(source),
        type=kind if kind in {"code", "markdown"} else "raw",
        id=cell.get("id"),
        metadata=json.loads(json.dumps(metadata)) if isinstance(metadata, dict) else {},
        outputs=tuple(each for each in cell.get("outputs") or () if isinstance(each, dict)),
        execution_count=count if isinstance(count := cell.get("execution_count"), int) else None,
        file_line=line if isinstance(line := cell.get("file_line"), int) and line > 0 else None,
    )


def find_policy_cells(cells: Iterable[NotebookCell], folder: Path) -> Iterator[PolicyCell]:
    """
    Yield the outbound policies that *cells* set, in order.

    A policy whose line is indented, or that a call of IPython sets, depends on code: its text is None.

    Args:
        cells: All cells of a notebook.
        folder: The notebook's folder.
    """
    for index, cell in enumerate_cells(cells):
        if cell.type != "code" or "pdegress" not in cell.source:
            continue
        source = cell.source.lstrip()
        if source.startswith("%%") and not source.startswith(_IPYTHON_CELL_MAGICS):
            continue
        from pdkernel.egress import PolicyCell  # loads the gateway, which only runs use

        for text in _find_policies(cell.source):
            yield PolicyCell(index + 1, text, folder)


def _find_policies(source: str) -> Iterator[str | None]:
    """Yield the policies that the lines of *source* set; None for one that depends on code."""
    strings = [found.span() for found in _STRINGS.finditer(source) if found["long"]]
    for line in _MAGIC.finditer(source):
        if any(begin < line.start("indent") < end for begin, end in strings):
            continue
        if line["call"] is not None:
            if _CALL.search(line[0].partition("#")[0]):
                yield None
            continue
        if text := _join_words(line["text"]):
            yield None if line["indent"] else text


def _join_words(text: str) -> str:
    """Return the arguments of the magic as it reads them: words without the quotes around blanks."""
    lexer = shlex.shlex(text, posix=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # a quote without an end
        words = text.split()
    return " ".join(word[1:-1] if len(word) > 1 and word[0] == word[-1] in ("'", '"') else word for word in words)
