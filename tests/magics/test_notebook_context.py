"""The notebook's file, as a kernel finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.magics.conftest import Notebook


@pytest.mark.parametrize(
    ("name", "text", "is_known"),
    [("work.ipynb", None, True), ("work.py", "# %%\n# %%pdstep one\nreturn 1\n", True), ("tool.py", "x = 1\n", False)],
)
def test_file_of_jupyters_session(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str | None, *, is_known: bool
) -> None:
    """A session on a notebook, also one in percent format, has the file; a console on another Python file has none."""
    if text is not None:
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("JPY_SESSION_NAME", name)

    assert notebook.session.notebook == (tmp_path / name if is_known else None)
