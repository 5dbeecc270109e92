"""
Every route of the server as an OpenAPI description, built from a table.

The description has parameters, bodies and responses; `test_routes` compares it with the routes of the server. The values of
a project (its ids, users, tokens) are among the values of each parameter, so that generated requests pass the first checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROJECT = "/v1/connect/{project_id}"
PREFIX = "/v1/connect"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ANY = (*METHODS, "HEAD", "OPTIONS")

Schema = dict[str, Any]


@dataclass(frozen=True)
class Values:
    """
    Values of a project for parameters.

    Attributes:
        known: Values by the name of the parameter.
        exact: Whether a request uses only these values, and omits optional parameters.
    """

    known: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    exact: bool = False

    def of(self, name: str) -> list[Any]:
        """The values of the project for the parameter *name*."""
        return list(self.known.get(name, ()))

    def first(self) -> Values:
        """The first value of each parameter: a request with these values is valid."""
        return Values({name: values[:1] for name, values in self.known.items()}, exact=True)


@dataclass(frozen=True)
class Operation:
    """
    A route.

    Attributes:
        method: HTTP method.
        path: Path in the form of OpenAPI.
        query: Names of query parameters.
        body: Properties of the JSON body, or None for a route without a body.
        answer: Name of the schema of a successful response; None for a response that is not JSON.
        error: Name of the schema of an error; None for text.
        statuses: Statuses of successful responses.
        media: Media types of the body.
        names: Names in `Values.known`, by parameter.
    """

    method: str
    path: str
    query: tuple[str, ...] = ()
    body: Mapping[str, Schema] | None = None
    answer: str | None = "Any"
    error: str | None = "Error"
    statuses: tuple[int, ...] = (200,)
    media: tuple[str, ...] = ("application/json",)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters."""
        return re.findall(r"{(\w+)}", self.path)


PAGING = ("after", "before", "limit")
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
URL: Schema = {"named": "url"}
THING: Schema = {"type": "object"}
NAMED = ("external_user_id",)


def operations() -> Iterator[Operation]:
    """All routes, in no particular order."""
    yield from _connect()
    yield from _components()
    yield from _deployed()
    yield from _unsupported()
    yield from _others()


def _both(method: str, path: str, **more: Any) -> Iterator[Operation]:
    """A route below the project's path, and the same route without the project."""
    yield Operation(method, PROJECT + path, **more)
    yield Operation(method, PREFIX + path, **more)


def _connect() -> Iterator[Operation]:
    yield from _both(
        "GET", "/users/{external_user_id}/accounts", query=("app", "include_credentials"), answer="Accounts"
    )
    yield from _both(
        "GET", "/accounts", query=(*NAMED, "app", "oauth_app_id", "include_credentials", *PAGING), answer="AccountPage"
    )
    yield from _both("POST", "/accounts", body=dict.fromkeys(_ACCOUNT_BODY, TEXT), answer="Account", names=_NEW)
    yield from _both("GET", "/accounts/{account_id}", query=("include_credentials",), answer="Account")
    yield from _both("DELETE", "/accounts/app/{app_id}", answer=None, statuses=(204,))
    yield from _both("DELETE", "/accounts/{account_id}", answer=None, statuses=(204,))
    yield from _both("DELETE", "/apps/{app_id}/accounts", answer=None, statuses=(204,))
    yield from _both("GET", "/users", query=("q", *PAGING), answer="UserPage")
    yield from _both("DELETE", "/users/{external_user_id}", answer=None, statuses=(204,))
    apps = ("q", "sort_key", "sort_direction", "category_ids", "has_components", "has_actions", "has_triggers", *PAGING)
    for prefix in (PREFIX, "/v1"):
        yield Operation("GET", f"{prefix}/apps", query=apps, answer="AppPage")
        yield Operation("GET", f"{prefix}/apps/{{app_id}}", answer="AppData")
    yield Operation("GET", f"{PREFIX}/app_categories", answer="List")
    yield Operation("GET", f"{PREFIX}/app_categories/{{category_id}}")
    yield Operation("GET", f"{PREFIX}/projects", query=PAGING, answer="Page")
    yield Operation("GET", f"{PREFIX}/projects/{{requested_id}}", answer="Project")
    yield from _both("GET", "/projects/info", answer="ProjectInfo")
    yield Operation("POST", f"{PROJECT}/tokens", body=_TOKEN_BODY, answer="ConnectToken")
    for prefix in (PROJECT, PREFIX):
        yield Operation("GET", f"{prefix}/tokens/{{token}}/validate", query=("app_id",), answer="Validation")


_NEW = {"account_id": "(made here)"}
_ACCOUNT_BODY = ("app_slug", "cfmap_json", "connect_token", "name", "account_id")
_TOKEN_BODY: dict[str, Schema] = {
    "external_user_id": {"named": "external_user_id"},
    "external_id": TEXT,
    "allowed_origins": {"type": "array", "items": URL},
    "success_redirect_uri": URL,
    "error_redirect_uri": URL,
    "webhook_uri": URL,
    "expires_in": {"named": "expires_in"},
    "scope": TEXT,
}
_CONFIGURED: dict[str, Schema] = {
    "id": {"named": "key"},
    "external_user_id": {"named": "external_user_id"},
    "version": TEXT,
    "configured_props": {"named": "configured_props"},
    "dynamic_props_id": TEXT,
    "blocking": FLAG,
}
_ASKED: dict[str, Schema] = {
    **_CONFIGURED,
    "prop_name": TEXT,
    "page": {"type": "integer"},
    "query": TEXT,
    "prev_context": THING,
}


_OF_SOURCES = {"key": "source", "version": "source_version", "configured_props": "source_props"}


def _components() -> Iterator[Operation]:
    for kind in ("components", "actions", "triggers"):
        listed = ("q", "app", "registry", "component_type", *PAGING)
        names = _OF_SOURCES if kind == "triggers" else {}
        yield from _both("GET", f"/{kind}", query=listed, answer="ComponentPage")
        yield from _both("GET", f"/{kind}/{{key}}", query=("version",), answer="ComponentData", names=names)
        yield from _both("POST", f"/{kind}/configure", body=_ASKED, answer="Options", names=names)
        yield from _both("POST", f"/{kind}/props", body=_CONFIGURED, answer="Props", names=names)
    yield from _both("POST", "/actions/run", body={**_CONFIGURED, "stash_id": TEXT}, answer="ActionRun")
    for method in METHODS:
        yield from _both(
            method,
            "/proxy/{url_64}",
            query=(*NAMED, "account_id"),
            body=None if method in ("GET", "DELETE") else {"a": THING},
            answer=None,
        )


def _deployed() -> Iterator[Operation]:
    deploy = {**_CONFIGURED, "workflow_id": {"named": "workflow_id"}, "webhook_url": URL, "emit_on_deploy": FLAG}
    yield from _both("POST", "/triggers/deploy", body=deploy, answer="TriggerData", names=_OF_SOURCES)
    yield from _both("GET", "/deployed-triggers", query=(*NAMED, "emitter_type", *PAGING), answer="TriggerPage")
    one = "/deployed-triggers/{trigger_id}"
    change = {"active": FLAG, "name": TEXT, "configured_props": {"named": "source_props"}, "emit_on_deploy": FLAG}
    yield from _both("GET", one, query=NAMED, answer="TriggerData")
    yield from _both("PUT", one, query=NAMED, body=change, answer="TriggerData")
    yield from _both("DELETE", one, query=(*NAMED, "ignore_hook_errors"), answer=None, statuses=(204,))
    yield from _both("GET", f"{one}/events", query=(*NAMED, "n"), answer="ListData")
    workflows: Schema = {"type": "array", "items": {"named": "workflow_id"}}
    yield from _both("GET", f"{one}/pipelines", query=NAMED, answer="WorkflowIds")
    yield from _both("PUT", f"{one}/pipelines", query=NAMED, body={"workflow_ids": workflows}, answer="WorkflowIds")
    yield from _both("GET", f"{one}/webhooks", query=NAMED, answer="Webhooks")
    urls: Schema = {"type": "array", "items": URL}
    yield from _both("PUT", f"{one}/webhooks", query=NAMED, body={"webhook_urls": urls}, answer="Webhooks")
    hook = f"{one}/webhooks/{{webhook_id}}"
    yield from _both("GET", hook, query=NAMED, answer="WebhookData")
    yield from _both("POST", f"{hook}/regenerate_signing_key", query=NAMED, answer="WebhookData")
    yield from _both("POST", f"{hook}/reset_delivery_state", query=NAMED, answer="WebhookData")


def _unsupported() -> Iterator[Operation]:
    rests = (
        "/webhook{rest}",
        "/oauth_apps{rest}",
        "/app_overrides{rest}",
        "/file_stash{rest}",
        "/projects{rest}",
        "/usage",
        "/rate_limits",
    )
    paths = [prefix + path for path in rests for prefix in (PROJECT, PREFIX)]
    for path in (*paths, "/v1/{rest}"):
        for method in METHODS:
            yield Operation(method, path, answer=None, statuses=(501,))


def _others() -> Iterator[Operation]:
    names = ("grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope", "token")
    credentials = dict.fromkeys(names, TEXT)
    media = ("application/json", "application/x-www-form-urlencoded")
    for name, answer in (("token", "AccessToken"), ("revoke", "Any")):
        yield Operation("POST", f"/v1/oauth/{name}", body=credentials, answer=answer, error="OAuthError", media=media)
    yield Operation("GET", "/_static/connect.html", query=("token", "app"), answer=None, error=None)
    form = {"token": {"named": "token"}, "app": {"named": "app"}, "seal": TEXT, "field:api_key": TEXT}
    yield Operation("POST", "/_static/connect.html", body=form, answer=None, error=None, media=media[1:])
    callback = ("state", "code", "error", "error_description")
    yield Operation("GET", "/_static/connect/callback", query=callback, answer=None, error=None)
    yield Operation("GET", "/-/live", answer="Any", error=None)
    yield Operation("GET", "/-/ready", answer="Any", error=None)
    yield from _console()
    yield Operation("GET", "/-/uploads/{name}", answer=None, error=None)
    for method in ("GET", "POST"):
        for verb in ("cancel", "resume"):
            yield Operation(method, f"/-/{verb}/{{run_id}}/{{path}}/{{number}}", answer=None, error=None)
    for method in ANY:
        yield Operation(method, "/-/{rest}", answer=None, error=None)
    for path in ("/v1/connect/{rest}", "/v1/apps{rest}"):
        yield Operation("OPTIONS", path, answer=None, error=None, statuses=(204,))
    for method in ANY:
        body = None if method in ("GET", "HEAD", "OPTIONS") else {"message": TEXT, "of": THING}
        yield Operation(
            method,
            "/{path}",
            query=("x-pd-nostore", "x-pd-notrigger", "pipedream_upload_body", "any"),
            body=body,
            answer=None,
            error=None,
            statuses=(200, 204),
            media=("application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"),
        )


def _console() -> Iterator[Operation]:
    form, media = {"csrf": TEXT, "note": TEXT, "pause": TEXT, "step": TEXT}, ("application/x-www-form-urlencoded",)
    filters = ("workflow", "external_user", "environment", "status", "since", "batch", "before")
    for path, query in (
        ("/", ()),
        ("/-/", ()),
        ("/-/login", ("code", "next")),
        ("/-/runs", filters),
        ("/-/runs/{run_id}", ("done",)),
        ("/-/events/runs", filters),
        ("/-/events/runs/{run_id}", ()),
        ("/-/batches", ()),
        ("/-/batches/{batch_id}", ("done",)),
        ("/-/users", ("environment", "external_user", "search")),
        ("/-/static/{name}", ()),
    ):
        yield Operation("GET", path, query=query, answer=None, error=None, statuses=(200, 303))
    for action in ("approve", "cancel", "fork", "reject", "replay", "resume"):
        yield Operation(
            "POST", f"/-/runs/{{run_id}}/{action}", body=form, answer=None, error=None, statuses=(200, 303), media=media
        )
    retry = "/-/batches/{batch_id}/retry"
    yield Operation("POST", retry, body={"csrf": TEXT}, answer=None, error=None, statuses=(200, 303), media=media)
    for path in ("/-/login", "/-/login/code", "/-/logout"):
        body = {"csrf": TEXT, "secret": TEXT, "next": TEXT}
        yield Operation("POST", path, body=body, answer=None, error=None, statuses=(200, 303), media=media)


def document(values: Values, described: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI description of *described*."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in described:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, values)
    return {
        "openapi": "3.1.0",
        "info": {"title": "pdkernel serve", "version": "1"},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _operation(operation: Operation, values: Values) -> dict[str, Any]:
    values = Values(
        {**values.known, **{name: values.of(other) for name, other in operation.names.items()}}, values.exact
    )
    parameters = [
        {"name": name, "in": place, "required": place == "path" or values.exact, "schema": _value(name, values)}
        for place, names in (("path", operation.parameters), ("query", operation.query))
        for name in names
        if place == "path" or not values.exact or values.of(name)
    ]
    described: dict[str, Any] = {"parameters": parameters, "responses": _responses(operation)}
    if operation.body is not None:
        properties = {
            name: held
            for name, held in _filled({name: dict(each) for name, each in operation.body.items()}, values).items()
            if held != TEXT or not values.exact
        }
        schema: Schema = {"type": "object", "properties": properties}
        if values.exact:
            schema["required"] = sorted(schema["properties"])
            schema["additionalProperties"] = False
        elif operation.media == ("application/x-www-form-urlencoded",):
            schema["additionalProperties"] = TEXT
        described["requestBody"] = {
            "required": values.exact,
            "content": {media: {"schema": schema} for media in operation.media},
        }
    return described


def _value(name: str, values: Values) -> Schema:
    known = values.of(name)
    if values.exact:
        return {"enum": known} if known else TEXT
    return {"anyOf": [{"enum": known}, {"type": "object"} if name.endswith("_props") else TEXT]} if known else TEXT


def _filled(schema: Any, values: Values) -> Any:
    """*schema* with the project's values in place of `named`."""
    if isinstance(schema, Mapping):
        if "named" in schema:
            return _value(schema["named"], values)
        return {name: _value(name, values) if held == TEXT else _filled(held, values) for name, held in schema.items()}
    return [_filled(each, values) for each in schema] if isinstance(schema, list) else schema


def _responses(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if operation.answer is not None:
        good["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{operation.answer}"}}}
    refused: dict[str, Any] = {"description": "Refused."}
    if operation.error is not None:
        refused["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{operation.error}"}}}
    unsupported = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Unsupported"}}}}
    if operation.statuses == (501,) and operation.error is not None:
        return {"501": {"description": "Not served.", **unsupported}, "4XX": refused}
    return {**{str(status): good for status in operation.statuses}, "4XX": refused}


def _object(required: str, **more: Schema) -> Schema:
    """The schema of an object with these properties, which are texts unless *more* has a schema."""
    names = required.split()
    return {
        "type": "object",
        "required": names,
        "properties": {**{name: TEXT for name in names if name not in more}, **more},
    }


def _page(item: str) -> Schema:
    info = _object(
        "count total_count start_cursor end_cursor",
        count={"type": "integer"},
        total_count={"type": "integer"},
        start_cursor={"type": ["string", "null"]},
        end_cursor={"type": ["string", "null"]},
    )
    return _object("page_info data", page_info=info, data={"type": "array", "items": _ref(item)})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_LIST: Schema = {"type": "array"}
_STAMP: Schema = {"type": "integer"}
SCHEMAS: dict[str, Schema] = {
    "Any": {},
    "List": _LIST,
    "Error": {**_object("error"), "maxProperties": 1},
    "OAuthError": _object("error error_description"),
    "Unsupported": _object("error route"),
    "AccessToken": _object("access_token token_type expires_in scope", expires_in={"const": 3600}),
    "App": _object(
        "id name_slug name auth_type description img_src custom_fields_json categories featured_weight scope_profiles",
        auth_type={"enum": ["oauth", "keys", "none"]},
        categories=_LIST,
        featured_weight={"type": "number"},
        scope_profiles=_LIST,
    ),
    "Account": _object(
        "id external_id healthy dead app created_at updated_at",
        id={"type": "string", "pattern": "^apn_"},
        healthy=FLAG,
        dead=FLAG,
        app=_ref("App"),
        credentials=THING,
    ),
    "Accounts": {"type": "array", "items": _ref("Account")},
    "User": _object("id external_id created_at updated_at"),
    "Component": _object("key name version component_type configurable_props", configurable_props=_LIST),
    "Trigger": _object(
        "id owner_id component_id component_key configurable_props configured_props active created_at updated_at name",
        id={"type": "string", "pattern": "^dc_"},
        configurable_props=_LIST,
        configured_props=THING,
        active=FLAG,
        created_at=_STAMP,
        updated_at=_STAMP,
    ),
    "Webhook": _object(
        "id url signing_key_set created_at updated_at", signing_key_set=FLAG, created_at=_STAMP, updated_at=_STAMP
    ),
    "Project": _object("id name"),
    "ProjectInfo": _object("apps", apps=_LIST),
    "ConnectToken": _object(
        "token expires_at connect_link_url", token={"type": "string", "pattern": "^ctok_[0-9a-f]{32}$"}
    ),
    "Validation": _object("success", success=FLAG, app=_ref("App")),
    "Options": _object("options observations errors", options=_LIST, observations=_LIST, errors=_LIST),
    "Props": _object("observations errors dynamicProps", observations=_LIST, errors=_LIST, dynamicProps=THING),
    "ActionRun": _object("exports os ret stash_id", exports=THING, os=_LIST, ret={}, stash_id={}),
    "WorkflowIds": _object("workflow_ids", workflow_ids=_LIST),
    "Webhooks": _object(
        "webhook_urls webhooks", webhook_urls=_LIST, webhooks={"type": "array", "items": _ref("Webhook")}
    ),
    "ListData": _object("data", data=_LIST),
    "Page": _page("Any"),
}
SCHEMAS |= {f"{name}Page": _page(name) for name in ("Account", "User", "App", "Component", "Trigger")}
SCHEMAS |= {f"{name}Data": _object("data", data=_ref(name)) for name in ("App", "Component", "Trigger", "Webhook")}
