"""Served notebooks and folders: ids, keys, and reloads after changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.engine.run_context import derive_id
from pdkernel.errors import PdkernelError, RequestError, UnsupportedError
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource
from pdkernel.model import Trigger
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.source_workflows import (
    RELOAD_INTERVAL_S,
    SourceSelection,
    SourceWorkflows,
    check_values,
    find_refusal,
    select_sources,
)
from pdkernel.storage import Project
from tests.builders import a_workflow, python_step
from tests.notebook_files import notebook_of

CELL = "%%pdworkflow\nname: Answer\ntrigger: {{type: http, auth: {auth}}}\n"
STEP = "%%pdstep {name}\ndef handler(pd):\n    return 1\n"


def refuse_open(served: ServedWorkflow) -> None:
    """Reject a trigger without auth, as with `--host`."""
    if served.source.workflow.trigger.auth == "none":
        raise RequestError("The trigger requires no auth.")


class ServedNotebook:
    """A served notebook that a test changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.project = Project.open(folder / ".pdkernel", clock=self.clock)
        self.lines: list[str] = []
        self.write("one")
        self.workflows = SourceWorkflows(
            self.project,
            select_sources([folder / "work.ipynb"], folder),
            check=refuse_open,
            write_line=self.lines.append,
        )

    def write(self, step: str, *, auth: str = "oauth", name: str = "work.ipynb", more: str = "") -> None:
        """Save the notebook with one step of that name, and *more* lines in its header."""
        notebook_of(self.folder / name, CELL.format(auth=auth) + more, STEP.format(name=step))

    def steps(self) -> list[str]:
        """Names of the steps that the next request would run."""
        self.clock.advance(RELOAD_INTERVAL_S)
        self.workflows.reload_changed()
        (served,) = self.workflows.list_workflows()
        return [step.name for step in served.source.workflow.steps]


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[ServedNotebook]:
    """A served notebook with the step `one`."""
    made = ServedNotebook(tmp_path)
    yield made
    made.project.close()


def test_a_saved_notebook_is_reloaded(notebook: ServedNotebook) -> None:
    """The next request runs the saved notebook at the same endpoint; one line reports the change."""
    (before,) = notebook.workflows.list_workflows()
    notebook.write("another")
    seen = notebook.steps(), notebook.steps()
    (after,) = notebook.workflows.list_workflows()

    assert seen == (["another"], ["another"])
    assert (after.endpoint_key, after.id) == (before.endpoint_key, before.id)
    assert len(notebook.lines) == 1
    assert "was reloaded" in notebook.lines[0]


async def test_files_are_checked_once_a_second(notebook: ServedNotebook) -> None:
    """Within a second, a change is not noticed."""
    notebook.steps()
    notebook.write("another")
    await notebook.workflows.refresh()
    (served,) = notebook.workflows.list_workflows()

    assert [step.name for step in served.source.workflow.steps] == ["one"]
    assert notebook.steps() == ["another"]


@pytest.mark.parametrize("text", ["", '{"cells": [', "[]"])
def test_an_invalid_notebook_leaves_the_previous_version(notebook: ServedNotebook, text: str) -> None:
    """The previous version is served, with a line; the next valid version is loaded."""
    (notebook.folder / "work.ipynb").write_text(text)
    broken = notebook.steps()
    notebook.write("valid")

    assert broken == ["one"]
    assert "the previous version is served" in notebook.lines[0]
    assert notebook.steps() == ["valid"]


def test_an_invalid_dotenv_file_leaves_the_previous_variables(notebook: ServedNotebook) -> None:
    """The previous variables stay, one line reports the error, and the next valid file is loaded."""
    dotenv = notebook.folder / ".env"
    dotenv.write_text("WORD=first\n")
    notebook.steps()
    dotenv.write_bytes(b"WORD=\xff\n")
    notebook.steps()
    notebook.steps()
    (broken,) = notebook.workflows.list_workflows()
    dotenv.write_text("WORD=second\n")
    notebook.steps()
    (mended,) = notebook.workflows.list_workflows()

    assert (broken.variables, mended.variables) == ({"WORD": "first"}, {"WORD": "second"})
    assert len(notebook.lines) == 1
    assert ".env, line 1, is not UTF-8 text" in notebook.lines[0]


def test_a_deleted_notebook_leaves_the_previous_version(notebook: ServedNotebook) -> None:
    """The previous version of a deleted notebook is served."""
    (notebook.folder / "work.ipynb").unlink()

    assert notebook.steps() == ["one"]
    assert "does not exist any more" in notebook.lines[0]


def test_a_change_that_fails_the_check_is_not_served(notebook: ServedNotebook) -> None:
    """If a change removes the trigger's auth, the previous version is served."""
    notebook.write("open", auth="none")

    assert notebook.steps() == ["one"]
    assert notebook.lines[0].endswith("The trigger requires no auth.")


def test_a_change_whose_variable_is_set_later_is_reloaded(tmp_path: Path) -> None:
    """A change that requires a token is served as soon as the token is set."""
    clock, path = ManualClock(), tmp_path / "work.ipynb"
    notebook_of(path, STEP.format(name="one"))
    with Project.open(tmp_path / ".pdkernel", clock=clock) as own:
        workflows = SourceWorkflows(own, select_sources([path], tmp_path), check=lambda served: check_values([served]))

        def steps() -> list[str]:
            clock.advance(RELOAD_INTERVAL_S)
            workflows.reload_changed()
            return [step.name for each in workflows.list_workflows() for step in each.source.workflow.steps]

        bearer = "%%pdworkflow\ntrigger: {type: http, auth: bearer, token_env: TOKEN}\n"
        notebook_of(path, bearer, STEP.format(name="two"))
        before = steps()
        own.variables.set("TOKEN", "token-0123456789")
        after = steps()

    assert (before, after) == (["one"], ["two"])


def test_a_workflow_that_becomes_inactive_is_not_served(notebook: ServedNotebook) -> None:
    """An inactive workflow has no endpoint and is listed with the reason; turned on again, it has the same endpoint."""
    (before,) = notebook.workflows.list_workflows()
    notebook.write("one", more="inactive: true\n")
    notebook.clock.advance(RELOAD_INTERVAL_S)
    notebook.workflows.reload_changed()
    while_off = notebook.workflows.find(before.endpoint_key), notebook.workflows.find_id(before.id)
    refused = [(each.path, each.name) for each in notebook.workflows.not_served]
    notebook.write("on_again")

    assert while_off == (None, None)
    assert refused == [(notebook.folder / "work.ipynb", "Answer")]
    assert notebook.steps() == ["on_again"]
    assert notebook.workflows.find(before.endpoint_key) is not None
    assert notebook.workflows.not_served == ()
    assert "is inactive" in notebook.lines[0]
    assert notebook.lines[1].endswith("has changed and is served.")


def test_a_changed_endpoint_requires_a_restart(notebook: ServedNotebook) -> None:
    """A changed endpoint key is not used before a restart."""
    (notebook.folder / "work.pdkernel.yaml").write_text("endpoint: eo0000000000000000\n")

    assert notebook.steps() == ["one"]
    assert "Restart `pdkernel serve`" in notebook.lines[0]


def test_the_yaml_file_beside_a_notebook_is_part_of_the_source(notebook: ServedNotebook) -> None:
    """A change of `NAME.pdkernel.yaml` reloads the notebook."""
    (served,) = notebook.workflows.list_workflows()
    (notebook.folder / "work.pdkernel.yaml").write_text(f"endpoint: {served.endpoint_key}\n")
    notebook.steps()

    assert "was reloaded" in notebook.lines[0]


def test_files_of_a_synced_folder(tmp_path: Path) -> None:
    """A step's file is part of the source; a file in `node_modules` is not."""
    from pdkernel.files.source import file_stamps

    folder = tmp_path / "flow"
    (folder / "one").mkdir(parents=True)
    (folder / "node_modules" / "x").mkdir(parents=True)
    entry = folder / "one" / "entry.js"
    (folder / "workflow.yaml").write_text(
        "org_id: o_1\nproject_id: proj_1\nsteps:\n  - namespace: one\n    type: CODE\n    runtime: nodejs18.x\n    uses: ./one/entry.js\ntriggers:\n  - id: hi_1\nname: Flow\nschema_version: 2\n"
    )
    entry.write_text("export default defineComponent({ async run() { return 1; } });\n")
    before = file_stamps(folder)
    (folder / "node_modules" / "x" / "index.js").write_text("1")
    same = file_stamps(folder)
    entry.write_text("export default defineComponent({ async run() { return 22; } });\n")

    assert same == before
    assert file_stamps(folder) != before


OPEN = a_workflow(python_step())


def test_endpoint_keys_stay(project: Project, tmp_path: Path) -> None:
    """A workflow has the same endpoint key at the next start, and another workflow has another key."""
    sources = [WorkflowSource(tmp_path / name, "notebook", OPEN) for name in ("a.ipynb", "b.ipynb")]
    first = [each.endpoint_key for each in SourceWorkflows(project, SourceSelection(sources)).list_workflows()]
    second = [each.endpoint_key for each in SourceWorkflows(project, SourceSelection(sources)).list_workflows()]

    assert first == second
    assert len(set(first)) == 2


def test_the_endpoint_key_of_pdkernel_yaml(project: Project, tmp_path: Path) -> None:
    """A key in pdkernel.yaml is used, case-insensitive; two sources with the same key are refused."""
    sources = [
        WorkflowSource(tmp_path / name, "notebook", OPEN, Sidecar(endpoint="eomine")) for name in ("a.ipynb", "b.ipynb")
    ]
    served = SourceWorkflows(project, SourceSelection(sources[:1]))

    assert served.find("EOMINE") is not None
    with pytest.raises(RequestError, match="same endpoint"):
        SourceWorkflows(project, SourceSelection(sources))


def test_the_id_of_a_synced_folder(project: Project, tmp_path: Path) -> None:
    """The id of a synced folder's workflow is the end of the folder's name; an id does not find an endpoint."""
    served = SourceWorkflows(
        project, SourceSelection([WorkflowSource(tmp_path / "greet-p_AbC123", "folder", OPEN, Sidecar())])
    )

    assert [each.id for each in served.list_workflows()] == ["p_AbC123"]
    assert served.find_id("p_AbC123") is not None
    assert served.find("p_AbC123") is None


def test_ids_are_random_and_stay(project: Project, tmp_path: Path) -> None:
    """Workflows with the same name have different random ids, which are the same at the next start."""
    sources = [WorkflowSource(tmp_path / name, "notebook", OPEN) for name in ("a.ipynb", "b.ipynb")]
    first, second = (SourceWorkflows(project, SourceSelection(sources)) for _ in range(2))
    ids = [each.id for each in first.list_workflows()]
    with Project.open(tmp_path / "other" / ".pdkernel") as other:
        (elsewhere,) = SourceWorkflows(other, SourceSelection(sources[:1])).list_workflows()

    assert ids == [each.id for each in second.list_workflows()]
    assert len({*ids, elsewhere.id, derive_id("p_", OPEN.name)}) == 4
    assert all(each.startswith("p_") for each in ids)
    found = first.find_id(ids[1])
    assert found is not None
    assert found.source.path == sources[1].path


def test_a_bearer_trigger_requires_its_variable(project: Project, tmp_path: Path) -> None:
    """A bearer trigger without its variable is refused; a variable that is set later is found."""
    workflow = replace(OPEN, triggers=(Trigger(auth="bearer", token_env="HOOK"),))
    source = WorkflowSource(tmp_path / "a.ipynb", "notebook", workflow)
    with pytest.raises(RequestError, match="pdkernel env set HOOK"):
        check_values(SourceWorkflows(project, SourceSelection([source])).list_workflows())
    project.variables.set("HOOK", "token")

    check_values(SourceWorkflows(project, SourceSelection([source])).list_workflows())


def test_one_workflow_of_a_folder_does_not_stop_the_others(project: Project, tmp_path: Path) -> None:
    """A workflow without its token, a second one with the same endpoint and an unreadable one are refused, each with its reason."""
    folder = tmp_path / "flows"
    folder.mkdir()
    for name, header in (("a", ""), ("b", "trigger: {type: http, auth: bearer, token_env: HOOK}"), ("c", "")):
        notebook_of(folder / f"{name}.ipynb", f"%%pdworkflow\nname: {name}\n{header}", STEP.format(name="one"))
    for name in ("a", "c"):
        (folder / f"{name}.pdkernel.yaml").write_text("endpoint: eosame\n")
    (folder / "d.ipynb").write_text("{")

    workflows = SourceWorkflows(project, select_sources([folder], folder))

    assert [each.source.workflow.name for each in workflows.list_workflows()] == ["a"]
    reasons = {each.name: each.reason for each in workflows.not_served}
    assert list(reasons) == ["b", "c", "d"]
    assert "HOOK is not set" in reasons["b"]
    assert "the same endpoint" in reasons["c"]
    assert "not a notebook" in reasons["d"]


def test_a_reload_that_fails_unexpectedly_does_not_stop_the_others(tmp_path: Path) -> None:
    """After an unexpected error of one workflow's reload, its previous version is served, and the workflow after it is reloaded."""
    clock, lines, folder = ManualClock(), list[str](), tmp_path / "flows"
    folder.mkdir()

    def fail(served: ServedWorkflow) -> None:
        if served.source.workflow.name == "broken":
            raise ZeroDivisionError

    with Project.open(tmp_path / "other" / ".pdkernel", clock=clock) as own:
        for name in ("a", "b"):
            notebook_of(folder / f"{name}.ipynb", STEP.format(name="one"))
        workflows = SourceWorkflows(own, select_sources([folder], folder), check=fail, write_line=lines.append)
        for name, title in (("a", "broken"), ("b", "changed")):
            notebook_of(folder / f"{name}.ipynb", f"%%pdworkflow\nname: {title}", STEP.format(name="one"))
        clock.advance(RELOAD_INTERVAL_S)
        workflows.reload_changed()
        served = [each.source.workflow.name for each in workflows.list_workflows()]

    assert served == ["a", "changed"]
    assert "the previous version is served" in lines[0]


def test_a_mended_workflow_is_served(tmp_path: Path) -> None:
    """A refused workflow is loaded again after its files have changed, not before; until then its reason is the latest one."""
    clock, lines = ManualClock(), list[str]()
    with Project.open(tmp_path / "other" / ".pdkernel", clock=clock) as own:
        folder = tmp_path / "flows"
        folder.mkdir()
        notebook_of(folder / "a.ipynb", STEP.format(name="one"))
        (folder / "b.ipynb").write_text("{")
        workflows = SourceWorkflows(own, select_sources([folder], folder), write_line=lines.append)
        notebook_of(folder / "b.ipynb", "%%pdworkflow\ninactive: true", STEP.format(name="two"))
        clock.advance(RELOAD_INTERVAL_S)
        workflows.reload_changed()
        first = [each.source.path.stem for each in workflows.list_workflows()]
        (reason,) = (each.reason for each in workflows.not_served)
        notebook_of(folder / "b.ipynb", STEP.format(name="two"))
        clock.advance(RELOAD_INTERVAL_S)
        workflows.reload_changed()
        second = [each.source.path.stem for each in workflows.list_workflows()]

    assert (first, second) == (["a"], ["a", "b"])
    assert "is inactive" in reason
    assert lines == [f"{folder / 'b.ipynb'} has changed and is served."]


def test_a_mended_workflow_that_fails_the_check_stays_refused(tmp_path: Path) -> None:
    """A refused workflow whose files are mended is not served if its trigger requires no auth; its reason is that of the check."""
    clock, folder = ManualClock(), tmp_path / "flows"
    folder.mkdir()
    notebook_of(folder / "a.ipynb", CELL.format(auth="oauth"), STEP.format(name="one"))
    (folder / "b.ipynb").write_text("{")
    with Project.open(tmp_path / "other" / ".pdkernel", clock=clock) as own:
        workflows = SourceWorkflows(own, select_sources([folder], folder), check=refuse_open)
        (folder / "b.pdkernel.yaml").write_text("endpoint: eomended\n")
        notebook_of(folder / "b.ipynb", CELL.format(auth="none"), STEP.format(name="two"))
        clock.advance(RELOAD_INTERVAL_S)
        workflows.reload_changed()
        served = [each.source.path.stem for each in workflows.list_workflows()]
        found = workflows.find("eomended")
        reasons = [each.reason for each in workflows.not_served]

    assert (served, found) == (["a"], None)
    assert reasons == ["The trigger requires no auth."]


def test_a_refused_workflow_whose_variable_is_set_is_served(tmp_path: Path) -> None:
    """A workflow without its token is served as soon as the token is set."""
    clock, folder = ManualClock(), tmp_path / "flows"
    folder.mkdir()
    notebook_of(folder / "a.ipynb", STEP.format(name="one"))
    bearer = "%%pdworkflow\ntrigger: {type: http, auth: bearer, token_env: TOKEN}\n"
    notebook_of(folder / "b.ipynb", bearer, STEP.format(name="two"))
    with Project.open(tmp_path / "other" / ".pdkernel", clock=clock) as own:
        workflows = SourceWorkflows(own, select_sources([folder], folder), check=lambda served: check_values([served]))
        first = [each.source.path.stem for each in workflows.list_workflows()]
        own.variables.set("TOKEN", "token-0123456789")
        clock.advance(RELOAD_INTERVAL_S)
        workflows.reload_changed()
        second = [each.source.path.stem for each in workflows.list_workflows()]

    assert (first, second) == (["a"], ["a", "b"])


def test_a_refused_workflow_that_is_deleted(tmp_path: Path) -> None:
    """A refused workflow that does not exist any more, or that is a folder now, stays refused with the new reason."""
    clock, folder = ManualClock(), tmp_path / "flows"
    folder.mkdir()
    for name in ("a", "b", "c"):
        notebook_of(folder / f"{name}.ipynb", STEP.format(name="one"))
    for name in ("b", "c"):
        (folder / f"{name}.ipynb").write_text("{")
    with Project.open(tmp_path / "other" / ".pdkernel", clock=clock) as own:
        workflows = SourceWorkflows(own, select_sources([folder], folder))
        for name in ("b", "c"):
            (folder / f"{name}.ipynb").unlink()
        (folder / "c.ipynb").mkdir()
        (folder / "c.ipynb" / "file").touch()
        clock.advance(RELOAD_INTERVAL_S)
        workflows.reload_changed()
        served = [each.source.path.stem for each in workflows.list_workflows()]
        reasons = [each.reason for each in workflows.not_served]

    assert served == ["a"]
    assert ["There is no notebook" in reasons[0], "is not a workflow's folder" in reasons[1]] == [True, True]


def test_a_named_workflow_file_that_cannot_be_served(tmp_path: Path) -> None:
    """A workflow.yaml that is named beside a notebook is not skipped: its error is raised."""
    notebook_of(tmp_path / "a.ipynb", STEP.format(name="one"))
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "workflow.yaml").write_text("steps: 1\n")

    with pytest.raises(PdkernelError, match=r"workflow\.yaml"):
        select_sources([tmp_path / "a.ipynb", tmp_path / "flow" / "workflow.yaml"], tmp_path)


def test_without_paths_the_default_folder_is_served(tmp_path: Path) -> None:
    """Without paths, the workflows of the default folder are served; a folder without workflows has none."""
    for name in ("flows", "empty"):
        (tmp_path / name).mkdir()
    notebook_of(tmp_path / "flows" / "a.ipynb", STEP.format(name="one"))

    some, none = (select_sources([], tmp_path / name) for name in ("flows", "empty"))

    assert [source.path for source in (*some.named, *some.found)] == [tmp_path / "flows" / "a.ipynb"]
    assert none == SourceSelection([], [], [])


def test_why_a_workflow_is_not_served(project: Project, tmp_path: Path) -> None:
    """A broken workflow, or one whose token has no value, is named with its reason; others have none."""
    headers = {"good": "", "secret": "trigger: {type: http, auth: bearer, token_env: HOOK}"}
    for name, header in headers.items():
        notebook_of(tmp_path / f"{name}.ipynb", f"%%pdworkflow\nname: {name}\n{header}", STEP.format(name="one"))
    (tmp_path / "broken.ipynb").write_text("{")

    found = {name: find_refusal(project, tmp_path / f"{name}.ipynb") for name in ("good", "secret", "broken")}

    reasons = {name: refused.reason if refused else "" for name, refused in found.items()}
    assert found["good"] is None
    assert "HOOK is not set" in reasons["secret"]
    assert "not a notebook" in reasons["broken"]


def test_a_folder_in_which_nothing_can_be_served(project: Project, tmp_path: Path) -> None:
    """If no workflow of a folder can be served, the error lists every reason; a source that is named is refused alone."""
    folder = tmp_path / "flows"
    folder.mkdir()
    (folder / "a.ipynb").write_text("{")
    notebook_of(folder / "b.ipynb", "%%pdworkflow\ninactive: true", STEP.format(name="two"))

    with pytest.raises(RequestError, match="None of the workflows") as nothing:
        SourceWorkflows(project, select_sources([folder], folder))
    with pytest.raises(UnsupportedError, match="is inactive"):
        select_sources([folder / "b.ipynb"], folder)

    assert [name in nothing.value.message for name in ("a.ipynb: ", "b.ipynb: ")] == [True, True]


def test_an_unknown_rule_refuses_its_workflow_only(tmp_path: Path) -> None:
    """A Filter step with an unknown operator is refused by the operator's name, and the other workflows are served."""
    rule = '{{a: "{{{{steps.trigger.event.body.x}}}}", op: {op}, b: x}}'
    for name, op in (("good", "str/"), ("new", "geo~")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "workflow.yaml").write_text(
            f"schema: workflow/2022.04\nname: {name}\ntriggers:\n- id: hi_{name}\nsteps:\n- namespace: filter\n"
            "  uses: ./filter/entry.js\n  props:\n    _filter:\n      continue: 'true'\n"
            f"      rules: {{t: and, r: [{rule.format(op=op)}]}}\n"
        )

    selection = select_sources([tmp_path], tmp_path)

    assert [source.workflow.name for source in selection.found] == ["good"]
    assert [each.name for each in selection.refused] == ["new"]
    assert "Step filter" in selection.refused[0].reason
    assert "'geo~', which pdkernel does not know" in selection.refused[0].reason


async def test_a_check_that_follows_at_once_does_not_disturb_the_one_before(notebook: ServedNotebook) -> None:
    """Callers whose check has ended go on, also if another caller has started the next check meanwhile."""

    async def call(number: int) -> None:
        for _ in range(number % 7):
            await asyncio.sleep(0)
        notebook.clock.advance(RELOAD_INTERVAL_S)
        await notebook.workflows.refresh()

    for _ in range(20):
        await asyncio.gather(*(call(number) for number in range(50)))
