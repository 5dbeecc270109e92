"""
What a workflow needs and the project lacks: users, accounts, variables, interpreters, actions.

Also draws the account of each app for one external user. Checks without running code. `pdkernel doctor` and the first cell of a notebook report the result.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pdkernel.actions import ActionReference, Catalog
from pdkernel.actions.npm_source import APPS_ON_NPM
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND
from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import MAX_FOUND_USERS, Directory, Environment, UserSearchResult
from pdkernel.common.lookup import Lookup
from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.engine.account_lookup import (
    BindingsByStep,
    DirectorySnapshot,
    RunIdentity,
    format_connect_account_command,
    look_up_accounts,
    steps_by_external_user_app,
)
from pdkernel.engine.preflight_checks import format_secret_command
from pdkernel.errors import (
    ActionNotFoundError,
    ConnectSettingsError,
    InterpreterMissingError,
    LicenceError,
    format_count,
)
from pdkernel.files.definition import SIDECAR_FILE_NAME, Sidecar
from pdkernel.language.analysis import (
    UNKNOWN_APP,
    find_missing_files,
    find_missing_secrets,
    find_rule_problem,
    find_workflow_variables,
)
from pdkernel.model import AppBinding, Language, Workflow
from pdkernel.operations.importer.import_report import ImportReport
from pdkernel.operations.readiness.matrix import collect_app_bindings, preview_lookup
from pdkernel.render import formatting
from pdkernel.render.apps import app_icon, format_app_name
from pdkernel.render.markup import (
    CONTAINER_STYLE,
    Html,
    escape_control_characters,
    join_lines,
    multiline,
    muted,
    pill,
    tag,
)
from pdkernel.workers import find_go, find_node


@dataclass(frozen=True, slots=True)
class AppReadiness:
    """
    An app that steps use, and the account that a run would use for it.

    Attributes:
        app: The app's slug.
        steps: The steps that need the account.
        owner: The owner of the account.
        account_id: The id of the account, or None if the account is missing.
        account_name: Display name of the account.
        healthy: False if the credentials are known not to work.
        fix: How to connect or repair the account.
        branch: The `BLOCK.BRANCH` that all these steps are in, or None.
    """

    app: str
    steps: tuple[str, ...]
    owner: Literal["external_user", "own"] = "external_user"
    account_id: str | None = None
    account_name: str = ""
    healthy: bool = True
    fix: str = ""
    branch: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a run finds a working account."""
        return self.account_id is not None and self.healthy


def render_accounts_text(apps: Sequence[AppReadiness], *, external_user_id: str | None, environment: str) -> str:
    """Render the readiness of *apps* as text."""
    lines = [_title(apps, external_user_id, environment)]
    width = max((len(format_app_name(app.app)) for app in apps), default=0)
    for app in apps:
        mark = "✓" if app.is_ready else "✗"
        lines.append(f"  {mark} {format_app_name(app.app):<{width}}  {_account(app)}  ({_needed_by(app)})")
        if app.fix and not app.is_ready:
            lines += [f"      {line}" for line in app.fix.split("\n")]
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def render_accounts_html(apps: Sequence[AppReadiness], *, external_user_id: str | None, environment: str) -> str:
    """Render the readiness of *apps* as HTML."""
    parts = [tag("strong", _title(apps, external_user_id, environment))]
    rows = [tag("li", *_row(app), style="margin:2px 0;list-style-type:none") for app in apps]
    if rows:
        parts.append(tag("ul", join_lines(rows), style="margin:4px 0;padding:0;list-style-type:none"))
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-accounts")


def _row(app: AppReadiness) -> list[Html]:
    state = (
        pill("✓ ready", "good")
        if app.is_ready
        else pill("✗ missing" if app.account_id is None else "✗ not working", "bad")
    )
    parts = [
        state,
        Html(" "),
        app_icon(app.app),
        tag("strong", format_app_name(app.app), style="margin-right:8px"),
        Html(" "),
        tag("span", _account(app)),
    ]
    parts += [Html(" "), muted(f"({_needed_by(app)})")]
    if app.fix and not app.is_ready:
        parts.append(multiline(app.fix, style="margin-left:24px"))
    return parts


def _title(apps: Sequence[AppReadiness], external_user_id: str | None, environment: str) -> str:
    who = f"External user {external_user_id}" if external_user_id else "No external user"
    missing = sum(not app.is_ready for app in apps)
    if not apps:
        return f"{who}, {environment}: no step needs an account."
    if missing:
        return f"{who}, {environment}: {format_count(missing, 'account')} to connect."
    return f"{who}, {environment}: every account is connected."


def _account(app: AppReadiness) -> str:
    if app.account_id is None:
        return "account of your own is missing" if app.owner == "own" else "external user's account is missing"
    whose = "your own account" if app.owner == "own" else "external user's account"
    name = f" {app.account_name}" if app.account_name else ""
    return f"{whose} {app.account_id}{name}{'' if app.healthy else ', which no longer works'}"


def _needed_by(app: AppReadiness) -> str:
    return f"needed by {formatting.format_list(app.steps)}{'' if app.branch is None else f', in the branch {app.branch} only'}"


_INTERPRETERS: Mapping[Language, Callable[[], object]] = {"node": find_node, "go": find_go}
"""Languages whose interpreter or compiler comes from a wheel."""

RequirementKind = Literal[
    "external_user",
    "account",
    "answer",
    "variable",
    "secret",
    "interpreter",
    "action",
    "plan",
    "file",
    "unsupported",
]


class MissingRequirement(JsonStruct, frozen=True):
    """
    A missing requirement.

    Attributes:
        kind: Kind of the requirement.
        name: Name of the requirement: a user's id, an app, an account id, a variable.
        message: What is missing, and the step that needs it.
        command: A command that fulfils the requirement, or the empty string.
    """

    kind: RequirementKind
    name: str
    message: str
    command: str = ""


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
    Find everything that *workflow* needs and the project lacks.

    Args:
        workflow: The workflow to check.
        directory: Users and accounts of the project.
        catalog: Pre-built actions of the project.
        variables: Environment variables that are set, and values of secret props.
        users: External users to check; default: the `MAX_FOUND_USERS` newest users of the environment.
        environment: Environment of the users.
    """
    return [
        *_missing_interpreters(workflow),
        *_missing_actions(workflow, catalog),
        *_missing_accounts(workflow, directory, catalog, users, environment),
        *_missing_variables(workflow, variables),
        *_missing_secrets(workflow, variables),
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
                found.append(MissingRequirement("interpreter", language, fault.message, INSTALL_COMMANDS[language]))
    return found


def _missing_actions(workflow: Workflow, catalog: Catalog) -> list[MissingRequirement]:
    """Return the actions missing from the project's sources; npm and Pipedream are searched only at the first run."""
    found: list[MissingRequirement] = []
    for step in workflow.steps:
        if step.uses is None or step.disabled:
            continue
        uses = ActionReference.parse(step.uses)
        try:
            catalog.resolve(uses.key, uses.version)
        except ActionNotFoundError as fault:
            remote = {each.source for each in catalog.find_remote_sources(uses)}
            if "npm" in remote:
                continue
            if remote:
                try:
                    catalog.connect_source  # noqa: B018 (raises an error for incomplete settings)
                    continue
                except ConnectSettingsError as missing:
                    found.append(MissingRequirement("action", step.name, f"Step {step.name}: {missing.message}"))
                    continue
            command = ACCEPT_LICENCE_COMMAND if not catalog.settings.sources and uses.app in APPS_ON_NPM else ""
            message = (
                str(fault).replace(f": {ACCEPT_LICENCE_COMMAND}", "") if command else str(fault)
            )  # the command is shown once
            found.append(MissingRequirement("action", step.name, f"Step {step.name}: {message}", command))
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
    user_ids: Sequence[str] = users if needed else ()
    newest = UserSearchResult(())
    if needed and not users:  # of thousands of users, those that a person may test with
        newest = directory.search_users(environment, "", limit=MAX_FOUND_USERS)
        user_ids = sorted(each.external_id for each in newest.users)
    snapshot = DirectorySnapshot(directory, environment, user_ids, needed, found=newest.users)
    found: list[MissingRequirement] = []
    if needed and not user_ids:
        found.append(
            MissingRequirement(
                "external_user",
                "ID",
                f"Steps use an external user's {' and '.join(needed)} account, and {environment} has no external users yet.",
                snapshot.format_connect_command(next(iter(needed)), "ID"),
            )
        )
        # the first account creates the user; the other accounts are missing as well
        found += [_missing_account(app, steps, "ID", snapshot, workflow) for app, steps in list(needed.items())[1:]]
    needs_plan = False
    for user in user_ids:
        lookup = look_up_accounts(bindings, RunIdentity(user, environment), snapshot).lookup
        if lookup is not None and lookup.failed is not None:
            found += _missing_of(lookup, user, snapshot, workflow)
            needs_plan = needs_plan or lookup.failed.link == "plan"
    if found and newest.more:
        found.append(
            MissingRequirement(
                "external_user",
                "more",
                f"These accounts are missing among the {len(user_ids)} newest external users; {newest.more:,} more were not checked.",
                "pdkernel doctor SOURCE --matrix",
            )
        )
    if needs_plan:
        found.append(
            MissingRequirement(
                "plan",
                "business",
                "This project uses the free plan, which does not run workflows for external users in production.",
                "pdkernel project set plan business",
            )
        )
    return [*found, *_missing_own(bindings, snapshot), *_unknown_apps(workflow, catalog)]


def _unknown_apps(workflow: Workflow, catalog: Catalog) -> list[MissingRequirement]:
    return [
        MissingRequirement(
            "answer",
            f"{step.name}.{binding.prop}",
            f"The app of the prop {binding.prop} in step {step.name} is unknown: write `app: SLUG` for "
            f"steps.{step.name}.accounts.{binding.prop} in {SIDECAR_FILE_NAME}, or provide the code of the action.",
        )
        for step in workflow.steps
        for binding in (() if step.disabled else catalog.find_app_bindings(step))
        if binding.app == UNKNOWN_APP
    ]


def _missing_of(lookup: Lookup, user: str, snapshot: DirectorySnapshot, workflow: Workflow) -> list[MissingRequirement]:
    """Return the missing user, else the missing accounts, of a failed lookup."""
    if not lookup.user_exists:
        return [
            MissingRequirement(
                "external_user",
                user,
                f"The external user {user} does not exist in {lookup.environment}; their first account creates them.",
                snapshot.format_connect_command(lookup.apps[0].app, user),
            ),
            *(_missing_account(app.app, app.steps, user, snapshot, workflow) for app in lookup.apps[1:]),
        ]
    return [_missing_account(app.app, app.steps, user, snapshot, workflow) for app in lookup.apps if app.chosen is None]


def _missing_account(
    app: str, steps: Sequence[str], user: str, snapshot: DirectorySnapshot, workflow: Workflow
) -> MissingRequirement:
    branch = workflow.find_common_branch(steps)
    needing = f"step {', '.join(steps)}" + ("" if branch is None else f", in the branch {branch} only,")
    who = "The external user" if user == "ID" else user
    return MissingRequirement(
        "account",
        f"{user}/{app}",
        f"{who} has no {app} account in {snapshot.environment}; {needing} needs it.",
        snapshot.format_connect_command(app, user),
    )


def _missing_own(bindings: BindingsByStep, snapshot: DirectorySnapshot) -> list[MissingRequirement]:
    return [
        MissingRequirement(
            "account",
            binding.account,
            f"Step {step} uses your own {binding.app} account {binding.account}.",
            snapshot.format_own_account_command(binding),
        )
        for step, apps in bindings.items()
        for binding in apps
        if binding.account is not None and snapshot.find_account(binding.account) is None
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


def _missing_secrets(workflow: Workflow, variables: Mapping[str, str]) -> list[MissingRequirement]:
    source = shlex.quote(workflow.origin or "SOURCE")
    return [
        MissingRequirement(
            "secret",
            prop.name,
            f"The secret prop {prop.prop} of step {prop.step} has no value: only Pipedream has it.",
            format_secret_command(prop, source),
        )
        for prop in find_missing_secrets(workflow, variables)
    ]


def find_unanswered_accounts(report: ImportReport, sidecar: Sidecar | None) -> list[MissingRequirement]:
    """Return the app props for which `pdkernel.yaml` does not name the owner of the account."""
    where = sidecar.path if sidecar is not None and sidecar.path is not None else SIDECAR_FILE_NAME
    return [
        MissingRequirement(
            "answer",
            f"{use.step}.{use.prop}",
            f"The owner of the {use.app} account in step {use.step} is unknown: write external_user or an account id "
            f"for steps.{use.step}.accounts.{use.prop} in {where}.",
        )
        for use in report.unanswered
    ]


def _unsupported(workflow: Workflow) -> list[MissingRequirement]:
    found = [
        MissingRequirement("unsupported", entry.name, f"{entry.name} {entry.unsupported_reason}.")
        for entry in workflow.unsupported_entries
    ]
    found += [
        MissingRequirement("unsupported", step.name, f"Step {step.name} has no code: its entry file was missing.")
        for step in workflow.steps
        if step.is_code_missing and not step.disabled
    ]
    found += [
        MissingRequirement("unsupported", step.name, f"Step {step.name} {problem}.")
        for step in workflow.steps
        if not step.disabled and (problem := find_rule_problem(step)) is not None
    ]
    found += [
        MissingRequirement("file", step.name, problem.message)
        for step in workflow.steps
        if not step.disabled
        for problem in find_missing_files(step)
    ]
    return found + [
        MissingRequirement("unsupported", step.name, f"Step {step.name}: Bash and Go steps have no data stores.")
        for step in workflow.steps
        if step.stores and step.language in ("bash", "go") and not step.disabled
    ]


def format_missing_requirements(missing: Sequence[MissingRequirement]) -> str:
    """Format the list as text: a line for each requirement, its command below."""
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
    Check the accounts that a run would use now, for each app that steps need; the user's own accounts come last.

    Args:
        workflow: The workflow to check.
        directory: Users and accounts of the project.
        catalog: Pre-built actions of the project.
        user: The external user, or None.
        environment: Environment of the user.
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
                branch=workflow.find_common_branch(app.steps),
            )
        )
    return [*rows, *check_own_accounts(workflow, directory=directory, catalog=catalog)]


def check_own_accounts(workflow: Workflow, *, directory: Directory, catalog: Catalog) -> list[AppReadiness]:
    """Check each of the user's own accounts that steps name."""
    snapshot = DirectorySnapshot(directory, "development", (), ())
    named: dict[tuple[str, str], list[str]] = {}
    for step, apps in collect_app_bindings(workflow, catalog).items():
        for binding in apps:
            if binding.account is not None:
                named.setdefault((binding.app, binding.account), []).append(step)
    rows = []
    for (app, account_id), steps in named.items():
        account = snapshot.find_account(account_id)
        command = snapshot.format_own_account_command(AppBinding(app, app, account_id))
        rows.append(
            AppReadiness(
                app=app,
                steps=tuple(steps),
                owner="own",
                account_id=account.id if account else None,
                account_name=account.name if account else "",
                healthy=account.healthy if account else True,
                fix=f"Add {account_id}: {command}",
                branch=workflow.find_common_branch(steps),
            )
        )
    return rows
