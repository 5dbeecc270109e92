"""Data stores in steps of a real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdkernel.engine.data_store_service import DataStoreService, resolve_data_stores
from pdkernel.errors import PdkernelError, StoreValueError
from pdkernel.files.source import WorkflowSource
from pdkernel.model import JSON, Step
from pdkernel.storage import Project, StoreRecord
from pdkernel.workers import PropDeclaration
from tests.builders import a_workflow, node_step, python_step
from tests.engine.conftest import Run, error_of

NODE = "{ data: { type: 'data_store' } }"


def in_node(body: str, *, options: str = "--data-store data") -> Step:
    """A Node.js step with the store as `s`."""
    return node_step("work", f"const s = this.data; {body}", options=options)


def in_python(body: str, *, options: str = "--data-store data") -> Step:
    """A Python step with the store as `s`."""
    return python_step("work", f's = pd.inputs["data"]\n{body}', options=options)


async def returned(run: Run, step: Step) -> Any:
    """Return the step's return value."""
    execution = await run(step)
    assert execution.status == "success", execution.error
    return execution.step("work").return_value


@pytest.mark.parametrize(
    "step",
    [
        in_node(
            """
            const before = [await s.get("k"), await s.has("k")];
            await s.set("k", { deep: [1, null] });
            await s.set("other", "x", { ttl: 60 });
            await s.set("null", null);
            const pairs = [];
            for await (const [key, value] of s) pairs.push([key, value]);
            const found = [await s.get("k"), await s.has("k"), await s.get("null"), await s.keys()];
            await s.setTtl("other", null);
            await s.delete("k");
            await s.delete("k");
            const after = await s.keys();
            await s.clear();
            return { before, pairs, found, after, end: await s.keys() };
            """
        ),
        in_python(
            """
before = [s.get("k"), "k" in s]
s["k"] = {"deep": [1, None]}
s.set("other", "x", ttl=60)
s["null"] = None
pairs = [[key, value] for key, value in s.items()]
found = [s["k"], "k" in s, s.get("null", "default"), list(s.keys())]
s.set_ttl("other", ttl=None)
del s["k"]
del s["k"]
after = list(s.keys())
assert len(s) == 2 and list(s) == after
s.clear()
return {"before": before, "pairs": pairs, "found": found, "after": after, "end": list(s.keys())}
"""
        ),
    ],
    ids=["node", "python"],
)
async def test_documented_operations(shared_run: Run, step: Step) -> None:
    """Every documented operation works as documented."""
    value = await returned(shared_run, step)

    assert value["before"][1] is False
    assert value["before"][0] is None
    assert value["pairs"] == [["k", {"deep": [1, None]}], ["other", "x"], ["null", None]]
    assert value["found"] == [{"deep": [1, None]}, True, None, ["k", "other", "null"]]
    assert value["after"] == ["other", "null"]
    assert value["end"] == []


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (
            in_node("await s.set('null', null); return [typeof await s.get('no'), await s.get('null')]"),
            ["undefined", None],
        ),
        *(
            (
                in_python(f'try:\n    s["no"]\nexcept {kind} as error:\n    return str(error)'),
                "The data store has no key 'no'. To get None for a missing key, use .get(key).",
            )
            for kind in ("TypeError", "KeyError")
        ),
        (in_python('s["a"] = {"b": 1}\ns["a"]["b"] = 2\nreturn s["a"]["b"]'), 1),
        (
            in_node(
                "await Promise.all([...Array(20).keys()].map((n) => s.set(`k${n}`, n)));"
                "return Promise.all([...Array(20).keys()].map((n) => s.get(`k${n}`)));"
            ),
            list(range(20)),
        ),
    ],
    ids=[
        "a missing record is undefined in Node.js",
        "a missing key is a TypeError, as the documentation says",
        "a missing key is a KeyError, as of a dict",
        "a value that was read is a copy",
        "operations at once have their own answers",
    ],
)
async def test_what_an_operation_returns(shared_run: Run, step: Step, value: JSON) -> None:
    """Records that are missing or null, and values, are returned as documented."""
    assert await returned(shared_run, step) == value


async def test_keys_cannot_be_exported(shared_run: Run) -> None:
    """`keys()` is not a list; the error for exporting it names the fix."""
    error = error_of(await shared_run(in_python("return s.keys()")))

    assert error.code == "export_not_json"
    assert "list(...)" in error.message


async def test_workflows_and_languages_share_a_store(run: Run, project: Project) -> None:
    """A Node.js step reads by name what a Python step of another workflow stored."""
    await run(in_python('s["from python"] = [1]', options="--data-store data=orders"), egress="live")

    value = await returned(run, in_node("return s.get('from python')", options="--data-store data=orders"))

    assert value == [1]
    assert project.data_stores.names() == ["orders"]


async def test_prop_without_a_name_is_the_default_store(run: Run, project: Project) -> None:
    """`--data-store PROP` and a prop that only the code declares both mean the project's default store."""
    await run(in_python('s["a"] = 1'), node_step("other", "await this.data.set('b', 2)", props=NODE), egress="live")

    assert project.data_stores.names() == ["default"]
    assert project.data_stores.read_keys("default")[0] == ["a", "b"]


async def test_step_reaches_only_declared_stores(run: Run, project: Project) -> None:
    """The name of an undeclared store is refused."""
    project.data_stores.set("secret", "k", "v")
    step = in_python('return type(s)("secret", s._call_services).get("k")')

    error = error_of(await run(step))

    assert error.name == "StoreNotDeclared"


@pytest.mark.parametrize(
    ("step", "line", "words"),
    [
        (in_python('s["k"] = {"when": {1, 2}}'), 4, "default['k'].when is a set"),
        (in_python('s["k"] = float("nan")'), 4, "default['k'] is nan"),
        (in_python("s[7] = 1"), 4, "A key of a data store must be a text, not 7"),
        (in_python('s.set("k", 1, ttl=-1)'), 4, "time to live"),
        (in_python('s.set("k", 1, ttl=0)'), 4, "time to live"),
        (in_node("await s.set('k', 1, { ttl: 0 })"), 4, "time to live"),
        (in_node("await s.setTtl('k', 0)"), 4, "time to live"),
        (in_node("await s.set('k', { n: 1n })"), 4, "default['k'].n is a BigInt"),
        (in_node("await s.set('k', undefined)"), 4, "set to undefined"),
        (in_node("await s.set(7, 1)"), 4, "A key of a data store must be a text, not 7"),
        (in_node("const o = {}; o.me = o; await s.set('k', o)"), 4, "contains itself"),
        (in_node("await s.set('k'.repeat(2000), 1)"), 4, "2000 bytes"),
    ],
)
async def test_invalid_record_is_an_error_at_the_line(
    run: Run, project: Project, step: Step, line: int, words: str
) -> None:
    """A value that is not JSON, an invalid key and an invalid time to live fail at the cell's line and store nothing."""
    error = error_of(await run(step))

    assert words in error.message
    assert (error.code, error.line) == ("store_value", line)
    assert project.data_stores.count("default") == 0


async def test_value_that_json_drops_is_a_warning(run: Run, project: Project) -> None:
    """NaN in Node.js is stored as null, as JSON.stringify writes it, and the step's log has a warning."""
    execution = await run(in_node("await s.set('k', [NaN])"), egress="live")

    assert "it is stored as null" in "".join(log.text for log in execution.step("work").logs)
    assert project.data_stores.find("default", "k") == StoreRecord("k", [None], None)


@pytest.mark.parametrize(
    "step",
    [in_node("return (await s.keys()).length"), in_python("return len(list(s.items()))")],
    ids=["node", "python"],
)
async def test_store_of_many_records_is_read_completely(run: Run, project: Project, step: Step) -> None:
    """A step reads all keys and records of a store that needs several pages."""
    project.data_stores.put_records("default", [StoreRecord(f"k{number}", number, None) for number in range(1234)])

    assert await returned(run, step) == 1234


async def test_store_is_printed_as_its_name(shared_run: Run) -> None:
    """A store in a step's output is shown by its name."""
    execution = await shared_run(
        in_node("console.log(s)"), python_step("two", 'print(pd.inputs["d"])', options="--data-store d=x")
    )

    assert "[data store 'default']" in execution.step("work").logs[0].text
    assert "<data store 'x'>" in execution.step("two").logs[0].text


def test_value_of_a_synced_prop_names_the_store() -> None:
    """`{storeId: ds_...}` names the store with that id; the directive takes precedence; other props are not stores."""
    step = node_step("work", options="--data-store named=orders")
    declared = [
        PropDeclaration("named", "data_store"),
        PropDeclaration("synced", "data_store"),
        PropDeclaration("plain", "data_store"),
        PropDeclaration("text", "string"),
    ]
    step = Step("work", "node", stores=step.stores, props={"synced": {"storeId": "ds_1"}, "plain": "mine", "text": "x"})

    assert resolve_data_stores(step, declared) == {"named": "orders", "synced": "ds_1", "plain": "mine"}


@pytest.mark.parametrize("value", ["", None, {"storeId": ""}, {}, 7])
def test_a_prop_without_a_store_is_the_default_store(value: JSON) -> None:
    """A prop whose value names no store means the project's default store."""
    step = Step("work", "node", props={"data": value})

    assert resolve_data_stores(step, [PropDeclaration("data", "data_store")]) == {"data": "default"}


async def test_the_time_to_live_of_a_record(project: Project) -> None:
    """A time to live may have a fraction, and is a number."""
    service = DataStoreService(project.data_stores, ["s"])
    record: dict[str, JSON] = {"store": "s", "key": "k", "value": 1}

    assert await service.answer("set", {**record, "ttl": 90.5}) is None
    assert await service.answer("get", record) == {"value": 1}
    assert await service.answer("set_ttl", {**record, "ttl": None}) is True
    for ttl in (True, "60"):
        with pytest.raises(StoreValueError, match="must be a number of seconds"):
            await service.answer("set", {**record, "ttl": ttl})


@pytest.mark.parametrize(
    ("operation", "key", "message"),
    [
        ("get", 1, "A key of a data store must be a text, not 1."),
        ("set", {}, "A key of a data store must be a text, not {}."),
        ("drop", "k", "Data stores do not support the operation drop."),
    ],
)
async def test_a_call_that_is_not_one_of_the_library_is_refused(
    project: Project, operation: str, key: JSON, message: str
) -> None:
    """Code that writes its own calls gets an error, and the store stays as it is."""
    service = DataStoreService(project.data_stores, ["s"])
    await service.answer("set", {"store": "s", "key": "k", "value": 1})

    with pytest.raises(PdkernelError) as refused:
        await service.answer(operation, {"store": "s", "key": key, "value": 2})

    assert refused.value.message == message
    assert await service.answer("get", {"store": "s", "key": "k"}) == {"value": 1}


async def test_a_step_without_stores_reaches_none(project: Project) -> None:
    """Code of a step that declares no data store gets an error from its own calls."""
    project.data_stores.set("s", "k", 1)

    with pytest.raises(PdkernelError, match="does not declare the data store 's'"):
        await DataStoreService(project.data_stores, []).answer("get", {"store": "s", "key": "k"})


async def test_synced_folder_finds_its_store_by_id(run: Run, project: Project, tmp_path: Path) -> None:
    """A workflow from Git sync finds its store by the platform's id."""
    from pdkernel.files.definition import read_folder_workflow

    folder = tmp_path / "flow-p_1"
    (folder / "work").mkdir(parents=True)
    (folder / "workflow.yaml").write_text(
        "org_id: o_1\nproject_id: proj_1\nid: p_1\nname: flow\nschema: workflow/2022.04\nsteps:\n"
        "  - namespace: work\n    runtime: nodejs20.x\n    uses: ./work/entry.js\n"
        "    props:\n      data:\n        storeId: ds_abc\n"
    )
    (folder / "work" / "entry.js").write_text(
        f"export default defineComponent({{ props: {NODE}, async run() {{ await this.data.set('k', 1) }} }})\n"
    )

    execution = await run(read_folder_workflow(folder), egress="live")

    assert execution.status == "success", json.dumps(execution.to_json())
    assert project.data_stores.names() == ["ds_abc"]


async def test_both_languages_write_one_scratch_copy(run: Run, project: Project) -> None:
    """In a test, a Node.js step reads what a Python step wrote above it; the project's store stays, and each step has a note."""
    project.data_stores.set("default", "old", 0)

    execution = await run(
        in_python('s["a"] = 1\ns["b"] = 2\ndel s["old"]'),
        node_step("other", "await this.data.set('c', 3); return await this.data.keys()", props=NODE),
        egress="deny",
    )

    assert execution.step("other").return_value == ["a", "b", "c"]
    assert project.data_stores.read_keys("default")[0] == ["old"]
    assert [[log.text for log in step.logs] for step in execution.steps] == [
        ["[pdkernel] Data store default: written in a scratch copy, because the outbound policy is deny.\n"]
    ] * 2


async def test_a_step_that_runs_again_in_a_test_has_what_it_wrote(run: Run, project: Project) -> None:
    """A step that reruns itself counts on in the scratch copy, as it does in the store."""
    count = in_python(
        's["n"] = s.get("n", 0) + 1\nif s["n"] < 3:\n    pd.flow.rerun(1)\nreturn s["n"]',
    )

    execution = await run(count, egress="deny")

    assert (execution.status, execution.step("work").return_value) == ("success", 3)
    assert project.data_stores.names() == []


@pytest.mark.parametrize(("egress", "stored"), [("deny", None), ("live", 2)])
async def test_a_child_run_writes_where_its_parent_does(
    run: Run, project: Project, tmp_path: Path, egress: str, stored: int | None
) -> None:
    """A child run and the step that waits for it share the scratch copy, or both write the store."""
    child = a_workflow(in_python('s["n"] = s.get("n", 0) + 1'), name="Child")
    found = WorkflowSource(tmp_path / "child.ipynb", "notebook", child)
    parent = node_step(
        "parent",
        "await this.data.set('n', 1); await $.flow.trigger('Child', {}); return await this.data.get('n')",
        props=NODE,
    )

    execution = await run(parent, egress=egress, find_workflow=lambda _name, _source: found)

    assert execution.step("parent").return_value == 2, execution.error
    record = project.data_stores.find("default", "n")
    assert (None if record is None else record.value) == stored


async def test_only_a_policy_that_sends_nothing_has_a_scratch_copy(run: Run, project: Project) -> None:
    """A policy that sends calls to some hosts is not a test: its writes are real."""
    await run(in_python('s["a"] = 1'), egress="allow=api.example.com")

    assert project.data_stores.count("default") == 1
