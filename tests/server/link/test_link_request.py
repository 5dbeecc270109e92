"""The parameters of a Connect Link page."""

from __future__ import annotations

import pytest

from pdkernel.server.link.link_request import LinkRequest


@pytest.mark.parametrize(
    ("params", "request_"),
    [
        ({}, LinkRequest("", "")),
        ({"token": "t", "app": "slack"}, LinkRequest("t", "slack")),
        ({"token": "t", "app": "slack", "accountId": "apn_1"}, LinkRequest("t", "slack", "apn_1")),
        ({"accountId": "", "hideClose": "1", "framed": "True"}, LinkRequest("", "")),
        ({"hideClose": "true"}, LinkRequest("", "", hides_close_button=True)),
        ({"framed": "true"}, LinkRequest("", "", is_framed=True)),
    ],
)
def test_parameters(params: dict[str, str], request_: LinkRequest) -> None:
    """Each parameter is read, and the form's fields read back as the same request."""
    assert LinkRequest.from_params(params) == request_
    assert LinkRequest.from_params(request_.to_form_fields()) == request_


def test_fields_of_a_form() -> None:
    """A form has the token, the app and the field of its script; other fields only with a value."""
    assert LinkRequest("t", "slack").to_form_fields() == {"token": "t", "app": "slack", "framed": ""}
    assert LinkRequest("t", "slack", "apn_1", hides_close_button=True, is_framed=True).to_form_fields() == {
        "token": "t",
        "app": "slack",
        "accountId": "apn_1",
        "hideClose": "true",
        "framed": "true",
    }
    assert "t0ken" not in repr(LinkRequest("t0ken", "slack"))
