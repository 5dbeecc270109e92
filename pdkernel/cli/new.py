"""
The notebooks, events and tests that the package ships for people to start from.

Never overwrites an event; whoever writes a notebook looks first whether one is there.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from pdkernel.errors import RequestError

_YAML_KEYWORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})
"""Words that are something else in YAML."""


def write_starter_test(notebook: Path) -> Path:
    """
    Write a test of a notebook that `new.ipynb` was the template of, beside it in `tests/`.

    Raises:
        RequestError: There is a file of that name, or it cannot be written.
    """
    test = resolve_test_path(notebook)
    template = (resources.files("pdkernel") / "templates" / "test_new.txt").read_text(encoding="utf-8")
    text = template.replace("new.ipynb", notebook.name).replace("def test_new", f"def {test.stem}")
    try:
        test.parent.mkdir(parents=True, exist_ok=True)
        with test.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as fault:
        raise _write_error(test, fault) from None
    return test


def resolve_test_path(notebook: Path) -> Path:
    """Where the test of *notebook* goes."""
    name = re.sub(r"\W+", "_", notebook.stem)
    return notebook.parent / "tests" / f"test_{name}.py"


def write_notebook_template(notebook: Path, *, template: str, use_file_name: bool = False) -> list[Path]:
    """
    Write a notebook template and its event beside it; an event that exists already is left alone.

    Args:
        notebook: Where.
        template: Its name among ours.
        use_file_name: Its workflow is called as the file is, where that is a name as it stands.

    Raises:
        RequestError: The folder cannot be written to.
    """
    source = resources.files("pdkernel") / "templates"
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
        f"{path} cannot be made: {fault.strerror} ({fault.filename}).",
        fix="Choose a folder that you may write to.",
    )
