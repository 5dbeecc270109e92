"""Parses options that are an amount of memory or disk space."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MIN_BYTES = 16 * _UNITS["M"]


def parse_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """
    Return the number of bytes of a size such as `512M`, `1.5G` or `2GiB`: the callback of an option.

    Raises:
        click.BadParameter: *value* is not a size, or less than 16 MB, which nothing can work with.
    """
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size. Write a number with a unit, such as 512M or 4G.")
    size = int(float(found[1]) * _UNITS[found[2].upper()])
    if size < _MIN_BYTES:
        raise click.BadParameter(f"{value!r} is less than {_MIN_BYTES // _UNITS['M']}M.")
    return size
