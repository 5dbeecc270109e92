"""
Delivers messages that steps queued with `$.send`, after the last step or at a pause.

The platform's rules apply: five seconds, no result for the code. HTTP is always delivered, e-mail goes to the author's
own address if SMTP is configured, and other kinds are only shown. HTTP requests go through the gateway, under the step's outbound policy. A served run tries
again if a destination does not answer; each try has the same `Idempotency-Key`.
"""

from __future__ import annotations

import dataclasses
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from pdkernel.common.blocking import run_blocking
from pdkernel.common.redaction import Redactor
from pdkernel.egress import CallContext, is_loopback
from pdkernel.egress.gateway import GatewayAddress, open_client
from pdkernel.errors import RequestError
from pdkernel.execution import Delivery, Execution, OutboundCall
from pdkernel.model import JSON
from pdkernel.workers import Effect

MAX_TRIES = 6
"""Tries to deliver a message of a served run."""
FIRST_RETRY_S = 10.0
"""Seconds until the second try; each further wait is four times as long, so the last try is an hour after the first."""

HTTP_TIMEOUT_S = 5.0
"""Time limit of an HTTP destination in seconds (platform documentation of HTTP destinations)."""


class SendDelivery:
    """
    Delivers queued messages.

    Args:
        gateway: The gateway for outbound calls, or None to connect directly.
        mail: The mail settings, or None to only show e-mail.
    """

    def __init__(self, gateway: GatewayAddress | None, mail: MailSettings | None) -> None:
        self._gateway = gateway
        self._mail = mail

    async def deliver(
        self, step: str, effect: Effect, *, binding: CallContext, redactor: Redactor, idempotency_key: str | None = None
    ) -> Delivery:
        """
        Deliver a message of *step* and return the result; an error of the destination is part of the result.

        Args:
            step: The step's name.
            effect: The queued message, not redacted.
            binding: The context of the step's outbound calls.
            redactor: Redacts the result.
            idempotency_key: The same for each try, for the header of that name; None sends no such header.
        """
        payload = dict(effect.payload)
        shown = Delivery(step, effect.kind, "shown", payload=redactor.redact_value(payload))
        if effect.kind == "http":
            return await self._http(shown, payload, binding, redactor, idempotency_key)
        if effect.kind == "email":
            return await self._email(shown, payload, binding, redactor)
        # parity[send-emit]: pdkernel has no buckets or event streams; messages to them are only shown
        note = {
            "emit": "Not emitted: only a run of `pdkernel serve` starts workflows that listen.",
            "s3": "Not written: the platform writes to S3 with its own credentials. Use the AWS SDK with an account.",
            "sse": "Not streamed: only the platform has event streams.",
        }[effect.kind]
        return replace(shown, note=note)

    async def _http(
        self,
        shown: Delivery,
        payload: Mapping[str, JSON],
        binding: CallContext,
        redactor: Redactor,
        idempotency_key: str | None,
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
                    headers=_headers(payload, idempotency_key),
                    auth=(str(auth.get("username")), str(auth.get("password"))) if isinstance(auth, dict) else None,
                    **_body(payload.get("data")),
                )
                status: int | None = response.status_code
                note = None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError) as error:
            status, note = None, f"{NOT_SENT}{redactor.redact_text(str(error) or type(error).__name__)}"
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
        self, shown: Delivery, payload: Mapping[str, JSON], binding: CallContext, redactor: Redactor
    ) -> Delivery:
        mail = self._mail
        if mail is None:
            return replace(
                shown, note="Not sent: no mail server is set. Set it: pdkernel project set mail_server HOST:PORT"
            )
        if shown.step == NOTIFICATION_STEP:
            mail = dataclasses.replace(mail, to=str(payload["to"]))
        shown = replace(shown, to=mail.to)
        if not is_loopback(mail.host) and not binding.policy.allows_tunnel(mail.host):
            return replace(shown, note=f"Not sent: the outbound policy is {binding.policy.mode}.")
        try:
            await run_blocking(send_mail, mail, payload)
        except (OSError, ValueError) as error:  # smtplib's errors are OSErrors
            return replace(
                shown, outcome="failed", note=f"{mail.host} rejected the message: {redactor.redact_text(str(error))}"
            )
        return replace(shown, outcome="sent")


NOTIFICATION_STEP = "error_notification"
"""The step's name in the delivery of a notification about a failed run."""


def build_notification(execution: Execution, target: str, base_url: str | None) -> Effect:
    """
    Build the message about a failed run, for an URL (HTTP POST of JSON) or an e-mail address.

    It has the workflow, the external user, the step and the cause, what was sent before, and the next command.
    """
    error = execution.error
    sent = [f"{call.method} {call.url}" for call in execution.requests if not call.safe and call.outcome == "sent"]
    facts: dict[str, JSON] = {
        "workflow": execution.workflow,
        "run": execution.id,
        "external_user": execution.external_user,
        "environment": execution.environment,
        "step": error.step if error else None,
        "error": {"name": error.name, "message": error.message} if error else None,
        "already_sent": sent,
        "command": f"pdkernel runs show {execution.id}",
        "url": None if base_url is None else f"{base_url}/-/runs/{execution.id}",
    }
    where = f" in step {error.step}" if error and error.step else ""
    return _build_notification(target, f"{execution.workflow} failed{where}", facts)


def build_batch_notification(execution: Execution, target: str, facts: Mapping[str, JSON]) -> Effect:
    """Build the one message about a batch with failed runs; *facts* is its summary, and *execution* its first failed run."""
    subject = f"{execution.workflow} failed for {facts['failed']} of {facts['users']} users"
    return _build_notification(target, subject, facts)


def _build_notification(target: str, subject: str, facts: Mapping[str, JSON]) -> Effect:
    if "@" in target and "://" not in target:
        text = "\n".join(f"{name}: {value}" for name, value in facts.items())
        return Effect("email", {"to": target, "subject": subject, "text": text})
    return Effect("http", {"method": "POST", "url": target, "data": dict(facts)})


def find_send_problem(effect: Effect, *, dollar_name: str) -> str | None:
    """
    Return a warning if *effect* cannot be delivered as queued, else None.

    Args:
        effect: A message that a step queued.
        dollar_name: The name of `$` in the step's language.
    """
    # parity[send-checked]: the platform accepts every message and never reports its delivery; pdkernel only warns
    call = f"{dollar_name}.send.{effect.kind}" + (f" (line {effect.line})" if effect.line is not None else "")
    if effect.kind == "email" and not any(effect.payload.get(part) for part in ("subject", "text", "html")):
        return f"{call}: subject, text and html are missing, so the e-mail is empty."
    if effect.kind == "http" and not _is_http(effect.payload.get("url")):
        url = effect.payload.get("url")
        reason = f"{url[:100]!r} is not a URL" if isinstance(url, str) and url else "the URL is missing"
        return f"{call}: {reason}, so the message cannot be sent. Write url: https://HOST/PATH."
    return None


def find_destination(effect: Effect) -> str:
    """Return scheme, host and port of the URL of a message, or its kind: a destination that hangs delays no other one."""
    import httpx

    url = effect.payload.get("url") if effect.kind == "http" else None
    try:
        parsed = httpx.URL(url if isinstance(url, str) else "")
    except httpx.InvalidURL:
        return effect.kind
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return f"{parsed.scheme}://{parsed.host}:{port}" if parsed.host else effect.kind


def _is_http(url: JSON) -> bool:
    import httpx

    try:
        parsed = httpx.URL(url) if isinstance(url, str) else httpx.URL("")
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def retry_delay_s(tries: int) -> float | None:
    """Return the seconds until the next try after *tries* tries, or None if they are enough."""
    return None if tries >= MAX_TRIES else FIRST_RETRY_S * 4 ** (tries - 1)


def may_retry(delivery: Delivery) -> bool:
    """Return whether another try of a message may succeed: its destination did not answer, and no rule refused the call."""
    if delivery.outcome != "failed" or delivery.kind not in ("http", "emit"):
        return False
    if (call := delivery.request) is not None:
        return call.outcome == "failed" and call.status is None
    return (delivery.note or "").startswith(NOT_SENT)


NOT_SENT = "Not sent: "
"""The beginning of the note of a delivery without an outbound call that another try may send."""


def _headers(payload: Mapping[str, JSON], idempotency_key: str | None) -> dict[str, str]:
    headers = {str(k): str(v) for k, v in _as_mapping(payload.get("headers")).items()}
    # parity[send-idempotency]: the platform tries once, so its requests need no key
    if idempotency_key is not None and all(name.lower() != "idempotency-key" for name in headers):
        headers["Idempotency-Key"] = idempotency_key
    return headers


def _as_mapping(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, dict) else {}


def _with_params(url: str, params: JSON) -> str:
    """Return *url* with *params* added to its query, as axios adds them."""
    import httpx

    if not isinstance(params, dict | str | None):
        raise TypeError("params is not an object")
    return str(httpx.URL(url).copy_merge_params(params)) if params else url


def _body(data: JSON) -> dict[str, Any]:
    if data is None:
        return {}
    return {"content": data} if isinstance(data, str) else {"json": data}


PASSWORD_VARIABLE = "PDKERNEL_MAIL_PASSWORD"  # noqa: S105 - its name, not its value
"""The project's variable that holds the mail server's password."""
_TIMEOUT_S = 10.0
_TLS_PORT = 465


@dataclass(frozen=True)
class MailSettings:
    """
    Settings for e-mail.

    Attributes:
        to: The author's address, the recipient of every message.
        host: The SMTP server.
        port: 465 means TLS from the start; on other ports STARTTLS is used if the server offers it.
        user: The user to log in as, or None to send without login.
        password: The user's password; sent over TLS only.
    """

    to: str
    host: str
    port: int = 25
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_mail_server(text: str) -> tuple[str, int]:
    """
    Return the host and the port of HOST or HOST:PORT; the default port is 25. An IPv6 address is in brackets.

    Raises:
        RequestError: *text* has another form.
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if (
        not host
        or port == 0
        or text.endswith(":")
        or parts.netloc != text
        or "@" in text
        or any(map(str.isspace, text))
    ):
        raise RequestError(
            f"{text!r} is not the address of a mail server.",
            fix="Write HOST or HOST:PORT, such as smtp.example.com:587.",
        )
    return host, port or 25


def parse_mail_settings(settings: Mapping[str, JSON], variables: Mapping[str, str]) -> MailSettings | None:
    """Parse the settings `mail_to`, `mail_server` (HOST[:PORT]) and `mail_user`; None if one of the first two is missing."""
    to, server, user = settings.get("mail_to"), settings.get("mail_server"), settings.get("mail_user")
    if not isinstance(to, str) or not isinstance(server, str):
        return None
    host, port = parse_mail_server(server)
    return MailSettings(
        to=to,
        host=host,
        port=port,
        user=user if isinstance(user, str) else None,
        password=variables.get(PASSWORD_VARIABLE),
    )


def build_message(to: str, payload: Mapping[str, JSON]) -> EmailMessage:
    """
    Build the message of *payload* (`subject`, `text`, `html`).

    If `html` is present, even "", it replaces the text.
    """
    mail_message = EmailMessage()
    mail_message["From"] = mail_message["To"] = to
    mail_message["Subject"] = " ".join(str(payload.get("subject") or "").split())
    text, html = payload.get("text"), payload.get("html")
    if html is None:
        mail_message.set_content(str(text or ""))
    else:
        mail_message.set_content(str(html), subtype="html")
    return mail_message


def send_mail(mail: MailSettings, payload: Mapping[str, JSON]) -> None:
    """
    Send the message of *payload*; blocks.

    Raises:
        OSError: The server cannot be reached or rejects the message (`smtplib.SMTPException` is a subclass).
        ValueError: The server has a login but offers no encryption.
    """
    context = ssl.create_default_context()
    mail_message = build_message(mail.to, payload)
    server = (
        smtplib.SMTP_SSL(mail.host, mail.port, timeout=_TIMEOUT_S, context=context)
        if mail.port == _TLS_PORT
        else smtplib.SMTP(mail.host, mail.port, timeout=_TIMEOUT_S)
    )
    with server:
        encrypted = mail.port == _TLS_PORT
        server.ehlo()
        if not encrypted and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            encrypted = True
        if mail.user is not None:
            if not encrypted:
                raise ValueError(
                    f"{mail.host} does not offer encryption, and pdkernel only sends a password encrypted."
                )
            server.login(mail.user, mail.password or "")
        server.send_message(mail_message)
