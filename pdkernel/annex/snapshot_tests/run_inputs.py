"""
Accounts, variables and secret props of a run, with fake values, so that a saved test can repeat the run on another machine.

A real value is copied only if the user declares that it is not a secret. A fake value has the kind of the real value (URL, number,
e-mail address, JSON) and nothing else, not even its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pdkernel.annex.snapshot_tests.temporary_project import TemporaryProject
from pdkernel.common.identity import Directory
from pdkernel.common.redaction import Redactor, Secret
from pdkernel.common.secret_patterns import is_secret_field
from pdkernel.engine.account_resolution import insert_placeholders
from pdkernel.engine.preflight_checks import disable_skipped_steps
from pdkernel.engine.props import select_named_variables
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import RequestError
from pdkernel.execution import Execution
from pdkernel.language.analysis import find_secret_props
from pdkernel.storage.settings import format_variable_ref

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+\Z")


@dataclass(frozen=True)
class AccountInput:
    """An account that the run used, with fake credentials."""

    external_user_id: str | None
    app: str
    environment: str
    account_id: str
    credentials: Mapping[str, str]


@dataclass(frozen=True)
class RunInputs:
    """
    Accounts and variables of a run.

    Attributes:
        accounts: Accounts with fake credentials.
        variables: Environment variables and secret props with fake values.
        redactor: Finds the real values of accounts and variables.
        replaced_names: Names of replaced values, as `--plain` takes them: `NAME`, `APP.FIELD`.
    """

    accounts: tuple[AccountInput, ...]
    variables: Mapping[str, str]
    redactor: Redactor
    replaced_names: tuple[str, ...]

    def apply_to(self, project: TemporaryProject) -> None:
        """Connect the accounts and set the variables in *project*."""
        for account in self.accounts:
            project.connect(
                account.external_user_id,
                account.app,
                environment=account.environment,
                account_id=account.account_id,
                credentials=account.credentials,
            )
        project.set_variables(**self.variables)


def collect_run_inputs(
    request: RunRequest, execution: Execution, directory: Directory, *, non_secret_names: Collection[str] = ()
) -> RunInputs:
    """
    Collect the accounts, variables and secret props of *execution*.

    Args:
        request: The request of the run.
        execution: The record of the run.
        directory: The directory with the accounts of the run.
        non_secret_names: Variables (`NAME`) and credentials (`APP.FIELD`) that are not secrets; real values are copied.

    Raises:
        RequestError: An account no longer exists, or *non_secret_names* contains a secret or an unused name.
    """
    accounts: list[AccountInput] = []
    secrets = [Secret(f"event/{name}", value) for name, value in request.event.header_secrets().items()]
    names: list[str] = []
    for use in {use.id: use for step in execution.steps for use in step.accounts}.values():
        account = directory.find_account(use.id)
        if account is None:
            raise RequestError(
                f"The account {use.id} of this run no longer exists, so its credentials are unknown.",
                fix="Run the workflow again.",
            )
        fields: dict[str, str] = {}
        given, _ = insert_placeholders(account, directory.credentials(use.id))
        for field, value in given.items():
            name = f"{use.app}.{field}"
            names.append(name)
            if name in non_secret_names and is_secret_field(field):
                raise RequestError(f"{name} is a secret by its name and cannot be written into a test.")
            if name not in non_secret_names:
                secrets.append(Secret(f"{use.app}/{use.id}/{field}", value))
            fields[field] = value if name in non_secret_names else build_fake_secret(f"{use.id}-{field}", value)
        accounts.append(AccountInput(account.external_user_id, use.app, account.environment, use.id, fields))
    variables: dict[str, str] = {}
    for name, value in select_named_variables(request).items():
        names.append(name)
        if name not in non_secret_names:
            secrets.append(Secret(format_variable_ref(name), value))
        variables[name] = value if name in non_secret_names else build_fake_secret(name, value)
    for prop in find_secret_props(disable_skipped_steps(request)):
        secret = prop.find_value(request.variables) or ""
        names.append(prop.name)
        secrets.append(Secret(format_variable_ref(prop.key), secret))
        variables[prop.name] = build_fake_secret(prop.name, secret)
    unused = [name for name in non_secret_names if name not in names]
    if unused:
        raise RequestError(
            f"The run did not use {', '.join(unused)}.",
            fix=f"Use one of these names: {', '.join(names) or 'none'}.",
        )
    return RunInputs(
        tuple(accounts), variables, Redactor(secrets), tuple(name for name in names if name not in non_secret_names)
    )


def build_fake_secret(name: str, value: str) -> str:
    """
    Build a fake value of the same kind as *value*, always the same for the same *name*.

    A fake value has at least eight characters, so that redaction finds it as it finds the real value.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "value"
    parts = _url(value)
    if parts is not None:
        path = "" if parts.path == "" else "/" if parts.path == "/" else "/made-up"
        return f"{parts.scheme}://{label}.made-up.example{path}"
    if _EMAIL.match(value):
        return f"{label}@made-up.example"
    if value.isdecimal():
        return "1000000007"
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return json.dumps({key: _build_fake_field(key, item) for key, item in content.items()})
    return f"made-up-{label}"


def _build_fake_field(name: str, value: Any) -> Any:
    match value:
        case str():
            return build_fake_secret(name, value)
        case dict():
            return {key: _build_fake_field(key, item) for key, item in value.items()}
        case list():
            return [_build_fake_field(name, item) for item in value]
        case _:
            return value


def _url(value: str) -> Any:
    try:
        parts = urlsplit(value.strip())
        return parts if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname else None
    except ValueError:
        return None
