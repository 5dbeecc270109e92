"""What a team must act on for one step: stored files and state, pauses, calls of other workflows, siblings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pdkernel.analysis.platform_uses import PlatformUse, find_hosts, find_platform_uses
from pdkernel.definition.languages import default_entry_path
from pdkernel.identity import Account
from pdkernel.migration.sources import MigrationSource
from pdkernel.model import ROUND_TRIP_KEY, Step
from pdkernel.render.migration import SHUTDOWN_DAY, ItemKind, MigrationItem

_SIBLING_SUFFIXES = ("", ".mjs", ".js", ".cjs", ".json", "/index.js", "/index.mjs")


@dataclass(frozen=True)
class Surroundings:
    """
    What is known beyond one workflow.

    Attributes:
        names: Names of the report's workflows by their ids.
        endpoints: Names of the report's workflows by the hosts of their endpoints at Pipedream.
        accounts: The accounts that this project has, by the ids that workflows name.
        withheld: Accounts whose credentials Connect withholds, by app.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    withheld: Mapping[str, tuple[Account, ...]] = field(default_factory=dict)


def find_invoked(source: MigrationSource, around: Surroundings) -> frozenset[str]:
    """Names of the report's workflows that *source* calls, by an endpoint URL or an id."""
    steps = source.workflow.steps if source.workflow is not None else ()
    uses = [use for step in steps for use in _uses(step, around)]
    known = {use.name: around.endpoints.get(use.name) for use in uses if use.kind == "endpoint"}
    known |= {use.name: around.names.get(use.name) for use in uses if use.kind == "workflow"}
    return frozenset(name for name in known.values() if name is not None and name != source.name)


def _uses(step: Step, around: Surroundings) -> tuple[PlatformUse, ...]:
    """The uses of the platform by *step*, calls of endpoints on domains of the team included."""
    found = find_platform_uses(step)
    known = {use.name for use in found}
    own = [
        PlatformUse("endpoint", host, line)
        for host, line in find_hosts(step).items()
        if host in around.endpoints and host not in known
    ]
    return (*found, *own)


def find_step_items(step: Step, source: MigrationSource, around: Surroundings) -> Iterator[MigrationItem]:
    """The items of one step of *source*."""
    for use in _uses(step, around):
        item = _use_item(step, use, source, around)
        if item is not None:
            yield item


def locate_use(step: Step, use: PlatformUse) -> str:
    """The place of *use* as the beginning of a sentence."""
    return f"Step {step.name}, line {use.line}," if use.line is not None else f"Step {step.name}"


def _use_item(step: Step, use: PlatformUse, source: MigrationSource, around: Surroundings) -> MigrationItem | None:
    where = locate_use(step, use)

    def item(kind: ItemKind, name: str, message: str, fix: str, command: str = "") -> MigrationItem:
        return MigrationItem(kind, name, f"{where} {message}", fix, command, (step.name,))

    match use.kind:
        case "file_store":
            return item(
                "file_store",
                "the project's file store",
                "uses the project's file store. Its files are deleted.",
                "Download the files with the step that the command writes.",
                "pdkernel migrate data --files --to rescued",
            )
        case "source_state":
            return item(
                "source_state",
                f"{step.name}.{use.name}",
                f"keeps state in $.service.db as {use.name}. The state stays at Pipedream.",
                "If the state matters, export its values there with a step, and set them here in a data store.",
            )
        case "pause":
            return item(
                "paused_runs",
                f"{step.name} ({use.name})",
                f"pauses the run ({use.name}). Runs that wait at Pipedream end with it.",
                "Turn the workflow off there, and let the waiting runs end before you turn it on here.",
            )
        case "resume_url":
            return item(
                "paused_runs",
                f"{step.name} (resume URL)",
                "hands on URLs that resume or cancel a run. URLs that were handed on lead to Pipedream.",
                "URLs of runs here lead to your server: it needs a public address, --public-url.",
            )
        case "attachment":
            return item(
                "attachment",
                step.name,
                "reads the workflow's attachments, which Git does not hold.",
                "Download the attachments in the workflow's settings, and put the files into the workflow's folder.",
            )
        case "error":
            return item(
                "error_handler",
                step.name,
                "reads the event of a failed run: the workflow handles errors of other workflows.",
                "Give it an errors trigger in pdkernel.yaml, and switch it over before the other workflows.",
            )
        case "endpoint":
            named = around.endpoints.get(use.name)
            whose = f"the endpoint of {named}" if named else "an endpoint of a workflow that is not known by its URL"
            return item(
                "caller",
                use.name,
                f"calls https://{use.name}, {whose}. The endpoint ends on {SHUTDOWN_DAY}.",
                "Serve the called workflow first, then write its new URL, best as an environment variable.",
            )
        case "workflow":
            named = around.names.get(use.name)
            what = use.name or "another workflow"
            known = f"{what} ({named})" if named else f"{what}, which is not part of this report"
            return item(
                "invoked_workflow",
                what,
                f"starts {known}.",
                "Switch the started workflow over first."
                if named
                else "Add the started workflow to the report and to the move.",
            )
        case "sibling" if not _has_sibling(step, use.name, source):
            return MigrationItem(
                "sibling",
                use.name,
                f"{where} imports {use.name}, which is not in the source.",
                "Copy the file from the project at Pipedream, or from another branch of the repository.",
                steps=(step.name,),
            )
    return None


def _has_sibling(step: Step, name: str, source: MigrationSource) -> bool:
    if source.path is None or not source.path.is_dir():
        folder = source.path.parent if source.path is not None else None
        return folder is not None and _is_module(folder, name, step)
    kept = step.extra.get(ROUND_TRIP_KEY)
    entry = kept.get("entry") if isinstance(kept, dict) else None
    place = PurePosixPath(entry if isinstance(entry, str) else default_entry_path(step.name, step.language)).parent
    return _is_module(source.path / place, name, step)


def _is_module(folder: Path, name: str, step: Step) -> bool:
    if step.language == "python":
        dots = len(name) - len(name.lstrip("."))
        for _ in range(dots - 1):
            folder = folder.parent
        path = folder.joinpath(*filter(None, name.lstrip(".").split(".")))
        return path.is_dir() or path.with_name(f"{path.name}.py").is_file()
    return any((folder / f"{name}{suffix}").is_file() for suffix in _SIBLING_SUFFIXES)
