"""
Actions that Pipedream runs: a client of the Connect API that finds actions, lists options of props and runs actions.

The login comes from `project.login`. The client uses httpx and never retries: a failed run must not be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pdkernel.actions.component import Component, ComponentHeader, build_component
from pdkernel.errors import ActionNotFoundError, ActionSourceError, ConnectSettingsError, describe_fault
from pdkernel.model import JSON, AppBinding
from pdkernel.workers import (
    FIRST_PAGE,
    ComponentDescription,
    OptionsQuery,
    PropDeclaration,
    PropOption,
    PropOptionsPage,
)

if TYPE_CHECKING:
    import httpx

    from pdkernel.storage import Login, Project

CONNECT_LIMITATIONS = (
    "Pipedream runs the action: no $.flow, data stores or files of this run, and its outbound calls are not recorded"
)
_NO_VALUE = frozenset({"alert", "dir", "$.service.db", "$.interface.http", "$.interface.timer", "$.interface.apphook"})
_WRONG_RESPONSE_FIX = "Check PIPEDREAM_BASE_URL, and the proxy on the way to the API. To log in again: pdkernel login"
_TOKEN_RENEWAL_MARGIN_S = 60
"""Seconds before its expiry at which a token is replaced."""
_MAX_SEARCH_PAGES = 10
"""Maximum number of pages of a search. Longer results are cut off."""


def resolve_connect_login(project: Project, environ: Mapping[str, str]) -> Login:
    """
    Return the login of the Connect project that runs actions: the stored login of *project*, else the variables of *environ*.

    Raises:
        ConnectSettingsError: There is no login and a variable is missing; the message names the missing variables.
    """
    from pdkernel.common.identity import PIPEDREAM_API_URL
    from pdkernel.storage.login import Login, check_base_url, read_environment, read_setting

    found = project.login.load(environ)
    if found is not None:
        return found
    names = ("CLIENT_ID", "CLIENT_SECRET", "PROJECT_ID")
    client_id, secret, project_id = (read_setting(environ, name) for name in names)
    if not (client_id and secret and project_id):
        missing = [f"PIPEDREAM_{name}" for name in names if not read_setting(environ, name)]
        raise ConnectSettingsError(
            f"The actions of this project run at Pipedream Connect, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set in the environment.",
            fix="Log in: pdkernel login. Or set these variables (id and secret of an OAuth client of your workspace, id of the "
            "project). Or choose another source: pdkernel project set actions builtin",
        )
    base_url = check_base_url(read_setting(environ, "BASE_URL") or PIPEDREAM_API_URL)
    return Login(client_id, secret, project_id, read_environment(environ), base_url)


@dataclass(frozen=True)
class ActionRunResult:
    """
    The result of an action that Pipedream ran.

    Attributes:
        exports: Exported values by name.
        return_value: The value that the action returned.
        logs: Lines that the action printed.
        error: Name and message of the error, or None.
        http_status: Status code of the API's response.
    """

    exports: Mapping[str, JSON]
    return_value: JSON
    logs: tuple[str, ...]
    error: tuple[str, str] | None
    http_status: int


class ConnectSource:
    """
    The actions of a Connect project. An instance belongs to one event loop.

    Args:
        login: The login of the project.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        self._token: tuple[str, float] | None = None

    def __str__(self) -> str:
        return f"Pipedream Connect ({self.login.project_id})"

    @property
    def host(self) -> str:
        """The host name of the API."""
        return urlsplit(self.login.base_url).hostname or ""

    @property
    def run_url(self) -> str:
        """The URL that runs an action."""
        return f"{self.login.base_url}/v1/connect/{self.login.project_id}/actions/run"

    async def fetch_action(self, key: str, version: str | None) -> tuple[Component, ComponentDescription]:
        """
        Fetch an action and its props.

        Raises:
            ActionNotFoundError: Pipedream has no such action in that version.
            ActionSourceError: The API cannot be reached or refuses the call.
        """
        answer = await self._request("GET", f"actions/{key}", params={"version": version} if version else {})
        if answer.status_code == 404:
            raise ActionNotFoundError(f"Pipedream has no action {key}{f' in version {version}' if version else ''}.")
        data = _read_object(answer, dict)["data"]
        return self._component(data), _description(data)

    async def search(self, query: str, app: str | None, *, limit: int | None = None) -> list[Component]:
        """
        Return the actions of *app* (None: of all apps) that match *query*, at most *limit* or ten pages of 100.

        Raises:
            ActionSourceError: The API cannot be reached or refuses the call.
        """
        params = {"q": query, "app": app, "limit": "100"}
        found: list[Component] = []
        for _ in range(_MAX_SEARCH_PAGES):
            given = {key: value for key, value in params.items() if value}
            answer = await self._request("GET", "actions", params=given)
            page = _read_object(answer, list)
            found += map(self._component, page["data"])
            params["after"] = (page.get("page_info") or {}).get("end_cursor")
            if not page["data"] or not params["after"] or (limit is not None and len(found) >= limit):
                break
        return found[:limit]

    async def fetch_newest_account(self, app: str, external_user_id: str, environment: str) -> str | None:
        """Return the id of the external user's newest account of *app* in the Connect project, or None."""
        answer = await self._request(
            "GET",
            "accounts",
            params={"external_user_id": external_user_id, "app": app, "limit": "100"},
            environment=environment,
        )
        accounts: list[dict[str, Any]] = _read_object(answer, list)["data"]
        newest = max(accounts, key=lambda account: str(account.get("created_at") or ""), default=None)
        return None if newest is None else str(newest["id"])

    async def run_action(
        self,
        component: Component,
        *,
        props: Mapping[str, JSON],
        external_user_id: str,
        environment: str,
        timeout_s: float,
        has_dynamic_props: bool = False,
    ) -> ActionRunResult:
        """
        Run an action once, without retries.

        Args:
            component: The action.
            props: Values of the props, accounts as `{"authProvisionId": ID}`.
            external_user_id: The external user that the action runs as.
            environment: The environment of the external user.
            timeout_s: Time limit in seconds.
            has_dynamic_props: Whether the props depend on the values, so that Pipedream must reload them first.

        Raises:
            ActionSourceError: The API cannot be reached or refuses the call.
        """
        body = _build_body(component, props, external_user_id)
        if has_dynamic_props:
            reloaded = await self._reload_props(body, environment=environment, timeout_s=timeout_s)
            if reloaded.get("id"):
                body["dynamic_props_id"] = reloaded["id"]
        answer = await self._request("POST", "actions/run", json=body, environment=environment, timeout_s=timeout_s)
        return _parse_run_result(_read_object(answer), answer.status_code)

    async def fetch_additional_props(
        self, component: Component, *, props: Mapping[str, JSON], external_user_id: str, environment: str
    ) -> tuple[PropDeclaration, ...]:
        """
        Return the props that the action has for the values *props*, accounts as in `run_action`.

        Raises:
            ActionSourceError: The API cannot be reached or refuses the call, or the action's code fails.
        """
        body = _build_body(component, props, external_user_id)
        reloaded = await self._reload_props(body, environment=environment)
        if "configurableProps" not in reloaded and reloaded["errors"]:
            raise ActionSourceError(f"Pipedream Connect cannot reload the props: {str(reloaded['errors'][0])[:300]}")
        return _parse_props(reloaded.get("configurableProps") or ())[1]

    async def fetch_options(
        self,
        component: Component,
        prop: str,
        *,
        props: Mapping[str, JSON],
        external_user_id: str,
        environment: str,
        query: OptionsQuery = FIRST_PAGE,
        is_added_prop: bool = False,
    ) -> PropOptionsPage:
        """
        Return a page of options of a prop.

        Args:
            component: The action.
            prop: The prop's name.
            props: Values of the props, accounts as in `run_action`.
            external_user_id: The external user whose account lists the options.
            environment: The environment of the external user.
            query: The page, and the search text.
            is_added_prop: Whether the action adds the prop for these values, so that Pipedream must reload the props first.

        Raises:
            ActionSourceError: The API cannot be reached or refuses the call.
        """
        body = _build_body(component, props, external_user_id)
        if is_added_prop:
            reloaded = await self._reload_props(body, environment=environment)
            if reloaded.get("id"):
                body["dynamic_props_id"] = reloaded["id"]
        body |= {"prop_name": prop, "page": query.page, "prev_context": query.context or {}, "query": query.text}
        answer = await self._request("POST", "actions/configure", json=body, environment=environment)
        data = _read_object(answer)
        errors = data.get("errors") or []
        found = data.get("options") or data.get("stringOptions") or []
        return PropOptionsPage(
            tuple(
                PropOption(str(each.get("label", each.get("value"))), each.get("value"))
                if isinstance(each, dict)
                else PropOption(str(each), each)
                for each in found
            ),
            data.get("context"),
            str(errors[0]) if errors else None,
        )

    async def _reload_props(
        self, body: Mapping[str, JSON], *, environment: str, timeout_s: float = 60.0
    ) -> Mapping[str, Any]:
        """Return the dynamic props for the values of *body*: their `id`, all props for these values, and errors of the action's code."""
        answer = await self._request("POST", "actions/props", json=body, environment=environment, timeout_s=timeout_s)
        data = _read_object(answer)
        return {"errors": data.get("errors") or [], **(data.get("dynamicProps") or {})}

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, JSON] | None = None,
        environment: str | None = None,
        timeout_s: float = 60.0,
    ) -> httpx.Response:
        import httpx  # loaded by the first call only

        settings = self.login
        try:
            async with httpx.AsyncClient(base_url=settings.base_url, timeout=timeout_s) as client:
                token = await self._fetch_token(client)
                return await client.request(
                    method,
                    f"/v1/connect/{settings.project_id}/{path}",
                    params=params,
                    json=json,
                    headers={
                        "authorization": f"Bearer {token}",
                        "x-pd-environment": environment or settings.environment,
                    },
                )
        except httpx.HTTPError as fault:
            raise ActionSourceError(
                f"Pipedream Connect cannot be reached at {self.host}: {describe_fault(fault)}.",
                fix="Check the network, and run the step again.",
            ) from None

    async def _fetch_token(self, client: httpx.AsyncClient) -> str:
        if self._token is not None and self._token[1] > time.monotonic():
            return self._token[0]
        answer = await client.post(
            "/v1/oauth/token",
            json={
                "grant_type": "client_credentials",
                "client_id": self.login.client_id,
                "client_secret": self.login.client_secret,
            },
        )
        if answer.status_code != 200:
            raise ActionSourceError(
                f"Pipedream does not accept the OAuth client {self.login.client_id} (HTTP {answer.status_code}).",
                fix="Log in again: pdkernel login, or check PIPEDREAM_CLIENT_ID and PIPEDREAM_CLIENT_SECRET.",
            )
        data = _read_object(answer)
        if not isinstance(data.get("access_token"), str):
            raise ActionSourceError("The response of Pipedream Connect has no token.", fix=_WRONG_RESPONSE_FIX)
        lifetime_s = float(data.get("expires_in") or 3600)
        self._token = data["access_token"], time.monotonic() + lifetime_s - _TOKEN_RENEWAL_MARGIN_S
        return self._token[0]

    def _component(self, data: Mapping[str, Any]) -> Component:
        header = ComponentHeader(
            str(data["key"]), str(data["version"]), str(data.get("name") or ""), str(data.get("description") or "")
        )
        found = build_component(header, source=str(self))
        return replace(found, limitations=CONNECT_LIMITATIONS)


def _build_body(component: Component, props: Mapping[str, JSON], external_user_id: str) -> dict[str, JSON]:
    """Return the part of a request that names an action, its user and the values of its props."""
    return {
        "id": component.key,
        "version": component.version,
        "external_user_id": external_user_id,
        "configured_props": dict(props),
    }


def _read_object(answer: httpx.Response, data_kind: type[object] = object) -> dict[str, Any]:
    """Return the JSON object in *answer*. Raises `ActionSourceError`, also if its field `data` is not of *data_kind*."""
    if answer.status_code >= 400:
        request = f"{answer.request.method} {answer.request.url.path}"
        why = f"HTTP {answer.status_code} to {request}: {_get_error_message(answer)}"
        raise ActionSourceError(f"Pipedream Connect responded with {why}")
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ActionSourceError("The response of Pipedream Connect is not a JSON object.", fix=_WRONG_RESPONSE_FIX)
    if not isinstance(data.get("data"), data_kind):
        raise ActionSourceError("The response of Pipedream Connect has no data.", fix=_WRONG_RESPONSE_FIX)
    return data


def _get_error_message(answer: httpx.Response) -> str:
    try:
        data = answer.json()
    except ValueError:
        return answer.text[:300] or answer.reason_phrase
    message = data.get("error") or data.get("message") or data if isinstance(data, dict) else data
    return str(message)[:300]


def _description(data: Mapping[str, Any]) -> ComponentDescription:
    declared: Sequence[dict[str, Any]] = data.get("configurable_props") or ()
    apps, props = _parse_props(declared)
    return ComponentDescription(
        apps=apps,
        props=props,
        key=str(data["key"]),
        name=str(data.get("name") or ""),
        description=str(data.get("description") or ""),
        version=str(data["version"]),
        additional=any(each.get("reloadProps") for each in declared),
    )


def _parse_props(declared: Sequence[Mapping[str, Any]]) -> tuple[tuple[AppBinding, ...], tuple[PropDeclaration, ...]]:
    """Return the app props of *declared*, and its other props that take a value."""
    apps: list[AppBinding] = []
    props: list[PropDeclaration] = []
    for each in declared:
        name, kind = str(each["name"]), str(each["type"])
        if kind == "app":
            apps.append(AppBinding(name, str(each.get("app") or name)))
        elif kind not in _NO_VALUE:
            definition = {**each, "dynamic": True} if each.get("remoteOptions") else dict(each)
            optional = bool(each.get("optional")) or "default" in each
            props.append(PropDeclaration(name, kind, optional, cast("dict[str, JSON]", definition)))
    return tuple(apps), tuple(props)


def _parse_run_result(data: Mapping[str, Any], status: int) -> ActionRunResult:
    logs: list[str] = []
    error: tuple[str, str] | None = None
    for observation in data.get("os") or ():
        if not isinstance(observation, dict):
            continue
        if observation.get("k") == "error":
            failure = observation.get("err") or {}
            error = error or (str(failure.get("name") or "Error"), str(failure.get("message") or "The action failed."))
        else:
            logs.append(str(observation.get("msg", observation)))
    exports = data.get("exports") or {}
    return ActionRunResult(dict(exports), data.get("ret"), tuple(logs), error, status)
