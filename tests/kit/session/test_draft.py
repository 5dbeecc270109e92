"""The workflow of a notebook: order, renamed and deleted cells, cells that run twice or out of order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pdkernel.errors import DuplicateStepError
from pdkernel.kit.session.draft import Draft, LiveNotebook

Save = Callable[..., Path]


def cell(name: str, value: int = 1) -> str:
    """A step's cell."""
    return f"%%pdstep {name}\ndef handler(pd):\n    return {value}\n"


def names(draft: Draft) -> list[str]:
    """The names of the steps, in order."""
    return [step.name for step in draft.workflow().steps]


def shown(*cells: tuple[str, str], page: str = "page", revision: int = 0) -> dict[str, Any]:
    """A front end's message with (id, source) pairs; each second cell of the notebook is not of the workflow."""
    return {
        "page": page,
        "revision": revision,
        "cells": [
            {"index": 2 * place, "id": cell_id, "type": "code", "source": source, "pdkernel": {}}
            for place, (cell_id, source) in enumerate(cells)
        ],
    }


def test_without_a_file_first_runs_make_the_order() -> None:
    """Without a file, steps have the order of their first runs."""
    draft = Draft()

    for name in ("one", "two", "one"):
        draft.record_cell(cell(name), cell_id=None, at=time.time())

    assert names(draft) == ["one", "two"]


def test_file_makes_the_order(save_notebook: Save) -> None:
    """With a file, its order counts, whatever the order of the runs, and its steps that did not run are steps, too."""
    draft = Draft(save_notebook(("a", cell("one")), ("b", cell("two"))))

    draft.record_cell(cell("two"), cell_id="b", at=time.time())
    assert names(draft) == ["one", "two"]
    draft.record_cell(cell("one"), cell_id="a", at=time.time())
    assert names(draft) == ["one", "two"]


def test_running_twice_takes_the_second_text(save_notebook: Save) -> None:
    """A cell that runs again has its new text and number, in the same position."""
    draft = Draft(save_notebook(("a", cell("one")), ("b", cell("two"))))

    draft.record_cell(cell("one", 1), cell_id="a", at=time.time())
    draft.record_cell(cell("one", 2), cell_id="a", at=time.time(), execution_count=7)

    assert "return 2" in draft.workflow().step("one").source
    assert [step.execution_count for step in draft.workflow().steps] == [7, None]


def test_renaming_drops_the_old_name(save_notebook: Save) -> None:
    """A renamed step replaces the old step in the same position."""
    draft = Draft(save_notebook(("a", cell("one")), ("b", cell("two"))))
    draft.record_cell(cell("one"), cell_id="a", at=time.time())

    draft.record_cell(cell("first"), cell_id="a", at=time.time())

    assert names(draft) == ["first", "two"]


def test_a_deleted_cell_is_not_a_step(save_notebook: Save) -> None:
    """A cell that Lab reports as deleted is not a step, saved or not, until it runs again."""
    draft = Draft(save_notebook(("a", cell("one")), ("b", cell("two"))))
    draft.record_cell(cell("one"), cell_id="a", at=time.time())

    draft.remove_cells(["a"])

    assert names(draft) == ["two"]
    draft.record_cell(cell("one"), cell_id="a", at=time.time())
    draft.remove_cells(["c"])
    assert names(draft) == ["one", "two"]


def test_a_cell_missing_from_a_later_save_is_not_a_step(save_notebook: Save) -> None:
    """An executed cell that a later save lacks is not a step."""
    path = save_notebook(("a", cell("one")), ("b", cell("two")))
    draft = Draft(path)
    draft.record_cell(cell("one"), cell_id="a", at=time.time())

    save_notebook(("b", cell("two")))
    os.utime(path, (time.time() + 500, time.time() + 500))

    assert names(draft) == ["two"]
    save_notebook()
    os.utime(path, (time.time() + 900, time.time() + 900))
    assert names(draft) == []


def test_new_cell_counts_before_it_is_saved(save_notebook: Save) -> None:
    """A cell that ran and is not saved yet is the last step."""
    path = save_notebook(("a", cell("one")))
    os.utime(path, (time.time() - 500, time.time() - 500))
    draft = Draft(path)

    draft.record_cell(cell("new"), cell_id="c", at=time.time())

    assert names(draft) == ["one", "new"]


def test_text_saved_after_the_run_counts(save_notebook: Save) -> None:
    """A cell edited and saved but not run has its saved text."""
    path = save_notebook(("a", cell("one", 1)))
    draft = Draft(path)
    draft.record_cell(cell("one", 1), cell_id="a", at=time.time())

    save_notebook(("a", cell("one", 2)))
    os.utime(path, (time.time() + 500, time.time() + 500))

    assert "return 2" in draft.workflow().step("one").source


def test_an_unchanged_notebook_is_not_read_again(save_notebook: Save) -> None:
    """The workflow is the same object until a cell runs or the file is saved."""
    draft = Draft(save_notebook(("a", cell("one"))))
    first = draft.workflow()

    again = draft.workflow()
    draft.record_cell(cell("one", 2), cell_id="a", at=time.time() + 10)
    run = draft.workflow()
    save_notebook(("a", cell("one")), ("b", cell("two")))
    saved = draft.workflow()

    assert again is first
    assert "return 2" in run.step("one").source
    assert [step.name for step in saved.steps] == ["one", "two"]


def test_two_cells_of_one_name_are_refused(save_notebook: Save) -> None:
    """A second cell with a step's name is refused while the first exists, and accepted once it is deleted."""
    draft = Draft(save_notebook(("a", cell("one")), ("b", "x = 1")))
    draft.record_cell(cell("one"), cell_id="a", at=time.time())

    with pytest.raises(DuplicateStepError, match="ambiguous"):
        draft.record_cell(cell("one"), cell_id="b", at=time.time())
    draft.remove_cells(["a"])
    draft.record_cell(cell("one", 2), cell_id="b", at=time.time())

    assert names(draft) == ["one"]


def test_the_next_kernel_has_unsaved_cells(save_notebook: Save) -> None:
    """Cells that an earlier kernel ran are steps before they are saved; newly executed cells replace them."""
    path = save_notebook(("a", cell("one")))
    os.utime(path, (time.time() - 500, time.time() - 500))
    before = Draft(path)
    before.record_cell(cell("two"), cell_id="b", at=time.time())
    before.record_cell(cell("three"), cell_id="c", at=time.time())

    after = Draft(path)
    after.record_cell(cell("third"), cell_id="c", at=time.time())
    after.restore(before.restorable_cells())

    assert names(after) == ["one", "two", "third"]


def test_the_next_kernel_drops_deleted_cells(save_notebook: Save) -> None:
    """A cell that an earlier kernel ran and a later save lacks is not a step."""
    path = save_notebook(("a", cell("one")))
    before = Draft(path)
    before.record_cell(cell("two"), cell_id="b", at=time.time())
    os.utime(path, (time.time() + 500, time.time() + 500))

    after = Draft(path)
    after.restore(before.restorable_cells())

    assert names(after) == ["one"]


def test_without_a_file_the_next_kernel_has_no_cells() -> None:
    """Without a notebook's file no executed cells are saved, because deletions cannot be detected."""
    before = Draft()
    before.record_cell(cell("one"), cell_id="a", at=time.time())

    assert before.restorable_cells() == ()


def test_a_steps_cell_is_its_place_in_the_file(save_notebook: Save) -> None:
    """A step's cell number counts every cell of the file; cells that are not in the file come last."""
    draft = Draft(save_notebook(("a", "import os"), ("b", cell("one")), ("c", "1 + 1"), ("d", cell("two"))))

    draft.record_cell(cell("three"), cell_id="e", at=time.time() + 1)

    assert [step.cell_index for step in draft.workflow().steps] == [1, 3, 4]


def test_shown_cells_replace_the_file(save_notebook: Save) -> None:
    """Order, texts and cells are those of the screen: edited, moved, new and deleted cells need neither a run nor a save."""
    live = LiveNotebook()
    draft = Draft(save_notebook(("a", cell("one")), ("b", cell("two")), ("c", cell("three"))), live=live)
    draft.record_cell(cell("one"), cell_id="a", at=time.time())
    draft.record_cell(cell("three"), cell_id="c", at=time.time())

    live.show(shown(("b", cell("two")), ("a", cell("first", 2)), ("d", cell("new"))), at=time.time() + 1)

    assert names(draft) == ["two", "first", "new"]
    assert "return 2" in draft.workflow().step("first").source
    assert [step.cell_index for step in draft.workflow().steps] == [0, 2, 4]


def test_a_cell_that_runs_after_the_message_has_the_text_that_ran(save_notebook: Save) -> None:
    """A cell that was edited while it waited runs with its text of before; the next message counts again."""
    live = LiveNotebook()
    draft = Draft(save_notebook(("a", cell("one"))), live=live)
    now = time.time()
    live.show(shown(("a", cell("one", 2))), at=now)

    draft.record_cell(cell("one", 1), cell_id="a", at=now + 1)
    ran = draft.workflow().step("one").source
    live.show(shown(("a", cell("one", 2)), revision=1), at=now + 2)

    assert "return 1" in ran
    assert "return 2" in draft.workflow().step("one").source


def test_an_overtaken_message_does_not_count() -> None:
    """Of two messages of a page, the one with the higher revision counts, in whatever order they arrive."""
    live = LiveNotebook()
    draft = Draft(live=live)

    live.show(shown(("a", cell("new")), revision=2), at=time.time())
    live.show(shown(("a", cell("old")), revision=1), at=time.time())
    live.show(shown(("a", cell("again")), revision=2), at=time.time())

    assert names(draft) == ["new"]


def test_a_deleted_cell_that_is_shown_again_is_a_step() -> None:
    """A cell whose deletion was undone is a step again."""
    live = LiveNotebook()
    draft = Draft(live=live)
    draft.record_cell(cell("one"), cell_id="a", at=time.time())
    draft.remove_cells(["a"])

    live.show(shown(("a", cell("one"))), at=time.time())

    assert names(draft) == ["one"]


def test_without_a_page_the_file_counts(save_notebook: Save) -> None:
    """The cells of the page that sent last count; when it is closed, those of another page; after the last page, the file counts."""
    live = LiveNotebook()
    draft = Draft(save_notebook(("a", cell("saved"))), live=live)
    live.show(shown(("a", cell("left")), page="left"), at=time.time())
    live.show(shown(("a", cell("right")), page="right"), at=time.time())
    both = names(draft)
    live.show(shown(("a", cell("typed")), page="left", revision=1), at=time.time())
    typed = names(draft)
    live.show(shown(("a", cell("right")), page="right", revision=1), at=time.time())

    live.show({"page": "right", "revision": 2, "cells": None}, at=time.time())
    one = names(draft)
    live.show({"page": "left", "revision": 2, "cells": None}, at=time.time())

    assert (both, typed, one, names(draft)) == (["right"], ["typed"], ["typed"], ["saved"])


def test_cells_that_arrive_after_their_page_has_left_do_not_count(save_notebook: Save) -> None:
    """A message that the page sent before it left, and that arrives later, does not bring its cells back; a later message does."""
    live = LiveNotebook()
    draft = Draft(save_notebook(("a", cell("saved"))), live=live)
    live.show({"page": "page", "revision": 2, "cells": None}, at=time.time())

    live.show(shown(("a", cell("late")), page="page", revision=1), at=time.time())
    late = names(draft)
    live.show(shown(("a", cell("back")), page="page", revision=3), at=time.time())

    assert (late, names(draft)) == (["saved"], ["back"])


def test_only_a_change_of_cells_is_reported() -> None:
    """Listeners are called when a cell has changed, not for a message with the same cells."""
    live = LiveNotebook()
    changes: list[int] = []
    live.on_change = lambda: changes.append(live.changes)

    for revision, text in enumerate(["one", "one", "two"]):
        live.show(shown(("a", cell(text)), revision=revision), at=time.time())

    assert len(changes) == 2


def test_a_message_of_another_form_is_refused() -> None:
    """A message that does not fit changes nothing."""
    live = LiveNotebook()

    with pytest.raises(msgspec.ValidationError):
        live.show({"page": "page", "cells": [{"source": 1}]}, at=time.time())

    assert live.document is None


def test_a_save_within_the_same_second_is_read(save_notebook: Save) -> None:
    """A file of the same size is read again if only the fraction of its time has changed."""
    path = save_notebook(("a", cell("one", 1)))
    os.utime(path, ns=(10**18, 10**18))
    draft = Draft(path)
    before = draft.workflow().step("one").source

    save_notebook(("a", cell("one", 2)))
    os.utime(path, ns=(10**18 + 1000, 10**18 + 1000))

    assert "return 1" in before
    assert "return 2" in draft.workflow().step("one").source


def test_a_half_written_file_has_no_cells(save_notebook: Save) -> None:
    """While the file is not a notebook, the executed cells are the workflow."""
    path = save_notebook(("a", cell("saved")))
    draft = Draft(path)
    draft.record_cell(cell("one"), cell_id="b", at=time.time())

    path.write_text("{")

    assert names(draft) == ["one"]


def test_the_last_readable_header_outlives_several_errors() -> None:
    """A second header cell is not a second step; after several errors in a row, the header is the last that could be read."""
    draft = Draft()
    texts = ["name: Work\ntrigger: {type: http, response: custom}", "nme: x", "nmae: x"]
    found = []
    for text in texts:
        draft.record_cell(f"%%pdworkflow\n{text}", cell_id="h", at=time.time())
        found.append((draft.workflow().name, draft.workflow().trigger.response))
    draft.record_cell("%%pdworkflow\nname: Other", cell_id="other", at=time.time())

    assert found == [("Work", "custom")] * 3
    assert draft.workflow().problem is not None
