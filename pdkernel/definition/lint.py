"""
What to look at before a workflow is deployed: the rules of the lint and their order, findings with their place.

Nothing is refused here: `file_plan` and `check_workflow` refuse what must not be written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from pdkernel.analysis import (
    find_app_bindings,
    find_python_requirements,
    find_reference_errors,
    missing_responses,
    node_packages,
)
from pdkernel.definition.credential_check import find_credential_errors, find_credential_named_props, iter_texts
from pdkernel.definition.file_plan import WORKFLOW_FILE, get_entry_path
from pdkernel.definition.languages import INFERRED_LANGUAGES
from pdkernel.definition.sidecar import EXTERNAL_USER, UNANSWERED, Sidecar, StepSidecar
from pdkernel.definition.slug import slugify
from pdkernel.directive.setting_rules import SETTING_RULES
from pdkernel.errors import DefinitionError
from pdkernel.model import AppBinding, Step, Workflow
from pdkernel.render.files import Finding

MAX_PROP_BYTES = 64 * 1024
"""Of a prop's value (components reference, "prop limits")."""
_LANGUAGES = {"bash": "Bash", "go": "Go"}
_EXACT = re.compile(r"\d+\.\d+\.\d+[\w.+-]*\Z")
_RESPONSE_FIX = "Send one on every way: `$.respond({...})`, in Python `pd.respond({...})`, before the step can end."


def check_references(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """References to steps that do not exist or come later, and expressions that cannot be read."""
    for problem in find_reference_errors(workflow):
        step = workflow.step(problem.step) if problem.step is not None else None
        path = _path_of_reference(step, problem) if step is not None and step.props_file is not None else None
        if step is not None and path is not None and problem.line is None:
            yield _at_prop("reference", step, path, problem.message, problem.fix)
        else:
            yield _from_error("reference", workflow, problem)


def _path_of_reference(step: Step, problem: DefinitionError) -> tuple[str | int, ...] | None:
    """For a folder's step the prop whose expression *problem* is about, as the message names only the step that is read."""
    named = re.search(r"reads steps\.(\w+)", problem.message)
    if named is None:
        return None
    read = re.compile(rf"steps\s*(?:\??\.\s*|\[\s*['\"]){named[1]}\b")
    return next((path for path, text in iter_texts(step.props) if read.search(text)), None)


def check_secrets(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Credentials written out in props or code, and props that are called like one."""
    for fault in find_credential_errors(workflow):
        yield _from_error("secret", workflow, fault)
    for step in workflow.steps:
        for path in find_credential_named_props(step):
            name = ".".join(map(str, path))
            yield _at_prop(
                "secret",
                step,
                path,
                f"The prop {name} holds text, and is called like a credential; these files are made for Git.",
                "Store it with `pdkernel env set NAME` and write {{process.env.NAME}} in its place.",
            )


def check_own_accounts(workflow: Workflow, sidecar: Sidecar) -> Iterator[Finding]:
    """Accounts of one's own in a workflow that runs for external users, and accounts of which nobody has said whose."""
    bindings = []
    for step in workflow.steps:
        for app in find_app_bindings(step):
            if _is_unanswered(step, app, sidecar):
                yield _at_step(
                    "own-account",
                    step,
                    f"Whose account fills {app.prop} is not decided.",
                    f"Write {EXTERNAL_USER}, or an id of your own (apn_...), in its place in pdkernel.yaml.",
                )
            elif not step.disabled:
                bindings.append((step, app))
    theirs: dict[str, str] = {}
    for step, app in bindings:
        if app.account is None:
            theirs.setdefault(app.app, step.name)
    for step, app in bindings:
        if app.account is None or not theirs:
            continue
        same = theirs.get(app.app)
        others = f"step {same} uses the external user's" if same else "other steps use the external user's accounts"
        yield _at_step(
            "own-account",
            step,
            f"{app.prop} is {app.account}, an account of your own, for every external user; {others}.",
            f"Write `--app {app.prop}` without an account if the external user's is meant."
            if app.prop == app.app
            else f"Write `--app {app.prop}:{app.app}` without an account if the external user's is meant.",
        )


def _is_unanswered(step: Step, app: AppBinding, sidecar: Sidecar) -> bool:
    choice = sidecar.steps.get(step.name, StepSidecar()).accounts.get(app.prop)
    return app.account is None and choice is not None and choice.account == UNANSWERED


def missing_response(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Reasons why the caller may not get the custom response."""
    for missing in missing_responses(workflow):
        if missing.step is None:
            what = "The trigger waits for a custom response, and no step sends one."
            yield Finding("response", None, None, None, what, _RESPONSE_FIX)
        elif missing.ends:
            what = "The workflow may not respond: this step may end it before a response is sent."
            yield _at_step("response", missing.step, what, _RESPONSE_FIX)
        else:
            what = "The workflow may not respond: this step sends the response only under a condition."
            yield _at_step("response", missing.step, what, _RESPONSE_FIX)


def check_git_forms(workflow: Workflow, sidecar: Sidecar) -> Iterator[Finding]:
    """What nobody has seen in a synced repository."""
    for step in workflow.steps:
        if step.language in INFERRED_LANGUAGES:
            yield _at_step(
                "git-form",
                step,
                f"How a {_LANGUAGES[step.language]} step stands in Git is not known; what is written for it is inferred.",
                "Look at it after the sync; if it is refused, create it in the builder and paste the code.",
            )
        elif people := [
            app.prop
            for app in find_app_bindings(step)
            if app.account is None and not _is_unanswered(step, app, sidecar)
        ]:
            yield _at_step(
                "git-form",
                step,
                f"That {', '.join(people)} is the external user's account has no known form in Git.",
                'Choose "Use end user\'s auth via Connect" in the builder.',
            )
    flow = [entry.name for entry in workflow.unsupported_entries] or ["in pdkernel.yaml"] * bool(sidecar.control_flow)
    for name in flow:
        what = f"Control flow ({name}) has no known form in Git: it is kept as it is, and does not run here."
        yield Finding("git-form", None, None, None, what, "Make such changes in the builder.")


def check_names(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Names that make trouble as names of folders."""
    if slugify(workflow.name) == "workflow" and workflow.name.strip().lower() != "workflow":
        yield Finding(
            "name", None, None, None,
            f"Nothing of the name {workflow.name!r} is left in the folder's name that Pipedream makes of it.",
            "Give it a name with letters or digits: `name:` in the %%pdworkflow cell.",
        )  # fmt: skip
    counted = Counter(step.name.lower() for step in workflow.steps)
    for step in workflow.steps:
        if counted[step.name.lower()] > 1:
            yield _at_step(
                "name",
                step,
                f"Another step's name differs from {step.name} in capitals only: one folder on macOS and Windows.",
                "Rename one of them.",
            )


def check_limits(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Settings out of their range, time limits that end before a step does, values that are too long."""
    for key, value in workflow.settings.items():
        rule = SETTING_RULES.get(key)
        if rule is not None and not rule.is_valid(value):
            what = f"{key} is {json.dumps(value)}, and it is {rule.description}."
            yield Finding("limit", None, None, None, what, "Change it under `settings:` in the %%pdworkflow cell.")
    for step in workflow.steps:
        if step.timeout_s is not None and step.timeout_s > 750:
            yield _at_step("limit", step, "No step runs longer than 750 seconds on Pipedream.", "Split it.")
        for prop, value in step.props.items():
            if isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) > MAX_PROP_BYTES:
                what = f"The prop {prop} holds more than {MAX_PROP_BYTES // 1024} KB, the platform's limit for a value."
                yield _at_prop("limit", step, (prop,), what, "Read it from a file, a data store or an earlier step.")


def check_package_versions(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Packages of which each deployment takes whatever version is the newest."""
    for step in workflow.steps:
        if step.uses:
            continue
        if step.language == "node":
            for package in node_packages(step.source):
                if package.name != "@pipedream/platform" and not _EXACT.match(package.version or ""):
                    yield _package(step, package.name, package.line, f'import from "{package.name}@VERSION"')
        elif step.language == "python":
            for requirement in find_python_requirements(step.source):
                if not requirement.version.startswith("=="):
                    comment = f"# pipedream add-package {requirement.name}==VERSION"
                    yield _package(step, requirement.name, requirement.line, comment)


def _package(step: Step, name: str, line: int, fix: str) -> Finding:
    what = f"{name} has no exact version: each deployment takes the newest that fits."
    return _at_step("package", step, what, f"Write {fix}.", line + step.line_offset)


def _from_error(rule: str, workflow: Workflow, error: DefinitionError) -> Finding:
    step = workflow.step(error.step) if error.step is not None else None
    return Finding(
        rule,
        error.step,
        None if step is None or step.cell_index is None else step.cell_index + 1,
        error.line,
        error.message,
        error.fix,
        _file_of(step, error.line),
    )


def _at_step(rule: str, step: Step, message: str, fix: str, line: int | None = None) -> Finding:
    cell = None if step.cell_index is None else step.cell_index + 1
    return Finding(rule, step.name, cell, line, message, fix, _file_of(step, line))


def _at_prop(rule: str, step: Step, path: tuple[str | int, ...], message: str, fix: str) -> Finding:
    line, where = step.locate_prop(*path)
    if not where:
        return _at_step(rule, step, message, fix, line)
    found = re.search(r"line (\d+)", where)
    return Finding(rule, step.name, None, int(found[1]) if found else None, message, fix, step.props_file)


def _file_of(step: Step | None, line: int | None) -> str | None:
    """For a folder's step, the file to look at."""
    if step is None or step.cell_index is not None or step.props_file is None:
        return None
    return WORKFLOW_FILE if step.uses or line is None else get_entry_path(step).removeprefix("./")


LINT_RULES: Mapping[str, Callable[[Workflow, Sidecar], Iterator[Finding]]] = {
    "reference": check_references,
    "secret": check_secrets,
    "own-account": check_own_accounts,
    "response": missing_response,
    "git-form": check_git_forms,
    "name": check_names,
    "limit": check_limits,
    "package": check_package_versions,
}
"""
What is looked at: references to steps that are not there or come later; credentials written out; an account of one's own
among the external user's; a custom response that some way never sends; what has no known form in Git; names; limits;
packages without a version.
"""


def lint_workflow(workflow: Workflow, sidecar: Sidecar | None = None) -> tuple[Finding, ...]:
    """
    What to look at in *workflow*, by rule and then by step.

    Args:
        workflow: A notebook's or a folder's.
        sidecar: The `pdkernel.yaml` that belongs to it.
    """
    found: list[Finding] = []
    for rule in LINT_RULES.values():
        try:
            found += rule(workflow, sidecar or Sidecar())
        except DefinitionError:  # an expression that cannot be read; `references` has told it
            continue
    return tuple(dict.fromkeys(found))
