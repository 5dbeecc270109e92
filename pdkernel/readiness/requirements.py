"""
What a workflow needs that this project does not have: users, accounts, variables, Node.js.

Knows who could run what, without running any code. The command line's `doctor` and a notebook's first cell say it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pdkernel.actions import ActionReference, Catalog
from pdkernel.actions.npm_source import APPS_ON_NPM
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND
from pdkernel.analysis import find_workflow_variables
from pdkernel.definition import SIDECAR_FILE_NAME, Sidecar
from pdkernel.engine.account_lookup import BindingsByStep, RunIdentity, look_up_accounts, steps_by_external_user_app
from pdkernel.engine.directory_snapshot import DirectorySnapshot, format_connect_account_command
from pdkernel.errors import ActionNotFoundError, ConnectSettingsError, InterpreterMissingError, LicenceError
from pdkernel.identity import Directory, Environment
from pdkernel.lookup import Lookup
from pdkernel.model import AppBinding, Language, Workflow
from pdkernel.readiness.matrix import collect_app_bindings, preview_lookup
from pdkernel.render.accounts import AppReadiness
from pdkernel.render.import_report import ImportReport
from pdkernel.workers import find_go, find_node

_INTERPRETERS: Mapping[Language, Callable[[], object]] = {"node": find_node, "go": find_go}
"""Languages whose interpreter or compiler comes from a wheel."""

RequirementKind = Literal[
    "external_user", "account", "answer", "variable", "interpreter", "action", "plan", "unsupported"
]


@dataclass(frozen=True)
class MissingRequirement:
    """
    One thing that is missing.

    Attributes:
        kind: What sort of thing.
        name: Its name: a user's id, an app or account id, a variable.
        message: What needs it.
        command: The command that brings it, or the empty string.
    """

    kind: RequirementKind
    name: str
    message: str
    command: str = ""

    def to_json(self) -> dict[str, str]:
        """As JSON."""
        return {"kind": self.kind, "name": self.name, "message": self.message, "command": self.command}


def find_missing_requirements(
    workflow: Workflow,
    *,
    directory: Directory,
    catalog: Catalog,
    variables: Mapping[str, str],
    users: Sequence[str] = (),
    environment: Environment = "development",
) -> list[MissingRequirement]:
    """
    Everything that *workflow* needs and the project lacks.

    Args:
        workflow: What is to run.
        directory: Users and accounts of the project.
        catalog: Its pre-built actions.
        variables: Environment variables that are set.
        users: External users to look at; none means any that the project has.
        environment: Of those users.
    """
    return [
        *_missing_interpreters(workflow),
        *_missing_actions(workflow, catalog),
        *_missing_accounts(workflow, directory, catalog, users, environment),
        *_missing_variables(workflow, variables),
        *_unsupported(workflow),
    ]


def _missing_interpreters(workflow: Workflow) -> list[MissingRequirement]:
    languages = {step.language for step in workflow.steps if not step.disabled}
    found = []
    for language, find in _INTERPRETERS.items():
        if language in languages:
            try:
                find()
            except InterpreterMissingError as fault:
                found.append(
                    MissingRequirement("interpreter", language, fault.message, f"pip install 'pdkernel[{language}]'")
                )
    return found


def _missing_actions(workflow: Workflow, catalog: Catalog) -> list[MissingRequirement]:
    """Actions that no source of the project has; npm and Pipedream are asked at the first run only."""
    found: list[MissingRequirement] = []
    where = catalog.settings.source_setting
    for step in workflow.steps:
        if step.uses is None or step.disabled:
            continue
        uses = ActionReference.parse(step.uses)
        try:
            catalog.resolve(uses.key, uses.version)
        except ActionNotFoundError as fault:
            if where.source == "npm" and not uses.is_private:
                continue
            if where.source == "connect" and not uses.is_private:
                try:
                    catalog.connect_source  # noqa: B018 (says what is missing of its settings)
                    continue
                except ConnectSettingsError as missing:
                    found.append(MissingRequirement("action", step.name, f"Step {step.name}: {missing.message}"))
                    continue
            command = ACCEPT_LICENCE_COMMAND if where.source == "builtin" and uses.app in APPS_ON_NPM else ""
            told = str(fault).replace(f": {ACCEPT_LICENCE_COMMAND}", "") if command else str(fault)  # it is said once
            found.append(MissingRequirement("action", step.name, f"Step {step.name}: {told}", command))
        except LicenceError as fault:
            found.append(
                MissingRequirement("action", step.name, f"Step {step.name}: {fault.message}", ACCEPT_LICENCE_COMMAND)
            )
    return found


def _missing_accounts(
    workflow: Workflow, directory: Directory, catalog: Catalog, users: Sequence[str], environment: Environment
) -> list[MissingRequirement]:
    bindings = collect_app_bindings(workflow, catalog)
    needed = steps_by_external_user_app(bindings)
    wanted: Sequence[str] = ()
    if needed:
        wanted = list(users) or [user.external_id for user in directory.users(environment)]
    facts = DirectorySnapshot(directory, environment, wanted, needed)
    found: list[MissingRequirement] = []
    if needed and not wanted:
        found.append(
            MissingRequirement(
                "external_user",
                "ID",
                f"Steps use an external user's {' and '.join(needed)} account, and {environment} has no external users yet.",
                facts.format_connect_command(next(iter(needed)), "ID"),
            )
        )
        # the first account makes the user; the others are needed all the same
        found += [_missing_account(app, steps, "ID", facts) for app, steps in list(needed.items())[1:]]
    gated = False
    for user in wanted:
        lookup = look_up_accounts(bindings, RunIdentity(user, environment), facts).lookup
        if lookup is not None and lookup.failed is not None:
            found += _missing_of(lookup, user, facts)
            gated = gated or lookup.failed.link == "plan"
    if gated:
        found.append(
            MissingRequirement(
                "plan",
                "business",
                "This project rehearses the free plan, which runs nothing for external users in production.",
                "pdkernel project set plan business",
            )
        )
    return [*found, *_missing_own(bindings, facts)]


def _missing_of(lookup: Lookup, user: str, facts: DirectorySnapshot) -> list[MissingRequirement]:
    """The user that the look-up did not find, else the accounts that it did not."""
    if not lookup.user_exists:
        return [
            MissingRequirement(
                "external_user",
                user,
                f"The external user {user} does not exist in {lookup.environment}; the first connected account makes them.",
                facts.format_connect_command(lookup.apps[0].app, user),
            ),
            *(_missing_account(app.app, app.steps, user, facts) for app in lookup.apps[1:]),
        ]
    return [_missing_account(app.app, app.steps, user, facts) for app in lookup.apps if app.chosen is None]


def _missing_account(app: str, steps: Sequence[str], user: str, facts: DirectorySnapshot) -> MissingRequirement:
    who = "The external user" if user == "ID" else user
    return MissingRequirement(
        "account",
        f"{user}/{app}",
        f"{who} has no {app} account in {facts.environment}; step {', '.join(steps)} needs it.",
        facts.format_connect_command(app, user),
    )


def _missing_own(bindings: BindingsByStep, facts: DirectorySnapshot) -> list[MissingRequirement]:
    return [
        MissingRequirement(
            "account",
            binding.account,
            f"Step {step} uses your own {binding.app} account {binding.account}.",
            facts.format_own_account_command(binding),
        )
        for step, apps in bindings.items()
        for binding in apps
        if binding.account is not None and facts.find_account(binding.account) is None
    ]


def _missing_variables(workflow: Workflow, variables: Mapping[str, str]) -> list[MissingRequirement]:
    return [
        MissingRequirement(
            "variable",
            name,
            f"The environment variable {name} is read by {', '.join(steps)} and not set.",
            f"pdkernel env set {shlex.quote(name)}",
        )
        for name, steps in sorted(find_workflow_variables(workflow).items())
        if name not in variables
    ]


def find_unanswered_accounts(report: ImportReport, sidecar: Sidecar | None) -> list[MissingRequirement]:
    """App props of which `pdkernel.yaml` says that nobody has decided whose account fills them."""
    where = sidecar.path if sidecar is not None and sidecar.path is not None else SIDECAR_FILE_NAME
    return [
        MissingRequirement(
            "answer",
            f"{use.step}.{use.prop}",
            f"Nobody has said whose {use.app} account step {use.step} uses: write external_user, or an account's id, "
            f"for steps.{use.step}.accounts.{use.prop} in {where}.",
        )
        for use in report.unanswered
    ]


def _unsupported(workflow: Workflow) -> list[MissingRequirement]:
    found = [
        MissingRequirement("unsupported", kept.name, f"{kept.name} {kept.unsupported_reason}.")
        for kept in workflow.unsupported_entries
    ]
    found += [
        MissingRequirement("unsupported", step.name, f"Step {step.name} has no code: its entry file was missing.")
        for step in workflow.steps
        if step.is_code_missing and not step.disabled
    ]
    return found + [
        MissingRequirement("unsupported", step.name, f"Step {step.name}: Bash and Go steps have no data stores.")
        for step in workflow.steps
        if step.stores and step.language in ("bash", "go") and not step.disabled
    ]


def format_missing_requirements(missing: Sequence[MissingRequirement]) -> str:
    """The list as text: a line each, its command under it."""
    lines = []
    for item in missing:
        lines.append(f"- {item.message}")
        if item.command:
            lines.append(f"    {item.command}")
    return "\n".join(lines)


def check_app_accounts(
    workflow: Workflow,
    *,
    directory: Directory,
    catalog: Catalog,
    user: str | None,
    environment: Environment,
) -> list[AppReadiness]:
    """
    For each app that steps need, the account that a run would use now, or how to get one; one's own come last.

    Args:
        workflow: Whose steps.
        directory: Users and accounts of the project.
        catalog: Its pre-built actions.
        user: The external user, or None.
        environment: Theirs.
    """
    found = preview_lookup(
        workflow, directory=directory, catalog=catalog, environment=environment, external_user_id=user
    )
    rows = []
    for app in found.lookup.apps if found.lookup else ():
        account = app.chosen_account
        command = format_connect_account_command(app.app, user or "ID", environment, directory)
        rows.append(
            AppReadiness(
                app=app.app,
                steps=app.steps,
                account_id=account.id if account else None,
                account_name=account.name if account else "",
                healthy=account.healthy if account else True,
                fix=f"Connect one in the form of %pduser, or: {command}",
            )
        )
    return [*rows, *check_own_accounts(workflow, directory=directory, catalog=catalog)]


def check_own_accounts(workflow: Workflow, *, directory: Directory, catalog: Catalog) -> list[AppReadiness]:
    """For each account of one's own that steps name, whether the project has it, or how to add it."""
    facts = DirectorySnapshot(directory, "development", (), ())
    named: dict[tuple[str, str], list[str]] = {}
    for step, apps in collect_app_bindings(workflow, catalog).items():
        for binding in apps:
            if binding.account is not None:
                named.setdefault((binding.app, binding.account), []).append(step)
    rows = []
    for (app, account_id), steps in named.items():
        account = facts.find_account(account_id)
        command = facts.format_own_account_command(AppBinding(app, app, account_id))
        rows.append(
            AppReadiness(
                app=app,
                steps=tuple(steps),
                owner="own",
                account_id=account.id if account else None,
                account_name=account.name if account else "",
                healthy=account.healthy if account else True,
                fix=f"Add {account_id}: {command}",
            )
        )
    return rows
