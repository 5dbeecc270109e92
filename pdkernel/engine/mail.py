"""
E-mail to oneself, by SMTP.

Knows the message's parts (platform documentation of e-mail destinations) and SMTP's two ways to TLS. Knows nothing of runs.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage

from pdkernel.model import JSON

PASSWORD_VARIABLE = "PDKERNEL_MAIL_PASSWORD"  # noqa: S105 - its name, not its value
"""The project's variable that holds the mail server's password."""

_TIMEOUT_S = 10.0
_TLS_PORT = 465


@dataclass(frozen=True)
class MailSettings:
    """
    How e-mail is sent.

    Attributes:
        to: The address that everything goes to: one's own.
        host: The server.
        port: 465 speaks TLS from the start; on another, STARTTLS is used if the server offers it.
        user: To log in as, or None not to.
        password: Of *user*; sent over TLS only.
    """

    to: str
    host: str
    port: int = 25
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_mail_settings(settings: Mapping[str, JSON], variables: Mapping[str, str]) -> MailSettings | None:
    """What the project's settings `mail_to`, `mail_server` (HOST[:PORT]) and `mail_user` say; None if not enough."""
    to, server, user = settings.get("mail_to"), settings.get("mail_server"), settings.get("mail_user")
    if not isinstance(to, str) or not isinstance(server, str):
        return None
    host, _, port = server.partition(":")
    return MailSettings(
        to=to,
        host=host,
        port=int(port) if port.isdigit() else 25,
        user=user if isinstance(user, str) else None,
        password=variables.get(PASSWORD_VARIABLE),
    )


def message(to: str, payload: Mapping[str, JSON]) -> EmailMessage:
    """
    The message that *payload* (`subject`, `text`, `html`) asks for.

    An `html` that is given, even "", stands in the place of the text.
    """
    made = EmailMessage()
    made["From"] = made["To"] = to
    made["Subject"] = " ".join(str(payload.get("subject") or "").split())
    text, html = payload.get("text"), payload.get("html")
    if html is None:
        made.set_content(str(text or ""))
    else:
        made.set_content(str(html), subtype="html")
    return made


def send_mail(mail: MailSettings, payload: Mapping[str, JSON]) -> None:
    """
    Send it; blocks.

    Raises:
        OSError: The server cannot be reached or does not take it (`smtplib.SMTPException` is one).
        ValueError: The password would go over a connection that is not encrypted.
    """
    context = ssl.create_default_context()
    made = message(mail.to, payload)
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
                raise ValueError(f"{mail.host} offers no encryption, and the password is not sent without it.")
            server.login(mail.user, mail.password or "")
        server.send_message(made)
