"""`pd` of a Python step: the exports above, and the messages that its methods send."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from pdkernel.runtimes.python.export_encoding import ExportNotJSONError
from pdkernel.runtimes.python.step_api import Pd, RefusedError, Steps

URLS = {"resume_url": "https://a/resume", "cancel_url": "https://a/cancel"}
DAY_MS = 24 * 60 * 60 * 1000


def some_steps() -> Steps:
    """The exports of two steps, not parsed yet."""
    return Steps({"trigger": b'{"event": {"n": 1}}', "build": b'{"x": [1]}'})


class SentMessages:
    """A `pd` and the messages that it sent."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.pd = Pd(some_steps(), {"prop": 1}, {"id": "run"}, self.lines.append, self._call, URLS)

    def _call(self, operation: str, args: dict[str, Any]) -> Any:
        self.calls.append((operation, args))
        return "answer"

    @property
    def message(self) -> Any:
        """The only message."""
        (line,) = self.lines
        return json.loads(line)


@pytest.fixture
def sent_messages() -> SentMessages:
    """A new `pd`."""
    return SentMessages()


@pytest.mark.parametrize(
    "read",
    [
        dict,
        lambda steps: {**steps},
        lambda steps: steps | {},
        lambda steps: {} | steps,
        Steps.copy,
        lambda steps: dict(steps.items()),
        lambda steps: dict(zip(steps, steps.values(), strict=True)),
        lambda steps: pickle.loads(pickle.dumps(steps)),  # written one line above
        lambda steps: {name: steps.pop(name) for name in list(steps)},
        lambda steps: dict(reversed([steps.popitem(), steps.popitem()])),
        lambda steps: {name: steps.get(name) for name in steps},
        lambda steps: {name: steps.setdefault(name, 5) for name in steps},
    ],
)
def test_steps_are_a_dict(read: Callable[[Steps], dict[str, Any]]) -> None:
    """Every way to read a dict gives the parsed exports, in order."""
    steps = some_steps()

    assert read(steps) == {"trigger": {"event": {"n": 1}}, "build": {"x": [1]}}
    assert list(some_steps()) == ["trigger", "build"]


def test_a_value_is_parsed_once() -> None:
    """A change of an export is visible to the same step; an assigned value replaces the export."""
    steps = some_steps()
    steps["build"]["x"].append(2)
    steps["trigger"] = {"mine": True}
    steps["new"] = 1

    assert steps == {"trigger": {"mine": True}, "build": {"x": [1, 2]}, "new": 1}
    del steps["build"]
    assert "build" not in steps
    assert repr(steps) == "{'trigger': {'mine': True}, 'new': 1}"
    assert steps.get("build") is None
    assert steps.pop("build", 7) == 7
    assert steps.setdefault("later", 8) == steps["later"] == 8


def test_a_removed_step_stays_removed() -> None:
    """A step that is removed before its exports were read cannot be read any more."""
    steps = some_steps()

    del steps["trigger"]

    with pytest.raises(KeyError):
        steps["trigger"]
    assert steps == {"build": {"x": [1]}}


@pytest.mark.parametrize(
    ("steps", "fix"),
    [(some_steps(), "Did you mean build?"), (Steps({"a": b"1"}), "Known: a."), (Steps({}), "Known: none.")],
)
def test_a_missing_step_is_a_missing_key(steps: Steps, fix: str) -> None:
    """A wrong name is a `KeyError` with the name, as that of a dict; the report of the error has the suggestion."""
    with pytest.raises(KeyError, match=r"^'biuld'$") as caught:
        steps["biuld"]

    assert vars(caught.value)["pdkernel_fix"] == fix


def test_exports(sent_messages: SentMessages) -> None:
    """An export has a name and a JSON value; later changes of the value are not exported."""
    value = [1]
    sent_messages.pd.export("é", value)
    value.append(2)

    assert sent_messages.message == {"t": "export", "n": "é", "v": [1]}
    for name in ("", None, 5):
        with pytest.raises(TypeError, match="takes a name as its first argument"):
            sent_messages.pd.export(name, 1)
    with pytest.raises(ExportNotJSONError, match=r"^bad\[0\] is a set"):
        sent_messages.pd.export("bad", [{1}])
    assert len(sent_messages.lines) == 1


@pytest.mark.parametrize(
    ("response", "sent"),
    [
        ({"status": 200}, {"status": 200, "headers": {}, "body": None}),
        ({"status": 599, "body": {"a": 1}}, {"status": 599, "headers": {}, "body": {"a": 1}}),
        ({"status": 100, "body": b"\xff"}, {"status": 100, "headers": {}, "body": {"$base64": "/w=="}}),
        ({"status": 200, "body": bytearray(b"ab")}, {"status": 200, "headers": {}, "body": {"$base64": "YWI="}}),
        (
            {"status": 200, "headers": {"X-On": True, "X-N": 5, "Set-Cookie": ["a=1", "b=2"]}},
            {"status": 200, "headers": {"X-On": "true", "X-N": "5", "Set-Cookie": ["a=1", "b=2"]}, "body": None},
        ),
        ({"status": 200, "immediate": True}, {"status": 200, "headers": {}, "body": None, "immediate": True}),
        ({"status": 200, "immediate": False}, {"status": 200, "headers": {}, "body": None}),
    ],
)
def test_a_response(sent_messages: SentMessages, response: dict[str, Any], sent: dict[str, Any]) -> None:
    """Status, headers as texts, and body; bytes are sent in Base64. The parts may be keywords."""
    sent_messages.pd.respond(response)
    sent_messages.pd.respond(**response)

    assert [json.loads(line) for line in sent_messages.lines] == [{"t": "respond", "r": sent}] * 2


@pytest.mark.parametrize("status", [None, 99, 600, "200", True, 200.0])
def test_a_response_needs_a_status(sent_messages: SentMessages, status: Any) -> None:
    """A status is a whole number from 100 to 599."""
    with pytest.raises(TypeError, match="needs a status from 100 to 599"):
        sent_messages.pd.respond({"status": status})
    assert sent_messages.lines == []


def test_keywords_replace_the_parts_of_a_response(sent_messages: SentMessages) -> None:
    """A keyword has precedence over the dict."""
    sent_messages.pd.respond({"status": 200, "body": "a"}, status=201)

    assert sent_messages.message["r"] == {"status": 201, "headers": {}, "body": "a"}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda flow: flow.delay(5), {"kind": "delay", "ms": 5}),
        (lambda flow: flow.delay(0), {"kind": "delay", "ms": 0}),
        (lambda flow: flow.delay(1.6), {"kind": "delay", "ms": 2}),
        (lambda flow: flow.delay(1e300), {"kind": "delay", "ms": 2**53 - 1}),
        (lambda flow: flow.suspend(), {"kind": "suspend", "ms": DAY_MS}),
        (lambda flow: flow.rerun(), {"kind": "rerun", "ms": DAY_MS, "context": None, "max": 10}),
        (lambda flow: flow.rerun(5, {"a": 1}, 3), {"kind": "rerun", "ms": 5, "context": {"a": 1}, "max": 3}),
        (lambda flow: flow.rerun(5, maxRetries=2), {"kind": "rerun", "ms": 5, "context": None, "max": 2}),
        (lambda flow: flow.rerun(5, max_retries=-1), {"kind": "rerun", "ms": 5, "context": None, "max": 0}),
    ],
)
def test_a_pause(sent_messages: SentMessages, act: Callable[[Any], Any], message: dict[str, Any]) -> None:
    """A pause has its kind and milliseconds, and returns both URLs."""
    urls = act(sent_messages.pd.flow)

    assert sent_messages.message == {"t": "pause", **message}
    assert urls == URLS
    urls.clear()
    assert sent_messages.pd.flow.delay(1) == URLS


@pytest.mark.parametrize("ms", [-1, "5", True, None, float("inf"), float("nan")])
def test_a_pause_needs_milliseconds(sent_messages: SentMessages, ms: Any) -> None:
    """A pause takes a finite number from 0 upwards."""
    with pytest.raises(TypeError, match=r"pd\.flow\.delay takes a number of milliseconds"):
        sent_messages.pd.flow.delay(ms)
    with pytest.raises(TypeError, match="no argument 'retries'"):
        sent_messages.pd.flow.rerun(5, retries=1)
    assert sent_messages.lines == []


@pytest.mark.parametrize(("reason", "sent"), [((), None), (("done",), "done"), ((5,), "5")])
def test_an_exit(sent_messages: SentMessages, reason: tuple[Any, ...], sent: str | None) -> None:
    """The reason of an exit is a text, or missing."""
    sent_messages.pd.flow.exit(*reason)

    assert sent_messages.message == {"t": "exit", "reason": sent}


def test_another_workflow_is_a_service(sent_messages: SentMessages) -> None:
    """`trigger` waits for the answer of pdkernel."""
    assert sent_messages.pd.flow.trigger("p_1", {"a": 1}) == "answer"
    assert sent_messages.calls == [("flow.trigger", {"workflow": "p_1", "payload": {"a": 1}, "options": None})]
    refused = RefusedError({"message": "no", "name": "N", "code": "c", "fix": "f"})
    assert (str(refused), refused.pdkernel_name, refused.pdkernel_code, refused.pdkernel_fix) == ("no", "N", "c", "f")


@pytest.mark.parametrize(
    ("act", "kind", "payload"),
    [
        (lambda send: send.http("PUT", "https://a", data={"b": 1}), "http", {"method": "PUT", "url": "https://a", "data": {"b": 1}}),
        (lambda send: send.email("Hi", "text"), "email", {"subject": "Hi", "text": "text", "html": ""}),
        (lambda send: send.email(), "email", {"subject": "", "text": None, "html": ""}),
        (lambda send: send.emit({"a": 1}), "emit", {"event": {"a": 1}, "channel": ""}),
        (lambda send: send.emit(1, "c"), "emit", {"event": 1, "channel": "c"}),
        (lambda send: send.s3("b", "p", [1]), "s3", {"bucket": "b", "prefix": "p", "payload": [1]}),
        (lambda send: send.sse("c", 1), "sse", {"channel": "c", "payload": 1}),
    ],
)  # fmt: skip
def test_a_message_is_queued(
    sent_messages: SentMessages, act: Callable[[Any], None], kind: str, payload: dict[str, Any]
) -> None:
    """Each method queues its payload; a call outside of a cell has no line."""
    act(sent_messages.pd.send)

    assert sent_messages.message == {"t": "effect", "kind": kind, "line": None, "payload": payload}


def test_a_message_has_the_line_of_its_call(sent_messages: SentMessages) -> None:
    """The line is that of the cell, also if a function of the cell calls."""
    code = compile("def ask(pd):\n    pd.send.emit(1)\n\n\nask(pd)\n", "<step a>", "exec")

    exec(code, {"pd": sent_messages.pd})  # the code of a cell

    assert sent_messages.message["line"] == 2
    with pytest.raises(ExportNotJSONError, match=r"^pd\.send\.emit\.event is a set"):
        sent_messages.pd.send.emit({1})
