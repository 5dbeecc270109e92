"""Builds the `README.md` that describes a workflow in its repository folder. The file contains no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pdkernel.errors import RequestError
from pdkernel.files.definition.checklist import CHECKLIST_HEADING
from pdkernel.language.analysis import find_app_bindings, find_workflow_variables
from pdkernel.model import LANGUAGE_NAMES, Step, Trigger, Workflow

README = "README.md"
GENERATED_COMMENT = "<!-- Written by `pdkernel export --docs`, and written anew with each export: do not edit. -->"


def build_readme(workflow: Workflow, checklist: Sequence[str] = ()) -> str:
    """
    The `README.md` of *workflow*.

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
    yield from (f"- {_trigger(trigger)}" for trigger in workflow.triggers)
    if not workflow.triggers:
        yield "- other workflows, by `$.flow.trigger`"
    if workflow.steps:
        yield from ("", "| step | runs | accounts | notes |", "|---|---|---|---|")
        yield from (_row(step) for step in workflow.steps)
    if variables := find_workflow_variables(workflow):
        yield from ("", "Environment variables:", "")
        yield from (f"- `{name}`, read by {', '.join(readers)}" for name, readers in variables.items())
    yield from ("", "Serve this folder:", "", "    pdkernel serve .")
    if checklist:
        yield from ("", CHECKLIST_HEADING, "")
        yield from (f"- [ ] {_text(sentence)}" for sentence in checklist)


def _trigger(trigger: Trigger) -> str:
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


def _row(step: Step) -> str:
    runs = f"`{step.uses}`" if step.uses else LANGUAGE_NAMES[step.language]
    accounts = ", ".join(f"{app.app}: {app.account or 'of the external user'}" for app in find_app_bindings(step))
    state = ", disabled" if step.disabled else ""
    return f"| `{step.name}` | {runs}{state} | {_text(accounts)} | {_text(step.notes or '')} |"


def _text(text: str) -> str:
    """*text* as one line of Markdown with all markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
