"""The notebooks run without a browser, and their saved outputs are those of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pdkernel.redaction.secret_patterns import CREDENTIAL_FORMS
from tests import golden, languages_notebook, notebooks
from tests.postgres import a_postgres

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEMPLATES = ROOT / "pdkernel" / "templates"

pytestmark = pytest.mark.timeout(300)
"""The first test of a notebook runs all of it: packages are installed, Go steps compiled, a database server started."""

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Any]]:
    """Run a notebook once for all tests."""
    with ExitStack() as services:

        def once(notebook: Path) -> Any:
            folder = tmp_path_factory.mktemp(notebook.stem)
            if notebook.stem != languages_notebook.NAME:
                return notebooks.run(notebook, folder)
            postgres, go = services.enter_context(a_postgres()), request.getfixturevalue("go_cache")
            prepare = partial(languages_notebook.prepare, postgres=postgres, go_cache=go)
            return notebooks.run(notebook, folder, prepare)

        yield cache(once)


@each_notebook
def test_saved_outputs_equal_a_run(run: Callable[[Path], Any], notebook: Path) -> None:
    """A run of the notebook has its saved outputs (PDKERNEL_UPDATE=1 saves all outputs of this run, and fails)."""
    ran = run(notebook)
    notebooks.update(notebook, ran)

    assert notebooks.differences(notebooks.read(notebook), ran) == ""


@each_notebook
def test_saved_outputs_are_of_one_run(notebook: Path) -> None:
    """The cells ran once each and in order, within minutes, with one server, one project and one account of a user and app."""
    saved = notebooks.read(notebook)
    shown = [text for _, text in notebooks.texts(saved)]
    whole = "\n".join(shown)
    started = [datetime.fromisoformat(time) for time in re.findall(r"started (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", whole)]
    used = {
        (who[1], app, account)
        for text in shown
        if (who := re.search(r"external user (\w+), (?:development|production)\n", text))
        for app, account in re.findall(r"\b([a-z_]+) (apn_\w+) \(external user's\)", text)
    }

    assert notebooks.counts(saved) == list(range(1, len(notebooks.counts(saved)) + 1))
    assert max(started) - min(started) < timedelta(minutes=5)
    assert len(set(re.findall(r"127\.0\.0\.1:(\d+)", whole))) <= 1
    assert len(set(re.findall(r"\bproj_\w+", whole))) <= 1
    assert len(used) == len({(user, app) for user, app, _ in used}) > 0


@each_notebook
def test_no_output_has_a_credential(run: Callable[[Path], Any], notebook: Path) -> None:
    """No output, saved or just run, has a text in the form of a credential."""
    found = [
        (cell, name)
        for outputs in (notebooks.read(notebook), run(notebook))
        for cell, text in notebooks.texts(outputs)
        for name, form in CREDENTIAL_FORMS
        if form.search(text)
    ]

    assert found == []


@each_notebook
def test_every_cell_succeeds(run: Callable[[Path], Any], notebook: Path) -> None:
    """Only the cells that are marked as showing an error end with an error; a run succeeds."""
    cells = run(notebook).cells
    shown = [output for cell in cells for output in cell.get("outputs", [])]

    failed = [cell.id for cell in cells if any(o.output_type == "error" for o in cell.get("outputs", []))]
    assert failed == [cell.id for cell in cells if "raises-exception" in cell.metadata.get("tags", [])]
    assert any("✓ success" in output.data["text/plain"] for output in shown if "data" in output)


@each_notebook
def test_saved_notebook_has_no_path_of_this_machine(run: Callable[[Path], Any], notebook: Path) -> None:
    """The notebook contains no planted credential and no path of the machine, saved or just run."""
    for text in (notebook.read_text(encoding="utf-8"), nbformat.writes(run(notebook))):
        assert notebooks.TOKEN not in text
        assert re.findall(r"(?<![\w.-])/(?:tmp|home|root|Users|work|private)/[^\s\"\\<]*", text) == []


@each_notebook
@pytest.mark.parametrize("part", ["text/plain", "text/html"])
def test_edited_output_is_found(run: Callable[[Path], Any], notebook: Path, part: str) -> None:
    """A changed word in an output, or a missing output, is a difference that names the cell."""
    ran = run(notebook)
    edited, shorter = notebooks.read(notebook), notebooks.read(notebook)
    cell = next(cell for cell in edited.cells if cell.id == "run")
    cell.outputs[0].data[part] = cell.outputs[0].data[part].replace("success", "succeeded", 1)
    next(cell for cell in shorter.cells if cell.id == "run").outputs.pop()

    found = [notebooks.differences(wrong, ran) for wrong in (edited, shorter)]

    assert ["--- run, saved" in text for text in found] == [True, True]
    assert "succeeded" in found[0]


def test_update_ignores_times_and_ids(run: Callable[[Path], Any], tmp_path: Path) -> None:
    """Saving the outputs of another run changes no byte if only times and ids differ."""
    notebook = tmp_path / "work.ipynb"
    notebook.write_bytes(NOTEBOOKS[0].read_bytes())

    notebooks.update(notebook, run(NOTEBOOKS[0]))

    assert notebook.read_bytes() == NOTEBOOKS[0].read_bytes()


def test_update_never_mixes_two_runs(
    run: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one output has changed, an update saves every output of the new run, and fails."""
    monkeypatch.setenv(golden.VARIABLE, "1")
    notebook, ran = tmp_path / "work.ipynb", run(NOTEBOOKS[0])
    edited = notebooks.read(NOTEBOOKS[0])
    next(cell for cell in edited.cells if cell.id == "shape").outputs.pop()
    nbformat.write(edited, notebook)

    with pytest.raises(pytest.fail.Exception, match=golden.WRITTEN):
        notebooks.update(notebook, ran)

    assert [cell.get("outputs") for cell in notebooks.read(notebook).cells] == [c.get("outputs") for c in ran.cells]


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("started 2026-11-24 17:03:45 UTC · execution 6j7skekHXQaW8VWsfRgINCQBv58", "started <time> · execution <id>"),
        ("  ✓ success   check  Python   78.7 ms  |██████    |", "  ✓ success   check  Python <duration>"),
        ("  ✓ success   check  Python    1.02 s  |██████████|", "  ✓ success   check  Python <duration>"),
        ("NOT SENT AGAIN: answer of 17:03", "NOT SENT AGAIN: answer of <time>"),
        ("%pdserve use 6j7skekHXQaW8VWsfRgINCQBv58", "%pdserve use <id>"),
        ("http://127.0.0.1:46351/eo9bs353pqqvs1aifd", "http://127.0.0.1:<port>/eo<id>"),
        ("apn_VO7SemB (grace)", "apn_<id> (grace)"),
        ("apn_AdaSlk1, apn_GraceS1", "apn_AdaSlk1, apn_GraceS1"),
        ("project_id='proj_fzF8L4r'", "project_id='proj_<id>'"),
        ("margin-left:12.5%;width:3.0%", "margin-left:<bar>;width:<bar>"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("2 labels, 3 steps, issue #1", "2 labels, 3 steps, issue #1"),
        ("2019-05-15T15:20:18+02:00 is data", "2019-05-15T15:20:18+02:00 is data"),
    ],
)
def test_scrubbing(text: str, scrubbed: str) -> None:
    """Only times, durations, ids, bars and colours are replaced."""
    assert notebooks.scrub(text) == scrubbed


def test_quickstart_of_the_package_equals_the_notebook() -> None:
    """`pdkernel demo` and `notebooks/` have the same cells; the package's has no outputs."""
    here, packaged = (notebooks.read(path) for path in (NOTEBOOKS[0], TEMPLATES / "quickstart.ipynb"))

    assert [(c.id, c.cell_type, c.source, c.metadata) for c in packaged.cells] == [
        (c.id, c.cell_type, c.source, c.metadata) for c in here.cells
    ]
    assert packaged.metadata == here.metadata
    assert [c.outputs for c in packaged.cells if c.cell_type == "code" and c.outputs] == []


def test_the_event_of_the_package_equals_the_notebooks_event() -> None:
    """The event of the package equals the event beside the quickstart."""
    name = Path("events") / "issues-opened.json"

    assert (TEMPLATES / name).read_bytes() == (ROOT / "notebooks" / name).read_bytes()


def test_new_notebook_runs(tmp_path: Path) -> None:
    """The notebook of `pdkernel new` runs from top to bottom."""
    ran = notebooks.run(TEMPLATES / "new.ipynb", tmp_path)

    assert [output for cell in ran.cells for output in cell.get("outputs", []) if output.output_type == "error"] == []
    assert "response: 200" in ran.cells[-1].outputs[0].data["text/plain"]
