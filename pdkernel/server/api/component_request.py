"""
Parses a request for a component: the component, the external user, and the values of props.

Values are data: an expression in a value stays text. An account must belong to the external user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pdkernel.actions import ActionReference, Component
from pdkernel.actions.component import ComponentKind
from pdkernel.common.blocking import run_blocking
from pdkernel.engine.data_store_service import DATA_STORE_PROP_TYPE
from pdkernel.errors import ActionNotFoundError
from pdkernel.model import ACCOUNT_KEY, JSON, Step
from pdkernel.operations.action_forms import FormRequest
from pdkernel.server.api.accounts import find_account
from pdkernel.server.api.api_call import ApiCall, ApiError
from pdkernel.storage import DEFAULT_DATA_STORE
from pdkernel.workers import ComponentDescription

ACTION_STEP_NAME = "action"


@dataclass(frozen=True)
class ComponentRequest:
    """
    A component, and the external user, accounts and values for a call.

    Attributes:
        component: The component.
        description: Declarations of the component.
        external_user_id: The external user.
        accounts: Chosen accounts by app.
        values: Values of the other props.
        uses: Key and version in the request.
        account_props: Values of app props.
    """

    component: Component
    description: ComponentDescription
    external_user_id: str
    accounts: Mapping[str, str]
    values: Mapping[str, JSON] = field(repr=False)
    uses: ActionReference
    account_props: Mapping[str, JSON]

    @property
    def event_data(self) -> dict[str, JSON]:
        """The event of the run; the step's expressions read the values from the event."""
        return {"props": list(self.values.values())}

    @property
    def props(self) -> dict[str, JSON]:
        """Props of the step without accounts; each is an expression on the event's values."""
        # the value of a data store prop is a name, not an expression
        stores = {prop.name for prop in self.description.props if prop.type == DATA_STORE_PROP_TYPE}
        return {
            name: value if name in stores else f"{{{{steps.trigger.event.props[{number}]}}}}"
            for number, (name, value) in enumerate(self.values.items())
        }

    @property
    def secret_variables(self) -> dict[str, str]:
        """Values of secret props, under names that code cannot read as environment variables."""
        secret = {prop.name for prop in self.description.props if prop.definition.get("secret")}
        return {
            f"props.{name}": value for name, value in self.values.items() if name in secret and isinstance(value, str)
        }

    def to_step(self) -> Step:
        """A step that uses the component."""
        return Step(ACTION_STEP_NAME, "node", uses=str(self.uses), props=self.props)

    def to_form_request(self, call: ApiCall) -> FormRequest:
        """The request for a form of the component's props."""
        remote = self.component.file is None
        # Pipedream evaluates no expressions in values of components that it runs itself
        values = dict(self.values) if remote else self.props
        return FormRequest(
            step=Step(ACTION_STEP_NAME, "node", uses=str(self.uses), props={**values, **self.account_props}),
            policy=call.policy,
            external_user_id=self.external_user_id,
            environment=call.environment,
            event={} if remote else self.event_data,
            folder=call.context.project.folder.parent,
        )


async def find_component(
    call: ApiCall, key: object, version: object, kind: ComponentKind | None
) -> tuple[ActionReference, Component]:
    """
    The component with that key.

    Raises:
        ApiError: The key or the version is missing or invalid.
        ActionNotFoundError: The component does not exist, or is of another kind.
    """
    if isinstance(key, dict):
        key = key.get("key")
    if not isinstance(key, str) or not key:
        raise ApiError(400, "id is missing: the component's key, for example slack-send-message.")
    if version is not None and not isinstance(version, str):
        raise ApiError(400, "version must be a string, for example 0.0.20.")
    uses = ActionReference.parse(f"{key}@{version}" if version else key)
    component = await call.context.engine.catalog.resolve_or_install(uses)
    if kind is not None and component.kind != kind:
        raise ActionNotFoundError(f"{component.key} is {'an action' if component.kind == 'action' else 'a trigger'}.")
    return uses, component


async def parse_component_request(
    call: ApiCall, body: Mapping[str, Any], kind: ComponentKind | None, *, whole: bool = True
) -> ComponentRequest:
    """
    Parse *body*.

    Args:
        call: The API request.
        body: The JSON body.
        kind: Required kind of component, or None.
        whole: Whether the values are complete. If so, a data store without a value is the project's default store.

    Raises:
        ApiError: A field is missing or wrong, an account is not the user's, or a data store is not open to Connect tokens.
        ActionNotFoundError: The component does not exist.
        StepError: The component's module cannot be loaded.
    """
    user = call.resolve_user(body.get("external_user_id", body.get("external_id")))
    uses, component = await find_component(call, body.get("id"), body.get("version"), kind)
    _, description = await call.context.forms.describe(uses)
    given = body.get("configured_props") or {}
    if not isinstance(given, dict):
        raise ApiError(400, "configured_props must be an object with values by prop.")
    await run_blocking(_check_stores, call, description, given, whole=whole)
    apps = {binding.prop: binding.app for binding in description.apps}
    accounts: dict[str, str] = {}
    account_props: dict[str, JSON] = {}
    for prop, app in apps.items():
        chosen = _account(prop, given.get(prop))
        if chosen is None:
            continue
        account = await find_account(call, chosen)
        if account.external_user_id != user or account.app != app:
            raise ApiError(404, f"There is no {app} account {chosen[:80]!r} of this external user.")
        accounts[app] = chosen
        account_props[prop] = {ACCOUNT_KEY: chosen}
    values = {name: value for name, value in given.items() if name not in apps and value is not None}
    return ComponentRequest(component, description, user, accounts, values, uses, account_props)


def _check_stores(call: ApiCall, description: ComponentDescription, given: Mapping[str, JSON], *, whole: bool) -> None:
    """
    Raise `ApiError` if a Connect token would use a data store that the project has not opened to Connect tokens.

    A data store belongs to the project and has data of all users. An OAuth client, the product's back end, may use every
    data store.
    """
    names = {
        prop.name: _store(prop.name, given.get(prop.name))
        for prop in description.props
        if prop.type == DATA_STORE_PROP_TYPE
    }
    if call.token is None or not names:
        return
    allowed = call.context.project.connect_data_stores
    for prop, name in names.items():
        store = name or (DEFAULT_DATA_STORE if whole else None)
        if store is not None and store not in allowed:
            raise ApiError(
                403,
                f"The data store {store[:80]!r} (prop {prop}) is not open to Connect tokens. Add it to the project's setting "
                "connect_data_stores (pdkernel project set), or use the access token of an OAuth client.",
            )


def _store(prop: str, value: JSON) -> str | None:
    """The name of the data store in *value*, or None."""
    if isinstance(value, dict):
        value = value.get("storeId")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ApiError(400, f"{prop} must be the name of a data store, a string.")
    return value


def _account(prop: str, value: object) -> str | None:
    if isinstance(value, dict) and value.get(ACCOUNT_KEY) is not None:
        value = value[ACCOUNT_KEY]
    if value is None or value == {}:
        return None
    if not isinstance(value, str):
        raise ApiError(400, f'{prop} must be an account: {{"authProvisionId": "apn_..."}}.')
    return value
