"""The user's settings of pip, from its variables and configuration files, as variables and options of uv."""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_DROPPED_VARIABLES = re.compile(
    r"PIP_|PYTHON|VIRTUAL_ENV$|UV_(?:BREAK_SYSTEM|BUILD_CONSTRAINT|COMPILE_BYTECODE|CUSTOM_COMPILE|EXCLUDE$|FORK_STRATEGY|"
    r"MANAGED|NO_BINARY|NO_BUILD|NO_MANAGED|NO_VERIFY_HASHES|OVERRIDE|PROJECT|PYTHON|REQUIRE_HASHES|NO_PROGRESS|RESOLUTION|"
    r"SYSTEM_PYTHON|WORKING_DIR)"
)
"""Variables that change what uv installs, how, or for which interpreter."""

_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
_SAME_VALUE = {"index-url": "UV_DEFAULT_INDEX", "client-cert": "SSL_CLIENT_CERT", "retries": "UV_HTTP_RETRIES"}


def map_pip_settings(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """
    Return the variables and the options with which uv uses the registries, the proxy and the certificates of pip.

    uv's own variables have precedence. An address, which may contain a password, is passed in a variable: other users of the
    machine can read options.
    """
    pip = _read_settings(environ)
    variables = {name: value for name, value in environ.items() if not _DROPPED_VARIABLES.match(name)}
    if any(variables.get(name) for name in _INDEX_VARIABLES):
        pip = {name: value for name, value in pip.items() if name not in ("index-url", "extra-index-url")}
    defaults = {
        "UV_HTTP_RETRIES": "2",  # more retries only delay the error
        "UV_LINK_MODE": "clone",  # where files cannot be cloned, uv makes hard links
        "UV_SYSTEM_CERTS": "1",
    }
    for variable in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):  # pip uses them; uv does not
        if bundle := environ.get(variable):
            defaults[_certificates_variable(bundle)] = bundle
    always = {"NO_COLOR": "1", "UV_NO_WRAP": "1", "UV_PYTHON_DOWNLOADS": "never"}
    if bundle := pip.get("cert"):
        always[_certificates_variable(bundle)] = bundle
    if proxy := pip.get("proxy"):
        always |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    options = ["--no-index"] if _is_on(pip.get("no-index", "")) else []
    return {**defaults, **dict(_map_settings(pip)), **variables, **always}, options


def _map_settings(pip: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables of uv for settings of pip that have such a variable."""
    for name, variable in _SAME_VALUE.items():
        if value := pip.get(name):
            yield variable, value
    if extra := pip.get("extra-index-url", "").split():
        yield "UV_INDEX", " ".join(extra)
        # as pip: the best version of all indexes; by default, uv takes a package only from the first index that has it
        yield "UV_INDEX_STRATEGY", "unsafe-best-match"
    if links := [_absolute(each) for each in pip.get("find-links", "").split()]:
        yield "UV_FIND_LINKS", ",".join(each for each in links if "://" in each or Path(each).is_dir())
    if constraints := pip.get("constraint", "").split():
        yield "UV_CONSTRAINT", " ".join(map(_absolute, constraints))
    if timeout := pip.get("timeout") or pip.get("default-timeout"):
        yield "UV_HTTP_TIMEOUT", timeout.partition(".")[0]  # pip's may have a fraction
    if hosts := pip.get("trusted-host", "").split():
        yield "UV_INSECURE_HOST", " ".join(hosts)
    if pip.get("keyring-provider") == "subprocess":
        yield "UV_KEYRING_PROVIDER", "subprocess"
    if _is_on(pip.get("pre", "")):
        yield "UV_PRERELEASE", "allow"
    if _is_on(pip.get("no-cache-dir", "")):
        yield "UV_NO_CACHE", "1"


def _read_settings(environ: Mapping[str, str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for file in _configuration_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue  # pip reports errors of its files
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def _configuration_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the configuration files of pip, those with precedence last."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    home = Path(environ.get("HOME") or "~").expanduser()
    is_mac = sys.platform == "darwin"
    if is_mac:
        yield Path("/Library/Application Support/pip/pip.conf")
    else:
        for each in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep):
            yield Path(each, "pip", "pip.conf")
        yield Path("/etc/pip.conf")
    if not (chosen and Path(chosen).exists()):
        yield home / ".pip" / "pip.conf"
        mac = home / "Library" / "Application Support" / "pip"
        folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip")
        yield (mac if is_mac and mac.is_dir() else folder) / "pip.conf"
    yield Path(sys.prefix, "pip.conf")
    if chosen:
        yield Path(chosen)


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _certificates_variable(place: str) -> str:
    return "SSL_CERT_DIR" if Path(place).is_dir() else "SSL_CERT_FILE"


def _is_on(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on", "y", "t")
