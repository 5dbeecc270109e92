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
from pdkernel.definition import Sidecar, graded
from pdkernel.errors import DefinitionError
from pdkernel.identity import Directory
from pdkernel.model import Workflow
from pdkernel.project import Project
from pdkernel.proof.bench import ProofBench, Ran, Side
from pdkernel.proof.cases import Case, find_cases
from pdkernel.proof.definitions import compare_workflows
from pdkernel.proof.executions import Found, compare_runs, never_ran, without_restless
from pdkernel.proof.leftout import not_run_here, unrecorded, was_refused, with_dependents
from pdkernel.proof.readback import PARTLY, ReadBack, as_run, read_back
from pdkernel.proof.settled import settled
from pdkernel.redaction import Redactor
from pdkernel.render.proof import ENDED_ABOVE, WHOLE, CaseVerdict, Difference, GradedField, Proof, StepVerdict
from pdkernel.source import EVENTS_FOLDER, workflows_beside
from pdkernel.variables import project_variables, secrets_of

Progress = Callable[[str], None]

_OWN_FILES = re.compile(r"""(?:\bfrom|\bimport|\brequire\s*\(|\bimport\s*\()\s*['"`](?:\.{1,2}/|file:)""")


@dataclass(frozen=True)
class Exported:
    """
    What was exported, and with what it runs.

    Attributes:
        source: The notebook.
        workflow: What it holds, its `pdkernel.yaml` applied, every account answered.
        sidecar: The `pdkernel.yaml` beside it, or None.
        project: Whose packages, actions, accounts and variables count.
        directory: Users and accounts.
        environ: For the settings of registries.
        users: External users besides the test users that the sidecar names.
        pins: Steps that are pinned in the notebook: they run.
        into: A synced folder was patched: what it holds and the notebook does not was kept.
    """

    source: Path
    workflow: Workflow
    sidecar: Sidecar | None
    project: Project
    directory: Directory
    environ: Mapping[str, str] = field(default_factory=dict)
    users: Sequence[str] = ()
    pins: Sequence[str] = ()
    into: bool = False


async def prove(
    exported: Exported, folder: Path, *, clock: Clock = SYSTEM_CLOCK, progress: Progress = lambda _: None
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
    variables = project_variables(exported.project, exported.source.parent)
    redactor = Redactor(secrets_of(exported.project, exported.source.parent))
    names = tuple(step.name for step in exported.workflow.steps)
    notes = [f"Pins are ignored: {', '.join(exported.pins)} ran."] if exported.pins else []
    try:
        read = read_back(folder, exported.workflow, exported.sidecar)
    except DefinitionError as fault:
        unreadable = Difference("the files, read back", None, redactor.text(fault.message))
        return Proof(str(folder), names, (unreadable,), (), (), tuple(notes))
    definition = compare_workflows(
        exported.workflow, read.workflow, ours=exported.sidecar, theirs=read.sidecar, into=exported.into
    )
    told = tuple(place.told(redactor) for place in definition)
    told += tuple(
        Difference(redactor.text(path), redactor.text(json.dumps(value)), "no text to the platform: it lacks quotes")
        for path, value in read.unquoted
    )
    if read.sidecar is None:
        notes.append(PARTLY)
    directory = settled(exported.directory, exported.project)
    named = exported.sidecar.test_users if exported.sidecar else ()
    users = tuple(dict.fromkeys((*named, *exported.users)))
    cases, said = find_cases(exported.source.parent / EVENTS_FOLDER, exported.workflow, directory, users=users)
    verdicts: list[CaseVerdict] = []
    if cases:
        at = clock.now().replace(microsecond=0)
        async with await ProofBench.start(exported.project, directory, exported.environ, at=at) as bench:
            sides = _sides(exported, read, variables)
            for case in cases:
                progress(f"proving {case.name}{'' if case.external_user is None else f' as {case.external_user}'} ...")
                verdicts.append(await _Trial(bench, *sides, redactor).judge(case))
    fields = _graded(read, exported.workflow)
    return Proof(str(folder), names, told, tuple(verdicts), fields, (*notes, *said))


def _graded(read: ReadBack, notebook: Workflow) -> tuple[GradedField, ...]:
    try:
        return graded(read.files, notebook)
    except LookupError:  # the folder has what the notebook does not: kept there, or told as a difference
        return graded(read.files, read.workflow)


def _sides(exported: Exported, read: ReadBack, variables: Mapping[str, str]) -> tuple[Side, Side]:
    """The notebook's side, and that of the files."""
    home = exported.source.parent.resolve()
    ours = Side(
        workflow=as_run(exported.workflow, exported.workflow),
        folder=home,
        actions=exported.sidecar.actions if exported.sidecar else None,
        variables=variables,
        source=shlex.quote(exported.source.name),
        find_workflow=workflows_beside(exported.source),
    )
    # packages beside the notebook are no part of the files; its own modules are, if a step imports one
    own = any(step.language == "node" and _OWN_FILES.search(step.source) for step in exported.workflow.steps)
    theirs = Side(
        workflow=as_run(read.workflow, exported.workflow),
        folder=read.folder.resolve() if own else home,
        actions=ours.actions if read.sidecar is None else read.sidecar.actions,
        variables=variables,
        source=ours.source,
        find_workflow=ours.find_workflow,
    )
    return ours, theirs


class _Trial:
    """Runs both sides on a case and judges."""

    def __init__(self, bench: ProofBench, notebook: Side, files: Side, redactor: Redactor) -> None:
        self._bench = bench
        self._notebook = notebook
        self._files = files
        self._redactor = redactor

    async def judge(self, case: Case) -> CaseVerdict:
        """Both sides on *case*."""
        ours, left_out = await self._notebook_runs(case)
        only = self._only(left_out)
        theirs = await self._bench.run(self._files, case, only=only)
        found, moving = compare_runs(ours, theirs), dict[str, list[str]]()
        if any(found.values()):
            again = await self._bench.run(self._notebook, case, only=only)
            found, moving = without_restless(found, compare_runs(ours, again))
        names = [step.name for step in self._notebook.workflow.steps]
        steps = tuple(self._step(name, ours, found, moving, left_out) for name in names)
        return CaseVerdict(case.name, case.external_user, steps, self._whole(ours, found, moving, left_out))

    async def _notebook_runs(self, case: Case) -> tuple[Ran, dict[str, str]]:
        """The notebook's run without the steps that cannot be compared, and those, each with why."""
        workflow = self._notebook.workflow
        catalog = self._bench.catalog.at(self._notebook.actions, base=self._notebook.folder)
        left_out = with_dependents(workflow, not_run_here(workflow, catalog))
        while True:
            ran = await self._bench.run(self._notebook, case, only=self._only(left_out))
            refused = next((step for step in ran.execution.steps if was_refused(step)), None)
            if refused is None:
                return ran, left_out
            why = unrecorded(refused, case.recording, self._recording(case))
            left_out = with_dependents(workflow, {**left_out, refused.name: why})

    def _only(self, left_out: Mapping[str, str]) -> frozenset[str] | None:
        if not left_out:
            return None
        return frozenset(step.name for step in self._notebook.workflow.steps if step.name not in left_out)

    def _recording(self, case: Case) -> str:
        folder = EVENTS_FOLDER
        words = ["pdkernel", "run", self._notebook.source, "--event", shlex.quote(f"{folder}/{case.file.name}")]
        if case.external_user is not None:
            words += ["--external-user", shlex.quote(case.external_user)]
        words += ["--egress", shlex.quote(f"record={folder}/{case.recording.name}")]
        return " ".join(words)

    def _step(
        self, name: str, ours: Ran, found: Found, moving: Mapping[str, list[str]], left_out: Mapping[str, str]
    ) -> StepVerdict:
        if found[name]:
            return StepVerdict(name, "differs", tuple(place.told(self._redactor) for place in found[name]))
        if name in left_out:
            return StepVerdict(name, "not compared", why=self._redactor.text(left_out[name]))
        if name in moving:
            return StepVerdict(name, "not compared", why=_restless(moving[name]))
        match ours.execution.step(name).status:
            case "not_run":
                return StepVerdict(name, "not compared", why=_refused(ours))
            case "skipped":
                return StepVerdict(name, "not compared", why=ENDED_ABOVE)
        return StepVerdict(name)

    def _whole(
        self, ours: Ran, found: Found, moving: Mapping[str, list[str]], left_out: Mapping[str, str]
    ) -> StepVerdict:
        if found[WHOLE]:
            return StepVerdict(WHOLE, "differs", tuple(place.told(self._redactor) for place in found[WHOLE]))
        if WHOLE in moving:
            return StepVerdict(WHOLE, "not compared", why=_restless(moving[WHOLE]))
        if left_out:
            return StepVerdict(WHOLE, "not compared", why="Not every step was compared.")
        if never_ran(ours.execution):
            return StepVerdict(WHOLE, "not compared", why=_refused(ours))
        return StepVerdict(WHOLE)


def _refused(ran: Ran) -> str:
    error = ran.execution.error
    return f"Both sides refuse the run: {error.message}" if error is not None else "It did not run."


def _restless(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:3])
    return (
        f"{shown} is another in each run of the notebook: clock and chance are fixed in Python and Node.js steps only, "
        "not in Bash and Go, nor in programs that a step starts."
    )
