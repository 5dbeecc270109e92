"""
The workflow model: triggers, ordered steps and blocks as frozen values, with the platform's rules for names.

Steps and blocks form one list in the order of their cells. A step or a block that is part of a branch names it in `inside`, so a
moved cell changes nothing else. The entries of a block follow it, and end at the next entry outside of the block.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar, get_args

from pdkernel.errors import (
    BlockError,
    DefinitionError,
    DuplicateStepError,
    StepNameError,
    UnknownStepError,
    did_you_mean,
)

T = TypeVar("T")
JSON: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

Language = Literal["python", "node", "bash", "go"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
LANGUAGE_NAMES: Mapping[Language, str] = {"python": "Python", "node": "Node.js", "bash": "Bash", "go": "Go"}

TriggerType = Literal["http", "schedule", "email", "source", "errors", "emit"]
HttpAuth = Literal["none", "bearer", "oauth"]
ResponseMode = Literal["default", "custom"]

DEFAULT_TIMEOUT_S: Mapping[str, float] = {**dict.fromkeys(get_args(TriggerType), 60.0), "http": 30.0, "email": 30.0}
"""Seconds that a step may run, by trigger type, if `settings.lambda_timeout` is not set (platform limits page)."""

MAX_PROP_BYTES = 64 * 1024  # of a prop's value as written, also of an expression (components reference, "prop limits")
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024  # of the event, the exports and the logs of one run together
STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
VARIABLE_NAME = STEP_NAME  # of an environment variable
RESERVED_STEP_NAMES = frozenset({"trigger"})


def require_object(value: JSON) -> dict[str, Any]:
    """Return *value*; it must be an object."""
    assert isinstance(value, dict)
    return value


def check_step_name(name: str) -> str:
    """
    Return *name* if `steps.<name>` is valid in every language.

    Raises:
        StepNameError: *name* has a character other than letters, digits and underscores, starts with a digit, or is
            `trigger`.
    """
    if name in RESERVED_STEP_NAMES:
        raise StepNameError(
            f"A step cannot be called {name!r}: steps.{name} is the event that started the workflow.",
            fix="Choose another name.",
            step=name,
        )
    if not STEP_NAME.match(name):
        suggestion = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "my_step"
        if suggestion[0].isdigit():
            suggestion = f"step_{suggestion}"
        raise StepNameError(
            f"{name!r} is not a valid step name: in steps.NAME, NAME has letters, digits and underscores, and starts with a "
            "letter or an underscore.",
            fix=f"Call it {suggestion!r}.",
            step=name,
        )
    return name


ACCOUNT_KEY = "authProvisionId"  # the key of an account's id in the value of an app prop


def get_app_slug(key: str) -> str:
    """Return the app slug of a public component's *key*: `google_sheets` of `google_sheets-add-single-row@2.1.2`."""
    return "" if key.startswith("@") else key.partition("-")[0]


@dataclass(frozen=True, slots=True)
class AppBinding:
    """
    An app prop of a step and the account that fills it.

    Attributes:
        prop: The prop's name in the step, `this.<prop>` or `pd.inputs["<prop>"]`.
        app: The app's slug.
        account: The id (`apn_...`) of an account of your own, or None for the external user's account.
    """

    prop: str
    app: str
    account: str | None = None


@dataclass(frozen=True, slots=True)
class StoreBinding:
    """A data store prop of a step; *store* is the store's name, or None for the project's default store."""

    prop: str
    store: str | None = None


FOR_EACH_USER = "external_user"
"""The value of a schedule's `for_each` that selects every external user of the environment."""
DEFAULT_AT_ONCE = 10
"""Runs of one tick that execute at once, unless the schedule's `for_each` sets another number."""


@dataclass(frozen=True, slots=True)
class ForEach:
    """
    The external users for which one tick of a schedule runs its workflow: the setting `for_each`.

    Attributes:
        users: The ids of the users, or None for all users of the environment.
        having: Slugs of apps: users without an account of one of them are left out.
        without: Ids of users that are left out.
        environment: The users' environment, `development` or `production`.
        at_once: The maximum number of runs that execute at once.
    """

    users: tuple[str, ...] | None = None
    having: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    environment: str = "development"
    at_once: int = DEFAULT_AT_ONCE

    @classmethod
    def from_setting(cls, setting: JSON) -> Self:
        """Read a setting that `directive.parse_trigger` has checked: `external_user`, or a mapping."""
        given = setting if isinstance(setting, dict) else {}
        users = given.get("external_user")
        return cls(
            tuple(users) if isinstance(users, list) else None,
            tuple(given.get("having", ())),
            tuple(given.get("except", ())),
            given.get("environment", "development"),
            given.get("at_once", DEFAULT_AT_ONCE),
        )

    def __str__(self) -> str:
        chosen = "each external user" if self.users is None else ", ".join(self.users)
        having = f" with {' and '.join(self.having)}" if self.having else ""
        without = f" except {', '.join(self.without)}" if self.without else ""
        return f"{chosen}{having}{without} ({self.environment}, {self.at_once} at once)"


@dataclass(frozen=True, slots=True)
class Trigger:
    """
    A trigger of a workflow.

    Attributes:
        type: The type of trigger.
        auth: The authorization of an HTTP trigger.
        token_env: For `auth: bearer`, the environment variable that holds the token.
        response: For an HTTP trigger, whether the platform or the workflow sends the response.
        config: Further settings of the type (`cron`, `interval_seconds`, `timezone`, `for_each`, `uses`, `app`, `props`,
            `workflows`, `channel`).
    """

    type: TriggerType = "http"
    auth: HttpAuth = "none"
    token_env: str | None = None
    response: ResponseMode = "default"
    config: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def for_each(self) -> ForEach | None:
        """The external users for which each tick of a schedule runs the workflow; None for one run without a user."""
        setting = self.config.get("for_each") if self.type == "schedule" else None
        return None if setting is None else ForEach.from_setting(setting)


ROUND_TRIP_KEY = "pdkernel"  # the key in `extra` for data of a definition that pdkernel does not use but writes back


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step: a cell, or one entry of `workflow.yaml`.

    Attributes:
        name: The name in `steps.<name>`.
        language: Language of the code; pre-built actions are Node.js.
        source: The code exactly as in `entry.py` or `entry.js`; empty for an action.
        uses: Key and version of a pre-built action (`slack-send-message@0.0.20`), or None.
        apps: App props that the directive names.
        stores: Data store props that the directive names.
        props: Values for the other props; strings may contain `{{ }}`.
        timeout_s: The step's own time limit in seconds, or None for the workflow's.
        disabled: Whether the step is skipped.
        debug: Whether a Python step runs in the kernel, for the debugger.
        notes: The step's note, or None.
        line_offset: Lines of the cell above the first line of *source*; 0 for a file.
        cell_index: Index of the notebook cell (the first is 0), or None for a folder.
        execution_count: The number that JupyterLab shows beside the cell, `[3]`, or None.
        file: For a workflow read from files, the path of the file with the code, for messages; else None.
        file_line: The line of *file* with the first line of the cell, or of a folder's code; None for a `.ipynb` file.
        prop_lines: Line of each prop value by its path, for error messages: a line of the cell or of *props_file*. A value
            without an entry is on the directive's line.
        props_file: For a folder, the name of the file that holds the props; None for a cell.
        problem: Why the cell cannot be read as a step, and the line of the cell; such a step does not run. None for a step.
        extra: Fields of a definition that this model does not use, stored for writing them back.
        files: Files that the code imports, by their path from the folder of the step's entry file (`x.mjs`, `../lib/y.py`).
        inside: The branch that the step is part of, `BLOCK.BRANCH`, or None at the outer level.
    """

    name: str
    language: Language = "python"
    source: str = ""
    uses: str | None = None
    apps: tuple[AppBinding, ...] = ()
    stores: tuple[StoreBinding, ...] = ()
    props: Mapping[str, JSON] = field(default_factory=dict)
    timeout_s: float | None = None
    disabled: bool = False
    debug: bool = False
    notes: str | None = None
    line_offset: int = 0
    cell_index: int | None = None
    execution_count: int | None = field(default=None, compare=False)
    file: str | None = field(default=None, compare=False)
    file_line: int | None = field(default=None, compare=False)
    prop_lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict, compare=False, repr=False)
    props_file: str | None = field(default=None, compare=False)
    extra: Mapping[str, JSON] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    problem: tuple[str, int] | None = None
    inside: str | None = None

    def __post_init__(self) -> None:
        check_step_name(self.name)

    @property
    def filename(self) -> str:
        """The file name of the step's code in a stack trace."""
        return f"<step {self.name}>"

    @property
    def dollar_name(self) -> str:
        """The name of the API object in the step's language: `pd` in Python, `$` otherwise."""
        return "pd" if self.language == "python" else "$"

    def locate_prop(self, *path: str | int) -> tuple[int | None, str]:
        """
        Locate the value of a prop for an error message.

        Returns:
            The line in the cell or None, and a suffix for the message: empty for a cell, ` (workflow.yaml, line 12)` for a
            folder.
        """
        lines = (self.prop_lines.get(path[:length]) for length in range(len(path), 0, -1))
        line = next((line for line in lines if line is not None), None)
        if self.props_file is not None:
            return None, f" ({self.props_file}, line {line})" if line is not None else f" ({self.props_file})"
        return line or self.line_offset or None, ""

    @property
    def is_code_missing(self) -> bool:
        """Whether the step has no code because the entry file that the definition names was missing."""
        kept = self.extra.get(ROUND_TRIP_KEY)
        return isinstance(kept, dict) and kept.get("missing") is True and not self.source

    @property
    def unknown_condition(self) -> str | None:
        """The JSON path of the part of Pipedream's archive that may say when the step runs, or None; the import has disabled such a step."""
        kept = self.extra.get(ROUND_TRIP_KEY)
        found = kept.get("condition") if isinstance(kept, dict) else None
        return found if isinstance(found, str) else None

    @property
    def picked_options(self) -> dict[str, JSON]:
        """The values, with labels, of options that were picked in the builder, by prop. A value that was changed is left out."""
        kept = self.extra.get(ROUND_TRIP_KEY)
        picked = kept.get("picked") if isinstance(kept, dict) else None
        return {
            prop: option.get("written")
            for prop, option in (picked.items() if isinstance(picked, dict) else ())
            if isinstance(option, dict) and prop in self.props and option.get("value") == self.props[prop]
        }


BlockType = Literal["if", "switch", "parallel"]
BLOCK_TYPES: tuple[BlockType, ...] = get_args(BlockType)
LAST_BRANCHES: Mapping[BlockType, str] = {"if": "else", "switch": "default"}
"""The branch of an if or switch block that runs if no other does: it comes last, and always has this name."""


@dataclass(frozen=True, slots=True)
class Branch:
    """
    One branch of a block.

    Attributes:
        name: The name in `--in BLOCK.BRANCH`, and in the exports of a parallel block.
        condition: When the branch runs. For if and parallel blocks, a JavaScript expression without braces, or rules of the
            platform, `{t: and|or, r: [{a, op, b}]}`. For a switch block, the value of the case, whose texts may contain `{{ }}`,
            or rules without `a`, which compare the block's value.
        runs: `when` the condition holds, `always` (`else` and `default` too), or `never`.
    """

    name: str
    condition: JSON = None
    runs: Literal["when", "always", "never"] = "when"


@dataclass(frozen=True, slots=True)
class Block:
    """
    A block: a cell whose branches contain the steps and blocks that name them in `inside`.

    Attributes:
        name: The name in `steps.<name>.$return_value`; unique among steps and blocks.
        type: `if` runs the first branch that applies, `switch` that of the first equal case, `parallel` all that apply.
        branches: The branches in order.
        expression: For a switch block, the JavaScript expression, without braces, that is compared with the cases.
        inside: The branch that the block is part of, `BLOCK.BRANCH`, or None at the outer level.
        place: The number of the workflow's steps above the block.
        notes: The block's note, or None.
        line_offset: Lines of the cell above the first branch; 0 for a file.
        cell_index: Index of the notebook cell (the first is 0), or None for a folder.
        execution_count: The number that JupyterLab shows beside the cell, `[3]`, or None.
        file: For a workflow read from files, the path of the file with the block, for messages; else None.
        file_line: The line of *file* with the first line of the cell; None for a `.ipynb` file.
        lines: The line of each branch and of the parts of its condition, by its path (`("urgent", "r", 0)`), in the cell.
        problem: Why the cell cannot be read as a block, and the line of the cell; such a block does not run. None for a block.
        extra: Fields of a definition that this model does not use, stored for writing them back.
    """

    name: str
    type: BlockType
    branches: tuple[Branch, ...] = ()
    expression: str | None = None
    inside: str | None = None
    place: int = 0
    notes: str | None = None
    line_offset: int = 0
    cell_index: int | None = None
    execution_count: int | None = field(default=None, compare=False)
    file: str | None = field(default=None, compare=False)
    file_line: int | None = field(default=None, compare=False)
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict, compare=False, repr=False)
    problem: tuple[str, int] | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_step_name(self.name)
        if self.problem is None:
            problem = next(_find_branch_problems(self), None)
            if problem is not None:
                raise problem

    def branch(self, name: str) -> Branch:
        """
        Return the branch called *name*.

        Raises:
            BlockError: There is no such branch; the message suggests others.
        """
        found = next((branch for branch in self.branches if branch.name == name), None)
        if found is None:
            names = [branch.name for branch in self.branches]
            raise BlockError(
                f"The block {self.name} has no branch {name!r}.",
                fix=did_you_mean(name, names) or "Write the name of one of its branches.",
                step=self.name,
            )
        return found

    def locate(self, *path: str | int) -> int | None:
        """Return the line of the cell with the part of a branch at *path*, or with the nearest part around it."""
        lines = (self.lines.get(path[:length]) for length in range(len(path), 0, -1))
        return next((line for line in lines if line is not None), self.line_offset or None)


def _find_branch_problems(block: Block) -> Iterator[BlockError]:
    """Yield why the branches of *block* cannot decide what runs."""
    if block.type == "switch" and not (block.expression or "").strip():
        yield _branch_problem(block, "has no expression to compare with its cases", "Write expression: JAVASCRIPT.")
    seen: set[str] = set()
    for number, branch in enumerate(block.branches, 1):
        if not STEP_NAME.match(branch.name):
            fix = re.sub(r"\W+", "_", branch.name, flags=re.ASCII).strip("_")
            what = f"has a branch called {branch.name!r}: a name has letters, digits and underscores, and starts with no digit"
            yield _branch_problem(block, what, f"Call it {fix if STEP_NAME.match(fix) else 'branch_1'!r}.", branch)
        elif block.type == "switch" and branch.name == "expression":
            yield _branch_problem(
                block, "has a branch called 'expression', as its own expression", "Rename it.", branch
            )
        elif branch.name in seen:
            yield _branch_problem(block, f"has two branches called {branch.name!r}", "Rename one of them.", branch)
        seen.add(branch.name)
        if (fault := _find_condition_fault(block, branch, is_last=number == len(block.branches))) is not None:
            yield _branch_problem(block, *fault, branch)


def _find_condition_fault(block: Block, branch: Branch, *, is_last: bool) -> tuple[str, str] | None:
    """Return what is wrong with when *branch* runs, and what to do; None if nothing is."""
    last = LAST_BRANCHES.get(block.type)
    what = "VALUE" if block.type == "switch" else "CONDITION"
    if last is not None and branch.name == last:
        if branch.runs != "always":
            return f"has a {what.lower()} for {last}, which runs if no other branch does", f"Write {last}: without one."
        return None if is_last else (f"has branches below {last}, which would never run", f"Write {last}: last.")
    if last is not None and branch.runs != "when":
        return f"has no {what.lower()} for {branch.name}", f"Write {branch.name}: {what}; only {last}: has none."
    if branch.runs == "when" and block.type != "switch" and not _is_condition(branch.condition):
        return (
            f"has a condition for {branch.name} that is neither JavaScript nor rules",
            "Write an expression, or {t: and, r: [{a, op, b}]}.",
        )
    return None


def _is_condition(condition: JSON) -> bool:
    return bool(condition.strip()) if isinstance(condition, str) else isinstance(condition, dict)


def _branch_problem(block: Block, what: str, fix: str, branch: Branch | None = None) -> BlockError:
    line = block.line_offset or None if branch is None else block.locate(branch.name)
    return BlockError(f"The block {block.name} {what}.", fix=fix, step=block.name, line=line)


_MAX_COMPARED = 50
"""Names with which an unknown one is compared for a suggestion, because a comparison is slow and many cells can be wrong."""
Entry: TypeAlias = Step | Block
"""A step or a block of a workflow."""


def split_inside(inside: str) -> tuple[str, str]:
    """Return the block and the branch of `BLOCK.BRANCH`."""
    block, _, branch = inside.partition(".")
    return block, branch


class _Placed(Protocol):
    @property
    def place(self) -> int: ...


S = TypeVar("S")
P = TypeVar("P", bound=_Placed)


def merge_entries(steps: Sequence[S], blocks: Iterable[P]) -> tuple[S | P, ...]:
    """Return *steps* and *blocks* in the order of their cells."""
    found: list[S | P] = []
    taken = 0
    for block in blocks:
        found += (*steps[taken : block.place], block)
        taken = max(taken, block.place)
    return (*found, *steps[taken:])


def find_structure_errors(entries: Iterable[Entry]) -> Iterator[tuple[Entry, DefinitionError]]:
    """
    Yield each of *entries* that is at a wrong place, with the error: its block or branch is missing, below it, or ended above it.

    Args:
        entries: Steps and blocks in the order of their cells. One with a `problem` ends no block, because its branch is unknown, and
            such a block has any branch that a cell names.
    """
    entries = tuple(entries)
    blocks = {entry.name: entry for entry in entries if isinstance(entry, Block)}
    open_blocks: list[str] = []
    ended: dict[str, str] = {}  # the first entry outside, by block
    for entry in entries:
        name = "" if entry.inside is None else split_inside(entry.inside)[0]
        if name and (error := _find_structure_error(entry, blocks, open_blocks, ended)) is not None:
            yield entry, error
        elif entry.problem is None or name:
            while open_blocks and open_blocks[-1] != name:
                ended[open_blocks.pop()] = entry.name
        if isinstance(entry, Block):
            open_blocks.append(entry.name)


def _find_structure_error(
    entry: Entry, blocks: Mapping[str, Block], open_blocks: Sequence[str], ended: Mapping[str, str]
) -> BlockError | None:
    name, branch = split_inside(entry.inside or "")
    block = blocks.get(name)
    where = f"{'Block' if isinstance(entry, Block) else 'Step'} {entry.name} is in {entry.inside}, "
    if name == entry.name:
        what, fix = "which is itself", "Name a branch of a block above."
    elif block is None:
        fix = (
            did_you_mean(name, blocks) or f"Write a cell %%pdif {name}, %%pdswitch {name} or %%pdparallel {name} above."
        )
        what = f"and the workflow has no block {name!r}"
    elif block.problem is None and all(each.name != branch for each in block.branches):
        names = [each.name for each in block.branches[:_MAX_COMPARED]]
        fix = did_you_mean(branch, names) or f"Write one of the branches of {name}: --in {name}.BRANCH."
        what = f"and the block {name} has no branch {branch!r}" if branch else "and no branch is named"
    elif name in ended:
        what = f"but that block ended above: {ended[name]} is outside of it"
        fix = f"Move {ended[name]} below the entries of {name}, or this cell above {ended[name]}."
    elif name not in open_blocks:
        what, fix = "which comes later", f"Move the block {name} above {entry.name}."
    else:
        return None
    return BlockError(f"{where}{what}.", fix=fix, step=entry.name)


@dataclass(frozen=True, slots=True)
class _Levels:
    """The entries of a workflow: by name, by the branch that they are part of, and the place of each among those."""

    by_name: Mapping[str, Entry]
    by_branch: Mapping[str | None, tuple[Entry, ...]]
    places: Mapping[str, int]

    @classmethod
    def build(cls, workflow: Workflow) -> _Levels:
        """Return the entries of *workflow*."""
        by_branch: dict[str | None, list[Entry]] = {None: []}
        places: dict[str, int] = {}
        for entry in workflow.all_entries:
            level = by_branch.setdefault(entry.inside, [])
            places[entry.name] = len(level)
            level.append(entry)
        by_name = {entry.name: entry for entry in workflow.all_entries}
        return cls(by_name, {inside: tuple(level) for inside, level in by_branch.items()}, places)


@dataclass(frozen=True, slots=True)
class UnsupportedEntry:
    """
    A part of a definition that is not a supported step (control flow): kept, never run.

    Attributes:
        after_step: The step above the entry, or None at the top.
        entry: The entry as read; a list or a text of an archive under the key `value`.
        path: For a part of Pipedream's JSON, its JSON path (`$.steps[3]`); None for an entry of `steps` in `workflow.yaml`, to which
            an export writes the entry back.
        why: Why the entry is not supported, as the rest of a sentence, or empty text for a reason that the entry itself shows.
    """

    after_step: str | None
    entry: Mapping[str, JSON]
    path: str | None = None
    why: str = ""

    @property
    def name(self) -> str:
        """The entry's name in messages."""
        name = self.entry.get("namespace")
        return name if isinstance(name, str) and name else self.path or "an entry without a name"

    @property
    def unsupported_reason(self) -> str:
        """Why the entry is not supported, as the rest of a sentence that begins with its name."""
        if self.why:
            return self.why
        uses = self.entry.get("uses")
        if not uses:
            return "has no uses: it is control flow, or another kind of step that this version does not run"
        if isinstance(uses, str) and uses.startswith(("./", "../", "/")):
            return f"is in a language that is not supported: {uses}"
        return f"uses {json.dumps(uses)}, which is not KEY@VERSION"


@dataclass(frozen=True, slots=True)
class Workflow:
    """
    A trigger, ordered steps, and the blocks that contain some of them.

    Attributes:
        name: The display name.
        triggers: The triggers; `steps.trigger.event` is the event of the trigger that fired.
        steps: All steps in the order of their cells, those of branches too; without blocks, the order in which they run.
        blocks: The blocks in the order of their cells.
        settings: `lambda_timeout`, `lambda_memory`, `concurrency`, ... as in the header.
        origin: The path that the workflow was read from, for messages, or None.
        variables: Environment variables that `pdkernel.yaml` lists as read by the workflow.
        extra: Fields of a definition that this model does not use, stored for writing them back.
        problem: Why the header cell cannot be read, and a sentence about the settings that runs have instead; or None.
    """

    name: str
    triggers: tuple[Trigger, ...] = (Trigger(),)
    steps: tuple[Step, ...] = ()
    settings: Mapping[str, JSON] = field(default_factory=dict)
    origin: str | None = None
    variables: tuple[str, ...] = ()
    extra: Mapping[str, JSON] = field(default_factory=dict)
    problem: tuple[str, str] | None = field(default=None, compare=False)
    blocks: tuple[Block, ...] = ()
    _version: str | None = field(default=None, init=False, repr=False, compare=False)
    _positions: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _derived: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        has_branches = bool(self.blocks)
        for step in self.steps:
            if step.name in self._positions:
                raise _build_duplicate_error("Two steps", step.name)
            self._positions[step.name] = len(self._positions)
            has_branches = has_branches or step.inside is not None
        if has_branches:
            names: set[str] = set()
            for block in self.blocks:
                if block.name in self._positions or block.name in names:
                    raise _build_duplicate_error(
                        "Two blocks" if block.name in names else "A step and a block", block.name
                    )
                names.add(block.name)
            for _, error in find_structure_errors(self.all_entries):
                raise error

    @property
    def trigger(self) -> Trigger:
        """The first trigger, of whose events a test event is one; without triggers, other workflows start the workflow."""
        return self.triggers[0] if self.triggers else Trigger("emit")

    @property
    def is_inactive(self) -> bool:
        """Whether the workflow is turned off on Pipedream, by the key `inactive` in `workflow.yaml`."""
        return self.extra.get("inactive") is True

    def step(self, name: str) -> Step:
        """
        Return the step called *name*.

        Raises:
            UnknownStepError: There is no such step; the message lists the steps.
        """
        if name in self._positions:
            return self.steps[self._positions[name]]
        fix = did_you_mean(name, self._positions) if self.steps else "The workflow has no steps."
        raise UnknownStepError(f"The workflow has no step {name!r}.", fix=fix, step=name)

    def position(self, name: str) -> int | None:
        """Return the place of the step *name* among the steps, from 0; None without such a step."""
        return self._positions.get(name)

    def steps_before(self, name: str) -> tuple[Step, ...]:
        """Return the steps above the step *name*."""
        return self.steps[: self._positions[self.step(name).name]]

    def steps_after(self, name: str) -> tuple[Step, ...]:
        """Return the steps below the step *name*."""
        return self.steps[self._positions[self.step(name).name] + 1 :]

    @property
    def all_entries(self) -> tuple[Entry, ...]:
        """All steps and blocks in the order of their cells."""
        return merge_entries(self.steps, self.blocks) if self.blocks else self.steps

    def entries(self, inside: str | None = None) -> tuple[Entry, ...]:
        """
        Return the steps and blocks of the outer level, or of the branch *inside*, in order.

        Args:
            inside: `BLOCK.BRANCH`, or None for the outer level.

        Raises:
            BlockError: There is no such block or branch.
        """
        if inside is not None:
            block, branch = split_inside(inside)
            self.block(block).branch(branch)
        return self.derive(_Levels.build).by_branch.get(inside, ()) if self.blocks else self.steps

    def entry(self, name: str) -> Entry:
        """
        Return the step or block called *name*.

        Raises:
            UnknownStepError: There is no such step or block.
        """
        found = self.derive(_Levels.build).by_name.get(name) if self.blocks else None
        return found or self.step(name)

    def block(self, name: str) -> Block:
        """
        Return the block called *name*.

        Raises:
            BlockError: There is no such block; the message lists the blocks.
        """
        found = self.derive(_Levels.build).by_name.get(name) if self.blocks else None
        if isinstance(found, Block):
            return found
        fix = (
            did_you_mean(name, [block.name for block in self.blocks]) if self.blocks else "The workflow has no blocks."
        )
        raise BlockError(f"The workflow has no block {name!r}.", fix=fix, step=name)

    def path(self, name: str) -> str:
        """Return the path of the step or block *name* through the blocks around it: `triage.urgent.page`, or `page` at the outer level."""
        parts = [name]
        for block, branch in self.branches_around(name):
            parts += [branch, block.name]
        return ".".join(reversed(parts))

    def branches_around(self, name: str) -> Iterator[tuple[Block, str]]:
        """Yield each block around the step or block *name* with the name of the branch, the innermost first."""
        inside = self.entry(name).inside
        while inside is not None:
            block, branch = split_inside(inside)
            yield (found := self.block(block)), branch
            inside = found.inside

    def find_common_branch(self, names: Sequence[str]) -> str | None:
        """Return the innermost `BLOCK.BRANCH` that has all steps and blocks *names* in it, or None."""
        around = [[f"{block.name}.{branch}" for block, branch in self.branches_around(name)] for name in names]
        return next((each for each in around[0] if all(each in others for others in around)), None) if around else None

    def visible_names(self, name: str) -> tuple[str, ...]:
        """
        Return the steps and blocks whose exports the step or block *name* may read, in the order of their cells.

        These are the earlier entries of its own branch and of the levels around it: not the entries of a sibling branch, and of
        an earlier block its name, not the steps in it.

        Raises:
            UnknownStepError: There is no such step or block.
        """
        if not self.blocks:
            return tuple(step.name for step in self.steps_before(name))
        levels = self.derive(_Levels.build)
        entry = self.entry(name)
        found: list[list[str]] = []
        while True:
            found.append([each.name for each in levels.by_branch[entry.inside][: levels.places[entry.name]]])
            if entry.inside is None:
                return tuple(visible for level in reversed(found) for visible in level)
            entry = self.block(split_inside(entry.inside)[0])

    def sees(self, reader: str, name: str) -> bool:
        """Return whether the step or block *reader* may read the exports of *name*, which `visible_names` then lists."""
        if not self.blocks:
            place, own = self._positions.get(name), self._positions.get(reader)
            return place is not None and own is not None and place < own
        levels = self.derive(_Levels.build)
        other, entry = levels.by_name.get(name), levels.by_name.get(reader)
        while other is not None and entry is not None:
            if entry.inside == other.inside:
                return levels.places[name] < levels.places[entry.name]
            entry = None if entry.inside is None else levels.by_name[split_inside(entry.inside)[0]]
        return False

    def is_conditional(self, name: str) -> bool:
        """Return whether a run may leave out the step or block *name*, because it is in a branch that does not always run."""
        return any(
            block.type != "parallel" or block.branch(branch).runs != "always"
            for block, branch in self.branches_around(name)
        )

    def without_steps(self, names: Collection[str]) -> Workflow:
        """Return the workflow without the steps called *names*; blocks stay, also those that have no step any more."""
        steps = tuple(step for step in self.steps if step.name not in names)
        kept = [0]
        for step in self.steps:
            kept.append(kept[-1] + (step.name not in names))
        blocks = tuple(replace(block, place=kept[block.place]) for block in self.blocks)
        return replace(self, steps=steps, blocks=blocks)

    def timeout_s(self, step: Step) -> float:
        """Return the time limit of *step* in seconds: its own, the workflow's, or the default of the trigger type."""
        if step.timeout_s is not None:
            return step.timeout_s
        limit = self.settings.get("lambda_timeout")
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            return float(limit)
        return DEFAULT_TIMEOUT_S[self.trigger.type]

    @property
    def unsupported_entries(self) -> tuple[UnsupportedEntry, ...]:
        """Entries of the definition that are not supported steps, in order."""
        bookkeeping = self.extra.get(ROUND_TRIP_KEY)
        kept = bookkeeping.get("kept", []) if isinstance(bookkeeping, dict) else []
        return tuple(
            UnsupportedEntry(item["after"], item["entry"], item.get("path"), item.get("why", "")) for item in kept
        )

    def with_unsupported_entries(self, entries: Sequence[UnsupportedEntry]) -> Workflow:
        """Return the workflow with *entries* as its unsupported entries."""
        if not entries:
            return self
        known = self.extra.get(ROUND_TRIP_KEY)
        written = [
            {
                "after": item.after_step,
                "entry": dict(item.entry),
                **({"path": item.path, "why": item.why} if item.path is not None else {}),
            }
            for item in entries
        ]
        bookkeeping = {**(known if isinstance(known, dict) else {}), "kept": written}
        return replace(self, extra={**self.extra, ROUND_TRIP_KEY: bookkeeping})

    def derive(self, build: Callable[[Workflow], T]) -> T:
        """Return `build(self)`, which is called once for this object, because a workflow does not change."""
        if build not in self._derived:
            self._derived[build] = build(self)
        found: T = self._derived[build]
        return found

    @property
    def version(self) -> str:
        """A hash of twelve hex digits over everything that affects a run."""
        if self._version is None:
            text = json.dumps(self.versioned_content(), sort_keys=True)
            object.__setattr__(self, "_version", hashlib.sha256(text.encode()).hexdigest()[:12])
        return self._version or ""

    def versioned_content(self) -> dict[str, Any]:
        """Return everything that affects a run, as JSON, without positions of cells; `version` is its hash."""
        return {
            "name": self.name,
            "triggers": [asdict(t) for t in self.triggers],
            "settings": dict(self.settings),
            "steps": [
                {
                    "name": s.name,
                    "language": s.language,
                    "source": s.source,
                    "uses": s.uses,
                    "apps": [[a.prop, a.app, a.account] for a in s.apps],
                    "stores": [[b.prop, b.store] for b in s.stores],
                    "props": dict(s.props),
                    "timeout_s": s.timeout_s,
                    "disabled": s.disabled,
                    "notes": s.notes,
                    "line_offset": s.line_offset,
                    **({"picked": picked} if (picked := s.picked_options) else {}),
                    **({"files": dict(s.files)} if s.files else {}),
                    **({"problem": s.problem} if s.problem else {}),
                    **({"inside": s.inside} if s.inside else {}),
                }
                for s in self.steps
            ],
            **({"blocks": [_get_versioned_block(block) for block in self.blocks]} if self.blocks else {}),
            "variables": list(self.variables),
        }

    @classmethod
    def from_versioned_content(cls, content: Mapping[str, Any]) -> Self:
        """Return the workflow with that `versioned_content`."""
        steps = []
        for written in content["steps"]:
            fields = {name: value for name, value in written.items() if name not in ("apps", "stores", "picked")}
            picked = {
                prop: {"written": label, "value": fields["props"].get(prop)}
                for prop, label in written.get("picked", {}).items()
            }
            steps.append(
                Step(
                    apps=tuple(AppBinding(*each) for each in written["apps"]),
                    stores=tuple(StoreBinding(*each) for each in written["stores"]),
                    extra={ROUND_TRIP_KEY: {"picked": picked}} if picked else {},
                    **fields,
                )
            )
        return cls(
            name=content["name"],
            triggers=tuple(Trigger(**each) for each in content["triggers"]),
            steps=tuple(steps),
            settings=content["settings"],
            variables=tuple(content["variables"]),
            blocks=tuple(
                Block(**{**block, "branches": tuple(Branch(**branch) for branch in block["branches"])})
                for block in content.get("blocks", ())
            ),
        )


def _build_duplicate_error(which: str, name: str) -> DuplicateStepError:
    return DuplicateStepError(
        f"{which} are called {name!r}: steps.{name} would be ambiguous.",
        fix="Rename one of the two cells.",
        step=name,
    )


def _get_versioned_block(block: Block) -> dict[str, Any]:
    return {
        "name": block.name,
        "type": block.type,
        "branches": [asdict(branch) for branch in block.branches],
        "place": block.place,
        "line_offset": block.line_offset,
        **{
            key: value
            for key in ("expression", "inside", "notes", "problem")
            if (value := getattr(block, key)) is not None
        },
    }
