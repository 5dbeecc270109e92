"""
The replies of a worker: their types, and their decoding from lines.

A step's code shares its process with the runtime and can write to the private descriptor. So each reply is validated
completely before it is used.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal

import msgspec

from pdkernel.common.encode import DIGITS_TO_ZERO, count_containers, decode_large
from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.language.expression import Evaluation
from pdkernel.model import JSON

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""A whole number in JavaScript's safe range."""


class WorkerProtocolError(StepError):
    """The worker sent an invalid reply; only step code that writes to pdkernel's file descriptor causes this."""

    code = "protocol"


class ReplyError(ValueError):
    """A reply is invalid. The text gives the reason, without content of the reply."""


class Reply(msgspec.Struct, frozen=True, tag_field="t", forbid_unknown_fields=True):
    """A message of a worker for the current request; `t` is its kind."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The failure of a step; *prop* is the invalid prop."""

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
        error: The failure of the request, or None.
        busy: Whether code that the step started still runs.
        dirty: Whether the next run needs another worker: this one loaded files that may change, or holds a port or a lock.
        spoiled: Whether the step closed its standard output or error.
        value: The result, for a request with a result.
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


class StepResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP response. A list is a header with several values; a body of bytes is `{"$base64": TEXT}`."""

    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    headers: dict[str, str | list[str]]
    body: JSON
    immediate: bool = False


class Respond(Reply, frozen=True, tag="respond"):
    """`$.respond`."""

    response: StepResponse = msgspec.field(name="r")


class Effect(Reply, frozen=True, eq=False, tag="effect"):
    """
    A message that is sent when the run is over (`$.send.*`).

    Attributes:
        kind: The destination.
        payload: The arguments of the step's code, as JSON.
        line: The calling line of the cell; None for code outside of the cell. Not compared.
    """

    kind: Literal["http", "email", "s3", "emit", "sse"]
    payload: dict[str, Any]
    line: Count | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Effect) and (self.kind, self.payload) == (other.kind, other.payload)

    __hash__ = None  # type: ignore[assignment]


class Pause(Reply, frozen=True, tag="pause"):
    """
    A pause that a step requested with `$.flow.delay|suspend|rerun`. It takes effect when the step has ended.

    Attributes:
        kind: After the time, `delay` continues the run, `suspend` cancels it, and `rerun` runs the step again.
        ms: The time in milliseconds.
        context: For `rerun`: the value of `$.context.run.context` in the next run of the step.
        most: For `rerun`: the maximum number of reruns.
    """

    kind: Literal["delay", "suspend", "rerun"]
    ms: Count
    context: JSON = None
    most: Count = msgspec.field(name="max", default=10)


class Emitted(Reply, frozen=True, tag="emitted"):
    """
    An event that a source emitted; *id* is the key of its `dedupe`, *ts* is milliseconds since 1970.

    Events are not deduplicated yet.
    """

    event: JSON
    id: str | int | float | None = None
    name: str | None = None
    summary: str | None = None
    ts: int | float | None = None


class StoreWrite(Reply, frozen=True, tag="db"):
    """A write to `$.service.db`; without *value* the key is deleted."""

    key: str
    value: JSON | msgspec.UnsetType = msgspec.UNSET


class Exit(Reply, frozen=True, tag="exit"):
    """`$.flow.exit`."""

    reason: str | None


class Warn(Reply, frozen=True, tag="warn"):
    """A warning for the step's log."""

    text: str


class Late(Reply, frozen=True, tag="late"):
    """A failure of code that a step, perhaps an earlier step, left running."""

    text: str


class Imported(Reply, frozen=True, tag="imported"):
    """
    The import of a module before a worker has a user.

    Attributes:
        fits: Whether a run cannot tell it from an import of its own.
        read: The environment variables that the imports have read.
    """

    fits: bool
    read: list[str]


class ServiceCall(Reply, frozen=True, tag="ask"):
    """A call of a service; the answer has the same *id*."""

    id: Count
    call: str
    args: dict[str, Any]


def parse_evaluations(value: JSON, count: int) -> list[Evaluation]:
    """
    Convert *value* to the results of *count* expressions.

    Raises:
        msgspec.ValidationError: *value* does not have that shape.
    """
    found = msgspec.convert(value, list[Evaluation])
    if len(found) != count or any(len(each) != 1 for each in found):
        raise msgspec.ValidationError("Expected one result for each expression")
    return found


StepReply = Export | Respond | Effect | Pause | Emitted | StoreWrite | Exit | Warn | Late
"""A message about what a step does."""

AnyReply = StepReply | Done | ServiceCall
"""Any message after a request, up to its `done`."""

MAX_LONG_NUMBER_DIGITS = 1 << 16
"""Digits of all integers of a reply that exceed a double: each is converted in quadratic time whenever the value is encoded."""

# parity[value-count]: the platform documents a limit of bytes only
MAX_CONTAINERS = 500_000
"""Lists and objects of a reply. Each costs as much time as a hundred bytes of text, so more of them stop the event loop for long."""
MAX_CONTAINERS_WITH_SURROGATES = 100_000
"""The same for a reply with lone surrogates, which only slow parsers and encoders process."""

_DECODE = msgspec.json.Decoder(AnyReply).decode
_LONG_DIGITS = 310  # the largest double has 309 digits
_LONG_NUMBER = re.compile(rb"(?<!\d)\d{%d,}" % _LONG_DIGITS)
_JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_CONTENT = re.compile(r"(Invalid (?:enum )?value|Object contains unknown field) .*?( - at `\$[\w.\[\]]*`)?", re.DOTALL)


def decode_reply(text: bytes | str) -> AnyReply:
    """
    Decode and validate a reply.

    Raises:
        ReplyError: *text* is not JSON, or not a reply.
        ExportNotJSONError: *text* has too many long integers, or too many lists and objects.
        RecursionError: *text* is nested too deeply.
    """
    if len(text) > MAX_LONG_NUMBER_DIGITS:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        _check_long_numbers(data)
        check_containers(data)
    reply: AnyReply
    try:
        reply = decode_large(_DECODE, text)
    except (msgspec.DecodeError, UnicodeError) as wrong:
        if isinstance(wrong, msgspec.ValidationError):
            raise ReplyError(describe_mismatch(wrong)) from None
    else:
        return reply
    check_containers(text if isinstance(text, bytes) else text.encode(), MAX_CONTAINERS_WITH_SURROGATES)
    try:  # a lone surrogate is valid JSON, but msgspec rejects it
        value = decode_large(_SLOW.decode, text if isinstance(text, str) else text.decode())
    except ValueError:
        raise ReplyError("it is not JSON") from None
    try:
        reply = msgspec.convert(value, AnyReply)
    except msgspec.ValidationError as wrong:
        raise ReplyError(describe_mismatch(wrong)) from None
    except UnicodeError:
        raise ReplyError("a name has half of a surrogate pair") from None
    return reply


def _check_long_numbers(text: bytes) -> None:
    if b"0" * _LONG_DIGITS in text.translate(DIGITS_TO_ZERO):  # ten times as fast as a pattern
        digits = sum(len(found[0]) for found in _LONG_NUMBER.finditer(_JSON_TEXT.sub(b"", text)))
        if digits > MAX_LONG_NUMBER_DIGITS:
            raise ExportNotJSONError(
                f"Integers of 310 or more digits have {digits:,} digits together; the limit is {MAX_LONG_NUMBER_DIGITS:,}. "
                "Export such integers as texts."
            )


def check_containers(text: bytes, most: int = MAX_CONTAINERS) -> None:
    """
    Refuse JSON with more than *most* lists and objects, before it is parsed.

    Raises:
        ExportNotJSONError: *text* has more.
    """
    count = count_containers(text, most)
    if count > most:
        raise ExportNotJSONError(
            f"A value has {count:,} lists and objects; the limit is {most:,}.",
            name="TooManyValues",
            fix="Export a list of numbers or texts in place of a list of lists or objects, or the JSON as one text.",
        )


def decode_step_reply(text: str) -> StepReply:
    """Decode a message of a step that runs without a worker; `ask` and `done` are invalid there."""
    reply = decode_reply(text)
    if isinstance(reply, Done | ServiceCall):
        raise ReplyError("only a worker sends this message")
    return reply


def describe_mismatch(wrong: msgspec.ValidationError) -> str:
    """Return why a value does not match its type, without the value: redaction would not find a partial secret in it."""
    text = str(wrong)
    if shortened := _CONTENT.fullmatch(text):
        text = f"{shortened[1]}{shortened[2] or ''}"
    return text[:1].lower() + text[1:]


def build_protocol_error(step: str, why: str) -> WorkerProtocolError:
    """Build the error for an invalid reply of *step*; `""` is a request that does not run a step."""
    return WorkerProtocolError(
        f"{f'Step `{step}`' if step else 'A worker'} sent a reply that pdkernel does not understand: {why}.",
        name="ProtocolError",
        fix="Do not write to the descriptors 3 and 4 of a step's process: pdkernel uses them.",
    )


def parse_finite(text: str) -> float:
    """Parse the number *text* of JSON. Raises `ValueError` if it exceeds a double."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(text[:100])
    return number


def refuse_constant(constant: str) -> None:
    """Refuse `NaN` and `Infinity`, which are not JSON, with `ValueError`."""
    raise ValueError(constant)


_SLOW = json.JSONDecoder(parse_constant=refuse_constant, parse_float=parse_finite)
