"""
Delivers what steps queued with `$.send`, when the run is over.

Knows the platform's rules (five seconds, no retries, results never seen by code) and which destinations can be had
without the platform: HTTP always, e-mail by SMTP when that is set up; the rest is shown. An HTTP request passes through
the same way out as the step's own calls, so that deny, record, replay and stand-ins hold for it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pdkernel.egress import is_loopback
from pdkernel.egress.gateway_client import open_client
from pdkernel.engine.mail import MailSettings, send_mail
from pdkernel.execution import Delivery, OutboundCall
from pdkernel.model import JSON
from pdkernel.workers import Effect, OutboundGateway

if TYPE_CHECKING:
    from pdkernel.egress import CallContext

HTTP_TIMEOUT_S = 5.0
"""Seconds that an HTTP destination has (platform documentation of HTTP destinations)."""


class TextRedactor(Protocol):
    """Hides a run's secrets."""

    def redact_value(self, value: Any) -> Any:
        """*value* with every known secret replaced."""
        ...

    def redact_text(self, text: str) -> str:
        """*text* with every known secret replaced."""
        ...


class SendDelivery:
    """
    Delivers effects.

    Args:
        gateway: The way out of steps' calls, or None to go out directly.
        mail: How e-mail is sent, or None to show it.
    """

    def __init__(self, gateway: OutboundGateway | None, mail: MailSettings | None) -> None:
        self._gateway = gateway
        self._mail = mail

    async def deliver(self, step: str, effect: Effect, *, binding: CallContext, redactor: TextRedactor) -> Delivery:
        """
        Deliver what *step* queued, and say what became of it; never raises for a destination's fault.

        Args:
            step: The step's name.
            effect: What it queued; raw.
            binding: How its outside calls are treated.
            redactor: Of the run's secrets: everything in the result has been through it.
        """
        payload = dict(effect.payload)
        shown = Delivery(step, effect.kind, "shown", payload=redactor.redact_value(payload))
        if effect.kind == "http":
            return await self._http(shown, payload, binding, redactor)
        if effect.kind == "email":
            return await self._email(shown, payload, binding, redactor)
        # parity[send-emit]: the platform's listeners, buckets and event streams are not here; what would go to them is shown
        note = {
            "emit": "Not emitted: nobody listens to a workflow that is not served.",
            "s3": "Not written: the platform writes to S3 with its own credentials. Use the AWS SDK with an account.",
            "sse": "Shown: there is no event stream without the platform.",
        }[effect.kind]
        return replace(shown, note=note)

    async def _http(
        self, shown: Delivery, payload: Mapping[str, JSON], binding: CallContext, redactor: TextRedactor
    ) -> Delivery:
        import httpx

        url, method = str(payload.get("url") or ""), str(payload.get("method") or "GET").upper()
        to = redactor.redact_text(f"{method} {url}")
        calls: list[OutboundCall] = []
        refusals: list[str] = []
        failures: list[str] = []
        bound = replace(
            binding, on_call_finished=calls.append, on_call_refused=refusals.append, on_failed=failures.append
        )
        auth = payload.get("auth")
        try:
            async with open_client(url, self._gateway, bound, timeout_s=HTTP_TIMEOUT_S) as client:
                response = await client.request(
                    method,
                    _with_params(url, payload.get("params")),
                    headers={str(k): str(v) for k, v in _as_mapping(payload.get("headers")).items()},
                    auth=(str(auth.get("username")), str(auth.get("password"))) if isinstance(auth, dict) else None,
                    **_body(payload.get("data")),
                )
                status: int | None = response.status_code
                note = None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError) as error:
            status, note = None, f"It could not be sent: {redactor.redact_text(str(error) or type(error).__name__)}"
        if refusals or failures:
            note = (refusals or failures)[0]
        request = calls[0] if calls else None
        return replace(
            shown,
            outcome="sent" if status is not None and not refusals else "failed",
            to=to,
            note=note,
            request=request,
            status=status,
        )

    async def _email(
        self, shown: Delivery, payload: Mapping[str, JSON], binding: CallContext, redactor: TextRedactor
    ) -> Delivery:
        mail = self._mail
        if mail is None:
            return replace(
                shown, note="Not sent: there is no mail server. See: pdkernel project set mail_server HOST:PORT"
            )
        shown = replace(shown, to=mail.to)
        if not is_loopback(mail.host) and not binding.policy.allows_tunnel(mail.host):
            return replace(shown, note=f"Not sent: outside calls are {binding.policy.mode}.")
        try:
            await asyncio.to_thread(send_mail, mail, payload)
        except (OSError, ValueError) as error:  # smtplib's errors are OSErrors
            return replace(
                shown, outcome="failed", note=f"{mail.host} did not take it: {redactor.redact_text(str(error))}"
            )
        return replace(shown, outcome="sent")


def find_send_problem(effect: Effect, *, dollar_name: str) -> str | None:
    """
    A sentence on what cannot be delivered as it was queued, or None.

    Args:
        effect: What a step queued.
        dollar_name: What the step's language calls `$`.
    """
    # parity[send-checked]: the platform takes anything and never says what became of it; a step is not failed for it here either
    call = f"{dollar_name}.send.{effect.kind}" + (f" (line {effect.line})" if effect.line is not None else "")
    if effect.kind == "email" and not any(effect.payload.get(part) for part in ("subject", "text", "html")):
        return f"{call}: neither subject nor text nor html is given, so the e-mail has nothing in it."
    if effect.kind == "http" and not _is_http(effect.payload.get("url")):
        url = effect.payload.get("url")
        given = f"{url[:100]!r} is not a URL" if isinstance(url, str) and url else "no URL is given"
        return f"{call}: {given}, so nothing can be sent. Write url: https://HOST/PATH."
    return None


def _is_http(url: JSON) -> bool:
    import httpx

    try:
        parsed = httpx.URL(url) if isinstance(url, str) else httpx.URL("")
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def _as_mapping(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, dict) else {}


def _with_params(url: str, params: JSON) -> str:
    """*url* with *params* added to the query that it has, as axios adds them."""
    import httpx

    if not isinstance(params, dict | str | None):
        raise TypeError("params is not an object")
    return str(httpx.URL(url).copy_merge_params(params)) if params else url


def _body(data: JSON) -> dict[str, Any]:
    if data is None:
        return {}
    return {"content": data} if isinstance(data, str) else {"json": data}
