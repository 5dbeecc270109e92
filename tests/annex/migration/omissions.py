"""A project of 40 workflows in the synced format, of which 25 leave something out that Git does not hold or Pipedream deletes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdkernel.annex.migration.migration_report import ItemKind
from pdkernel.language.directive import dump_yaml

WORKFLOWS = 40
_NODE = "export default defineComponent({{ {props}\n  async run({{ steps, $ }}) {{\n    {body}\n  }},\n}});\n"
_PYTHON = 'import os\n\ndef handler(pd: "pipedream"):\n    {body}\n'


@dataclass(frozen=True)
class Omission:
    """
    A workflow that leaves something out.

    Attributes:
        kind: The kind of item that the report must have for the workflow.
        says: A part of the item's name or message.
        steps: Entries of `steps` besides the code step.
        files: Files of the workflow's folder by path; the code step is `work`.
        triggers: Ids of the triggers.
        top: Further keys of `workflow.yaml`.
    """

    kind: ItemKind
    says: str
    steps: tuple[dict[str, Any], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    triggers: tuple[str, ...] = ("hi_aaaaa1",)
    top: Mapping[str, Any] = field(default_factory=dict)


def node(body: str, props: str = "", *, imports: str = "") -> dict[str, str]:
    """The file of a Node.js step."""
    return {"work/entry.js": imports + _NODE.format(body=body, props=props)}


def python(body: str) -> dict[str, str]:
    """The file of a Python step."""
    return {"work/entry.py": _PYTHON.format(body=body)}


def action(uses: str, **props: Any) -> tuple[dict[str, Any], ...]:
    """The entry of a step with an action."""
    return ({"namespace": "act", "uses": uses, **({"props": props} if props else {})},)


def setting(**settings: Any) -> dict[str, Any]:
    """The settings of a workflow."""
    return {"settings": settings}


OMISSIONS = {
    "Orders cache": Omission(
        "data_store",
        "uses a data store as orders",
        files=node("return this.orders.get('a');", 'props: { orders: { type: "data_store" } },'),
    ),
    "Node variable": Omission("variable", "NODE_TOKEN", files=node("return fetch(process.env.NODE_TOKEN);")),
    "Python variable": Omission("variable", "PY_TOKEN", files=python('return os.environ["PY_TOKEN"]')),
    "Node files": Omission("file_store", "line 3", files=node("return $.files.open('a.csv').toUrl();")),
    "Python files": Omission("file_store", "line 4", files=python('return pd.files.open("a.csv")')),
    "Missing entry": Omission("code", "work", files={}, steps=({"namespace": "work", "uses": "./work/entry.js"},)),
    "Encrypted prop": Omission(
        "secret", "api_key", steps=action("http-custom-request@1.1.1", api_key={"_enc": "c2VjcmV0"})
    ),
    "Private action": Omission("private_action", "@acme/crm-find-person", steps=action("@acme/crm-find-person@0.0.3")),
    "No version": Omission("action", "crm-find-person", steps=action("crm-find-person")),
    "Source with state": Omission("source_state", "dc_aaaaa1", triggers=("dc_aaaaa1",)),
    "Schedule": Omission("schedule", "ti_aaaaa1", triggers=("ti_aaaaa1",)),
    "Email": Omission("email_address", "ei_aaaaa1", triggers=("ei_aaaaa1",)),
    "Two triggers": Omission("several_triggers", "hi_aaaaa3", triggers=("hi_aaaaa2", "hi_aaaaa3")),
    "Private network": Omission("network", "net_5dKq", top=setting(network="net_5dKq")),
    "Turned off": Omission("inactive", "turned off", top={"inactive": True}),
    "Withheld account": Omission(
        "account", "withholds", steps=action("github-create-issue@0.3.0", github={"authProvisionId": "apn_held"})
    ),
    "Caller": Omission(
        "caller",
        "the endpoint of Called over the API",
        files=node('return fetch("https://eoabc123.m.pipedream.net/new");'),
    ),
    "Resume URL": Omission(
        "paused_runs",
        "resume or cancel a run",
        files=node("const { resume_url } = $.flow.suspend(60000);\n    return fetch(resume_url);"),
    ),
    "Missing sibling": Omission(
        "sibling", "./prices.mjs", files=node("return 1;", imports='import p from "./prices.mjs";\n')
    ),
    "Error workflow": Omission(
        "error_handler", "failed run", triggers=("dc_aaaaa2",), files=node("return steps.trigger.event.original_event;")
    ),
    "Store by id": Omission(
        "data_store", "ds_4kPq7a", steps=action("data_stores-list-keys@0.0.4", dataStore={"storeId": "ds_4kPq7a"})
    ),
    "Limited": Omission("limit", "max_event_queue_size", top=setting(rate_limit=5, max_event_queue_size=200)),
    "Starts another": Omission("invoked_workflow", "p_Gone123", files=node('return $.flow.trigger("p_Gone123", {});')),
    "Branches": Omission("control_flow", "if_else", steps=({"namespace": "if_else", "props": {"rules": []}},)),
}
"""The omissions in Git by the workflow's name; a workflow of the API with a custom domain is the last one."""

API_WORKFLOW_ID = "p_Api1234"
API_WORKFLOW: dict[str, Any] = {
    "name": "Called over the API",
    "triggers": [
        {"id": "hi_aaaaa8", "endpoint_url": "https://eoabc123.m.pipedream.net", "custom_response": True},
        {"id": "hi_aaaaa9", "endpoint_url": "https://hooks.acme.example/orders", "custom_response": False},
    ],
    "steps": [
        {
            "namespace": "work",
            "lang": "nodejs20.x",
            "savedComponent": {"code": node("$.respond({ status: 200, body: {} });")["work/entry.js"]},
        }
    ],
}
CUSTOM_DOMAIN = "hooks.acme.example"


def write_project(root: Path) -> None:
    """Write the workflows that Git holds to *root*: all but the last of the 25, and plain ones up to 39."""
    for name, omission in OMISSIONS.items():
        write_workflow(root, name, omission)
    for number in range(WORKFLOWS - 1 - len(OMISSIONS)):
        write_workflow(root, f"Plain {number:02}", Omission("events", ""))


def write_workflow(root: Path, name: str, omission: Omission) -> None:
    """Write the folder of one workflow."""
    folder = root / f"{name.lower().replace(' ', '-')}-p_{zlib.crc32(name.encode()) % 10**7:07}"
    files = dict(omission.files or ({} if omission.steps else node("return 1;")))
    steps = list(omission.steps)
    steps += [{"namespace": "work", "uses": f"./{path}"} for path in files]
    document = {
        "schema": "workflow/2022.04",
        "name": name,
        **omission.top,
        "triggers": [{"id": trigger} for trigger in omission.triggers],
        "steps": steps,
    }
    files["workflow.yaml"] = dump_yaml(document)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
