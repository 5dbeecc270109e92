"""Settings and messages of e-mail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from pdkernel.egress.tls.certificates import CertificateAuthority
from pdkernel.engine.mail import MailSettings, build_message, parse_mail_server, parse_mail_settings, send_mail
from pdkernel.errors import RequestError
from tests.ports import free_port


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("smtp.example.com", ("smtp.example.com", 25)),
        ("smtp.example.com:587", ("smtp.example.com", 587)),
        ("[::1]:465", ("::1", 465)),
        ("[::1]", ("::1", 25)),
    ],
)
def test_a_mail_server(text: str, server: tuple[str, int]) -> None:
    """The default port is 25."""
    assert parse_mail_server(text) == server


@pytest.mark.parametrize("text", ["", ":25", "a:", "a:0", "a:x", "a:65536", "me@a", "a b", "a/b", "a?b", "smtp://a"])
def test_an_invalid_mail_server_is_refused(text: str) -> None:
    """Another form than HOST or HOST:PORT is refused."""
    with pytest.raises(RequestError):
        parse_mail_server(text)


@pytest.mark.parametrize(
    ("settings", "variables", "mail"),
    [
        ({"mail_to": "me@a", "mail_server": "a"}, {}, MailSettings("me@a", "a", 25, None, None)),
        (
            {"mail_to": "me@a", "mail_server": "a:465", "mail_user": "me"},
            {"PDKERNEL_MAIL_PASSWORD": "p"},
            MailSettings("me@a", "a", 465, "me", "p"),
        ),
        ({"mail_to": "me@a", "mail_server": "a", "mail_user": 1}, {}, MailSettings("me@a", "a")),
        ({"mail_to": "me@a"}, {}, None),
        ({"mail_server": "a"}, {}, None),
    ],
)
def test_settings_of_a_project(settings: dict[str, Any], variables: dict[str, str], mail: MailSettings | None) -> None:
    """Without an address or a server, no e-mail is sent; the password is a variable and does not show."""
    found = parse_mail_settings(settings, variables)

    assert found == mail
    assert "password" not in repr(found)


@pytest.mark.parametrize(
    ("payload", "subject", "kind", "content"),
    [
        ({"subject": "a\r\nBcc: b", "text": "hi"}, "a Bcc: b", "text/plain", "hi\n"),
        ({"text": None}, "", "text/plain", "\n"),
        ({"text": "hi", "html": "<b>"}, "", "text/html", "<b>\n"),
        ({"text": "hi", "html": ""}, "", "text/html", "\n"),
    ],
)
def test_a_message(payload: dict[str, Any], subject: str, kind: str, content: str) -> None:
    """The author's address is sender and recipient; HTML replaces the text, and a subject has one line."""
    message = build_message("me@a", payload)

    assert (message["From"], message["To"], message["Subject"]) == ("me@a", "me@a", subject)
    assert (message.get_content_type(), message.get_content()) == (kind, content)


class Inbox:
    """What a mail server has received, in order: passwords, and the first lines of messages."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def log_in(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _method: str, data: LoginPassword
    ) -> AuthResult:
        """Accept every password."""
        self.received.append(data.password.decode())
        return AuthResult(success=True)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - the library's name
        """Store the message; refuse an empty one."""
        body = (envelope.content or b"").decode().split("\r\n\r\n", 1)[1].strip()  # type: ignore[union-attr]  # bytes
        self.received.append(body)
        return "250 OK" if body else "554 No text"


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_password_needs_a_verified_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool) -> None:
    """With STARTTLS, the password and the message leave after the server's certificate was verified, or not at all."""
    authority, other = (CertificateAuthority(tmp_path / name, environ={}) for name in ("own", "other"))
    monkeypatch.setenv("SSL_CERT_FILE", str((authority if is_trusted else other).certificate_file))
    inbox = Inbox()
    port = free_port()
    controller = Controller(
        inbox,
        hostname="127.0.0.1",
        port=port,
        tls_context=authority.server_context("127.0.0.1"),
        authenticator=inbox.log_in,
    )
    controller.start()
    failure = None
    try:
        send_mail(MailSettings("me@a", "127.0.0.1", port, "me", "the password"), {"text": "hi"})
    except OSError as fault:
        failure = str(fault)
    finally:
        controller.stop()

    assert inbox.received == (["the password", "hi"] if is_trusted else [])
    assert ("certificate verify failed" in (failure or "")) != is_trusted
