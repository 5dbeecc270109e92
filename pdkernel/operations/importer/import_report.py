"""The report about an imported workflow, as data, text and Markdown; without credentials."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pdkernel.common.encode import JsonStruct
from pdkernel.render.markup import escape_control_characters


class ActionSource(JsonStruct, frozen=True):
    """The source of a step's pre-built action (`built in`, `npm`, ...); *runs* is False if no source has the action."""

    step: str
    uses: str
    source: str
    runs: bool = True


class AccountAssignment(JsonStruct, frozen=True):
    """The account of an app prop: `external_user`, an account's id, or `unanswered`; *synced* is the id in Git, or None."""

    step: str
    prop: str
    app: str
    account: str
    synced: str | None = None


class VariableRead(JsonStruct, frozen=True):
    """An environment variable and the places that read it: `STEP, line N` in code, or `STEP` for a prop."""

    name: str
    places: tuple[str, ...]
    required: bool = True


class SecretUse(JsonStruct, frozen=True):
    """A secret prop: Git holds only an encrypted value, so that a person must give the value again."""

    step: str
    prop: str


class StoreUse(JsonStruct, frozen=True):
    """A data store and the props that use it; *name* is its local name or its id in Git, None is the project's default store."""

    name: str | None
    props: tuple[str, ...]


class TriggerUse(JsonStruct, frozen=True):
    """A trigger: id, type, settings as text, and whether the settings are assumed because Git does not hold them."""

    id: str | None
    type: str
    settings: str
    assumed: bool = False


class PackageUse(JsonStruct, frozen=True):
    """A package that steps import, with the required version or an empty string."""

    language: str
    name: str
    version: str
    steps: tuple[str, ...]


class UnsupportedItem(JsonStruct, frozen=True):
    """An item that cannot run, and the reason as a sentence without its subject."""

    name: str
    why: str


class ImportReport(JsonStruct, frozen=True):
    """
    The parts of an imported workflow, and what a run of it requires.

    Attributes:
        workflow: Name of the workflow.
        ready: Steps that run unchanged once the requirements are met.
        disabled: Disabled steps.
        actions: Sources of pre-built actions.
        accounts: Accounts of app props.
        variables: Environment variables.
        secrets: Secret props.
        stores: Data stores.
        triggers: Triggers.
        packages: Packages installed at the first run.
        gone: Sentences about references to missing or later steps.
        cannot: Items that cannot run.
        notes: Other sentences.
    """

    workflow: str
    ready: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    actions: tuple[ActionSource, ...] = ()
    accounts: tuple[AccountAssignment, ...] = ()
    variables: tuple[VariableRead, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    stores: tuple[StoreUse, ...] = ()
    triggers: tuple[TriggerUse, ...] = ()
    packages: tuple[PackageUse, ...] = ()
    gone: tuple[str, ...] = ()
    cannot: tuple[UnsupportedItem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unanswered(self) -> tuple[AccountAssignment, ...]:
        """App props whose account is not known yet."""
        return tuple(use for use in self.accounts if use.account == "unanswered")


def render_text(report: ImportReport) -> str:
    """Render the report as text: headings, and a line for each item."""
    text: list[str] = []
    for heading, lines in _parts(report):
        text += [f"  {heading}", *(f"    - {line.replace('`', '')}" for line in lines)]
    return escape_control_characters("".join(f"{line}\n" for line in text))


def render_markdown(report: ImportReport) -> str:
    """Render the report as Markdown for the first cell of the notebook."""
    parts = ["## Requirements of this workflow"]
    for heading, lines in _parts(report):
        parts.append("\n".join([f"**{heading}**", "", *(f"- {line}" for line in lines)]))
    parts.append(
        "This list shows the workflow at its import. `pdkernel doctor` on this notebook shows the current state."
    )
    return "\n\n".join(parts)


def _parts(report: ImportReport) -> Iterator[tuple[str, list[str]]]:
    parts = (
        ("Runs unchanged", [", ".join(map(_code, report.ready))] if report.ready else []),
        ("Cannot run", [f"{_code(item.name)} {_line(item.why)}" for item in report.cannot]),
        ("Accounts", [_account(use) for use in report.accounts]),
        ("Data stores", [_store(use) for use in report.stores]),
        ("Triggers", [_trigger(use) for use in report.triggers]),
        ("Pre-built actions", [f"{_code(use.step)}: {_code(use.uses)}, {_line(use.source)}" for use in report.actions]),
        ("Environment variables", [_variable(use) for use in report.variables]),
        ("Secret props, of which Git holds only encrypted values", [_secret(use) for use in report.secrets]),
        ("Packages, installed at the first run", [_package(use) for use in report.packages]),
        ("References to missing steps", list(map(_line, report.gone))),
        ("Disabled, and not run", [", ".join(map(_code, report.disabled))] if report.disabled else []),
        ("Notes", list(map(_line, report.notes))),
    )
    return ((heading, lines) for heading, lines in parts if lines)


def _account(use: AccountAssignment) -> str:
    whose = {
        "external_user": "the external user's",
        "unanswered": "**unanswered**: set it in the notebook's `pdkernel.yaml` (`external_user`, or an account's id)",
    }.get(use.account, f"your own, {_code(use.account)}")
    synced_account = f" (Git has {_code(use.synced)})" if use.synced and use.synced != use.account else ""
    app = "unknown app" if use.app == "unknown" else _code(use.app)
    return f"{_code(f'{use.step}.{use.prop}')}, {app}: {whose}{synced_account}"


def _store(use: StoreUse) -> str:
    name = _code(use.name) if use.name else "the project's default store"
    command = _code(f"pdkernel store import {shlex.quote(use.name or 'NAME')} FILE")
    way = f"; Git has its id, but not its records. Import them: {command}"
    return f"{name}: {', '.join(map(_code, use.props))}{way if (use.name or '').startswith('ds_') else ''}"


def _trigger(use: TriggerUse) -> str:
    name = f"{_code(use.id)}, {use.type}" if use.id else use.type
    return f"{name}: {_line(use.settings)}" + (" (assumed, because Git does not store it)" if use.assumed else "")


def _variable(use: VariableRead) -> str:
    return f"{_code(use.name)}: read by {'; '.join(use.places)}" + ("" if use.required else " (optional)")


def _secret(use: SecretUse) -> str:
    place = f"{use.step} {shlex.quote(use.prop)}"
    commands = f"{_code(f'%pdsecrets set {place}')}, or {_code(f'pdkernel secrets set SOURCE {place}')}"
    return f"{_code(f'{use.step}.{use.prop}')}: give its value before a run: {commands}"


def _package(use: PackageUse) -> str:
    version = f" {use.version}" if use.version else ", any version"
    return f"{_code(use.name)}{version} ({use.language}): {', '.join(use.steps)}"


def _line(words: str) -> str:
    return " ".join(words.split())


def _code(words: str) -> str:
    """*words* as inline code in Markdown, on one line."""
    line = " ".join(words.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
