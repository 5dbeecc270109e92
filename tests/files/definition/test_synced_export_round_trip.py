"""Exports of generated workflows into synced folders, in the platform's style and in others: unchanged parts stay."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pdkernel.errors import DefinitionError
from pdkernel.files.definition import export_to_synced_folder, plan_files, read_folder_workflow
from pdkernel.language.directive import dump_yaml, parse_yaml
from pdkernel.model import Step, Workflow
from tests.builders import with_step
from tests.files.definition.builders import text_of
from tests.files.definition.test_synced_folder import TEXT, VALUES, workflows

FEWER = settings(max_examples=settings().max_examples // 2)
"""An example writes and reads a folder."""
STYLES = st.fixed_dictionaries(
    {
        "by_psych": st.booleans(),
        "width": st.sampled_from([40, 80, 4000]),
        "flow": st.sampled_from([False, None]),
        "break": st.sampled_from(["\n", "\r\n"]),
        "comment": st.booleans(),
        "end": st.booleans(),
    }
)


def written(workflow: Workflow, style: dict[str, Any]) -> str:
    """The `workflow.yaml` of *workflow* in a given style, also in styles of hand-written files."""
    text = text_of(plan_files(workflow), "workflow.yaml")
    if not style["by_psych"]:
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style, yaml.width, yaml.allow_unicode = style["flow"], style["width"], True
        stream = io.StringIO()
        value = parse_yaml(text, allow_expressions=False, as_psych=True).value
        yaml.dump(value, stream)
        # this writer leaves `NO` and `?x` without quotes, which YAML 1.1 reads as something else
        with suppress(DefinitionError):
            if parse_yaml(stream.getvalue(), allow_expressions=False, as_psych=True).value == value:
                text = stream.getvalue()
    if style["comment"]:
        text = f"# a comment\n{text}"
    if style["end"] and "|" not in text:
        text = text.rstrip("\n")
    return text.replace("\n", style["break"])


@contextmanager
def folder_of(workflow: Workflow, style: dict[str, Any]) -> Iterator[tuple[Path, Workflow]]:
    """A synced folder of *workflow*, and the workflow read from the folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in plan_files(workflow):
            if "/" in file.path:
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                (folder / file.path).write_bytes(file.text.encode())
        (folder / "workflow.yaml").write_bytes(written(workflow, style).encode())
        yield folder, read_folder_workflow(folder, assumed_account="own")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under *folder*, to the byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@FEWER
@given(workflows(), STYLES)
def test_an_unchanged_workflow_changes_nothing(workflow: Workflow, style: dict[str, Any]) -> None:
    """A workflow that is exported into its original folder changes no byte and adds no file."""
    with folder_of(workflow, style) as (folder, there):
        before = contents(folder)

        result = export_to_synced_folder(there, folder)

        assert {file.state for file in result.files} <= {"unchanged"}
        assert contents(folder) == before


@FEWER
@given(workflows(), STYLES, VALUES, TEXT)
def test_a_changed_workflow_reads_back(workflow: Workflow, style: dict[str, Any], value: Any, notes: str) -> None:
    """After an export, the folder reads back as the exported workflow, and only the changed step's lines differ."""
    with folder_of(workflow, style) as (folder, there):
        changeable = [step for step in there.steps if step.language in {"node", "python"}]
        if not changeable:
            return
        step = changeable[-1]
        changed = replace(step, props={**step.props, "zz_new": value}, notes=notes or None)

        export_to_synced_folder(with_step(there, changed), folder)

        back = read_folder_workflow(folder, assumed_account="own")
        assert plain(back.step(step.name)) == plain(changed)
        assert [plain(each) for each in back.steps if each.name != step.name] == [
            plain(each) for each in there.steps if each.name != step.name
        ]


@FEWER
@given(workflows(), STYLES, st.data())
def test_steps_in_any_order(workflow: Workflow, style: dict[str, Any], data: st.DataObject) -> None:
    """Steps that are removed, added and reordered read back in that order."""
    with folder_of(workflow, style) as (folder, there):
        kept = data.draw(st.permutations(there.steps))[: data.draw(st.integers(0, len(there.steps)))]
        steps = [*kept, Step("zz_new", "node", "export default {}")]

        export_to_synced_folder(replace(there, steps=tuple(steps)), folder)

        assert [plain(step) for step in read_folder_workflow(folder, assumed_account="own").steps] == [
            plain(step) for step in steps
        ]


def plain(step: Step) -> Step:
    """*step* without its round-trip data."""
    return replace(step, extra={}, notes=step.notes or None)


def test_new_values_have_the_platforms_style() -> None:
    """A value that an export writes into a synced folder has the platform's style."""
    with folder_of(
        Workflow("w", steps=(Step("a", source="x = 1"),)),
        dict.fromkeys(("by_psych",), True) | {"break": "\n", "comment": False, "end": False},
    ) as (folder, there):
        export_to_synced_folder(with_step(there, replace(there.steps[0], notes="Yes")), folder)

        assert "  notes: 'Yes'\n" in (folder / "workflow.yaml").read_text()
        assert dump_yaml({"notes": "Yes"}) == "notes: 'Yes'\n"
