"""
Secret props: values that a synced file holds only encrypted, as `{_enc: TEXT}`, so that a person must give them again.

The project stores a given value under the prop's key. Variables of a caller or of a `.env` file may use `STEP.PROP` instead.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.model import JSON, Step, Workflow

ENCRYPTED_VALUE_KEY = "_enc"
_DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class SecretProp:
    """
    A value of a step's props that the definition holds only encrypted.

    Attributes:
        step: The step's name.
        path: The path of the value: the prop's name, then keys and indexes inside of an object or a list.
        encrypted: The value in the definition.
    """

    step: str
    path: tuple[str | int, ...]
    encrypted: Mapping[str, JSON]

    @property
    def prop(self) -> str:
        """The path as text: `api_key`, `headers.Authorization`, `list.0`."""
        return ".".join(map(str, self.path))

    @property
    def name(self) -> str:
        """`STEP.PROP`."""
        return f"{self.step}.{self.prop}"

    @property
    def key(self) -> str:
        """`STEP.PROP#DIGEST`. The digest is that of the encrypted value: a changed secret has another key."""
        text = json.dumps(self.encrypted, sort_keys=True)
        return f"{self.name}#{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]}"

    def find_value(self, variables: Mapping[str, str]) -> str | None:
        """Return the given value among *variables*, or None."""
        return variables.get(self.name, variables.get(self.key))


def find_secret_props(workflow: Workflow) -> tuple[SecretProp, ...]:
    """Return the secret props of the enabled steps of *workflow*, in order."""
    return tuple(prop for step in workflow.steps if not step.disabled for prop in iter_secret_props(step))


def find_missing_secrets(workflow: Workflow, variables: Mapping[str, str]) -> tuple[SecretProp, ...]:
    """Return the secret props of enabled steps without a value among *variables*."""
    return tuple(prop for prop in find_secret_props(workflow) if prop.find_value(variables) is None)


def iter_secret_props(step: Step) -> Iterator[SecretProp]:
    """Yield the secret props of *step*, in order."""
    return (SecretProp(step.name, path, value) for path, value in _iter_encrypted((), step.props))


def fill_secret_props(step: Step, props: Mapping[str, JSON], variables: Mapping[str, str]) -> dict[str, JSON]:
    """
    *props* of *step* with the values that *variables* hold in place of the encrypted values.

    Call this after the evaluation of expressions: a secret that contains `{{` is not an expression.
    """
    # parity[secret-props]: the platform decrypts the value
    found = [
        (prop.path, value) for prop in iter_secret_props(step) if (value := prop.find_value(variables)) is not None
    ]
    if not found:
        return dict(props)
    filled: Any = copy.deepcopy(dict(props))
    for path, value in found:
        target = filled
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
    assert isinstance(filled, dict)
    return filled


def _iter_encrypted(
    path: tuple[str | int, ...], value: Any
) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, JSON]]]:
    if isinstance(value, Mapping):
        if path and ENCRYPTED_VALUE_KEY in value:
            yield path, value
            return
        for key, item in value.items():
            yield from _iter_encrypted((*path, str(key)), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _iter_encrypted((*path, index), item)
