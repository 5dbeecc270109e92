"""What code and props use of the platform besides props."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.language.analysis.platform_uses import PlatformUse, find_hosts, find_platform_uses
from pdkernel.model import StoreBinding
from tests.builders import a_step, bash_step, node_step, python_step


@pytest.mark.parametrize(
    ("body", "uses"),
    [
        ("await $.files.open('a').toUrl()", [PlatformUse("file_store", "", 3)]),
        ("const r = $.flow.rerun(1000, {}, 3)", [PlatformUse("pause", "rerun", 3)]),
        ("await fetch(r.resume_url)", [PlatformUse("resume_url", "", 3)]),
        (
            "const { cancel_url } = $.flow.suspend()",
            [PlatformUse("resume_url", "", 3), PlatformUse("pause", "suspend", 3)],
        ),
        ("return $.flow.trigger('p_abc123', {})", [PlatformUse("workflow", "p_abc123", 3)]),
        ("return $.flow.trigger(id)", [PlatformUse("workflow", "", 3)]),
        ("return steps.trigger.context.attachments['a.csv']", [PlatformUse("attachment", "", 3)]),
        ("return steps.trigger.event.original_event", [PlatformUse("error", "", 3)]),
        ("await fetch(`https://EOabc.m.pipedream.net/x`)", [PlatformUse("endpoint", "eoabc.m.pipedream.net", 3)]),
        ("$.flow.exit('done'); files.open('a'); x.suspend(); steps.a.files; $.other.files", []),
    ],
)
def test_uses_of_node_code(body: str, uses: list[PlatformUse]) -> None:
    """Each use is found by its literal form, with its line."""
    assert list(find_platform_uses(node_step("work", body))) == uses


def test_uses_of_node_props() -> None:
    """Data stores and state that the code declares are found with the name of the prop."""
    props = (
        '{ orders: { label: "Orders", type: "data_store" }, db: "$.service.db", state: { type: "$.service.db" }, '
        'name: "string", [computed]: "$.service.db", shared }'
    )
    step = node_step("work", "return 1", props=props)

    assert [use[:2] for use in find_platform_uses(step)] == [
        ("data_store", "orders"),
        ("source_state", "db"),
        ("source_state", "state"),
    ]


def test_uses_of_imported_files() -> None:
    """Files that the code imports are searched too, and the use names the file."""
    files = {
        "../lib/store.mjs": "export const open = ($) => $.files.open('a');",
        "notes.json": '"https://eoa.m.pipedream.net"',
    }
    step = replace(node_step("work", "return 1"), files=files)

    assert find_platform_uses(step) == (PlatformUse("file_store", "", 1, "../lib/store.mjs"),)


def test_uses_of_python_code() -> None:
    """Python code is read by its syntax tree: comments are not uses."""
    step = python_step(
        "work",
        """
        # pd.files and pd.flow.rerun
        pd.files.open("a")
        url = pd.flow.suspend(1000)["resume_url"]
        return pd.inputs["data_store"]["a"], pd.steps["trigger"]["event"]["original_event"]
        """,
    )

    assert [(use.kind, use.name, use.line) for use in sorted(find_platform_uses(step), key=str)] == [
        ("data_store", "data_store", 5),
        ("error", "", 5),
        ("file_store", "", 3),
        ("pause", "suspend", 4),
        ("resume_url", "", 4),
    ]


def test_a_store_that_the_step_has_is_not_unknown() -> None:
    """A data store prop with a store is not a use without a name."""
    step = python_step("work", 'return pd.inputs["data_store"]["a"]')

    assert [use.kind for use in find_platform_uses(step)] == ["data_store"]
    assert find_platform_uses(replace(step, stores=(StoreBinding("data_store", "ds_1"),))) == ()
    assert find_platform_uses(replace(step, props={"data_store": {"a": 1}})) == ()


def test_uses_of_props() -> None:
    """Texts of an action's props are searched: endpoints, ids of workflows, and values of a failed run."""
    step = a_step(
        """
        %%pdstep go --uses helper_functions-trigger-workflow@0.0.1
        workflowId: p_abc123
        url: https://eoabc.m.pipedream.net
        text: "{{steps.wait.$return_value.resume_url}} {{steps.trigger.event.original_event.body}}"
        files: ["{{steps.trigger.context.attachments['a.csv']}}", {from: "https://eodef.m.d.pipedream.net/x"}]
        """
    )

    assert [use[:2] for use in find_platform_uses(step)] == [
        ("workflow", "p_abc123"),
        ("endpoint", "eoabc.m.pipedream.net"),
        ("resume_url", ""),
        ("error", ""),
        ("attachment", ""),
        ("endpoint", "eodef.m.d.pipedream.net"),
    ]
    assert find_hosts(step) == {"eoabc.m.pipedream.net": None, "eodef.m.d.pipedream.net": None}


def test_endpoints_of_bash_code() -> None:
    """URLs are found in every language."""
    step = bash_step(
        "work",
        "curl https://eoabc.m.pipedream.net\ncurl https://hooks.acme.example/x\ncurl https://Hooks.acme.example/y",
    )

    assert find_platform_uses(step) == (PlatformUse("endpoint", "eoabc.m.pipedream.net", 1),)
    assert find_hosts(step) == {"eoabc.m.pipedream.net": 1, "hooks.acme.example": 2}


def test_the_id_of_a_workflow_in_a_prop() -> None:
    """A prop of an action that is a workflow's id names a started workflow; a prop of code may be any text."""
    action = a_step("%%pdstep next --uses a-b@1.0.0\nworkflow: p_Ab12Cd3\n")

    assert find_platform_uses(action) == (PlatformUse("workflow", "p_Ab12Cd3", None),)
    assert find_platform_uses(node_step("next", options="--prop workflow=p_Ab12Cd3")) == ()
