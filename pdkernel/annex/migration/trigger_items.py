"""What a team must act on for the triggers of one workflow: endpoints, schedules, sources, email and errors."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pdkernel.annex.migration.migration_report import SHUTDOWN_DAY, MigrationItem
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.identity import PIPEDREAM_ENDPOINT_DOMAIN
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY
from pdkernel.language.directive import describe_emitters
from pdkernel.model import JSON, Trigger, Workflow


def find_trigger_items(source: MigrationSource, workflow: Workflow) -> Iterator[MigrationItem]:
    """The items of the triggers of *workflow*, that of *source*."""
    triggers = workflow.triggers
    if not triggers:
        yield MigrationItem(
            "no_trigger",
            workflow.name,
            "The workflow does not have a trigger: it was started by hand or by another workflow.",
            "Decide what starts it here: `triggers:` in pdkernel.yaml.",
        )
        return
    if len(triggers) > 1:
        listed = ", ".join(_trigger_name(trigger) for trigger in triggers)
        yield MigrationItem(
            "several_triggers",
            workflow.name,
            f"The workflow has {len(triggers)} triggers: {listed}.",
            "Switch all of them over together, so that no event is handled twice.",
        )
    is_configured = source.has_api_settings or bool(source.sidecar and source.sidecar.triggers)
    is_configured = is_configured or source.path is None or not source.path.is_dir()
    for trigger in triggers:
        yield from _of_trigger(trigger, shlex.quote(source.source), is_configured=is_configured)


def _trigger_name(trigger: Trigger) -> str:
    trigger_id = trigger.config.get("id")
    return f"{trigger_id} ({trigger.type})" if trigger_id else trigger.type


def _of_trigger(trigger: Trigger, place: str, *, is_configured: bool) -> Iterator[MigrationItem]:
    name = _trigger_name(trigger)
    switch = "Turn the workflow off at Pipedream first, then on here: both would handle each event."
    enable = f"pdkernel triggers enable {place}"
    match trigger.type:
        case "http":
            yield from _endpoint_items(trigger, name, is_configured=is_configured)
        case "schedule":
            if not {"cron", "interval_seconds"} & trigger.config.keys():
                yield _unknown_settings(
                    name,
                    f"Git does not hold the times of the schedule {name}.",
                    "the cron expression and the time zone",
                )
            yield MigrationItem("schedule", name, f"The schedule {name} starts the workflow.", switch, enable)
        case "source":
            if not trigger.config.get("uses"):
                yield _unknown_settings(
                    name,
                    f"Git holds only the id of the event source {name}: its component and its props are not known.",
                    "the component's key and its props",
                )
            yield MigrationItem("source", name, f"The event source {name} starts the workflow.", switch, enable)
            yield MigrationItem(
                "source_state",
                name,
                f"The state of the source {name} (ids already handled, last poll, webhooks) stays at Pipedream.",
                "Turn the source off there before its first poll here. Its first poll here may find events that were handled there.",
            )
        case "email":
            yield MigrationItem(
                "email_address",
                name,
                f"The email address of {name} at Pipedream ends on {SHUTDOWN_DAY}.",
                "Give the senders the new address before that day: forward mail from a mailbox of your own.",
                enable,
            )
        case "errors":
            yield MigrationItem(
                "error_handler",
                name,
                f"The workflow handles errors of {describe_emitters(trigger)}.",
                "Switch it over before the workflows whose errors it handles.",
                enable,
            )
        case "emit":
            yield MigrationItem(
                "source", name, f"Events of {describe_emitters(trigger)} start the workflow.", switch, enable
            )


def _unknown_settings(name: str, message: str, missing: str) -> MigrationItem:
    fix = f"Copy {missing} from the builder to `triggers:` in pdkernel.yaml."
    return MigrationItem("trigger_settings", name, message, fix)


def _endpoint_items(trigger: Trigger, name: str, *, is_configured: bool) -> Iterator[MigrationItem]:
    url = trigger.config.get(ENDPOINT_URL_KEY)
    host = _host(url)
    assumed = (
        "" if is_configured else " Its authorization and response mode are not in Git: check them in pdkernel.yaml."
    )
    yield MigrationItem(
        "endpoint",
        str(url) if host else name,
        f"The endpoint {url if host else f'of {name}'} at Pipedream ends on {SHUTDOWN_DAY}.{assumed}",
        "Find its callers in the event history (client_ip, user-agent, referer), and give them the URL that `pdkernel serve` prints.",
    )
    if host and host != PIPEDREAM_ENDPOINT_DOMAIN and not host.endswith(f".{PIPEDREAM_ENDPOINT_DOMAIN}"):
        yield MigrationItem(
            "custom_domain",
            host,
            f"The endpoint has a domain of your own: {host}.",
            "Point the domain to your server (DNS and TLS), and keep the path: its callers need no change.",
        )


def _host(url: JSON) -> str:
    return str(url).partition("://")[2].partition("/")[0].lower() if isinstance(url, str) else ""
