"""Golden files: a run that writes one never passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import golden


@pytest.mark.parametrize("before", [None, "old\n"])
def test_an_update_writes_and_fails(before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or different golden file is written, and the test fails; the next run passes."""
    monkeypatch.setattr(golden, "UPDATES", True)
    path = tmp_path / "view.txt"
    if before is not None:
        path.write_text(before)

    with pytest.raises(pytest.fail.Exception, match=golden.WRITTEN):
        golden.assert_golden(path, "new\n")

    assert path.read_text() == "new\n"
    golden.assert_golden(path, "new\n")


@pytest.mark.parametrize("before", [None, "old\n"])
def test_a_comparison_writes_nothing(before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable, a missing or different golden file fails the test and stays as it is."""
    monkeypatch.setattr(golden, "UPDATES", False)
    path = tmp_path / "view.txt"
    if before is not None:
        path.write_text(before)

    with pytest.raises(AssertionError):
        golden.assert_golden(path, "new\n")

    assert (path.read_text() if path.exists() else None) == before
