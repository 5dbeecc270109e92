"""The gateway: its start, its files, and the environment variables of a step."""

from __future__ import annotations

import asyncio
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from pdkernel.egress import Gateway
from pdkernel.egress.tls.certificates import CertificateAuthority
from pdkernel.egress.tls.client_hello import hello_is_complete, parse_client_hello
from pdkernel.errors import ProjectError

START = """
import asyncio, sys
from pathlib import Path
from pdkernel.egress import Gateway, parse_policy
async def main():
    gateway = await Gateway.start(Path(sys.argv[1]))
    gateway.issue_token()
    print(sorted({"httpx", "httpcore", "h11", "trustme", "cryptography", "certifi", "pdkernel.egress.router"} & set(sys.modules)))
    await gateway.close()
asyncio.run(main())
"""


def test_an_unused_gateway_loads_no_heavy_library(tmp_path: Path) -> None:
    """HTTP and certificates are loaded with the first connection, and no file is created before."""
    command = [sys.executable, "-c", START, str(tmp_path / "egress")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])

    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "egress").exists()


async def test_the_authoritys_key_has_private_modes(tmp_path: Path) -> None:
    """Only the owner can read the key and its folder."""
    gateway = await Gateway.start(tmp_path / "egress", environ={})
    gateway.build_environment(gateway.issue_token(), "node")
    await gateway.close()

    assert stat.S_IMODE((tmp_path / "egress").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "egress" / "authority.pem").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "egress" / "ca.pem").read_bytes()
    assert b"PRIVATE" not in (tmp_path / "egress" / "bundle.pem").read_bytes()


def test_the_authority_is_kept(tmp_path: Path) -> None:
    """A second start, and a second process, use the same certificate."""
    one = CertificateAuthority(tmp_path, environ={}).certificate_file.read_bytes()

    assert CertificateAuthority(tmp_path, environ={}).certificate_file.read_bytes() == one


def test_a_host_certificate_is_trusted_by_the_bundle(tmp_path: Path) -> None:
    """A client with the project's bundle accepts the gateway's certificate for a host."""
    authority = CertificateAuthority(tmp_path, environ={})
    client = ssl.create_default_context(cafile=str(authority.bundle_file))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname="slack.com")
    other = authority.server_context("slack.com").wrap_bio(to_server, to_client, server_side=True)

    for side in (one, other, one, other):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue

    assert one.getpeercert() is not None


def test_the_users_own_roots_are_in_the_bundle(tmp_path: Path) -> None:
    """Steps still trust a company's root in SSL_CERT_FILE."""
    own = trustme.CA().cert_pem.bytes()
    (tmp_path / "own.pem").write_bytes(own)

    bundle = CertificateAuthority(
        tmp_path / "e", environ={"SSL_CERT_FILE": str(tmp_path / "own.pem")}
    ).bundle_file.read_bytes()

    assert own.strip() in bundle
    assert bundle.count(b"BEGIN CERTIFICATE") > 50


async def test_the_environment_routes_every_client_to_the_gateway(tmp_path: Path) -> None:
    """The environment has proxy variables in both cases, certificates under every name, and the hook for Node.js."""
    gateway = await Gateway.start(tmp_path / "a folder", environ={})
    caller_token = gateway.issue_token()
    environment = gateway.build_environment(caller_token, "bash")
    await gateway.close()

    proxy = f"http://{caller_token}:x@127.0.0.1:{gateway.port}"
    assert {environment[name] for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "all_proxy")} == {proxy}
    assert "127.0.0.1" in environment["no_proxy"]
    assert environment["NODE_OPTIONS"].startswith("--import file:///")
    assert environment["PDK_EGRESS"] == f"127.0.0.1:{gateway.port}"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "WGETRC"):
        assert Path(environment[name]).is_file()
    assert Path(environment["WGETRC"]).read_text() == f"ca_certificate = {environment['SSL_CERT_FILE']}\n"


async def test_closing_ends_every_connection(tmp_path: Path) -> None:
    """After close, the port is free and no connection is open."""
    gateway = await Gateway.start(tmp_path, environ={})
    caller_token = gateway.issue_token()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f'PDK1 {{"host": "a.test", "port": 443, "tls": true, "token": "{caller_token}"}}\n'.encode())
    writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    await reader.readuntil(b"no-token")

    await gateway.close()

    assert (await reader.read()).endswith(b"}")
    writer.close()
    try:
        await asyncio.open_connection("127.0.0.1", gateway.port)
    except ConnectionRefusedError:
        refused = True
    else:
        refused = False
    assert refused


def hello(name: str | None, protocols: list[str]) -> bytes:
    """A ClientHello as OpenSSL makes one."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError


def test_a_hello_names_its_host_and_protocols() -> None:
    """Name and ALPN are read from OpenSSL's ClientHello; an incomplete one is recognised."""
    data = hello("api.example.test", ["h2", "http/1.1"])

    assert hello_is_complete(data)
    assert not hello_is_complete(data[:-1])
    said = parse_client_hello(data)
    assert (said.server_name, said.protocols, said.speaks_http1) == ("api.example.test", ("h2", "http/1.1"), True)


def test_a_hello_without_alpn() -> None:
    """No ALPN means HTTP/1.1; h2 alone does not."""
    assert parse_client_hello(hello("a.test", [])).speaks_http1
    assert not parse_client_hello(hello("a.test", ["h2"])).speaks_http1
    assert parse_client_hello(b"\x16\x03\x01\x00\x02\x01\x00").server_name is None


def test_a_damaged_authority_is_reported_with_a_fix(tmp_path: Path) -> None:
    """A file without a key is named with a fix."""
    (tmp_path / "authority.pem").write_text("nothing")

    with pytest.raises(ProjectError, match="is damaged") as caught:
        _ = CertificateAuthority(tmp_path, environ={}).bundle_file

    assert "Delete the file" in caught.value.fix


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    """If certificates cannot be stored, the message names the folder and the reason."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ProjectError, match="cannot be written"):
        _ = CertificateAuthority(tmp_path / "file" / "egress", environ={}).bundle_file
