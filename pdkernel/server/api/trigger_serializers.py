"""
JSON form of deployed triggers and webhooks in the API.

Times of triggers are in milliseconds, times of webhooks in seconds. Only a back end receives signing keys.
"""

from __future__ import annotations

from typing import Any

from pdkernel.actions.action_reference import suggest_step_name
from pdkernel.engine.event_sources import HTTP_INTERFACE
from pdkernel.engine.run_context import derive_id
from pdkernel.model import ACCOUNT_KEY, JSON
from pdkernel.server.api.api_call import ApiCall
from pdkernel.server.api.component_serializers import serialize_props
from pdkernel.server.trigger_runner import trigger_endpoint_url
from pdkernel.storage import DeployedTrigger, Webhook
from pdkernel.workers import ComponentDescription


def serialize_trigger(
    call: ApiCall, trigger: DeployedTrigger, description: ComponentDescription | None
) -> dict[str, Any]:
    """Serialize a deployed trigger."""
    accounts: dict[str, JSON] = {}
    for app in description.apps if description is not None else ():
        if app.app in trigger.accounts:
            accounts[app.prop] = {ACCOUNT_KEY: trigger.accounts[app.app]}
    return {
        "type": "DeployedComponent",
        "id": trigger.id,
        "owner_id": derive_id("exu_", f"{trigger.environment}/{trigger.external_user_id}"),
        "component_id": derive_id("sc_", trigger.key),
        "component_key": trigger.key,
        "configurable_props": serialize_props(description) if description is not None else [],
        "configured_props": {
            **accounts,
            **_visible_props(trigger, description),
            **_interfaces(call, trigger, description),
        },
        "active": trigger.active,
        "created_at": int(trigger.created_at.timestamp() * 1000),
        "updated_at": int(trigger.updated_at.timestamp() * 1000),
        "name": trigger.name,
        "name_slug": suggest_step_name(trigger.key).replace("_", "-"),
        "callback_observations": None,
        "emit_on_deploy": trigger.emits_on_deploy,
    }


def serialize_webhook(call: ApiCall, hook: Webhook) -> dict[str, Any]:
    """Serialize a webhook, with its signing key if the caller is a back end (Python's SDK requires the key)."""
    shown: dict[str, Any] = {
        "id": hook.id,
        "url": hook.url,
        "signing_key_set": True,
        "active": True,
        "delivery_state": {
            "state": "penalty" if hook.failures else "happy",
            "since": None if hook.failing_since is None else int(hook.failing_since),
            "last_error": hook.last_error,
            "consecutive_failures": hook.failures,
            "sheds": 0,
        },
        "created_at": int(hook.created),
        "updated_at": int(hook.key_created),
    }
    return shown if call.token is not None else {**shown, "signing_key": hook.signing_key}


def _interfaces(call: ApiCall, trigger: DeployedTrigger, description: ComponentDescription | None) -> dict[str, JSON]:
    """URLs of the trigger's HTTP interfaces, by prop."""
    url = trigger_endpoint_url(call.context, trigger)
    props = description.props if description is not None and url is not None else ()
    return {prop.name: {"endpoint_url": url} for prop in props if prop.type == HTTP_INTERFACE}


def _visible_props(trigger: DeployedTrigger, description: ComponentDescription | None) -> dict[str, JSON]:
    """Configured props without secrets; none if the source cannot be loaded, because any of them may be a secret."""
    if description is None:
        return {}
    secret = {prop.name for prop in description.props if prop.definition.get("secret")}
    return {name: value for name, value in trigger.props.items() if name not in secret}
