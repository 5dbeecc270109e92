"""Options that are an amount of memory."""

from __future__ import annotations

import click
import pytest

from pdkernel.cli.size_param import parse_size

CONTEXT, OPTION = click.Context(click.Command("serve")), click.Option(["--memory"])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        ("16M", 16 << 20),
        ("16384k", 16 << 20),
        ("16777216", 16 << 20),
        ("1.5G", 3 << 29),
        ("2GiB", 2 << 30),
        (" 2 gb ", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_a_size(text: str | None, size: int | None) -> None:
    """A unit is a power of 1024, with and without `B` and `iB`, in any case; 16 MB is enough."""
    assert parse_size(CONTEXT, OPTION, text) == size


@pytest.mark.parametrize(("text", "says"), [("16383K", "less than 16M"), ("0", "less than"), ("-1G", "not a size")])
def test_a_size_that_is_refused(text: str, says: str) -> None:
    """A size below 16 MB is too small for a worker."""
    with pytest.raises(click.BadParameter, match=says):
        parse_size(CONTEXT, OPTION, text)


@pytest.mark.parametrize("text", ["", "G", "1.G", "1P", "1 2G", "1,5G"])
def test_what_is_not_a_size(text: str) -> None:
    """A size is a number with one unit."""
    with pytest.raises(click.BadParameter, match="is not a size"):
        parse_size(CONTEXT, OPTION, text)
