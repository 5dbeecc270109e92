"""The report on a move: a row for each workflow, what workflows share, and the order of the move."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from pdkernel.actions import Catalog
from pdkernel.annex.migration.items import UNNAMED_STORE, Surroundings, find_invoked, find_items
from pdkernel.annex.migration.migration_report import (
    DELETION_DAY,
    SHUTDOWN_DAY,
    ItemKind,
    MigrationItem,
    MigrationReport,
    MoveStep,
    SharedResource,
    WorkflowMigration,
)
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.clock import Clock, format_iso
from pdkernel.common.identity import Account, Directory, Environment
from pdkernel.errors import PdkernelError
from pdkernel.language.analysis import find_app_bindings
from pdkernel.model import AppBinding
from pdkernel.operations.readiness import DoctorReport

SHARED_KINDS: tuple[ItemKind, ...] = (
    "data_store",
    "file_store",
    "account",
    "variable",
    "optional_variable",
    "source_state",
)
"""Kinds of items that are saved once for all workflows that name them."""
_CODE_KINDS: tuple[ItemKind, ...] = ("code", "private_action", "sibling", "control_flow", "attachment", "secret")
_STORE_KINDS: tuple[ItemKind, ...] = ("data_store", "file_store")
_MAX_USERS = 100
"""External users whose accounts are checked for withheld credentials."""
_FIRED_KINDS: tuple[ItemKind, ...] = ("schedule", "source", "email_address")


@dataclass(frozen=True)
class ReportSettings:
    """
    What the report reads besides the workflows.

    Attributes:
        directory: Users and accounts of the project.
        catalog: Builds the catalog of pre-built actions for a workflow.
        variables: Returns the environment variables that are set for a workflow.
        environment: Environment of the users.
        clock: Gives the time of the report.
    """

    directory: Directory
    catalog: Callable[[MigrationSource], Catalog]
    variables: Callable[[MigrationSource], Mapping[str, str]]
    environment: Environment
    clock: Clock


def build_migration_report(sources: Sequence[MigrationSource], settings: ReportSettings) -> MigrationReport:
    """Build the report on *sources*; a workflow that cannot be read or checked has one row with the reason."""
    around = find_surroundings(sources, settings)
    rows = tuple(_build_row(each, settings, around) for each in sources)
    return MigrationReport(
        rows,
        tuple(_find_shared(rows)),
        tuple(_plan_moves(sources, rows, around)),
        created_at=format_iso(settings.clock.now()),
    )


def find_surroundings(sources: Sequence[MigrationSource], settings: ReportSettings) -> Surroundings:
    """Return what is known beyond each one of *sources*."""
    return Surroundings(
        names={each.id: each.name for each in sources if each.id is not None},
        endpoints={host: each.name for each in sources for host in each.endpoint_hosts},
        accounts=_find_accounts(sources, settings.directory),
        withheld=_find_withheld(sources, settings),
    )


def _build_row(source: MigrationSource, settings: ReportSettings, around: Surroundings) -> WorkflowMigration:
    workflow = source.workflow
    if workflow is None:
        return _unreadable(source, source.error)
    try:
        found = DoctorReport.collect(
            workflow,
            directory=settings.directory,
            catalog=settings.catalog(source),
            variables=settings.variables(source),
            environment=settings.environment,
            test_users=source.sidecar.test_users if source.sidecar else (),
            sidecar=source.sidecar,
        )
        items = find_items(source, found, around)
    except PdkernelError as error:
        return _unreadable(source, error)
    blocked = {step for item in items if item.group == "answer" for step in item.steps}
    return WorkflowMigration(
        source.source,
        source.name,
        source.id,
        tuple(step.name for step in workflow.steps),
        tuple(step.name for step in workflow.steps if not step.disabled and step.name not in blocked),
        items,
    )


def _unreadable(source: MigrationSource, error: PdkernelError | None) -> WorkflowMigration:
    message = " ".join(str(error).split()) if error is not None else "The workflow is empty."
    item = MigrationItem("unreadable", source.name, message, "Correct the file, then run the report again.")
    return WorkflowMigration(source.source, source.name, source.id, items=(item,))


def _find_accounts(sources: Sequence[MigrationSource], directory: Directory) -> dict[str, Account]:
    """Return the accounts that workflows name by id and that the project has, with whether Connect withholds their credentials."""
    found: dict[str, Account] = {}
    for account_id in dict.fromkeys(
        binding.account for each in sources for binding in _bindings(each) if binding.account is not None
    ):
        account = directory.find_account(account_id)
        if account is not None:
            is_connect = account.owner == "external_user"  # an own account is never withheld
            held = is_connect and directory.credentials(account_id).proxy is not None
            found[account_id] = replace(account, withheld=held)
    return found


def _find_withheld(sources: Sequence[MigrationSource], settings: ReportSettings) -> dict[str, tuple[Account, ...]]:
    """For each app of external users, the accounts whose credentials Connect withholds."""
    apps = {binding.app for each in sources for binding in _bindings(each) if binding.account is None}
    if not apps:
        return {}
    users = [user.external_id for user in settings.directory.users(settings.environment, limit=_MAX_USERS)]
    found: dict[str, tuple[Account, ...]] = {}
    for account in settings.directory.newest_accounts(users, settings.environment, apps, limit=1) if users else ():
        if account.withheld:
            found[account.app] = (*found.get(account.app, ()), account)
    return found


def _bindings(source: MigrationSource) -> Iterable[AppBinding]:
    steps = source.workflow.steps if source.workflow is not None else ()
    return (binding for step in steps for binding in find_app_bindings(step))


def _find_shared(rows: Sequence[WorkflowMigration]) -> Iterable[SharedResource]:
    """Return what workflows name, each kind and name once, in the order of the kinds."""
    for kind in SHARED_KINDS:
        named: dict[str, list[tuple[WorkflowMigration, MigrationItem]]] = {}
        for row in rows:
            for item in row.items:
                if item.kind == kind:
                    named.setdefault(item.name, []).append((row, item))
        for name, uses in named.items():
            workflows = tuple(dict.fromkeys(row.name for row, _ in uses))
            yield SharedResource(kind, name, workflows, uses[0][1].fix, uses[0][1].command)


def _plan_moves(
    sources: Sequence[MigrationSource], rows: Sequence[WorkflowMigration], around: Surroundings
) -> Iterable[MoveStep]:
    """Return the steps of the move: what is switched off at Pipedream comes before what is switched on here."""
    yield from _plan_preparation(sources, rows)
    yield from _plan_switch(rows)
    order = _order_callees_first(sources, around)
    served = {row.name for row in _moved(rows) if any(item.kind in ("endpoint", "custom_domain") for item in row.items)}
    yield from _move_step(
        "Give callers the new endpoint URLs",
        "Workflows that others call come first. Turn a workflow off at Pipedream when its callers use the new URL: the event "
        "history there shows callers that were missed.",
        tuple(name for name in order if name in served),
        ("pdkernel serve FOLDER --public-url https://HOST", "pdkernel migrate urls FOLDER"),
    )
    yield MoveStep(
        "Keep the event history open until the end",
        f"A workflow at Pipedream that still gets events has a caller that was missed. Workflows end on {SHUTDOWN_DAY}; the data is "
        f"deleted on {DELETION_DAY}.",
    )


def _plan_preparation(sources: Sequence[MigrationSource], rows: Sequence[WorkflowMigration]) -> Iterable[MoveStep]:
    """Return what is done while Pipedream still runs the workflows."""
    code, stores = _subjects(rows, _CODE_KINDS), _subjects(rows, _STORE_KINDS)
    yield from _move_step("Copy what only Pipedream has", f"It cannot be copied after {SHUTDOWN_DAY}.", code)
    if events := _format_event_commands(sources):
        reason = "Saved events are the tests of the move, and the API keeps the newest 100."
        yield MoveStep("Save events", reason, (), events)
    yield from _move_step(
        "Answer what is open",
        "Each workflow with its number of open answers; `pdkernel doctor` repeats the check.",
        tuple(f"{row.name}: {row.count('answer')}" for row in rows if row.state == "needs_answers"),
    )
    command = (_format_data_command(rows),)
    yield from _move_step("Copy data stores and files", "A first copy, for the tests here.", stores, command)
    yield MoveStep(
        "Run every workflow here while Pipedream still runs it",
        "Use saved events and `--egress stand-in=...` or `--egress deny`, so that nothing is sent twice.",
        (),
        ("pdkernel serve FOLDER --egress deny",),
    )


def _plan_switch(rows: Sequence[WorkflowMigration]) -> Iterable[MoveStep]:
    """Return what is turned off at Pipedream, copied for the last time, and turned on here."""
    yield from _move_step(
        "Turn off at Pipedream: workflows with schedules, sources and email",
        "Off there before on here: otherwise both handle each event.",
        _subjects(_moved(rows), _FIRED_KINDS),
    )
    yield from _move_step(
        "Let waiting runs end at Pipedream",
        "A run that waits there is not moved, and its resume URLs lead there.",
        _subjects(rows, ("paused_runs",)),
    )
    yield from _move_step(
        "Copy data stores and files again",
        "The workflows that write them are off now: turn off workflows with endpoints that write them too. "
        "`pdkernel store import --clear` replaces the first copy.",
        _subjects(rows, _STORE_KINDS),
        (_format_data_command(rows),),
    )
    fired = (item.command for row in _moved(rows) for item in row.items if item.kind in _FIRED_KINDS and item.command)
    if commands := tuple(dict.fromkeys(fired)):
        yield MoveStep("Turn on here", "Only workflows that are off at Pipedream.", (), commands)


def _move_step(
    title: str, reason: str, subjects: tuple[str, ...], commands: tuple[str, ...] = ()
) -> Iterable[MoveStep]:
    """Return the step of the move; none without subjects."""
    if subjects:
        yield MoveStep(title, reason, subjects, commands)


def _moved(rows: Sequence[WorkflowMigration]) -> list[WorkflowMigration]:
    """Return the workflows that are turned on at Pipedream."""
    return [row for row in rows if not any(item.kind == "inactive" for item in row.items)]


def _subjects(rows: Sequence[WorkflowMigration], kinds: Sequence[ItemKind]) -> tuple[str, ...]:
    """Return the items of *kinds*, each with the name of its workflow."""
    return tuple(f"{row.name}: {item.name}" for row in rows for item in row.items if item.kind in kinds)


def _format_event_commands(sources: Sequence[MigrationSource]) -> tuple[str, ...]:
    """Return the commands that save the events of all workflows of the report: one for paths, one for ids."""
    rescued = [each for each in sources if each.id is not None]
    paths = dict.fromkeys(shlex.quote(each.given) for each in rescued if each.path is not None)
    ids = dict.fromkeys(each.given for each in rescued if each.path is None)
    named = [f"{' '.join(paths)}"] if paths else []
    named += [f"{' '.join(ids)} --to FOLDER"] if ids else []
    return tuple(f"pdkernel migrate events {words}" for words in named)


def _format_data_command(rows: Sequence[WorkflowMigration]) -> str:
    """Return the command that rescues all data stores and files of the report at once."""
    items = [item for row in rows for item in row.items]
    names = dict.fromkeys(
        shlex.quote(item.name) for item in items if item.kind == "data_store" and item.name != UNNAMED_STORE
    )
    files = ["--files"] if any(item.kind == "file_store" for item in items) else []
    return " ".join(["pdkernel migrate data", *(names or ([] if files else ["NAME"])), *files, "--to rescued"])


def _order_callees_first(sources: Sequence[MigrationSource], around: Surroundings) -> list[str]:
    """Return the names of the workflows, a called workflow before its callers; in the given order if they call one another in a circle."""
    called: dict[str, set[str]] = {}
    for each in sources:  # several may have one name
        called.setdefault(each.name, set()).update(find_invoked(each, around))
    try:
        return list(TopologicalSorter(called).static_order())
    except CycleError:
        return list(called)
