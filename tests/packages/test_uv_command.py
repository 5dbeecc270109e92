"""uv: what it resolves, its progress and its errors."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from pdkernel.language.analysis import PythonRequirement
from pdkernel.packages.uv_command import Uv, map_pip_settings, run_command
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


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without configuration files."""
    return {"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}


def test_variables_of_pip_configure_uv(home: dict[str, str], tmp_path: Path) -> None:
    """Indexes, links, hosts, time limits and the proxy have the names and the separators of uv."""
    (tmp_path / "wheels").mkdir()

    variables, options = map_pip_settings(
        {
            **home,
            "PIP_INDEX_URL": "https://one/simple",
            "PIP_EXTRA_INDEX_URL": "https://two/simple https://three/simple",
            "PIP_FIND_LINKS": f"{tmp_path}/wheels {tmp_path}/missing https://four/links",
            "PIP_TRUSTED_HOST": "one two:8080",
            "PIP_DEFAULT_TIMEOUT": "7.5",
            "PIP_RETRIES": "5",
            "PIP_PROXY": "http://proxy:3128",
            "PIP_NO_CACHE_DIR": "true",
        }
    )

    assert options == []
    assert variables["UV_DEFAULT_INDEX"] == "https://one/simple"
    assert variables["UV_INDEX"] == "https://two/simple https://three/simple"
    assert variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert variables["UV_FIND_LINKS"] == f"{tmp_path}/wheels,https://four/links"
    assert variables["UV_INSECURE_HOST"] == "one two:8080"
    assert (variables["UV_HTTP_TIMEOUT"], variables["UV_HTTP_RETRIES"]) == ("7", "5")
    assert variables["HTTPS_PROXY"] == variables["HTTP_PROXY"] == "http://proxy:3128"
    assert variables["UV_NO_CACHE"] == "1"


def test_configuration_files_of_pip_are_read(tmp_path: Path) -> None:
    """A variable that is not empty has precedence over the user's file, and the section of `pip install` over the global one."""
    folder = tmp_path / "config" / "pip"
    folder.mkdir(parents=True)
    (folder / "pip.conf").write_text(
        "[global]\nindex_url = https://global/simple\nno-index = yes\ntimeout = 3\n"
        "[install]\ntimeout = 4\nfind-links =\n    https://a/links\n    https://b/links\n[list]\ntimeout = 5\n"
    )
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CONFIG_DIRS": str(tmp_path)}

    variables, options = map_pip_settings({**environ, "PIP_INDEX_URL": "https://variable/simple", "PIP_TIMEOUT": ""})

    assert options == ["--no-index"]
    assert variables["UV_DEFAULT_INDEX"] == "https://variable/simple"
    assert variables["UV_FIND_LINKS"] == "https://a/links,https://b/links"
    assert variables["UV_HTTP_TIMEOUT"] == "4"


def test_a_chosen_configuration_file_replaces_that_of_the_user(tmp_path: Path) -> None:
    """With a file in `PIP_CONFIG_FILE`, the user's own file is not read; a missing file replaces nothing."""
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip" / "pip.conf").write_text("[global]\nindex-url = https://user/simple\n")
    chosen = tmp_path / "chosen.conf"
    chosen.write_text("[global]\nretries = 1\n")
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)}

    without, _ = map_pip_settings({**environ, "PIP_CONFIG_FILE": str(tmp_path / "missing.conf")})
    variables, _ = map_pip_settings({**environ, "PIP_CONFIG_FILE": str(chosen)})

    assert without["UV_DEFAULT_INDEX"] == "https://user/simple"
    assert "UV_DEFAULT_INDEX" not in variables
    assert variables["UV_HTTP_RETRIES"] == "1"


def test_settings_of_uv_have_precedence(home: dict[str, str]) -> None:
    """If uv has an index of its own, it does not get those of pip; other variables of uv replace pip's one by one."""
    variables, _ = map_pip_settings(
        {
            **home,
            "UV_INDEX_URL": "https://uv/simple",
            "PIP_EXTRA_INDEX_URL": "https://pip/simple",
            "UV_LINK_MODE": "copy",
            "UV_HTTP_TIMEOUT": "9",
            "PIP_TIMEOUT": "3",
        }
    )

    assert variables["UV_INDEX_URL"] == "https://uv/simple"
    assert not {"UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_STRATEGY"} & variables.keys()
    assert (variables["UV_LINK_MODE"], variables["UV_HTTP_TIMEOUT"]) == ("copy", "9")


@pytest.mark.parametrize("name", ["PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_are_used(home: dict[str, str], tmp_path: Path, name: str) -> None:
    """The certificates of pip are passed, in a file or a folder; without them, uv uses those of the system."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")

    assert map_pip_settings({**home, name: str(bundle)})[0]["SSL_CERT_FILE"] == str(bundle)
    assert map_pip_settings({**home, name: str(tmp_path)})[0]["SSL_CERT_DIR"] == str(tmp_path)
    assert map_pip_settings(home)[0]["UV_SYSTEM_CERTS"] == "1"


def test_variables_that_change_what_is_installed_are_dropped(home: dict[str, str]) -> None:
    """No variable changes the interpreter, the hash check or the refusal of source archives."""
    dropped = [
        "UV_PYTHON",
        "UV_NO_VERIFY_HASHES",
        "UV_NO_BINARY",
        "UV_OVERRIDE",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "PIP_TARGET",
    ]

    variables, _ = map_pip_settings({**home, **dict.fromkeys(dropped, "x"), "UV_OFFLINE": "1"})

    assert not set(dropped) & variables.keys()
    assert variables["UV_OFFLINE"] == "1"
