"""The comparison of workflows with their runs that were recorded at Pipedream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pdkernel.annex.proof.report import RecordProof
from pdkernel.common.identity import Directory
from pdkernel.errors import RequestError
from pdkernel.files.source import WorkflowSource

if TYPE_CHECKING:
    from pdkernel.egress import OutboundPolicy
    from pdkernel.storage import Project

__all__ = [
    "RecordProof",
    "compare_with_records",
    "has_records",
    "parse_stand_in",
]


def has_records(project: Project, source: WorkflowSource) -> bool:
    """Return whether *project* has recorded runs of *source*."""
    from pdkernel.annex.proof.record_comparison import find_recorded_id
    from pdkernel.annex.proof.recorded_runs import RECORDS_FOLDER, open_records

    if not (project.folder / RECORDS_FOLDER).is_dir():
        return False
    return find_recorded_id(source.workflow, source.path) in open_records(project).workflow_ids()


def parse_stand_in(egress: str | None) -> OutboundPolicy | None:
    """
    Return the outbound policy of a comparison: a stand-in, or None.

    Raises:
        RequestError: *egress* is another policy, with which a comparison could send something.
    """
    from pdkernel.egress import parse_policy

    policy = None if egress is None else parse_policy(egress, origin="--egress")
    if policy is not None and policy.mode != "stand-in":
        raise RequestError(
            f"A comparison with recorded runs sends nothing, so its outbound policy cannot be {policy.mode}.",
            fix="Use a stand-in: --egress stand-in=slack, or stand-in=URL.",
        )
    return policy


def compare_with_records(
    source: WorkflowSource,
    *,
    project: Project,
    directory: Directory,
    environ: Mapping[str, str],
    egress: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> RecordProof:
    """
    Run every recorded event of *source* here, offline, and compare the steps with what they did at Pipedream.

    Args:
        source: The notebook or the workflow's folder.
        project: The project with the records, packages, actions, accounts, variables and data stores; it is not changed.
        directory: Users and accounts.
        environ: Environment variables with settings of package registries.
        egress: A stand-in that answers outbound calls, as `--egress` takes it (`stand-in=slack`); None refuses them.
        progress: Called with a line for each recorded run.

    Raises:
        RequestError: There are no recorded runs of the workflow, or *egress* is not a stand-in.
    """
    from pdkernel.annex.proof.record_comparison import RecordTarget, compare_records, require_recorded_id
    from pdkernel.annex.proof.recorded_runs import open_records
    from pdkernel.common.loop_thread import LoopThread

    policy = parse_stand_in(egress)
    archive = open_records(project)
    workflow_id = require_recorded_id(source, archive)
    loop = LoopThread()  # a separate loop: a run of a notebook may be in progress
    try:
        return loop.run(
            compare_records(
                RecordTarget.of(source),
                archive,
                workflow_id,
                project=project,
                directory=directory,
                environ=environ,
                policy=policy,
                progress=progress,
            )
        )
    finally:
        loop.close()
