"""Outbound policies in text form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.egress import PolicyCell, choose_policy, is_loopback, parse_policy
from pdkernel.egress.outbound_policy import EgressModeError, is_host_name


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
    ("mode", "via"), [("deny", "http://proxy:1"), ("live", "proxy:1"), ("stand-in=slack", "http://p:1")]
)
def test_an_invalid_upstream_proxy_is_refused(mode: str, via: str) -> None:
    """A proxy must be a URL, and requires a mode that sends calls."""
    with pytest.raises(EgressModeError):
        parse_policy(mode, via=[via])


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
    "vias", [["http://a.test:1", "http://b.test:1"], ["net_a=http://a.test:1", "net_a=http://b.test:1"], ["net_a=b"]]
)
def test_two_proxies_for_the_same_calls_are_refused(vias: list[str]) -> None:
    """Two proxies for the same workflows, or a network's proxy that is not a URL, are refused."""
    with pytest.raises(EgressModeError):
        parse_policy("live", via=vias)


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


def test_a_file_is_found_from_anywhere(tmp_path: Path) -> None:
    """The path of a recording does not depend on a later current folder."""
    file = parse_policy(f"record={tmp_path}/calls.jsonl").recording_file

    assert file == tmp_path / "calls.jsonl"


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
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "app.localhost",
        "127.0.0.1",
        "127.9.8.7",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "0.0.0.0",
    ],
)
def test_this_machine_is_not_outside(host: str) -> None:
    """Every notation of this machine is recognised."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["slack.com", "localhost.example.com", "evillocalhost", "128.0.0.1", "10.0.0.1", "::2", "127.0.0.1.example.com"],
)
def test_every_other_machine_is_outside(host: str) -> None:
    """A name that looks like this machine is still outside."""
    assert not is_loopback(host)


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
