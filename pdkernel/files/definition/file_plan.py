"""
Builds the definition files of a workflow as values, and finds credentials written into them; pure, writes nothing.

The forms and names of credentials are in `secret_patterns`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pdkernel.common.secret_patterns import CREDENTIAL_FORMS, is_credential_prop
from pdkernel.errors import DefinitionError
from pdkernel.files.definition.control_flow import build_control_flow
from pdkernel.files.definition.entry_file import INFERRED_LANGUAGES, RUNTIME_NAMES, default_entry_path, detect_language
from pdkernel.files.definition.sidecar import (
    EXTERNAL_USER,
    SIDECAR_FILE_NAME,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    dump_sidecar,
)
from pdkernel.files.definition.step_props import (
    PROPS_CURSOR_KEY,
    build_props_mapping,
    get_bookkeeping,
    get_explicit_app,
    has_valid_cursor,
    is_store_id,
)
from pdkernel.language.analysis import find_app_bindings, find_workflow_variables, is_synced
from pdkernel.language.directive import dump_yaml
from pdkernel.language.expression import RULE_FILTER
from pdkernel.model import JSON, ROUND_TRIP_KEY, AppBinding, Step, Workflow

_MIN_CREDENTIAL_CHARS = 8
"""Length of a text that counts as a credential; shorter texts are words, such as a token's type."""


def check_no_credentials(workflow: Workflow, *, existing: Workflow | None = None) -> None:
    """
    Refuse a workflow that contains a credential in plain text.

    Args:
        workflow: The workflow to write.
        existing: The workflow in the folder; its credentials are in the Git history already and are not refused.

    Raises:
        DefinitionError: A credential was found; the message names the step and the prop or line, never the text.
    """
    known = frozenset() if existing is None else frozenset(_credentials(existing))
    for fault in find_credential_errors(workflow, known_texts=known):
        raise fault


def find_credential_errors(
    workflow: Workflow, *, known_texts: frozenset[str] = frozenset()
) -> Iterator[DefinitionError]:
    """Yield the errors that `check_no_credentials` raises, one per place; texts in *known_texts* are skipped."""
    for step in workflow.steps:
        for path, text in iter_texts(step.props):
            if (what := _find_credential(text, known_texts)) is not None:
                yield _fault(step, f"the prop {'.'.join(map(str, path))} holds what looks like {what[0]}", None)
        for file, text in (("", step.source), *step.files.items()):
            if (found := _find_credential(text, known_texts)) is not None:
                line = text.count("\n", 0, found[1]) + 1 + (0 if file else step.line_offset)
                where = f"its file {file}" if file else "its code"
                yield _fault(step, f"{where} holds what looks like {found[0]} (line {line})", None if file else line)


def find_credential_named_props(step: Step) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of props with a credential's name and plain text that matches none of the known patterns."""
    for path, text in iter_texts(step.props):
        if (
            is_credential_prop(str(path[-1]))
            and len(text) >= _MIN_CREDENTIAL_CHARS
            and "{{" not in text
            and _find_credential(text) is None
        ):
            yield path


def _fault(step: Step, what: str, line: int | None) -> DefinitionError:
    return DefinitionError(
        f"Step {step.name}: {what}, and these files are made for a Git repository.",
        fix="Store it with `pdkernel env set NAME` and read it there: {{process.env.NAME}} in a prop.",
        step=step.name,
        line=line,
    )


def _find_credential(text: str, known: frozenset[str] = frozenset()) -> tuple[str, int] | None:
    if text in known:
        return None
    return next(((what, start) for what, start, found in _iter_credentials(text) if found not in known), None)


def _iter_credentials(text: str) -> Iterator[tuple[str, int, str]]:
    for what, form in CREDENTIAL_FORMS:
        yield from ((what, match.start(), match[0]) for match in form.finditer(text))


def _credentials(workflow: Workflow) -> Iterator[str]:
    for step in workflow.steps:
        for text in (step.source, *step.files.values(), *(text for _, text in iter_texts(step.props))):
            yield text
            # all private keys start with the same line, so it does not identify a key
            yield from (found for _, _, found in _iter_credentials(text) if not found.startswith("-----"))


def iter_texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every text in *value*, with its path below *path*."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from iter_texts(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from iter_texts(item, (*path, index))


WORKFLOW_FILE = "workflow.yaml"
STATE_FILE = ".workflow.state"
WORKFLOW_SCHEMA = "workflow/2022.04"
SIDECAR_SETTINGS = (
    "memory",
    "concurrency",
    "throttle",
    "queue",
    "auto_retry",
    "retention",
    "resume_on_get",
    "share_workers",
    "listen",
)
"""Settings that were never observed in `workflow.yaml`: they are written to `pdkernel.yaml`."""
OWN_SETTINGS = frozenset({"share_workers", "listen"})
"""Those that the platform does not have."""


@dataclass(frozen=True, slots=True)
class DefinitionFile:
    """A file of a definition: its path inside the workflow's folder, with slashes, and its text."""

    path: str
    text: str


def plan_files(workflow: Workflow, *, sidecar: Sidecar | None = None) -> tuple[DefinitionFile, ...]:
    """
    Return the files of *workflow*: `workflow.yaml`, `pdkernel.yaml`, then one entry file for each code step.

    Args:
        workflow: The workflow to write, without pins.
        sidecar: Values that the workflow does not hold (endpoint, test users, actions).

    Raises:
        DefinitionError: A prop or code contains a credential, or a prop's expression cannot be read.
    """
    check_no_credentials(workflow)
    base = sidecar or Sidecar()
    files = [
        # Every file that the platform writes ends with one more blank line.
        DefinitionFile(WORKFLOW_FILE, dump_yaml(_workflow_mapping(workflow, base)) + "\n"),
        DefinitionFile(
            SIDECAR_FILE_NAME, dump_sidecar(build_sidecar(workflow, base), inferred_steps=find_inferred_steps(workflow))
        ),
    ]
    return (*files, *build_step_files(workflow))


def find_inferred_steps(workflow: Workflow) -> tuple[str, ...]:
    """Return the steps whose form in `workflow.yaml` was never observed in a synced repository."""
    return tuple(step.name for step in workflow.steps if step.language in INFERRED_LANGUAGES)


def build_step_files(workflow: Workflow) -> tuple[DefinitionFile, ...]:
    """Return the entry files of code steps and the files that these import, without steps whose code is missing."""
    found: dict[str, DefinitionFile] = {}
    for step in workflow.steps:
        for path, text in iter_step_files(step):
            other = found.setdefault(path, DefinitionFile(path, text))
            if other.text != text:
                raise DefinitionError(
                    f"Step {step.name}: its code is written to {path}, and another step has different code there.",
                    fix="Rename this step's cell: a step with another name has a separate file.",
                    step=step.name,
                )
    return tuple(found.values())


def iter_step_files(step: Step) -> Iterator[tuple[str, str]]:
    """Yield the entry file of *step* and the files that it imports, by path in the workflow's folder; none if the code is missing."""
    if step.uses or step.is_code_missing:
        return
    entry = posixpath.normpath(get_entry_path(step))
    yield entry, step.source
    for path, text in step.files.items():
        yield posixpath.normpath(posixpath.join(posixpath.dirname(entry), path)), text


def get_entry_path(step: Step) -> str:
    """Return the path for `uses` of a code step, or of the builder's Filter step: the path it was read from, else the platform's default."""
    entry = get_bookkeeping(step).get("entry")
    if isinstance(entry, str) and detect_language(entry) in (step.language, None):
        return entry
    return f"./{default_entry_path(step.name, step.language)}"


def get_written_uses(step: Step) -> str:
    """Return the value of `uses` in `workflow.yaml`: an action, or a path. The builder's Filter step has a path, and Git has no file there."""
    return get_entry_path(step) if step.uses in (None, RULE_FILTER) else step.uses


def _workflow_mapping(workflow: Workflow, base: Sidecar) -> dict[str, JSON]:
    extra = dict(workflow.extra)
    mapping: dict[str, JSON] = {"schema": extra.pop("schema", WORKFLOW_SCHEMA), "name": workflow.name}
    if "inactive" in extra:
        mapping["inactive"] = extra.pop("inactive")
    if settings := _git_settings(workflow):
        mapping["settings"] = settings
    ids: list[JSON] = [{"id": trigger.config["id"]} for trigger in workflow.triggers if "id" in trigger.config]
    mapping["triggers"] = extra.pop("triggers", ids)
    if steps := _step_entries(workflow, base):
        mapping["steps"] = steps
    extra.pop(ROUND_TRIP_KEY, None)
    return {**mapping, **extra}


def _step_entries(workflow: Workflow, base: Sidecar) -> list[JSON]:
    """Return the steps, each followed by its unsupported entries, without those of an archive; entries of removed steps come last."""
    names = {step.name for step in workflow.steps}
    below: dict[str | None, list[JSON]] = {}
    for kept in workflow.unsupported_entries:
        if kept.path is not None:
            continue
        place = kept.after_step if kept.after_step is None or kept.after_step in names else ""
        below.setdefault(place, []).append(dict(kept.entry))
    entries = below.get(None, [])
    for step in workflow.steps:
        entries += [build_step_mapping(step, base.steps.get(step.name)), *below.get(step.name, [])]
    return entries + below.get("", [])


def _git_settings(workflow: Workflow) -> dict[str, JSON]:
    settings = {key: value for key, value in workflow.settings.items() if key not in SIDECAR_SETTINGS}
    if "schema" in workflow.extra:
        return settings  # as it was read
    return {"error_notification": settings.pop("error_notification", True), **settings}


def build_step_mapping(step: Step, step_sidecar: StepSidecar | None = None) -> dict[str, JSON]:
    """Return the entry of *step* in `workflow.yaml`; *step_sidecar* is its entry in `pdkernel.yaml`."""
    extra = {key: value for key, value in step.extra.items() if key != ROUND_TRIP_KEY}
    mapping: dict[str, JSON] = {"namespace": step.name}
    if step.disabled:
        mapping["disabled"] = True
    if step.notes is not None:
        mapping["notes"] = step.notes
    runtime = extra.pop("runtime", RUNTIME_NAMES.get(step.language))
    if runtime is not None:
        mapping["runtime"] = runtime
    mapping["uses"] = get_written_uses(step)
    if step.disabled:
        extra.pop("disabled", None)
    if step.notes is not None:
        extra.pop("notes", None)
    if not has_valid_cursor(step):
        extra.pop(PROPS_CURSOR_KEY, None)
    mapping.update(extra)
    # Bash and Go steps have no accounts on the platform: only pdkernel.yaml stores the account choice
    if props := build_props_mapping(
        step, () if step.language in INFERRED_LANGUAGES else _synced_apps(step, step_sidecar)
    ):
        mapping["props"] = props
    return mapping


def _synced_apps(step: Step, step_sidecar: StepSidecar | None) -> tuple[AppBinding, ...]:
    """Return the step's app props, with the account id from Git where the choice is a local account or is unanswered."""
    choices = step_sidecar.accounts if step_sidecar is not None else {}
    return tuple(
        replace(app, account=choice.synced)
        if (choice := choices.get(app.prop)) is not None and choice.synced and _stands_for(choice, app)
        else app
        for app in find_app_bindings(step)
    )


def _stands_for(choice: AccountChoice, app: AppBinding) -> bool:
    return choice.account == (app.account or UNANSWERED)


def build_sidecar(workflow: Workflow, base: Sidecar) -> Sidecar:
    """Return everything that `workflow.yaml` does not store, added to *base*."""
    variables = dict.fromkeys(
        (*base.variables, *workflow.variables, *find_workflow_variables(workflow, ignore_bad_props=is_synced(workflow)))
    )
    return replace(
        base,
        workflow=workflow.name,
        triggers=workflow.triggers,
        steps={step.name: _step_sidecar(step, base.steps.get(step.name)) for step in workflow.steps},
        control_flow=build_control_flow(workflow),
        limits={key: workflow.settings[key] for key in SIDECAR_SETTINGS if key in workflow.settings},
        variables=tuple(variables),
    )


def _step_sidecar(step: Step, step_sidecar: StepSidecar | None) -> StepSidecar:
    known = step_sidecar.accounts if step_sidecar is not None else {}
    accounts: Mapping[str, AccountChoice] = {
        app.prop: _choice(app, known.get(app.prop), get_explicit_app(app, step.uses)) for app in find_app_bindings(step)
    }
    return StepSidecar(
        language=step.language if step.language in INFERRED_LANGUAGES else None,
        timeout_s=step.timeout_s,
        accounts=accounts,
        stores={
            store.prop: store.store for store in step.stores if store.store is None or not is_store_id(store.store)
        },
    )


def _choice(app: AppBinding, known: AccountChoice | None, slug: str | None) -> AccountChoice:
    """Return the account choice for *app*; the *known* choice is kept where it agrees with the step."""
    account = app.account or EXTERNAL_USER
    if known is None or account not in {known.account, EXTERNAL_USER}:
        return AccountChoice(account, slug)
    return AccountChoice(UNANSWERED if known.account == UNANSWERED else account, slug, known.synced)
