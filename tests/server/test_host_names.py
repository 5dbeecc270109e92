"""Host names that the server accepts."""

from __future__ import annotations

import pytest

from pdkernel.egress import parse_policy
from pdkernel.server import ServeSettings
from pdkernel.server.host_names import HostNames

NAMES = HostNames(
    ServeSettings(base_url="https://flows.example.com", policy=parse_policy("deny"), allowed_hosts=("box.lan",))
)


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "LOCALHOST:80", "127.0.0.1:4000", "[::1]:1", "eo1.m.pipedream.net", "flows.example.com", "box.lan:1",
     "eo1.localhost", "eo1.flows.example.com", "192.168.1.7"],
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
