"""
Runs the Bash and Go steps of one run, each in its own process, with its data in files.

A step is compiled (Go), its files are written, the process runs, all processes that it started end, and its exports are read from the
files. `$PIPEDREAM_STEPS` and `$PIPEDREAM_EXPORTS` follow the platform; `$PIPEDREAM_RESPONSE` and `$PIPEDREAM_ACCOUNTS` are additions.
A step may write anything into the files of its results: they are read up to a limit, in a time that grows as their size.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from pdkernel.errors import ExportNotJSONError, StepError, StepProcessExitedError
from pdkernel.execution import Stream
from pdkernel.model import JSON, Step
from pdkernel.workers.calls import RunSetup, StepCall
from pdkernel.workers.child_process import ChildProcess, OutputPipes, ProcessRequest, open_pipes, step_environment
from pdkernel.workers.go_build import GoBuildCache, parse_panic
from pdkernel.workers.interpreters import find_bash
from pdkernel.workers.process_memory import BYTES_PER_MB, MemoryWatch
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import StepResponse, check_containers, describe_mismatch, parse_finite, refuse_constant
from pdkernel.workers.slot_folder import SlotFolder, StepFileError, StepFiles
from pdkernel.workers.step_errors import (
    MAX_EXPORT_LINE_BYTES,
    STARTED_AGAIN_NOTE,
    ProcessLostError,
    build_payload_error,
    build_process_died_error,
    build_process_not_started_error,
    build_still_running_error,
    build_timeout_error,
)
from pdkernel.workers.step_exchange import StepTimer
from pdkernel.workers.zygote import Zygote, Zygotes, start_process

MAX_EXPORT_LINES = 20_000
"""The most lines of a file of exports."""

_MAX_FILE_BYTES = MAX_EXPORT_LINE_BYTES + (1 << 20)
"""The largest file that is read, in bytes: the longest line, and room for others."""
_MAX_LISTED_LINES = 3
_EXPORTS, _RESPONSE = "exports", "response"
_VARIABLES = {_EXPORTS: "$PIPEDREAM_EXPORTS", _RESPONSE: "$PIPEDREAM_RESPONSE"}


class SubprocessIO:
    """
    The results of one step in its files.

    Attributes:
        environment: The environment variables with the paths of the files.
    """

    def __init__(self, files: StepFiles, steps: bytes, credentials: Mapping[str, Mapping[str, str]]) -> None:
        """
        Write the input of the step.

        Args:
            files: The files of the step.
            steps: The JSON text of `steps`.
            credentials: App prop to the fields of its account.
        """
        self._files = files
        # parity[response-file]: on the platform Bash and Go steps cannot respond; in pdkernel they may write to this file
        self.environment = {
            "PIPEDREAM_STEPS": files.write("steps.json", steps),
            "PIPEDREAM_EXPORTS": files.write(_EXPORTS),
            "PIPEDREAM_RESPONSE": files.write(_RESPONSE),
        }
        if credentials:
            # parity[accounts-file]: on the platform Bash and Go steps have no accounts; in pdkernel `--app` creates this file
            text = json.dumps({prop: dict(fields) for prop, fields in credentials.items()})
            self.environment["PIPEDREAM_ACCOUNTS"] = files.write("accounts.json", text.encode())

    def collect(self, recorder: StepRecorder) -> StepError | None:
        """
        Pass the exports and the response to *recorder*; return an error if a file is invalid, else None.

        Call it when no process of the step is left.
        """
        return self._collect_exports(recorder) or self._collect_response(recorder)

    def _collect_exports(self, recorder: StepRecorder) -> StepError | None:
        try:
            text, failed = self._read(_EXPORTS)
            lines = text.split("\n", MAX_EXPORT_LINES + 1)
            check_containers("\n".join(line for line in lines if ":json=" in line).encode())
        except StepError as error:
            return error
        if len(lines) > MAX_EXPORT_LINES + 1:
            return StepError(
                f"$PIPEDREAM_EXPORTS has more than {MAX_EXPORT_LINES:,} lines, so none of them was exported.",
                name="TooManyExports",
                fix='Export a list as one line: echo "NAME:json=$(jq -cs . file)" >> $PIPEDREAM_EXPORTS',
            )
        if failed is not None:
            lines.pop()  # it is cut off
        exports: dict[str, JSON] = {}
        ignored = []
        for number, line in enumerate(lines, 1):
            if not line or line.isspace():
                continue
            name, equals, value = line.removesuffix("\r").partition("=")
            if not equals or not name:
                ignored.append(number)
            elif not name.endswith(":json"):
                exports[name] = value
            else:
                name = name.removesuffix(":json")
                try:
                    exports[name] = _parse_export(name, value, number)
                except StepError as error:
                    failed = failed or error
        if exports:
            recorder.export(exports)
        for number in ignored[:_MAX_LISTED_LINES]:
            recorder.warn(f"Line {number} of $PIPEDREAM_EXPORTS is not NAME=VALUE and was ignored.")
        if (more := len(ignored) - _MAX_LISTED_LINES) > 0:
            recorder.warn(f"{more:,} more lines of $PIPEDREAM_EXPORTS are not NAME=VALUE and were ignored.")
        return failed

    def _collect_response(self, recorder: StepRecorder) -> StepError | None:
        try:
            text, failed = self._read(_RESPONSE)
            if failed is not None:
                return failed
            check_containers(text.encode())
            end = 0
            for _ in range(2):  # the first response is sent; of the others, the second is checked
                blanks = _BLANKS.match(text, end)
                start = blanks.end() if blanks else end
                if start == len(text):
                    break
                response, end = _choose_decoder(text).raw_decode(text, start)
                recorder.respond(_check_response(response))
        except StepError as error:
            return error
        except (ValueError, RecursionError) as wrong:
            return _bad_response(f"is not JSON ({_reason(wrong)})")
        return None

    def _read(self, name: str) -> tuple[str, StepError | None]:
        """
        Return the text of a file of results, empty if the step has removed it, and the error if the text is cut off.

        Raises:
            StepError: The file is not the step's own.
        """
        variable = _VARIABLES[name]
        try:
            file = self._files.read(name, _MAX_FILE_BYTES)
        except StepFileError as wrong:
            raise StepError(
                f"The file {variable} {wrong}, so it was not read.",
                name="StepFileError",
                fix=f"Append to the file, or replace it by a file of your own: mv FILE {variable}",
            ) from None
        if file is None:
            return "", None
        is_cut = file.size > _MAX_FILE_BYTES
        failed = build_payload_error(f"{variable} has {file.size / (1 << 20):.1f} MB") if is_cut else None
        return file.data.decode("utf-8", "replace"), failed


def _parse_export(name: str, value: str, number: int) -> JSON:
    """Return the value of an export in line *number*. Raises `StepError`."""
    if len(value) > MAX_EXPORT_LINE_BYTES:
        raise build_payload_error(f"the export {name} has {len(value) / (1 << 20):.1f} MB")
    try:
        return cast("JSON", _choose_decoder(value).decode(value))
    except (ValueError, RecursionError) as wrong:
        reason = f" ({_reason(wrong)})" if isinstance(wrong, json.JSONDecodeError) else ""
        raise ExportNotJSONError(
            f"{name} is not JSON{reason}: line {number} of $PIPEDREAM_EXPORTS.",
            name="ExportNotJSONError",
            fix=f"Write {name}=TEXT for plain text, or make the JSON with jq: "
            f'echo "{name}:json=$(jq -c . file)" >> $PIPEDREAM_EXPORTS',
        ) from None


def _check_response(response: JSON) -> StepResponse:
    """Validate *response*: `{"status": NUMBER, "headers": OBJECT, "body": ANYTHING}`, each part optional."""
    if not isinstance(response, dict):
        raise _bad_response("is not a JSON object")
    headers = response.get("headers") or {}
    if isinstance(headers, dict):
        headers = {name: _header(value) for name, value in headers.items()}
    parts = {"status": response.get("status", 200), "headers": headers, "body": response.get("body")}
    try:
        return msgspec.convert(parts, StepResponse)
    except msgspec.ValidationError as wrong:
        raise _bad_response(f"is wrong: {describe_mismatch(wrong)}") from None


def _header(value: JSON) -> JSON:
    if isinstance(value, list):
        return [_header(each) for each in value]
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _bad_response(what: str) -> StepError:
    return StepError(
        f"The response in $PIPEDREAM_RESPONSE {what}.",
        name="ResponseError",
        fix='Write one JSON object: {"status": 200, "headers": {}, "body": ...}',
    )


def _reason(wrong: Exception) -> str:
    return f"{wrong.msg} at column {wrong.colno}" if isinstance(wrong, json.JSONDecodeError) else str(wrong)


def _parse_integer(text: str) -> int | float:
    # no double is as large, and the time of a conversion grows as the square
    if len(text) > _MAX_DIGITS or math.isinf(float(text)):
        raise ValueError(f"a number of {len(text):,} digits")
    return -0.0 if text == "-0" else int(text)  # Python's integer zero has no sign


def _choose_decoder(text: str) -> json.JSONDecoder:
    """Return the decoder for *text*: the one that calls a function for each number only if a number is special."""
    return _CAREFUL_DECODER if _SPECIAL_NUMBER.search(text) else _FAST_DECODER


_MAX_DIGITS = 310  # with a sign; the largest double has 309
_SPECIAL_NUMBER = re.compile(r"-0(?![.\d])|\d[eE]\+?\d|(?<!\d)\d{300}")
_BLANKS = re.compile(r"\s*")
_CAREFUL_DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_int=_parse_integer, parse_float=parse_finite)
_FAST_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


_STDERR_TAIL_BYTES = 1 << 16

ExitJudge = Callable[[int, str], StepError | None]
"""Turns an exit status other than 0 and the last 64 KiB of stderr into an error, or None."""


def ignore_exit_status(_exit_code: int, _stderr_tail: str) -> None:
    """Return no error: on the platform, the exit status of a Bash step is not an error."""


class SubprocessStep:
    """
    A running step.

    Attributes:
        process_tag: Identifies the processes that the step starts.
        child: The process, or None if it was not started.
        finished: Resolves when the step has ended, to its error or None.
    """

    def __init__(
        self, recorder: StepRecorder, judge_exit: ExitJudge = ignore_exit_status, *, script_folder: str = ""
    ) -> None:
        """
        Create the step; `start` starts its process.

        Args:
            recorder: Receives what the step prints.
            judge_exit: Turns an exit status other than 0 into an error or None.
            script_folder: The path of the script's folder, which is removed from messages of the interpreter.
        """
        self.process_tag = secrets.token_hex(16)
        self._loop = asyncio.get_running_loop()
        self._recorder = recorder
        self._judge = judge_exit
        self._stderr_tail = b""
        self._folder = f"{script_folder}/".encode() if script_folder else b""
        self._held_back = b""
        self._pipes: OutputPipes | None = None
        self._is_running = False
        self.child: ChildProcess | None = None
        self.finished: asyncio.Future[StepError | None] = self._loop.create_future()

    def start(self, request: ProcessRequest, zygote: Zygote | None) -> ChildProcess:
        """Start and return the process. Raises `OSError` if the program cannot be started."""
        own_ends, child_ends = open_pipes("from", "from")
        try:
            self.child = start_process(request, child_ends, zygote)
        except BaseException:
            for fd in own_ends:
                os.close(fd)
            raise
        finally:
            for fd in child_ends:
                os.close(fd)
        self._is_running = True
        self._pipes = OutputPipes(own_ends, self._on_output)
        self.child.watch_exit(partial(self._on_exit, self.child))
        return self.child

    def kill(self) -> None:
        """End the whole process tree at once. Blocks for a few milliseconds."""
        if self._is_running and self.child is not None:
            self._is_running = False
            self.child.kill()

    def close(self) -> None:
        """End the process if it still runs, and close its pipes."""
        self.kill()
        if self._pipes is not None:
            self._pipes.close()

    def fail(self, error: StepError) -> None:
        """Finish the step with *error*; later results are ignored."""
        if not self.finished.done():
            self.finished.set_result(error)

    def _on_exit(self, child: ChildProcess) -> None:
        self._is_running = False
        if self._pipes is not None:
            self._pipes.drain()
        if not self.finished.done():
            self.finished.set_result(self._exit_error(child))

    def _exit_error(self, child: ChildProcess) -> StepError | None:
        if (reason := child.start_error) is not None:
            return build_process_not_started_error(reason)
        if child.exit_code is None:
            if child.pid is None:
                return ProcessLostError()
            return build_process_died_error(None, self._recorder.stderr_tail())
        return self._error(child.exit_code)

    def _error(self, code: int) -> StepError | None:
        if code == 0:
            return None
        if code < 0:
            return build_process_died_error(code, self._recorder.stderr_tail())
        if error := self._judge(code, self._stderr_tail.decode("utf-8", "replace")):
            return error
        self._recorder.warn(f"exit status {code}")
        return None

    def _on_output(self, stream: Stream, data: bytes) -> None:
        if stream == "stderr":
            self._stderr_tail = (self._stderr_tail + data)[-_STDERR_TAIL_BYTES:]
            data = self._without_folder(data) if data else self._held_back
        if data:
            self._recorder.output(stream, data)

    def _without_folder(self, data: bytes) -> bytes:
        """Return held-back output and *data* without the script's folder; hold back a partial path at the end."""
        folder = self._folder
        if not folder:
            return data
        data = (self._held_back + data).replace(folder, b"")
        begun = next((n for n in range(min(len(folder) - 1, len(data)), 0, -1) if data.endswith(folder[:n])), 0)
        self._held_back = data[len(data) - begun :]
        return data[: len(data) - begun]


SUBPROCESS_LANGUAGES = frozenset({"bash", "go"})


class SubprocessRunner:
    """Runs the steps of one run, one at a time. No process of a step outlives the step."""

    def __init__(
        self,
        setup: RunSetup,
        gateway: OutboundGateway | None,
        go_cache: GoBuildCache,
        zygotes: Zygotes | None = None,
    ) -> None:
        """
        Create a runner; it starts no process.

        Args:
            setup: The setup of the run.
            gateway: The gateway for outbound calls; with None, steps use the network directly.
            go_cache: Compiled Go steps.
            zygotes: Start the processes; with None, this process starts them.
        """
        self._zygotes = zygotes
        self._setup = setup
        self._gateway = gateway
        self._go = go_cache
        self._running: SubprocessStep | None = None
        self._compiling: asyncio.Task[Path] | None = None

    async def run_step(
        self, call: StepCall, steps: bytes, working_folder: str, recorder: StepRecorder, *, slot_folder: SlotFolder
    ) -> StepError | None:
        """
        Run the step of *call* to its end, and return its error or None.

        Args:
            call: The step with its input.
            steps: The JSON text of `steps`.
            working_folder: The path of the working folder, as the step sees it.
            recorder: Receives what the step does.
            slot_folder: The folder of the slot of the run.

        Raises:
            InterpreterMissingError: The interpreter of the step's language is not installed.
            ProjectError: A Go step could not be compiled in the project's folder.
        """
        program = None
        if call.step.language == "go":
            try:
                program = await self._compiled(call, recorder)
            except StepError as fault:
                return fault
        with contextlib.ExitStack() as opened:
            try:
                files = slot_folder.create_step_files()
                opened.callback(files.remove)
                results = SubprocessIO(files, steps, call.credentials)
                if program is not None:
                    create_step, command = partial(SubprocessStep, recorder, parse_panic), [str(program)]
                else:
                    command = _prepare_bash_command(call.step, files)
                    create_step = partial(SubprocessStep, recorder, ignore_exit_status, script_folder=files.path)
                files.give_to_step()
            except OSError as refusal:  # such as a full disk, or a process of an earlier step that nothing has ended
                return build_process_not_started_error(f"its files could not be created ({refusal.strerror})")
            environment = results.environment
            error = await self._run(create_step(), command, call, files, environment, working_folder, recorder)
            if isinstance(error, ProcessLostError):
                recorder.add_note(f"{error.message} {STARTED_AGAIN_NOTE}")
                error = await self._run(create_step(), command, call, files, environment, working_folder, recorder)
            not_valid = results.collect(recorder)
            return error or not_valid

    def fail_step(self, error: StepError) -> None:
        """Make the active `run_step` return with *error*."""
        if self._running is not None:
            self._running.fail(error)

    def kill(self) -> None:
        """End the processes of the running step at once, including the compiler."""
        if self._compiling is not None:
            self._compiling.cancel()
        if self._running is not None:
            self._running.kill()

    async def _compiled(self, call: StepCall, recorder: StepRecorder) -> Path:
        self._compiling = asyncio.ensure_future(
            self._go.build_program(
                call.step,
                install=self._setup.install,
                report_progress=recorder.report_progress,
                lock=self._setup.go_lock,
            )
        )
        try:
            await asyncio.wait([self._compiling])
            if self._compiling.cancelled():  # by `kill`; if this task were cancelled, `wait` would raise
                raise StepProcessExitedError("The step was stopped.", name="Stopped")
            return self._compiling.result()
        except asyncio.CancelledError:
            self._compiling.cancel()
            await asyncio.wait([self._compiling])
            raise
        finally:
            self._compiling = None

    async def _run(
        self,
        step: SubprocessStep,
        command: list[str],
        call: StepCall,
        files: StepFiles,
        variables: Mapping[str, str],
        working_folder: str,
        recorder: StepRecorder,
    ) -> StepError | None:
        gateway = self._gateway
        token = gateway.issue_token(public_only=self._setup.public_only) if gateway else None
        loop = asyncio.get_running_loop()
        timer = StepTimer(call.timeout_s, lambda: step.fail(build_timeout_error(call.timeout_s)))
        watch, began = None, loop.time()
        self._running = step
        try:
            gateway_variables = {}
            if gateway and token:
                gateway_variables = gateway.build_environment(token, call.step.language)
                if call.call_context is not None:
                    gateway.bind(token, call.call_context)
            environment = step_environment(
                working_folder, step.process_tag, variables=self._setup.variables, gateway_variables=gateway_variables
            )
            request = ProcessRequest(
                command,
                environment | dict(variables),
                step.process_tag,
                folder=working_folder,
                plan=files.plan,
                sandboxed_by=gateway if self._setup.is_sandboxed else None,
                caller_token=token or "",
            )
            try:
                child = step.start(request, self._zygotes.get() if self._zygotes else None)
            except OSError as refusal:
                return build_process_not_started_error(f"{type(refusal).__name__}: {refusal}")
            watch = MemoryWatch(child, call.memory_limit_mb, step.fail)
            error = await step.finished
            if not await child.end_processes():
                error = build_still_running_error()
        finally:
            timer.cancel()
            if watch is not None:
                watch.close()
                recorder.set_usage(seconds=loop.time() - began, memory_mb=watch.peak_bytes / BYTES_PER_MB)
            self._running = None
            step.close()
            if gateway and token:
                gateway.unbind(token)
                gateway.revoke_token(token)
        return error or watch.error


def _prepare_bash_command(step: Step, files: StepFiles) -> list[str]:
    """
    Write the script of *step* into *files*; return the command that runs it.

    Raises:
        InterpreterMissingError: Bash is not installed.
    """
    # blank lines above the source: Bash then reports the line numbers of the cell
    text = "\n" * step.line_offset + step.source
    script = files.write(f"{step.name}.sh", text.encode("utf-8", "replace"))
    return [str(find_bash()), "--noprofile", "--norc", script]
