"""Facts about expressions and props."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pdkernel.model import Trigger
from pdkernel.storage import Project
from tests.builders import an_event
from tests.checklist.conftest import Check
from tests.checklist.languages import WITH_RETURN
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve


@pytest.fixture
def address() -> Iterator[str]:
    """The URL of a server that responds with method, path, some headers and body of the request."""

    def respond(request: SentRequest) -> Answer:
        sent = {name: value for name, value in request.headers.items() if name.startswith("x-")}
        return 200, {"line": f"{request.method} {request.path}", "headers": sent, "body": request.body.decode()}

    with serve(AnsweringServer(respond)) as server:
        yield f"{server.url}/post"


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_expressions_are_javascript(check: Check, language: str) -> None:
    """
    A whole `{{ }}` keeps its type, other expressions become text; a list of one expression is the list of that expression.

    An expression may have nested template literals, regular expressions and comparisons, and reads `steps`, `process.env`
    and `event`.
    """
    await check("expressions", language, variables={"REGION": "eu-west"})


@pytest.mark.parametrize("language", ["node", "action"])
async def test_an_any_prop_is_javascript_without_braces(check: Check, language: str) -> None:
    """`'{ "photos": steps.x.$return_value }'` of an `any` prop is evaluated; a `string` prop is not."""
    await check("bare-javascript", language, trigger=Trigger(response="custom"))


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_values_of_a_synced_file(
    check: Check, connect: Callable[..., str], project: Project, language: str
) -> None:
    """`__lv` is its value, `authProvisionId` is an account, `storeId` a store; in Python through `__configurableProps`."""
    connect(None, account_id="apn_own0001")
    project.data_stores.set("ds_l6ujg2", "k", {"kept": True})
    await check("prop-values", language)


@pytest.mark.parametrize("language", ["node", "action"])
async def test_dynamic_props_are_flat(check: Check, language: str) -> None:
    """Values of dynamic props are beside the static ones (`col_0000`; `secondValue` of a filter)."""
    await check("dynamic-props", language)


@pytest.mark.parametrize("language", ["node", "action"])
async def test_disabled_parts_of_a_request_are_not_sent(check: Check, address: str, language: str) -> None:
    """Headers, params and fields of an `http_request` that are `disabled` are left out."""
    await check("http-request", language, event=an_event({"url": address}))
