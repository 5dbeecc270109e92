"""
What to look at before a workflow is deployed, each with the place to look.

Knows which rules there are and their order. Refuses nothing: what must not be written, `plan` and `check` refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pdkernel.definition.lint_rules import (
    missing_response,
    no_git_form,
    no_known_limits,
    odd_names,
    own_accounts,
    references,
    secrets,
    unpinned_packages,
)
from pdkernel.definition.sidecar import Sidecar
from pdkernel.errors import DefinitionError
from pdkernel.model import Workflow
from pdkernel.render.files import Finding

RULES: Mapping[str, Callable[[Workflow, Sidecar], Iterator[Finding]]] = {
    "reference": references,
    "secret": secrets,
    "own-account": own_accounts,
    "response": missing_response,
    "git-form": no_git_form,
    "name": odd_names,
    "limit": no_known_limits,
    "package": unpinned_packages,
}
"""
What is looked at: references to steps that are not there or come later; credentials written out; an account of one's own
among the external user's; a custom response that some way never sends; what has no known form in Git; names; limits;
packages without a version.
"""


def lint(workflow: Workflow, sidecar: Sidecar | None = None) -> tuple[Finding, ...]:
    """
    What to look at in *workflow*, by rule and then by step.

    Args:
        workflow: A notebook's or a folder's.
        sidecar: The `pdkernel.yaml` that belongs to it.
    """
    found: list[Finding] = []
    for rule in RULES.values():
        try:
            found += rule(workflow, sidecar or Sidecar())
        except DefinitionError:  # an expression that cannot be read; `references` has told it
            continue
    return tuple(dict.fromkeys(found))
