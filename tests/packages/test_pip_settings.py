"""The user's settings of pip as settings of uv."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.packages.pip_settings import map_pip_settings


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
