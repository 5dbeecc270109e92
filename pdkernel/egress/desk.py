"""
Where each outside call is decided: refused, sent, answered from a recording, from an earlier run or by a stand-in.

Knows modes and sending once. Knows nothing of client connections; those hand it requests and get answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pdkernel.clock import Clock
from pdkernel.egress import connect_proxy, refusals
from pdkernel.egress.call import Call, Result
from pdkernel.egress.cassette import Cassette, given_back
from pdkernel.egress.kinds import HTTP_PORTS
from pdkernel.egress.message import Answer, Headers, Request, end_to_end, origin
from pdkernel.egress.passing import Keep, Reached, has_no_body, outgoing, watch, whole
from pdkernel.egress.policy import Policy, is_loopback
from pdkernel.egress.public import NotPublicError, is_inside
from pdkernel.egress.sent import (
    NOT_AGAIN,
    UNKNOWN,
    Recorded,
    SentRequests,
    doubt,
    host_key,
    is_safe,
    no_answer,
    request_identity,
    sent_key,
    took_effect,
)
from pdkernel.egress.standins import ReceivedRequest, StandIn, named
from pdkernel.egress.tape import MOST, Tape
from pdkernel.egress.telling import hide_in_url
from pdkernel.egress.tickets import Binding, Bound, Ticket
from pdkernel.egress.upstream import Destination, Upstream, UpstreamError
from pdkernel.errors import PdkernelError
from pdkernel.identity import ProxyAccess

if TYPE_CHECKING:
    from pdkernel.egress.dialling import Opened

_PORTS = {"http": 80, "https": 443}


class Desk:
    """
    Decides calls. One for a gateway.

    Attributes:
        upstream: The way out.
    """

    def __init__(self, *, upstream: Upstream, stand_ins: Mapping[str, StandIn], clock: Clock) -> None:
        self.upstream = upstream
        self._stand_ins = stand_ins
        self._clock = clock
        self._cassettes: dict[Path, Cassette] = {}
        self._going: set[asyncio.Task[Answer]] = set()

    async def answer(self, ticket: Ticket | None, request: Request) -> Answer:
        """
        The answer to *request*; its row is written before the answer's last byte can be read.

        Raises:
            UpstreamError: The host gave none; the row says why.
        """
        if ticket is not None and not ticket.public_only and is_loopback(request.host):
            return await self._pass_on(request)
        bound = ticket.bound if ticket is not None else None
        if bound is None:
            return refusals.no_step().answer()
        call = Call(bound.binding, request.method, request.url, self._clock, request)
        policy = bound.binding.policy
        inside = self.not_public(bound.binding, request)
        if inside is not None:
            return await self._refuse(call, request, inside)
        if policy.mode == "replay":
            return await self._replay(bound, call, request)
        if policy.mode != "stand-in" and not policy.goes_out(request.host):
            return await self._refuse(call, request, refusals.denied(call.method, call.url, policy.text))
        if policy.goes_out(request.host):
            # The body may name the account, so it is looked at before it goes anywhere.
            if bound.binding.proxied and not request.body.is_kept:
                await request.body.keep()
            refusal = self.not_carried(bound.binding, request)
            if refusal is not None:
                return await self._refuse(call, request, refusal)
        sent = bound.binding.sent
        if sent is not None and not is_safe(request.method):
            # Not given up when the client leaves: what went out must be remembered.
            going = asyncio.ensure_future(self._once(bound, sent, call, request))
            self._going.add(going)
            going.add_done_callback(self._going.discard)
            request.body.hold()
            going.add_done_callback(lambda _: request.body.close())
            going.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # seen, also when the client left
            return await asyncio.shield(going)
        return await self._now(bound, call, request)

    async def refuse(self, ticket: Ticket | None, request: Request, refusal: refusals.Refusal) -> Answer:
        """Refuse *request* for a reason that is not the mode's."""
        if ticket is None or ticket.bound is None:
            return refusals.no_step().answer()
        call = Call(ticket.bound.binding, request.method, request.url, self._clock, request)
        return await self._refuse(call, request, refusal)

    def not_public(self, binding: Binding, request: Request) -> refusals.Refusal | None:
        """The refusal of a call to this machine or a private address that may reach public ones only; None for any other."""
        if not binding.policy.public_only or not is_inside(request.host):
            return None
        return refusals.not_public(request.method, hide_in_url(binding.redactor.text(request.url)))

    def not_carried(self, binding: Binding, request: Request) -> refusals.Refusal | None:
        """The refusal of a call with a withheld credential that Connect's proxy does not carry; None for any other."""
        if connect_proxy.account_of(binding, request) is None:
            return None
        why = connect_proxy.why_not(binding, request)
        url = hide_in_url(binding.redactor.text(request.url))
        return None if why is None else refusals.withheld(request.method, url, why)

    def opening(self, ticket: Ticket | None, what: str, url: str, host: str, method: str = "CONNECT") -> Call | None:
        """
        A call for something that is passed through unread, or None if it may not pass.

        A refusal is in the ledger then: there is no other way to tell of it.
        """
        bound = ticket.bound if ticket is not None else None
        if bound is None:
            return None
        call = Call(bound.binding, method, url, self._clock)
        policy = bound.binding.policy
        if policy.public_only and is_inside(host):
            call.refuse(refusals.not_public(method, call.url))
            return None
        if policy.via is not None and policy.tunnels(host):
            why = f"{what} to {call.url} was not made: it cannot go through the upstream proxy."
            call.refuse(refusals.Refusal("upgrade", "egress_upgrade", why))
            return None
        if not policy.tunnels(host):
            call.refuse(refusals.not_http(what, call.url, policy.text))
            return None
        return call

    async def open_first(self, ticket: Ticket | None, to: Destination) -> Opened | None:
        """
        A connection to *to*, opened before the client's own TLS is: a host that cannot be reached is a failed connection.

        None where the call may be answered without it.

        Raises:
            UpstreamError: The host cannot be reached; the row says why.
        """
        bound = ticket.bound if ticket is not None else None
        if bound is None or to.port not in HTTP_PORTS:
            return None
        binding = bound.binding
        if binding.proxied or binding.policy.via is not None or not binding.policy.goes_out(to.host):
            return None
        try:
            return await self.upstream.open(to, public_only=binding.policy.public_only)
        except NotPublicError:
            return None  # the request itself is refused, with its method and path
        except UpstreamError as error:
            if binding.sent is not None and not binding.send:
                host = _host_key(binding, origin(to.scheme, to.host, to.port))
                if await asyncio.to_thread(binding.sent.find, host) is not None:
                    return None
            self.unreached(bound, to, error)
            raise

    def unreached(self, bound: Bound, to: Destination, error: UpstreamError) -> None:
        """Write the row of a host that cannot be reached, of whose call nothing else is known."""
        Call(bound.binding, "CONNECT", origin(to.scheme, to.host, to.port), self._clock).fail(str(error))

    def rejected(self, ticket: Ticket | None, host: str, port: int) -> None:
        """A client that does not accept the project's certificate: say so, and what can be done."""
        bound = ticket.bound if ticket is not None else None
        if bound is None:
            return
        call = Call(bound.binding, "CONNECT", origin("https", host, port), self._clock)
        message = (
            f"The client that calls {call.url} does not accept the project's certificate, so the call was not made."
        )
        if bound.binding.policy.tunnels(host):
            message += (
                f"\nIf it must see the host's own, let {host} pass unopened: `unopened={host}` after the mode of "
                "`%pdegress` or `--egress`. Then only host and port are known of its calls."
            )
            call.finish(Result("failed", note=message.replace("\n", " ")))
        else:
            call.refuse(refusals.Refusal("denied", "egress_tls", message))

    def check(self, policy: Policy) -> None:
        """Read the recording that *policy* names, from a thread. Raises `RecordingError` if it cannot be used."""
        self._cassette(policy).check(replay=policy.mode == "replay")

    async def close(self) -> None:
        """Give up what is still on its way, and the connections that are kept."""
        for going in self._going:
            going.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)
        await self.upstream.close()

    async def _refuse(self, call: Call, request: Request, refusal: refusals.Refusal) -> Answer:
        # Read to its end: a client that cannot finish its request does not read an answer.
        async for _ in request.body.stream():
            pass
        return call.refuse(refusal)

    async def _now(self, bound: Bound, call: Call, request: Request) -> Answer:
        """Reach for an answer, and pass it on as it comes."""
        keep = None
        if bound.binding.is_recorded:
            await request.body.keep()
            keep = await self._recorder(bound, call, request)
        try:
            reached = await self._reach(bound.binding, request)
        except UpstreamError as error:
            unknown = error.sent and not is_safe(request.method)
            call.fail(f"{error} {UNKNOWN}" if unknown else str(error))
            raise
        except NotPublicError:
            return await self._refuse(call, request, refusals.not_public(call.method, call.url))
        body = reached.answer.body
        if isinstance(body, bytes):
            call.finish(replace(reached.result, size=len(body)))
            if keep is not None:
                keep(reached.answer, body)
            return reached.answer
        watched = watch(
            call,
            reached,
            body,
            keep,
            bodyless=has_no_body(request.method, reached.answer.status),
            most=None if bound.binding.policy.mode == "record" else MOST,
        )
        return replace(reached.answer, body=watched)

    async def _once(self, bound: Bound, sent: SentRequests, call: Call, request: Request) -> Answer:
        """Give the answer that was recorded when this was sent, or send it and record the answer."""
        binding = bound.binding
        digest = await request.body.keep()
        # a withheld credential has another word in each run
        url = binding.redactor.text(request.url) if binding.proxied else request.url
        identity = request_identity(method=request.method, url=url, body_sha256=digest)
        key = sent_key(
            scope=binding.scope,
            step=binding.step,
            target=binding.policy.target,
            identity=identity,
            ordinal=bound.ordinal(identity),
        )
        recorded = None if binding.send else await asyncio.to_thread(sent.find, key)
        keep = await self._recorder(bound, call, request)
        if recorded is not None:
            return _given_again(call, recorded, keep)
        try:
            reached = await self._reach(binding, request)
            body = reached.answer.body
            content = body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])
        except UpstreamError as error:
            call.fail(f"{error} {UNKNOWN} {NOT_AGAIN}" if error.sent else str(error))
            if error.sent:
                await self._remember(
                    bound, sent, key, request, no_answer(call.binding.redactor.text(str(error)), call.at)
                )
            raise
        except NotPublicError:
            return await self._refuse(call, request, refusals.not_public(call.method, call.url))
        given = reached.answer
        kept = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in given.headers
            if name.lower() != b"content-length"
        )
        record = Recorded(given.status, given.reason.decode("latin-1"), kept, content, call.at)
        # The row first: what went out is told, even where it cannot be remembered.
        notes = [note for note in (reached.result.note, doubt(record)) if note]
        call.finish(replace(reached.result, size=len(content), note=" ".join(notes) or None))
        if took_effect(given.status):
            await self._remember(bound, sent, key, request, record)
        if keep is not None:
            keep(given, content)
        bodyless = has_no_body(request.method, given.status)
        return whole(given.status, given.reason, given.headers, content, bodyless=bodyless)

    async def _remember(self, bound: Bound, sent: SentRequests, key: str, request: Request, record: Recorded) -> None:
        """Keep *record*, and that the host has a remembered answer."""
        await asyncio.to_thread(sent.add, key, record)
        host = _host_key(bound.binding, origin(request.scheme, request.host, request.port))
        await asyncio.to_thread(sent.add, host, no_answer("", record.at))

    async def _reach(self, binding: Binding, request: Request) -> Reached:
        """Send to whoever answers in this mode. Raises `UpstreamError` if nobody does."""
        policy = binding.policy
        if policy.stand_in is not None:
            return await _ask(named(self._stand_ins, policy.stand_in), request)
        if policy.base is not None:
            return await self._stand_in_at(policy.base, request, readable=binding.is_recorded)
        access = connect_proxy.account_of(binding, request)
        if access is not None:
            return await self._by_proxy(binding, access, request)
        headers = _readable(outgoing(request)) if binding.is_recorded else outgoing(request)
        to = Destination(request.scheme, request.host, request.port, request.server_name)
        got = await self.upstream.send(
            to,
            request.method,
            request.target,
            headers,
            request.body,
            via=policy.via,
            public_only=policy.public_only,
        )
        answer = Answer(got.status, got.reason, end_to_end(got.headers), got.body)
        return Reached(answer, Result("sent", got.status))

    async def _by_proxy(self, binding: Binding, access: ProxyAccess, request: Request) -> Reached:
        """Send with a credential that Connect keeps to itself. Raises `UpstreamError`."""
        try:
            async with asyncio.timeout(connect_proxy.WAIT_S):
                token = await asyncio.to_thread(access.token)
                sent = connect_proxy.compose(binding, access, token, request)
                got = await self.upstream.send(
                    sent.to, request.method, sent.target, sent.headers, request.body, via=binding.policy.via
                )
        except PdkernelError as fault:
            raise UpstreamError(fault.message) from fault
        except TimeoutError:
            why = f"Connect's proxy gave no answer within {connect_proxy.WAIT_S:g} s (ETIMEDOUT)."
            raise UpstreamError(why, code="ETIMEDOUT", sent=True) from None
        answer = Answer(got.status, got.reason, end_to_end(got.headers), got.body)
        return Reached(answer, Result("sent", got.status, note=connect_proxy.said(access, got.status)))

    async def _stand_in_at(self, base: str, request: Request, *, readable: bool) -> Reached:
        parts = urlsplit(base)
        to = Destination(parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme])
        original = origin(request.scheme, request.host, request.port).partition("://")[2]
        headers = _readable(outgoing(request)) if readable else outgoing(request)
        headers = [(name, value) for name, value in headers if name.lower() != b"host"]
        headers = [(b"host", parts.netloc.rpartition("@")[2].encode("ascii")), *headers]
        headers += [(b"x-forwarded-host", original.encode()), (b"x-forwarded-proto", request.scheme.encode())]
        target = parts.path.encode("ascii") + request.target
        got = await self.upstream.send(to, request.method, target, headers, request.body, via=None)
        answer = Answer(got.status, got.reason, end_to_end(got.headers), got.body)
        return Reached(answer, Result("stand_in", got.status, note=f"answered by the stand-in at {base}"))

    async def _replay(self, bound: Bound, call: Call, request: Request) -> Answer:
        policy = bound.binding.policy
        await request.body.keep()
        cassette = self._cassette(policy)
        wanted = cassette.hiding.request(
            request.method, request.url, request.headers, await request.body.read(), bound.binding.redactor
        )
        safe = is_safe(request.method)
        found = cassette.find(bound.binding.step, bound.ordinal(wanted.key), wanted, safe=safe)
        if isinstance(found, str):
            return call.refuse(refusals.missed(call.method, call.url, policy.text, found))
        if bound.binding.tape is not None:
            nth = bound.ordinal(f"on tape {wanted.key}")
            bound.binding.tape.add(bound.binding.step, nth, wanted, found, call.duration_ms)
        found = given_back(found, bound.binding.redactor)
        call.finish(Result("replayed", found.status, size=len(found.body)))
        headers = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in found.headers]
        bodyless = has_no_body(request.method, found.status)
        return whole(found.status, found.reason.encode("latin-1"), headers, found.body, bodyless=bodyless)

    async def _recorder(self, bound: Bound, call: Call, request: Request) -> Keep | None:
        """Something that writes the call down once its answer is whole, or None; the body must be kept."""
        binding = bound.binding
        recordings: list[Cassette | Tape] = []
        if binding.policy.mode == "record":
            recordings.append(self._cassette(binding.policy))
        if binding.tape is not None and binding.tape.has_room_for(request.body.size):
            recordings.append(binding.tape)
        elif binding.tape is not None:
            binding.tape.leave_out(call.method, call.url)
        if not recordings:
            return None
        body = await request.body.read()
        prepared = []
        for number, recording in enumerate(recordings):
            asked = recording.hiding.request(request.method, request.url, request.headers, body, binding.redactor)
            prepared.append((recording, asked, bound.ordinal(f"recorded {number} {asked.key}")))

        def keep(answer: Answer, body: bytes | None) -> None:
            length_only = request.method == "HEAD"
            for recording, asked, nth in prepared:
                if body is None or (isinstance(recording, Tape) and not recording.has_room_for(len(body))):
                    if isinstance(recording, Tape):
                        recording.leave_out(call.method, call.url)
                    continue
                given = recording.hiding.answer(
                    answer.status, answer.reason, answer.headers, body, binding.redactor, length_only=length_only
                )
                try:
                    recording.add(binding.step, nth, asked, given, call.duration_ms)
                except OSError as fault:
                    binding.on_refused(
                        f"{call.method} {call.url} was made, and its answer cannot be recorded "
                        f"({binding.policy.text}): {fault.strerror}."
                    )

        return keep

    def _cassette(self, policy: Policy) -> Cassette:
        assert policy.file is not None, "record and replay have a file"
        return self._cassettes.setdefault(policy.file, Cassette(policy.file))

    async def _pass_on(self, request: Request) -> Answer:
        """This machine is never outside: no mode, no row."""
        to = Destination(request.scheme, request.host, request.port, request.server_name)
        got = await self.upstream.send(to, request.method, request.target, outgoing(request), request.body, via=None)
        return Answer(got.status, got.reason, end_to_end(got.headers), got.body)


def _readable(headers: Headers) -> Headers:
    """*headers* asking for an answer as it is: recordings that can be read, and the same bytes when they are played."""
    kept = [(name, value) for name, value in headers if name.lower() != b"accept-encoding"]
    return [*kept, (b"accept-encoding", b"identity")]


async def _ask(stand_in: StandIn, request: Request) -> Reached:
    """Have a built-in stand-in answer."""
    path, _, query = request.target.decode("latin-1").partition("?")
    received = ReceivedRequest(
        method=request.method,
        host=request.host,
        path=path,
        query=query,
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers},
        body=await request.body.read(),
    )
    given = stand_in.answer(received)
    body = json.dumps(given.body, ensure_ascii=False).encode()
    headers: Headers = [(b"content-type", b"application/json; charset=utf-8")]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.headers.items()]
    return Reached(whole(given.status, b"", headers, body), Result("stand_in", given.status, note=given.note))


def _host_key(binding: Binding, url: str) -> str:
    return host_key(scope=binding.scope, step=binding.step, target=binding.policy.target, origin=url)


def _given_again(call: Call, recorded: Recorded, keep: Keep | None) -> Answer:
    """The answer that was once given, its row written. Raises `UpstreamError` where there was none."""
    note = doubt(recorded)
    if recorded.status == 0:
        assert note is not None, "the outcome is unknown"
        call.finish(Result("not_sent", same_as=recorded.at, note=f"not sent again: {note}"))
        call.binding.on_failed(f"{call.method} {call.url} was not sent again: {note}")
        raise UpstreamError(f"{call.method} {call.url} was not sent again: {note}")
    answer = _again(call.method, recorded)
    if keep is not None:
        keep(answer, recorded.body)
    call.finish(Result("not_sent", recorded.status, same_as=recorded.at, size=len(recorded.body), note=note))
    return answer


def _again(method: str, recorded: Recorded) -> Answer:
    """The answer that was once given."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in recorded.headers]
    reason, bodyless = recorded.reason.encode("latin-1"), has_no_body(method, recorded.status)
    return whole(recorded.status, reason, headers, recorded.body, bodyless=bodyless)
