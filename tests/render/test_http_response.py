"""The response of an endpoint, in text and in HTML."""

from __future__ import annotations

import pytest

from pdkernel.model import JSON
from pdkernel.render import http_response
from tests.render.reading import EVIL, Page


@pytest.mark.parametrize(
    ("body", "shown"), [(None, ""), ("", ""), ("Hello", "Hello"), ({"a": [1]}, '{\n  "a": [\n    1\n  ]\n}'), (0, "0")]
)
def test_a_response_has_status_headers_and_body(body: JSON, shown: str) -> None:
    """A text is shown as it is, another value as JSON; an empty body has no block."""
    text = http_response.render_text(201, "Created", {"location": "/x"}, body, 12.0)
    page = Page(http_response.render_html(201, "Created", {"location": "/x"}, body, 12.0))

    assert text.startswith("201 Created  12.0 ms\nlocation: /x\n")
    assert text.rstrip("\n").endswith(shown)
    assert page.text.split() == ["201", "Created", "12.0", "ms", "location:", "/x", *shown.split()]


@pytest.mark.parametrize(("status", "is_good"), [(200, True), (399, True), (400, False), (500, False)])
def test_an_error_has_another_color(status: int, is_good: bool) -> None:
    """A status from 400 on is an error; a missing reason leaves no blank."""
    good = http_response.render_html(200, "", {}, None, 1.0).replace("200", str(status))

    assert (http_response.render_html(status, "", {}, None, 1.0) == good) is is_good
    assert f">{status}</span>" in good


def test_a_long_body_is_cut() -> None:
    """A body of many lines is shown in part, in both forms."""
    body = "\n".join(map(str, range(1000)))

    for drawn in (
        http_response.render_text(200, "OK", {}, body, 1.0),
        http_response.render_html(200, "OK", {}, body, 1.0),
    ):
        assert "\n199\n" in drawn
        assert "… 800 lines more not shown" in drawn


def test_markup_is_shown_as_text() -> None:
    """Reason, headers and body of a response are escaped."""
    drawn = http_response.render_html(200, EVIL, {EVIL: EVIL}, EVIL, 1.0)

    assert Page(drawn).text.count("<b>bold</b></script>") == 4
    assert "\x1b" not in drawn + http_response.render_text(200, EVIL, {EVIL: EVIL}, EVIL, 1.0)
