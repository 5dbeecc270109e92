"""A small stand-in for a step's process: makes each requested call with the requested client, one JSON line each."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

if os.environ.get("HOOK"):
    spec = importlib.util.spec_from_file_location("egress_hook", os.environ["HOOK"])
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

_kept: dict[str, Any] = {}


def with_urllib(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    """A client that reads the proxy variables."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method)) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def with_http_client(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    """A client that reads no proxy variable."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def with_urllib3(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    """A client that reads no proxy variable and keeps its connections."""
    import urllib3

    pool = _kept.setdefault("urllib3", urllib3.PoolManager(ca_certs=os.environ["SSL_CERT_FILE"]))
    answer = pool.request(method, url, headers=headers, body=body, retries=False)
    return answer.status, dict(answer.headers), answer.data


def with_httpx_async(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    """A client with the non-blocking sockets of an event loop."""
    import httpx

    async def go() -> tuple[int, dict[str, str], bytes]:
        async with httpx.AsyncClient(trust_env=True, timeout=60) as client:
            answer = await client.request(method, url, headers=headers, content=body)
            return answer.status_code, dict(answer.headers), answer.content

    return asyncio.run(go())


def with_uvloop(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    """A client that resolves names and connects in C, outside the hook."""
    import httpx
    import uvloop

    async def go() -> tuple[int, dict[str, str], bytes]:
        async with httpx.AsyncClient(trust_env=False, verify=_context(), timeout=60) as client:
            answer = await client.request(method, url, headers=headers, content=body)
            return answer.status_code, dict(answer.headers), answer.content

    return uvloop.run(go())


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])


def with_httpx(method: str, url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, dict[str, str], bytes]:
    """A client that keeps its connection between requests."""
    import httpx

    client = _kept.setdefault("httpx", httpx.Client(timeout=60))
    answer = client.request(method, url, headers=headers, content=body)
    return answer.status_code, dict(answer.headers), answer.content


def with_requests(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    """A client that keeps its connection between requests."""
    import requests

    session = _kept.setdefault("requests", requests.Session())
    answer = session.request(method, url, headers=headers, data=body, timeout=60)
    return answer.status_code, dict(answer.headers), answer.content


def with_aiohttp(
    method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    """A client that ignores the proxy variables by default."""
    import aiohttp

    async def go() -> tuple[int, dict[str, str], bytes]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers=headers, data=body) as answer,
        ):
            return answer.status, dict(answer.headers), await answer.read()

    return asyncio.run(go())


def with_curl(method: str, url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, dict[str, str], bytes]:
    """A child process that reads the proxy variables."""
    command = ["curl", "-sS", "-i", "--suppress-connect-headers", "-X", method, url]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    if body is not None:
        command += ["--data-binary", "@-"]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    while head.split(b" ")[1] == b"100":
        head, _, rest = rest.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:])
    return int(lines[0].split(" ")[1]), {name: value for name, _, value in pairs}, rest


CLIENTS = {
    "urllib": with_urllib,
    "http.client": with_http_client,
    "urllib3": with_urllib3,
    "httpx": with_httpx,
    "httpx.async": with_httpx_async,
    "uvloop": with_uvloop,
    "requests": with_requests,
    "aiohttp": with_aiohttp,
    "curl": with_curl,
}

for line in sys.stdin:
    command = json.loads(line)
    body = command["body"].encode("latin-1") if command["body"] is not None else None
    try:
        status, headers, content = CLIENTS[command["client"]](
            command["method"], command["url"], command["headers"], body
        )
        out = {
            "status": status,
            "headers": {name.lower(): value for name, value in headers.items()},
            "body": content.decode("latin-1"),
        }
    except Exception as error:
        out = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(out), flush=True)
