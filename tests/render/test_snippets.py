"""Programs that invoke a workflow."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from pdkernel.render.snippets import PATH_CHANGED_NOTE, SnippetCall, build_snippets, render_html, render_text
from tests.render.reading import Page, assert_view

REAL = SnippetCall(
    "https://eoabc123.m.pipedream.net", "ada", "development", "proj_1234567", {"message": "Hello World", "urgent": True}
)
LOCAL = replace(REAL, url="https://localhost:8765/eoabc123", api_url="https://localhost:8765")
ASKING = replace(LOCAL, method="GET", body=None, query=(("q", "a b&c"), ("n", "1"), ("n", "2")))
BEARER = replace(LOCAL, uses_bearer_token=True)
AWKWARD = replace(LOCAL, external_user_id='o\'hara "x" $(id)', body={"it's": ["`$HOME`", None, {"a": "</script>"}]})


@pytest.mark.parametrize(
    ("name", "call"), [("real", REAL), ("local", LOCAL), ("awkward", AWKWARD), ("query", ASKING), ("bearer", BEARER)]
)
def test_programs_match_the_golden_file(name: str, call: SnippetCall) -> None:
    """Each program has URL, user, environment and body, quoted for its language."""
    assert_view(f"snippets-{name}.txt", render_text(build_snippets(call)))


def test_the_python_program_is_valid_for_any_body() -> None:
    """The Python program can be parsed, with quotes, null and braces in its body."""
    for call in (REAL, LOCAL, AWKWARD, ASKING, BEARER):
        code = next(each.code for each in build_snippets(call) if each.kind == "python")
        assert isinstance(ast.parse(code), ast.Module)


def test_html_is_escaped() -> None:
    """User ids and bodies are shown as text."""
    assert "</script>" in Page(render_html(build_snippets(AWKWARD))).text


@pytest.mark.parametrize(
    ("path", "note"), [("/hook-1/a.b_c", ""), ("/Hook", PATH_CHANGED_NOTE), ("/a%20b", PATH_CHANGED_NOTE)]
)
def test_a_path_that_the_sdk_changes_is_reported(path: str, note: str) -> None:
    """The SDK for TypeScript changes some paths, which text and HTML say; curl and Python send what was asked."""
    made = build_snippets(replace(REAL, url=f"{REAL.url}{path}"))

    assert tuple(each.problem for each in made) == ("", "", note)
    assert (PATH_CHANGED_NOTE in render_text(made), PATH_CHANGED_NOTE in Page(render_html(made)).text) == (
        bool(note),
    ) * 2
