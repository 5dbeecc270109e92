"""Whose a URL of an endpoint at Pipedream is, and where it is in a text."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pdkernel.annex.migration.endpoint_urls import EndpointMap, UrlMatch, build_endpoint_map, check_base_url
from pdkernel.annex.migration.sources import MigrationSource, read_sources
from pdkernel.errors import RequestError
from pdkernel.storage import Project
from tests.annex.migration.omissions import API_WORKFLOW
from tests.files.definition.archives import HTTP, pack, step, workflow
from tests.files.definition.builders import synced

BASE = "https://flows.example.com/pd"
YAML = "schema: workflow/2022.04\nname: {name}\ntriggers:\n- id: {trigger}\nsteps: []\n"


def folder(root: Path, name: str, workflow_id: str, *, trigger: str = "hi_1", **files: str) -> Path:
    """A synced folder of a workflow without steps."""
    return synced(root / f"{name.lower()}-{workflow_id}", YAML.format(name=name, trigger=trigger), **files)


def read(*given: object) -> list[MigrationSource]:
    """The workflows of each argument by itself, as the command reads them."""
    return [each for one in given for each in read_sources([str(one)], lambda _: API_WORKFLOW)]


@pytest.fixture
def endpoints(tmp_path: Path, project: Project) -> EndpointMap:
    """Orders has the endpoint `eo1`, at Pipedream and on a domain of the team; Nightly has no endpoint; Gone is not here."""
    orders = folder(tmp_path, "Orders", "p_Order1", pdkernel_DOT_yaml="endpoint: eonew1\n")
    nightly = folder(tmp_path, "Nightly", "p_Night1", trigger="ti_1")
    urls = {
        "a": ("Orders", "p_Order1", "https://eo1.m.pipedream.net"),
        "b": ("Orders", "p_Order1", "https://eo1.eng.example.com"),
        "c": ("Nightly", "p_Night1", "https://eo2.m.pipedream.net"),
        "d": ("Gone", "p_Gone01", "https://eo3.m.pipedream.net"),
    }
    files = {
        f"{key}.json": workflow(name, [step("s")], workflow_id=own_id, triggers=[{**HTTP, "endpoint_url": url}])
        for key, (name, own_id, url) in urls.items()
    }
    archives = [pack(tmp_path / f"{name}.zip", {name: content}) for name, content in files.items()]
    return build_endpoint_map(read(orders, nightly, *archives), project, BASE)


def one(endpoints: EndpointMap, text: str) -> UrlMatch:
    """The one match in *text*."""
    (found,) = endpoints.find(text)
    return found


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("https://eo1.m.pipedream.net", f"{BASE}/eonew1"),
        ("http://EO1.M.Pipedream.net:443/a?t=x", f"{BASE}/eonew1/a?t=x"),
        ("{{ 'https://eo1.m.pipedream.net/' + steps.a }}", f"{{{{ '{BASE}/eonew1/' + steps.a }}}}"),
        ("`https://eo1.m.pipedream.net${path}`", f"`{BASE}/eonew1${{path}}`"),
        ("Call https://eo1.m.pipedream.net.", f"Call {BASE}/eonew1."),
        (r'"https:\/\/eo1.m.pipedream.net\/a"', r'"https:\/\/flows.example.com\/pd\/eonew1\/a"'),
        ("to=https%3A%2F%2Feo1.m.pipedream.net%2Fa", "to=https%3A%2F%2Fflows.example.com%2Fpd%2Feonew1%2Fa"),
        ("https://eo1.eng.example.com/x", f"{BASE}/eonew1/x"),
        ("https://eonew1.eng.example.com", f"{BASE}/eonew1"),
        ("https://eonew1.m.pipedream.net", f"{BASE}/eonew1"),
    ],
)
def test_a_url_of_a_workflow_is_replaced(endpoints: EndpointMap, text: str, after: str) -> None:
    """Scheme, host and port of a URL are replaced in each notation; the path and all that is around stay."""
    found = one(endpoints, text)

    assert (found.state, found.endpoint and found.endpoint.workflow) == ("rewrite", "Orders")
    assert text[: found.start] + found.replacement + text[found.end :] == after


@pytest.mark.parametrize(
    ("text", "state", "host"),
    [
        ("https://eozzz.m.pipedream.net/a?token=x", "unknown", "eozzz.m.pipedream.net"),
        ("https://eozzz.eng.example.com/a", "unknown", "eozzz.eng.example.com"),
        ("https://eo2.m.pipedream.net", "no endpoint", "eo2.m.pipedream.net"),
        ("https://eo3.m.pipedream.net", "no endpoint", "eo3.m.pipedream.net"),
        ("https://user:password@eo1.m.pipedream.net", "by hand", "eo1.m.pipedream.net"),
        ("host = 'eo1.m.pipedream.net'", "by hand", "eo1.m.pipedream.net"),
        ("`https://${key}.m.pipedream.net/a`", "by hand", "m.pipedream.net"),
        ('"https://" + key + ".m.pipedream.net"', "by hand", "m.pipedream.net"),
        ("const key = 'eo1';", "by hand", "eo1"),
        ("https://api.pipedream.com/x/resume/abc", "ends", "api.pipedream.com"),
    ],
)
def test_other_urls_stay(endpoints: EndpointMap, text: str, state: str, host: str) -> None:
    """A URL of no known workflow, one of a workflow without an endpoint here, and parts of URLs are listed by their hosts only."""
    found = one(endpoints, text)

    assert (found.state, found.host, found.replacement) == (state, host, "")
    assert found.reason.endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "https://eo1.m.pipedream.net.evil.example/a",
        "https://evilm.pipedream.net",
        "https://www.eng.example.com",
        "https://pipedream.com/docs/code/nodejs/rerun#resume-a-run",
        f"{BASE}/eonew1/a",
        "beo1 eo1x eo10",
    ],
)
def test_what_is_not_a_url_of_an_endpoint_is_not_listed(endpoints: EndpointMap, text: str) -> None:
    """A host that only begins or ends like an endpoint's, another host of the team, the documentation, and the new URL are left out."""
    assert endpoints.find(text) == []


def test_a_text_of_a_paused_run_is_not_rewritten(endpoints: EndpointMap) -> None:
    """A stored `resume_url` ends with Pipedream, whatever its form is."""
    (found,) = endpoints.find("https://eo1.m.pipedream.net/a", is_paused_url=True)

    assert (found.state, found.replacement) == ("ends", "")


def test_a_base_on_the_domain_of_an_old_url_is_not_rewritten_twice(tmp_path: Path, project: Project) -> None:
    """A team that serves at the domain of its old endpoint gets the same text after a second rewrite."""
    path = folder(tmp_path, "Orders", "p_Order1", pdkernel_DOT_yaml="endpoint: eonew1\n")
    named = [("https://hooks.example.com", "Orders")]
    found = build_endpoint_map(read(path), project, "https://hooks.example.com", named)

    assert one(found, "https://hooks.example.com/x").replacement == "https://hooks.example.com/eonew1"
    assert found.find("https://hooks.example.com/eonew1/x") == []


def test_a_url_of_two_workflows_is_refused(tmp_path: Path, project: Project) -> None:
    """Two copies of a folder cannot both have the URL, unless a person says which has it."""
    folders = [folder(tmp_path / part, "Orders", "p_Order1") for part in "ab"]
    archive = pack(tmp_path / "x.zip", {"w.json": workflow("Orders", [step("s")], workflow_id="p_Order1")})
    sources = read(*folders, archive)

    with pytest.raises(RequestError, match=r" belongs to .* and "):
        build_endpoint_map(sources, project, BASE)
    named = [("https://eo1.m.pipedream.net", str(folders[1]))]
    chosen = build_endpoint_map(sources, project, BASE, named).hosts["eo1.m.pipedream.net"]
    assert chosen.url == f"{BASE}/{project.endpoint_keys.ensure_workflow_key(folders[1])}"


@pytest.mark.parametrize(
    ("url", "word", "message"),
    [
        ("https://eo1.m.pipedream.net/secret", "Orders", "is not that of an endpoint"),
        ("eo1.m.pipedream.net", "Orders", "is not that of an endpoint"),
        ("https://[", "Orders", "is not that of an endpoint"),
        ("https://eo1.m.pipedream.net", "Nobody", "'Nobody' is not a workflow of SOURCE"),
        ("https://eo1.m.pipedream.net", "Same", "2 workflows are called 'Same'"),
    ],
)
def test_a_wrong_owner_is_refused(tmp_path: Path, project: Project, url: str, word: str, message: str) -> None:
    """A URL with a path, a word that names no workflow, and one that names several are errors without the URL's path."""
    sources = read(folder(tmp_path, "Orders", "p_Order1"), *(folder(tmp_path, "Same", f"p_Same{n}") for n in (10, 20)))

    with pytest.raises(RequestError, match=message) as raised:
        build_endpoint_map(sources, project, BASE, [(url, word)])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("word", ["Orders", "p_Order1", "orders-p_Order1"])
def test_a_person_names_the_owner(tmp_path: Path, project: Project, word: str) -> None:
    """An owner is named by name, id or folder."""
    sources = read(folder(tmp_path, "Orders", "p_Order1", pdkernel_DOT_yaml="endpoint: eonew1\n"))

    found = build_endpoint_map(sources, project, BASE, [("https://eo9.m.pipedream.net/", word)])

    assert one(found, "https://eo9.m.pipedream.net").replacement == f"{BASE}/eonew1"


@pytest.mark.parametrize(
    "base", ['https://h/"x', "https://h/a b", "https://h/{x}", "https://[::1]:80", "https://h/a?b"]
)
def test_a_base_that_would_break_code_is_refused(base: str) -> None:
    """A base is written into code, YAML and JSON as it is, so it has plain letters only."""
    with pytest.raises(RequestError, match="cannot be written into code"):
        check_base_url(base)


def test_a_large_text_is_searched_in_linear_time(endpoints: EndpointMap) -> None:
    """Long words, and many URLs, of a hostile file are searched in seconds, because nothing is searched twice."""
    texts = ["a" * 2_000_000, "https://" * 200_000, "https://" + "a." * 500_000, "eo1 m.pipedream.net " * 50_000]
    started = time.monotonic()

    for text in texts:
        endpoints.find(text)

    assert time.monotonic() - started < 10
