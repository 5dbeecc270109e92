"""
Decides each outbound call: it is refused, sent, or answered from a recording, an earlier run or a stand-in.

A call that is sent goes to the host that answers in the chosen mode: the real host, Connect's proxy or a stand-in. Each call is written
as one row of the run's list of requests (`OutboundCall`). With the policy `record`, and for a run that may be saved as a test, it is
recorded with its response, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock
from pdkernel.common.identity import ProxyAccess
from pdkernel.common.secret_patterns import redact_url
from pdkernel.egress import refusals
from pdkernel.egress.caller_tokens import CallContext, CallerToken, CallWatch, StepBinding, binding_of
from pdkernel.egress.message import (
    DEFAULT_PORTS,
    Headers,
    Request,
    Response,
    end_to_end_headers,
    format_origin,
    get_header,
    is_bodyless,
)
from pdkernel.egress.outbound_policy import NotPublicError, OutboundPolicy, is_inside, is_loopback
from pdkernel.egress.own_server import NO_STEP, OwnServer, StepCaller
from pdkernel.egress.pending_call import CallResult, PendingCall
from pdkernel.egress.protocol_sniff import CLIENT_FIRST_PORTS
from pdkernel.egress.recording import (
    MAX_MEMORY_RECORDING_BYTES,
    MAX_RECORDED_BODY_BYTES,
    LargeBody,
    MemoryRecording,
    RecordedResponse,
    RecordingFile,
    restore_secrets,
)
from pdkernel.egress.responses import (
    ResponseRecorder,
    UpstreamResult,
    build_response,
    close_unread,
    join_streams,
    outgoing_headers,
    read_up_to,
    repeat_response,
    stream_response,
)
from pdkernel.egress.send_once import (
    MAX_STORED_BODY_BYTES,
    NOT_AGAIN,
    NOT_SEEN,
    UNKNOWN,
    SentRequestStore,
    StoredResponse,
    doubt,
    host_key,
    is_safe_method,
    may_have_effect,
    may_repeat,
    no_answer,
    request_identity,
    sent_key,
)
from pdkernel.egress.stand_ins import ReceivedRequest, StandIn, select_stand_in
from pdkernel.egress.upstream import (
    CLIENT_TIMEOUT_S,
    Destination,
    Upstream,
    UpstreamError,
    build_proxy_request,
    find_proxy_access,
    format_call_note,
    unsupported_reason,
)
from pdkernel.errors import PdkernelError


class CallSender:
    """Sends calls through *upstream*, or to one of the built-in *stand_ins*; marks calls to *own_server*. *watch* sees each."""

    def __init__(
        self, upstream: Upstream, stand_ins: Mapping[str, StandIn], own_server: OwnServer, watch: CallWatch | None
    ) -> None:
        self._upstream = upstream
        self._own_server = own_server
        self._stand_ins = stand_ins
        self._watch = watch

    @contextlib.asynccontextmanager
    async def watched(self, context: CallContext, request: Request) -> AsyncIterator[None]:
        """A block in which *request* leaves, and at whose end its answer is known."""
        if self._watch is not None:
            await self._watch.leaving(context, request)
        yield
        if self._watch is not None:
            await self._watch.answered(context, request)

    async def send(self, context: CallContext, request: Request) -> UpstreamResult:
        """Send *request* to the host or stand-in of the policy. Raises `UpstreamError` if there is no response."""
        async with self.watched(context, request):
            return await self._send(context, request)

    async def _send(self, context: CallContext, request: Request) -> UpstreamResult:
        policy = context.policy
        if policy.stand_in_names is not None:
            return await _call_built_in_stand_in(select_stand_in(self._stand_ins, policy.stand_in_names), request)
        if policy.stand_in_url is not None:
            return await self._send_to_stand_in(context, policy.stand_in_url, request)
        access = find_proxy_access(context, request)
        if access is not None:
            return await self._send_by_connect_proxy(context, access, request)
        headers = _without_compression(outgoing_headers(request)) if context.is_recorded else outgoing_headers(request)
        headers = self._own_server.mark(request, headers, context.caller)
        to = Destination(request.scheme, request.host, request.port, request.server_name)
        got = await self._upstream.send(
            context.owner,
            to,
            request.method,
            request.target,
            headers,
            request.body,
            via=policy.via,
            public_only=policy.public_only,
        )
        answer = Response(got.status, got.reason, end_to_end_headers(got.headers), got.body)
        return UpstreamResult(answer, CallResult("sent", got.status))

    async def _send_by_connect_proxy(
        self, context: CallContext, access: ProxyAccess, request: Request
    ) -> UpstreamResult:
        """Send *request* through Connect's proxy, which adds the credential. Raises `UpstreamError`."""
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                token = await run_blocking(access.fetch_token)
                sent = build_proxy_request(context, access, token, request)
                got = await self._upstream.send(
                    context.owner,
                    sent.destination,
                    request.method,
                    sent.target,
                    sent.headers,
                    request.body,
                    via=context.policy.via,
                )
        except PdkernelError as fault:
            raise UpstreamError(fault.message) from fault
        except TimeoutError:
            why = f"Connect's proxy did not respond within {CLIENT_TIMEOUT_S:g} s (ETIMEDOUT)."
            raise UpstreamError(why, code="ETIMEDOUT", sent=True) from None
        answer = Response(got.status, got.reason, end_to_end_headers(got.headers), got.body)
        return UpstreamResult(answer, CallResult("sent", got.status, note=format_call_note(access, got.status)))

    async def _send_to_stand_in(self, context: CallContext, base: str, request: Request) -> UpstreamResult:
        parts = urlsplit(base)
        to = Destination(parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
        original = format_origin(request.scheme, request.host, request.port).partition("://")[2]
        headers = _without_compression(outgoing_headers(request)) if context.is_recorded else outgoing_headers(request)
        headers = [(name, value) for name, value in headers if name.lower() != b"host"]
        netloc = parts.netloc.rpartition("@")[2]  # without a password
        headers = [(b"host", netloc.encode("ascii")), *headers]
        headers += [(b"x-forwarded-host", original.encode()), (b"x-forwarded-proto", request.scheme.encode())]
        target = parts.path.encode("ascii") + request.target
        got = await self._upstream.send(context.owner, to, request.method, target, headers, request.body, via=None)
        answer = Response(got.status, got.reason, end_to_end_headers(got.headers), got.body)
        where = parts._replace(netloc=netloc).geturl()
        return UpstreamResult(answer, CallResult("stand_in", got.status, note=f"answered by the stand-in at {where}"))

    async def forward_loopback(self, owner: str, caller: StepCaller, request: Request) -> Response:
        """
        Forward a call of *caller*, on connections of *owner*, to this machine.

        It is not outbound, so no policy applies and it is not recorded.
        """
        to = Destination(request.scheme, request.host, request.port, request.server_name)
        headers = self._own_server.mark(request, outgoing_headers(request), caller)
        got = await self._upstream.send(owner, to, request.method, request.target, headers, request.body, via=None)
        return Response(got.status, got.reason, end_to_end_headers(got.headers), got.body)


def _without_compression(headers: Headers) -> Headers:
    """Return *headers* that ask for an uncompressed response: recordings are readable, and a replay has the same bytes."""
    others = [(name, value) for name, value in headers if name.lower() != b"accept-encoding"]
    return [*others, (b"accept-encoding", b"identity")]


async def _call_built_in_stand_in(stand_in: StandIn, request: Request) -> UpstreamResult:
    """Answer *request* with a built-in stand-in, which reads bodies up to `MAX_RECORDED_BODY_BYTES`."""
    await request.body.buffer()
    if request.body.byte_count > MAX_RECORDED_BODY_BYTES:
        note = f"the stand-in reads bodies up to {MAX_RECORDED_BODY_BYTES >> 20} MB"
        return UpstreamResult(build_response(413, b"", [], b""), CallResult("stand_in", 413, note=note))
    path, _, query = request.target.decode("latin-1").partition("?")
    received = ReceivedRequest(
        method=request.method,
        host=request.host,
        path=path,
        query=query,
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers},
        body=await request.body.read(),
    )
    answer = stand_in.answer(received)
    body = json.dumps(answer.body, ensure_ascii=False).encode()
    headers: Headers = [(b"content-type", b"application/json; charset=utf-8")]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    return UpstreamResult(
        build_response(answer.status, b"", headers, body), CallResult("stand_in", answer.status, note=answer.note)
    )


class CallRouter:
    """
    Decides the outbound calls of one gateway.

    Attributes:
        upstream: The connections to hosts.
        own_server: The server whose workflows use the gateway.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        stand_ins: Mapping[str, StandIn],
        clock: Clock,
        own_server: OwnServer,
        watch: CallWatch | None = None,
    ) -> None:
        self.upstream = upstream
        self.own_server = own_server
        self._sender = CallSender(upstream, stand_ins, own_server, watch)
        self._clock = clock
        self._recorder = CallRecorder()
        self._unfinished_sends: set[asyncio.Task[Any]] = set()
        self._sending: dict[str, asyncio.Task[Any]] = {}  # what sends an unsafe request, by the request's key

    async def route(self, caller: CallerToken | None, request: Request) -> Response:
        """
        Return the response to *request*; its row is written before the response's last byte can be read.

        Raises:
            UpstreamError: The host sent no response; the row has the cause.
        """
        binding = binding_of(caller)
        if caller is not None and not caller.public_only and is_loopback(request.host):
            if binding is None:
                return await self._sender.forward_loopback(f"process {caller.value}", NO_STEP, request)
            return await self._sender.forward_loopback(binding.context.owner, binding.context.caller, request)
        if binding is None:
            return refusals.no_step().to_response()
        call = PendingCall(binding.context, request.method, request.url, self._clock, request)
        binding.add_call(call)
        policy = binding.context.policy
        inside = self.not_public(binding.context, request)
        if inside is not None:
            return await self._refuse(call, request, inside)
        if policy.mode == "replay":
            return await self._replay(binding, call, request)
        if policy.mode != "stand-in" and not policy.allows_host(request.host):
            return await self._refuse(call, request, refusals.denied(call.method, call.url, policy.mode_text))
        if policy.allows_host(request.host):
            # the body may contain the credential, so it is searched before it is sent
            if binding.context.proxy_by_secret_ref and not request.body.is_buffered:
                await request.body.buffer()
            refusal = self.find_proxy_refusal(binding.context, request)
            if refusal is not None:
                return await self._refuse(call, request, refusal)
        sent = binding.context.sent_requests
        if sent is not None and not is_safe_method(request.method):
            # Continues when the client leaves: the response to a sent request must be stored.
            sending = asyncio.ensure_future(self._send_once(binding, sent, call, request))
            self._unfinished_sends.add(sending)
            sending.add_done_callback(self._unfinished_sends.discard)
            request.body.retain()
            sending.add_done_callback(lambda _: request.body.release())
            sending.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # retrieved, even if the client left
            try:
                return await asyncio.shield(sending)
            except asyncio.CancelledError:
                sending.add_done_callback(self._close_body)
                raise
        return await self._send_and_stream(binding, call, request)

    async def refuse(self, caller: CallerToken | None, request: Request, refusal: refusals.Refusal) -> Response:
        """Refuse *request* with *refusal*."""
        binding = binding_of(caller)
        if binding is None:
            return refusals.no_step().to_response()
        call = PendingCall(binding.context, request.method, request.url, self._clock, request)
        return await self._refuse(call, request, refusal)

    def not_public(self, context: CallContext, request: Request) -> refusals.Refusal | None:
        """Return the refusal of a call to an address that is not public, where only public addresses are allowed; otherwise None."""
        if not context.policy.public_only or not is_inside(request.host):
            return None
        return refusals.not_public(request.method, redact_url(context.redactor.redact_text(request.url)))

    def find_proxy_refusal(self, context: CallContext, request: Request) -> refusals.Refusal | None:
        """Return the refusal of a call with a withheld credential that Connect's proxy does not support; otherwise None."""
        if find_proxy_access(context, request) is None:
            return None
        why = unsupported_reason(context, request)
        url = redact_url(context.redactor.redact_text(request.url))
        return None if why is None else refusals.withheld(request.method, url, why)

    def open_tunnel_call(
        self, caller: CallerToken | None, what: str, url: str, host: str, method: str = "CONNECT"
    ) -> PendingCall | None:
        """Return a call for a connection that is passed through unread; None if the policy refuses it, which is recorded."""
        binding = binding_of(caller)
        if binding is None:
            return None
        call = PendingCall(binding.context, method, url, self._clock)
        policy = binding.context.policy
        if policy.public_only and is_inside(host):
            call.refuse(refusals.not_public(method, call.url))
            return None
        if policy.via is not None and policy.allows_tunnel(host):
            why = f"{what} to {call.url} was not made: it cannot go through the upstream proxy."
            call.refuse(refusals.Refusal("upgrade", "egress_upgrade", why))
            return None
        if not policy.allows_tunnel(host):
            call.refuse(refusals.opaque_protocol(what, call.url, policy.mode_text))
            return None
        return call

    async def open_first(self, caller: CallerToken | None, to: Destination) -> None:
        """
        Connect to *to* before the client's TLS is established, so that an unreachable host is a failed connection.

        Nothing happens if the call may be answered without a connection.

        Raises:
            UpstreamError: The host is unreachable; the row has the cause.
        """
        binding = binding_of(caller)
        if binding is None or to.port not in CLIENT_FIRST_PORTS:
            return
        context = binding.context
        if context.proxy_by_secret_ref or context.policy.via is not None or not context.policy.allows_host(to.host):
            return
        try:
            await self.upstream.open(context.owner, to, public_only=context.policy.public_only)
        except NotPublicError:
            return  # `route` refuses the request, with its method and path
        except UpstreamError as error:
            if context.sent_requests is not None and not context.send_again:
                host = _host_key(context, format_origin(to.scheme, to.host, to.port))
                if await run_blocking(context.sent_requests.find, host) is not None:
                    return
            self.report_unreachable(binding, to, error)
            raise

    def report_unreachable(self, binding: StepBinding, to: Destination, error: UpstreamError) -> None:
        """Write the row of a call to an unreachable host of which only the destination is known."""
        PendingCall(binding.context, "CONNECT", format_origin(to.scheme, to.host, to.port), self._clock).fail(
            str(error)
        )

    def report_rejected_certificate(self, caller: CallerToken | None, host: str, port: int) -> None:
        """Report a client that does not accept the project's certificate, with a fix."""
        binding = binding_of(caller)
        if binding is None:
            return
        call = PendingCall(binding.context, "CONNECT", format_origin("https", host, port), self._clock)
        message = (
            f"The client that calls {call.url} does not accept the project's certificate, so the call was not made."
        )
        if binding.context.policy.allows_tunnel(host):
            message += (
                f"\nIf the client must see the host's certificate, add `unopened={host}` after the policy of `%pdegress` or "
                "`--egress`. The record of its calls then has only host and port."
            )
            call.finish(CallResult("failed", note=message.replace("\n", " ")))
        else:
            call.refuse(refusals.Refusal("denied", "egress_tls", message))

    def check(self, policy: OutboundPolicy) -> None:
        """Read the recording of *policy*; called in a thread. Raises `RecordingError`."""
        self._recorder.check(policy)

    async def close(self) -> None:
        """Cancel unfinished calls and close all connections."""
        for sending in self._unfinished_sends:
            sending.cancel()
        await asyncio.gather(*self._unfinished_sends, return_exceptions=True)
        await self.upstream.close()

    async def _refuse(self, call: PendingCall, request: Request, refusal: refusals.Refusal) -> Response:
        response = call.refuse(refusal)
        # Read to the end: a client that cannot finish its request does not read the response.
        async for _ in request.body.stream():
            pass
        return response

    async def _send_and_stream(self, binding: StepBinding, call: PendingCall, request: Request) -> Response:
        """Send the request, and stream the response."""
        recorder = None
        if binding.context.is_recorded:
            await request.body.buffer()
            recorder = await self._recorder.open(binding, call, request)
        try:
            await _record_in_flight(call, request)
            call.is_sent = True
            result = await self._sender.send(binding.context, request)
        except asyncio.CancelledError:
            call.abandon()
            raise
        except UpstreamError as error:
            unknown = error.sent and not is_safe_method(request.method)
            call.fail(f"{error} {UNKNOWN}" if unknown else str(error), is_unanswered=unknown)
            raise
        except h11.RemoteProtocolError:  # of the client: the host has received a part of the request
            call.fail("the client did not send its whole request.")
            raise
        except NotPublicError:
            return await self._refuse(call, request, refusals.not_public(call.method, call.url))
        call.head = result.call_result
        body = result.response.body
        if isinstance(body, bytes):
            call.finish(replace(result.call_result, body_bytes=len(body)))
            if recorder is not None:
                recorder(result.response, body)
            return result.response
        watched = stream_response(
            call,
            result,
            body,
            recorder,
            has_no_body=is_bodyless(request.method, result.response.status),
            max_recorded_bytes=max_recorded_bytes(binding.context),
        )
        return replace(result.response, body=watched)

    async def _send_once(
        self, binding: StepBinding, sent: SentRequestStore, call: PendingCall, request: Request
    ) -> Response:
        """Return the stored response to an equal request of an earlier run; without one, send *request* and store its response."""
        context = binding.context
        key = await _sent_key(binding, request)
        own, earlier_sending = asyncio.current_task(), self._sending.get(key)
        if earlier_sending is not None:  # its run has ended, and its answer will be stored
            await asyncio.wait({earlier_sending})
        idempotency_key = get_header(request.headers, b"idempotency-key")
        earlier = await run_blocking(sent.find, key)
        recorder = await self._recorder.open(binding, call, request)
        if earlier is not None and not context.send_again and not may_repeat(earlier, idempotency_key):
            return repeat_response(call, earlier, recorder)
        assert own is not None
        self._sending[key] = own
        try:
            return await self._send_recorded(binding, sent, call, request, key, earlier, recorder)
        except asyncio.CancelledError:  # the gateway closes
            call.abandon()
            raise
        finally:
            if self._sending.get(key) is own:
                del self._sending[key]

    async def _send_recorded(
        self,
        binding: StepBinding,
        sent: SentRequestStore,
        call: PendingCall,
        request: Request,
        key: str,
        earlier: StoredResponse | None,
        recorder: ResponseRecorder | None,
    ) -> Response:
        """Send *request*, with a record under *key* that it is sent; the response, or *earlier* if nothing was sent, replaces it."""
        context = binding.context
        idempotency_key = get_header(request.headers, b"idempotency-key")
        try:
            await run_blocking(sent.add, key, no_answer(NOT_SEEN, call.started_at, idempotency_key))
        except (OSError, PdkernelError) as fault:
            why = _not_recorded(fault)
            call.fail(why)
            raise UpstreamError(why) from fault
        call.is_sent = True
        try:
            result = await self._sender.send(context, request)
            call.head = result.call_result
            content, rest = await read_up_to(result.response.body, MAX_STORED_BODY_BYTES)
        except UpstreamError as error:
            call.fail(f"{error} {UNKNOWN} {NOT_AGAIN}" if error.sent else str(error), is_unanswered=error.sent)
            if error.sent:
                why = context.redactor.redact_text(str(error))
                await self._remember(binding, sent, key, request, no_answer(why, call.started_at, idempotency_key))
            else:
                await _restore(sent, key, earlier)
            raise
        except NotPublicError:
            await _restore(sent, key, earlier)
            return await self._refuse(call, request, refusals.not_public(call.method, call.url))
        response = result.response
        record = _build_record(result, content if rest is None else None, call.started_at)
        if rest is None:
            # Recorded first, so that the call is in the record even if storing the response fails.
            notes = [note for note in (result.call_result.note, doubt(record)) if note]
            call.finish(replace(result.call_result, body_bytes=len(content), note=" ".join(notes) or None))
        if may_have_effect(response.status):
            await self._remember(binding, sent, key, request, record)
        else:
            await _restore(sent, key, earlier)
        has_no_body = is_bodyless(request.method, response.status)
        if rest is None:
            if recorder is not None:
                recorder(response, content)
            return build_response(response.status, response.reason, response.headers, content, has_no_body=has_no_body)
        body = stream_response(
            call,
            result,
            join_streams(content, rest),
            recorder,
            has_no_body=has_no_body,
            max_recorded_bytes=max_recorded_bytes(context),
        )
        return replace(response, body=body)

    def _close_body(self, sending: asyncio.Task[Response]) -> None:
        """Close the connection of a response that no client reads."""
        body = b"" if sending.cancelled() or sending.exception() is not None else sending.result().body
        if isinstance(body, bytes):
            return
        closing = asyncio.ensure_future(close_unread(body))
        self._unfinished_sends.add(closing)
        closing.add_done_callback(self._unfinished_sends.discard)

    async def _remember(
        self, binding: StepBinding, sent: SentRequestStore, key: str, request: Request, record: StoredResponse
    ) -> None:
        """Store *record*, and mark the host as one with a stored response."""
        await run_blocking(sent.add, key, record)
        host = _host_key(binding.context, format_origin(request.scheme, request.host, request.port))
        await run_blocking(sent.add, host, no_answer("", record.at))

    async def _replay(self, binding: StepBinding, call: PendingCall, request: Request) -> Response:
        found = await self._recorder.find(binding, call, request)
        if isinstance(found, str):
            mode = binding.context.policy.mode_text
            return call.refuse(refusals.not_recorded(call.method, call.url, mode, found))
        async with self._sender.watched(binding.context, request):
            found = restore_secrets(found, binding.context.redactor)
        call.finish(CallResult("replayed", found.status, body_bytes=len(found.body)))
        headers = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in found.headers]
        bodyless = is_bodyless(request.method, found.status)
        return build_response(found.status, found.reason.encode("latin-1"), headers, found.body, has_no_body=bodyless)


async def _record_in_flight(call: PendingCall, request: Request) -> None:
    """Record an unsafe call of a run that is recorded, before it is sent. Raises `UpstreamError`: it must not be sent."""
    calls = call.context.calls_in_flight
    leaves = call.context.policy.stand_in_names is None  # a built-in stand-in answers without a connection
    if calls is None or is_safe_method(request.method) or not leaves:
        return
    if get_header(request.headers, b"idempotency-key") is None:
        call.is_repeated = calls.is_repeated(call.method, call.url)
    try:
        await calls.add(call.describe_unanswered())
    except PdkernelError as fault:
        raise UpstreamError(_not_recorded(fault)) from fault


def _not_recorded(fault: Exception) -> str:
    return f"the call was not sent, because it could not be recorded: {fault}"


async def _restore(sent: SentRequestStore, key: str, earlier: StoredResponse | None) -> None:
    """Store what was stored before a request that had no effect."""
    if earlier is None:
        await run_blocking(sent.remove, key)
    else:
        await run_blocking(sent.add, key, earlier)


async def _sent_key(binding: StepBinding, request: Request) -> str:
    """Return the key of the stored response to *request*, which counts as the next request of its kind."""
    context = binding.context
    digest = await request.body.buffer()
    # a withheld credential has a different placeholder in each run
    url = context.redactor.redact_text(request.url) if context.proxy_by_secret_ref else request.url
    identity = request_identity(method=request.method, url=url, body_sha256=digest)
    return sent_key(
        scope=context.send_once_scope,
        step=context.step,
        target=context.policy.send_once_target,
        identity=identity,
        ordinal=binding.next_ordinal(identity),
    )


def _build_record(result: UpstreamResult, content: bytes | None, at: str) -> StoredResponse:
    """Return the record of a response with the body *content*; None for a body that is too large to be stored."""
    response = result.response
    return StoredResponse(
        response.status,
        response.reason.decode("latin-1"),
        tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in response.headers
            if name.lower() != b"content-length"
        ),
        content or b"",
        at,
        has_body=content is not None,
        note=result.call_result.note if result.call_result.outcome == "stand_in" else None,
    )


def _host_key(context: CallContext, url: str) -> str:
    return host_key(
        scope=context.send_once_scope, step=context.step, target=context.policy.send_once_target, origin=url
    )


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
        """Return a function that records the call with its complete response, or None."""
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
    """Return the length up to which the body of a response is recorded in *context*."""
    return MAX_RECORDED_BODY_BYTES if context.policy.mode == "record" else MAX_MEMORY_RECORDING_BYTES


async def _read_recordable(request: Request) -> bytes | LargeBody:
    """Return the body of *request*, or its length and hash if it is too long to be recorded. The body stays buffered."""
    digest = await request.body.buffer()
    size = request.body.byte_count
    return await request.body.read() if size <= MAX_RECORDED_BODY_BYTES else LargeBody(size, digest)
