"""
`pdkernel demo`: the quickstart's whole job in a terminal, on a project of its own.

Knows the order in which a person would do it. Every part is the real one; only Slack is a stand-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pdkernel.shape import Shape

USERS = ("ada", "grace")


def run_demo(keep: Path | None) -> int:
    """
    Do it all, and say what is being done.

    Args:
        keep: A new folder to work in and to keep, or None for a temporary one.
    """
    from pdkernel.errors import RequestError
    from pdkernel.runtimes.file_tree import temporary_folder

    if keep is not None and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        raise RequestError(f"{keep} is no empty folder; nothing was changed.", fix="Name a new folder.")
    with nullcontext(keep) if keep is not None else temporary_folder("pdkernel-demo-") as folder:
        return _demo(folder)


def _demo(folder: Path) -> int:
    from pdkernel.cli.new import write_notebook_template
    from pdkernel.notebook import read_cells
    from pdkernel.session import Session

    notebook, _ = write_notebook_template(folder / "quickstart.ipynb", template="quickstart.ipynb")
    session = Session(folder=folder, notebook=notebook)
    try:
        for number, cell in enumerate(read_cells(notebook)):
            if cell.source.startswith("%%"):
                session.record_cell(cell.source, cell_id=cell.id or str(number))
        return _run_steps(session)
    finally:
        session.close()


def _run_steps(session: object) -> int:
    from pdkernel import definition
    from pdkernel.render import files, shape, timeline
    from pdkernel.session import Session

    assert isinstance(session, Session)
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
    session.choose_egress("stand-in=slack")
    click.echo("  A local stand-in answers for Slack; nothing leaves this machine.")

    _title("4. Run, as ada")
    execution = session.run()
    click.echo(timeline.render_text(execution))
    if execution.status != "success":
        return 1

    _title("5. The event's shape: the issue alone")
    found = event.shape()
    issue = next(part for part in _parts(found) if part.path == ("body", "issue"))
    lines = shape.render_text(issue).splitlines()
    click.echo("\n".join(lines[:16]))
    click.echo(f"... of {sum(1 for _ in _parts(found))} paths in the event")

    _title("6. Edit one step and run it: only that step runs, the message is another one, so it is sent")
    message = session.workflow.step("message")
    text = f"%%pdstep message --lang node\n{message.source}".replace("New issue in", "Please look at")
    session.record_cell(text, cell_id="message")
    session.run(only=frozenset({"message"}))
    click.echo(f"  stale now: {', '.join(sorted(session.stale_steps))}")
    again = session.run(only=frozenset({"notify"}))
    click.echo(timeline.render_text(replace(again, steps=(again.step("notify"),))))
    session.pin("check")
    click.echo("  check is pinned: it keeps its exports until it is released.")
    session.unpin("check")

    _title("7. Export")
    result = definition.export_to_folder(session.workflow, session.folder / "exported", sidecar=None)
    click.echo(
        files.render_text(str(result.folder.name), result.files, checklist=result.checklist, findings=result.findings),
        nl=False,
    )
    return 0


def _parts(whole: Shape) -> Iterator[Shape]:
    yield whole
    for child in whole.children:
        yield from _parts(child)


def _title(text: str) -> None:
    click.echo(f"\n{text}\n{'─' * len(text)}")
