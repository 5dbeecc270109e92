"""Steps of a notebook matched with those of a synced folder."""

from __future__ import annotations

import pytest

from pdkernel.files.definition.step_matching import match_steps
from pdkernel.model import Step

A, B, C = Step("a", source="1"), Step("b", source="2"), Step("c", source="3")
SHEET = Step("sheet", uses="sheets-add@1.0.0", props={"row": 1})


@pytest.mark.parametrize(
    ("steps", "folder_steps", "names"),
    [
        pytest.param([A, B], [B, A], {"a": "a", "b": "b"}, id="by name, in any order"),
        pytest.param([Step("new", source="9")], [], {}, id="new step"),
        pytest.param([Step("x", source="1"), B], [B, A], {"x": "a", "b": "b"}, id="equal code"),
        pytest.param([Step("x", "node", "1"), B], [B, A], {"b": "b"}, id="equal text in another language"),
        pytest.param(
            [Step("x", source="1"), Step("y", source="1"), B], [B, A], {"x": "a", "b": "b"}, id="first of two"
        ),
        pytest.param([Step("x", source="1"), B], [B, A, Step("c", source="1")], {"b": "b"}, id="two candidates"),
        pytest.param([Step("x", source=" "), B], [B, Step("a", source=" ")], {"b": "b"}, id="empty code"),
        pytest.param(
            [Step("x", uses=SHEET.uses, props={"row": 1}), B], [B, SHEET], {"x": "sheet", "b": "b"}, id="equal props"
        ),
        pytest.param([Step("x", uses=SHEET.uses), B], [B, Step("a", uses=SHEET.uses)], {"b": "b"}, id="without props"),
        pytest.param([Step("x", source="9"), B], [A, B], {"x": "a", "b": "b"}, id="place at the top"),
        pytest.param([A, Step("x", source="9"), C], [A, B, C], {"a": "a", "x": "b", "c": "c"}, id="place between"),
        pytest.param([A, Step("x", source="9")], [A, B], {"a": "a", "x": "b"}, id="place at the end"),
        pytest.param([A, Step("x", source="9"), C], [A, C, B], {"a": "a", "c": "c"}, id="another place"),
        pytest.param([A, Step("x", "node", "9"), C], [A, B, C], {"a": "a", "c": "c"}, id="place of another language"),
        pytest.param([A, Step("x", source="8"), Step("y", source="9")], [A, B], {"a": "a"}, id="two steps in a place"),
        pytest.param(
            [A, Step("x", source="8"), Step("y", source="9")], [A, B, C], {"a": "a"}, id="two places in a row"
        ),
        pytest.param(
            [A, Step("x", uses="sheets-add@2.0.0")], [A, SHEET], {"a": "a", "x": "sheet"}, id="place, another version"
        ),
        pytest.param([A, Step("x", uses="sheets-get@1.0.0")], [A, SHEET], {"a": "a"}, id="place of another action"),
    ],
)
def test_steps_match_by_name_then_content_then_place(
    steps: list[Step], folder_steps: list[Step], names: dict[str, str]
) -> None:
    """A step matches the folder's step of its name, else of equal content, else in the same place."""
    assert {name: step.name for name, step in match_steps(steps, folder_steps).items()} == names
