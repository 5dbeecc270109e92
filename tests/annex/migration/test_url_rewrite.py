"""Files, variables and data stores with URLs of endpoints: what is written, all of it or nothing, and how it is undone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from pdkernel.annex.migration.endpoint_urls import build_endpoint_map
from pdkernel.annex.migration.sources import MigrationSource, read_sources
from pdkernel.annex.migration.url_rewrite import PAUSED_NOTE, UrlPlan, apply_rewrite, plan_rewrite, undo_rewrite
from pdkernel.errors import RequestError
from pdkernel.files.definition.folder_write import PENDING_FILE
from pdkernel.storage import Project, StoreRecord
from tests.files.definition.builders import synced
from tests.notebook_files import notebook_of

OLD = "https://eo1.m.pipedream.net"
NEW = "https://flows.example.com/eonew1"
ORDERS = "schema: workflow/2022.04\nname: Orders\ntriggers:\n- id: hi_1\nsteps: []\n"
CALLER = f"""\
# the caller
schema: workflow/2022.04
name:   Caller   # two blanks
triggers:
- id: hi_2
steps:
- namespace: call
  uses: ./call/entry.mjs
  props: {{url: "{OLD}/a?token=s3cret", list: [ '{{{{ "{OLD}" + 1 }}}}' ]}}
- namespace: python
  uses: ./python/entry.py
settings: {{error_url: {OLD}}}
"""
NODE = f'import {{ hook }} from "./hook.mjs";\nexport default {{ run() {{ return fetch("{OLD}/x", hook); }} }};\n'
HOOK = f'export const hook = "{OLD}/hook";\r\n'
PYTHON = f'def handler(pd):\n    return "{OLD}/p", "https://eozzz.m.pipedream.net/?token=s3cret"\n'


def write_project(root: Path) -> Path:
    """Two workflows: Orders, and Caller, which calls it in YAML, Node.js, an imported file, Python, `.env`."""
    synced(root / "orders-p_Order1", ORDERS, pdkernel_DOT_yaml="endpoint: eonew1\n")
    synced(
        root / "caller-p_Call01",
        CALLER,
        call__entry_DOT_mjs=NODE,
        call__hook_DOT_mjs=HOOK,
        python__entry_DOT_py=PYTHON,
        _DOT_env=f"# x\nA=1\nexport HOOK='{OLD}/?token=s3cret'\n",
    )
    return root


def read(*given: Path) -> list[MigrationSource]:
    """The workflows at each path."""

    def refuse(_: str) -> dict[str, object]:
        raise AssertionError("there is no id")

    return [each for one in given for each in read_sources([str(one)], refuse)]


def plan(project: Project, *given: Path) -> UrlPlan:
    """What is rewritten in *given*; the URL `OLD` belongs to Orders."""
    sources = read(*given)
    named = [(OLD, "Orders")]
    return plan_rewrite(sources, build_endpoint_map(sources, project, "https://flows.example.com", named), project)


def contents(root: Path) -> dict[str, bytes]:
    """The content of all files below *root*; a temporary file would be one, too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def rows(found: UrlPlan) -> list[tuple[str, int | None, str | None, str]]:
    """File or variable, line, step and state of each URL, in order."""
    return sorted((Path(each.name).name, each.line, each.step, each.state) for each in found.places)


def test_all_files_of_a_workflow_are_rewritten(tmp_path: Path, project: Project) -> None:
    """YAML with props and templates, code of each language, imported files and `.env` have the new URL, and every other byte stays."""
    root = write_project(tmp_path / "project")
    before = contents(root)

    found = plan(project, root)
    assert contents(root) == before
    apply_rewrite(found, project)

    changed = {name for name, content in contents(root).items() if content != before[name]}
    assert contents(root) == {name: content.replace(OLD.encode(), NEW.encode()) for name, content in before.items()}
    assert changed == {
        f"caller-p_Call01/{name}"
        for name in ("workflow.yaml", "call/entry.mjs", "call/hook.mjs", "python/entry.py", ".env")
    }
    assert rows(found) == [
        (".env", 3, "HOOK", "rewrite"),
        ("entry.mjs", 2, "call", "rewrite"),
        ("entry.py", 2, "python", "rewrite"),
        ("entry.py", 2, "python", "unknown"),
        ("hook.mjs", 1, "call", "rewrite"),
        ("workflow.yaml", 9, "call", "rewrite"),
        ("workflow.yaml", 9, "call", "rewrite"),
        ("workflow.yaml", 12, None, "rewrite"),
    ]


def test_a_second_rewrite_changes_nothing(tmp_path: Path, project: Project) -> None:
    """New URLs are not found again."""
    root = write_project(tmp_path / "project")
    apply_rewrite(plan(project, root), project)

    again = plan(project, root)

    assert (again.changes, {each.state for each in again.places}) == ((), {"unknown"})


def test_nothing_that_may_be_secret_is_part_of_the_plan(tmp_path: Path, project: Project) -> None:
    """Paths and queries of URLs, and values of variables, are not in the list; a variable is named."""
    root = write_project(tmp_path / "project")
    project.variables.set("CALLBACK", f"{OLD}/?token=s3cret")
    project.variables.set("OTHER", "https://eozzz.m.pipedream.net/?token=s3cret")

    found = plan(project, root)

    variables = {each.name: each for each in found.places if each.kind == "variable"}
    assert "s3cret" not in json.dumps([each.to_json() for each in found.places])
    assert {name: (each.old, each.new, each.state) for name, each in variables.items()} == {
        "CALLBACK": (None, None, "rewrite"),
        "OTHER": (None, None, "unknown"),
    }
    assert [each.old for each in found.places if each.name.endswith(".env")] == [None]


def test_variables_and_records_are_rewritten_with_the_files(tmp_path: Path, project: Project) -> None:
    """Values of variables and texts in records get the new URL; a record expires as before; a stored `resume_url` stays."""
    root = write_project(tmp_path / "project")
    project.variables.set("CALLBACK", f"{OLD}/cb")
    expires = (project.clock.now() + timedelta(hours=1)).replace(microsecond=0)
    value = {"n": 1, "urls": [f"{OLD}/a", "é"], "resume_url": f"{OLD}/r"}
    project.data_stores.put_records("conf", [StoreRecord("k", value, expires), StoreRecord("other", 5, None)])

    found = plan(project, root)
    apply_rewrite(found, project)

    stored = project.data_stores.find("conf", "k")
    assert project.variables.values()["CALLBACK"] == f"{NEW}/cb"
    assert stored == StoreRecord("k", {"n": 1, "urls": [f"{NEW}/a", "é"], "resume_url": f"{OLD}/r"}, expires)
    assert [each.state for each in found.places if each.name == "conf/k"] == ["rewrite", "ends"]
    assert PAUSED_NOTE in found.notes


def test_an_undo_restores_everything(tmp_path: Path, project: Project) -> None:
    """After an undo, files, variables and records are as before, and there is nothing more to undo."""
    root = write_project(tmp_path / "project")
    project.variables.set("CALLBACK", f"{OLD}/cb")
    project.data_stores.set("conf", "k", [OLD])
    before = contents(root)
    apply_rewrite(plan(project, root), project)

    undone = undo_rewrite(project)

    assert contents(root) == before
    assert project.variables.values()["CALLBACK"] == f"{OLD}/cb"
    assert project.data_stores.find("conf", "k") == StoreRecord("k", [OLD], None)
    assert len(undone.changes) == 7
    with pytest.raises(RequestError, match="There is no rewrite"):
        undo_rewrite(project)


@pytest.mark.parametrize("what", ["file", "removed file", "variable", "record", "link"])
def test_an_undo_refuses_what_was_changed_since(tmp_path: Path, project: Project, what: str) -> None:
    """If one text differs from what the rewrite left, the undo names it and changes nothing."""
    root = write_project(tmp_path / "project")
    project.variables.set("CALLBACK", OLD)
    project.data_stores.set("conf", "k", OLD)
    apply_rewrite(plan(project, root), project)
    entry = root / "caller-p_Call01/python/entry.py"
    match what:
        case "file":
            entry.write_text(entry.read_text() + "# more\n")
        case "removed file":
            entry.unlink()
        case "variable":
            project.variables.set("CALLBACK", "mine")
        case "record":
            project.data_stores.set("conf", "k", "mine")
        case "link":
            entry.rename(tmp_path / "elsewhere.py")
            entry.symlink_to(tmp_path / "elsewhere.py")
    changed = contents(root)

    with pytest.raises(RequestError, match="Nothing was taken back") as raised:
        undo_rewrite(project)

    named = {"variable": "variable CALLBACK", "record": "record k of the data store conf"}.get(what, str(entry))
    assert named in str(raised.value)
    assert contents(root) == changed


@pytest.mark.parametrize("fault", ["a file", "a folder", "a variable"])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, project: Project, fault: str) -> None:
    """A file that has changed, the second folder that cannot be written, and a variable that changed: nothing is written."""
    first, second = write_project(tmp_path / "project"), tmp_path / "second"
    synced(second / "more-p_More01", ORDERS.replace("Orders", "More"), more__entry_DOT_py="")
    (second / "more-p_More01/pdkernel.yaml").write_text(f"# {OLD}\n")
    project.variables.set("CALLBACK", OLD)
    found = plan(project, first, second)
    match fault:
        case "a file":
            (first / "caller-p_Call01/call/hook.mjs").write_text("// mine\n")
        case "a folder":  # a folder that refuses the write also if root runs the test
            (second / PENDING_FILE).write_text("not a list")
        case "a variable":
            project.variables.set("CALLBACK", "mine")
    before = contents(first), contents(second), project.variables.values()

    with pytest.raises(RequestError):
        apply_rewrite(found, project)

    assert (contents(first), contents(second), project.variables.values()) == before
    with pytest.raises(RequestError, match="There is no rewrite"):
        undo_rewrite(project)


def test_a_killed_rewrite_is_taken_back(tmp_path: Path, project: Project) -> None:
    """After a kill between two files, a second rewrite is refused, and the undo restores the ones that were written."""
    root = write_project(tmp_path / "project")
    before = contents(root)
    found = plan(project, root)
    apply_rewrite(found, project)
    stored = json.loads(project.secrets.get("migrate/urls") or "")
    project.secrets.set("migrate/urls", json.dumps([{**stored[0], "state": "pending"}]))
    hook = root / "caller-p_Call01/call/hook.mjs"
    hook.write_bytes(HOOK.encode())

    with pytest.raises(RequestError, match="was interrupted"):
        apply_rewrite(plan(project, root), project)
    undo_rewrite(project)

    assert contents(root) == before


def test_only_files_in_the_named_folder_are_written(tmp_path: Path, project: Project) -> None:
    """Code behind a link, a workflow behind a link, and a file that leads out of the named folder are not read and not written."""
    outside = tmp_path / "outside"
    synced(outside / "far-p_Far001", CALLER.replace("Caller", "Far"), call__entry_DOT_mjs=NODE)
    (outside / "lib.mjs").write_text(f'export const far = "{OLD}";\n')
    root = write_project(tmp_path / "project")
    (root / "linked").symlink_to(outside / "far-p_Far001")
    hook = root / "caller-p_Call01/call/hook.mjs"
    hook.unlink()
    hook.symlink_to(outside / "lib.mjs")
    before = contents(outside)

    apply_rewrite(plan(project, root), project)

    assert contents(outside) == before
    assert hook.is_symlink()


def test_code_above_a_workflow_is_not_written(tmp_path: Path, project: Project) -> None:
    """A file above the workflow's folder, which no step here can import, is listed if the folder above was named, and stays."""
    root = write_project(tmp_path / "project")
    shared = root / "shared.mjs"
    shared.write_text(f'export const shared = "{OLD}";\n')
    entry = root / "caller-p_Call01/call/entry.mjs"
    entry.write_text(f'import "../../shared.mjs";\n{NODE}')

    narrow = plan(project, root / "caller-p_Call01", root / "orders-p_Order1")
    whole = plan(project, root)
    apply_rewrite(whole, project)

    assert str(shared) not in {each.name for each in narrow.places}
    assert [row for row in rows(whole) if row[0] == "shared.mjs"] == [("shared.mjs", 1, None, "other file")]
    assert OLD in shared.read_text()


def test_files_that_no_workflow_reads_are_listed(tmp_path: Path, project: Project) -> None:
    """A document or a file that a step may open stays, and is listed once for each URL; events and hidden files are not."""
    root = write_project(tmp_path / "project")
    (root / "README.md").write_text(f"{OLD}\n\n{OLD}/again\n")
    (root / "caller-p_Call01/data.json").write_text(json.dumps({"url": OLD}))
    for name in ("caller-p_Call01/events/one.json", ".git/config", "caller-p_Call01/node_modules/x.js"):
        (root / name).parent.mkdir()
        (root / name).write_text(OLD)

    found = plan(project, root)
    apply_rewrite(found, project)

    assert [row for row in rows(found) if row[3] == "other file"] == [
        ("README.md", 1, None, "other file"),
        ("data.json", 1, None, "other file"),
    ]
    assert (root / "README.md").read_text() == f"{OLD}\n\n{OLD}/again\n"


def test_code_cells_of_a_notebook_are_rewritten(tmp_path: Path, project: Project) -> None:
    """Step cells, plain code and hidden props have the new URL; the workflow's cell, texts, outputs and the layout of the file stay."""
    root = write_project(tmp_path / "project")
    path = notebook_of(
        root / "calls.ipynb",
        f"%%pdworkflow\nname: Calls\n# {OLD}",
        f'%%pdstep send --lang node\nexport default {{ run() {{ return fetch("{OLD}/é"); }} }}',
        f'import requests\nrequests.get("{OLD}")',
    )
    data = json.loads(path.read_text())
    workflow, step, plain = data["cells"]
    workflow["metadata"]["pdkernel"] = {"extra": {"endpoints": {"hi_1": OLD}}}
    step["metadata"]["pdkernel"] = {"props": {"values": {"url": OLD}, "order": ["url"]}}
    step["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [OLD]}]
    data["cells"].append({"cell_type": "markdown", "metadata": {}, "source": [OLD]})
    text = json.dumps(data, indent=3, ensure_ascii=False)
    path.write_text(text)

    found = plan(project, root)
    apply_rewrite(found, project)

    step["source"] = "".join(step["source"]).replace(OLD, NEW)
    plain["source"] = "".join(plain["source"]).replace(OLD, NEW)
    step["metadata"]["pdkernel"]["props"]["values"]["url"] = NEW
    written = json.loads(path.read_text())
    for cell in written["cells"]:
        cell["source"] = "".join(cell["source"]) if cell["cell_type"] == "code" else cell["source"]
    workflow["source"] = "".join(workflow["source"])
    assert written == data
    assert path.read_text().replace(NEW, OLD) == text
    assert [(each.step, each.state) for each in found.places if each.name == str(path)] == [
        ("send", "rewrite"),
        ("send", "rewrite"),
        (None, "rewrite"),
    ]


def test_cells_of_a_percent_notebook_are_rewritten(tmp_path: Path, project: Project) -> None:
    """Code cells of a `.py` notebook have the new URL; the workflow's cell and Markdown cells stay."""
    root = write_project(tmp_path / "project")
    text = (
        f'# %% pdkernel={{"extra": {{"endpoints": {{"hi_1": "{OLD}"}}}}}}\n# %%pdworkflow\n# name: Calls\n\n'
        f"# %% [markdown]\n# {OLD}\n\n"
        f'# %%\n# %%pdstep send --lang node\n# export default {{ run() {{ return fetch("{OLD}"); }} }}\n\n'
        f'# %%\n# %%pdstep more\ndef handler(pd):\n    return "{OLD}"\n'
    )
    path = root / "calls.py"
    path.write_text(text)

    found = plan(project, root)
    apply_rewrite(found, project)

    head, tail = text.split("# %%\n", 1)
    assert path.read_text() == f"{head}# %%\n{tail.replace(OLD, NEW)}"
    assert [row[1:] for row in rows(found) if row[0] == "calls.py"] == [
        (10, "send", "rewrite"),
        (15, "more", "rewrite"),
    ]


def test_a_workflow_that_cannot_be_read_is_named(tmp_path: Path, project: Project) -> None:
    """The files of a broken workflow stay, and the notes say so."""
    root = write_project(tmp_path / "project")
    broken = synced(root / "broken-p_Broken", f"steps: [\n# {OLD}\n")

    found = plan(project, root)
    apply_rewrite(found, project)

    assert any(note.startswith(f"{broken} cannot be read") for note in found.notes)
    assert OLD in (broken / "workflow.yaml").read_text()


def test_a_record_with_a_control_character_keeps_its_text(tmp_path: Path, project: Project) -> None:
    """A text of a record that JSON escapes is the same after a rewrite, but for the URL."""
    root = write_project(tmp_path / "project")
    value = {'a"b\\': [f'\u2028"\\{OLD}/a\\', None, True, 1.5, f"\x00 {OLD}"]}
    project.data_stores.set("conf", "k", value)

    apply_rewrite(plan(project, root), project)

    stored = project.data_stores.find("conf", "k")
    assert stored is not None
    assert stored.value == {'a"b\\': [f'\u2028"\\{NEW}/a\\', None, True, 1.5, f"\x00 {NEW}"]}
