"""uv: what it resolves, its progress and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.analysis import PythonRequirement
from pdkernel.packages.uv_command import Uv
from tests.wheels import WheelFolder


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


@pytest.mark.parametrize("name", ["uv.toml", "pyproject.toml"])
async def test_settings_of_the_current_folder_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file with settings of uv in the folder of the kernel does not change what steps get."""
    wheels = WheelFolder(tmp_path / "wheels")
    wheels.publish("tiny", "1.0")
    wheels.publish("tiny", "2.0")
    head = "[tool.uv]\n" if name == "pyproject.toml" else ""
    (tmp_path / name).write_text(f'{head}constraint-dependencies = ["tiny<2"]\n')
    monkeypatch.chdir(tmp_path)
    uv = Uv(wheels.environ(), tmp_path, [PythonRequirement("tiny")], lambda _: None)

    pins = await uv.resolve([PythonRequirement("tiny")], is_universal=True)

    assert [(pin.name, pin.version) for pin in pins] == [("tiny", "2.0")]


async def test_an_error_shows_no_address(tmp_path: Path) -> None:
    """The address of a registry may contain a password, so the lines of uv are shown without it."""
    uv = Uv({}, tmp_path, [PythonRequirement("tiny")], lambda _: None)

    error = await uv._explain("Resolving\nerror: Failed to parse https://ada:pa55word@host/simple/tiny\nhint: x\n")

    assert error.message == "tiny could not be installed:\nFailed to parse (address)"
