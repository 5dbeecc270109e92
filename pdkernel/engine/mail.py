"""Sends `$.send.email` by SMTP, to the author's own address (platform documentation of e-mail destinations)."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from urllib.parse import urlsplit

from pdkernel.errors import RequestError
from pdkernel.model import JSON

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
    The host and the port of HOST or HOST:PORT; the default port is 25. An IPv6 address is in brackets.

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
