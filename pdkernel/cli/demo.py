"""
`pdkernel demo`: the steps of the quickstart in a terminal, on a project of its own.

Only Slack is a stand-in; all other parts are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup
from msgspec.structs import replace

from pdkernel.cli.app import AUTHOR, CliContext, command
from pdkernel.cli.command_help import EXIT_STATUSES
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.kit.session import Session
    from pdkernel.language.shape import Shape

USERS = ("ada", "grace")


@command(
    name="demo",
    section=AUTHOR,
    examples=("pdkernel demo --keep demo",),
    exit_statuses={**EXIT_STATUSES, 1: "a step failed"},
)
@cloup.option("--keep", metavar="FOLDER", help="Work in this new folder and keep it; default: a temporary one.")
def demo(_: CliContext, keep: str | None) -> int:
    """
    Run the quickstart in the terminal.

    Chooses an external user, loads an event, runs the workflow, edits a step and exports the result.
    """
    return run_demo(Path(keep) if keep else None)


def run_demo(keep: Path | None) -> int:
    """
    Run all steps of the demo and print each of them.

    Args:
        keep: A new or empty folder to work in, which is not removed; None for a temporary folder.

    Returns:
        The exit status.
    """
    from pdkernel.runtimes.file_tree import temporary_folder

    if keep is not None and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        raise RequestError(f"{keep} is not an empty folder; no file was written.", fix="Choose a new folder.")
    with nullcontext(keep) if keep is not None else temporary_folder("pdkernel-demo-") as folder:
        return _demo(folder)


def _demo(folder: Path) -> int:
    from pdkernel.cli.new import write_notebook_template
    from pdkernel.files.notebook import read_cells
    from pdkernel.kit.session import Session

    notebook, _ = write_notebook_template(folder / "quickstart.ipynb", template="quickstart.ipynb")
    session = Session(folder=folder, notebook=notebook)
    try:
        for number, cell in enumerate(read_cells(notebook)):
            if cell.source.startswith("%%"):
                session.record_cell(cell.source, cell_id=cell.id or str(number))
        return _run_steps(session)
    finally:
        session.close()


def _run_steps(session: Session) -> int:
    from pdkernel.files import definition
    from pdkernel.render import files, shape, timeline

    _title("1. The workflow")
    for step in session.workflow.steps:
        click.echo(f"  {step.name:<8} {step.language}")

    _title("2. Two external users, each with a Slack account of their own")
    for user in USERS:
        account = session.directory.add_account(
            app="slack", credentials={"oauth_access_token": f"xoxb-demo-{user}-token"}, external_user_id=user
        )
        click.echo(f"  {user}: {account.app} {account.id}")
    session.choose_user("ada")

    _title("3. A real GitHub webhook is the event")
    event = session.load_event("issues-opened")
    click.echo(f"  {event.summary()}")
    session.choose_egress("stand-in=slack", origin="pdkernel demo")
    click.echo("  A local stand-in replaces Slack; no request leaves this machine.")

    _title("4. Run, as ada")
    execution = session.run()
    click.echo(timeline.render_text(execution))
    if execution.status != "success":
        return 1

    _title("5. The event's shape: the issue alone")
    event_shape = event.shape()
    issue = next(part for part in _parts(event_shape) if part.path == ("body", "issue"))
    lines = shape.render_text(issue).splitlines()
    click.echo("\n".join(lines[:16]))
    click.echo(f"... of {sum(1 for _ in _parts(event_shape))} paths in the event")

    _title("6. Edit one step and run it: only that step runs, and the changed message is sent")
    message = session.workflow.step("message")
    text = f"%%pdstep message --lang node\n{message.source}".replace("New issue in", "Please look at")
    session.record_cell(text, cell_id="message")
    session.run(only=frozenset({"message"}))
    click.echo(f"  stale now: {', '.join(sorted(session.stale_steps))}")
    again = session.run(only=frozenset({"notify"}))
    click.echo(timeline.render_text(replace(again, steps=(again.step("notify"),))))
    session.pin("check")
    click.echo("  check is pinned: it keeps its exports until it is unpinned.")
    session.unpin("check")

    _title("7. Export")
    result = definition.export_to_folder(session.workflow, session.folder / "exported", sidecar=None)
    click.echo(
        files.render_text(str(result.folder.name), result.files, checklist=result.checklist, findings=result.findings),
        nl=False,
    )
    return 0


def _parts(shape: Shape) -> Iterator[Shape]:
    yield shape
    for child in shape.children:
        yield from _parts(child)


def _title(text: str) -> None:
    click.echo(f"\n{text}\n{'─' * len(text)}")
