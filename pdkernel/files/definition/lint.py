"""
The lint: rules for a workflow before it is deployed, and findings with their place.

The lint refuses nothing: `file_plan` and `check_workflow` refuse workflows that must not be written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from pdkernel.common.encode import JsonStruct
from pdkernel.errors import DefinitionError, ExpressionError
from pdkernel.files.definition.entry_file import INFERRED_LANGUAGES, slugify
from pdkernel.files.definition.file_plan import (
    WORKFLOW_FILE,
    find_credential_errors,
    find_credential_named_props,
    get_entry_path,
    iter_texts,
)
from pdkernel.files.definition.sidecar import EXTERNAL_USER, UNANSWERED, Sidecar, StepSidecar
from pdkernel.language.analysis import (
    find_app_bindings,
    find_reference_errors,
    find_step_packages,
    find_step_requirements,
    find_unread_answers,
    missing_responses,
)
from pdkernel.language.directive.workflow_header import SETTING_RULES
from pdkernel.model import LANGUAGE_NAMES, MAX_PROP_BYTES, AppBinding, Step, Workflow

_EXACT = re.compile(r"\d+\.\d+\.\d+[\w.+-]*\Z")
_RESPONSE_FIX = "Send one on every path: `$.respond({...})`, in Python `pd.respond({...})`, before the step can end."


class Finding(JsonStruct, frozen=True):
    """
    A finding to check before a deployment.

    Attributes:
        rule: Stable name of the rule that found it.
        step: The step, or None for the workflow.
        cell: Number of the cell, starting at 1; None for a folder.
        line: Line in the cell or *file*; None if the finding has no single line.
        message: The problem.
        fix: How to fix the problem.
        file: The file, for a folder.
    """

    rule: str
    step: str | None
    cell: int | None
    line: int | None
    message: str
    fix: str = ""
    file: str | None = None

    @property
    def location(self) -> str:
        """
        The location: `step send, line 2`; empty for the whole workflow.

        The step names the cell. The cell's number is not the `[n]` on the screen, so it is in the JSON only.
        """
        parts = [
            f"step {self.step}" if self.step is not None else "",
            self.file or "",
            f"line {self.line}" if self.line is not None else "",
        ]
        return ", ".join(part for part in parts if part)


def check_references(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Yield the references to steps that do not exist or come later, and expressions that cannot be read."""
    for problem, reference in find_reference_errors(workflow):
        step = workflow.entry(problem.step) if problem.step is not None else None
        path = None
        if isinstance(step, Step) and step.props_file is not None:
            path = _path_of_reference(step, problem, reference)
        if isinstance(step, Step) and path is not None and problem.line is None:
            yield _at_prop("reference", step, path, problem.message, problem.fix)
        else:
            yield _from_error("reference", workflow, problem)


def _path_of_reference(step: Step, problem: DefinitionError, reference: str | None) -> tuple[str | int, ...] | None:
    """Return the path of the prop with the invalid expression, or with the reference to a step; for a folder's step."""
    if isinstance(problem, ExpressionError):
        return problem.path
    if reference is None:
        return None
    read = re.compile(rf"steps\s*(?:\??\.\s*|\[\s*['\"]){re.escape(reference)}(?!\w)")
    return next((path for path, text in iter_texts(step.props) if read.search(text)), None)


def check_secrets(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Yield the credentials in props or code, and props with a credential's name."""
    for fault in find_credential_errors(workflow):
        yield _from_error("secret", workflow, fault)
    for step in workflow.steps:
        for path in find_credential_named_props(step):
            name = ".".join(map(str, path))
            yield _at_prop(
                "secret",
                step,
                path,
                f"The prop {name} holds text, and is named like a credential; these files are made for Git.",
                "Store it with `pdkernel env set NAME` and write {{process.env.NAME}} in its place.",
            )


def check_own_accounts(workflow: Workflow, sidecar: Sidecar) -> Iterator[Finding]:
    """Your own accounts in a workflow that runs for external users, and app props without an account choice."""
    bindings = []
    for step in workflow.steps:
        for app in find_app_bindings(step):
            if _is_unanswered(step, app, sidecar):
                yield _at_step(
                    "own-account",
                    step,
                    f"The owner of the account for {app.prop} is not set.",
                    f"Write {EXTERNAL_USER}, or an id of your own (apn_...), in its place in pdkernel.yaml.",
                )
            elif not step.disabled:
                bindings.append((step, app))
    external: dict[str, str] = {}
    for step, app in bindings:
        if app.account is None:
            external.setdefault(app.app, step.name)
    for step, app in bindings:
        if app.account is None or not external:
            continue
        same = external.get(app.app)
        others = f"step {same} uses the external user's" if same else "other steps use the external user's accounts"
        yield _at_step(
            "own-account",
            step,
            f"{app.prop} is {app.account}, an account of your own, for every external user; {others}.",
            f"Write `--app {app.prop}` without an account if the external user's is meant."
            if app.prop == app.app
            else f"Write `--app {app.prop}:{app.app}` without an account if the external user's is meant.",
        )


def check_answers(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Yield the steps that suspend the run for an answer that no later step reads."""
    for step, line in find_unread_answers(workflow):
        yield _at_step(
            "answer",
            workflow.step(step),
            "The step suspends the run, and no later step reads the answer: a call of the resume_url lets the run "
            "go on, also one with a refusal, and Reject in the console cancels it.",
            f"Read steps.{step}.$resume_data in a later step, and end the run there after a refusal; or send the cancel_url, too.",
            line,
        )


def _is_unanswered(step: Step, app: AppBinding, sidecar: Sidecar) -> bool:
    choice = sidecar.steps.get(step.name, StepSidecar()).accounts.get(app.prop)
    return app.account is None and choice is not None and choice.account == UNANSWERED


def missing_response(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Yield the reasons why the caller may not receive the custom response."""
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
    """Yield the forms that were never observed in a synced repository."""
    for step in workflow.steps:
        if step.language in INFERRED_LANGUAGES:
            yield _at_step(
                "git-form",
                step,
                f"The form of a {LANGUAGE_NAMES[step.language]} step in Git is not known; the written form is inferred.",
                "Check the step after the sync; if it is refused, create it in the builder and paste the code.",
            )
        elif external := [
            app.prop
            for app in find_app_bindings(step)
            if app.account is None and not _is_unanswered(step, app, sidecar)
        ]:
            yield _at_step(
                "git-form",
                step,
                f"The external user's account in {', '.join(external)} has no known form in Git.",
                'Choose "Use end user\'s auth via Connect" in the builder.',
            )
    if workflow.blocks:
        names = ", ".join(block.name for block in workflow.blocks)
        what = f"Branches ({names}) have no known form in Git: on Pipedream, the steps in them run for every event."
        yield Finding("git-form", None, None, None, what, "Build the branches in the builder.")
    for entry in workflow.unsupported_entries:
        if entry.path is not None:
            what = f"{entry.name} {entry.unsupported_reason}. It has no known form in Git: an export leaves it out."
            yield Finding("git-form", None, None, None, what, "Create it in the builder.")
            continue
        name = entry.name
        what = f"Control flow ({name}) has no known form in Git: an export keeps the entry unchanged, and pdkernel does not run it."
        yield Finding("git-form", None, None, None, what, "Make such changes in the builder.")


def check_names(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Yield the names that cause problems as folder names."""
    if slugify(workflow.name) == "workflow" and workflow.name.strip().lower() != "workflow":
        yield Finding(
            "name", None, None, None,
            f"Pipedream cannot make a folder name from {workflow.name!r}: the name has no letter and no digit.",
            "Choose a name with letters or digits: `name:` in the %%pdworkflow cell.",
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
    """Yield the settings out of range, time limits above the platform's, values that are too long."""
    for key, value in workflow.settings.items():
        rule = SETTING_RULES.get(key)
        if rule is not None and not rule.is_valid(value):
            what = f"{key} is {json.dumps(value)}; expected {rule.description}."
            yield Finding("limit", None, None, None, what, "Change it under `settings:` in the %%pdworkflow cell.")
    for step in workflow.steps:
        if step.timeout_s is not None and step.timeout_s > 750:
            yield _at_step("limit", step, "No step runs longer than 750 seconds on Pipedream.", "Split it.")
        for prop, value in step.props.items():
            if isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) > MAX_PROP_BYTES:
                what = f"The prop {prop} holds more than {MAX_PROP_BYTES // 1024} KB, the platform's limit for a value."
                yield _at_prop("limit", step, (prop,), what, "Read it from a file, a data store or an earlier step.")


def check_package_versions(workflow: Workflow, _: Sidecar) -> Iterator[Finding]:
    """Yield the packages without an exact version."""
    for step in workflow.steps:
        if step.uses:
            continue
        if step.language == "node":
            for package in find_step_packages(step):
                if package.name != "@pipedream/platform" and not _EXACT.match(package.version or ""):
                    yield _package(step, package.name, package.line, f'import from "{package.name}@VERSION"')
        elif step.language == "python":
            for requirement in find_step_requirements(step):
                if not requirement.version.startswith("=="):
                    comment = f"# pipedream add-package {requirement.name}==VERSION"
                    yield _package(step, requirement.name, requirement.line, comment)


def _package(step: Step, name: str, line: int, fix: str) -> Finding:
    what = f"{name} has no exact version: each deployment takes the newest that fits."
    return _at_step("package", step, what, f"Write {fix}.", line + step.line_offset)


def _from_error(rule: str, workflow: Workflow, error: DefinitionError) -> Finding:
    step = workflow.entry(error.step) if error.step is not None else None
    return Finding(
        rule,
        error.step,
        None if step is None or step.cell_index is None else step.cell_index + 1,
        error.line,
        error.message,
        error.fix,
        _file_of(step, error.line) if isinstance(step, Step) else None,
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
    """Return the file of a folder's step, or None for a notebook's step."""
    if step is None or step.cell_index is not None or step.props_file is None:
        return None
    return WORKFLOW_FILE if step.uses or line is None else get_entry_path(step).removeprefix("./")


LINT_RULES: Mapping[str, Callable[[Workflow, Sidecar], Iterator[Finding]]] = {
    "reference": check_references,
    "secret": check_secrets,
    "own-account": check_own_accounts,
    "response": missing_response,
    "answer": check_answers,
    "git-form": check_git_forms,
    "name": check_names,
    "limit": check_limits,
    "package": check_package_versions,
}
"""
The rules by name: references to steps that do not exist or come later; credentials in plain text; your own account among
external users' accounts; a custom response that some path never sends; an answer to
a suspend that no step reads; forms unknown to Git; names; limits; packages
without an exact version.
"""


def lint_workflow(workflow: Workflow, sidecar: Sidecar | None = None) -> tuple[Finding, ...]:
    """
    Return the findings for *workflow*, by rule and then by step.

    Args:
        workflow: The workflow of a notebook or a folder.
        sidecar: The `pdkernel.yaml` that belongs to it.
    """
    found = (finding for rule in LINT_RULES.values() for finding in rule(workflow, sidecar or Sidecar()))
    return tuple(dict.fromkeys(found))
