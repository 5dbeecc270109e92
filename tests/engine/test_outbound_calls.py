"""Outbound calls in whole runs: programs that bypass the gateway, refused and failed calls, and steps that call the APIs of apps."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pdkernel.egress import detect_sandbox
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import OutboundEnforcement
from tests.builders import a_step, an_event, bash_step, node_step, python_step
from tests.engine.conftest import Run
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

UNREACHABLE = {
    "node": node_step("call", "await fetch('http://nowhere.invalid/things');"),
    "python": python_step("call", "import urllib.request; urllib.request.urlopen('http://nowhere.invalid/things')"),
}

AROUND = {
    "bash": bash_step(
        "call",
        "env -i bash -c 'exec 3<>/dev/tcp/192.0.2.7/81; echo never >&3; cat <&3'; echo out=$? >> $PIPEDREAM_EXPORTS",
    ),
    "python": python_step(
        "call",
        "import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', "
        '\'import socket; s = socket.create_connection(("192.0.2.7", 81), 5); s.sendall(b"never"); s.recv(1)\'], env={})',
    ),
}


@pytest.mark.skipif(detect_sandbox() != "redirect", reason="this system has no seccomp listener for us")
@pytest.mark.parametrize("language", AROUND)
async def test_call_of_a_bypassing_program_is_recorded(run: Run, language: str) -> None:
    """A program that ignores the proxy variables is redirected to the gateway, and the record has its call."""
    done = await run(AROUND[language])

    calls = done.step("call").requests
    assert [(call.url, call.outcome, call.step) for call in calls] == [("tcp://192.0.2.7:81", "denied", "call")]


async def test_record_has_the_guard(run: Run, runtime: WorkflowEngine) -> None:
    """The record of a run that was not live has the mode and the guard."""
    done = await run(python_step("one"))

    kept = await runtime.journal.get_execution(done.id)

    assert kept is not None
    assert kept.outbound_enforcement == done.outbound_enforcement == OutboundEnforcement("deny", detect_sandbox())


async def test_live_run_has_no_guard(run: Run) -> None:
    """The record of a live run has no guard."""
    done = await run(python_step("one"), egress="live")

    assert done.outbound_enforcement is None


async def test_error_after_a_refused_call_names_the_refusal(run: Run) -> None:
    """An error after a refused call names the refusal, not only the client's "403: Forbidden"."""
    step = python_step("call", "import urllib.request; urllib.request.urlopen('http://api.example.com/v1/things')")

    done = await run(step)

    error = done.step("call").error
    assert error is not None
    assert error.name.endswith("HTTPError")
    assert "GET http://api.example.com/v1/things was not sent: the mode for outbound calls is deny." in error.message


@pytest.mark.parametrize("language", UNREACHABLE)
async def test_unreachable_host_fails_the_step(run: Run, language: str) -> None:
    """A step that does not catch its client's error fails; the error and the call name the host and the cause."""
    done = await run(UNREACHABLE[language], egress="live")

    error, (call,) = done.step("call").error, done.step("call").requests
    assert done.status == "error"
    assert error is not None
    assert "GET http://nowhere.invalid/things got no response: nowhere.invalid " in error.message
    assert (call.outcome, call.status) == ("failed", None)
    assert (call.note or "").startswith("no response: nowhere.invalid ")


async def test_curl_fails_for_an_unreachable_host(run: Run) -> None:
    """Curl exits with the status of a failed connection, which does not fail a Bash step, as on the platform."""
    code = "curl -sS https://nowhere.invalid/things\necho status=$? >> $PIPEDREAM_EXPORTS"

    done = await run(bash_step("call", code), egress="live")

    assert done.step("call").exports["status"] != "0"
    assert (done.step("call").requests[0].note or "").startswith("no response: nowhere.invalid ")


async def test_caught_error_of_a_call_does_not_fail_the_step(run: Run) -> None:
    """A step that catches the error of a failed call does not fail; the record has the call."""
    code = """
import urllib.request
try:
    urllib.request.urlopen("https://nowhere.invalid/things")
except urllib.error.URLError as error:
    return str(error.reason)
"""
    done = await run(python_step("call", code), egress="live")

    assert done.status == "success"
    assert "nowhere.invalid" in str(done.step("call").exports["$return_value"])
    assert [call.outcome for call in done.step("call").requests] == ["failed"]


async def test_failed_call_of_an_earlier_step_is_not_named(run: Run) -> None:
    """An error after a failed call of an earlier step does not name that call."""
    caught = (
        "import urllib.request\ntry:\n    urllib.request.urlopen('http://nowhere.invalid/')\nexcept OSError:\n    pass"
    )
    done = await run(python_step("call", caught), python_step("after", "raise ValueError('mine')"), egress="live")

    error = done.step("after").error
    assert error is not None
    assert error.message == "mine"


SNOWFLAKE = a_step("""
    %%pdstep query --lang node
    import { createHash, createPublicKey, createSign } from "node:crypto";

    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

    export default defineComponent({
      props: { snowflake: { type: "app", app: "snowflake" } },
      methods: {
        token() {
          const { account, username, private_key } = this.snowflake.$auth;
          const user = `${account}.${username}`.toUpperCase();
          const key = createPublicKey(private_key).export({ type: "spki", format: "der" });
          const now = Math.floor(Date.now() / 1000);
          const issuer = `${user}.SHA256:${createHash("sha256").update(key).digest("base64")}`;
          const text = `${encode({ alg: "RS256", typ: "JWT" })}.${encode({ iss: issuer, sub: user, iat: now, exp: now + 3600 })}`;
          return `${text}.${createSign("RSA-SHA256").update(text).sign(private_key, "base64url")}`;
        },
        async call(path, options) {
          const headers = {
            "Authorization": `Bearer ${this.token()}`,
            "X-Snowflake-Authorization-Token-Type": "KEYPAIR_JWT",
            "Content-Type": "application/json",
            "Accept": "application/json",
          };
          const host = `https://${this.snowflake.$auth.account}.snowflakecomputing.com`;
          const response = await fetch(host + path, { ...options, headers });
          return { status: response.status, ...await response.json() };
        },
      },
      async run({ steps }) {
        let result = await this.call("/api/v2/statements?requestId=r1", { method: "POST", body: JSON.stringify({
          statement: "select name, total from orders where total > ?",
          timeout: 60, database: "SHOP", schema: "PUBLIC", warehouse: "SMALL",
          bindings: { 1: { type: "FIXED", value: String(steps.trigger.event.body.minimum) } },
        }) });
        const path = `/api/v2/statements/${result.statementHandle}`;
        while (result.status === 202) result = await this.call(path);
        const { rowType, partitionInfo } = result.resultSetMetaData;
        let rows = result.data;
        for (let n = 1; n < partitionInfo.length; n++) rows = [...rows, ...(await this.call(`${path}?partition=${n}`)).data];
        return rows.map((row) => Object.fromEntries(rowType.map(({ name }, n) => [name, row[n]])));
      },
    });
""")


def answer_as_snowflake(key: rsa.RSAPrivateKey) -> Callable[[SentRequest], Answer]:
    """Answers as version 2 of the SQL API: a statement runs for two requests, and its result has two partitions."""
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    issuer = f"ACME-SHOP.REPORTER.SHA256:{base64.b64encode(hashlib.sha256(public).digest()).decode()}"
    polled = 0

    def answer(request: SentRequest) -> Answer:
        nonlocal polled
        token = request.headers["authorization"].removeprefix("Bearer ")
        jwt.decode(token, key.public_key(), algorithms=["RS256"], issuer=issuer)
        if (
            request.headers["x-snowflake-authorization-token-type"] != "KEYPAIR_JWT"
            or not request.headers["user-agent"]
        ):
            return 401, {"code": "390303", "message": "Invalid OAuth access token."}
        if request.method == "POST":
            return 202, {"code": "333334", "statementHandle": "01b2", "statementStatusUrl": "/api/v2/statements/01b2"}
        if request.path.endswith("?partition=1"):
            return 200, {"data": [["Bob", "8"]]}
        polled += 1
        if polled == 1:
            return 202, {"code": "333334", "statementHandle": "01b2"}
        columns = [{"name": "NAME", "type": "text"}, {"name": "TOTAL", "type": "fixed"}]
        meta = {"numRows": 2, "format": "jsonv2", "rowType": columns, "partitionInfo": [{"rowCount": 1}] * 2}
        return 200, {"code": "090001", "statementHandle": "01b2", "resultSetMetaData": meta, "data": [["Ada", "7"]]}

    return answer


async def test_step_queries_snowflake(run: Run, connect: Callable[..., str]) -> None:
    """A step signs a token with the account's key, binds a value, waits for the statement and reads each partition."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    credentials = {"account": "acme-shop", "username": "reporter", "private_key": pem}
    connect("ada", app="snowflake", credentials=credentials)

    with serve(AnsweringServer(answer_as_snowflake(key))) as api:
        done = await run(
            SNOWFLAKE, event=an_event({"minimum": 5}), egress=f"stand-in={api.url}", external_user_id="ada"
        )

    assert done.step("query").exports == {
        "$return_value": [{"NAME": "Ada", "TOTAL": "7"}, {"NAME": "Bob", "TOTAL": "8"}]
    }
    assert [(call.method, call.path) for call in api.requests] == [
        ("POST", "/api/v2/statements?requestId=r1"),
        ("GET", "/api/v2/statements/01b2"),
        ("GET", "/api/v2/statements/01b2"),
        ("GET", "/api/v2/statements/01b2?partition=1"),
    ]
    assert {call.headers["x-forwarded-host"] for call in api.requests} == {"acme-shop.snowflakecomputing.com"}
    assert api.requests[0].json() == {
        "statement": "select name, total from orders where total > ?",
        "timeout": 60,
        "database": "SHOP",
        "schema": "PUBLIC",
        "warehouse": "SMALL",
        "bindings": {"1": {"type": "FIXED", "value": "5"}},
    }
    assert pem.splitlines()[1] not in json.dumps(done.to_json())


DRIVE = a_step("""
    %%pdstep copy --app google_drive
    import json
    import requests

    def handler(pd: "pipedream"):
        headers = {"Authorization": f"Bearer {pd.inputs['google_drive']['$auth']['oauth_access_token']}"}
        with open("/tmp/report.csv", "w") as file:
            file.write("name,total\\nAda,7\\n")
        with open("/tmp/report.csv", "rb") as file:
            parts = [
                ("application/json; charset=UTF-8", json.dumps({"name": "report.csv", "parents": ["root"]}).encode()),
                ("text/csv", file.read()),
            ]
        body = b"".join(b"--part\\r\\nContent-Type: %s\\r\\n\\r\\n%s\\r\\n" % (kind.encode(), text) for kind, text in parts)
        created = requests.post(
            "https://www.googleapis.com/upload/drive/v3/files",
            params={"uploadType": "multipart", "fields": "id,name"},
            headers={**headers, "Content-Type": "multipart/related; boundary=part"},
            data=body + b"--part--",
        )
        created.raise_for_status()
        found, page = [], {}
        while True:
            params = {"q": "'root' in parents and trashed = false", "pageSize": 2, "fields": "nextPageToken, files(id, name)", **page}
            listed = requests.get("https://www.googleapis.com/drive/v3/files", params=params, headers=headers).json()
            found += [each["name"] for each in listed["files"]]
            if "nextPageToken" not in listed:
                return {"created": created.json(), "found": found}
            page = {"pageToken": listed["nextPageToken"]}
""")


def answer_as_google_drive(request: SentRequest) -> Answer:
    """Answers as version 3 of the API: an upload in two parts, and lists of at most `pageSize` files."""
    url = urlsplit(request.path)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    if request.headers["authorization"] != "Bearer ya29-0123456789":
        return 401, {"error": {"code": 401, "status": "UNAUTHENTICATED"}}
    if (request.method, url.path) == ("POST", "/upload/drive/v3/files"):
        if query["uploadType"] != "multipart" or not request.headers["content-type"].startswith("multipart/related;"):
            return 400, {"error": {"code": 400, "message": "Bad content type"}}
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        metadata, media = email.message_from_bytes(head + request.body, policy=email.policy.HTTP).iter_parts()
        name = json.loads(metadata.get_content())["name"]
        if (metadata.get_content_type(), media.get_content_type()) != ("application/json", "text/csv"):
            return 400, {"error": {"code": 400, "message": "Bad content type"}}
        return 200, {"id": "f1", "name": name, "size": str(len(media.get_content()))}
    names = ["a.txt", "b.txt", "report.csv"]
    start, size = int(query.get("pageToken", "0")), int(query["pageSize"])
    more = {"nextPageToken": str(start + size)} if start + size < len(names) else {}
    return 200, {"files": [{"id": name, "name": name} for name in names[start : start + size]], **more}


async def test_step_uploads_a_file_to_google_drive_and_lists_pages(run: Run, connect: Callable[..., str]) -> None:
    """A step sends metadata and a file of `/tmp` in one request, and asks for files until there is no next page."""
    connect("ada", app="google_drive", token="ya29-0123456789")

    with serve(AnsweringServer(answer_as_google_drive)) as api:
        done = await run(DRIVE, egress=f"stand-in={api.url}", external_user_id="ada")

    assert done.step("copy").error is None
    assert done.step("copy").exports == {
        "$return_value": {
            "created": {"id": "f1", "name": "report.csv", "size": "17"},
            "found": ["a.txt", "b.txt", "report.csv"],
        }
    }
    assert [parse_qs(urlsplit(call.path).query).get("pageToken") for call in api.requests] == [None, None, ["2"]]
    assert {call.headers["x-forwarded-host"] for call in api.requests} == {"www.googleapis.com"}
