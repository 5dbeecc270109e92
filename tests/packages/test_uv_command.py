"""The progress of uv, read from its output."""

from __future__ import annotations

from pathlib import Path

from pdkernel.analysis import PythonRequirement
from pdkernel.packages.uv_command import Uv


def test_large_downloads_are_measured(tmp_path: Path) -> None:
    """The sizes of large downloads are added up, and those that are complete are subtracted from what is left."""
    lines: list[str] = []
    uv = Uv({}, tmp_path, [], lines.append)

    for line in ("Resolved 3 packages in 12ms", "Downloading numpy (16.0MiB)", "Downloading pandas (8.0MiB)"):
        uv.read_line(line)
    before = uv.measure().describe(4.0)
    uv.read_line(" Downloaded numpy")

    assert lines == ["downloading numpy (16.0 MiB) ...", "downloading pandas (8.0 MiB) ..."]
    assert before == "downloading numpy, pandas: 0 of 2 large packages, 0.0 of 25.2 MB, 4 s"
    assert (
        uv.measure().describe(4.0) == "downloading pandas: 1 of 2 large packages, 16.8 of 25.2 MB, 4 s, about 2 s left"
    )


async def test_an_error_shows_no_address(tmp_path: Path) -> None:
    """The address of a registry may contain a password, so the lines of uv are shown without it."""
    uv = Uv({}, tmp_path, [PythonRequirement("tiny")], lambda _: None)

    error = await uv._explain("Resolving\nerror: Failed to parse https://ada:pa55word@host/simple/tiny\nhint: x\n")

    assert error.message == "tiny could not be installed:\nFailed to parse (address)"
