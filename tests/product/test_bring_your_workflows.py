"""`notebooks/04_bring_your_workflows.ipynb` is an import of `notebooks/synced` with one changed line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pdkernel.files.definition import export_to_synced_folder
from pdkernel.files.source import load_source
from tests import notebooks
from tests.cli.fork_server import ForkServer

pytestmark = pytest.mark.timeout(300)  # what takes seconds may take minutes on a busy machine

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOK = FOLDER / "04_bring_your_workflows.ipynb"
SYNCED = FOLDER / "synced"
WORKFLOW = "bug-reports-to-slack-p_7KCmWbz"
IMPORTED, CHANGED = "`Bug from ", "`New bug report from "
BESIDE = (
    "intro",
    "import",
    "imported",
    "choices",
    "egress",
    "account",
    "user",
    "event",
    "run",
    "contract",
    "export",
    "weekly",
    "back",
    "serve",
)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Path:
    """The same workflow, imported anew."""
    folder = tmp_path_factory.mktemp("imported")
    words = ["import", str(SYNCED / WORKFLOW), "--to", "made.ipynb", "--accounts", "external-user"]
    fork_server.run(words, folder=folder, environ=os.environ).check_returncode()
    return folder / "made.ipynb"


def test_the_cells_equal_the_import_except_one_line(imported: Path) -> None:
    """The notebook has every cell of the import, in order, with its metadata, and one changed line."""
    made = notebooks.read(imported).cells[1:]  # the title is the notebook's own
    kept = [cell for cell in notebooks.read(NOTEBOOK).cells if cell.id.split("-")[0] not in BESIDE]

    assert [cell.id for cell in kept] == [cell.id for cell in made]
    for here, there in zip(kept, made, strict=True):
        assert here.source.replace(CHANGED, IMPORTED) == there.source
        assert here.metadata.get("pdkernel") == there.metadata.get("pdkernel")


def test_pdkernel_yaml_equals_the_import(imported: Path) -> None:
    """The notebook's `pdkernel.yaml` has the answers of the import, test users and test events."""
    written, here = (path.with_suffix(".pdkernel.yaml").read_text(encoding="utf-8") for path in (imported, NOTEBOOK))

    assert here == f"{written}test_users:\n- ada\n- grace\ntest_events:\n- report\n- report-question\n"


def test_one_line_of_one_file_differs(tmp_path: Path) -> None:
    """Exporting the notebook into a copy of the project changes only that line."""
    folder = tmp_path / WORKFLOW
    shutil.copytree(SYNCED / WORKFLOW, folder)
    source = load_source(NOTEBOOK)

    export_to_synced_folder(source.workflow, folder, sidecar=source.sidecar)

    before = _files(SYNCED / WORKFLOW)
    changed = before["send_message/entry.js"].replace(IMPORTED.encode(), CHANGED.encode())
    assert _files(folder) == {**before, "send_message/entry.js": changed}
    assert changed != before["send_message/entry.js"]


def test_the_recording_has_the_call_of_the_step() -> None:
    """The recording beside the event has the changed message, so that the proof compares the step that sends it."""
    (line,) = (FOLDER / "events" / "report.recorded.jsonl").read_text(encoding="utf-8").splitlines()
    call = json.loads(line)

    assert call["step"] == "send_message"
    assert CHANGED[1:] in call["request"]["body"]["text"]
