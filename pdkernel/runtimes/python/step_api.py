"""
`pd`, the argument of a Python step's handler, with the names of the platform's Python documentation.

Its methods send messages to pdkernel as JSON lines.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

from .export_encoding import ExportNotJSONError, encode_json

SendLine = Callable[[str], object]
CallServices = Callable[[str, dict[str, Any]], Any]
_DAY_MS = 24 * 60 * 60 * 1000
_MAX_SAFE_INTEGER = 2**53 - 1  # the largest whole number that JavaScript represents exactly


class MissingStepError(KeyError):
    """`pd.steps` has no exports of a step."""

    pdkernel_name = "KeyError"

    def __init__(self, name: str, known: list[str]) -> None:
        import difflib

        super().__init__(name)
        near = difflib.get_close_matches(str(name), known)
        self.pdkernel_fix = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known) or 'none'}."


class Steps(dict[str, Any]):
    """
    `pd.steps`, the exports of the steps above: a dict that parses a value when it is first read.

    Each step has its own copy, so that a change in it is not visible to the next step.
    """

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        super().__init__(dict.fromkeys(texts))
        self._texts = dict(texts)

    def _all(self) -> Steps:
        for name in list(self._texts):
            self[name]
        return self

    def __getitem__(self, name: str) -> Any:
        text = self._texts.pop(name, None)
        if text is not None:
            super().__setitem__(name, json.loads(text))
        return super().__getitem__(name)

    def __missing__(self, name: str) -> NoReturn:
        raise MissingStepError(name, list(self))

    def __setitem__(self, name: str, value: Any) -> None:
        self._texts.pop(name, None)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._texts.pop(name, None)
        super().__delitem__(name)

    def __iter__(self) -> Iterator[str]:  # overridden so that dict(steps) and {**steps} read through __getitem__
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        return dict.__eq__(self._all(), other)

    __hash__ = None

    def __repr__(self) -> str:
        return dict.__repr__(self._all())

    def __or__(self, other: Any) -> Any:
        return dict(self.items()) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self.items())

    def get(self, name: str, default: Any = None) -> Any:
        """Return the exports of step *name*, or *default*."""
        return self[name] if name in self else default  # noqa: SIM401 - this is get

    def items(self) -> Any:
        """Return the names and exports of the steps, all parsed."""
        return dict.items(self._all())

    def values(self) -> Any:
        """Return the exports of the steps, all parsed."""
        return dict.values(self._all())

    def copy(self) -> dict[str, Any]:
        """Return a dict of the exports, all parsed."""
        return dict(self.items())

    def pop(self, name: str, *default: Any) -> Any:
        """Remove step *name* and return its exports, else *default*; raises KeyError without *default*."""
        if name in self:
            self[name]
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last step and its exports."""
        return dict.popitem(self._all())

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return the exports of step *name*; if it has none, set and return *default*."""
        return self[name] if name in self else super().setdefault(name, default)

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self.items()),))


class RefusedError(RuntimeError):
    """pdkernel refused a service call of the step; the message has the reason."""

    def __init__(self, fault: Mapping[str, Any]) -> None:
        super().__init__(fault.get("message", ""))
        self.pdkernel_name = fault.get("name")
        self.pdkernel_code = fault.get("code")
        self.pdkernel_fix = fault.get("fix")


class Flow:
    """`pd.flow`. Only `trigger` waits. As the platform documents, the other methods take effect when the step has ended."""

    pdkernel_hidden = True

    def __init__(self, send: SendLine, call_services: CallServices, urls: Mapping[str, str]) -> None:
        self._send = send
        self._call_services = call_services
        self._urls = dict(urls)

    def exit(self, reason: Any = None) -> None:
        """
        End the run after this step.

        parity[bare-exit]: as on the platform, the step continues unless it returns: `return pd.flow.exit()`.
        """
        self._send(json.dumps({"t": "exit", "reason": None if reason is None else str(reason)}))

    def delay(self, ms: float) -> dict[str, str]:
        """Pause the run for *ms* milliseconds after this step; returns `resume_url` and `cancel_url`."""
        return self._pause("delay", ms)

    def suspend(self, ms: float = _DAY_MS) -> dict[str, str]:
        """Pause the run after this step until its `resume_url` is called; after *ms* milliseconds the run is cancelled."""
        return self._pause("suspend", ms)

    def rerun(self, ms: float = _DAY_MS, context: Any = None, max_retries: int = 10, **names: Any) -> dict[str, str]:
        """Run this step again after *ms* milliseconds, at most *max_retries* times, with *context*."""
        limit = names.pop("maxRetries", max_retries)
        if names:
            raise TypeError(f"pd.flow.rerun has no argument {next(iter(names))!r}")
        return self._pause("rerun", ms, context=context, max=max(0, min(int(limit), _MAX_SAFE_INTEGER)))

    def trigger(
        self, workflow: str, payload: Any = None, options: Any = None, *, external_user_id: str | None = None
    ) -> Any:
        """
        Run another workflow on *payload*, and return its result.

        The other run has the external user of this run. A run without one, or one that the `pdkernel.yaml` of the other
        workflow permits, may name the user by *external_user_id*.
        """
        if external_user_id is not None:
            options = {**(options or {}), "externalUserId": external_user_id}
        return self._call_services("flow.trigger", {"workflow": workflow, "payload": payload, "options": options})

    def _pause(self, kind: str, ms: Any, **more: Any) -> dict[str, str]:
        if not isinstance(ms, int | float) or isinstance(ms, bool) or not 0 <= ms < float("inf"):
            raise TypeError(f"pd.flow.{kind} takes a number of milliseconds from 0 upwards, not {ms!r:.60}")
        self._send(
            encode_json(
                {"t": "pause", "kind": kind, "ms": min(round(ms), _MAX_SAFE_INTEGER), **more}, f"pd.flow.{kind}"
            )
        )
        return dict(self._urls)


class SendApi:
    """`pd.send`: messages are queued and delivered when the run has ended. The step does not get the result."""

    pdkernel_hidden = True

    def __init__(self, send: SendLine) -> None:
        self._send = send

    def http(self, method: str, url: str, **request: Any) -> None:
        """Send an HTTP request; *request* may have `data`, `headers`, `params` and `auth`."""
        self._effect("http", {"method": method, "url": url, **request})

    def email(self, subject: str = "", text: str | None = None, html: str | None = "") -> None:
        """
        Send an e-mail to yourself.

        parity[email-html]: as on the platform, `html` is "" by default and then replaces the text; `html=None` sends the text.
        """
        self._effect("email", {"subject": subject, "text": text, "html": html})

    def emit(self, event: Any, channel: str = "") -> None:
        """Emit *event* to the listeners of this workflow on *channel*."""
        self._effect("emit", {"event": event, "channel": channel})

    def s3(self, bucket: str, prefix: str, payload: Any) -> None:
        """Write *payload* to an S3 bucket, under a key that begins with *prefix*."""
        self._effect("s3", {"bucket": bucket, "prefix": prefix, "payload": payload})

    def sse(self, channel: str, payload: Any) -> None:
        """Send *payload* as a server-sent event to the listeners of *channel*."""
        self._effect("sse", {"channel": channel, "payload": payload})

    def _effect(self, kind: str, payload: dict[str, Any]) -> None:
        text = encode_json(payload, f"pd.send.{kind}")
        self._send(f'{{"t":"effect","kind":{json.dumps(kind)},"line":{json.dumps(_calling_line())},"payload":{text}}}')


def _calling_line() -> int | None:
    """Return the line of the cell that makes this call; None if code outside of the cell makes it."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - `inspect` takes a tenth of a second to import
    while frame is not None and not frame.f_code.co_filename.startswith("<step "):
        frame = frame.f_back
    return frame.f_lineno if frame is not None else None


def encode_export(name: str, value: Any) -> str:
    """Encode the message that exports *value* as *name*. Raises `ExportNotJSONError`."""
    return f'{{"t":"export","n":{json.dumps(name)},"v":{encode_json(value, name)}}}'


class Pd:
    """
    The argument of `handler(pd)`.

    Attributes:
        steps: Exports of the steps above, by step name; the event is `pd.steps["trigger"]["event"]`.
        inputs: Values of props; an app is `{"$auth": {...}}`.
        context: The run's context.
        flow: Ends and pauses the run, and runs other workflows.
        send: Queues messages that are sent when the run has ended.
    """

    pdkernel_hidden = True

    def __init__(
        self,
        steps: Steps,
        inputs: dict[str, Any],
        context: dict[str, Any],
        send_line: SendLine,
        call_services: CallServices,
        urls: Mapping[str, str],
    ) -> None:
        self.steps = steps
        self.inputs = inputs
        self.context = context
        self.flow = Flow(send_line, call_services, urls)
        self.send = SendApi(send_line)
        self._send = send_line

    def export(self, name: Any, value: Any) -> None:
        """Export *value* as `steps.<this step>.<name>`; later changes of *value* are not exported."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"pd.export takes a name as its first argument, not {name!r:.60}")
        self._send(encode_export(name, value))

    def respond(self, response: dict[str, Any] | None = None, **parts: Any) -> None:
        """
        Respond to the HTTP request that started the workflow.

        Raises:
            TypeError: The status is missing or invalid.
            ExportNotJSONError: The body is not JSON.
        """
        answer: dict[str, Any] = {**(response or {}), **parts}
        status = answer.get("status")
        if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
            raise TypeError('pd.respond needs a status from 100 to 599, for example {"status": 200, "body": ...}')
        body = answer.get("body")
        if isinstance(body, bytes | bytearray):
            body = {"$base64": base64.b64encode(body).decode()}
        encoded: dict[str, Any] = {
            "status": status,
            # a list is a header with several values, such as Set-Cookie
            "headers": {
                str(key): [_header(each) for each in value] if isinstance(value, list | tuple) else _header(value)
                for key, value in dict(answer.get("headers") or {}).items()
            },
            "body": body,
        }
        if answer.get("immediate"):
            encoded["immediate"] = True
        self._send(f'{{"t":"respond","r":{encode_json(encoded, "respond")}}}')


def _header(value: Any) -> str:
    """Return a header's value as text; booleans as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


__all__ = ["ExportNotJSONError", "Pd", "Steps"]
