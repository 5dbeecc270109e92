"""Names and icons of apps."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from pdkernel.render.apps import app_label, build_app_icon_url, format_app_name, format_credential_name


@pytest.mark.parametrize(
    ("slug", "name"),
    [
        ("linear_app", "Linear"),
        ("google_sheets", "Google Sheets"),
        ("github", "GitHub"),
        ("my_crm", "My CRM"),
        ("depot", "Depot"),
        ("", ""),
    ],
)
def test_an_app_has_a_name(slug: str, name: str) -> None:
    """The name is the app's own, or the words of the slug with abbreviations in capitals."""
    assert format_app_name(slug) == name


@pytest.mark.parametrize(
    ("field", "title"),
    [
        ("api_token", "API token"),
        ("oauth_access_token", "Access token"),
        ("AccountSid", "Account SID"),
        ("accessKeyId", "Access key ID"),
        ("clientID", "Client ID"),
        ("größe", "Größe"),
        ("_", "_"),
    ],
)
def test_a_credential_has_a_title(field: str, title: str) -> None:
    """The title has the words of the name, in snake case or camel case."""
    assert format_credential_name(field) == title


@pytest.mark.parametrize(("slug", "initials"), [("google_sheets", "GS"), ("slack", "S"), ("<>", "?")])
def test_an_icon_has_the_initials(slug: str, initials: str) -> None:
    """The icon is in the URL itself and shows at most two initials of the name."""
    icon = unquote(build_app_icon_url(slug))

    assert icon.startswith("data:image/svg+xml,<svg ")
    assert f">{initials}</text>" in icon


def test_a_label_is_escaped() -> None:
    """The label is an image without a text of its own, and the escaped name."""
    label = app_label("<b>")

    assert label.startswith('<img alt="" ')
    assert label.endswith("<strong>&lt;b&gt;</strong>")
