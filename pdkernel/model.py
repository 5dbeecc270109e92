"""
What a workflow is: a trigger and ordered steps, as frozen values.

Knows the platform's names and rules for them. Knows nothing of files, notebooks or processes;
reading and writing those is `notebook` and `definition`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from pdkernel.errors import DuplicateStepError, StepNameError, UnknownStepError

JSON: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

Language = Literal["python", "node", "bash", "go"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

TriggerType = Literal["http", "schedule", "email", "source"]
HttpAuth = Literal["none", "bearer", "oauth"]
ResponseMode = Literal["default", "custom"]

DEFAULT_TIMEOUT_S: Mapping[str, float] = {"http": 30.0, "email": 30.0, "schedule": 60.0, "source": 60.0}
"""Seconds a step may run unless `settings.lambda_timeout` says otherwise (platform limits page)."""

STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESERVED_STEP_NAMES = frozenset({"trigger"})


def check_step_name(name: str) -> str:
    """
    Return *name* if `steps.<name>` can be written in every language.

    Raises:
        StepNameError: It has a dash, a space, a leading digit, or is `trigger`.
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
            f"{name!r} cannot be a step's name: steps.NAME takes letters, digits and underscores, "
            "and starts with a letter or an underscore.",
            fix=f"Call it {suggestion!r}.",
            step=name,
        )
    return name


@dataclass(frozen=True, slots=True)
class AppBinding:
    """
    An app prop of a step and whose account fills it.

    Attributes:
        prop: The prop's name in the step, `this.<prop>` or `pd.inputs["<prop>"]`.
        app: The app's slug.
        account: An account id of your own (`apn_...`), or None for the external user's.
    """

    prop: str
    app: str
    account: str | None = None


@dataclass(frozen=True, slots=True)
class StoreBinding:
    """A data store prop of a step; *store* is the store's name, or None for the project's default store."""

    prop: str
    store: str | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """
    What starts a workflow.

    Attributes:
        type: The kind.
        auth: Who may call an HTTP trigger.
        token_env: For `auth: bearer`, the environment variable that holds the token.
        response: For an HTTP trigger, who makes the answer: the platform or the workflow.
        config: Whatever else the kind needs (`cron`, `interval_seconds`, `timezone`, `uses`, `app`, `props`).
    """

    type: TriggerType = "http"
    auth: HttpAuth = "none"
    token_env: str | None = None
    response: ResponseMode = "default"
    config: Mapping[str, JSON] = field(default_factory=dict)


ROUND_TRIP_KEY = "pdkernel"
"""Where `Step.extra` holds what reading a definition keeps for writing the same again."""


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step: a cell, or one entry of `workflow.yaml`.

    Attributes:
        name: `steps.<name>`.
        language: Of the code; pre-built actions are Node.js.
        source: The code exactly as `entry.py` or `entry.js` holds it; empty for an action.
        uses: Key and version of a pre-built action (`slack-send-message@0.0.20`), or None.
        apps: App props that the directive names.
        stores: Data store props that the directive names.
        props: Values for the other props; strings may hold `{{ }}`.
        timeout_s: The step's own time limit in seconds, or None for the workflow's.
        disabled: Kept, but not run.
        debug: A Python step that runs in the kernel, for the debugger.
        notes: The step's note, or None.
        line_offset: Lines of the cell above the first line of *source*; 0 for a file.
        cell_index: Index of the notebook cell (first is 0), or None for a folder.
        prop_lines: Where values of props stand, by their path, so that errors can say it; lines of the cell, or of
            *props_file*. Those that are not in it stand on the directive.
        props_file: For a folder, the name of the file that holds the props; None for a cell.
        extra: What a definition says of the step and this model has no word for, kept for writing it back.
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
    prop_lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict, compare=False, repr=False)
    props_file: str | None = field(default=None, compare=False)
    extra: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_step_name(self.name)

    @property
    def filename(self) -> str:
        """What the step's code is called in a stack trace."""
        return f"<step {self.name}>"

    @property
    def dollar_name(self) -> str:
        """What the step's language calls `$`."""
        return "pd" if self.language == "python" else "$"

    def locate_prop(self, *path: str | int) -> tuple[int | None, str]:
        """
        Where to look for the prop at *path*: the line of the cell or None, and words for a message.

        The words are empty for a cell, whose line says enough; for a folder ` (workflow.yaml, line 12)`.
        """
        lines = (self.prop_lines.get(path[:length]) for length in range(len(path), 0, -1))
        line = next((line for line in lines if line is not None), None)
        if self.props_file is not None:
            return None, f" ({self.props_file}, line {line})" if line is not None else f" ({self.props_file})"
        return line or self.line_offset or None, ""

    @property
    def is_code_missing(self) -> bool:
        """Whether the definition names an entry file that was not there, and nobody has written the code since."""
        kept = self.extra.get(ROUND_TRIP_KEY)
        return isinstance(kept, dict) and kept.get("missing") is True and not self.source

    @property
    def picked_options(self) -> dict[str, JSON]:
        """Values with the labels of the options that were picked in the builder, by prop: of those not changed since."""
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
    An entry of a definition's `steps` that is no step this program knows (control flow): kept, never run.

    Attributes:
        after_step: The step that it stands below, or None at the top.
        entry: As the definition has it.
    """

    after_step: str | None
    entry: Mapping[str, JSON]

    @property
    def name(self) -> str:
        """What to call it in a message."""
        name = self.entry.get("namespace")
        return name if isinstance(name, str) and name else "an entry without a name"

    @property
    def unsupported_reason(self) -> str:
        """Why it cannot run here, to follow its name."""
        uses = self.entry.get("uses")
        if not uses:
            return "has no uses: it is control flow, or another kind of step that this version does not run"
        if isinstance(uses, str) and uses.startswith(("./", "../", "/")):
            return f"is in a language that is not known: {uses}"
        return f"uses {json.dumps(uses)}, which is not KEY@VERSION"


@dataclass(frozen=True, slots=True)
class Workflow:
    """
    A trigger and ordered steps.

    Attributes:
        name: For people.
        triggers: At least one; `steps.trigger` is whichever fired.
        steps: In the order they run.
        settings: `lambda_timeout`, `memory`, `concurrency`, ... as written in the header.
        origin: Where it was read from, as text for messages, or None.
        variables: Environment variables that `pdkernel.yaml` says the workflow reads.
        extra: What a definition says of the workflow and this model has no word for, kept for writing it back.
    """

    name: str
    triggers: tuple[Trigger, ...] = (Trigger(),)
    steps: tuple[Step, ...] = ()
    settings: Mapping[str, JSON] = field(default_factory=dict)
    origin: str | None = None
    variables: tuple[str, ...] = ()
    extra: Mapping[str, JSON] = field(default_factory=dict)
    _version: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                raise DuplicateStepError(
                    f"Two steps are called {step.name!r}: steps.{step.name} would be ambiguous.",
                    fix="Rename one of the two cells.",
                    step=step.name,
                )
            seen.add(step.name)

    @property
    def trigger(self) -> Trigger:
        """The first trigger: the one that a test event stands for."""
        return self.triggers[0]

    def step(self, name: str) -> Step:
        """
        The step called *name*.

        Raises:
            UnknownStepError: There is none; the message names those that there are.
        """
        for step in self.steps:
            if step.name == name:
                return step
        known = ", ".join(step.name for step in self.steps) or "none"
        raise UnknownStepError(f"The workflow has no step {name!r}. Its steps: {known}.", step=name)

    def steps_before(self, name: str) -> tuple[Step, ...]:
        """The steps above *name*."""
        return self.steps[: self.steps.index(self.step(name))]

    def steps_after(self, name: str) -> tuple[Step, ...]:
        """The steps below *name*."""
        return self.steps[self.steps.index(self.step(name)) + 1 :]

    def with_step(self, step: Step) -> Workflow:
        """The workflow with *step* in the place of the one of that name, or at the end."""
        steps = list(self.steps)
        for index, known in enumerate(steps):
            if known.name == step.name:
                steps[index] = step
                break
        else:
            steps.append(step)
        return replace(self, steps=tuple(steps))

    def timeout_s(self, step: Step) -> float:
        """Seconds that *step* may run."""
        if step.timeout_s is not None:
            return step.timeout_s
        limit = self.settings.get("lambda_timeout")
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            return float(limit)
        return DEFAULT_TIMEOUT_S[self.trigger.type]

    @property
    def unsupported_entries(self) -> tuple[UnsupportedEntry, ...]:
        """Entries of the definition that are no steps, in order."""
        bookkeeping = self.extra.get(ROUND_TRIP_KEY)
        kept = bookkeeping.get("kept", []) if isinstance(bookkeeping, dict) else []
        return tuple(UnsupportedEntry(item["after"], item["entry"]) for item in kept)

    def with_unsupported_entries(self, entries: Sequence[UnsupportedEntry]) -> Workflow:
        """The workflow with *entries* as the entries that are no steps."""
        if not entries:
            return self
        known = self.extra.get(ROUND_TRIP_KEY)
        written = [{"after": item.after_step, "entry": dict(item.entry)} for item in entries]
        bookkeeping = {**(known if isinstance(known, dict) else {}), "kept": written}
        return replace(self, extra={**self.extra, ROUND_TRIP_KEY: bookkeeping})

    @property
    def version(self) -> str:
        """Twelve hex digits that change with anything that changes what the workflow does."""
        if self._version is None:
            text = json.dumps(self.to_json(), sort_keys=True)
            object.__setattr__(self, "_version", hashlib.sha256(text.encode()).hexdigest()[:12])
        assert self._version is not None
        return self._version

    def to_json(self) -> dict[str, Any]:
        """Everything that decides what a run does, as JSON (no cell positions)."""
        return {
            "name": self.name,
            "triggers": [
                {
                    "type": t.type,
                    "auth": t.auth,
                    "token_env": t.token_env,
                    "response": t.response,
                    "config": dict(t.config),
                }
                for t in self.triggers
            ],
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
                }
                for s in self.steps
            ],
            "variables": list(self.variables),
        }
