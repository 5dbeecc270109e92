"""
What runs of a workflow need and its events do not change, found in its definition once.

Everything here follows from the definition alone. So a changed file, variable, account, package or policy makes nothing of it wrong: each
run reads these anew. A workflow whose definition changes is another object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pdkernel.engine.limits import listen_ports, memory_limit_mb
from pdkernel.errors import ExpressionError
from pdkernel.language.analysis import build_condition_step, find_secret_props, iter_sources
from pdkernel.language.expression import add_missing_braces, iter_templates
from pdkernel.model import Entry, Step, Workflow, split_inside

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class PreparedStep:
    """
    What a run needs of a step.

    Attributes:
        timeout_s: The time limit in seconds.
        has_expressions: Whether props may have expressions, which each run evaluates.
        has_secret_props: Whether props have values that only Pipedream can read, and that the project replaces.
        is_read_by_javascript: Whether JavaScript reads what it exports, and it is not JavaScript itself: a Node.js step or an expression below.
    """

    timeout_s: float
    has_expressions: bool
    has_secret_props: bool
    is_read_by_javascript: bool


@dataclass(frozen=True)
class EntryPlace:
    """
    The place of a step or block in a branch.

    Attributes:
        path: The path through the blocks around it, `BLOCK.BRANCH.NAME`.
        block: The innermost block around it.
        branch: The branch of *block*.
        is_parallel: Whether other branches may run at the same time.
    """

    path: str
    block: str
    branch: str
    is_parallel: bool

    @classmethod
    def of(cls, workflow: Workflow, entry: Entry) -> EntryPlace:
        """Return the place of *entry*, which is in a branch of *workflow*."""
        is_parallel = any(block.type == "parallel" for block, _ in workflow.branches_around(entry.name))
        return cls(workflow.path(entry.name), *split_inside(entry.inside or ""), is_parallel)


class PreparedWorkflow:
    """
    What runs need of a workflow: `workflow.derive(PreparedWorkflow)`.

    Attributes:
        steps: What they need of each step, by name.
        places: The places of the steps and blocks in branches, by name.
        memory_limit_mb: The memory limit of a step in megabytes, or None.
        listen_ports: Ports on which steps may listen, besides free ones.
        may_declare_apps: The enabled steps that may use accounts; all others certainly use none.
        words: All identifiers in the steps, and the variables that `pdkernel.yaml` lists.
        unreadable: The steps and blocks whose cells cannot be read.
        checked: The results of the preflight checks, by the steps that a run selects.
    """

    def __init__(self, workflow: Workflow) -> None:
        with_secrets = {prop.step for prop in find_secret_props(workflow)}
        has_conditions = any(branch.runs == "when" for block in workflow.blocks for branch in block.branches)
        self.steps: Mapping[str, PreparedStep] = {
            step.name: PreparedStep(
                workflow.timeout_s(step),
                has_expressions=_has_expressions(step),
                has_secret_props=step.name in with_secrets,
                is_read_by_javascript=step.language != "node"
                and (has_conditions or any(map(_runs_javascript, workflow.steps[place + 1 :]))),
            )
            for place, step in enumerate(workflow.steps)
        }
        self.places: Mapping[str, EntryPlace] = {
            entry.name: EntryPlace.of(workflow, entry) for entry in workflow.all_entries if entry.inside is not None
        }
        self.memory_limit_mb = memory_limit_mb(workflow)
        self.listen_ports = listen_ports(workflow)
        self.may_declare_apps = frozenset(
            step.name for step in workflow.steps if not step.disabled and _may_declare_apps(step)
        )
        self.words = _find_words(workflow)
        self.unreadable = frozenset(entry.name for entry in workflow.all_entries if entry.problem is not None)
        self.checked: dict[object, Any] = {}


@lru_cache(maxsize=100)
def parse_definition(text: str) -> Workflow:
    """
    Return the workflow of a definition in the journal: the same object for the same text.

    Raises:
        ValueError: The text does not fit; likewise `TypeError`, `KeyError` and `RecursionError`.
    """
    return Workflow.from_versioned_content(json.loads(text))


def _find_words(workflow: Workflow) -> frozenset[str]:
    words = set(workflow.variables)
    for step in (*workflow.steps, *map(build_condition_step, workflow.blocks)):
        code = "\n".join(source for _, source in iter_sources(step))
        words.update(_WORD.findall(code + json.dumps(dict(step.props))))
    return frozenset(words)


def _runs_javascript(step: Step) -> bool:
    return not step.disabled and (step.language == "node" or _has_templates(step))


def _has_templates(step: Step) -> bool:
    try:
        return any(True for _ in iter_templates(step.props))
    except ExpressionError:  # the step itself will have the error
        return True


def _has_expressions(step: Step) -> bool:
    if _has_templates(step):
        return True
    is_code = step.language == "node" and step.uses is None
    return is_code and any(add_missing_braces(value) != value for value in step.props.values())


def _may_declare_apps(step: Step) -> bool:
    if step.apps or step.uses is not None or step.language == "go":
        return True
    return step.language == "node" and any("app" in source for _, source in iter_sources(step))
