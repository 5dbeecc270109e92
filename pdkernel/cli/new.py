"""`pdkernel new`: a notebook, an event and a test to start from, written from the package's templates."""

from __future__ import annotations

import re
import shlex
from importlib import resources
from pathlib import Path

import click
import cloup

from pdkernel.cli.app import AUTHOR, CliContext, command
from pdkernel.errors import RequestError

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
    """The path of the test for *notebook*."""
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
