"""The order of a proof: read the files back, compare the definitions, run both sides on every case, report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pdkernel.annex.proof.comparison import (
    RunDifferences,
    compare_runs,
    compare_workflows,
    is_refused_before_start,
    separate_flaky,
)
from pdkernel.annex.proof.record_comparison import RecordTarget, compare_records, find_recorded_id
from pdkernel.annex.proof.recorded_runs import RECORDS_FOLDER, open_records
from pdkernel.annex.proof.report import (
    RUN_ENDED_EARLIER,
    WHOLE_RUN,
    CaseVerdict,
    Difference,
    Proof,
    RecordProof,
    StepVerdict,
)
from pdkernel.annex.proof.side_runner import (
    NO_SIDECAR_NOTE,
    ExportedFolder,
    ProofCase,
    ProofRunner,
    ProofSide,
    SideRun,
    add_dependents,
    cache_directory,
    describe_unrecorded_call,
    find_cases,
    find_unavailable_actions,
    has_unrecorded_call,
    normalize_for_run,
    read_exported_folder,
)
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import SYSTEM_CLOCK, Clock
from pdkernel.common.identity import Directory
from pdkernel.common.redaction import Redactor
from pdkernel.engine.account_resolution import collect_secrets
from pdkernel.engine.variables import load_variables
from pdkernel.errors import DefinitionError
from pdkernel.files.definition import Sidecar, grade_fields
from pdkernel.files.definition.field_grades import GradedField
from pdkernel.files.source import EVENTS_FOLDER
from pdkernel.model import Workflow
from pdkernel.storage import Project

ProgressListener = Callable[[str], None]


@dataclass(frozen=True)
class ExportedNotebook:
    """
    An exported notebook, with everything that its runs need.

    Attributes:
        source: Path of the notebook.
        workflow: Its workflow, with `pdkernel.yaml` applied and an owner for every account.
        sidecar: The `pdkernel.yaml` beside the notebook, or None.
        project: The project with packages, actions, accounts and variables.
        directory: Users and accounts.
        environ: Environment variables with settings of package registries.
        extra_users: External users in addition to the test users in *sidecar*.
        pins: Steps pinned in the notebook; a proof runs them.
        is_patched: Whether the export updated a synced folder, which keeps content that the notebook lacks.
    """

    source: Path
    workflow: Workflow
    sidecar: Sidecar | None
    project: Project
    directory: Directory
    environ: Mapping[str, str] = field(default_factory=dict)
    extra_users: Sequence[str] = ()
    pins: Sequence[str] = ()
    is_patched: bool = False


async def run_proof(
    exported: ExportedNotebook,
    folder: Path,
    *,
    clock: Clock = SYSTEM_CLOCK,
    progress: ProgressListener = lambda _: None,
) -> Proof:
    """
    Compare the files in *folder* with the notebook, on every saved event.

    Args:
        exported: The notebook.
        folder: The folder written by the export.
        clock: Both sides see its current time, in whole seconds, as a fixed time.
        progress: Called with short lines about the progress.

    Raises:
        RequestError: The written files do not name the owner of an account.
        ProjectError: The project cannot be used.
    """
    redactor = Redactor(collect_secrets(exported.project, exported.source.parent))
    names = tuple(step.name for step in exported.workflow.steps)
    notes = [f"Pins are ignored: {', '.join(exported.pins)} ran."] if exported.pins else []
    try:
        read = read_exported_folder(folder, exported.workflow, exported.sidecar)
    except DefinitionError as fault:
        unreadable = Difference("the files, read back", None, redactor.redact_text(fault.message))
        return Proof(str(folder), names, (unreadable,), (), (), tuple(notes))
    if read.sidecar is None:
        notes.append(NO_SIDECAR_NOTE)
    directory = cache_directory(exported.directory, exported.project)
    sidecar = exported.sidecar or Sidecar()
    cases, case_notes = find_cases(
        exported.source.parent / EVENTS_FOLDER,
        exported.workflow,
        directory,
        users=tuple(dict.fromkeys((*sidecar.test_users, *exported.extra_users))),
        names=sidecar.test_events,
    )
    verdicts: list[CaseVerdict] = []
    if cases:
        at = clock.now().replace(microsecond=0)
        async with await ProofRunner.start(exported.project, directory, exported.environ, frozen_time=at) as runner:
            sides = _sides(exported, read)
            for case in cases:
                progress(
                    f"proving {case.name}{'' if case.external_user_id is None else f' as {case.external_user_id}'} ..."
                )
                verdicts.append(await _CaseComparison(runner, *sides, redactor).compare(case))
    differences = _compare_definitions(exported, read, redactor)
    fields = _grade_fields(read, exported.workflow)
    records = await _compare_records(exported, read, directory, progress)
    return Proof(str(folder), names, differences, tuple(verdicts), fields, (*notes, *case_notes), records)


async def _compare_records(
    exported: ExportedNotebook, read: ExportedFolder, directory: Directory, progress: ProgressListener
) -> RecordProof | None:
    """Return the files compared with the runs that were recorded at Pipedream; None without records."""
    if not (exported.project.folder / RECORDS_FOLDER).is_dir():
        return None
    archive = await run_blocking(open_records, exported.project)
    workflow_id = find_recorded_id(exported.workflow, exported.source, read.folder)
    if workflow_id is None or workflow_id not in archive.workflow_ids():
        return None
    side = _sides(exported, read)[1]
    return await compare_records(
        RecordTarget(exported.source, side.folder, side.workflow, side.actions),
        archive,
        workflow_id,
        project=exported.project,
        directory=directory,
        environ=exported.environ,
        progress=progress,
    )


def _compare_definitions(
    exported: ExportedNotebook, read: ExportedFolder, redactor: Redactor
) -> tuple[Difference, ...]:
    """Return the differences between the notebook's workflow and the files, redacted."""
    places = compare_workflows(
        exported.workflow,
        read.workflow,
        notebook_sidecar=exported.sidecar,
        folder_sidecar=read.sidecar,
        is_patched=exported.is_patched,
    )
    unquoted = (
        Difference(
            redactor.redact_text(path),
            redactor.redact_text(json.dumps(value)),
            "not text for the platform: quotes are missing",
        )
        for path, value in read.unquoted_texts
    )
    return (*(place.to_difference(redactor) for place in places), *unquoted)


def _grade_fields(read: ExportedFolder, notebook: Workflow) -> tuple[GradedField, ...]:
    try:
        return grade_fields(read.files, notebook)
    except LookupError:
        # the folder has keys that the notebook lacks: kept by the export, or reported as a difference
        return grade_fields(read.files, read.workflow)


def _sides(exported: ExportedNotebook, read: ExportedFolder) -> tuple[ProofSide, ProofSide]:
    """Return the side of the notebook and the side of the files."""
    home = exported.source.parent.resolve()
    notebook_side = ProofSide(
        workflow=normalize_for_run(exported.workflow, exported.workflow),
        folder=home,
        actions=exported.sidecar.actions if exported.sidecar else (),
        load_variables=partial(load_variables, exported.project),
        source=shlex.quote(exported.source.name),
        source_path=exported.source,
    )
    files_side = ProofSide(
        workflow=normalize_for_run(read.workflow, exported.workflow),
        folder=home,  # both sides use the packages beside the notebook
        actions=notebook_side.actions if read.sidecar is None else read.sidecar.actions,
        load_variables=notebook_side.load_variables,
        source=notebook_side.source,
        source_path=exported.source,
    )
    return notebook_side, files_side


class _CaseComparison:
    """Runs both sides on a case and compares them."""

    def __init__(self, runner: ProofRunner, notebook: ProofSide, files: ProofSide, redactor: Redactor) -> None:
        self._runner = runner
        self._notebook = notebook
        self._files = files
        self._redactor = redactor

    async def compare(self, case: ProofCase) -> CaseVerdict:
        """Run both sides on *case* and return the verdict."""
        notebook_run, excluded = await self._notebook_runs(case)
        only = self._only(excluded)
        files_run = await self._runner.run(self._files, case, only=only)
        found, flaky = compare_runs(notebook_run, files_run), dict[str, list[str]]()
        if any(found.values()):
            second_run = await self._runner.run(self._notebook, case, only=only)
            found, flaky = separate_flaky(found, compare_runs(notebook_run, second_run))
        names = [step.name for step in self._notebook.workflow.steps]
        steps = tuple(self._step(name, notebook_run, found, flaky, excluded) for name in names)
        return CaseVerdict(
            case.name, case.external_user_id, steps, self._run_verdict(notebook_run, found, flaky, excluded)
        )

    async def _notebook_runs(self, case: ProofCase) -> tuple[SideRun, dict[str, str]]:
        """Run the notebook without excluded steps; return the run, and the excluded steps with reasons."""
        workflow = self._notebook.workflow
        catalog = self._runner.catalog.with_sources(self._notebook.actions, base=self._notebook.folder)
        excluded = add_dependents(workflow, find_unavailable_actions(workflow, catalog))
        while True:
            ran = await self._runner.run(self._notebook, case, only=self._only(excluded))
            refused = next((step for step in ran.execution.steps if has_unrecorded_call(step)), None)
            if refused is None:
                return ran, excluded
            why = describe_unrecorded_call(refused, case.recording_path, self._recording(case))
            excluded = add_dependents(workflow, {**excluded, refused.name: why})

    def _only(self, excluded: Mapping[str, str]) -> frozenset[str] | None:
        if not excluded:
            return None
        return frozenset(entry.name for entry in self._notebook.workflow.all_entries if entry.name not in excluded)

    def _recording(self, case: ProofCase) -> str:
        folder = EVENTS_FOLDER
        words = ["pdkernel", "run", self._notebook.source, "--event", shlex.quote(f"{folder}/{case.file.name}")]
        if case.external_user_id is not None:
            words += ["--external-user", shlex.quote(case.external_user_id)]
        words += ["--egress", shlex.quote(f"record={folder}/{case.recording_path.name}")]
        return " ".join(words)

    def _step(
        self,
        name: str,
        notebook_run: SideRun,
        found: RunDifferences,
        flaky: Mapping[str, list[str]],
        excluded: Mapping[str, str],
    ) -> StepVerdict:
        if found[name]:
            return StepVerdict(name, "differs", tuple(place.to_difference(self._redactor) for place in found[name]))
        if name in excluded:
            return StepVerdict(name, "not compared", reason=self._redactor.redact_text(excluded[name]))
        if name in flaky:
            return StepVerdict(name, "not compared", reason=_describe_flaky(flaky[name]))
        match notebook_run.execution.step(name).status:
            case "not_run":
                return StepVerdict(name, "not compared", reason=_refused(notebook_run))
            case "skipped":
                return StepVerdict(name, "not compared", reason=RUN_ENDED_EARLIER)
        return StepVerdict(name)

    def _run_verdict(
        self, notebook_run: SideRun, found: RunDifferences, flaky: Mapping[str, list[str]], excluded: Mapping[str, str]
    ) -> StepVerdict:
        if found[WHOLE_RUN]:
            return StepVerdict(
                WHOLE_RUN, "differs", tuple(place.to_difference(self._redactor) for place in found[WHOLE_RUN])
            )
        if WHOLE_RUN in flaky:
            return StepVerdict(WHOLE_RUN, "not compared", reason=_describe_flaky(flaky[WHOLE_RUN]))
        if excluded:
            return StepVerdict(WHOLE_RUN, "not compared", reason="Not every step was compared.")
        if is_refused_before_start(notebook_run.execution):
            return StepVerdict(WHOLE_RUN, "not compared", reason=_refused(notebook_run))
        return StepVerdict(WHOLE_RUN)


def _refused(ran: SideRun) -> str:
    error = ran.execution.error
    return f"Both sides refuse the run: {error.message}" if error is not None else "The step did not run."


def _describe_flaky(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:3])
    return (
        f"{shown} differs between two runs of the notebook. Clock and random numbers are fixed only in Python and Node.js "
        "steps, not in Bash and Go steps or in programs that a step starts."
    )
