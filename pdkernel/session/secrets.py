"""
Everything secret that the project holds, for what is shown in a notebook without a run around it.

Knows where secrets are. A run knows its own, which are fewer.
"""

from __future__ import annotations

from pdkernel.engine.end_users import account_secrets
from pdkernel.redaction import Redactor, Secret
from pdkernel.session.session import Session
from pdkernel.variables import project_variables


def project_redactor(session: Session) -> Redactor:
    """A redactor of every variable and every account's credentials that *session*'s project holds."""
    secrets = [
        Secret(f"env/{name}", value) for name, value in project_variables(session.project, session.folder).items()
    ]
    held = session.project.accounts
    for account in held.list():
        secrets += account_secrets(account, held.credentials(account.id))
    return Redactor(secrets)
