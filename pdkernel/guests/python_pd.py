"""
`pd`, as a Python step sees it.

Knows the platform's names (its Python documentation). How something reaches the host is the `send` that it is given.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from .python_exports import ExportNotJSONError, encode

Send = Callable[[str], None]


class NotRunHereError(RuntimeError):
    """The step asks for something that this version does not run."""

    pdkernel_code = "unsupported"


def _not_run(what: str) -> NoReturn:
    raise NotRunHereError(f"{what} is not run by this version.")


class Steps(dict[str, Any]):
    """
    The exports of the steps above: a dict whose values are parsed when they are first read.

    Every step has its own, so a change that one makes is not seen by the next.
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
        known = ", ".join(self) or "none"
        raise KeyError(f"{name} (steps that have exports here: {known})")

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
        """As of a dict."""
        return self[name] if name in self else default  # noqa: SIM401 - this is get

    def items(self) -> Any:
        """As of a dict."""
        return dict.items(self._all())

    def values(self) -> Any:
        """As of a dict."""
        return dict.values(self._all())

    def copy(self) -> dict[str, Any]:
        """As of a dict."""
        return dict(self.items())

    def pop(self, name: str, *default: Any) -> Any:
        """As of a dict."""
        if name in self:
            self[name]
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """As of a dict."""
        return dict.popitem(self._all())

    def setdefault(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        return self[name] if name in self else super().setdefault(name, default)

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self.items()),))


class Flow:
    """`pd.flow`."""

    pdkernel_hidden = True

    def __init__(self, send: Send) -> None:
        self._send = send

    def exit(self, reason: Any = None) -> None:
        """
        End the workflow after this step.

        parity[bare-exit]: as on the platform, only `return pd.flow.exit()` ends the step too.
        """
        self._send(json.dumps({"t": "exit", "reason": None if reason is None else str(reason)}))

    def __getattr__(self, name: str) -> Any:
        if name in ("delay", "suspend", "rerun", "trigger"):
            return lambda *_args, **_options: _not_run(f"pd.flow.{name}")
        raise AttributeError(f"pd.flow has no {name!r}")


class Sends:
    """`pd.send`."""

    pdkernel_hidden = True

    def __getattr__(self, name: str) -> Any:
        if name in ("email", "http", "emit", "s3", "sse"):
            return lambda *_args, **_options: _not_run(f"pd.send.{name}")
        raise AttributeError(f"pd.send has no {name!r}")


class Store:
    """A data store prop: there, and clear about what it cannot do."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _not_run("A data store")

    def _refuse(self, *_args: Any, **_options: Any) -> NoReturn:
        _not_run("A data store")

    __getitem__ = __setitem__ = __delitem__ = __contains__ = __iter__ = __len__ = _refuse


class Pd:
    """
    What `handler(pd)` is given.

    Attributes:
        steps: Exports of the steps above, `pd.steps["trigger"]["event"]` among them.
        inputs: Values of props; an app is `{"$auth": {...}}`.
        context: The run's context.
        flow: `exit`.
        send: Nothing yet.
    """

    pdkernel_hidden = True

    def __init__(self, steps: Steps, inputs: dict[str, Any], context: dict[str, Any], send: Send) -> None:
        self.steps = steps
        self.inputs = inputs
        self.context = context
        self.flow = Flow(send)
        self.send = Sends()
        self._send = send

    def export(self, name: Any, value: Any) -> None:
        """Export *value* as `steps.<this step>.<name>`, as it is now."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"pd.export takes a name first, and {name!r:.60} is not one")
        text = encode(value, name)
        self._send(f'{{"t":"export","n":{json.dumps(name)},"v":{text}}}')

    def respond(self, response: dict[str, Any] | None = None, **parts: Any) -> None:
        """
        Answer the HTTP request.

        Raises:
            TypeError: No status, or not a number.
            ExportNotJSONError: The body is not JSON.
        """
        answer: dict[str, Any] = {**(response or {}), **parts}
        status = answer.get("status")
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError('pd.respond needs a status that is a whole number: {"status": 200, "body": ...}')
        body = answer.get("body")
        if isinstance(body, bytes | bytearray):
            body = {"$base64": base64.b64encode(body).decode()}
        told: dict[str, Any] = {
            "status": status,
            "headers": {str(key): str(value) for key, value in dict(answer.get("headers") or {}).items()},
            "body": body,
        }
        if answer.get("immediate"):
            told["immediate"] = True
        self._send(f'{{"t":"respond","r":{encode(told, "respond")}}}')


__all__ = ["ExportNotJSONError", "NotRunHereError", "Pd", "Steps", "Store"]
