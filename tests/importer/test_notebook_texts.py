"""The text of an imported notebook."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from pdkernel.directive import dump_cell_yaml, parse_yaml
from pdkernel.model import JSON
from tests.definition.builders import synced
from tests.golden import assert_golden
from tests.importer.import_helpers import HEAD, PROJECTS, import_one

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["every-shape-p_Ab12Cd3", "odd-entries-p_Qq11Ww2"])
def test_the_cells(name: str, tmp_path: Path) -> None:
    """The cells of a whole workflow, the report first, equal its golden file."""
    import_one(PROJECTS / name, tmp_path / "n.ipynb")
    notebook = nbformat.read(tmp_path / "n.ipynb", 4)

    text = "".join(f"===== {cell.cell_type} {cell.id}\n{cell.source}\n" for cell in notebook.cells)

    assert_golden(GOLDEN / f"{name}.txt", text)


def test_cells_have_their_language(tmp_path: Path) -> None:
    """Each cell that is not Python has the id of its language, by which VS Code highlights it; props are YAML."""
    import_one(PROJECTS / "every-shape-p_Ab12Cd3", tmp_path / "n.ipynb")

    cells = [cell for cell in nbformat.read(tmp_path / "n.ipynb", 4).cells if cell.source.startswith("%%")]

    found = {(_kind(cell.source), cell.metadata.get("vscode", {}).get("languageId")) for cell in cells}
    assert {("workflow", "yaml"), ("uses", "yaml"), ("node", "javascript"), ("python", None)} <= found
    assert len(found) == len({kind for kind, _ in found})


def _kind(source: str) -> str:
    words = source.partition("\n")[0].split()
    if words[0] == "%%pdworkflow":
        return "workflow"
    return "uses" if "--uses" in words else words[words.index("--lang") + 1] if "--lang" in words else "python"


def test_expressions_are_written_without_quotes() -> None:
    """Expressions have no quotes where a cell can read them; elsewhere they keep the quotes that YAML needs."""
    props: dict[str, JSON] = {
        "whole": "{{steps.a.$return_value}}",
        "mixed": "Hi {{steps.a.name}}, {{steps.b['x']}}",
        "list": ["{{steps.a}}", "plain"],
        "braces": '{{ {a: 1, b: "}}"} }}',
        "colon": "{{steps.a}}: {{steps.b}}",
        "lines": "a\n{{steps.b}}",
        "not one": "{{#each items}}",
    }

    text = dump_cell_yaml(props)

    assert text == (
        "whole: {{steps.a.$return_value}}\n"
        "mixed: Hi {{steps.a.name}}, {{steps.b['x']}}\n"
        "list:\n- {{steps.a}}\n- plain\n"
        'braces: {{ {a: 1, b: "}}"} }}\n'
        'colon: "{{steps.a}}: {{steps.b}}"\n'
        "lines: |-\n  a\n  {{steps.b}}\n"
        'not one: "{{#each items}}"\n'
    )
    del props["not one"]
    assert parse_yaml(dump_cell_yaml(props), allow_expressions=True).value == props


def test_text_of_a_file_is_not_markup(tmp_path: Path) -> None:
    """Text that the report quotes from a file stays on its line, as code."""
    yaml = f'{HEAD}- namespace: a\n  uses: "x` <b>\\n# y@1.0.0"\n- namespace: "``` <script>"\n  type: if\n'
    import_one(synced(tmp_path / "w", yaml), tmp_path / "n.ipynb")

    report = next(cell for cell in nbformat.read(tmp_path / "n.ipynb", 4).cells if cell.id == "report").source

    assert "\n# y" not in report
    assert "- ```` ``` <script> ```` has no uses" in report
