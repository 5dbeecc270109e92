"""
The replies of a worker: what each kind holds, and how a line becomes one.

A step's code shares its process with the runtime and can write to the private descriptor. A reply is checked whole before
anything of it is used.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from pdkernel.errors import WorkerProtocolError
from pdkernel.model import JSON

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""A whole number that JavaScript has, too."""


class ReplyError(ValueError):
    """A reply is not in the protocol. The text says why, without anything that the reply holds."""


class Reply(msgspec.Struct, frozen=True, tag_field="t", forbid_unknown_fields=True):
    """What a worker sends for the request at hand; `t` is the kind."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a step failed; *prop* is the prop at fault."""

    code: str
    name: str
    message: str
    line: int | None
    stack: str | None
    fix: str
    prop: str | None = None


class Done(Reply, frozen=True, tag="done"):
    """
    The last reply.

    Attributes:
        error: How the request failed, or None.
        busy: Something that the step started still runs.
        dirty: The worker holds files that may change before the next run.
        spoiled: The step closed its standard output or error.
        value: The answer, for a request that has one.
    """

    error: Fault | None
    busy: bool
    dirty: bool
    spoiled: bool
    value: JSON = None


class Export(Reply, frozen=True, tag="export"):
    """A named export."""

    name: str = msgspec.field(name="n")
    value: JSON = msgspec.field(name="v")


class Response(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP response. A list is a header that stands several times; a body of bytes is `{"$base64": TEXT}`."""

    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    headers: dict[str, str | list[str]]
    body: JSON
    immediate: bool = False


class Respond(Reply, frozen=True, tag="respond"):
    """`$.respond`."""

    response: Response = msgspec.field(name="r")


class Effect(Reply, frozen=True, eq=False, tag="effect"):
    """
    Something to be sent when the run is over (`$.send.*`).

    Attributes:
        kind: The destination.
        payload: What the step's code gave, as JSON.
        line: Of the cell, where it was asked for; None for code that is not in the cell. Not compared.
    """

    kind: Literal["http", "email", "s3", "emit", "sse"]
    payload: dict[str, Any]
    line: Count | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Effect) and (self.kind, self.payload) == (other.kind, other.payload)

    __hash__ = None  # type: ignore[assignment]


class Pause(Reply, frozen=True, tag="pause"):
    """
    What a step asked for by `$.flow.delay|suspend|rerun`; acted on when the step has ended.

    Attributes:
        kind: `delay` goes on when the time is over, `suspend` cancels the run, `rerun` runs the step again.
        ms: Milliseconds until then.
        context: For `rerun`: what the next run of the step finds as `$.context.run.context`.
        most: For `rerun`: how many times the step may be run again.
    """

    kind: Literal["delay", "suspend", "rerun"]
    ms: Count
    context: JSON = None
    most: Count = msgspec.field(name="max", default=10)


class Emitted(Reply, frozen=True, tag="emitted"):
    """
    What a source emitted; *id* is what its `dedupe` goes by, *ts* is milliseconds since 1970.

    Nothing has been left out yet: which events are new is for whoever keeps the ids to say.
    """

    event: JSON
    id: str | int | float | None = None
    name: str | None = None
    summary: str | None = None
    ts: int | float | None = None


class StoreWrite(Reply, frozen=True, tag="db"):
    """A write to `$.service.db`; without *value* the key is gone."""

    key: str
    value: JSON | msgspec.UnsetType = msgspec.UNSET


class Exit(Reply, frozen=True, tag="exit"):
    """`$.flow.exit`."""

    reason: str | None


class Warn(Reply, frozen=True, tag="warn"):
    """A sentence for people."""

    text: str


class Late(Reply, frozen=True, tag="late"):
    """Code failed that a step, perhaps an earlier one, had left behind."""

    text: str


class Ask(Reply, frozen=True, tag="ask"):
    """A question to a service; the answer carries *id*."""

    id: Count
    call: str
    args: dict[str, Any]


class EvaluationError(TypedDict):
    """Why an expression has no value."""

    name: str
    message: str


class Evaluation(TypedDict, total=False):
    """The result of one expression: exactly one of the keys."""

    value: JSON
    undefined: bool
    error: EvaluationError


def evaluations(value: JSON, count: int) -> list[Evaluation]:
    """
    *value* as the results of *count* expressions.

    Raises:
        msgspec.ValidationError: It is something else.
    """
    found = msgspec.convert(value, list[Evaluation])
    if len(found) != count or any(len(each) != 1 for each in found):
        raise msgspec.ValidationError("Expected one result for each expression")
    return found


StepReply = Export | Respond | Effect | Pause | Emitted | StoreWrite | Exit | Warn | Late
"""What a step does."""

AnyReply = StepReply | Done | Ask
"""What comes between a request and the end of its `done`."""

_DECODE = msgspec.json.Decoder(AnyReply).decode
_CONTENT = re.compile(r"(Invalid (?:enum )?value|Object contains unknown field) .*?( - at `\$[\w.\[\]]*`)?", re.DOTALL)


def decode_reply(text: bytes | str) -> AnyReply:
    """
    The reply that *text* is.

    Raises:
        ReplyError: It is not JSON, or not a reply.
        RecursionError: It is nested too deeply.
    """
    reply: AnyReply
    try:
        reply = _DECODE(text)
    except (msgspec.DecodeError, UnicodeError) as wrong:
        if isinstance(wrong, msgspec.ValidationError):
            raise ReplyError(reason(wrong)) from None
    else:
        return reply
    try:  # half a surrogate pair is JSON, and msgspec does not read it
        value = _SLOW.decode(text if isinstance(text, str) else text.decode())
    except ValueError:
        raise ReplyError("it is not JSON") from None
    try:
        reply = msgspec.convert(value, AnyReply)
    except msgspec.ValidationError as wrong:
        raise ReplyError(reason(wrong)) from None
    return reply


def step_reply(text: str) -> StepReply:
    """As `decode_reply`, for a step that has no worker: what is asked and done there are no lines."""
    reply = decode_reply(text)
    if isinstance(reply, Done | Ask):
        raise ReplyError("it is not a step's")
    return reply


def reason(wrong: msgspec.ValidationError) -> str:
    """Why a value is not of its type, without the value: a part of a secret could not be recognised in it."""
    text = str(wrong)
    if shortened := _CONTENT.fullmatch(text):
        text = f"{shortened[1]}{shortened[2] or ''}"
    return text[:1].lower() + text[1:]


def refused(step: str, why: str) -> WorkerProtocolError:
    """The error for a reply of *step* that is refused; `""` is a request that is not for a step."""
    return WorkerProtocolError(
        f"{f'Step `{step}`' if step else 'A worker'} sent a reply that pdkernel does not understand: {why}.",
        name="ProtocolError",
        fix="Do not write to the descriptors 3 and 4 of a step's process: they are pdkernel's own.",
    )


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_SLOW = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
