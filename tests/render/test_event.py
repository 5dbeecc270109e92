"""The view of a run's event."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.execution import RunTrigger
from pdkernel.render.event import render_event
from tests.render.reading import Page


def read(html: str) -> str:
    """The text that a browser shows."""
    return Page(html).text


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"method": "POST", "path": "/", "body": {"amount": 12}}, ["body", "amount: 12", "request: POST /"]),
        (
            {"method": "POST", "path": "/x", "body": "plain <b>text</b>"},
            ["body", "plain <b>text</b>", "request: POST /x"],
        ),
        ({"method": "GET", "path": "/", "body": None}, ["body", "empty", "request: GET /"]),
        ({"method": "GET", "path": "/"}, ["body", "empty", "request: GET /"]),
        ({"timestamp": 1700000000}, ["timestamp", "1700000000"]),
        ({}, ["The event is empty."]),
    ],
)
def test_the_body_comes_first(event: dict[str, Any], shown: list[str]) -> None:
    """The body, or the values of an event without a request, come before the request; markup is text."""
    text = read(render_event(RunTrigger(event, {})))

    places = [text.index(each) for each in shown]
    assert places == sorted(places)


def test_a_sealed_event() -> None:
    """Of an event that could not be searched for secrets, nothing is shown."""
    assert "sealed" in read(render_event(RunTrigger({}, {}, sealed=True)))


def test_a_large_body_is_cut() -> None:
    """A text that would not fit on a page is cut."""
    assert len(render_event(RunTrigger({"body": "x" * 10**6}, {}))) < 20_000
