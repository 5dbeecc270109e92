"""
Rewrites the URLs at which workflows call each other: in their files, in variables and in data stores, all of them or none.

Only files that a workflow of SOURCE reads are written: its definition, the code of its steps with the files that they import, a notebook, `.env`.
They are in the folder that was named, and no part of their path below it is a link. All bytes outside of the URLs stay. The change is stored
sealed in the project before the first file is written, so that it can be undone also after a kill.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec

from pdkernel.annex.migration.endpoint_urls import EndpointMap, UrlMatch, UrlState, is_paused_name
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.clock import format_iso
from pdkernel.common.encode import JsonStruct
from pdkernel.common.safe_files import open_inside
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.files.definition import SIDECAR_FILE_NAME
from pdkernel.files.definition.file_plan import WORKFLOW_FILE, iter_step_files
from pdkernel.files.definition.folder_write import write_files_atomically
from pdkernel.files.definition.sidecar import get_notebook_sidecar_path
from pdkernel.files.definition.workflow_document import read_document
from pdkernel.files.source import EVENTS_FOLDER
from pdkernel.language.analysis.platform_uses import find_platform_uses
from pdkernel.storage import Project
from pdkernel.storage.data_stores import StoreRecord

_Filter = Callable[[tuple[str | int, ...]], bool]
PlaceKind = Literal["file", "variable", "record"]
PAUSED_NOTE: Final = (
    "Runs that are paused at Pipedream stay there: the resume_url and cancel_url of such a run were made by Pipedream, end with it, and "
    "cannot be rewritten. Let these runs end there before you switch. Runs here hand out URLs of your server."
)
_HISTORY = "migrate/urls"
_LOCK = "migrate urls"
_ENV_FILE = ".env"
_LATIN = "latin-1"  # each byte is one letter, so a file is the same after decoding and encoding
_MAX_OTHER_FILES = 20_000
_MAX_OTHER_BYTES = 5 * 1024 * 1024
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", EVENTS_FOLDER})
_JSON_TOKEN = re.compile(r'"(?P<text>[^"\\]*+(?:\\.[^"\\]*+)*+)"|[{}\[\]:,]', re.DOTALL)
_PERCENT_MARK = re.compile(r"^# ?%%+(?:[ \t\[][^\n]*)?$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^(?:# ?)?%%pd(?P<kind>[a-z]+)(?:[ \t]+(?P<name>[A-Za-z_]\w*))?", re.MULTILINE)
_TEXT_CELL = re.compile(r"\A# ?%%[^\n]*\[(?:markdown|md|raw)\]")


class UrlPlace(JsonStruct, frozen=True):
    """
    A URL, where it is, and what becomes of it.

    Attributes:
        kind: `file`, `variable`, or `record` of a data store.
        name: The file's path, the variable's name, or STORE/KEY.
        line: The line of the file, or None.
        step: The step, or None.
        old: The URL at Pipedream without path and query; None for the value of a variable, which is never shown.
        workflow: The workflow that it belongs to, or None.
        new: The URL here, or None if it stays; None for the value of a variable.
        state: `rewrite`, or why it stays.
        reason: Why it stays, as a sentence, or the empty string.
    """

    kind: PlaceKind
    name: str
    line: int | None
    step: str | None
    old: str | None
    workflow: str | None
    new: str | None
    state: UrlState
    reason: str = ""


class TextChange(JsonStruct, frozen=True):
    """
    A changed text.

    Attributes:
        kind: The kind of the text.
        folder: The folder that a person named, the data store, or the empty string for a variable.
        name: The path in the folder, the key, or the variable's name.
        before: The hash of the text before.
        after: The hash of the text after.
        edits: Place in the text before, old part and new part, in order.
    """

    kind: PlaceKind
    folder: str
    name: str
    before: str
    after: str
    edits: tuple[tuple[int, str, str], ...]

    @property
    def label(self) -> str:
        """The text's name for a person."""
        match self.kind:
            case "file":
                return str(Path(self.folder) / self.name)
            case "record":
                return f"the record {self.name} of the data store {self.folder}"
            case "variable":
                return f"the variable {self.name}"

    def reverse(self) -> TextChange:
        """Return the change that takes this one back."""
        edits, shift = [], 0
        for start, old, new in self.edits:
            edits.append((start + shift, new, old))
            shift += len(new) - len(old)
        return TextChange(self.kind, self.folder, self.name, self.after, self.before, tuple(edits))

    def apply(self, text: str) -> str:
        """Return *text* with the edits."""
        pieces, end = [], 0
        for start, old, new in self.edits:
            pieces += [text[end:start], new]
            end = start + len(old)
        return "".join([*pieces, text[end:]])


class StoredChange(JsonStruct, frozen=True):
    """Texts that were changed together: `applied`, or `pending` while they are written or after a kill; *at* is the time."""

    state: Literal["pending", "applied"]
    at: str
    changes: tuple[TextChange, ...]


@dataclass(frozen=True)
class UrlPlan:
    """
    What a rewrite does.

    Attributes:
        places: The URLs.
        changes: The texts to change.
        notes: Sentences about what was not searched, and about what cannot be moved.
    """

    places: tuple[UrlPlace, ...]
    changes: tuple[TextChange, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Region:
    """A part of a text that may be rewritten, with its step; `is_paused` if it is the value of a `resume_url` or `cancel_url`."""

    start: int
    end: int
    step: str | None = None
    is_paused: bool = False


@dataclass(slots=True)
class _OwnFile:
    """A file that a workflow reads, below the folder *root*, with the steps whose code it is."""

    root: Path
    is_notebook: bool = False
    steps: list[str] = field(default_factory=list)


def plan_rewrite(sources: Sequence[MigrationSource], endpoints: EndpointMap, project: Project) -> UrlPlan:
    """
    Find the URLs in the files of *sources*, and in the variables and data stores of *project*.

    Args:
        sources: The workflows; those of the API and of archives have no files.
        endpoints: The known endpoints.
        project: The project that serves the workflows.
    """
    search = _Search(endpoints)
    own = _find_own_files(sources)
    for path, owner in own.items():
        search.search_own(path, owner)
    roots = {root for each in sources if each.path is not None and (root := _get_root(each)).is_dir()}
    for path in islice(
        _iter_other_files({root for root in roots if _is_given_as_folder(root, sources)}, own), _MAX_OTHER_FILES
    ):
        search.search_other(path)
    for name, value in sorted(project.variables.values().items()):
        search.search_text("variable", "", name, value, [_Region(0, len(value))])
    for store in project.data_stores.names():
        for record in project.data_stores.iter_records(store):
            text = json.dumps(record.value)
            if endpoints.may_match(text):
                search.search_text("record", store, record.key, text, _list_json_texts(text, lambda _: True))
    unread = [
        f"{each.source} cannot be read, so its files are not changed. {each.error.message}"
        for each in sources
        if each.path is not None and each.error is not None
    ]
    steps = [step for each in sources if each.workflow is not None for step in each.workflow.steps]
    pauses = any(use.kind in ("pause", "resume_url") for step in steps for use in find_platform_uses(step))
    if pauses or any(place.state == "ends" for place in search.places):
        search.notes.append(PAUSED_NOTE)
    return UrlPlan(tuple(search.places), tuple(search.changes), (*unread, *search.notes))


def _get_root(source: MigrationSource) -> Path:
    """Return the folder that a person named to find *source*; for a file, its folder."""
    given = Path(source.given).resolve()
    return given if given.is_dir() else given.parent


def _is_given_as_folder(root: Path, sources: Sequence[MigrationSource]) -> bool:
    return any(each.path is not None and Path(each.given).resolve() == root for each in sources)


def _find_own_files(sources: Sequence[MigrationSource]) -> dict[Path, _OwnFile]:
    """Return the files that the workflows read, by their paths; not all of them exist."""
    found: dict[Path, _OwnFile] = {}
    for each in sources:
        if each.path is None or each.workflow is None:
            continue
        root, path = _get_root(each), each.path.absolute()
        folder = path if path.is_dir() else path.parent
        # the folder was found below the root without a link, so its path can be written with the root's real path
        folder = root / os.path.relpath(folder.resolve(), root)
        if path.is_dir():
            files: list[tuple[str, str | None]] = [(WORKFLOW_FILE, None), (SIDECAR_FILE_NAME, None), (_ENV_FILE, None)]
            files += [(file, step.name) for step in each.workflow.steps for file, _ in iter_step_files(step)]
        else:
            files = [(path.name, None), (get_notebook_sidecar_path(path).name, None), (_ENV_FILE, None)]
            files += [(file, step.name) for step in each.workflow.steps for file in step.files]
        for name, step_name in files:
            is_notebook = path.is_file() and name == path.name
            owner = found.setdefault(Path(os.path.normpath(folder / name)), _OwnFile(root, is_notebook))
            if step_name is not None and step_name not in owner.steps:
                owner.steps.append(step_name)
    return found


def _iter_other_files(roots: Iterable[Path], own: Mapping[Path, _OwnFile]) -> Iterator[Path]:
    """Yield the files below *roots* that no workflow reads, each once; without links, hidden ones, events and recordings."""
    seen = set(own)
    for root in sorted(roots):
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS)
            for name in sorted(files):
                path = Path(folder, name)
                if path not in seen and not name.startswith(".") and not name.endswith(".recorded.jsonl"):
                    seen.add(path)
                    yield path


class _Search:
    def __init__(self, endpoints: EndpointMap) -> None:
        self._endpoints = endpoints
        self.places: list[UrlPlace] = []
        self.changes: list[TextChange] = []
        self.notes: list[str] = []

    def search_own(self, path: Path, owner: _OwnFile) -> None:
        """Search a file that a workflow reads."""
        if not os.path.lexists(path):
            return
        if not path.is_relative_to(owner.root) or path.resolve() != path or not _is_plain(path):
            self.notes.append(f"{path} is a link or outside of {owner.root}: it is not searched and not changed.")
            return
        try:
            text = _read_file(path)
        except OSError as fault:
            self.notes.append(f"{path} cannot be read, so it is not changed: {fault.strerror}.")
            return
        if not self._endpoints.may_match(text):
            return
        names = _find_variable_lines(text) if path.name == _ENV_FILE else None
        relative = str(path.relative_to(owner.root))
        self.search_text("file", str(owner.root), relative, text, _find_regions(path, text, owner), variables=names)

    def search_other(self, path: Path) -> None:
        """Search a file that no workflow reads; it is listed once for each URL, and not changed."""
        try:
            if path.is_symlink() or path.stat().st_size > _MAX_OTHER_BYTES:
                return
            text = _read_file(path)
        except OSError:
            return
        if not self._endpoints.may_match(text):
            return
        known: set[str] = set()
        for match in self._endpoints.find(text):
            if match.state in ("rewrite", "unknown", "no endpoint") and match.host not in known:
                known.add(match.host)
                workflow = match.endpoint.workflow if match.endpoint is not None else None
                reason = "No workflow reads the file as its code, so it stays. Change it by hand, if a step opens it."
                line = text.count("\n", 0, match.start) + 1
                old = f"https://{match.host}"
                self.places.append(UrlPlace("file", str(path), line, None, old, workflow, None, "other file", reason))

    def search_text(
        self,
        kind: PlaceKind,
        folder: str,
        name: str,
        text: str,
        regions: Iterable[_Region],
        *,
        variables: Mapping[int, str] | None = None,
    ) -> None:
        """
        Search the *regions* of a text.

        Args:
            kind: The kind of the text.
            folder: As in `TextChange`.
            name: As in `TextChange`.
            text: The text.
            regions: Its parts that may be rewritten.
            variables: For a file of variables: the name of the variable by line.
        """
        line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
        edits = []
        for region in regions:
            for match in self._endpoints.find(text[region.start : region.end], is_paused_url=region.is_paused):
                if match.host in self._endpoints.keys and name.endswith(SIDECAR_FILE_NAME):
                    continue  # `endpoint: KEY`
                start, end = match.start + region.start, match.end + region.start
                line = bisect_right(line_starts, start)
                is_hidden = kind == "variable" or variables is not None
                step = variables.get(line) if variables is not None else region.step
                self.places.append(_build_place(kind, folder, name, line, step, match, is_hidden=is_hidden))
                if match.state == "rewrite":
                    edits.append((start, text[start:end], match.replacement))
        if edits:
            change = TextChange(kind, folder, name, _hash(text), "", tuple(edits))
            self.changes.append(msgspec.structs.replace(change, after=_hash(change.apply(text))))


def _build_place(
    kind: PlaceKind, folder: str, name: str, line: int, step: str | None, match: UrlMatch, *, is_hidden: bool
) -> UrlPlace:
    shown = {"file": str(Path(folder) / name), "variable": name, "record": f"{folder}/{name}"}[kind]
    endpoint = match.endpoint
    old = None if is_hidden else match.host if match.state == "by hand" else f"https://{match.host}"
    new = endpoint.url if endpoint is not None and match.state == "rewrite" and not is_hidden else None
    workflow = endpoint.workflow if endpoint is not None else None
    return UrlPlace(kind, shown, line if kind == "file" else None, step, old, workflow, new, match.state, match.reason)


def _is_plain(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False  # a name that JSON cannot hold
    return True


def _read_file(path: Path) -> str:
    with open_inside(path.parent, path.name) as stream:
        return stream.read().decode(_LATIN)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ── the parts of files that may be rewritten ───────────────────────────────────────


def _find_regions(path: Path, text: str, owner: _OwnFile) -> list[_Region]:
    if owner.is_notebook:
        return _list_cell_texts(text) if path.suffix == ".ipynb" else _list_percent_cells(text)
    if path.name == WORKFLOW_FILE:
        return _list_step_entries(path, text)
    return [_Region(0, len(text), ", ".join(owner.steps) or None)]


def _list_step_entries(path: Path, text: str) -> list[_Region]:
    """Return the lines of each step of `workflow.yaml`, and those above and below the steps."""
    try:
        document = read_document(path.parent)
    except PdkernelError:
        return [_Region(0, len(text))]
    lines = [0, *(found.end() for found in re.finditer("\n", text))]
    steps = document.data.get("steps")
    marks: list[tuple[int, str | None]] = [(0, None)]
    for place, item in enumerate(steps if isinstance(steps, list) else ()):
        line = document.located.get_line(("steps", place))
        name = item.get("namespace") if isinstance(item, dict) else None
        if line is not None and line <= len(lines):
            marks.append((lines[line - 1], name if isinstance(name, str) else None))
    keys = [(document.located.get_line((key,)) or 1, None) for key in document.data if key != "steps"]
    marks += [(lines[line - 1], None) for line, _ in keys if line <= len(lines)]
    marks.sort(key=lambda mark: mark[0])
    ends = [start for start, _ in marks[1:]] + [len(text)]
    return [_Region(start, end, step) for (start, step), end in zip(marks, ends, strict=True) if start < end]


def _list_percent_cells(text: str) -> list[_Region]:
    """Return the code cells of a `.py` notebook, without the one of the workflow, which has the endpoint's own URL at Pipedream."""
    starts = [found.start() for found in _PERCENT_MARK.finditer(text)]
    regions = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        cell = text[start:end]
        directive = _DIRECTIVE.search(cell)
        if _TEXT_CELL.match(cell) or (directive is not None and directive["kind"] == "workflow"):
            continue
        regions.append(_Region(start, end, directive["name"] if directive is not None else None))
    return regions


def _list_cell_texts(text: str) -> list[_Region]:
    """Return the texts of the code cells of a notebook, and what they hide in metadata; without the cell of the workflow."""
    try:
        cells = json.loads(text.removeprefix("\u00ef\u00bb\u00bf"))["cells"]
        directives = {
            place: _DIRECTIVE.search("".join(cell.get("source") or ""))
            for place, cell in enumerate(cells)
            if cell.get("cell_type") == "code"
        }
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return []
    rewritten = {
        place: found["name"] if found is not None else None
        for place, found in directives.items()
        if found is None or found["kind"] != "workflow"
    }

    def is_code(path: tuple[str | int, ...]) -> bool:
        match path:
            case ("cells", int() as place, "source", *_) | ("cells", int() as place, "metadata", "pdkernel", *_):
                return place in rewritten
        return False

    return [
        _Region(region.start, region.end, rewritten[place], region.is_paused)
        for region, place in _iter_json_texts(text, is_code)
        if place is not None
    ]


def _list_json_texts(text: str, is_rewritten: _Filter) -> list[_Region]:
    return [region for region, _ in _iter_json_texts(text, is_rewritten)]


def _iter_json_texts(text: str, is_rewritten: _Filter) -> Iterator[tuple[_Region, int | None]]:
    """
    Yield the text values of JSON whose path *is_rewritten*, without their quotes, and the second part of the path if it is a number.

    The JSON is valid. Keys are not values.
    """
    path: list[str | int] = []
    is_key = False
    for token in _JSON_TOKEN.finditer(text):
        match token[0]:
            case "{":
                path.append("")
                is_key = True
            case "[":
                path.append(0)
                is_key = False
            case "}" | "]":
                path.pop()
                is_key = False
            case ",":
                last = path[-1]
                is_key = isinstance(last, str)
                if isinstance(last, int):
                    path[-1] = last + 1
            case ":":
                is_key = False
            case _ if is_key:
                path[-1] = token["text"]
            case _:
                place = tuple(path)
                if is_rewritten(place):
                    region = _Region(token.start("text"), token.end("text"), is_paused=any(map(is_paused_name, place)))
                    yield region, place[1] if len(place) > 1 and isinstance(place[1], int) else None


def _find_variable_lines(text: str) -> dict[int, str]:
    """Return the name of the variable on each line of a `.env` file."""
    from dotenv.parser import parse_stream

    found: dict[int, str] = {}
    for binding in parse_stream(StringIO(text)):
        if binding.key is not None:
            blank = len(binding.original.string) - len(binding.original.string.lstrip("\n"))
            count = binding.original.string.strip("\n").count("\n") + 1
            found |= {binding.original.line + blank + offset: binding.key for offset in range(count)}
    return found


# ── writing and undoing ────────────────────────────────────────────────────────────


def apply_rewrite(plan: UrlPlan, project: Project) -> None:
    """
    Write the changes of *plan*: all of them, or none.

    Raises:
        RequestError: A text has changed meanwhile, a file cannot be written, or an earlier rewrite was interrupted; nothing is changed.
    """
    if not plan.changes:
        return
    pending = StoredChange("pending", format_iso(project.clock.now()), plan.changes)
    with project.one_transaction(_LOCK):
        history = _load_history(project)
        if history and history[-1].state == "pending":
            raise RequestError(
                "An earlier rewrite was interrupted, so some texts may have the new URLs and others the old ones.",
                fix="Take it back first: pdkernel migrate urls --undo",
            )
        _save_history(project, (*history, pending))
    applied = msgspec.structs.replace(pending, state="applied")
    try:
        _replace(project, plan.changes, (*history, applied))
    except BaseException:
        _save_history(project, history)
        raise


def undo_rewrite(project: Project) -> StoredChange:
    """
    Take the last rewrite back: all of it, or nothing.

    Raises:
        RequestError: There is none, or a text was changed since.
    """
    with project.one_transaction(_LOCK):
        history = _load_history(project)
        if not history:
            raise RequestError("There is no rewrite to take back.")
        last = history[-1]
        due, changed = [], []
        for change in last.changes:
            current = _read_text(project, change)
            if current is not None and _hash(current) == change.after:
                due.append(change.reverse())
            elif current is None or last.state == "applied" or _hash(current) != change.before:
                changed.append(change.label)
        if changed:
            raise RequestError(
                f"Changed since the rewrite of {last.at}: {', '.join(changed)}. Nothing was taken back.",
                fix="Restore them as the rewrite has left them, for example with Git, or change the URLs by hand.",
            )
        _save_history(project, (*history[:-1], msgspec.structs.replace(last, state="pending")))
    _replace(project, due, history[:-1])
    return last


def _replace(project: Project, changes: Sequence[TextChange], history: Sequence[StoredChange]) -> None:
    """Write *changes* and the new *history*. After an error, everything is as before."""
    written: list[tuple[Path, dict[str, bytes]]] = []
    try:
        with project.one_transaction(_LOCK):
            texts = [(change, _require_text(project, change)) for change in changes]
            for change, text in texts:
                _store_text(project, change, change.apply(text))
            _save_history(project, history)
            _write_files([(change, text) for change, text in texts if change.kind == "file"], written)
    except BaseException:
        for root, before in reversed(written):
            write_files_atomically(before, root)
        raise


def _require_text(project: Project, change: TextChange) -> str:
    text = _read_text(project, change)
    if text is None or _hash(text) != change.before:
        raise RequestError(
            f"{change.label[0].upper()}{change.label[1:]} has changed meanwhile. Nothing was written.",
            fix="Run the command again.",
        )
    return text


def _read_text(project: Project, change: TextChange) -> str | None:
    match change.kind:
        case "variable":
            return project.variables.values().get(change.name)
        case "record":
            record = project.data_stores.find(change.folder, change.name)
            return None if record is None else json.dumps(record.value)
        case "file":
            root, path = Path(change.folder), Path(change.folder, change.name)
            try:
                is_inside = root.resolve() == root and path.resolve() == path and path.is_relative_to(root)
                return _read_file(path) if is_inside else None
            except OSError:
                return None


def _store_text(project: Project, change: TextChange, text: str) -> None:
    """Store the value of a variable or a record; a record expires when it did before."""
    if change.kind == "variable":
        project.variables.set(change.name, text)
    elif change.kind == "record":
        record = project.data_stores.find(change.folder, change.name)
        changed = StoreRecord(change.name, json.loads(text), record.expires if record is not None else None)
        project.data_stores.put_records(change.folder, [changed])


def _write_files(texts: Sequence[tuple[TextChange, str]], written: list[tuple[Path, dict[str, bytes]]]) -> None:
    """Write the files, one folder after the other; *written* gets each folder that is complete, with the bytes before."""
    for root in dict.fromkeys(change.folder for change, _ in texts):
        own = [(change, text) for change, text in texts if change.folder == root]
        write_files_atomically({change.name: change.apply(text).encode(_LATIN) for change, text in own}, Path(root))
        written.append((Path(root), {change.name: text.encode(_LATIN) for change, text in own}))


def _load_history(project: Project) -> tuple[StoredChange, ...]:
    stored = project.secrets.get(_HISTORY)
    return () if stored is None else msgspec.json.decode(stored, type=tuple[StoredChange, ...])


def _save_history(project: Project, history: Sequence[StoredChange]) -> None:
    if history:
        project.secrets.set(_HISTORY, msgspec.json.encode(tuple(history)).decode())
    else:
        project.secrets.remove(_HISTORY)
