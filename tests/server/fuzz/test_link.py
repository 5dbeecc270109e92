"""Random requests to the routes of Connect Link."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.link.visitor import PAGE, SAME_ORIGIN, Visitor, make
from tests.server.served import served

ANY = st.text(max_size=40)
NAMES = (
    st.sampled_from(
        ["token", "app", "accountId", "framed", "cancel", "connectLink", "state", "code", "error", "field:api_key"]
    )
    | ANY
)
FORMS = st.dictionaries(NAMES, ANY, max_size=6)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY | st.just("\ud800") | st.just("a\0b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "external_user_id",
    "allowed_origins",
    "success_redirect_uri",
    "error_redirect_uri",
    "webhook_uri",
    "expires_in",
    "scope",
]
BODIES = st.dictionaries(st.sampled_from(FIELDS) | ANY, JSONS, max_size=6)


@settings(max_examples=settings().max_examples // 4, suppress_health_check=list(HealthCheck))
@given(forms=st.lists(FORMS, min_size=4, max_size=4), bodies=st.lists(BODIES, min_size=4, max_size=4))
def test_link_routes_never_fail(
    tmp_path_factory: Any, forms: list[dict[str, str]], bodies: list[dict[str, Any]]
) -> None:
    """Pages, forms, callbacks and token requests are answered with 2xx, 3xx or 4xx; no account is connected."""
    statuses = asyncio.run(_send_all(tmp_path_factory.mktemp("fuzz"), forms, bodies))

    assert [status for status in statuses if status >= 500] == []


async def _send_all(folder: Path, forms: list[dict[str, str]], bodies: list[dict[str, Any]]) -> list[int]:
    statuses = []
    async with served(folder) as site:
        visitor = Visitor(site)
        made = await make(site)
        for form, body in zip(forms, bodies, strict=True):
            statuses += await _pages(visitor, form, made["token"])
            headers = {"content-type": "application/json"}
            answer = await site.call("POST", "/tokens", content=json.dumps(body), headers=headers)
            statuses.append(answer.status_code)
        assert site.directory.accounts() == []
    return statuses


async def _pages(visitor: Visitor, form: dict[str, str], token: str) -> list[int]:
    answers = [
        await visitor.http.get(PAGE, params=form),
        await visitor.http.get(PAGE, params={"token": token, **form}),
        await visitor.http.post(PAGE, data=form, headers=SAME_ORIGIN),
        await visitor.http.post(PAGE, data={"token": token, **form}, headers=SAME_ORIGIN),
        await visitor.http.get("/_static/connect/callback", params=form),
        await visitor.http.get(f"/v1/connect/tokens/{token}/validate", params=form),
    ]
    return [answer.status_code for answer in answers]
