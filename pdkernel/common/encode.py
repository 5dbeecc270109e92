"""JSON of the package's values: encoding for storage and messages, and the base class of values with a JSON form."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Self, TypeVar

import msgspec
import orjson

T = TypeVar("T")

DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
"""A table for `bytes.translate`: afterwards a text is quickly searched for a number of digits in a row."""
_LARGE = 1 << 16

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: valid in the texts of JSON and Python, and not encodable as UTF-8."""


def encode_json(value: object) -> bytes:
    """
    Encode *value* as JSON: one line of UTF-8. *value* is plain JSON, or holds values of `JsonStruct`.

    An integer of more than 64 bits keeps every digit, and a lone surrogate is escaped. NaN and Infinity become null,
    unless *value* also holds a surrogate.
    """
    if isinstance(value, JsonStruct):
        return _encode_any(value.json_form())
    try:
        return orjson.dumps(value)
    except TypeError:
        return _encode_any(value)


def decode_large(decode: Callable[[Any], T], text: str | bytes) -> T:
    """
    Return `decode(text)`, with the garbage collector paused if *text* is large.

    The collector would visit the values again and again while there are more and more of them.
    """
    if len(text) < _LARGE or not gc.isenabled():
        return decode(text)
    gc.disable()
    try:
        return decode(text)
    finally:
        gc.enable()


def count_containers(text: bytes, enough: int) -> int:
    """
    Return the number of lists and objects of JSON, without parsing it; 0 if there are at most *enough*.

    Each costs as much time as a hundred bytes of text, for a parser, an encoder and the garbage collector.
    """
    if len(text) <= enough or text.count(b"[") + text.count(b"{") <= enough:
        return 0
    marks = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS)
    outside_of_texts = b"".join(marks.split(b'"')[::2])
    count = outside_of_texts.count(b"[") + outside_of_texts.count(b"{")
    return count if count > enough else 0


_NO_MARKS = bytes(set(range(256)) - set(b'"[{'))


class JsonStruct(msgspec.Struct, frozen=True):
    """A frozen value whose fields are the keys of its JSON."""

    def json_form(self) -> object:
        """
        Return what is encoded as the value's JSON.

        A type whose JSON is not made of its fields overrides this; a value that holds values of such a type does too.
        """
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the value as JSON."""
        return decode_json(encode_json(self), dict[str, Any])

    @classmethod
    def from_json(cls, data: object) -> Self:
        """
        Return the value that `to_json` returned as *data*; keys that the type does not have are ignored.

        Raises:
            msgspec.ValidationError: *data* does not fit; this is a `ValueError`.
        """
        return msgspec.convert(data, cls)


def decode_json(text: str | bytes, kind: type[T]) -> T:
    """
    Return the *kind* that `encode_json` encoded as *text*; keys that *kind* does not have are ignored.

    Raises:
        ValueError: *text* is not JSON, or does not fit.
        RecursionError: *text* is nested too deeply.
    """
    try:
        return decode_large(lambda text: msgspec.json.decode(text, type=kind), text)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeError):  # msgspec does not decode a lone surrogate or NaN
        return decode_large(lambda text: msgspec.convert(json.loads(text), kind), text)


def _encode_any(value: object) -> bytes:
    try:
        return _encode(value)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, enc_hook=_to_plain)
        return _encode_slowly(plain).encode("utf-8", "backslashreplace")  # for a surrogate this is JSON's own escape


def _to_plain(value: object) -> object:
    """Convert a value that msgspec does not support: a path, a mapping, or a subclass of a plain type."""
    match value:
        case PurePath():
            return str(value)
        case Mapping():
            return dict(value)
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case _:
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_encode = msgspec.json.Encoder(enc_hook=_to_plain).encode
_encode_slowly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
