"""The comparison with recorded runs, as `export --prove`, the pytest fixture and the report use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.proof.recorded_runs import RecordedRun, open_records
from pdkernel.errors import RequestError
from pdkernel.files.source import load_source
from pdkernel.operations.export import prove_export
from pdkernel.operations.records import compare_with_records, has_records
from pdkernel.storage import Project
from tests.cli.fork_server import ForkServer
from tests.http_servers import AnsweringServer, serve
from tests.private_pytest import run_pytest

WORKFLOW = "schema: workflow/2022.04\nname: Moved\ntriggers:\n- id: hi_1\nsteps:\n- namespace: double\n  uses: ./double/entry.js\n"
CODE = "export default defineComponent({ async run({ steps }) { return steps.trigger.event.body.n * 2; } });"


def a_moved_workflow(root: Path, *, result: int = 4) -> Path:
    """A synced folder in a project with one recorded run, in which the step returned *result*."""
    folder = root / "moved-p_Abc1234"
    (folder / "double").mkdir(parents=True)
    (folder / "workflow.yaml").write_text(WORKFLOW)
    (folder / "double" / "entry.js").write_text(CODE)
    run = RecordedRun(
        name="run1",
        run="r1",
        workflow="p_Abc1234",
        version=None,
        at="2026-12-01T10:00:00.000Z",
        status="recorded",
        event={"body": {"n": 2}},
        context={},
        steps={"double": {"$return_value": result}},
    )
    with Project.open(root / ".pdkernel") as project:
        open_records(project).save(run)
    return folder


def test_a_source_is_compared_with_its_records(tmp_path: Path) -> None:
    """The comparison belongs to the workflow's id; a workflow without records is refused with the command."""
    folder = a_moved_workflow(tmp_path)
    other = tmp_path / "other-p_Other12"
    folder.rename(other)
    with Project.open(tmp_path / ".pdkernel") as project:
        assert not has_records(project, load_source(other))
        with pytest.raises(RequestError, match="no recorded runs"):
            compare_with_records(load_source(other), project=project, directory=LocalDirectory(project), environ={})
        other.rename(folder)

        found = compare_with_records(
            load_source(folder), project=project, directory=LocalDirectory(project), environ={}
        )

    assert found.counts["same"] == 1


@pytest.mark.parametrize(("result", "verdict"), [(4, "same"), (5, "differs")])
def test_a_proof_of_an_export_has_the_records(tmp_path: Path, result: int, verdict: str) -> None:
    """`export --prove` compares the written files with what Pipedream did, and differs if a step does."""
    folder = a_moved_workflow(tmp_path, result=result)
    with Project.open(tmp_path / ".pdkernel") as project:
        proof = prove_export(
            load_source(folder), folder, project=project, directory=LocalDirectory(project), environ={}, is_patch=True
        )

    assert (proof.verdict, proof.is_complete) == (verdict, True)
    assert json.loads(json.dumps(proof.to_json()))["records"]["counts"]["recorded"] == 1
    assert "against 1 run at Pipedream" in proof.render_text()
    assert "against 1 run at Pipedream" in proof.render_html()


@pytest.mark.parametrize(("result", "outcome"), [(4, "passed"), (5, "failed")])
def test_a_test_compares_with_records(tmp_path: Path, fork_server: ForkServer, result: int, outcome: str) -> None:
    """The fixture finds the project above the test, and its result says whether a step differs."""
    a_moved_workflow(tmp_path, result=result)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_moved.py").write_text(
        'pytest_plugins = ["pdkernel.testing"]\n\n\ndef test_moved(pd_records):\n'
        '    """The workflow does what it did at Pipedream."""\n    assert not pd_records("../moved-p_Abc1234").differs\n'
    )

    assert run_pytest(fork_server, tmp_path / "tests") == {outcome: 1}


def test_a_stand_in_answers_outbound_calls(tmp_path: Path) -> None:
    """A step with a call is compared if a stand-in answers it; a policy that could send something is refused."""
    folder = a_moved_workflow(tmp_path, result=201)
    (folder / "double" / "entry.js").write_text(
        "export default defineComponent({ async run() { return (await fetch('https://api.example.test/x')).status; } });"
    )
    with serve(AnsweringServer(lambda _: (201, {}))) as server, Project.open(tmp_path / ".pdkernel") as project:
        source, directory = load_source(folder), LocalDirectory(project)

        def compare(egress: str | None) -> dict[str, int]:
            proof = compare_with_records(source, project=project, directory=directory, environ={}, egress=egress)
            return dict(proof.count("double"))

        assert compare(None) == {"not comparable": 1}
        assert compare(f"stand-in={server.url}") == {"same": 1}
        with pytest.raises(RequestError, match="cannot be live"):
            compare("live")
