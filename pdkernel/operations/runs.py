"""
Runs of a workflow: selected steps, external users, pinned exports, the request for the engine, and names of saved tests.

The engine runs the request, and `snapshot_tests` writes the test.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pdkernel.common.identity import ALL_USERS, Directory, Environment
from pdkernel.egress import OutboundPolicy
from pdkernel.egress.recording import MemoryRecording
from pdkernel.engine.account_lookup import Interface
from pdkernel.engine.pauses import PauseMode
from pdkernel.engine.run_request import RunRequest, TestOptions, VariableLoader, build_pinned_exports
from pdkernel.engine.variables import load_variables
from pdkernel.errors import RequestError
from pdkernel.event import Event, parse_json
from pdkernel.files.source import WorkflowSource
from pdkernel.model import JSON, Workflow

if TYPE_CHECKING:
    from pdkernel.storage import Project

MAX_TEST_NAME = 100
"""Characters of a test's name. File names are longer than the test's name and limited to 255 bytes."""
_RESERVED_NAME = re.compile(r"con|prn|aux|nul|com\d|lpt\d", re.IGNORECASE)
"""Names of devices: Windows cannot check out files with these names."""


def split_names(text: str | None) -> list[str]:
    """Return the names in *text*, which separates them by commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def select_steps(
    workflow: Workflow,
    *,
    step: str | None = None,
    first: str | None = None,
    last: str | None = None,
    stale: Collection[str] | None = None,
    known: Collection[str] = (),
) -> frozenset[str] | None:
    """
    Names of the steps to run and of the blocks to decide, or None for all.

    Args:
        workflow: The workflow.
        step: Run this step alone, whatever the blocks around it decide, or this block with its branches.
        first: Run this step or block and those below. If it is in a branch, the other branches of an if or switch block do not run.
        last: Run this step and those above.
        stale: Run these steps, whose results are stale; None if they were not asked for. A block decides again, so that steps in it
            run, too, that have had no result because it took another branch.
        known: With *stale*, the steps and blocks that have a result.

    Raises:
        UnknownStepError: The workflow has no such step.
        RequestError: *last* is above *first*, no step is stale, or *stale* or *step* is combined with other arguments.
    """
    if stale is not None:
        if step or first or last:
            raise RequestError("--stale chooses the steps by itself.", fix="Leave out the steps, or --stale.")
        if not stale:
            raise RequestError("No step is stale.", fix="To run all steps: %pdrun")
        inner = (name for block in stale for name in _find_inner(workflow, block) if name not in known)
        return frozenset((*stale, *inner))
    if step is not None:
        if first or last:
            raise RequestError(
                "A step that runs alone excludes --from and --to.", fix=f"Leave out {step}, or the options."
            )
        return frozenset({workflow.entry(step).name, *_find_inner(workflow, step)})
    if first is None and last is None:
        return None
    names = [each.name for each in workflow.all_entries]
    begin = names.index(workflow.entry(first).name) if first else 0
    end = names.index(workflow.entry(last).name) if last else len(names) - 1
    if end < begin:
        raise RequestError(
            f"Step {last!r} is above step {first!r}: there are no steps to run.", fix="Exchange the two steps."
        )
    taken = (
        {block.name: branch for block, branch in workflow.branches_around(first) if block.type != "parallel"}
        if first
        else {}
    )
    last_inner = _find_inner(workflow, last) if last else ()
    return frozenset(
        name
        for name in (*names[begin : end + 1], *last_inner)
        if all(taken.get(block.name, branch) == branch for block, branch in workflow.branches_around(name))
    )


def _find_inner(workflow: Workflow, name: str) -> Sequence[str]:
    """Return the steps and blocks in the branches of *name*; empty for a step."""
    if all(block.name != name for block in workflow.blocks):
        return ()
    return [
        entry.name
        for entry in workflow.all_entries
        if any(block.name == name for block, _ in workflow.branches_around(entry.name))
    ]


def list_run_users(names: str, directory: Directory, environment: Environment) -> list[str]:
    """
    Return the external users for which a workflow runs, once for each.

    Args:
        names: Ids separated by commas, or `all` for every external user of *environment*.
        directory: Users and accounts.
        environment: The environment of the users.

    Raises:
        RequestError: There are no such users.
    """
    if names != ALL_USERS:
        users = [*dict.fromkeys(split_names(names))]
        if not users:
            raise RequestError("No external user is named.", fix=f"Name them as A,B or {ALL_USERS}.")
        return users
    users = [user.external_id for user in directory.users(environment)]
    if not users:
        raise RequestError(
            f"There are no external users in {environment}.",
            fix="The first connected account creates one: pdkernel accounts add --external-user ID --app APP --credential KEY",
        )
    return users


def parse_pinned_exports(text: str | bytes, *, label: str) -> Mapping[str, JSON]:
    """
    Parse exports for a pin: a JSON object with the exports, or another JSON value, which is the step's return value.

    Raises:
        EventError: *text* is not JSON.
    """
    return build_pinned_exports(parse_json(text, label=label))


def pin_steps(workflow: Workflow, pins: Mapping[str, JSON]) -> dict[str, Mapping[str, JSON]]:
    """
    Return the pinned exports by step or block; a value of *pins* is an object with the exports, or another value: the return value.

    Raises:
        UnknownStepError: The workflow has no such step or block.
    """
    return {workflow.entry(name).name: build_pinned_exports(value) for name, value in pins.items()}


def build_run_request(
    source: WorkflowSource,
    event: Event,
    *,
    project: Project,
    policy: OutboundPolicy,
    external_user_id: str | None,
    environment: Environment,
    source_argument: str,
    interface: Interface = "terminal",
    only_steps: frozenset[str] | None = None,
    pinned_exports: Mapping[str, Mapping[str, JSON]] | None = None,
    pause_mode: PauseMode = "skip",
    install: bool = True,
    variables: VariableLoader | None = None,
    is_recorded: bool = False,
) -> RunRequest:
    """
    Return the request for a run of a workflow from its files or its notebook.

    Args:
        source: The workflow with its files.
        event: The event; its headers get the external user and the environment.
        project: The project with the variables.
        policy: The policy for outbound calls.
        external_user_id: The external user of the run, or None.
        environment: The external user's environment.
        source_argument: The source as an argument of a command, for messages.
        interface: The interface that starts the run, for messages.
        only_steps: Names of the steps to run, or None for all.
        pinned_exports: Pinned exports by step.
        pause_mode: The treatment of pauses.
        install: Whether missing packages are installed.
        variables: Loads the variables of the workflow and of those that its steps trigger; default: those of the project
            and of the `.env` beside the workflow.
        is_recorded: Whether outbound calls are recorded, so that the run can be saved as a test.

    Raises:
        RequestError: The `.env` beside the workflow cannot be read.
    """
    folder, variables = source.folder.resolve(), variables or partial(load_variables, project)
    return RunRequest(
        workflow=source.workflow,
        event=event.with_identity(external_user_id, environment),
        policy=policy,
        external_user_id=external_user_id,
        environment=environment,
        variables=variables(folder),
        folder=folder,
        options=TestOptions(pinned_exports or {}, only_steps, recording=MemoryRecording() if is_recorded else None),
        install=install,
        source=source_argument,
        source_path=source.path.resolve(),
        interface=interface,
        action_sources=source.sidecar.actions if source.sidecar else (),
        pause_mode=pause_mode,
        load_variables=variables,
    )


def check_test_options(name: str | None, *, non_secret_names: Sequence[str], has_several_users: bool) -> None:
    """
    Check before a run whether the run can be saved as the test *name*; None does not save.

    Raises:
        RequestError: The options do not fit together, or *name* cannot name a test.
    """
    if name is None:
        if non_secret_names:
            raise RequestError("--plain has no effect without --save-test.", fix="Add --save-test NAME.")
        return
    normalize_test_name(name)
    if has_several_users:
        raise RequestError("--save-test saves a single run.", fix="Name one external user.")


def normalize_test_name(name: str) -> str:
    """Normalize *name* to a valid name of a test. Raises `RequestError`."""
    name = name.strip().removesuffix(".py").removeprefix("test_").replace("-", "_")
    if (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name)
        or len(name) > MAX_TEST_NAME
        or _RESERVED_NAME.fullmatch(name)
    ):
        shown = name if len(name) <= MAX_TEST_NAME else f"{name[:40]}..."
        raise RequestError(
            f"{shown!r} cannot name a test.",
            fix=f"Use letters, digits, dashes and underscores, {MAX_TEST_NAME} characters at most, and not the name of a device.",
        )
    return name
