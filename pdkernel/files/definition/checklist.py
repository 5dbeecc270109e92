"""The manual steps after an export, as sentences for a person with the workflow builder open, and the README that lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pdkernel.errors import RequestError
from pdkernel.files.definition.entry_file import INFERRED_LANGUAGES
from pdkernel.files.definition.file_plan import OWN_SETTINGS, SIDECAR_SETTINGS
from pdkernel.files.definition.sidecar import SIDECAR_FILE_NAME, Sidecar
from pdkernel.files.definition.step_props import is_store_id
from pdkernel.language.analysis import find_app_bindings, find_workflow_variables, is_synced, responds
from pdkernel.language.directive import describe_emitters
from pdkernel.model import LANGUAGE_NAMES, ForEach, Step, Trigger, Workflow

CHECKLIST_HEADING = "Set up by hand, because Git sync does not transfer it:"


def build_checklist(
    workflow: Workflow,
    *,
    pinned_steps: Collection[str] = (),
    kept_accounts: Mapping[tuple[str, str], str] | None = None,
) -> tuple[str, ...]:
    """
    Return the manual steps after an export, in order.

    Args:
        workflow: The exported workflow.
        pinned_steps: Steps whose exports are pinned in the notebook.
        kept_accounts: Account ids that stay in a synced folder, by step and prop.
    """
    return tuple(_sentences(workflow, frozenset(pinned_steps), kept_accounts or {}))


def list_omissions(sidecar: Sidecar) -> tuple[str, ...]:
    """Return the values of *sidecar* that a folder without `pdkernel.yaml` does not store, as sentences."""
    accounts = [f"{name}.{prop}" for name, entry in sidecar.steps.items() for prop in entry.accounts]
    stores = [f"{name}.{prop}" for name, entry in sidecar.steps.items() for prop in entry.stores]
    parts = [
        f"the account choices of {', '.join(accounts)}" if accounts else "",
        f"the data stores of {', '.join(stores)}" if stores else "",
        "the key of its endpoint" if sidecar.endpoint else "",
        "its limits" if sidecar.limits else "",
        "its environment variables" if sidecar.variables else "",
        "its test users" if sidecar.test_users else "",
        "the names of its test events" if sidecar.test_events else "",
        "the source of actions" if sidecar.actions else "",
        "the workflows that may name an external user" if sidecar.naming_callers else "",
        "the trigger's settings" if any(_has_settings(trigger) for trigger in sidecar.triggers) else "",
    ]
    omitted = "; ".join(part for part in parts if part)
    if not omitted:
        return ()
    return (f"Left out, as the folder has no {SIDECAR_FILE_NAME} (--docs writes one): {omitted}.",)


def _has_settings(trigger: Trigger) -> bool:
    """Return whether *trigger* has any setting besides its type and id."""
    return bool(
        replace(trigger, config={k: v for k, v in trigger.config.items() if k != "id"}) != Trigger(trigger.type)
    )


def _sentences(workflow: Workflow, pins: frozenset[str], kept: Mapping[tuple[str, str], str]) -> Iterator[str]:
    if "schema" not in workflow.extra:
        yield (
            f"Create an empty workflow {workflow.name!r} in a Git-backed project first: Git sync does not create one. "
            "Then put these files into the folder that Pipedream makes for it, and keep its .workflow.state."
        )
    if workflow.blocks:
        yield _describe_blocks(workflow)
    for trigger in workflow.triggers:
        if "id" not in trigger.config:
            yield _trigger(trigger)
        elif _has_settings(trigger):
            setup = _trigger(trigger).removeprefix("Create ").replace(" in the builder", "", 1)
            yield f"Trigger {trigger.config['id']}: Git holds its id alone. Check in the builder that it is {setup}"
    for step in workflow.steps:
        yield from _step(step, kept)
    platform_settings = [key for key in SIDECAR_SETTINGS if key in workflow.settings and key not in OWN_SETTINGS]
    limits = [f"{key}: {json.dumps(workflow.settings[key])}" for key in platform_settings]
    if limits:
        yield f"Set in the workflow's settings: {', '.join(limits)}."
    if variables := dict.fromkeys(
        (*workflow.variables, *find_workflow_variables(workflow, ignore_bad_props=is_synced(workflow)))
    ):
        yield f"Set these environment variables in the project: {', '.join(variables)}."
    if pinned := [step.name for step in workflow.steps if step.name in pins]:
        yield f"Pins are not exported: {', '.join(pinned)} will run."


def _describe_blocks(workflow: Workflow) -> str:
    names = ", ".join(block.name for block in workflow.blocks)
    inner = ", ".join(step.name for step in workflow.steps if step.inside is not None) or "none"
    return (
        f"Git does not hold branches ({names}): pdkernel.yaml has them, and workflow.yaml has their steps in one list, so Pipedream runs "
        f"{inner} for every event. Build the branches in the builder before you deploy there."
    )


def _trigger(trigger: Trigger) -> str:
    config = dict(trigger.config)
    match trigger.type:
        case "http":
            answer = "a custom response" if trigger.response == "custom" else "the default response"
            auth = {"none": "no authorization", "bearer": "a custom token", "oauth": "Pipedream OAuth"}[trigger.auth]
            token = f" (the value of {trigger.token_env})" if trigger.token_env else ""
            return f"Create the HTTP trigger in the builder, with {auth}{token} and {answer}."
        case "schedule":
            seconds = config.get("interval_seconds")
            when = config.get("cron") or (f"every {seconds} seconds" if seconds else "when it should run")
            zone = f" in {config['timezone']}" if "timezone" in config else ""
            each = trigger.for_each
            # parity[for-each-user]: a schedule of the platform has no external user
            lost = "" if each is None else f" {_describe_lost_for_each(each)}"
            return f"Create the schedule trigger in the builder: {when}{zone}.{lost}"
        case "email":
            return "Create the email trigger in the builder."
        case "errors":
            only = f" It fires for every workflow: let it exit unless the error is of {describe_emitters(trigger)}."
            more = only if "workflows" in config else ""
            return f"Create the trigger `Workspace $error events` of the Pipedream app in the builder.{more}"
        case "emit":
            return (
                f"Create the subscription to events of {describe_emitters(trigger)} with the REST API (POST /v1/subscriptions). A project "
                "with GitHub Sync has no subscriptions: there, call $.flow.trigger in the emitting workflow instead."
            )
        case "source":
            return f"Create the trigger {config.get('uses')} in the builder, with its props and account."


def _describe_lost_for_each(each: ForEach) -> str:
    return (
        f"Pipedream has no for_each: the schedule starts one run without an external user there, not one for {each}. "
        "Call the workflow's HTTP trigger once for each user instead, or serve it with pdkernel serve."
    )


def _step(step: Step, kept: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield from _accounts(step, kept)
    for store in step.stores:
        if store.store is None or not is_store_id(store.store):
            yield f"Step {step.name}: choose the data store for {store.prop} in the builder."
    if step.language in INFERRED_LANGUAGES and responds(step) != "never":
        yield (
            f"Step {step.name}: on Pipedream {LANGUAGE_NAMES[step.language]} steps cannot respond. "
            "Put the response into a Python or Node.js step."
        )
    if step.language in INFERRED_LANGUAGES:
        yield (
            f"Step {step.name}: check it after the sync. The form of a {LANGUAGE_NAMES[step.language]} step in "
            "workflow.yaml is inferred; if it is refused, create it in the builder and paste the code."
        )
    if step.props and step.language != "node":
        yield f"Step {step.name}: only Node.js steps have props on Pipedream; {', '.join(step.props)} will be ignored."
    if step.timeout_s is not None:
        yield f"Step {step.name}: Pipedream has no time limit per step; the workflow's limit applies."
    if step.debug:
        yield f"Step {step.name}: --debug is for the notebook and is not exported."


def _accounts(step: Step, kept: Mapping[tuple[str, str], str]) -> Iterator[str]:
    for app in find_app_bindings(step):
        account = kept.get((step.name, app.prop))
        if account is not None and step.language not in INFERRED_LANGUAGES:
            if app.account is None:
                yield (
                    f"Step {step.name}: the file keeps {account} for {app.app}. If it is to be the external user's "
                    'account, choose "Use end user\'s auth via Connect" in the builder.'
                )
        elif step.language in INFERRED_LANGUAGES:
            yield (
                f"Step {step.name}: on Pipedream {LANGUAGE_NAMES[step.language]} steps have no accounts. {app.app} is not "
                "exported, and the step will not run there as it is: give it the account in a Python or Node.js step."
            )
        elif app.account is None:
            yield f'Step {step.name}: for {app.app}, choose "Use end user\'s auth via Connect" in the builder.'
        else:
            yield f"Step {step.name}: {app.account} must be an account of the workspace, shared with the project."


README = "README.md"
GENERATED_COMMENT = "<!-- Written by `pdkernel export --docs`, and written anew with each export: do not edit. -->"


def build_readme(workflow: Workflow, checklist: Sequence[str] = ()) -> str:
    """
    Return the `README.md` of *workflow*.

    Args:
        workflow: The workflow to describe.
        checklist: Manual steps after the export.
    """
    return "\n".join(_lines(workflow, checklist)) + "\n"


def check_readme_replaceable(folder: Path) -> None:
    """
    Refuse to overwrite a `README.md` that an export did not write.

    Raises:
        RequestError: The file in *folder* was not written by an export, or cannot be read.
    """
    path = folder / README
    try:
        with path.open("rb") as stream:
            start = stream.read(len(GENERATED_COMMENT))
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.") from None
    if start != GENERATED_COMMENT.encode():
        raise RequestError(
            f"{path} exists and was not written by an export: it would be overwritten.",
            fix="Move it away, or export without --docs.",
        )


def _lines(workflow: Workflow, checklist: Sequence[str]) -> Iterator[str]:
    yield from (GENERATED_COMMENT, "", f"# {_text(workflow.name)}", "", "Started by:", "")
    yield from (f"- {_readme_line(trigger)}" for trigger in workflow.triggers)
    if not workflow.triggers:
        yield "- other workflows, by `$.flow.trigger`"
    if workflow.steps:
        yield from ("", "| step | runs | accounts | notes |", "|---|---|---|---|")
        yield from (_row(step, workflow.path(step.name)) for step in workflow.steps)
    if variables := find_workflow_variables(workflow):
        yield from ("", "Environment variables:", "")
        yield from (f"- `{name}`, read by {', '.join(readers)}" for name, readers in variables.items())
    yield from ("", "Serve this folder:", "", "    pdkernel serve .")
    if checklist:
        yield from ("", CHECKLIST_HEADING, "")
        yield from (f"- [ ] {_text(sentence)}" for sentence in checklist)


def _readme_line(trigger: Trigger) -> str:
    kind = {
        "http": "an HTTP request",
        "schedule": "a schedule",
        "email": "an email",
        "source": "an event source",
        "errors": "errors of other workflows",
        "emit": "events that other workflows emit",
    }
    config = {key: value for key, value in trigger.config.items() if key != "id"}
    if trigger.type == "http":
        config = {"auth": trigger.auth, "response": trigger.response, **config}
    settings = ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()
    )
    return _text(f"{kind[trigger.type]} ({settings})" if settings else kind[trigger.type])


def _row(step: Step, path: str) -> str:
    runs = f"`{step.uses}`" if step.uses else LANGUAGE_NAMES[step.language]
    accounts = ", ".join(f"{app.app}: {app.account or 'of the external user'}" for app in find_app_bindings(step))
    state = ", disabled" if step.disabled else ""
    return f"| `{path}` | {runs}{state} | {_text(accounts)} | {_text(step.notes or '')} |"


def _text(text: str) -> str:
    """Return *text* as one line of Markdown with all markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
