"""
What a caller hands to a step's process and what comes back, as values and protocols.

Knows shapes only. Everything here is raw: who calls looks for secrets before anything is kept or shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, TypeVar

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON, AppBinding, Language, Step
from pdkernel.packages import NpmTree

Started = TypeVar("Started")


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

    @property
    def guard(self) -> str:
        """What `guarded` does here: `redirect`, `landlock` or `none`."""
        ...

    def guarded(self, ticket: str, start: Callable[[], Started]) -> Started:
        """*start*'s result; the operating system sees to it that what it starts does not go around the gateway."""
        ...


class StepListener(Protocol):
    """Is told what a step does, as it happens and in order."""

    def log(self, stream: Stream, text: str) -> None:
        """The step printed *text*: any piece of a line or several lines."""
        ...

    def say(self, text: str) -> None:
        """Something of ours is under way for the step, and takes long: *text* is a sentence."""
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


class StepDebugger(Protocol):
    """Runs Python steps where a debugger can stop them: in the kernel."""

    async def run(self, call: StepCall, setup: RunSetup, listener: StepListener) -> StepOutcome:
        """As `RunGuests.run`; takes as long as the person does."""
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
        install: Whether packages that a step needs may be downloaded.
        python: The interpreter of the environment that has the packages of the workflow's Python steps.
        node_packages: The installed packages of each Node.js step that imports some, by step.
        guarded: The operating system stops outside calls that go around the gateway: every mode but live.
    """

    run_id: str
    workflow: str
    trigger: Mapping[str, JSON]
    variables: Mapping[str, str]
    folder: Path
    scratch: Path
    install: bool = True
    python: Path | None = None
    node_packages: Mapping[str, NpmTree] = field(default_factory=dict)
    guarded: bool = False


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
    error: StepError | None = None


@dataclass(frozen=True)
class PropDeclaration:
    """A prop that a step's code declares: its type as written (`string[]`, `app`) and whether it may be absent."""

    name: str
    type: str
    optional: bool = False


@dataclass(frozen=True)
class Description:
    """What a Node.js step declares in its code."""

    apps: tuple[AppBinding, ...] = ()
    props: tuple[PropDeclaration, ...] = ()


class EvaluationError(TypedDict):
    """Why an expression has no value."""

    name: str
    message: str


class Evaluation(TypedDict, total=False):
    """The result of one expression: exactly one of the keys."""

    value: JSON
    undefined: Literal[True]
    error: EvaluationError
