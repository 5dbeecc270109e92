"""`%pdexport --prove`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.magics.conftest import Notebook

ONE = "%%pdstep one\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']\n"


def test_prove(notebook: Notebook, tmp_path: Path) -> None:
    """The proof is shown below the files, with a note that pins are ignored."""
    notebook.run(ONE)
    notebook.session.load_event("hello")
    notebook.session.pin("one", {"$return_value": 5})

    shown = notebook.run("%pdexport --to out --prove")

    assert notebook.error is None
    assert "out: 3 new" in shown
    assert "workflow same; 1 run, steps: 1 same." in shown
    assert "Pins are ignored: one ran." in shown


def test_prove_as_json(notebook: Notebook) -> None:
    """With `--json` the proof is a part of the JSON."""
    notebook.run(ONE)

    shown = notebook.run("%pdexport --to out --prove --json")

    assert json.loads(shown)["proof"]["cases"][0]["event"] == "hello"


def test_a_proof_requires_written_files(notebook: Notebook) -> None:
    """Without written files a proof is refused."""
    notebook.run(ONE)

    for line in ("%pdexport --prove", "%pdexport --to out --dry-run --prove"):
        assert "--prove needs written files, and this export writes none." in notebook.run(line)
