"""Records outbound calls in files and in memory, and finds the recorded response of a replayed call."""

from __future__ import annotations

from pathlib import Path

from pdkernel.egress.caller_tokens import CallContext, StepBinding
from pdkernel.egress.message import Request, Response
from pdkernel.egress.outbound_policy import OutboundPolicy
from pdkernel.egress.pending_call import PendingCall
from pdkernel.egress.recorded_call import MAX_RECORDED_BODY_BYTES, LargeBody, RecordedResponse
from pdkernel.egress.recording import MAX_MEMORY_RECORDING_BYTES, MemoryRecording, RecordingFile
from pdkernel.egress.responses import ResponseRecorder
from pdkernel.egress.send_once import is_safe_method


class CallRecorder:
    """The recordings of one gateway."""

    def __init__(self) -> None:
        self._recording_files: dict[Path, RecordingFile] = {}

    def check(self, policy: OutboundPolicy) -> None:
        """Read the recording of *policy*; called in a thread. Raises `RecordingError`."""
        self._recording_file(policy).check(replay=policy.mode == "replay")

    async def find(self, binding: StepBinding, call: PendingCall, request: Request) -> RecordedResponse | str:
        """Find the recorded response to *request*; if there is none, return the reason as a sentence."""
        context = binding.context
        recording = self._recording_file(context.policy)
        stored_request = recording.call_redactor.redact_request(
            request.method, request.url, request.headers, await _read_recordable(request), context.redactor
        )
        ordinal = binding.next_ordinal(stored_request.key)
        found = recording.find(context.step, ordinal, stored_request, safe=is_safe_method(request.method))
        if context.memory_recording is not None and not isinstance(found, str):
            nth = binding.next_ordinal(f"in memory {stored_request.key}")
            context.memory_recording.add(context.step, nth, stored_request, found, call.duration_ms)
        return found

    async def open(self, binding: StepBinding, call: PendingCall, request: Request) -> ResponseRecorder | None:
        """A function that records the call with its complete response, or None."""
        context = binding.context
        recordings: list[RecordingFile | MemoryRecording] = []
        if context.policy.mode == "record":
            recordings.append(self._recording_file(context.policy))
        if context.memory_recording is not None and context.memory_recording.has_room_for(request.body.byte_count):
            recordings.append(context.memory_recording)
        elif context.memory_recording is not None:
            context.memory_recording.skip(call.method, call.url)
        if not recordings:
            return None
        body = await _read_recordable(request)
        prepared = []
        for number, recording in enumerate(recordings):
            stored_request = recording.call_redactor.redact_request(
                request.method, request.url, request.headers, body, context.redactor
            )
            prepared.append(
                (recording, stored_request, binding.next_ordinal(f"recorded {number} {stored_request.key}"))
            )

        def recorder(answer: Response, body: bytes | LargeBody) -> None:
            length_only = request.method == "HEAD"
            for recording, stored_request, nth in prepared:
                if isinstance(recording, MemoryRecording) and (
                    isinstance(body, LargeBody) or not recording.has_room_for(len(body))
                ):
                    recording.skip(call.method, call.url)
                    continue
                stored_response = recording.call_redactor.redact_response(
                    answer.status, answer.reason, answer.headers, body, context.redactor, length_only=length_only
                )
                try:
                    recording.add(context.step, nth, stored_request, stored_response, call.duration_ms)
                except OSError as fault:
                    context.on_call_refused(
                        f"{call.method} {call.url} was sent, but its response cannot be recorded "
                        f"({context.policy.mode_text}): {fault.strerror}."
                    )

        return recorder

    def _recording_file(self, policy: OutboundPolicy) -> RecordingFile:
        assert policy.recording_file is not None, "the modes record and replay have a file"
        return self._recording_files.setdefault(policy.recording_file, RecordingFile(policy.recording_file))


def max_recorded_bytes(context: CallContext) -> int:
    """The length up to which the body of a response is recorded in *context*."""
    return MAX_RECORDED_BODY_BYTES if context.policy.mode == "record" else MAX_MEMORY_RECORDING_BYTES


async def _read_recordable(request: Request) -> bytes | LargeBody:
    """The body of *request*, or its length and hash if it is too long to be recorded. The body stays buffered."""
    digest = await request.body.buffer()
    size = request.body.byte_count
    return await request.body.read() if size <= MAX_RECORDED_BODY_BYTES else LargeBody(size, digest)
