"""Host names that the server accepts."""

from __future__ import annotations

import pytest

from pdkernel.egress import parse_policy
from pdkernel.errors import RequestError
from pdkernel.server import ServeSettings
from pdkernel.server.host_names import HostNames, build_base_url, parse_public_url

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
