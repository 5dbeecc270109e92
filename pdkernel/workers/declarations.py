"""
A component and its declaration: the props and their options.

The rules for the props of a step are in `actions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pdkernel.model import JSON, AppBinding


@dataclass(frozen=True)
class ComponentFile:
    """
    A pre-built component: a module with the platform's component API.

    Attributes:
        path: The module file. Its imports are resolved from there.
        key: The component's key, such as `slack-send-message`.
        version: The component's version.
        kind: An action or a source.
        origin: The source of the component. A file of a `folder` may change between two runs.
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
        name: The name of the prop on `this`.
        type: The type as written (`string[]`, `data_store`, `alert`).
        optional: Whether the prop may be omitted; also true for props that the builder does not show.
        definition: The JSON part of its definition, merged with its `propDefinition`: `label`, `description`, `default`,
            `min`, `max`, `secret`, `hidden`, `reloadProps`, `withLabel`, `useQuery`, and `options` if they are a list;
            `"dynamic": True` if a function returns them.
    """

    name: str
    type: str
    optional: bool = False
    definition: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentDescription:
    """
    The declaration of a component.

    Attributes:
        apps: Its app props.
        props: Its other props in order, including `alert`, which is for display only.
        key: The key. For a code step, the key, name, description, version and type are None.
        name: The display name.
        description: The description in Markdown.
        version: The component's version.
        type: `action` or `source`.
        additional: Whether the component adds or changes props depending on the values of other props.
        dedupe: The strategy of a source: `unique`, `greatest`, `last`, or None.
        hooks: The names of a source's hooks.
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
class OptionsQuery:
    """
    Which options of a prop are wanted.

    Attributes:
        page: The number of the page, counted from 0.
        context: The context of the page before, or None.
        text: The text that the user searches for, or None.
    """

    page: int = 0
    context: JSON = None
    text: str | None = None


FIRST_PAGE: Final = OptionsQuery()


@dataclass(frozen=True)
class PropOptionsPage:
    """
    A page of a prop's options.

    Attributes:
        options: The options.
        context: Passed to the request for the next page; None if pages are numbered, or this is the last page.
        empty_reason: Why there are no options, in a sentence, or None.
    """

    options: tuple[PropOption, ...] = ()
    context: JSON = None
    empty_reason: str | None = None
