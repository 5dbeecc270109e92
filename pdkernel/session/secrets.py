"""
Hides everything secret that the project holds in what a notebook shows without a run around it.

Knows whose project it is. Where secrets are is for `variables` to know.
"""

from __future__ import annotations

from pdkernel.redaction import Redactor
from pdkernel.session.session import Session
from pdkernel.variables import collect_secrets


def build_project_redactor(session: Session) -> Redactor:
    """A redactor of every variable and every account's credentials that *session*'s project holds."""
    return Redactor(collect_secrets(session.project, session.folder))
