"""The workflow model: triggers and ordered steps as frozen values, with the platform's rules for names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, TypeAlias, TypeVar, get_args

from pdkernel.errors import DuplicateStepError, StepNameError, UnknownStepError, did_you_mean

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
    def picked_options(self) -> dict[str, JSON]:
        """The values, with labels, of options that were picked in the builder, by prop. A value that was changed is left out."""
        kept = self.extra.get(ROUND_TRIP_KEY)
        picked = kept.get("picked") if isinstance(kept, dict) else None
        return {
            prop: option.get("written")
            for prop, option in (picked.items() if isinstance(picked, dict) else ())
            if isinstance(option, dict) and prop in self.props and option.get("value") == self.props[prop]
        }


@dataclass(frozen=True, slots=True)
class UnsupportedEntry:
    """
    An entry of a definition's `steps` that is not a supported step (control flow): written back, never run.

    Attributes:
        after_step: The step above the entry, or None at the top.
        entry: The entry as read.
    """

    after_step: str | None
    entry: Mapping[str, JSON]

    @property
    def name(self) -> str:
        """The entry's name in messages."""
        name = self.entry.get("namespace")
        return name if isinstance(name, str) and name else "an entry without a name"

    @property
    def unsupported_reason(self) -> str:
        """Why the entry is not supported, as the rest of a sentence that begins with its name."""
        uses = self.entry.get("uses")
        if not uses:
            return "has no uses: it is control flow, or another kind of step that this version does not run"
        if isinstance(uses, str) and uses.startswith(("./", "../", "/")):
            return f"is in a language that is not supported: {uses}"
        return f"uses {json.dumps(uses)}, which is not KEY@VERSION"


@dataclass(frozen=True, slots=True)
class Workflow:
    """
    A trigger and ordered steps.

    Attributes:
        name: The display name.
        triggers: The triggers; `steps.trigger.event` is the event of the trigger that fired.
        steps: The steps in the order in which they run.
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
    _version: str | None = field(default=None, init=False, repr=False, compare=False)
    _positions: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _derived: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for step in self.steps:
            if step.name in self._positions:
                raise DuplicateStepError(
                    f"Two steps are called {step.name!r}: steps.{step.name} would be ambiguous.",
                    fix="Rename one of the two cells.",
                    step=step.name,
                )
            self._positions[step.name] = len(self._positions)

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
        return tuple(UnsupportedEntry(item["after"], item["entry"]) for item in kept)

    def with_unsupported_entries(self, entries: Sequence[UnsupportedEntry]) -> Workflow:
        """Return the workflow with *entries* as its unsupported entries."""
        if not entries:
            return self
        known = self.extra.get(ROUND_TRIP_KEY)
        written = [{"after": item.after_step, "entry": dict(item.entry)} for item in entries]
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
                }
                for s in self.steps
            ],
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
        )
