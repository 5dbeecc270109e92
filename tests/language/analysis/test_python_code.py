"""Python code of steps: the syntax tree and the entry point."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pdkernel.language.analysis.python_code import has_entry_point, parse_source


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def handler(pd): pass", True),
        ("async def handler(pd): pass", True),
        ("class handler: pass", True),
        ("handler = print", True),
        ("from other import handler", True),
        ("import other as handler", True),
        ("if True:\n    def handler(pd): pass", True),
        ("try:\n    pass\nfinally:\n    def handler(pd): pass", True),
        ("try:\n    pass\nexcept ValueError:\n    pass\nelse:\n    handler = print", True),
        ("from pipedream.script_helpers import steps", True),
        ("import pipedream.script_helpers as h", True),
        ("import json, pipedream.script_helpers", True),
        ("from pipedream import script_helpers as h", True),
        ("from pipedream import Pipedream", False),
        ("def handler(", True),
        ("", False),
        ("def other(pd):\n    def handler(): pass", False),
        ("from other import handler as x", False),
        ("handler(1)", False),
        ("\ufeffhandle = 1", False),
        ("\ufeffdef handler(pd): pass", True),
    ],
)
def test_entry_point(source: str, found: bool) -> None:
    """A step binds `handler` at its top level; a syntax error and the old helper module count, and a byte order mark does not."""
    assert has_entry_point(source) == found


@pytest.mark.parametrize("source", ["def", "x = 1\0", "(" * 10_000])
def test_source_that_cannot_be_parsed(source: str) -> None:
    """Source with a syntax error, a NUL or too deep brackets has no tree."""
    assert parse_source(source) is None


def test_invalid_escapes_are_not_reported() -> None:
    """An invalid escape has a tree, without a warning."""
    assert parse_source(r"x = '\d'") is not None


class _Garbage:
    """An object whose finalizer, which the garbage collector calls, runs for long enough to let another thread continue."""

    def __init__(self) -> None:
        self._me = self

    def __del__(self) -> None:
        for _ in range(60):
            pass


@pytest.fixture
def hurried_threads() -> Iterator[None]:
    """Threads take turns and garbage is collected as often as possible."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(100, 5, 5)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("hurried_threads")
def test_threads_parse_at_once() -> None:
    """Threads that parse at the same time do not disturb one another, although Python counts the depth of all their trees together."""
    source = f"x = {'[' * 60}1{']' * 60}\n" + "def f(a):\n    return {'a': [1, (2, 3)]}\n" * 50

    def parse(_: int) -> bool:
        for _ in range(20):
            _Garbage()
        return parse_source(source) is not None

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(parse, range(60)))
