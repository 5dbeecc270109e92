"""`pdkernel new`, `demo` and `lab`: a first workflow as files, as a tour in a terminal, and in JupyterLab."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click
import cloup
from msgspec.structs import replace

from pdkernel.cli.app import AUTHOR, EXIT_STATUSES, CliContext, command
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.kit.session import Session
    from pdkernel.language.shape import Shape

_YAML_KEYWORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})
"""Words that YAML reads as a boolean or null."""


@command(name="new", section=AUTHOR, examples=("pdkernel new greet", 'pdkernel new "orders/Order welcome"'))
@cloup.argument("name")
def new(_: CliContext, name: str) -> int:
    """
    Create NAME.ipynb with a starter workflow, an event and a test.

    The event is in events/ beside the notebook, the test in tests/. No file is overwritten.
    """
    path = Path(name if name.endswith(".ipynb") else f"{name}.ipynb")
    for file in (path, resolve_test_path(path)):
        if file.exists():
            raise RequestError(f"{file} already exists; no file was written.", fix="Choose another name.")
    notebook, event = write_notebook_template(path, template="new.ipynb", use_file_name=True)
    test = write_starter_test(path)
    for each in (notebook, event, test):
        click.echo(f"Made {each}")
    notebook_argument, event_argument, test_argument = (shlex.quote(str(each)) for each in (path, event, test))
    click.echo(f"Run it:  pdkernel run {notebook_argument} --event {event_argument}")
    click.echo(f"Test it: pytest {test_argument}")
    click.echo(f"Open it: pdkernel lab {notebook_argument}")
    return 0


def write_starter_test(notebook: Path) -> Path:
    """
    Write a test for a notebook made from `new.ipynb`, in `tests/` beside it.

    Raises:
        RequestError: The file exists or cannot be written.
    """
    test = resolve_test_path(notebook)
    template = (resources.files("pdkernel.cli") / "templates" / "test_new.txt").read_text(encoding="utf-8")
    text = template.replace("new.ipynb", notebook.name).replace("def test_new", f"def {test.stem}")
    try:
        test.parent.mkdir(parents=True, exist_ok=True)
        with test.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as fault:
        raise _write_error(test, fault) from None
    return test


def resolve_test_path(notebook: Path) -> Path:
    """Return the path of the test for *notebook*."""
    name = re.sub(r"\W+", "_", notebook.stem)
    return notebook.parent / "tests" / f"test_{name}.py"


def write_notebook_template(notebook: Path, *, template: str, use_file_name: bool = False) -> list[Path]:
    """
    Write a notebook template, and its event beside it unless the event exists.

    An existing notebook is overwritten: the caller checks for it.

    Args:
        notebook: Path of the new notebook.
        template: File name of the template in `pdkernel/cli/templates`.
        use_file_name: Name the workflow after the file, if the file name is a valid workflow name.

    Returns:
        The paths of the notebook and the event.

    Raises:
        RequestError: The folder is not writable.
    """
    source = resources.files("pdkernel.cli") / "templates"
    event = notebook.parent / "events" / "issues-opened.json"
    try:
        event.parent.mkdir(parents=True, exist_ok=True)
        text = (source / template).read_text(encoding="utf-8")
        words = re.sub(r"[-_]+", " ", notebook.stem).strip()
        if use_file_name and re.fullmatch(r"[A-Za-z][A-Za-z0-9 ]*", words) and words.lower() not in _YAML_KEYWORDS:
            text = text.replace("My workflow", words[0].upper() + words[1:])
        notebook.write_text(text, encoding="utf-8", newline="\n")
        if not event.exists():
            event.write_bytes((source / "events" / event.name).read_bytes())
    except OSError as fault:
        raise _write_error(notebook, fault) from None
    return [notebook, event]


def _write_error(path: Path, fault: OSError) -> RequestError:
    return RequestError(
        f"Cannot create {path}: {fault.strerror} ({fault.filename}).",
        fix="Choose a writable folder.",
    )


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


CONFIG_FOLDER = Path(__file__).parent
"""Contains `labconfig/default_setting_overrides.json`, which disables news and update checks."""


@command(
    name="lab",
    section=AUTHOR,
    context_settings={"ignore_unknown_options": True},
    options_metavar="[OPTIONS]",
    examples=("pdkernel lab", "pdkernel lab greet.ipynb --no-browser --port 8890"),
    exit_statuses={**EXIT_STATUSES, 1: "JupyterLab failed"},
)
@cloup.argument("arguments", nargs=-1, metavar="[NOTEBOOK | FOLDER] [JUPYTERLAB OPTIONS]...", type=click.UNPROCESSED)
@cloup.option("--no-browser", is_flag=True, help="Print the address instead of opening a browser.")
@cloup.option("--port", type=click.IntRange(0, 65535), help="Port of JupyterLab; 0 takes a free port. Default: 8888.")
def lab(state: CliContext, arguments: tuple[str, ...], no_browser: bool, port: int | None) -> int:
    """
    Open JupyterLab, with NOTEBOOK or in FOLDER.

    New notebooks use the workflow kernel. Options that the command does not have are passed to JupyterLab.
    """
    is_first_a_path = bool(arguments) and not arguments[0].startswith("-")
    path = Path(arguments[0]) if is_first_a_path else Path.cwd()
    notebook = None if path.is_dir() else path
    if notebook is not None and not notebook.is_file():
        raise RequestError(
            f"Notebook {notebook} does not exist.",
            fix=f"Create it: pdkernel new {shlex.quote(str(notebook.with_suffix('')))}",
        )
    root = notebook.parent if notebook else path
    set_project(os.environ, state, Path.cwd() if notebook else path)
    options = [*arguments[is_first_a_path:]]
    options += ["--no-browser"] if no_browser else []
    options += [] if port is None else [f"--port={port}"]
    return run_lab(options, root, notebook)


def set_project(environ: MutableMapping[str, str], state: CliContext, start: Path) -> None:
    """
    Name the project to kernels, each of which would otherwise search for a project in its notebook's folder, or create one.

    Args:
        environ: The environment variables of the kernels; existing ones stay.
        state: The context with the options of the command.
        start: The folder in which the search begins if no folder is named.
    """
    from pdkernel.storage import find_project

    folder = Path(state.project_folder).resolve() if state.project_folder else find_project(start).parent
    environ.setdefault("PDKERNEL_PROJECT", str(folder))
    if state.database_url:
        environ.setdefault("PDKERNEL_DATABASE", state.database_url)


def lab_options(folder: Path, notebook: Path | None, *, root: bool) -> list[str]:
    """
    Build the command line of JupyterLab.

    Args:
        folder: The root of Lab's file browser.
        notebook: The notebook to open, in *folder*; None restores the last session.
        root: Whether the user is root, which Jupyter refuses without `--allow-root`.
    """
    options = [
        f"--ServerApp.root_dir={folder}",
        "--MultiKernelManager.default_kernel_name=pdkernel",
        # A writable extension manager would request the extension list from a package registry.
        "--LabApp.extension_manager=readonly",
        # Kernels use sockets in the runtime folder: every user of this machine can reach TCP ports.
        "--KernelManager.transport=ipc",
    ]
    if notebook is not None:
        options.append(f"--LabApp.default_url=/lab/tree/{quote(notebook.relative_to(folder).as_posix())}")
    if root:
        options.append("--allow-root")
    return options


def set_defaults(environ: MutableMapping[str, str]) -> None:
    """Append the folder with default Lab settings to Jupyter's configuration path."""
    path = [entry for entry in environ.get("JUPYTER_CONFIG_PATH", "").split(os.pathsep) if entry]
    if str(CONFIG_FOLDER) not in path:
        environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([*path, str(CONFIG_FOLDER)])


def run_lab(args: Sequence[str], folder: Path, notebook: Path | None = None) -> int:
    """
    Run JupyterLab until the user stops it.

    Args:
        args: Further options of JupyterLab; they take precedence.
        folder: The folder to work in.
        notebook: The notebook to open, or None.

    Returns:
        JupyterLab's exit status.
    """
    from jupyterlab.labapp import main

    set_defaults(os.environ)
    folder = folder.resolve()
    notebook = notebook.resolve() if notebook else None
    try:
        main([*lab_options(folder, notebook, root=os.geteuid() == 0), *args])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
