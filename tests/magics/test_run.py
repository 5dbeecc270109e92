"""`%pdrun`, `%pdshape` and `%pdexport`, in a real IPython shell."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.magics.conftest import CHECK, GREET, Notebook, Run


def test_run_all_then_run_shows_every_step(run: Run) -> None:
    """`%pdrun` runs the workflow and shows every step and the response."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    shown = run("%pdrun")

    assert "check" in shown
    assert "greet" in shown
    assert "default response" in shown


def test_shape_is_shown(run: Run) -> None:
    """`%pdshape` shows the paths of the chosen event."""
    run("%pdevent hello")

    shown = run("%pdshape")

    assert "body" in shown
    assert "name" in shown


def test_contract_is_shown(run: Run) -> None:
    """`%pdshape --contract` shows the fields that steps read, with places, and whether the event has them."""
    run("%pdevent hello")
    run(CHECK)

    shown = run("%pdshape --contract")

    assert re.search(r"required +body.name +check \(.*line 4\)", shown), shown
    assert "✓ hello fulfils the contract." in shown
    assert "An event that fulfils the contract" in shown


def test_contract_of_a_named_event(run: Run, tmp_path: Path) -> None:
    """`%pdshape --contract FILE` checks that event and lists missing fields."""
    (tmp_path / "events" / "empty.json").write_text('{"method": "GET"}')
    run(CHECK)

    shown = run("%pdshape --contract empty")

    assert "body is missing, and with it body.name" in shown


def test_export_shows_and_writes(run: Run, tmp_path: Path) -> None:
    """`%pdexport` shows the planned files, and writes them with `--to`."""
    run(CHECK)
    run(GREET)

    preview = run("%pdexport")
    assert "No file was written. To write the files" in preview
    assert not (tmp_path / "out").exists()

    run("%pdexport --to out")
    assert (tmp_path / "out" / "workflow.yaml").is_file()
    assert (tmp_path / "out" / "check" / "entry.py").read_text() == CHECK.split("\n", 1)[1]


def test_export_patches_a_synced_folder(run: Run, tmp_path: Path) -> None:
    """`%pdexport --into` patches a synced folder; `--dry-run` only shows the changes."""
    (tmp_path / "flow").mkdir()
    synced = tmp_path / "flow" / "workflow.yaml"
    synced.write_text("name: flow # ours\ntriggers:\n- id: hi_1\n")
    run("%%pdworkflow\nname: flow\n")
    run(CHECK)

    shown = run("%pdexport --into flow --dry-run")
    assert "+- namespace: check" in shown
    assert "No file was written" in shown
    assert "steps" not in synced.read_text()

    told = json.loads(run("%pdexport --into flow --json"))
    assert [file["state"] for file in told["files"]] == ["changed", "new"]
    assert synced.read_text().startswith("name: flow # ours\ntriggers:\n- id: hi_1\nsteps:\n- namespace: check\n")


# ── %pdexport --prove ───────────────────────────────────────────────────────────────────────────────────


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
