"""The shape of JSON values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pdkernel.event import Event
from pdkernel.model import JSON
from pdkernel.shape import (
    MAX_SHAPE_DEPTH,
    Segment,
    Shape,
    infer_shape,
)
from tests.shape.values import COMMITS


def child(shape: Shape, *segments: Segment) -> Shape:
    """The shape at a path below *shape*."""
    for segment in segments:
        (shape,) = (below for below in shape.children if below.path[-1] == segment)
    return shape


def test_shape_merges_the_items_of_a_list() -> None:
    """All items of a list share one child, which counts how many of them have a key."""
    shape = infer_shape(COMMITS)

    items = child(shape, "commits", 0)
    email = child(items, "author", "email")

    assert items.types == (("object", 2),)
    assert (email.present_count, email.possible_count, email.is_optional) == (1, 2, True)
    assert email.path == ("commits", 0, "author", "email")
    assert child(shape, "tags", 0).types == (("string", 1), ("integer", 1))
    assert child(shape, "commits", 0, "added", 0).samples == ('"one.py"', '"two.py"')


def test_shape_of_several_events_counts_presence() -> None:
    """Several events have one shape, in which each path counts the events that have it."""
    shape = infer_shape({"body": {"a": 1}}, {"body": {"a": "x", "b": 2}}, {})

    assert (child(shape, "body").present_count, child(shape, "body").possible_count) == (2, 3)
    assert child(shape, "body", "a").types == (("integer", 1), ("string", 1))
    assert (child(shape, "body", "b").present_count, child(shape, "body", "b").possible_count) == (1, 2)


def test_samples_are_few_distinct_and_short() -> None:
    """A path has at most three distinct samples, long samples are shortened, and null is not a sample."""
    shape = infer_shape([None, "a", "a", "b" * 500, "c", "d", {"e": 1}])

    samples = child(shape, 0).samples

    assert samples == ('"a"', '"' + "b" * 59 + '…"', '"c"')


def test_masked_headers_are_not_samples() -> None:
    """The shape of a masked event has the secret header without its value."""
    event = Event({"headers": {"authorization": "Bearer made-up-token", "accept": "*/*"}})

    shape = infer_shape(event.with_masked_headers().data)

    assert child(shape, "headers", "authorization").samples == ('"***"',)
    assert "made-up" not in repr(shape)


def test_a_deep_value_counts_with_its_type() -> None:
    """A deeply nested value is examined down to a fixed depth."""
    value: JSON = 1
    for _ in range(5 * MAX_SHAPE_DEPTH):
        value = [value]

    shape = infer_shape(value)

    for _ in range(MAX_SHAPE_DEPTH):
        shape = shape.children[0]
    assert shape.types == (("array", 1),)
    assert shape.children == ()


def test_a_shape_does_not_need_pandas() -> None:
    """Importing the package does not load pandas or genson."""
    program = "import sys, pdkernel.shape; print([name for name in ('pandas', 'genson') if name in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("length", "sample"), [(60, "x" * 60), (61, "x" * 59 + "…")])
def test_the_longest_sample(length: int, sample: str) -> None:
    """A text of 60 characters is a whole sample; a longer one is cut to 60."""
    assert infer_shape("x" * length).samples == (f'"{sample}"',)
