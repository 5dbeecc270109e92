"""uv: what it resolves, its progress and its errors."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from pdkernel.language.analysis import PythonRequirement
from pdkernel.packages.uv_command import Uv, run_command
from tests.process_states import has_ended
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


async def test_a_cancelled_installation_ends_uv() -> None:
    """If a run is cancelled, uv and the processes that it has started end before the run goes on."""
    lines: list[str] = []
    script = "sleep 1000 & echo $$ $! >&2; wait"
    task = asyncio.ensure_future(run_command(("/bin/sh", "-c", script), {"PATH": os.defpath}, lines.append))
    async with asyncio.timeout(60):
        while not lines:
            await asyncio.sleep(0.01)
    own, child = map(int, lines[0].split())

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert not psutil.pid_exists(own)
    async with asyncio.timeout(60):
        while not has_ended(child):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("output", "message", "fix"),
    [
        (
            "error: No space left on device (os error 28)",
            "tiny cannot be installed: the disk is full.",
            "Free some space",
        ),
        (
            "error: HTTP status client error (401 Unauthorized) for url (https://ada:pa55word@host/simple)",
            "tiny cannot be installed: the package registry answered 401 Unauthorized.",
            "Check the user name and the password in PIP_INDEX_URL",
        ),
        (
            "error: error sending request for url (https://ada:pa55word@host/simple)",
            "tiny could not be installed: the package registry cannot be reached.",
            "Check the network, PIP_INDEX_URL and HTTPS_PROXY",
        ),
    ],
)
async def test_a_failure_outside_of_the_packages_is_explained(
    tmp_path: Path, output: str, message: str, fix: str
) -> None:
    """A full disk, a wrong password and a missing network are named with their fix, and without the registry's address."""
    uv = Uv({}, tmp_path, [PythonRequirement("tiny")], lambda _: None)

    error = await uv._explain(output)

    assert error.message == message
    assert error.fix.startswith(fix)
