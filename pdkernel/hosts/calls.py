"""
What a caller hands to a step's process and what comes back, as values and protocols.

Knows shapes only. Everything here is raw: who calls looks for secrets before anything is kept or shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON, AppBinding, Language, Step
from pdkernel.packages import NpmTree


class OutsideCalls(Protocol):
    """The way out for a step's network traffic (`egress.Gateway`)."""

    def open_ticket(self) -> str:
        """A fresh opaque word that one process shows with each outside call."""
        ...

    def bind(self, ticket: str, binding: Any) -> None:
        """From now on, calls with *ticket* are treated as *binding* says."""
        ...

    def unbind(self, ticket: str) -> None:
        """Calls with *ticket* belong to no step."""
        ...

    def close_ticket(self, ticket: str) -> None:
        """The process is gone."""
        ...

    def environment(self, ticket: str, language: Language) -> dict[str, str]:
        """The variables that lead a process of *language* through the gateway."""
        ...


class StepListener(Protocol):
    """Is told what a step does, as it happens and in order."""

    def log(self, stream: Stream, text: str) -> None:
        """The step printed *text*: any piece of a line or several lines."""
        ...

    def export(self, name: str, value: JSON) -> None:
        """The step exported *value*; `$return_value` is what it returned."""
        ...

    def respond(self, response: dict[str, Any]) -> None:
        """The step's first response; `{"status", "headers", "body"}`, and `"immediate": True` if it is to go at once."""
        ...


class StepServices(Protocol):
    """What a running step may ask for beyond its own process: its data stores, other workflows."""

    async def answer(self, call: str, args: Mapping[str, JSON]) -> JSON:
        """
        The answer to *call* (`store.get`, `flow.trigger`).

        Raises:
            StepError: Cannot be done; the step's code gets it as an exception at the line that asked.
        """
        ...


@dataclass(frozen=True)
class Effect:
    """
    Something to be sent when the run is over (`$.send.*`).

    Attributes:
        kind: The destination.
        payload: What the step's code gave, as JSON.
    """

    kind: Literal["http", "email", "s3", "emit", "sse"]
    payload: Mapping[str, JSON]


@dataclass(frozen=True)
class Pause:
    """
    What a step asked for by `$.flow.delay|suspend|rerun`; acted on when the step has ended.

    Attributes:
        kind: `delay` goes on when the time is over, `suspend` cancels the run, `rerun` runs the step again.
        ms: Milliseconds until then.
        context: For `rerun`: what the next run of the step finds as `$.context.run.context`.
        most: For `rerun`: how many times the step may be run again.
    """

    kind: Literal["delay", "suspend", "rerun"]
    ms: int
    context: JSON = None
    most: int = 10


@dataclass(frozen=True)
class RunSetup:
    """
    What all steps of one run share.

    Attributes:
        run_id: The execution's id.
        workflow: Processes are used again only by runs with the same word: the workflow's name and version.
        trigger: `{"event": ..., "context": ...}`.
        variables: The workflow's environment variables.
        folder: Where Node.js resolves imports from that are not in *node_packages*.
        scratch: A fresh folder of this run, made and removed by the caller. Steps work in `tmp` inside it.
        files: The folder of the project's file store (`$.files`), or None for none.
        node_packages: The installed packages of each Node.js step that imports some, by step.
    """

    run_id: str
    workflow: str
    trigger: Mapping[str, JSON]
    variables: Mapping[str, str]
    folder: Path
    scratch: Path
    files: Path | None = None
    node_packages: Mapping[str, NpmTree] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentFile:
    """
    A pre-built component: a module with the platform's component API.

    Attributes:
        path: The module. What it imports is found from there.
        key: Such as `slack-send-message`.
        version: Its own.
        kind: What it is.
        origin: Where it comes from. A file of a `folder` may change between two runs; the others may not.
    """

    path: Path
    key: str
    version: str
    kind: Literal["action", "source"]
    origin: Literal["builtin", "npm", "folder"]


@dataclass(frozen=True)
class StepCall:
    """
    One step to run.

    Attributes:
        step: The step.
        steps: Exports of the steps above, complete. A step's value is sent once to each language as long
            as the same object is passed.
        props: Prop name to value, expressions evaluated.
        auth: App prop name to the fields of `$auth`.
        context: What `$.context` and `pd.context` hold besides `steps.trigger.context`.
        timeout_s: Seconds that it may run.
        memory_mb: Megabytes that it may hold, or None for any number.
        binding: How its outside calls are treated; None where there is no gateway.
        stores: Data store prop to the store's name.
        services: Answers what the step asks for; None refuses everything.
        flow: `resume_url` and `cancel_url` of this step in this run.
        component: Runs in place of the step's source.
        db: What a `$.service.db` prop holds.
    """

    step: Step
    steps: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    props: Mapping[str, JSON] = field(default_factory=dict)
    auth: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    context: Mapping[str, JSON] = field(default_factory=dict)
    timeout_s: float = 30.0
    memory_mb: int | None = None
    binding: Any = None
    stores: Mapping[str, str] = field(default_factory=dict)
    services: StepServices | None = None
    flow: Mapping[str, str] = field(default_factory=dict)
    component: ComponentFile | None = None
    db: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class StepOutcome:
    """
    What a step did; raw.

    Attributes:
        exports: Name to value, in order; `$return_value` among them unless nothing was returned. Those made
            before a failure are kept.
        exited: The step asked to end the run.
        exit_reason: What it gave as the reason.
        response: Its first response, or None. A body of bytes is `{"$base64": TEXT}`.
        warnings: Sentences for people.
        effects: What is to be sent when the run is over, in order.
        pause: How the run is to pause after this step, or None.
        seconds: How long it ran, without the start of its process.
        memory_mb: The most memory that was seen in its processes, in megabytes; 0 where nobody looked.
        db: What a `$.service.db` prop now holds, or None if nothing was written to it.
        error: Why it failed, or None.
    """

    exports: dict[str, JSON] = field(default_factory=dict)
    exited: bool = False
    exit_reason: str | None = None
    response: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()
    pause: Pause | None = None
    seconds: float = 0.0
    memory_mb: float = 0.0
    db: Mapping[str, JSON] | None = None
    error: StepError | None = None


@dataclass(frozen=True)
class SourceCall:
    """
    One run of an event source, or of one of its hooks.

    Attributes:
        component: The source.
        id: By which it is known to itself (`PD_COMPONENT`).
        act: What to run.
        event: For `run`: what its interface got, such as `{"timestamp": ...}` from a timer.
        props: Prop name to value.
        auth: App prop name to the fields of `$auth`.
        db: What its `$.service.db` holds.
        endpoint: Where its HTTP interface is reached, or None.
        timeout_s: Seconds that it may run.
        binding: How its outside calls are treated; None where there is no gateway.
    """

    component: ComponentFile
    id: str
    act: Literal["run", "deploy", "activate", "deactivate"] = "run"
    event: JSON = None
    props: Mapping[str, JSON] = field(default_factory=dict)
    auth: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    db: Mapping[str, JSON] = field(default_factory=dict)
    endpoint: str | None = None
    timeout_s: float = 60.0
    binding: Any = None


@dataclass(frozen=True)
class Emitted:
    """
    What a source emitted; *id* is what its `dedupe` goes by, *ts* is milliseconds since 1970.

    Nothing has been left out yet: which events are new is for whoever keeps the ids to say.
    """

    event: JSON
    id: str | int | float | None = None
    name: str | None = None
    summary: str | None = None
    ts: float | None = None


@dataclass(frozen=True)
class SourceOutcome:
    """
    What a source did; raw.

    Attributes:
        emitted: In order; those before a failure are kept.
        performed: Whether the source has what was to be run.
        db: What its `$.service.db` now holds.
        response: What it answered by its HTTP interface, or None.
        warnings: Sentences for people.
        error: Why it failed, or None.
    """

    emitted: tuple[Emitted, ...] = ()
    performed: bool = True
    db: Mapping[str, JSON] = field(default_factory=dict)
    response: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    error: StepError | None = None


@dataclass(frozen=True)
class PropDeclaration:
    """
    A prop that a component declares.

    Attributes:
        name: On `this`.
        type: As written (`string[]`, `data_store`, `alert`).
        optional: Whether it may be left out; true as well for what the builder does not ask for.
        definition: All of its definition that is JSON, with what it builds on: `label`, `description`, `default`,
            `min`, `max`, `secret`, `hidden`, `reloadProps`, `withLabel`, `useQuery`, and `options` if they are a list;
            `"dynamic": True` if they are asked for.
    """

    name: str
    type: str
    optional: bool = False
    definition: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """
    What a component declares.

    Attributes:
        apps: Its app props.
        props: Its other props, in order; `alert` among them, which is for showing only.
        key: None for a code step, as are the next four.
        name: For people.
        description: For people, Markdown.
        version: Its own.
        type: `action` or `source`.
        additional: Whether it adds or changes props by the values of others.
        dedupe: Of a source: `unique`, `greatest`, `last`, or None.
        hooks: Of a source: those that it has.
    """

    apps: tuple[AppBinding, ...] = ()
    props: tuple[PropDeclaration, ...] = ()
    key: str | None = None
    name: str | None = None
    description: str | None = None
    version: str | None = None
    type: str | None = None
    additional: bool = False
    dedupe: str | None = None
    hooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """A choice of a dropdown."""

    label: str
    value: JSON


@dataclass(frozen=True)
class OptionsPage:
    """
    A page of a prop's options.

    Attributes:
        options: The choices.
        context: To be handed back for the next page; None if pages are counted, or there is no more.
        why: Why there are none, in a sentence, or None.
    """

    options: tuple[Option, ...] = ()
    context: JSON = None
    why: str | None = None


class EvaluationError(TypedDict):
    """Why an expression has no value."""

    name: str
    message: str


class Evaluation(TypedDict, total=False):
    """The result of one expression: exactly one of the keys."""

    value: JSON
    undefined: Literal[True]
    error: EvaluationError
