"""Host names that the server accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pdkernel.egress import parse_policy
from pdkernel.errors import RequestError
from pdkernel.server import ServeSettings
from pdkernel.server.host_names import (
    HostNames,
    build_base_url,
    build_console_host,
    build_console_url,
    parse_public_url,
)
from pdkernel.storage import Project

NAMES = HostNames(
    ServeSettings(base_url="https://flows.example.com", policy=parse_policy("deny"), allowed_hosts=("box.lan",))
)


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "LOCALHOST:80", "127.0.0.1:4000", "[::1]:1", "eo1.m.pipedream.net", "flows.example.com", "box.lan:1",
     "eo1.localhost", "a.b.localhost", "eo1.flows.example.com", "192.168.1.7", "flows.example.com.", "localhost.:80"],
)  # fmt: skip
def test_accepted_hosts(host: str) -> None:
    """Loopback, addresses, host names of endpoints, the public URL's host and allowed hosts are accepted."""
    assert NAMES.is_allowed(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "api.pipedream.com",
             "m.pipedream.net.evil.example", "1.2.3.4.5"],
)  # fmt: skip
def test_rejected_hosts(host: str) -> None:
    """Another name is rejected, because another site may have pointed the name at this machine."""
    assert not NAMES.is_allowed(host)


@pytest.mark.parametrize(
    ("port", "public_url", "base"),
    [
        (4000, None, "http://127.0.0.1:4000"),
        (4000, "https://flows.example.com/", "https://flows.example.com"),
        (4000, "https://flows.example.com/hooks/{port}/", "https://flows.example.com/hooks/4000"),
    ],
)
def test_the_base_of_urls(port: int, public_url: str | None, base: str) -> None:
    """The public URL, in which `{port}` is the server's port, has no slash at its end; without one, it is this machine's."""
    assert build_base_url(port, public_url) == base


@pytest.mark.parametrize(
    "url",
    ["flows.example.com", "ftp://a.example", "https://", "https://a.example/?x=1", "https://a.example/#x", "https://[", "https://a.example:0",
     "https://a example", "https://a.example/the hooks", "https://a.example\n"],
)  # fmt: skip
def test_what_is_not_a_public_url(url: str) -> None:
    """Another scheme, a query, a fragment, a blank, and an invalid host or port are refused."""
    with pytest.raises(RequestError, match=r"is not a valid public URL"):
        parse_public_url(url)


@pytest.mark.parametrize("url", ["https://ada:hidden@a.example", "https://:hidden@a.example", "https://ada@a.example"])
def test_a_public_url_has_no_password(url: str) -> None:
    """A URL with a name or a password is refused, and not repeated."""
    with pytest.raises(RequestError, match=r"^A URL with a name or a password in it is not"):
        parse_public_url(url)


def test_the_consoles_host(tmp_path: Path) -> None:
    """The console's host name is the same after each start, differs by project, and is a label of 128 bits below localhost."""
    names = []
    for folder in ("one", "one", "two"):
        with Project.open(tmp_path / folder) as project:
            names.append(build_console_host(project))
    host_names = HostNames(ServeSettings("http://127.0.0.1:8765", parse_policy("deny"), console_host=names[0]))

    assert names[0] == names[1] != names[2]
    assert re.fullmatch(r"console-[a-z2-7]{26}\.localhost", names[0])
    assert [host_names.is_console(host) for host in (f"{names[0].upper()}:8765", names[2], "localhost")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("base_url", "host", "port", "url"),
    [
        ("http://127.0.0.1:8765", "console-x.localhost", None, "http://console-x.localhost:8765"),
        ("https://127.0.0.1:8765", "console-x.localhost", 9000, "https://console-x.localhost:9000"),
        ("https://flows.example.com/base", None, None, "https://flows.example.com/base"),
    ],
)
def test_the_consoles_url(base_url: str, host: str | None, port: int | None, url: str) -> None:
    """The console has its host name and the server's port, or that of the browser; without a host name, the server's URL."""
    assert build_console_url(base_url, host, port) == url
