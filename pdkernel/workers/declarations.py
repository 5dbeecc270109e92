"""
A component and what it says of itself: its props, their options.

Knows shapes only. What a prop of a step must be is for `actions` to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pdkernel.model import JSON, AppBinding


@dataclass(frozen=True)
class ComponentFile:
    """
    A pre-built component: a module with the platform's component API.

    Attributes:
        path: The module. What it imports is found from there.
        key: Such as `slack-send-message`.
        version: Its own.
        kind: What it is.
        origin: Where it comes from. A file of a `folder` may change between two runs; the others may not.
    """

    path: Path
    key: str
    version: str
    kind: Literal["action", "source"]
    origin: Literal["builtin", "npm", "folder"]


@dataclass(frozen=True)
class PropDeclaration:
    """
    A prop that a component declares.

    Attributes:
        name: On `this`.
        type: As written (`string[]`, `data_store`, `alert`).
        optional: Whether it may be left out; true as well for what the builder does not ask for.
        definition: All of its definition that is JSON, with what it builds on: `label`, `description`, `default`,
            `min`, `max`, `secret`, `hidden`, `reloadProps`, `withLabel`, `useQuery`, and `options` if they are a list;
            `"dynamic": True` if they are asked for.
    """

    name: str
    type: str
    optional: bool = False
    definition: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentDescription:
    """
    What a component declares.

    Attributes:
        apps: Its app props.
        props: Its other props, in order; `alert` among them, which is for showing only.
        key: None for a code step, as are the next four.
        name: For people.
        description: For people, Markdown.
        version: Its own.
        type: `action` or `source`.
        additional: Whether it adds or changes props by the values of others.
        dedupe: Of a source: `unique`, `greatest`, `last`, or None.
        hooks: Of a source: those that it has.
    """

    apps: tuple[AppBinding, ...] = ()
    props: tuple[PropDeclaration, ...] = ()
    key: str | None = None
    name: str | None = None
    description: str | None = None
    version: str | None = None
    type: str | None = None
    additional: bool = False
    dedupe: str | None = None
    hooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PropOption:
    """A choice of a dropdown."""

    label: str
    value: JSON = None


@dataclass(frozen=True)
class PropOptionsPage:
    """
    A page of a prop's options.

    Attributes:
        options: The choices.
        context: To be handed back for the next page; None if pages are counted, or there is no more.
        empty_reason: Why there are none, in a sentence, or None.
    """

    options: tuple[PropOption, ...] = ()
    context: JSON = None
    empty_reason: str | None = None
