"""Requests that schemathesis generates from the description of the routes, sent to a server."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.server.fuzz.openapi import METHODS, PREFIX, PROJECT, Operation, Values, document, operations
from tests.server.fuzz.target import DEPOT, LASTS_S, REQUESTS, SLACK, Target, shows_internals, target

if TYPE_CHECKING:
    from schemathesis import Case
    from schemathesis.schemas import APIOperation

COUNT = REQUESTS * 9 // 20
ENVIRONMENTS = ("development", "development", "production", None, "staging")
WITH_CREDENTIALS = ("Account", "Accounts", "AccountPage")
"""Schemas of responses that may have credentials."""
OPEN = {("GET", f"/-/{path}") for path in ("live", "ready", "login", "uploads/{name}")} | {("POST", "/-/login/code")}
"""Routes below `/-/` that need no login."""
NEVER_SUCCESSFUL = frozenset(
    {
        ("GET", "/_static/connect/callback"),  # there is no sign-in
        ("POST", "/_static/connect.html"),  # there is no valid page
        # the console has no session, and the tokens of resume and cancel URLs are wrong
        *((each.method, each.path) for each in operations() if each.path == "/" or each.path.startswith("/-/")),
        ("GET", "/v1/connect/app_categories/{category_id}"),
        *(("POST", f"{prefix}/triggers/configure") for prefix in (PREFIX, PROJECT)),  # the source has no options
        *(
            (method, f"{prefix}/proxy/{{url_64}}") for prefix in (PREFIX, PROJECT) for method in METHODS
        ),  # outbound calls are denied
    }
    - OPEN
)
"""Routes that never succeed in this project."""
ONCE = frozenset(("POST", f"{prefix}/accounts") for prefix in (PREFIX, PROJECT))
"""Routes that use a Connect token, which is valid once, so that only one of them succeeds."""

CONFORMING = ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
"""Checks of a response. The library takes seconds to import, and only this test's process imports it."""


@pytest.mark.timeout(LASTS_S)
def test_every_route(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each response matches the description and has no secret; the server does not grow, and logs no traceback."""
    from schemathesis.checks import load_all_checks

    load_all_checks()
    described = list(operations())
    a_round = 10
    if COUNT < 5000:
        described, a_round = _without_twins(described), 4
    with target(tmp_path) as aim:
        free, exact = _operations(aim.values, described), _operations(aim.values.first(), described)
        names = [(one.method, one.path) for one in described]
        cases = {name: _cases(one, exact[name], free[name], aim) for name, one in zip(names, described, strict=True)}
        statuses: set[tuple[str, str, int]] = set()
        for number in range(max(1, COUNT // (len(described) * a_round))):
            random.Random(number).shuffle(described)
            described.sort(key=_deletes_a_user)  # last: with a user, the Connect tokens of other routes are gone
            for place, one in enumerate(described):
                aim.refill()
                count = 1 if one.statuses == (501,) else a_round
                _send(aim, one, cases[one.method, one.path], number * 1000 + place, count, statuses)
                if number == 0 and place == len(described) // 2:
                    aim.start_measuring()
        aim.check(capsys)

    good = {(method, path) for method, path, status in statuses if status < 300}
    never = {(each.method, each.path) for each in described if each.statuses != (501,)} - good
    assert never - ONCE == NEVER_SUCCESSFUL & set(names)
    assert (ONCE & set(names)) - never
    assert {status for _, _, status in statuses} >= {200, 204, 400, 401, 403, 404, 501}


def _without_twins(described: list[Operation]) -> list[Operation]:
    """Keep one of two routes that differ in the project's path only, by turns the one with the project and the other one."""
    twins: dict[tuple[str, str], list[Operation]] = {}
    for each in described:
        twins.setdefault((each.method, each.path.replace(PROJECT, PREFIX)), []).append(each)
    return [found[place % len(found)] for place, found in enumerate(twins.values())]


def _deletes_a_user(one: Operation) -> bool:
    return one.method == "DELETE" and one.path.endswith("/users/{external_user_id}")


def _operations(values: Values, described: list[Operation]) -> dict[tuple[str, str], APIOperation]:
    import schemathesis
    from schemathesis.core.result import Ok

    schema = schemathesis.openapi.from_dict(document(values, described))
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    return {(each.method.upper(), each.path): each for each in found}


def _cases(described: Operation, exact: APIOperation, free: APIOperation, aim: Target) -> st.SearchStrategy[Any]:
    """Requests to a route: valid requests, and requests with other values, credentials and environments."""
    from schemathesis import GenerationMode

    cases = free.as_strategy()
    if described.query or described.body:
        cases |= free.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    names = st.sampled_from(["full"] * 5 + sorted(aim.credentials))
    odd = st.tuples(cases, names, st.sampled_from(ENVIRONMENTS))
    return st.tuples(st.tuples(exact.as_strategy(), st.just("full"), st.just("development")), odd)


def _send(
    aim: Target,
    described: Operation,
    cases: st.SearchStrategy[Any],
    number: int,
    count: int,
    statuses: set[tuple[str, str, int]],
) -> None:
    """Send *count* requests to a route, a valid request first, and check each response."""
    numbers = iter(range(count))
    with requests.Session() as session:

        @seed(number)
        @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(pair=cases)
        def send(pair: tuple[Any, Any]) -> None:
            case, who, environment = pair[1 if next(numbers, 1) else 0]
            headers = {"Authorization": aim.credentials[who].encode()}
            if environment is not None:
                headers["x-pd-environment"] = environment.encode()
            answer = case.call(
                base_url=aim.url, session=session, headers=headers, allow_redirects=False, timeout=60
            )  # fmt: skip
            aim.sent += 1
            statuses.add((described.method, described.path, answer.status_code))
            _check(described, case, answer)

        send()


def _check(described: Operation, case: Case, answer: Any) -> None:
    from schemathesis.checks import CHECKS

    status, body = answer.status_code, answer.content
    context = f"{described.method} {case.formatted_path} {status}: {body[:300]!r}"
    assert status != 409, context
    assert status < 500 or status in described.statuses, context
    assert not shows_internals(body), context
    shown = str(answer.headers) + ("" if described.answer in WITH_CREDENTIALS else body.decode(errors="replace"))
    assert [secret for secret in (SLACK, DEPOT) if secret in shown] == [], context
    checks: list[Any] = CHECKS.get_by_names(CONFORMING)
    case.validate_response(answer, checks=checks)
