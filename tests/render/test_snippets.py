"""Programs that invoke a workflow: their text, and that a tick is for those that were run."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from pdkernel.render.snippets import Invocation, Snippet, build_snippets, render_html, render_text
from tests.render.golden_files import assert_golden
from tests.render.reading import Page

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
def test_programs_are_as_they_were_looked_at(name: str, call: Invocation) -> None:
    """Each says the URL, the user, the environment and the body in its own language's quotes."""
    assert_golden(f"snippets-{name}.txt", render_text(build_snippets(call)))


def test_python_is_python_whatever_the_body() -> None:
    """The Python program can be read, with quotes, null and braces in its body."""
    for call in (REAL, LOCAL, AWKWARD, ASKING, BEARER):
        code = next(each.code for each in build_snippets(call) if each.kind == "python")
        assert isinstance(ast.parse(code), ast.Module)


def test_a_tick_is_for_what_was_run_and_succeeded() -> None:
    """Not run, succeeded, failed: one tick."""
    made = tuple(Snippet("curl", "true\n", succeeded=works) for works in (None, True, False))

    assert [each.title[0] for each in made] == ["c", "✓", "✗"]
    assert render_html(made).count("✓") == 1


def test_html_is_text_only() -> None:
    """Nothing of a user's id or a body becomes an element."""
    assert "</script>" in Page(render_html(build_snippets(AWKWARD))).text
