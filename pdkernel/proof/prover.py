"""
The order of a proof: read the files back, compare the texts, run both sides on every case, say what was found.

Knows when a step counts as not compared. What a run takes is for `bench` to know, what differs for `executions`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.clock import SYSTEM_CLOCK, Clock
from pdkernel.definition import Sidecar, grade_fields
from pdkernel.errors import DefinitionError
from pdkernel.identity import Directory
from pdkernel.model import Workflow
from pdkernel.project import Project
from pdkernel.proof.cases import ProofCase, find_cases
from pdkernel.proof.definition_comparison import compare_workflows
from pdkernel.proof.directory_cache import cache_directory
from pdkernel.proof.excluded_steps import (
    add_dependents,
    describe_unrecorded_call,
    find_unavailable_actions,
    has_unrecorded_call,
)
from pdkernel.proof.exported_folder import NO_SIDECAR_NOTE, ExportedFolder, normalize_for_run, read_exported_folder
from pdkernel.proof.run_comparison import RunDifferences, compare_runs, is_refused_before_start, separate_flaky
from pdkernel.proof.side_runner import ProofRunner, ProofSide, SideRun
from pdkernel.redaction import Redactor
from pdkernel.render.proof import RUN_ENDED_EARLIER, WHOLE_RUN, CaseVerdict, Difference, GradedField, Proof, StepVerdict
from pdkernel.source import EVENTS_FOLDER, sibling_workflow_finder
from pdkernel.variables import collect_secrets, load_variables

ProgressListener = Callable[[str], None]

_RELATIVE_IMPORT = re.compile(r"""(?:\bfrom|\bimport|\brequire\s*\(|\bimport\s*\()\s*['"`](?:\.{1,2}/|file:)""")


@dataclass(frozen=True)
class ExportedNotebook:
    """
    What was exported, and with what it runs.

    Attributes:
        source: The notebook.
        workflow: What it holds, its `pdkernel.yaml` applied, every account answered.
        sidecar: The `pdkernel.yaml` beside it, or None.
        project: Whose packages, actions, accounts and variables count.
        directory: Users and accounts.
        environ: For the settings of registries.
        extra_users: External users besides the test users that the sidecar names.
        pins: Steps that are pinned in the notebook: they run.
        is_patched: A synced folder was patched: what it holds and the notebook does not was kept.
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
    Prove that the files in *folder* do what the notebook does, as far as its saved events show.

    Args:
        exported: The notebook.
        folder: What an export of it has written.
        clock: The moment that both sides see is its present, in whole seconds.
        progress: Told in short lines what goes on.

    Raises:
        RequestError: Whose account a step uses is unanswered in the written files.
        ProjectError: The project cannot be used.
    """
    variables = load_variables(exported.project, exported.source.parent)
    redactor = Redactor(collect_secrets(exported.project, exported.source.parent))
    names = tuple(step.name for step in exported.workflow.steps)
    notes = [f"Pins are ignored: {', '.join(exported.pins)} ran."] if exported.pins else []
    try:
        read = read_exported_folder(folder, exported.workflow, exported.sidecar)
    except DefinitionError as fault:
        unreadable = Difference("the files, read back", None, redactor.redact_text(fault.message))
        return Proof(str(folder), names, (unreadable,), (), (), tuple(notes))
    definition = compare_workflows(
        exported.workflow,
        read.workflow,
        notebook_sidecar=exported.sidecar,
        folder_sidecar=read.sidecar,
        is_patched=exported.is_patched,
    )
    told = tuple(place.to_difference(redactor) for place in definition)
    told += tuple(
        Difference(
            redactor.redact_text(path),
            redactor.redact_text(json.dumps(value)),
            "no text to the platform: it lacks quotes",
        )
        for path, value in read.unquoted_texts
    )
    if read.sidecar is None:
        notes.append(NO_SIDECAR_NOTE)
    directory = cache_directory(exported.directory, exported.project)
    named = exported.sidecar.test_users if exported.sidecar else ()
    users = tuple(dict.fromkeys((*named, *exported.extra_users)))
    cases, said = find_cases(exported.source.parent / EVENTS_FOLDER, exported.workflow, directory, users=users)
    verdicts: list[CaseVerdict] = []
    if cases:
        at = clock.now().replace(microsecond=0)
        async with await ProofRunner.start(exported.project, directory, exported.environ, frozen_time=at) as bench:
            sides = _sides(exported, read, variables)
            for case in cases:
                progress(f"proving {case.name}{'' if case.external_user is None else f' as {case.external_user}'} ...")
                verdicts.append(await _CaseComparison(bench, *sides, redactor).compare(case))
    fields = _graded(read, exported.workflow)
    return Proof(str(folder), names, told, tuple(verdicts), fields, (*notes, *said))


def _graded(read: ExportedFolder, notebook: Workflow) -> tuple[GradedField, ...]:
    try:
        return grade_fields(read.files, notebook)
    except LookupError:  # the folder has what the notebook does not: kept there, or told as a difference
        return grade_fields(read.files, read.workflow)


def _sides(
    exported: ExportedNotebook, read: ExportedFolder, variables: Mapping[str, str]
) -> tuple[ProofSide, ProofSide]:
    """The notebook's side, and that of the files."""
    home = exported.source.parent.resolve()
    ours = ProofSide(
        workflow=normalize_for_run(exported.workflow, exported.workflow),
        folder=home,
        actions=exported.sidecar.actions if exported.sidecar else None,
        variables=variables,
        source=shlex.quote(exported.source.name),
        find_workflow=sibling_workflow_finder(exported.source),
    )
    # packages beside the notebook are no part of the files; its own modules are, if a step imports one
    own = any(step.language == "node" and _RELATIVE_IMPORT.search(step.source) for step in exported.workflow.steps)
    theirs = ProofSide(
        workflow=normalize_for_run(read.workflow, exported.workflow),
        folder=read.folder.resolve() if own else home,
        actions=ours.actions if read.sidecar is None else read.sidecar.actions,
        variables=variables,
        source=ours.source,
        find_workflow=ours.find_workflow,
    )
    return ours, theirs


class _CaseComparison:
    """Runs both sides on a case and judges."""

    def __init__(self, bench: ProofRunner, notebook: ProofSide, files: ProofSide, redactor: Redactor) -> None:
        self._bench = bench
        self._notebook = notebook
        self._files = files
        self._redactor = redactor

    async def compare(self, case: ProofCase) -> CaseVerdict:
        """Both sides on *case*."""
        ours, left_out = await self._notebook_runs(case)
        only = self._only(left_out)
        theirs = await self._bench.run(self._files, case, only=only)
        found, moving = compare_runs(ours, theirs), dict[str, list[str]]()
        if any(found.values()):
            again = await self._bench.run(self._notebook, case, only=only)
            found, moving = separate_flaky(found, compare_runs(ours, again))
        names = [step.name for step in self._notebook.workflow.steps]
        steps = tuple(self._step(name, ours, found, moving, left_out) for name in names)
        return CaseVerdict(case.name, case.external_user, steps, self._whole(ours, found, moving, left_out))

    async def _notebook_runs(self, case: ProofCase) -> tuple[SideRun, dict[str, str]]:
        """The notebook's run without the steps that cannot be compared, and those, each with why."""
        workflow = self._notebook.workflow
        catalog = self._bench.catalog.with_source(self._notebook.actions, base=self._notebook.folder)
        left_out = add_dependents(workflow, find_unavailable_actions(workflow, catalog))
        while True:
            ran = await self._bench.run(self._notebook, case, only=self._only(left_out))
            refused = next((step for step in ran.execution.steps if has_unrecorded_call(step)), None)
            if refused is None:
                return ran, left_out
            why = describe_unrecorded_call(refused, case.recording_path, self._recording(case))
            left_out = add_dependents(workflow, {**left_out, refused.name: why})

    def _only(self, left_out: Mapping[str, str]) -> frozenset[str] | None:
        if not left_out:
            return None
        return frozenset(step.name for step in self._notebook.workflow.steps if step.name not in left_out)

    def _recording(self, case: ProofCase) -> str:
        folder = EVENTS_FOLDER
        words = ["pdkernel", "run", self._notebook.source, "--event", shlex.quote(f"{folder}/{case.file.name}")]
        if case.external_user is not None:
            words += ["--external-user", shlex.quote(case.external_user)]
        words += ["--egress", shlex.quote(f"record={folder}/{case.recording_path.name}")]
        return " ".join(words)

    def _step(
        self,
        name: str,
        ours: SideRun,
        found: RunDifferences,
        moving: Mapping[str, list[str]],
        left_out: Mapping[str, str],
    ) -> StepVerdict:
        if found[name]:
            return StepVerdict(name, "differs", tuple(place.to_difference(self._redactor) for place in found[name]))
        if name in left_out:
            return StepVerdict(name, "not compared", reason=self._redactor.redact_text(left_out[name]))
        if name in moving:
            return StepVerdict(name, "not compared", reason=_describe_flaky(moving[name]))
        match ours.execution.step(name).status:
            case "not_run":
                return StepVerdict(name, "not compared", reason=_refused(ours))
            case "skipped":
                return StepVerdict(name, "not compared", reason=RUN_ENDED_EARLIER)
        return StepVerdict(name)

    def _whole(
        self, ours: SideRun, found: RunDifferences, moving: Mapping[str, list[str]], left_out: Mapping[str, str]
    ) -> StepVerdict:
        if found[WHOLE_RUN]:
            return StepVerdict(
                WHOLE_RUN, "differs", tuple(place.to_difference(self._redactor) for place in found[WHOLE_RUN])
            )
        if WHOLE_RUN in moving:
            return StepVerdict(WHOLE_RUN, "not compared", reason=_describe_flaky(moving[WHOLE_RUN]))
        if left_out:
            return StepVerdict(WHOLE_RUN, "not compared", reason="Not every step was compared.")
        if is_refused_before_start(ours.execution):
            return StepVerdict(WHOLE_RUN, "not compared", reason=_refused(ours))
        return StepVerdict(WHOLE_RUN)


def _refused(ran: SideRun) -> str:
    error = ran.execution.error
    return f"Both sides refuse the run: {error.message}" if error is not None else "It did not run."


def _describe_flaky(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:3])
    return (
        f"{shown} is another in each run of the notebook: clock and chance are fixed in Python and Node.js steps only, "
        "not in Bash and Go, nor in programs that a step starts."
    )
