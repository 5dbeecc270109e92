"""Outbound policies in text form, and processes that reach public addresses only."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.egress import Gateway, PolicyCell, choose_policy, is_loopback, parse_policy
from pdkernel.egress.outbound_policy import (
    EgressModeError,
    NotPublicError,
    is_host_name,
    is_inside,
    is_public,
    public_addresses,
)
from pdkernel.egress.protocol_sniff import parse_client_hello
from tests.egress.hosts import client_context, host
from tests.egress.kit import (
    ClientProcess,
    Ledger,
    Loop,
    OutsideServer,
    SentMemory,
    knock,
    node_paths,
    node_process,
    read_all,
    read_until,
    wait_until,
)
from tests.egress.sandboxed import TCP, python, run_sandboxed


def test_options_after_the_mode_are_read() -> None:
    """The options `via` and `unopened` follow the mode, and are not part of its text."""
    policy = parse_policy("allow=a.test via=http://me:secret@proxy.test:3128 unopened=b.test,*.C.test")

    assert (policy.mode_text, policy.allowed_hosts, policy.via) == (
        "allow=a.test",
        ("a.test",),
        "http://me:secret@proxy.test:3128",
    )
    assert [policy.passes_tls_through(host) for host in ("b.test", "x.c.test", "a.test")] == [True, True, False]
    with pytest.raises(EgressModeError, match="There are two proxies for all calls"):
        parse_policy("live via=http://a.test:1", via=["http://b.test:2"])


def test_an_upstream_proxy_may_carry_recorded_calls(tmp_path: Path) -> None:
    """The mode record sends calls, so that a proxy has an effect."""
    assert parse_policy(f"record={tmp_path}/calls.jsonl", via=["http://proxy.test:1"]).via == "http://proxy.test:1"


def test_hosts_of_the_argument_and_of_the_text_are_passed_through() -> None:
    """`unopened` of the command line adds to the text; case has no meaning in either."""
    policy = parse_policy("live unopened=b.test unopened=C.test", unopened=("*.A.test",))

    assert [policy.passes_tls_through(host) for host in ("x.a.test", "B.test.", "c.test", "a.test")] == [
        True,
        True,
        True,
        False,
    ]


def test_a_recording_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, also where no shell expands it; another relative path is in the current folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    assert parse_policy("record=~/calls.jsonl").recording_file == tmp_path / "calls.jsonl"
    assert parse_policy("record=calls.jsonl").recording_file == tmp_path / "calls.jsonl"


def test_a_recording_is_a_file_in_a_folder(tmp_path: Path) -> None:
    """A folder is not a recording, and a file is not a folder of recordings."""
    (tmp_path / "file").write_text("")

    for text, said in ((f"replay={tmp_path}", "not a file"), (f"record={tmp_path}/file/calls.jsonl", "does not exist")):
        with pytest.raises(EgressModeError, match=said):
            parse_policy(text)


def test_the_url_of_a_stand_in_has_no_slash_at_its_end() -> None:
    """The path of a call follows the URL, and begins with its own slash."""
    assert parse_policy("stand-in=http://127.0.0.1:9/base/").stand_in_url == "http://127.0.0.1:9/base"


def test_runs_of_connect_tokens_are_guarded_in_every_mode() -> None:
    """A system stops calls that bypass the gateway, except in live; with public addresses only, in live too."""
    policies = [
        replace(parse_policy(text), public_only=public_only)
        for text, public_only in (("live", False), ("deny", False), ("live", True))
    ]

    assert [policy.guarded for policy in policies] == [False, True, True]


def test_a_file_may_have_blanks_in_its_name(tmp_path: Path) -> None:
    """A file's name may contain blanks; only `via=` or `unopened=` ends the mode."""
    assert parse_policy(f"record={tmp_path}/my calls.jsonl").recording_file == tmp_path / "my calls.jsonl"


@pytest.mark.parametrize(
    "text", ["live", "deny", "allow=slack.com,*.notion.com", "stand-in=http://127.0.0.1:9", "stand-in=slack"]
)
def test_a_mode_keeps_its_text(text: str) -> None:
    """A mode's text is parsed to the same mode."""
    assert parse_policy(parse_policy(text).mode_text) == parse_policy(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not an outbound policy"),
        ("liv", "Did you mean 'live'?"),
        ("live=yes", "takes no value"),
        ("allow", "needs a value"),
        ("record=", "needs a value"),
        ("allow=https://slack.com", "is not a host"),
        ("allow=s*ck.com", "is not a host"),
        ("allow=*slack.com", "is not a host"),
        ("allow=slack.com:443", "is not a host"),
        ("live unopened=https://slack.com", "is not a host"),
        ("deny via=http://proxy.test:1", "has no effect"),
        ("stand-in=gmail", "neither a URL nor the name of a built-in stand-in"),
        ("replay=nowhere.jsonl", "does not exist"),
        ("record=/no/such/folder/calls.jsonl", "its folder does not exist"),
    ],
)
def test_an_invalid_mode_is_refused(text: str, said: str) -> None:
    """The message has the error and a fix."""
    with pytest.raises(EgressModeError, match=said) as caught:
        parse_policy(text)

    assert caught.value.fix


@pytest.mark.parametrize(
    ("mode", "vias"),
    [
        ("deny", ["http://proxy:1"]),
        ("live", ["proxy:1"]),
        ("stand-in=slack", ["http://p:1"]),
        ("live", ["http://a.test:1", "http://b.test:1"]),
        ("live", ["net_a=http://a.test:1", "net_a=http://b.test:1"]),
        ("live", ["net_a=b"]),
    ],
)
def test_an_invalid_upstream_proxy_is_refused(mode: str, vias: list[str]) -> None:
    """A proxy must be a URL, requires a mode that sends calls, and is the only one of its workflows."""
    with pytest.raises(EgressModeError):
        parse_policy(mode, via=vias)


@pytest.mark.parametrize(
    ("run", "own", "used"),
    [
        ("live", None, "live"),
        ("deny", None, "deny"),
        ("deny", "live", "deny"),
        ("deny", "allow=slack.com", "deny"),
        ("live", "live via=http://proxy.test:1", "live via=http://proxy.test:1"),
        ("live", "allow=slack.com", "allow=slack.com"),
        ("live", "deny", "deny"),
        ("allow=slack.com", "live", "allow=slack.com"),
        ("stand-in=slack", "live", "stand-in=slack"),
        ("allow=slack.com", "allow=github.com", "allow=github.com"),
    ],
)
@pytest.mark.parametrize("public_only", [False, True])
def test_the_policy_of_a_run_that_goes_on(run: str, own: str | None, used: str, public_only: bool) -> None:
    """A process continues a run with its own policy, unless the run's is stricter; public addresses only stays with the run."""
    policy = replace(parse_policy(run), public_only=public_only)

    found = policy.in_server(None if own is None else parse_policy(own))

    assert found == replace(parse_policy(used), public_only=public_only)


def test_a_network_has_its_own_proxy() -> None:
    """A workflow of a network uses the proxy of that network; every other workflow uses the plain proxy, or none."""
    both = parse_policy("live", via=["net_a=http://me:x=y@a.test:1", "http://all.test:3"])
    one = parse_policy("live via=net_a=http://a.test:1 via=net_b=http://b.test:2")

    assert [both.for_network(each).via for each in ("net_a", "net_c", None)] == [
        "http://me:x=y@a.test:1",
        "http://all.test:3",
        "http://all.test:3",
    ]
    assert [one.for_network(each).via for each in ("net_a", "net_b", "net_c", 5)] == [
        "http://a.test:1",
        "http://b.test:2",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("host", "let_out"),
    [
        ("slack.com", True),
        ("SLACK.com.", True),
        ("api.slack.com", False),
        ("api.notion.com", True),
        ("notion.com", False),
        ("evilnotion.com", False),
    ],
)
def test_a_list_of_hosts_is_exact_or_by_domain(host: str, let_out: bool) -> None:
    """`slack.com` is that host only, `*.notion.com` every host below; case and a dot at the end have no meaning."""
    assert parse_policy("allow=Slack.com.,*.notion.com.").allows_host(host) is let_out


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({}, "live"),
        ({"PYTEST_CURRENT_TEST": "x"}, "deny"),
        ({"PDKERNEL_EGRESS": "stand-in=slack", "PYTEST_CURRENT_TEST": "x"}, "stand-in=slack"),
        ({"PDKERNEL_EGRESS": " deny "}, "deny"),
        ({"PDKERNEL_EGRESS": " "}, "live"),
    ],
)
def test_the_default_mode(environ: dict[str, str], mode: str) -> None:
    """The default is live, under pytest deny; the environment variable overrides both."""
    assert choose_policy(None, environ).mode_text == mode


def cells(*texts: str | None, folder: Path = Path()) -> list[PolicyCell]:
    """A notebook whose cells 3, 4, ... set these policies."""
    return [PolicyCell(number, text, folder) for number, text in enumerate(texts, 3)]


@pytest.mark.parametrize(
    ("given", "environ", "in_cells", "chosen"),
    [
        (None, {}, [], ("live", "")),
        (None, {}, ["stand-in=slack"], ("stand-in=slack", "cell 3 (%pdegress)")),
        (None, {}, ["live", "deny"], ("deny", "cell 4 (%pdegress)")),
        ("live", {}, ["deny"], ("live", "--egress")),
        (None, {"PDKERNEL_EGRESS": "live"}, ["deny"], ("live", "PDKERNEL_EGRESS")),
        ("deny", {"PDKERNEL_EGRESS": "live"}, [], ("deny", "--egress")),
        (None, {"PYTEST_CURRENT_TEST": "x"}, ["live"], ("deny", "pytest")),
        (None, {"PYTEST_CURRENT_TEST": "x"}, [None], ("deny", "pytest")),
        (None, {"PYTEST_CURRENT_TEST": "x"}, ["stand-in=slack"], ("stand-in=slack", "cell 3 (%pdegress)")),
    ],
)
def test_one_place_chooses_the_policy(
    given: str | None, environ: dict[str, str], in_cells: list[str | None], chosen: tuple[str, str]
) -> None:
    """The option wins, then the variable, then the last cell of the notebook; under pytest no cell lets calls out."""
    policy = choose_policy(given, environ, cells=cells(*in_cells))

    assert (policy.mode_text, policy.origin) == chosen


@pytest.mark.parametrize(
    ("in_cells", "said"),
    [
        (["stand-in=slack", "live"], "Name one: --egress stand-in=slack, or --egress live"),
        (["deny", "allow=a.test"], "cell 3 sends no calls, and cell 4 sends them for real"),
        (["deny", None], "Cell 4 sets the outbound policy by code"),
        ([None, "deny"], "Cell 3 sets the outbound policy by code"),
    ],
)
def test_cells_that_leave_the_policy_open_are_refused(in_cells: list[str | None], said: str) -> None:
    """A notebook that first sends nothing and then sends, or that decides by code, needs an explicit policy."""
    with pytest.raises(EgressModeError) as caught:
        choose_policy(None, {}, cells=cells(*in_cells))

    assert said in str(caught.value)


def test_a_recording_that_a_cell_names_is_beside_the_notebook(tmp_path: Path) -> None:
    """A relative path in a cell means the notebook's folder, wherever the command runs; a proxy has no effect on a replay."""
    (tmp_path / "calls.jsonl").write_text("")

    policy = choose_policy(None, {}, cells=cells("replay=calls.jsonl", folder=tmp_path), via=["http://proxy.test:1"])

    assert (policy.recording_file, policy.via) == (tmp_path / "calls.jsonl", None)


@pytest.mark.parametrize(
    ("text", "is_test"),
    [("live", False), ("allow=a.test", False), ("deny", True), ("stand-in=slack", True)],
)
def test_a_policy_that_sends_nothing_makes_a_run_a_test(text: str, is_test: bool) -> None:
    """Runs under `deny` and stand-ins are tests; a policy that sends calls to any host is not."""
    assert (parse_policy(text).is_test, cells(text)[0].is_test) == (is_test, is_test)


def test_the_password_of_a_stand_in_is_not_shown() -> None:
    """The policy for people, and the option that a message names, have no user information of a URL."""
    text = "stand-in=http://me:secret@127.0.0.1:9/a"

    assert parse_policy(text).text == "stand-in=http://127.0.0.1:9/a"
    assert "secret" not in str(cells(text)[0].option)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        *((each, True) for each in ("localhost", "LOCALHOST.", "app.localhost", "127.0.0.1", "127.9.8.7")),
        *((each, True) for each in ("::1", "[::1]", "::ffff:127.0.0.1", "0.0.0.0")),
        *((each, False) for each in ("slack.com", "localhost.example.com", "evillocalhost", "128.0.0.1")),
        *((each, False) for each in ("10.0.0.1", "::2", "127.0.0.1.example.com")),
    ],
)
def test_every_other_machine_is_outside(host: str, is_here: bool) -> None:
    """Every notation of this machine is recognised, and a name that looks like this machine is still outside."""
    assert is_loopback(host) is is_here


@pytest.mark.parametrize(("length", "is_valid"), [(253, True), (254, False)])
def test_a_host_name_has_at_most_253_characters(length: int, is_valid: bool) -> None:
    """The limit of RFC 1035 is the last valid length."""
    host = ".".join(["a" * 63] * 3 + ["b" * (length - 3 * 64)])

    assert len(host) == length
    assert is_host_name(host) is is_valid


@pytest.mark.parametrize(
    ("host", "is_valid"),
    [
        (f"{'a' * 63}.test", True),
        (f"{'a' * 64}.test", False),
        ("my_bucket.test", True),
        ("-a.test", False),
        ("a-.test", False),
        ("a..test", False),
        ("", False),
    ],
)
def test_a_label_has_at_most_63_characters(host: str, is_valid: bool) -> None:
    """A label is not empty, and does not begin or end with a hyphen; underscores are valid, as in names of buckets."""
    assert is_host_name(host) is is_valid


PUBLIC = "203.0.114.7"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Names:
    """A name server under the test's control: each name's answers in order; the last answer repeats."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Sequence[str]]] = {}
        self.asked: list[str] = []

    async def lookup(self, host: str, port: int) -> Sequence[str]:
        """The next answer; an address is its own answer."""
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            return [host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def names() -> Names:
    """A name server without names."""
    return Names()


@pytest.fixture
def public(loop: Loop, plain_outside: OutsideServer, names: Names, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with the test's name server and the outside server at a public address."""
    plain_outside.seen.clear()
    resolve = {(PUBLIC, 80): ("127.0.0.1", plain_outside.port)}
    started = loop.run(Gateway.start(tmp_path, host_overrides=resolve, environ={}, lookup=names.lookup))
    yield started
    loop.run(started.close())


@pytest.fixture
def caller_token(public: Gateway, ledger: Ledger) -> str:
    """A caller token for public addresses only, in the mode live."""
    caller_token = public.issue_token(public_only=True)
    public.bind(caller_token, ledger.binding("live", public_only=True))
    return caller_token


@pytest.fixture(params=[False, True], ids=["hook", "guard"])
def process(public: Gateway, ledger: Ledger, request: pytest.FixtureRequest) -> Iterator[ClientProcess]:
    """A Node.js process for public addresses only, with either the hook or the sandbox."""
    if request.param and public.sandbox_kind != "redirect":
        pytest.skip("this system does not permit a seccomp listener")
    started = node_process(public, node_paths()["wheel"], guarded=request.param, public_only=True)
    started.bind(ledger.binding("live", public_only=True))
    yield started
    started.stop()


def ask(gateway: Gateway, caller_token: str, name: str, port: int = 80) -> bytes:
    """The response to a request for *name*."""
    with knock(gateway, caller_token, name, port, secure=False) as sock:
        sock.sendall(REQUEST)
        return read_all(sock)


def code_of(answer: bytes) -> str:
    """The code of a refusal."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])


def is_called(service: socket.socket) -> bool:
    """Whether a client waits at *service*."""
    return bool(select.select([service], [], [], 0)[0])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
        "169.254.169.254", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "[::1]", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "2002:7f00:1::",
        "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, reserved and multicast addresses are not public, also as mapped IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "203.0.114.7", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    """Addresses of the public internet are public, also an IPv4 address that NAT64 or a mapped address carries."""
    assert is_public(address)


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        *((name, True) for name in ("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "[::1]", "10.0.0.1")),
        ("evillocalhost", False),
    ],
)
def test_hosts_that_need_no_lookup(name: str, is_known: bool) -> None:
    """This machine's own names and addresses that are not public are inside without a lookup, which another name requires."""
    assert is_inside(name) is is_known


async def test_one_private_address_is_enough(names: Names) -> None:
    """A name with a public and a private address is refused as a whole."""
    names.answers["both.test"] = [[PUBLIC, "10.0.0.1"]]

    with pytest.raises(NotPublicError):
        await public_addresses("both.test", 80, names.lookup)


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::ffff:127.0.0.1", "10.0.0.1"])
@pytest.mark.parametrize("mode", ["live", "deny", "stand-in=slack"])
def test_the_gateway_refuses_this_machine(public: Gateway, ledger: Ledger, mode: str, target: str) -> None:
    """A request to an address that is not public is answered 403 in each mode, and is in the ledger."""
    caller_token = public.issue_token(public_only=True)
    public.bind(caller_token, ledger.binding(mode, public_only=True))

    answer = ask(public, caller_token, target)

    assert answer.startswith(b"HTTP/1.1 403")
    assert code_of(answer) == "egress_not_public"
    assert [call.outcome for call in ledger.calls] == ["denied"]
    assert "public addresses only" in ledger.refused[0]


def test_a_name_with_a_private_address_is_refused(
    public: Gateway, names: Names, caller_token: str, plain_outside: OutsideServer
) -> None:
    """The addresses of a name are checked when the connection is made."""
    names.answers["inside.test"] = [["127.0.0.1"]]

    answer = ask(public, caller_token, "inside.test", plain_outside.port)

    assert code_of(answer) == "egress_not_public"
    assert plain_outside.seen == []


def test_the_checked_address_is_connected(
    public: Gateway, names: Names, caller_token: str, plain_outside: OutsideServer
) -> None:
    """A changed answer of the name server has no effect on a connection; the next lookup is refused."""
    names.answers["moves.test"] = [[PUBLIC], ["127.0.0.1"]]

    first = ask(public, caller_token, "moves.test")
    asked = list(names.asked)
    second = ask(public, caller_token, "moves.test", plain_outside.port)

    assert first.startswith(b"HTTP/1.1 200")
    assert asked == ["moves.test"]
    assert code_of(second) == "egress_not_public"
    assert len(plain_outside.seen) == 1


def test_connections_of_workflows_are_not_used(
    public: Gateway, names: Names, caller_token: str, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """A workflow's connection to a private host is not reused for a process with public addresses only."""
    workflow = public.issue_token()
    public.bind(workflow, ledger.binding("live"))
    names.answers["localhost.localdomain"] = [["127.0.0.1"]]
    port = plain_outside.port
    assert ask(public, workflow, "127.0.0.1", port).startswith(b"HTTP/1.1 200")

    assert code_of(ask(public, caller_token, "localhost.localdomain", port)) == "egress_not_public"


UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"\x00binary\n", b""), (UPGRADE, b"HTTP/1.1 403 Forbidden\r\n")],
    ids=["another protocol", "WebSocket"],
)
@pytest.mark.parametrize("target", ["127.0.0.1", "inside.test"])
def test_other_protocols_are_refused(
    public: Gateway, names: Names, caller_token: str, ledger: Ledger, target: str, sent: bytes, answer: bytes
) -> None:
    """Bytes of another protocol do not reach this machine, and a WebSocket to it is answered 403."""
    names.answers["inside.test"] = [["127.0.0.1"]]
    head = b""
    with socket.create_server(("127.0.0.1", 0)) as service:
        with (
            knock(public, caller_token, target, service.getsockname()[1], secure=False) as sock,
            contextlib.suppress(ConnectionResetError),
        ):
            sock.sendall(sent)
            head = read_until(sock, b"\r\n")
        assert not is_called(service)
    assert head == answer
    wait_until(lambda: [call.outcome for call in ledger.calls] == ["denied"])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_with_a_private_address_is_refused_inside_tls(
    public: Gateway, names: Names, ledger: Ledger, method: str
) -> None:
    """A client with its own TLS gets the refusal for its request; a request that is sent once is not stored as sent."""
    names.answers["inside.test"] = [["10.0.0.1"]]
    sent = SentMemory()
    caller_token = public.issue_token(public_only=True)
    public.bind(caller_token, ledger.binding("live", public_only=True, sent_requests=sent))
    ca = public.build_environment(caller_token, "python")["NODE_EXTRA_CA_CERTS"]
    with (
        knock(public, caller_token, "inside.test", 443, secure=False) as plain,
        client_context(Path(ca), "http/1.1").wrap_socket(plain, server_hostname="inside.test") as sock,
    ):
        sock.sendall(f"{method} /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi".encode())
        answer = read_all(sock)

    assert code_of(answer) == "egress_not_public"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [
        (method, "https://inside.test/x", "denied")
    ]
    assert sent.kept == {}


def test_an_upstream_proxy_is_given_the_address(public: Gateway, names: Names, ledger: Ledger) -> None:
    """The upstream proxy gets the address instead of the name, and may be on this machine."""
    names.answers["far.test"] = [[PUBLIC]]
    names.answers["inside.test"] = [["10.0.0.1"]]
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    caller_token = public.issue_token(public_only=True)
    with host(proxy) as port:
        public.bind(caller_token, ledger.binding("live", via=f"http://127.0.0.1:{port}", public_only=True))
        answer, refused = ask(public, caller_token, "far.test"), ask(public, caller_token, "inside.test")

    assert answer.endswith(b"ok")
    assert code_of(refused) == "egress_not_public"
    assert [each.partition(b" HTTP")[0] for each in asked] == [f"GET http://{PUBLIC}:80/".encode()]
    assert b"Host: x" in asked[0]


def test_tls_through_an_upstream_proxy_has_the_name(public: Gateway, names: Names, ledger: Ledger) -> None:
    """The upstream proxy gets the address, and TLS with the host still asks for the host's name."""
    names.answers["far.test"] = [[PUBLIC]]
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        asked.append(sock.recv(1 << 16))

    caller_token = public.issue_token(public_only=True)
    with host(proxy) as port:
        public.bind(caller_token, ledger.binding("live", via=f"http://127.0.0.1:{port}", public_only=True))
        with (
            knock(public, caller_token, "far.test", 443, secure=True) as sock,
            contextlib.suppress(ConnectionResetError),
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: far.test\r\n\r\n")
            read_all(sock)

    assert asked[0].startswith(f"CONNECT {PUBLIC}:443 ".encode())
    assert parse_client_hello(asked[1]).server_name == "far.test"


def test_a_process_does_not_reach_this_machine(process: ClientProcess, plain_outside: OutsideServer) -> None:
    """Node.js gets the gateway's refusal for a service of this machine, by each of its addresses."""
    port = plain_outside.port
    answers = [
        process.request("http.request", "GET", f"http://{name}:{port}/") for name in ("127.0.0.1", "localhost", "127.1")
    ]
    child = process.request("child", "GET", f"http://127.0.0.1:{port}/")

    assert [answer.status for answer in (*answers, child)] == [403] * 4
    assert plain_outside.seen == []


def test_a_redirect_to_this_machine_is_refused(
    process: ClientProcess, names: Names, plain_outside: OutsideServer, public: Gateway
) -> None:
    """A redirect of a public host to this machine is refused."""
    names.answers["away.test"] = [[PUBLIC]]
    port = plain_outside.port

    answer = process.request("fetch", "GET", f"http://away.test/away?http://127.0.0.1:{port}/secret")

    assert answer.status == 403
    assert [seen.path.partition("?")[0] for seen in plain_outside.seen] == ["/away"]


def test_a_process_reaches_public_hosts(process: ClientProcess, names: Names) -> None:
    """A public host is reached."""
    names.answers["far.test"] = [[PUBLIC]]

    assert process.request("fetch", "GET", "http://far.test/").status == 200


def test_unix_sockets_are_refused(process: ClientProcess, tmp_path: Path) -> None:
    """A service of this machine that listens at a Unix socket is not reached."""
    path = str(tmp_path / "service")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        answer = process.ask("unix", "GET", path)

        assert "EACCES" in answer["error"]
        assert not is_called(server)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox uses seccomp and Landlock, which only Linux has")
def test_native_code_does_not_reach_this_machine(
    public: Gateway, caller_token: str, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """A program with its own sockets gets the refusal by TCP, and cannot send datagrams."""
    if public.sandbox_kind != "redirect":
        pytest.skip("this system does not permit a seccomp listener")
    code = f"""
{TCP}
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"udp", ("127.0.0.1", 9))
except PermissionError:
    print("refused")
"""
    done = run_sandboxed(public, caller_token, python(code, "127.0.0.1", plain_outside.port))

    assert done.stdout.splitlines() == ["HTTP/1.1 403", "refused"]
    assert plain_outside.seen == []
    assert [call.outcome for call in ledger.calls] == ["denied", "denied"]


def test_a_token_and_its_binding_agree(public: Gateway, ledger: Ledger) -> None:
    """A step with public addresses only is not bound to a process without the limit, and vice versa."""
    for public_only in (True, False):
        caller_token = public.issue_token(public_only=not public_only)
        with pytest.raises(ValueError, match="must agree on public_only"):
            public.bind(caller_token, ledger.binding("live", public_only=public_only))


async def test_leads_inside(names: Names, tmp_path: Path) -> None:
    """`leads_inside` is true for a name with an address that is not public, and false for a name without an address."""
    names.answers |= {"far.test": [[PUBLIC]], "inside.test": [["10.0.0.1"]]}

    async def lookup(host: str, port: int) -> Sequence[str]:
        if host == "none.test":
            raise OSError("no address")
        return await names.lookup(host, port)

    gateway = await Gateway.start(tmp_path, environ={}, lookup=lookup)
    found = [await gateway.leads_inside(name, 80) for name in ("far.test", "inside.test", "none.test")]
    await gateway.close()

    assert found == [False, True, False]
