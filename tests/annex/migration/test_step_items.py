"""What a team must act on for one step, and the workflows that a step calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.annex.migration.step_items import Surroundings, build_store_item, find_invoked, find_step_items
from pdkernel.model import Step, StoreBinding
from tests.builders import a_workflow, node_step, python_step

AROUND = Surroundings(
    names={"p_Other12": "Other", "p_Self123": "Self"},
    endpoints={"eoaaaaaa.m.pipedream.net": "Endpoint", "hooks.acme.example": "Own domain"},
)


def invoked(*steps: Step) -> set[str]:
    """The workflows that a workflow with *steps* calls."""
    return {*find_invoked(MigrationSource("s", "s", workflow=a_workflow(*steps, name="Self")), AROUND)}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('await fetch("https://EOAAAAAA.m.pipedream.net/x")', {"Endpoint"}),
        ('await fetch("https://hooks.acme.example/x")', {"Own domain"}),
        ('await $.flow.trigger("p_Other12", {})', {"Other"}),
        ('await $.flow.trigger("p_Self123", {})', set()),
        ('await fetch("https://example.com")', set()),
    ],
)
def test_the_workflows_that_a_step_calls(body: str, names: set[str]) -> None:
    """A workflow of the report is called by the host of its endpoint or by its id; a call of itself does not count."""
    assert invoked(node_step(body=body)) == names
    assert invoked() == set()


def test_a_host_of_a_workflow_is_named_once() -> None:
    """A call of an endpoint at Pipedream is one item, although its host is also among the report's endpoints."""
    step = node_step(body='await fetch("https://eoaaaaaa.m.pipedream.net")')

    (item,) = find_step_items(step, AROUND)

    assert (item.kind, item.name, item.steps) == ("caller", "eoaaaaaa.m.pipedream.net", (step.name,))
    assert "the endpoint of Endpoint" in item.message


def test_the_place_of_a_use() -> None:
    """A use in code has its line, a use in an imported file the file too, and a use in a prop only its step."""
    file = replace(
        node_step(body="return 1"), files={"helper.js": 'export const go = () => $.flow.trigger("p_Other12")'}
    )
    action = Step("act", uses="a-b@1.0.0", props={"url": "https://hooks.acme.example/x"})

    messages = [next(iter(find_step_items(step, AROUND))).message for step in (node_step(body="$.flow.delay(1)"), file, action)]  # fmt: skip

    assert messages[0].startswith("Step code, line 3, pauses the run (delay).")
    assert messages[1].startswith("Step code, helper.js line 1, starts p_Other12 (Other).")
    assert messages[2].startswith("Step act calls https://hooks.acme.example")


def test_a_store_that_the_source_names_is_not_unknown() -> None:
    """A data store in code is an item only if the step's directive does not name the store."""
    step = node_step(body="await this.db.get('a')", props='{ db: { type: "data_store" } }')

    assert [item.kind for item in find_step_items(step, AROUND)] == ["data_store"]
    assert list(find_step_items(replace(step, stores=(StoreBinding("db", "orders"),)), AROUND)) == []


def test_the_command_for_a_store_is_quoted() -> None:
    """A store's name is an argument; an unknown store has a placeholder."""
    assert build_store_item("my store", "").command == "pdkernel migrate data 'my store' --to rescued"
    assert build_store_item(None, "").command == "pdkernel migrate data NAME --to rescued"


@pytest.mark.parametrize(
    ("step", "kind", "name", "message"),
    [
        (
            node_step(body="return this.db.get('a')", props='{ db: "$.service.db" }'),
            "source_state",
            "code.db",
            "keeps state in $.service.db as db. The state stays at Pipedream.",
        ),
        (
            node_step(body="return steps.trigger.context.attachments['a.csv']"),
            "attachment",
            "code",
            "reads the workflow's attachments, which Git does not hold.",
        ),
        (
            node_step(body="return $.flow.suspend().resume_url"),
            "paused_runs",
            "code (resume URL)",
            "hands on URLs that resume or cancel a run.",
        ),
    ],
)
def test_what_stays_at_pipedream(step: Step, kind: str, name: str, message: str) -> None:
    """State, attachments and URLs of a step are items that name the step."""
    (found,) = (item for item in find_step_items(step, AROUND) if item.kind == kind and item.name == name)

    assert message in found.message
    assert found.steps == ("code",)
    assert found.fix


def test_a_started_workflow_that_is_not_part_of_the_report() -> None:
    """The item reports whether the started workflow moves too."""
    known, unknown = (
        next(iter(find_step_items(node_step(body=f'$.flow.trigger("{name}")'), AROUND)))
        for name in ("p_Other12", "p_Gone123")
    )

    assert known.fix == "Switch the started workflow over first."
    assert "Add the started workflow" in unknown.fix
    assert [item.kind for item in find_step_items(python_step(body="return pd.files"), AROUND)] == ["file_store"]


@pytest.mark.parametrize(("op", "fix"), [("str/", ""), ("num>", 'the meaning of "num>" is derived')])
def test_the_filter_step_of_the_builder_runs_built_in(op: str, fix: str) -> None:
    """The report has the builder's Filter step, and the operators whose meaning was never observed."""
    rules = {"t": "and", "r": [{"a": "1", "op": op, "b": "1"}]}
    step = Step("only", "node", uses="filter-rules@0.0.1", props={"_filter": {"continue": "true", "rules": rules}})

    (item,) = find_step_items(step, AROUND)

    assert (item.kind, item.group, item.steps) == ("rule_filter", "switch", ("only",))
    assert "runs built in" in item.message
    assert fix in item.fix


def test_a_filter_step_with_an_unknown_operator_does_not_run() -> None:
    """The report does not say that a Filter step runs whose operator is unknown."""
    rules = {"t": "and", "r": [{"a": "1", "op": "geo~", "b": "1"}]}
    step = Step("only", "node", uses="filter-rules@0.0.1", props={"_filter": {"rules": rules}})

    assert list(find_step_items(step, AROUND)) == []
