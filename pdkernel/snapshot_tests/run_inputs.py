"""
What a saved test brings along so that the run can be made again elsewhere: accounts and variables, with made-up values.

Knows which of them a run was given, and that a value is only ever copied where the person says that it is no secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pdkernel.engine.props import select_named_variables
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.withheld_credentials import insert_placeholders
from pdkernel.errors import RequestError
from pdkernel.execution import Execution
from pdkernel.identity import Directory
from pdkernel.redaction import Redactor, Secret
from pdkernel.snapshot_tests.fake_secrets import build_fake_secret
from pdkernel.snapshot_tests.temporary_project import TemporaryProject

_SECRET_NAME_PATTERN = re.compile("key|secret|token|password", re.IGNORECASE)


@dataclass(frozen=True)
class AccountInput:
    """An account that the run used, its credentials made up."""

    external_user: str | None
    app: str
    environment: str
    account_id: str
    credentials: Mapping[str, str]


@dataclass(frozen=True)
class RunInputs:
    """
    What the run was given.

    Attributes:
        accounts: With made-up credentials.
        variables: With made-up values.
        redactor: Finds the real values of both.
        replaced_names: What was made up, as a person names it to have it copied: `NAME`, `APP.FIELD`.
    """

    accounts: tuple[AccountInput, ...]
    variables: Mapping[str, str]
    redactor: Redactor
    replaced_names: tuple[str, ...]

    def apply_to(self, project: TemporaryProject) -> None:
        """Connect the accounts and set the variables in *project*."""
        for need in self.accounts:
            project.connect(
                need.external_user,
                need.app,
                environment=need.environment,
                account_id=need.account_id,
                credentials=need.credentials,
            )
        project.set_variables(**self.variables)


def collect_run_inputs(
    request: RunRequest, execution: Execution, directory: Directory, *, non_secret_names: Collection[str] = ()
) -> RunInputs:
    """
    What *execution* was given.

    Args:
        request: What was run.
        execution: What came of it.
        directory: Whose accounts it used.
        non_secret_names: Variables (`NAME`) and credentials (`APP.FIELD`) that are no secrets: their real values are kept.

    Raises:
        RequestError: An account is gone, or *non_secret_names* names a secret or nothing that was used.
    """
    accounts: list[AccountInput] = []
    secrets = [Secret(f"event/{name}", value) for name, value in request.event.header_secrets().items()]
    names: list[str] = []
    for use in {use.id: use for step in execution.steps for use in step.accounts}.values():
        account = directory.find_account(use.id)
        if account is None:
            raise RequestError(
                f"The account {use.id} that the run used is gone, so what it held is not known.", fix="Run it again."
            )
        fields: dict[str, str] = {}
        given, _ = insert_placeholders(account, directory.credentials(use.id))
        for field, value in given.items():
            name = f"{use.app}.{field}"
            names.append(name)
            if name in non_secret_names and _SECRET_NAME_PATTERN.search(field):
                raise RequestError(f"{name} is a secret by its name; it is not written into a test.")
            if name not in non_secret_names:
                secrets.append(Secret(f"{use.app}/{use.id}/{field}", value))
            fields[field] = value if name in non_secret_names else build_fake_secret(f"{use.id}-{field}", value)
        accounts.append(AccountInput(account.external_user_id, use.app, account.environment, use.id, fields))
    variables: dict[str, str] = {}
    for name, value in select_named_variables(request).items():
        names.append(name)
        if name not in non_secret_names:
            secrets.append(Secret(f"env/{name}", value))
        variables[name] = value if name in non_secret_names else build_fake_secret(name, value)
    unused = [name for name in non_secret_names if name not in names]
    if unused:
        raise RequestError(
            f"{', '.join(unused)}: the run was given nothing of that name.",
            fix=f"It was given {', '.join(names) or 'nothing'}.",
        )
    return RunInputs(
        tuple(accounts), variables, Redactor(secrets), tuple(name for name in names if name not in non_secret_names)
    )
