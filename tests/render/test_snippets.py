"""Programs that invoke a workflow: their text, and the tick of successful runs."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from pdkernel.render.snippets import (
    PATH_CHANGED_NOTE,
    QUERY_DROPPED_NOTE,
    Invocation,
    Snippet,
    build_snippets,
    render_html,
    render_text,
)
from tests.render.reading import Page, assert_view

REAL = Invocation(
    "https://eoabc123.m.pipedream.net", "ada", "development", "proj_1234567", {"message": "Hello World", "urgent": True}
)
LOCAL = replace(REAL, url="https://localhost:8765/eoabc123", api_url="https://localhost:8765")
ASKING = replace(LOCAL, method="GET", body=None, query=(("q", "a b&c"), ("n", "1"), ("n", "2")))
BEARER = replace(LOCAL, uses_bearer_token=True)
AWKWARD = replace(LOCAL, external_user_id='o\'hara "x" $(id)', body={"it's": ["`$HOME`", None, {"a": "</script>"}]})


@pytest.mark.parametrize(
    ("name", "call"), [("real", REAL), ("local", LOCAL), ("awkward", AWKWARD), ("query", ASKING), ("bearer", BEARER)]
)
def test_programs_match_the_golden_file(name: str, call: Invocation) -> None:
    """Each program has URL, user, environment and body, quoted for its language."""
    assert_view(f"snippets-{name}.txt", render_text(build_snippets(call)))


def test_the_python_program_is_valid_for_any_body() -> None:
    """The Python program can be parsed, with quotes, null and braces in its body."""
    for call in (REAL, LOCAL, AWKWARD, ASKING, BEARER):
        code = next(each.code for each in build_snippets(call) if each.kind == "python")
        assert isinstance(ast.parse(code), ast.Module)


def test_only_a_successful_program_has_a_tick() -> None:
    """Of a program not run, one that succeeded and one that failed, one has a tick."""
    made = tuple(Snippet("curl", "true\n", succeeded=works) for works in (None, True, False))

    assert [each.title[0] for each in made] == ["c", "✓", "✗"]
    assert render_html(made).count("✓") == 1


def test_html_is_escaped() -> None:
    """User ids and bodies are shown as text."""
    assert "</script>" in Page(render_html(build_snippets(AWKWARD))).text


@pytest.mark.parametrize(
    ("path", "query", "problems"),
    [
        ("/hook-1/a.b_c", (), ("", "", "", "")),
        ("/Hook", (), ("", "", PATH_CHANGED_NOTE, PATH_CHANGED_NOTE)),
        ("/a%20b", (), ("", "", PATH_CHANGED_NOTE, PATH_CHANGED_NOTE)),
        ("", (("q", "1"),), ("", "", QUERY_DROPPED_NOTE, "")),
        ("/Hook", (("q", "1"),), ("", "", QUERY_DROPPED_NOTE, PATH_CHANGED_NOTE)),
    ],
)
def test_limitations_of_the_sdks_are_reported(
    path: str, query: tuple[tuple[str, str], ...], problems: tuple[str, ...]
) -> None:
    """The SDKs for TypeScript change paths, and the older one drops a query; curl and Python send what was asked."""
    call = replace(REAL, url=f"{REAL.url}{path}", query=query)

    assert tuple(each.problem for each in build_snippets(call)) == problems


def test_a_problem_stands_beside_the_title() -> None:
    """Text and HTML have the problem of a program."""
    made = (Snippet("python", "true\n", succeeded=False, problem="it failed"),)

    assert render_text(made).startswith("── ✗ Python: it failed\n")
    assert Page(render_html(made)).text.startswith("Python ✗ failed it failed")
