"""
The values of `%%pdstep` options, parsed from text and formatted as text.

A prop's value is JSON if the text parses as JSON, else the text itself: `5` is a number, `"5"` is text. A text that would
parse as JSON, or that does not fit on a line, is written as a JSON string, so every value has one reading.
"""

from __future__ import annotations

import argparse
import json
import math
import re

from pdkernel.model import JSON, AppBinding, StoreBinding

MAX_TIMEOUT_S = 750
"""The platform's highest time limit for a workflow."""

_APP = re.compile(
    r"(?:(?P<prop>[A-Za-z_$][\w$]*):)?(?P<app>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:=(?P<account>[A-Za-z0-9_-]+))?\Z", re.ASCII
)
_PROP_NAME = re.compile(r"[A-Za-z_$][\w$.-]*\Z", re.ASCII)
_VERSION = r"@\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?"
_USES = re.compile(
    rf"(?:(?:@[\w.-]+/)?[A-Za-z0-9_][\w.-]*{_VERSION}|@[\w.-]+/[A-Za-z0-9_][\w.-]*|[A-Za-z0-9_]+(?:-[\w.]+)+)\Z",
    re.ASCII,
)
"""KEY@VERSION. The version may be missing in a key with a workspace or a hyphen: other words are not keys."""


def parse_app(text: str) -> AppBinding:
    """Parse `[PROP:]SLUG[=ACCOUNT]`; PROP defaults to SLUG."""
    match = _APP.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not [PROP:]SLUG[=ACCOUNT], for example slack, chat:slack or slack=apn_1"
        )
    return AppBinding(prop=match["prop"] or match["app"], app=match["app"], account=match["account"])


def format_app(binding: AppBinding) -> str:
    """The reverse of `parse_app`."""
    prop = "" if binding.prop == binding.app else f"{binding.prop}:"
    account = "" if binding.account is None else f"={binding.account}"
    return f"{prop}{binding.app}{account}"


def parse_store(text: str) -> StoreBinding:
    """Parse `PROP[=STORE]`."""
    prop, equals, name = text.partition("=")
    if not _PROP_NAME.match(prop) or (equals and not name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not PROP[=STORE], for example data_store or cache=ds_1")
    return StoreBinding(prop, name if equals else None)


def format_store(binding: StoreBinding) -> str:
    """The reverse of `parse_store`."""
    return binding.prop if binding.store is None else f"{binding.prop}={binding.store}"


def parse_prop(text: str) -> tuple[str, JSON]:
    """Parse `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals or not _PROP_NAME.match(name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, for example channel=general")
    return name, parse_value(value)


def format_prop(name: str, value: JSON) -> str:
    """
    The reverse of `parse_prop`.

    Raises:
        ValueError: The prop's name cannot be written on the line.
    """
    if not _PROP_NAME.match(name):
        raise ValueError(f"a prop called {name!r} cannot be written on a %%pdstep line")
    return f"{name}={format_value(value)}"


def parse_value(text: str) -> JSON:
    """The JSON value of *text*, or *text* itself."""
    try:
        value: JSON = json.loads(text, parse_constant=_reject_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return text
    return value


def format_value(value: JSON) -> str:
    """The reverse of `parse_value`, on one line."""
    if isinstance(value, str) and value.isprintable() and parse_value(value) == value:
        return value
    # Line separators and unpaired surrogates become \u escapes.
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


def is_action_reference(text: str) -> bool:
    """Whether *text* is `KEY@VERSION`, or `@WORKSPACE/KEY@VERSION`, or one of both without its version."""
    return _USES.match(text) is not None


def parse_action_reference(text: str) -> str:
    """Parse a reference as for `is_action_reference`."""
    if not is_action_reference(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY@VERSION, for example slack-send-message@0.0.20")
    return text


def parse_timeout(text: str) -> float:
    """Parse a number of seconds, more than 0 and at most 750."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MAX_TIMEOUT_S}")
    return seconds


def format_timeout(seconds: float) -> str:
    """The reverse of `parse_timeout`."""
    return repr(float(seconds)).removesuffix(".0")


def _reject_constant(constant: str) -> JSON:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
