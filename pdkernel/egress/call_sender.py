"""
Sends a call to the host that answers in the chosen mode: the real host, Connect's proxy or a stand-in.

The decision whether a call is sent is in `router`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import ProxyAccess
from pdkernel.egress import connect_proxy
from pdkernel.egress.caller_tokens import CallContext
from pdkernel.egress.message import DEFAULT_PORTS, Headers, Request, Response, end_to_end_headers, format_origin
from pdkernel.egress.own_server import OwnServer, StepCaller
from pdkernel.egress.pending_call import CallResult
from pdkernel.egress.recorded_call import MAX_RECORDED_BODY_BYTES
from pdkernel.egress.responses import UpstreamResult, build_response, outgoing_headers
from pdkernel.egress.stand_ins import ReceivedRequest, StandIn, select_stand_in
from pdkernel.egress.upstream import Destination, Upstream, UpstreamError
from pdkernel.errors import PdkernelError


class CallSender:
    """Sends calls through *upstream*, or to one of the built-in *stand_ins*; marks calls to *own_server*."""

    def __init__(self, upstream: Upstream, stand_ins: Mapping[str, StandIn], own_server: OwnServer) -> None:
        self._upstream = upstream
        self._own_server = own_server
        self._stand_ins = stand_ins

    async def send(self, context: CallContext, request: Request) -> UpstreamResult:
        """Send *request* to the host or stand-in of the policy. Raises `UpstreamError` if there is no response."""
        policy = context.policy
        if policy.stand_in_names is not None:
            return await _call_built_in_stand_in(select_stand_in(self._stand_ins, policy.stand_in_names), request)
        if policy.stand_in_url is not None:
            return await self._send_to_stand_in(context, policy.stand_in_url, request)
        access = connect_proxy.find_proxy_access(context, request)
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
            async with asyncio.timeout(connect_proxy.CLIENT_TIMEOUT_S):
                token = await run_blocking(access.fetch_token)
                sent = connect_proxy.build_proxy_request(context, access, token, request)
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
            why = f"Connect's proxy did not respond within {connect_proxy.CLIENT_TIMEOUT_S:g} s (ETIMEDOUT)."
            raise UpstreamError(why, code="ETIMEDOUT", sent=True) from None
        answer = Response(got.status, got.reason, end_to_end_headers(got.headers), got.body)
        return UpstreamResult(
            answer, CallResult("sent", got.status, note=connect_proxy.format_call_note(access, got.status))
        )

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
    """*headers* that ask for an uncompressed response: recordings are readable, and a replay has the same bytes."""
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
