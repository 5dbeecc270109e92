"""
Finds credentials written into a workflow, which must not get into its files.

The forms and names of credentials are in `redaction.secret_patterns`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pdkernel.common.redaction.secret_patterns import CREDENTIAL_FORMS, is_credential_prop
from pdkernel.errors import DefinitionError
from pdkernel.model import Step, Workflow

_MIN_CREDENTIAL_CHARS = 8
"""Length of a text that counts as a credential; shorter texts are words, such as a token's type."""


def check_no_credentials(workflow: Workflow, *, existing: Workflow | None = None) -> None:
    """
    Refuse a workflow that contains a credential in plain text.

    Args:
        workflow: The workflow to write.
        existing: The workflow in the folder; its credentials are in the Git history already and are not refused.

    Raises:
        DefinitionError: A credential was found; the message names the step and the prop or line, never the text.
    """
    known = frozenset() if existing is None else frozenset(_credentials(existing))
    for fault in find_credential_errors(workflow, known_texts=known):
        raise fault


def find_credential_errors(
    workflow: Workflow, *, known_texts: frozenset[str] = frozenset()
) -> Iterator[DefinitionError]:
    """The errors that `check_no_credentials` raises, one per place; texts in *known_texts* are skipped."""
    for step in workflow.steps:
        for path, text in iter_texts(step.props):
            if (what := _find_credential(text, known_texts)) is not None:
                yield _fault(step, f"the prop {'.'.join(map(str, path))} holds what looks like {what[0]}", None)
        for file, text in (("", step.source), *step.files.items()):
            if (found := _find_credential(text, known_texts)) is not None:
                line = text.count("\n", 0, found[1]) + 1 + (0 if file else step.line_offset)
                where = f"its file {file}" if file else "its code"
                yield _fault(step, f"{where} holds what looks like {found[0]} (line {line})", None if file else line)


def find_credential_named_props(step: Step) -> Iterator[tuple[str | int, ...]]:
    """Paths of props with a credential's name and plain text that matches none of the known patterns."""
    for path, text in iter_texts(step.props):
        if (
            is_credential_prop(str(path[-1]))
            and len(text) >= _MIN_CREDENTIAL_CHARS
            and "{{" not in text
            and _find_credential(text) is None
        ):
            yield path


def _fault(step: Step, what: str, line: int | None) -> DefinitionError:
    return DefinitionError(
        f"Step {step.name}: {what}, and these files are made for a Git repository.",
        fix="Store it with `pdkernel env set NAME` and read it there: {{process.env.NAME}} in a prop.",
        step=step.name,
        line=line,
    )


def _find_credential(text: str, known: frozenset[str] = frozenset()) -> tuple[str, int] | None:
    if text in known:
        return None
    return next(((what, start) for what, start, found in _iter_credentials(text) if found not in known), None)


def _iter_credentials(text: str) -> Iterator[tuple[str, int, str]]:
    for what, form in CREDENTIAL_FORMS:
        yield from ((what, match.start(), match[0]) for match in form.finditer(text))


def _credentials(workflow: Workflow) -> Iterator[str]:
    for step in workflow.steps:
        for text in (step.source, *step.files.values(), *(text for _, text in iter_texts(step.props))):
            yield text
            # all private keys start with the same line, so it does not identify a key
            yield from (found for _, _, found in _iter_credentials(text) if not found.startswith("-----"))


def iter_texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text in *value*, with its path below *path*."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from iter_texts(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from iter_texts(item, (*path, index))
