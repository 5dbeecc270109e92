"""
Saves a run as a test: event, external user, recorded calls, and the results of every step.

The order: check that the source is the workflow that ran, run it twice offline, write assertions for the values
that stay the same. No request is sent: the calls were recorded during the run. Comments at the end of a saved test hold checksums
of its files, so that a file that was changed after saving is never overwritten. The second half builds the Python text of the test.
"""

from __future__ import annotations

import hashlib
import json
import pprint
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pdkernel.annex.snapshot_tests.run_inputs import RunInputs, collect_run_inputs
from pdkernel.annex.snapshot_tests.stable_values import find_unstable_paths, merge_samples, replace_current_dates
from pdkernel.annex.snapshot_tests.temporary_project import RuntimeFactory, TemporaryProject
from pdkernel.common.clock import SYSTEM_CLOCK, Clock
from pdkernel.common.identity import Directory
from pdkernel.common.safe_files import read_file
from pdkernel.egress.recording import MemoryRecording
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult
from pdkernel.files.source import EVENTS_FOLDER, WorkflowSource, load_source
from pdkernel.model import JSON, Workflow
from pdkernel.operations.runs import normalize_test_name
from pdkernel.runtimes.file_tree import temporary_folder

_WIDTH = 100


@dataclass(frozen=True)
class StepExpectation:
    """Expectations for one step; *output* is None if exports, calls or an error describe the step."""

    name: str
    status: str
    exports: Any
    requests: Any
    error: Any
    output: Any


@dataclass(frozen=True)
class RunExpectation:
    """
    Expectations for a run.

    Attributes:
        unstable_paths: Paths of values that differ from run to run; the test checks only their type.
    """

    status: str
    steps: tuple[StepExpectation, ...]
    response: Any
    sends: Any
    error: Any
    unstable_paths: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotScenario:
    """Inputs of a saved test; paths are relative to the test's folder."""

    name: str
    workflow: str
    source: str
    event: str
    recorded: str | None
    external_user_id: str | None
    environment: str
    inputs: RunInputs
    pins: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    only: Sequence[str] | None = None


def build_expectation(samples: Sequence[Execution], *, now: datetime, known_text: str) -> RunExpectation:
    """Merge *samples* of one run into expectations; *now* and *known_text* as in `replace_current_dates`."""

    def merge(values: Sequence[JSON]) -> Any:
        return replace_current_dates(merge_samples(values), now, known_text)

    steps = []
    differing: list[str] = []
    for number, first in enumerate(samples[0].steps):
        results = [sample.steps[number] for sample in samples]
        has_only_logs = not first.exports and not first.requests and first.error is None
        step = StepExpectation(
            first.name,
            first.status,
            merge([dict(result.exports) for result in results]),
            merge([_calls(result) for result in results]),
            merge([_error_summary(result) for result in results]),
            merge([result.output for result in results]) if has_only_logs and first.logs else None,
        )
        steps.append(step)
        compared = {"": step.exports, " calls": step.requests, " error": step.error, " output": step.output}
        for label, value in compared.items():
            differing += find_unstable_paths(value, f"{first.name}{label}")
    response = merge([sample.response.to_json() if sample.response else None for sample in samples])
    error = merge([[s.error.name, s.error.message] if s.error else None for s in samples])
    sends = merge([[[s.step, s.kind, s.to, s.payload] for s in sample.sends] for sample in samples])
    differing += [*find_unstable_paths(response, "response"), *find_unstable_paths(sends, "sends")]
    return RunExpectation(samples[0].status, tuple(steps), response, sends, error, tuple(differing))


def generate_test_code(scenario: SnapshotScenario, expected: RunExpectation) -> str:
    """Generate the test as a Python module."""
    return "\n".join(_lines(scenario, expected)) + "\n"


def _lines(scenario: SnapshotScenario, expected: RunExpectation) -> Iterator[str]:
    who = (
        f"as {scenario.external_user_id} in {scenario.environment}"
        if scenario.external_user_id
        else "without an external user"
    )
    yield '"""'
    yield _one_line(f"A run of {scenario.workflow!r}, {who}, saved as a test.")
    yield ""
    if scenario.recorded:
        yield f"Outbound calls are replayed from {scenario.recorded}: no request is sent. Credentials and variables are fake."
    else:
        yield "The run made no outbound calls: they are refused. Credentials and variables are fake."
    yield '"""'
    yield ""
    yield "from pathlib import Path"
    yield ""
    body = list(_body(scenario, expected))
    if any("differs(" in line for line in body):
        yield "from pdkernel.testing import differs"
        yield ""
    yield 'pytest_plugins = ["pdkernel.testing"]'
    yield ""
    yield "HERE = Path(__file__).parent"
    yield ""
    yield ""
    yield f"def test_{scenario.name}(pd_project, pd_run):"
    yield '    """Each step does the same as in the saved run."""'
    yield from (f"    {line}" if line else "" for line in body)


def _body(scenario: SnapshotScenario, expected: RunExpectation) -> Iterator[str]:
    yield from _setup_lines(scenario.inputs)
    yield "execution = pd_run("
    yield f"    HERE / {scenario.source!r},"
    yield f"    HERE / {scenario.event!r},"
    if scenario.external_user_id:
        yield f"    external_user={scenario.external_user_id!r},"
    yield f"    environment={scenario.environment!r},"
    if scenario.recorded:
        yield f'    egress=f"replay={{HERE / {scenario.recorded!r}}}",'
    if scenario.only is not None:
        yield f"    only={list(scenario.only)!r},"
    if scenario.pins:
        yield from _indented("pins=", {name: dict(exports) for name, exports in scenario.pins.items()}, ",")
    yield ")"
    yield ""
    if expected.unstable_paths:
        yield "# These values differ from run to run: only their types are compared."
        for path in expected.unstable_paths:
            yield f"#   {_one_line(path)}"
    yield f"assert execution.status == {expected.status!r}"
    if expected.error is not None:
        yield from _assertion("[execution.error.name, execution.error.message]", expected.error)
    for step in expected.steps:
        yield ""
        yield from _step(step)
    yield ""
    if expected.response is None:
        yield "assert execution.response is None"
    else:
        yield from _assertion("execution.response.to_json()", expected.response)
    if expected.sends:
        yield from _assertion("[[s.step, s.kind, s.to, s.payload] for s in execution.sends]", expected.sends)


def _setup_lines(inputs: RunInputs) -> Iterator[str]:
    for account in inputs.accounts:
        yield "pd_project.connect("
        yield f"    {account.external_user_id!r},"
        yield f"    {account.app!r},"
        yield f"    environment={account.environment!r},"
        yield f"    account_id={account.account_id!r},"
        yield from _indented("credentials=", dict(account.credentials), ",")
        yield ")"
    if inputs.variables:
        yield from _literal("pd_project.set_variables(**", dict(inputs.variables), ")")
    if inputs.accounts or inputs.variables:
        yield ""


def _step(step: StepExpectation) -> Iterator[str]:
    yield f"step = execution.step({step.name!r})"
    yield f"assert step.status == {step.status!r}"
    if step.status in ("not_run", "skipped", "disabled"):
        return
    yield from _assertion("step.exports", step.exports)
    yield from _assertion("sorted([call.method, call.url, call.status] for call in step.requests)", step.requests)
    if step.error is not None:
        yield from _assertion("[step.error.name, step.error.message]", step.error)
    if step.output is not None:
        yield from _assertion("step.output", step.output)


def _assertion(expression: str, value: Any) -> Iterator[str]:
    yield from _literal(f"assert {expression} == ", value, "")


def _indented(before: str, value: Any, after: str) -> Iterator[str]:
    yield from (f"    {line}" for line in _literal(before, value, after))


def _literal(before: str, value: Any, after: str) -> Iterator[str]:
    """Format *value* as Python between *before* and *after*; long lists and dicts take several lines."""
    short = f"{before}{value!r}{after}"
    if len(short) <= _WIDTH:
        yield short
        return
    brackets = "{}" if isinstance(value, dict) else "[]" if isinstance(value, list) else ""
    if not brackets:
        lines = pprint.pformat(value, width=_WIDTH, sort_dicts=False).splitlines()
        yield f"{before}("
        yield from (f"    {line.removeprefix('(').removesuffix(')').strip()}" for line in lines)
        yield f"){after}"
        return
    yield before + brackets[0]
    items = value.items() if isinstance(value, dict) else [(None, item) for item in value]
    for key, item in items:
        yield from (f"    {line}" for line in _literal("" if key is None else f"{key!r}: ", item, ","))
    yield brackets[1] + after


def _calls(result: StepResult) -> list[Any]:
    return sorted(([call.method, call.url, call.status] for call in result.requests), key=str)


def _error_summary(result: StepResult) -> list[JSON] | None:
    return [result.error.name, result.error.message] if result.error else None


def _one_line(text: str) -> str:
    return textwrap.shorten(text.replace('"""', "'''").replace("\\", "/"), 110, placeholder=" ...")


TESTS_FOLDER = "tests"
RECORDINGS_FOLDER = "recorded"
VERIFICATION_RUNS = 2
"""Offline runs before writing: two runs show the values that differ from run to run."""
_CHECKSUM_HEADER = "# Saved by pdkernel. Saving again overwrites these files if they are unchanged:"
_ANY_CHECKSUM_HEADER = re.compile(r"# Saved by pdkernel\. Saving again overwrites these files [^\n]*:\n")
"""The header of saved tests; its words differed in earlier versions."""
_LINE = re.compile(r"#   (?P<hash>[0-9a-f]{16}) (?P<path>.+)")


@dataclass(frozen=True)
class SavedTest:
    """
    A saved test.

    Attributes:
        files: The written files, the test first.
        unstable_paths: Paths of values that differ from run to run.
        unsaved: The changes that the source's file still lacks, as a sentence; None if the file is the workflow that ran.
    """

    files: tuple[Path, ...]
    unstable_paths: tuple[str, ...]
    unsaved: str | None = None

    def format_summary(self, folder: Path) -> str:
        """List the written files, relative to *folder*, and the unstable values."""
        shown = [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in self.files]
        lines = [*(f"Wrote {path}" for path in shown)]
        if self.unstable_paths:
            lines.append(
                f"Compared by type only, because they differ from run to run: {', '.join(self.unstable_paths)}"
            )
        if self.unsaved is not None:
            lines.append(f"Save the notebook first: the test reads its file, and {self.unsaved}.")
        lines.append(f"Run it: pytest {shown[0]}")
        return "\n".join(lines)


def save_test(
    request: RunRequest,
    execution: Execution,
    *,
    name: str,
    source: WorkflowSource,
    directory: Directory,
    non_secret_names: Collection[str] = (),
    clock: Clock = SYSTEM_CLOCK,
) -> SavedTest:
    """
    Write a test of a finished run.

    Args:
        request: The request of the run, with a recording.
        execution: The record of the run.
        name: Name of the test: letters, digits, dashes and underscores.
        source: The notebook or the workflow's folder as it is now. Its file may be older: the result then reports it.
        directory: The directory with the accounts of the run.
        non_secret_names: Variables and credentials (`NAME`, `APP.FIELD`) whose real values the test may contain.
        clock: Returns the current time.

    Raises:
        RequestError: The run cannot be saved; no file was written.
    """
    name = normalize_test_name(name)
    _check_source(source, request)
    recording = _check_run(request, execution)
    inputs = collect_run_inputs(request, execution, directory, non_secret_names=non_secret_names)
    base = (source.path.parent).resolve()  # beside a notebook or a synced folder; a synced folder itself is not changed
    event_file, event_files = _plan_event_file(base / EVENTS_FOLDER, name, request, execution)
    pins, only = _resolve_pins_and_steps(request)
    scenario = SnapshotScenario(
        name=name,
        workflow=request.workflow.name,
        source=f"../{source.path.name}",
        event=f"../{EVENTS_FOLDER}/{event_file.name}",
        recorded=f"{RECORDINGS_FOLDER}/{name}.jsonl" if len(recording) else None,
        external_user_id=request.external_user_id,
        environment=request.environment,
        inputs=inputs,
        pins=pins,
        only=only,
    )
    samples, recorded_files = _repeat_run(source, scenario, execution, recording)
    _check_same(execution, samples, inputs, stores=any(step.stores for step in request.workflow.steps))
    test = base / TESTS_FOLDER / f"test_{name}.py"
    attachments = {test.parent / path: content for path, content in recorded_files.items()} | event_files
    expected = _expected(execution, samples, request, attachments, now=clock.now())
    text = generate_test_code(scenario, expected)
    for path, content in {**attachments, test: text.encode()}.items():
        _check_secrets(path, content, inputs)
    files = write_test_files(test, text, attachments)
    return SavedTest(files, expected.unstable_paths, _find_unsaved(source, request))


def _check_source(source: WorkflowSource, request: RunRequest) -> None:
    """Check that *source* is the workflow that ran."""
    different = _find_difference(source.workflow, request.workflow)
    if different is not None:
        raise RequestError(
            f"The workflow was edited after this run: {different}.",
            fix="Run it again, and then save the run.",
        )


def _find_unsaved(source: WorkflowSource, request: RunRequest) -> str | None:
    """Return what the file of *source* lacks of the workflow that ran; None if nothing is missing. The test runs the file."""
    try:
        saved = load_source(source.path, pinned_steps=request.options.pinned_exports)
    except PdkernelError as fault:
        return f"{source.path.name} on disk cannot run ({fault.message})"
    different = _find_difference(saved.workflow, request.workflow)
    return None if different is None else f"in {source.path.name} on disk {different}"


def _find_difference(workflow: Workflow, ran: Workflow) -> str | None:
    """Return how *workflow* differs from the workflow that *ran*, with the names of steps; None if it does not differ."""
    if workflow.version == ran.version:
        return None
    steps = {step.name: step for step in workflow.steps}
    other = [
        step.name
        for step in ran.steps
        if step.name not in steps
        or any(getattr(steps[step.name], name) != getattr(step, name) for name in ("source", "files", "props"))
    ]
    return f"step {', '.join(other)} differs" if other else "the header or the order of steps differs"


def _check_run(request: RunRequest, execution: Execution) -> MemoryRecording:
    """Check that the run can be saved; return its recording."""
    if request.options.recording is None:
        raise RequestError("The outbound calls of this run were not recorded.", fix="Run the workflow again.")
    if request.options.recording.skipped:
        raise RequestError(
            f"These calls are too large for a test: {', '.join(dict.fromkeys(request.options.recording.skipped))}.",
            fix="Record the run with --egress record=FILE, and write a test by hand that uses replay=FILE.",
        )
    if execution.status not in ("success", "exited", "error"):
        raise RequestError(
            f"A run that is {execution.status} cannot be saved as a test.", fix="Wait until the run has ended."
        )
    return request.options.recording


def _resolve_pins_and_steps(request: RunRequest) -> tuple[dict[str, Mapping[str, JSON]], list[str] | None]:
    """Return the pins and selected steps of the run; exports of steps that did not run become pins."""
    pins = dict(request.options.pinned_exports)
    if request.options.only_steps is None:
        return pins, None
    only = [step.name for step in request.workflow.steps if step.name in request.options.only_steps]
    last = max(index for index, step in enumerate(request.workflow.steps) if step.name in request.options.only_steps)
    for step in request.workflow.steps[:last]:
        if (
            step.name not in request.options.only_steps
            and step.name in request.options.previous_exports
            and not step.disabled
        ):
            pins.setdefault(step.name, request.options.previous_exports[step.name])
    return pins, only


def _repeat_run(
    source: WorkflowSource, scenario: SnapshotScenario, execution: Execution, recording: MemoryRecording
) -> tuple[list[Execution], dict[Path, bytes]]:
    """Repeat the run offline; return the repetitions, and the recording's files by path below the folder of tests."""
    with temporary_folder("pdkernel-save-") as scratch:
        calls = scratch / f"{scenario.name}.jsonl"
        recording.append_to(calls)
        samples = [
            _run_offline(scratch / str(number), source, scenario, Event(dict(execution.event)), calls)
            for number in range(VERIFICATION_RUNS)
        ]
        files = {
            Path(RECORDINGS_FOLDER) / path.relative_to(scratch): path.read_bytes()
            for path in (calls, *Path(f"{calls}.bodies").glob("*"))
            if path.is_file()
        }
    return samples, files


def _run_offline(
    folder: Path, source: WorkflowSource, scenario: SnapshotScenario, event: Event, calls: Path
) -> Execution:
    """Run *scenario* as the test will, in separate processes."""
    with RuntimeFactory() as factory:
        project = TemporaryProject(factory, folder)
        try:
            scenario.inputs.apply_to(project)
            return project.run(
                source,
                event,
                external_user_id=scenario.external_user_id,
                environment=scenario.environment,
                pins={step: dict(exports) for step, exports in scenario.pins.items()},
                only=scenario.only,
                egress=f"replay={calls}" if calls.exists() else "deny",
            )
        finally:
            project.close()


def _check_same(execution: Execution, samples: list[Execution], inputs: RunInputs, *, stores: bool) -> None:
    for sample in samples:
        for was, now in zip(execution.steps, sample.steps, strict=True):
            if was.status != now.status and "pinned" not in (was.status, now.status):
                raise _status_mismatch_error(was, now, inputs, stores=stores)
        if sample.status != execution.status:
            message = sample.error.message if sample.error else ""
            raise RequestError(f"The run was not saved. Repeated offline, the run ends with {sample.status}: {message}")


def _status_mismatch_error(was: StepResult, now: StepResult, inputs: RunInputs, *, stores: bool) -> RequestError:
    why = f": {now.error.name}: {now.error.message}" if now.error else "."
    hints = ["Data stores are empty in a saved test."] if stores else []
    hints += ["If the step reads a masked header of the event (***), write a fake value into the event."]
    if inputs.replaced_names:
        hints.append(
            f"A test has fake values for: {', '.join(inputs.replaced_names)}. If the step needs a real value that is "
            "not a secret, pass its name with --plain."
        )
    return RequestError(
        f"The run was not saved. Repeated offline, step {was.name} ends with {now.status} instead of {was.status}{why}",
        fix="\n".join(hints),
    )


def _plan_event_file(
    folder: Path, name: str, request: RunRequest, execution: Execution
) -> tuple[Path, dict[Path, bytes]]:
    """Return the file of the run's event, and its content if the file has to be written."""
    saved = _find_saved_event(folder, request, execution)
    if saved is not None:
        return saved, {}
    file = folder / f"{name}.json"
    return file, {file: (json.dumps(dict(execution.event), indent=2, ensure_ascii=False) + "\n").encode()}


def _find_saved_event(folder: Path, request: RunRequest, execution: Execution) -> Path | None:
    """Return the file of a saved event equal to the run's event, or None."""
    if dict(request.event.with_masked_headers().data) != dict(execution.event):
        return None  # the event contains a redacted value
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            saved = Event.parse(read_file(path), label=path.name)
        except (RequestError, OSError):
            continue
        if saved.with_identity(request.external_user_id, request.environment).data == execution.event:
            return path
    return None


def _expected(
    execution: Execution,
    samples: list[Execution],
    request: RunRequest,
    attachments: Mapping[Path, bytes],
    *,
    now: datetime,
) -> RunExpectation:
    first = samples[0]
    # a step that did not run is pinned in the test
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
    known += [content.decode("utf-8", "replace").replace('\\"', '"') for content in attachments.values()]
    return build_expectation([*samples, shaped], now=now, known_text="\n".join(known))


def _check_secrets(path: Path, content: bytes, inputs: RunInputs) -> None:
    found = inputs.redactor.find_secrets(content.decode("utf-8", "replace"))
    if found:
        raise RequestError(
            f"The run was not saved: {path.name} would contain the value of {', '.join(found)}.",
            fix="Remove the value from the event, the pins or the code.",
        )


def write_test_files(test: Path, text: str, attachments: Mapping[Path, bytes]) -> tuple[Path, ...]:
    """
    Write a saved test and its attachments.

    Args:
        test: Path of the test.
        text: Text of the test, without checksums.
        attachments: Content of further files by path.

    Returns:
        The written files, the test first.

    Raises:
        RequestError: A file was changed or not written by pdkernel (no file is written), or a file cannot be written.
    """
    earlier = _read_existing(test)
    before = _read_checksums(earlier)
    names = {path: _relative(path, test.parent) for path in attachments}
    for path, content in attachments.items():
        existing = _read_existing(path)
        if existing not in (None, content) and before.get(names[path]) != _hash(existing or b""):
            raise _file_exists_error(path)
    checksums = [f"#   {_hash(content)} {names[path]}" for path, content in attachments.items()]
    body = "\n".join([text, _CHECKSUM_HEADER, *checksums, ""])
    content_with_checksums = body + f"#   {_hash(body.encode())} this file\n"
    if earlier is not None and not _is_unchanged(earlier):
        raise _file_exists_error(test)
    try:
        for path, content in {**attachments, test: content_with_checksums.encode()}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as fault:
        raise RequestError(
            f"Cannot write the test: {fault.strerror} ({fault.filename}).",
            fix="Make the folder of the notebook writable.",
        ) from None
    return (test, *attachments)


def _read_existing(path: Path) -> bytes | None:
    """Return the bytes of the file at *path*, or None if nothing is there. Raises `RequestError` if it is not a file."""
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
    except OSError:
        raise _file_exists_error(path) from None


def _file_exists_error(path: Path) -> RequestError:
    return RequestError(
        f"{path} already exists and was not written by pdkernel, or was changed since; no file was written.",
        fix="Choose another name, or move the file.",
    )


def _is_unchanged(test: bytes) -> bool:
    """Return whether the test is unchanged since it was saved."""
    text = test.decode("utf-8", "replace")
    body, newline, last = text.removesuffix("\n").rpartition("\n")
    found = _LINE.fullmatch(last)
    return found is not None and found["path"] == "this file" and found["hash"] == _hash((body + newline).encode())


def _read_checksums(test: bytes | None) -> dict[str, str]:
    """Return the checksums of files in an earlier version of the test, by path."""
    _, *rest = _ANY_CHECKSUM_HEADER.split((test or b"").decode("utf-8", "replace"), maxsplit=1)
    return {found["path"]: found["hash"] for found in map(_LINE.fullmatch, "".join(rest).splitlines()) if found}


def _relative(path: Path, start: Path) -> str:
    return (
        path.relative_to(start).as_posix()
        if path.is_relative_to(start)
        else f"../{path.relative_to(start.parent).as_posix()}"
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
