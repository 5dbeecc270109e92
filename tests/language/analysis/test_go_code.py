"""Go code of steps: entry point, imports, apps, steps, responses and variables."""

from __future__ import annotations

import pytest

from pdkernel.language.analysis import go_code
from pdkernel.language.analysis.python_code import VariableReferences

HELPER = "github.com/PipedreamHQ/pipedream-go"


def a_main(body: str = "", *imports: str) -> str:
    """A program whose `main` has *body*; imports are as written in the block."""
    return f"package main\n\nimport ({'; '.join(imports)})\n\nfunc main() {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (a_main(), True),
        ("package main\nfunc main() {", True),
        ("package other\nfunc main() {}", False),
        ("package main\nfunc other() {}", False),
        ("package main\nvar main = 1", False),
        ("package main\nfunc other() { main := func() {}; main() }", False),
        ("package main\ntype T struct{}\nfunc (t T) main() {}", False),
        ("package other\nfunc main( {", True),
    ],
)
def test_entry_point(source: str, found: bool) -> None:
    """A step is `package main` with `func main`; a syntax error is reported by the compiler."""
    assert go_code.has_entry_point(source) == found


def test_imports() -> None:
    """An import has its name in the code: the alias, `pd` for the helper, or the last part of the path."""
    source = a_main("", '"os"', f'"{HELPER}"', 'x "example.test/b/c"', '_ "example.test/d"', '. "fmt"', "`net/http`", '"example.test/a"')  # fmt: skip

    assert go_code.find_imports(source) == {
        "os": "os", HELPER: "pd", "example.test/b/c": "x", "example.test/d": "_", "fmt": ".", "net/http": "http", "example.test/a": "a",
    }  # fmt: skip
    assert go_code.find_external_packages(source) == ("example.test/a", "example.test/b/c", "example.test/d")


@pytest.mark.parametrize(("imported", "name"), [(f'"{HELPER}"', "pd"), (f'p "{HELPER}"', "p")])
def test_what_the_helper_is_used_for(imported: str, name: str) -> None:
    """Steps and apps are read by a literal name, under the helper's name in the code; a step has its first line."""
    body = (
        f'_ = {name}.Steps["a"]\n_ = {name}.Steps[`b`]\n_ = {name}.Steps["a"]\n_ = {name}.Steps[key]\n'
        f'_ = {name}.Accounts["slack"]\n_ = {name}.Accounts["github"]\n_ = {name}.Accounts["slack"]\n_ = other.Steps["c"]'
    )
    source = a_main(body, imported)

    assert go_code.find_step_references(source) == {"a": 6, "b": 7}
    assert go_code.find_apps(source) == ("slack", "github")
    assert go_code.has_response_call(a_main(f"{name}.Respond(200, nil, nil)", imported))
    assert not go_code.has_response_call(a_main(f"{name}.Export(1)\nother.Respond(1)", imported))
    assert go_code.has_response_call(a_main('f := os.Getenv("PIPEDREAM_RESPONSE")', '"os"'))


@pytest.mark.parametrize(
    ("body", "required", "optional"),
    [
        ('os.Getenv("A"); os.Getenv(`B`)', {"A", "B"}, set()),
        ('os.LookupEnv("A")', set(), {"A"}),
        ('if os.Getenv("A") == "" { }', set(), {"A"}),
        ('if "" != os.Getenv("A") { }', set(), {"A"}),
        ('if os.Getenv("A") == "x" { }', {"A"}, set()),
        ('_ = os.Getenv("A") + ""', {"A"}, set()),
        ('os.Getenv("A"); os.LookupEnv("A")', set(), {"A"}),
        ('os.Setenv("A", "x"); os.Getenv("A")', set(), set()),
        ('os.Getenv(name); os.Getenv(); other.Getenv("A"); os.Exit("A"); os.Getenv("\\x41")', set(), set()),
    ],
)
@pytest.mark.parametrize("package", ["os", "sys"])
def test_variables(body: str, required: set[str], optional: set[str], package: str) -> None:
    """A variable is required unless the code looks it up, compares it with an empty text, or sets it."""
    imported = '"os"' if package == "os" else 'sys "os"'

    found = go_code.find_variables(a_main(body.replace("os.", f"{package}."), imported))

    assert found == VariableReferences(frozenset(required), frozenset(optional))
