"""The output of `pdkernel serve` at its start: URLs, one line of JSON, and login codes of the console."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from pdkernel.cli.terminal import is_interactive, print_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pdkernel.project import Project
    from pdkernel.server.app_context import ServedWorkflow
    from pdkernel.source import RefusedSource


def startup_json(
    project: Project,
    project_id: str,
    url: str,
    served: Sequence[ServedWorkflow],
    not_served: Sequence[RefusedSource],
) -> dict[str, Any]:
    """What `--json` prints when the server answers requests. A workflow without an HTTP trigger has no endpoint."""
    return {
        "url": url,
        "project_id": project_id,
        "database": project.location,
        "workflows": [
            {
                "name": each.source.workflow.name,
                "id": each.id,
                "endpoint": each.endpoint_key if _has_endpoint(each) else None,
                "url": f"{url}/{each.endpoint_key}" if _has_endpoint(each) else None,
            }
            for each in served
        ],
        "not_served": [{"name": each.name, "folder": str(each.path), "reason": each.reason} for each in not_served],
    }


def code_printer(url: str, *, as_json: bool) -> Callable[[str], None] | None:
    """A function that prints a login code on a terminal; None without a terminal, because a log must not contain codes."""
    return partial(_print_login_code, url) if is_interactive(sys.stderr) and not as_json else None


def _print_login_code(url: str, code: str) -> None:
    write_line(f"Console: {url}/-/login?code={code}    # valid once, for ten minutes")


def write_line(line: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def print_line(value: dict[str, Any]) -> None:
    """Print a JSON value as a line of standard output."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _has_endpoint(served: ServedWorkflow) -> bool:
    """Whether the workflow has an HTTP trigger."""
    return any(trigger.type == "http" for trigger in served.source.workflow.triggers)


def print_startup(
    url: str,
    served: Sequence[ServedWorkflow],
    not_served: Sequence[RefusedSource],
    more: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Print the URLs of the served workflows, the workflows that are not served, and the lines *more*."""
    lines = [] if as_json else [f"Serving at {url} (Ctrl-C stops)"]
    if not as_json:
        width = max((len(each.source.workflow.name) for each in served), default=0)
        lines += [
            f"  {each.source.workflow.name.ljust(width)}  {f'{url}/{each.endpoint_key}' if _has_endpoint(each) else 'no endpoint'}"
            for each in served
        ]
        lines += [] if served else ["  No workflows: only the Connect API is served."]
    if not_served:
        lines += ["Not served:", *(f"  {each.name} ({each.path}): {each.reason}" for each in not_served)]
    print_text("\n".join([*lines, *more]), err=True, nl=bool(lines or more))


def describe_triggers(project: Project, workflows: Sequence[ServedWorkflow], url: str) -> list[str]:
    """Lines about the triggers: when each one fires, and which are off."""
    from pdkernel.cli.triggers import trigger_lines
    from pdkernel.operations.triggers import find_unserved_emitters, view_triggers

    views = [view for served in workflows for view in view_triggers(project, served.source)]
    if not views:
        return []
    lines = [f"  {line}" for line in trigger_lines(project, views, base_url=url)]
    sources = [(each.id, each.source) for each in workflows]
    lines += [
        f"  {view.workflow_name!r} listens to {name!r}, which is not served."
        for view in views
        for name in find_unserved_emitters(view, sources)
    ]
    has_off = not all(view.is_enabled for view in views)
    return [
        "Triggers (off until they are enabled, because Pipedream may still fire them):" if has_off else "Triggers:",
        *lines,
    ]
