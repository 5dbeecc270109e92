"""
A run that was made, saved as a test: event, external user, recorded calls, and what every step did.

Knows the order: make sure that the file says what ran, run it twice more offline, hold the test to what was the same each
time, write. Sends nothing: the calls were taken down when the run was made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pdkernel.clock import SYSTEM_CLOCK, Clock
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult
from pdkernel.identity import Directory
from pdkernel.model import JSON
from pdkernel.runtimes.file_tree import temporary_folder
from pdkernel.snapshot_tests.run_inputs import RunInputs, collect_run_inputs
from pdkernel.snapshot_tests.runtime_factory import RuntimeFactory
from pdkernel.snapshot_tests.temporary_project import TemporaryProject
from pdkernel.snapshot_tests.test_code import RunExpectation, SnapshotScenario, build_expectation, generate_test_code
from pdkernel.snapshot_tests.test_files import write_test_files
from pdkernel.source import EVENTS_FOLDER, WorkflowSource, load_source

TESTS_FOLDER = "tests"
RECORDINGS_FOLDER = "recorded"
MAX_NAME = 100
"""Characters of a test's name: the names of its files add some, and file systems hold 255 bytes."""
_RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d", re.IGNORECASE)
"""Names of devices, which no file of a checkout on Windows can have."""
VERIFICATION_RUNS = 2
"""Runs offline before anything is written: two show what differs from run to run."""


@dataclass(frozen=True)
class SavedTest:
    """
    What was written.

    Attributes:
        files: The test first.
        unstable_paths: Paths of what differs from run to run.
    """

    files: tuple[Path, ...]
    unstable_paths: tuple[str, ...]

    def format_summary(self, folder: Path) -> str:
        """What was written, in words, paths as seen from *folder*."""
        shown = [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in self.files]
        lines = [*(f"Wrote {path}" for path in shown)]
        if self.unstable_paths:
            lines.append(f"Compared by type only, differing from run to run: {', '.join(self.unstable_paths)}")
        lines.append(f"Run it: pytest {shown[0]}")
        return "\n".join(lines)


def save_test(
    request: RunRequest,
    execution: Execution,
    *,
    name: str,
    source: Path,
    directory: Directory,
    non_secret_names: Collection[str] = (),
    clock: Clock = SYSTEM_CLOCK,
) -> SavedTest:
    """
    Write a test of a run that has been made.

    Args:
        request: What was run, with a tape.
        execution: What came of it.
        name: Of the test: letters, digits, dashes and underscores.
        source: The notebook or the workflow's folder, as it is on disk.
        directory: Whose accounts the run used.
        non_secret_names: Variables and credentials (`NAME`, `APP.FIELD`) whose real values may stand in the test.
        clock: The present.

    Raises:
        RequestError: It cannot be saved, and why; nothing was written.
        NotebookError: *source* cannot be read.
    """
    name = normalize_test_name(name)
    opened = load_source(source)
    _check_source(opened, request)
    _check_run(request, execution)
    needs = collect_run_inputs(request, execution, directory, non_secret_names=non_secret_names)
    base = (opened.path.parent).resolve()  # beside a notebook, and beside a synced folder, which stays as it is
    event = Event(dict(execution.event))
    with temporary_folder("pdkernel-save-") as scratch:
        calls = scratch / f"{name}.jsonl"
        assert request.recording is not None
        request.recording.append_to(calls)
        pins, only = _resolve_pins_and_steps(request)
        samples = [
            _run_offline(scratch / str(number), opened, request, event, needs, calls=calls, pins=pins, only=only)
            for number in range(VERIFICATION_RUNS)
        ]
        stores = any(step.stores for step in request.workflow.steps)
        _check_same(execution, samples, needs, stores=stores)
        others = {
            base / TESTS_FOLDER / RECORDINGS_FOLDER / path.relative_to(scratch): path.read_bytes()
            for path in (calls, *Path(f"{calls}.bodies").glob("*"))
            if path.is_file()
        }
    event_file = _known_event(base / EVENTS_FOLDER, request, execution)
    if event_file is None:
        event_file = base / EVENTS_FOLDER / f"{name}.json"
        others[event_file] = (json.dumps(dict(execution.event), indent=2, ensure_ascii=False) + "\n").encode()
    expected = _expected(execution, samples, request, others, now=clock.now())
    text = generate_test_code(
        SnapshotScenario(
            name=name,
            workflow=request.workflow.name,
            source=f"../{opened.path.name}",
            event=f"../{EVENTS_FOLDER}/{event_file.name}",
            recorded=f"{RECORDINGS_FOLDER}/{name}.jsonl" if len(request.recording) else None,
            external_user=request.external_user_id,
            environment=request.environment,
            needs=needs,
            pins=pins,
            only=only,
        ),
        expected,
    )
    for path, content in {**others, Path(f"test_{name}.py"): text.encode()}.items():
        _check_secrets(path, content, needs)
    files = write_test_files(base / TESTS_FOLDER / f"test_{name}.py", text, others)
    return SavedTest(files, expected.unstable_paths)


def normalize_test_name(name: str) -> str:
    """*name* as a test's name may hold it. Raises `RequestError`."""
    name = name.strip().removesuffix(".py").removeprefix("test_").replace("-", "_")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name) or len(name) > MAX_NAME or _RESERVED.fullmatch(name):
        shown = name if len(name) <= MAX_NAME else f"{name[:40]}..."
        raise RequestError(
            f"{shown!r} cannot name a test.",
            fix=f"Use letters, digits, dashes and underscores, {MAX_NAME} characters at most, and no name of a device.",
        )
    return name


def _check_source(opened: WorkflowSource, request: RunRequest) -> None:
    """A test runs what is on disk: that must be what has run."""
    if opened.workflow.version == request.workflow.version:
        return
    on_disk = {step.name: step for step in opened.workflow.steps}
    other = [
        step.name
        for step in request.workflow.steps
        if step.name not in on_disk
        or (on_disk[step.name].source, on_disk[step.name].props) != (step.source, step.props)
    ]
    what = f"step {', '.join(other)} is another there" if other else "its header or its order of steps is another there"
    raise RequestError(
        f"{opened.path.name} on disk is not what has run: {what}.",
        fix="Save the notebook, run it again, and then save the run.",
    )


def _check_run(request: RunRequest, execution: Execution) -> None:
    if request.recording is None:
        raise RequestError("The outside calls of this run were not taken down.", fix="Run it again.")
    if request.recording.skipped:
        raise RequestError(
            f"These calls are too big to be kept with a test: {', '.join(dict.fromkeys(request.recording.skipped))}.",
            fix="Record the run in a file, --egress record=FILE, and write the test by hand with replay=FILE.",
        )
    if execution.status not in ("success", "exited", "error"):
        raise RequestError(
            f"A run that is {execution.status} cannot be saved as a test.", fix="Let it come to its end."
        )


def _resolve_pins_and_steps(request: RunRequest) -> tuple[dict[str, Mapping[str, JSON]], list[str] | None]:
    """Pins, and the steps that ran where not all did: what the others had exported is pinned then."""
    pins = dict(request.pinned_exports)
    if request.only_steps is None:
        return pins, None
    only = [step.name for step in request.workflow.steps if step.name in request.only_steps]
    last = max(place for place, step in enumerate(request.workflow.steps) if step.name in request.only_steps)
    for step in request.workflow.steps[:last]:
        if step.name not in request.only_steps and step.name in request.previous_exports and not step.disabled:
            pins.setdefault(step.name, request.previous_exports[step.name])
    return pins, only


def _run_offline(
    folder: Path,
    opened: WorkflowSource,
    request: RunRequest,
    event: Event,
    needs: RunInputs,
    *,
    calls: Path,
    pins: Mapping[str, Mapping[str, JSON]],
    only: Collection[str] | None,
) -> Execution:
    """The run as the test will make it, in processes of its own."""
    with RuntimeFactory() as bench:
        project = TemporaryProject(bench, folder)
        try:
            needs.apply_to(project)
            return project.run(
                opened.path,
                event,
                external_user=request.external_user_id,
                environment=request.environment,
                pins={step: dict(exports) for step, exports in pins.items()},
                only=only,
                egress=f"replay={calls}" if calls.exists() else "deny",
            )
        finally:
            project.close()


def _check_same(execution: Execution, samples: list[Execution], needs: RunInputs, *, stores: bool) -> None:
    for sample in samples:
        for was, now in zip(execution.steps, sample.steps, strict=True):
            if was.status != now.status and "pinned" not in (was.status, now.status):
                raise _status_mismatch_error(was, now, needs, stores=stores)
        if sample.status != execution.status:
            message = sample.error.message if sample.error else ""
            raise RequestError(f"Made again offline, the run ends with {sample.status}: {message}")


def _status_mismatch_error(was: StepResult, now: StepResult, needs: RunInputs, *, stores: bool) -> RequestError:
    why = f": {now.error.name}: {now.error.message}" if now.error else "."
    hints = ["Data stores are empty in a saved test."] if stores else []
    hints += ["A masked header of the event (***) may be what it looks at; then write one into the event."]
    if needs.replaced_names:
        hints.append(
            f"These have made-up values in a test: {', '.join(needs.replaced_names)}. If one is no secret and the step needs it "
            "as it is, name it with --plain."
        )
    return RequestError(
        f"The run was not saved. Made again offline, step {was.name} ends with {now.status} instead of {was.status}{why}",
        fix="\n".join(hints),
    )


def _known_event(folder: Path, request: RunRequest, execution: Execution) -> Path | None:
    """A saved event that is the run's own, or None."""
    if dict(request.event.with_masked_headers().data) != dict(execution.event):
        return None  # something in it was hidden
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            saved = Event.parse(path.read_bytes(), label=path.name)
        except RequestError:
            continue
        if saved.with_identity(request.external_user_id, request.environment).data == execution.event:
            return path
    return None


def _expected(
    execution: Execution, samples: list[Execution], request: RunRequest, others: Mapping[Path, bytes], *, now: datetime
) -> RunExpectation:
    first = samples[0]
    # a step that did not run in the first place is pinned in the test
    statuses = {step.name: step.status for step in first.steps}
    shaped = replace(
        execution,
        steps=tuple(
            replace(step, status=statuses[step.name], exports=first.step(step.name).exports)
            if step.status == "not_run"
            else step
            for step in execution.steps
        ),
    )
    known = [
        json.dumps(dict(request.event.data), ensure_ascii=False),
        *(step.source for step in request.workflow.steps),
    ]
    known += [content.decode("utf-8", "replace").replace('\\"', '"') for content in others.values()]
    return build_expectation([*samples, shaped], now=now, known_text="\n".join(known))


def _check_secrets(path: Path, content: bytes, needs: RunInputs) -> None:
    found = needs.redactor.find_secrets(content.decode("utf-8", "replace"))
    if found:
        raise RequestError(
            f"The run was not saved: the value of {', '.join(found)} would stand in {path.name}.",
            fix="It is in the event, in a pin or in the code; take it out there.",
        )
