"""
The outbound policy: how it is written, parsed, chosen and applied to hosts; and which addresses are public.

The gateway sees the calls of Node.js and Python steps (hooks in their sockets) and of every program that reads the proxy
variables (curl, wget, git, Go's default client). Other programs (a static binary with its own transport, a C extension,
UDP) are stopped by the operating system under every policy except live, where `sandbox` supports it (Linux). A policy
protects against accidents; it does not contain malicious code.

Where only public addresses may be called, `public_addresses` resolves names and accepts no other address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import shlex
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pdkernel.errors import RequestError

OutboundMode = Literal["live", "deny", "allow", "record", "replay", "stand-in"]

BUILT_IN_STAND_INS = ("slack", "github", "google_sheets", "openai")
MODES_HELP = "live, deny, allow=HOST[,HOST], record=FILE, replay=FILE, stand-in=URL or stand-in=slack[,github,...]"
_OPTION = re.compile(r"\s+(via|unopened)=(\S+)$")
_NETWORK = re.compile(r"(net_\w+)=")
_LONGEST_NAME = 253
# names of storage buckets contain underscores, which RFC 952 does not allow
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
MODE_VARIABLE = "PDKERNEL_EGRESS"
_MODES = ("live", "deny", "allow", "record", "replay", "stand-in")
_TEST_MODES = ("deny", "replay", "stand-in")
_MODES_WITH_VIA = ("live", "allow", "record")


class EgressModeError(RequestError):
    """The text after `--egress` or `%pdegress` is not an outbound policy, or a notebook's cells leave the policy open."""

    code = "egress_mode"


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """
    The rule for outbound calls.

    Attributes:
        mode: The mode.
        mode_text: The mode as it was written, without `via` and `unopened`.
        allowed_hosts: For `allow`: exact names and `*.domain`, lower case.
        recording_file: For `record` and `replay`: the file of recorded calls, absolute.
        stand_in_url: For `stand-in=URL`: the URL without a slash at its end.
        stand_in_names: For built-in stand-ins: their names, with commas between.
        via: URL of an upstream proxy through which calls are sent, or None.
        network_vias: For workflows of a Pipedream network (a VPC), the proxy in place of *via*: `net_...=URL`.
        unopened: Hosts whose TLS is passed through unread, for clients that pin a certificate or present a client
            certificate.
        public_only: Refuse calls to this machine and to private networks under every policy: for runs that a Connect token
            starts.
        origin: Who chose the policy, for people: `--egress`, `PDKERNEL_EGRESS`, `cell 3 (%pdegress)`; empty for the default.
    """

    mode: OutboundMode
    mode_text: str
    allowed_hosts: tuple[str, ...] = ()
    recording_file: Path | None = None
    stand_in_url: str | None = None
    stand_in_names: str | None = None
    via: str | None = None
    network_vias: tuple[str, ...] = ()
    unopened: tuple[str, ...] = ()
    public_only: bool = False
    origin: str = field(default="", compare=False)

    def for_network(self, network: object) -> OutboundPolicy:
        """Return the policy for a workflow with the setting `network: net_...`."""
        vias = dict(each.split("=", 1) for each in self.network_vias)
        return replace(self, via=vias[network]) if isinstance(network, str) and network in vias else self

    def in_server(self, own: OutboundPolicy | None) -> OutboundPolicy:
        """Return the policy of a run that goes on in a process with the policy *own*: that one, unless this is `deny`, or only that is `live`."""
        if own is None or self.mode == "deny" or (own.mode == "live" and self.mode != "live"):
            return self
        return replace(own, public_only=self.public_only)

    @property
    def is_test(self) -> bool:
        """Whether no call leaves the machine, so that the run is a test and writes to a scratch copy of its data stores."""
        return self.mode in _TEST_MODES

    @property
    def text(self) -> str:
        """The policy for people."""
        return hide_password(self.mode_text)

    @property
    def guarded(self) -> bool:
        """Whether the operating system must stop calls that bypass the gateway."""
        return self.mode != "live" or self.public_only

    @property
    def send_once_target(self) -> str:
        """
        The target of unsafe requests, as a part of the key of sending once.

        `live` and `allow=...` have the same target, so that a change between them sends nothing twice.
        """
        return "live" if self.mode in ("live", "allow") else self.mode_text

    def allows_host(self, host: str) -> bool:
        """Return whether a call to *host* is sent to the host."""
        if self.mode == "allow":
            return _matches(host, self.allowed_hosts)
        return self.mode in ("live", "record")

    def allows_tunnel(self, host: str) -> bool:
        """Return whether a connection that is not HTTP/1.1 may pass to *host* unread."""
        return self.mode != "record" and self.allows_host(host)

    def passes_tls_through(self, host: str) -> bool:
        """Return whether the TLS of *host* is passed through unread."""
        return _matches(host, self.unopened)


@dataclass(frozen=True, slots=True)
class PolicyCell:
    """
    A cell of a notebook that sets the outbound policy with `%pdegress`.

    Attributes:
        number: The cell's position in the notebook, from 1.
        text: The policy as `parse_policy` takes it; None if it depends on code that only a kernel runs.
        folder: The notebook's folder, to which files of the policy are relative.
    """

    number: int
    text: str | None
    folder: Path

    @property
    def is_test(self) -> bool:
        """As for `OutboundPolicy`."""
        return (self.text or "").partition("=")[0].strip() in _TEST_MODES

    @property
    def origin(self) -> str:
        """The cell as the origin of a policy."""
        return f"cell {self.number} (%pdegress)"

    @property
    def option(self) -> str | None:
        """The policy as an option of a command in the current folder, without proxies; or None."""
        if self.text is None:
            return None
        word, equals, value = _split_options(self.text.strip())[0].partition("=")
        if word in ("record", "replay"):
            value = os.path.relpath(self.folder / Path(value).expanduser())
        return f"--egress {shlex.quote(hide_password(f'{word}{equals}{value}'))}"


def parse_policy(
    text: str,
    *,
    via: Sequence[str] = (),
    unopened: tuple[str, ...] = (),
    folder: Path | None = None,
    origin: str = "",
) -> OutboundPolicy:
    """
    Parse an outbound policy.

    Args:
        text: `live`, `deny`, `allow=HOST[,HOST]`, `record=FILE`, `replay=FILE`, `stand-in=URL` or `stand-in=slack`; then, after
            a blank, `via=PROXY`, `via=net_...=PROXY` and `unopened=HOST[,HOST]`, which mean the same as the arguments.
        via: Upstream proxies for `live`, `allow` and `record`: a URL, and `net_...=URL` for the workflows of a network.
        unopened: Hosts (exact or `*.domain`) whose TLS is passed through unread.
        folder: The folder to which the file of a recording is relative; None for the current folder.
        origin: Who chose the policy, as in `OutboundPolicy`.

    Raises:
        EgressModeError: *text* is not an outbound policy; the message lists the policies.
    """
    text, options = _split_options(text.strip())
    proxies = [*via, *options["via"]]
    unopened = (*unopened, *(host for hosts in options["unopened"] for host in split_hosts(hosts)))
    word, equals, value = text.partition("=")
    value = value.strip()
    if word not in _MODES:
        near = get_close_matches(word, _MODES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise EgressModeError(f"{text!r} is not an outbound policy.{hint}", fix=f"The policies are {MODES_HELP}.")
    if (word in ("live", "deny")) == bool(equals) or (equals and not value):
        takes = "takes no value" if word in ("live", "deny") else "needs a value"
        raise EgressModeError(f"The outbound policy {word!r} {takes}.", fix=f"The policies are {MODES_HELP}.")
    networks, plain = _split_vias(proxies, word)
    hosts: tuple[str, ...] = ()
    file = base = stand_in = None
    if word == "allow":
        hosts = split_hosts(value)
    elif word in ("record", "replay"):
        file = _check_file(word, value, folder)
    elif word == "stand-in":
        base, stand_in = _check_stand_in(value)
    return OutboundPolicy(
        mode=word,  # type: ignore[arg-type]  # one of _MODES
        mode_text=text,
        allowed_hosts=hosts,
        recording_file=file,
        stand_in_url=base,
        stand_in_names=stand_in,
        via=plain,
        network_vias=networks,
        unopened=tuple(host.lower() for host in unopened),
        origin=origin,
    )


def choose_policy(
    given: str | None,
    environ: Mapping[str, str],
    *,
    cells: Sequence[PolicyCell] = (),
    via: Sequence[str] = (),
    unopened: tuple[str, ...] = (),
    given_by: str = "--egress",
) -> OutboundPolicy:
    """
    Choose the outbound policy of a run or a server, for every interface.

    The first of these decides: *given*, `PDKERNEL_EGRESS`, the last of *cells*, the default `live`. Under pytest a policy that
    sends calls must be given: otherwise it is `deny`.

    Args:
        given: The policy that the caller names, or None. Empty text is invalid.
        environ: Environment variables.
        cells: The `%pdegress` cells of the notebook that runs, in order.
        via: Upstream proxies, as for `parse_policy`.
        unopened: Hosts, as for `parse_policy`.
        given_by: The option or argument of *given*, for the record of the run.

    Raises:
        EgressModeError: The policy is invalid. Or *cells* leave it open: a policy depends on code, or the last cell sends
            calls that a cell above does not send.
    """
    in_environ = environ.get(MODE_VARIABLE, "").strip()
    if given is not None:
        text, origin = given, given_by
    elif in_environ:
        text, origin = in_environ, MODE_VARIABLE
    elif "PYTEST_CURRENT_TEST" in environ and not (cells and cells[-1].is_test):
        text, origin = "deny", "pytest"
    elif cells:
        return _choose_cell_policy(cells, via, unopened)
    else:
        text, origin = "live", ""
    return parse_policy(text, via=via, unopened=unopened, origin=origin)


def _choose_cell_policy(
    cells: Sequence[PolicyCell], via: Sequence[str] = (), unopened: tuple[str, ...] = ()
) -> OutboundPolicy:
    for cell in cells:
        if cell.text is None:
            raise EgressModeError(
                f"Cell {cell.number} sets the outbound policy by code, which runs in a kernel only.",
                fix="Name the policy: --egress live to send calls for real, or --egress deny.",
            )
    *above, last = cells
    unsent = next((each for each in reversed(above) if each.is_test), None)
    if unsent is not None and not last.is_test:
        raise EgressModeError(
            f"The notebook sets two outbound policies: cell {unsent.number} sends no calls, and cell {last.number} sends them "
            "for real.",
            fix=f"Name one: {unsent.option}, or {last.option}",
        )
    return parse_policy(
        last.text or "",
        via=() if last.is_test else via,  # a proxy of the environment has no effect on a call that is not sent
        unopened=unopened,
        folder=last.folder,
        origin=last.origin,
    )


def hide_password(text: str) -> str:
    """Return the policy *text* without the name and the password of a URL."""
    return re.sub(r"//[^/@]*@", "//", text)


def split_hosts(text: str) -> tuple[str, ...]:
    """Return the hosts in *text*, which separates them by commas, in lower case. Raises `EgressModeError` if one is not a name."""
    return tuple(_check_host(host) for host in text.split(",") if host.strip())


def is_ip_address(host: str) -> bool:
    """Return whether *host* is an IP address."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def is_host_name(host: str) -> bool:
    """Return whether *host*, in ASCII, is a valid DNS name: labels of 1 to 63 characters, 253 in total (RFC 1035)."""
    return len(host) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, host.split(".")))


def is_loopback(host: str) -> bool:
    """Return whether *host* (a name or an address) is this machine; calls to it are not outbound under any policy."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def _split_options(text: str) -> tuple[str, dict[str, list[str]]]:
    """Return the mode, which may contain blanks (in a file name), and the values of each option after it, in order."""
    options: dict[str, list[str]] = {"via": [], "unopened": []}
    while found := _OPTION.search(text):
        options[found[1]].insert(0, found[2])
        text = text[: found.start()]
    return text, options


def _matches(host: str, patterns: tuple[str, ...]) -> bool:
    name = host.rstrip(".").lower()
    return any(name.endswith(p[1:]) if p.startswith("*.") else name == p for p in patterns)


def _check_host(text: str) -> str:
    host = text.strip().lower().rstrip(".")
    if not host or any(sign in host for sign in "/: \t") or "*" in host.removeprefix("*."):
        raise EgressModeError(
            f"{text.strip()!r} is not a host name.",
            fix="Write names without scheme, port or path: allow=slack.com,*.slack.com",
        )
    return host


def _check_file(word: str, value: str, folder: Path | None) -> Path:
    file = ((folder or Path()) / Path(value).expanduser()).absolute()
    if file.exists() and not file.is_file():
        raise EgressModeError(
            f"There are no recorded calls at {value}: it is not a file.", fix="Pass the path of a file."
        )
    if word == "replay" and not file.exists():
        raise EgressModeError(
            f"There are no recorded calls at {value}: the file does not exist.",
            fix=f"Record them first: record={value}",
        )
    if not file.parent.is_dir():
        raise EgressModeError(
            f"Recorded calls cannot be written to {value}: its folder does not exist.",
            fix=f"Create {file.parent} first.",
        )
    return file


def _check_stand_in(value: str) -> tuple[str | None, str | None]:
    names = [name.strip() for name in value.split(",")]
    if all(name in BUILT_IN_STAND_INS for name in names):
        return None, ",".join(names)
    if urlsplit(value).scheme in ("http", "https") and urlsplit(value).hostname:
        return value.rstrip("/"), None
    raise EgressModeError(
        f"{value!r} is neither a URL nor the name of a built-in stand-in.",
        fix=f"Write stand-in=http://127.0.0.1:PORT, or one or more names of: {', '.join(BUILT_IN_STAND_INS)}.",
    )


def _split_vias(proxies: Sequence[str], word: str) -> tuple[tuple[str, ...], str | None]:
    """Return the proxies of networks, as `net_...=URL`, and the proxy of all other workflows, or None."""
    networks: dict[str, str] = {}
    plain: str | None = None
    for proxy in proxies:
        found = _NETWORK.match(proxy)
        network, url = (found[1], proxy[found.end() :]) if found else (None, proxy)
        _check_via(url, word)
        if network in networks or (network is None and plain is not None):
            raise EgressModeError(
                f"There are two proxies for {network or 'all calls'}.",
                fix="Name one: --via PROXY, or --via net_ID=PROXY.",
            )
        if network is None:
            plain = url
        else:
            networks[network] = url
    return tuple(f"{network}={url}" for network, url in networks.items()), plain


def _check_via(via: str, word: str) -> None:
    if word not in _MODES_WITH_VIA:
        raise EgressModeError(
            f"An upstream proxy has no effect under the outbound policy {word!r}, which sends no call.",
            fix="Remove the proxy.",
        )
    if urlsplit(via).scheme not in ("http", "https") or not urlsplit(via).hostname:
        raise EgressModeError(
            "The upstream proxy is not a URL.", fix="Write http://HOST:PORT, or net_ID=http://HOST:PORT."
        )


Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Resolves host and port to addresses; raises `OSError` if the name has no address."""

_UNICAST = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address by NAT64 (RFC 6052)


class NotPublicError(Exception):
    """A host is this machine or in a private network, or its name resolves to such an address."""


def is_public(address: str) -> bool:
    """
    Return whether *address*, and an IPv4 address embedded in it, belongs to the public internet.

    Raises:
        ValueError: *address* is a name.
    """
    found = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast
    carried = found.ipv4_mapped or found.sixtofour
    if found in _TRANSLATED:
        carried = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    if carried is not None:
        return is_public(str(carried))
    return found.is_global and found in _UNICAST


def is_inside(host: str) -> bool:
    """Return whether *host* is an address that is not public, or a name of this machine. Other names are not resolved: False."""
    try:
        return not is_public(host)
    except ValueError:
        return is_loopback(host)


async def public_addresses(host: str, port: int, lookup: Lookup) -> Sequence[str]:
    """
    Resolve *host* to public addresses; the caller connects to one of them without resolving again.

    Raises:
        NotPublicError: An address of the host is not public.
        OSError: The name has no address.
    """
    found = await lookup(host, port)
    if is_inside(host) or not all(map(is_public, found)):
        raise NotPublicError(host)
    return found


async def places(
    host: str, port: int, resolve: Mapping[tuple[str, int], tuple[str, int]], lookup: Lookup | None
) -> Sequence[tuple[str, int]]:
    """
    Addresses and ports to try for a connection to *host*, in order.

    Args:
        host: Name or address.
        port: Port of the host.
        resolve: Overrides of (host, port), for tests.
        lookup: Resolves the host; every address must be public. None: the name is returned unresolved.

    Raises:
        NotPublicError: An address of the host is not public.
        OSError: The name has no address.
    """
    if lookup is None or (host, port) in resolve:
        return [resolve.get((host, port), (host, port))]
    return [resolve.get((each, port), (each, port)) for each in await public_addresses(host, port, lookup)]


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """Resolve *host* with the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
