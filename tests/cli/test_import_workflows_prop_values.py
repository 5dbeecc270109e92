"""A synced folder with every form of a prop's value, run directly and after an import."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.definition import plan_files, read_folder_workflow
from tests.cli.conftest import Shell
from tests.cli.kiosk import Kiosk, open_kiosk

FOLDER = "add-rows-p_Ab12Cd3"
KEY = "kiosk-key-77ab01"

APP = """
export default {
  type: "app",
  app: "kiosk",
  propDefinitions: {
    sheet: { type: "string", label: "Sheet", withLabel: false, async options() { return [{ label: "Guests", value: "12" }]; } },
  },
  methods: { columns(sheet) { return { 12: ["Name", "Age"], 13: ["Title"] }[sheet] ?? []; } },
};
"""
ADD_ROW = """
import kiosk from "../../kiosk.app.mjs";

export default {
  key: "kiosk-add-row", name: "Add Row", version: "0.2.1", type: "action",
  props: {
    kiosk,
    sheet: { propDefinition: [kiosk, "sheet"], reloadProps: true },
    folder: { type: "string", label: "Folder", withLabel: true },
    tags: { type: "string[]", label: "Tags", optional: true },
    hasHeaders: { type: "boolean", label: "Headers?", reloadProps: true },
  },
  async additionalProps() {
    const props = {};
    if (!this.hasHeaders) return { rows: { type: "string[]", label: "Rows" } };
    this.kiosk.columns(this.sheet).forEach((label, n) => {
      props[`col_000${n}`] = { type: n ? "integer" : "string", label, optional: n > 0 };
    });
    return props;
  },
  async run({ $ }) {
    const cells = Object.entries(this).filter(([name]) => name.startsWith("col_"));
    $.export("$summary", `Added a row to ${this.sheet}`);
    return { sheet: this.sheet, folder: this.folder, tags: this.tags, cells: Object.fromEntries(cells) };
  },
};
"""
SEND = """
import kiosk from "../../kiosk.app.mjs";

export default {
  key: "kiosk-send", name: "Send", version: "0.0.3", type: "action",
  props: { kiosk, httpRequest: { type: "http_request", label: "Request", default: { method: "GET" } } },
  async run() {
    return { method: this.httpRequest.method, got: await this.httpRequest.execute() };
  },
};
"""
CODE = """\
export default defineComponent({
  props: {
    choice: { type: "string", withLabel: true },
    many: { type: "string[]" },
    request: { type: "http_request" },
  },
  async run({ steps, $ }) {
    return { choice: this.choice, many: this.many, got: await this.request.execute() };
  },
})
"""
PYTHON = """\
def handler(pd: "pipedream"):
    return [pd.inputs["kiosk"]["$auth"]["api_key"][-4:], pd.inputs["picked"]]
"""
WORKFLOW = """\
schema: workflow/2022.04
name: Add Rows
settings:
  error_notification: true
triggers:
- id: hi_AbCdEfG
steps:
- namespace: add_row
  runtime: nodejs20.x
  uses: kiosk-add-row@0.2.1
  _props_cursor: dyp_Xk2uYz9
  props:
    kiosk:
      authProvisionId: apn_desk123
    sheet:
      __lv:
        label: Guests
        value: '12'
    folder:
      __lv:
        label: My folder
        value: f_1
    tags:
      __lv:
      - label: Red
        value: r
      - label: Blue
        value: b
    hasHeaders: true
    col_0000: "{{steps.trigger.event.body.name}}"
    col_0001: "{{steps.trigger.event.body.age}}"
- namespace: send
  runtime: nodejs20.x
  uses: kiosk-send@0.0.3
  props:
    kiosk:
      authProvisionId: apn_desk123
    httpRequest:
      auth:
        type: bearer
        token: "{{process.env.DESK_TOKEN}}"
      body:
        type: fields
        contentType: application/json
        fields:
        - name: sheet
          value: "{{steps.add_row.$return_value.sheet}}"
        - name: cells
          value: "{{steps.add_row.$return_value.cells}}"
      headers:
      - name: x-name
        value: row of {{steps.trigger.event.body.name}}
      - name: x-off
        value: 'no'
        disabled: true
      params:
      - name: age
        value: "{{steps.trigger.event.body.age}}"
      tab: body
      method: POST
      url: https://api.kiosk.example/rows
- namespace: code
  runtime: nodejs20.x
  uses: "./code/entry.js"
  props:
    choice:
      __lv:
        label: First
        value: one
    many:
    - __lv:
        label: A
        value: a
    - b
    request:
      method: GET
      url: https://api.kiosk.example/{{steps.send.$return_value.got.id}}
      tab: params
- namespace: check
  runtime: python3.12
  uses: "./check/entry.py"
  props:
    __configurableProps:
    - app: kiosk
      name: kiosk
      type: app
    kiosk:
      authProvisionId: apn_desk123
    picked:
      __lv:
        label: Seven
        value: 7

"""


@pytest.fixture
def kiosk() -> Iterator[Kiosk]:
    """The API of the app."""
    with open_kiosk() as server:
        yield server


@pytest.fixture
def synced(pdkernel: Shell, kiosk: Kiosk) -> Path:
    """The folder, beside a checkout with its actions, in a project with its account and variable."""
    components = pdkernel.folder / "components" / "kiosk"
    files = {
        components / "kiosk.app.mjs": APP,
        components / "actions/add-row/add-row.mjs": ADD_ROW,
        components / "actions/send/send.mjs": SEND,
        pdkernel.folder
        / FOLDER
        / ".workflow.state": "# DO NOT EDIT THIS FILE\n---\nschema: workflow.state/2022.04\nid: p_Ab12Cd3\n",
        pdkernel.folder / FOLDER / "workflow.yaml": WORKFLOW,
        pdkernel.folder / FOLDER / "code/entry.js": CODE,
        pdkernel.folder / FOLDER / "check/entry.py": PYTHON,
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert pdkernel("project", "set", "actions", ".").status == 0
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "kiosk", "--credential", "api_key=-", stdin=KEY)
    pdkernel("env", "set", "DESK_TOKEN", stdin="kiosk-token-90ab12")
    return pdkernel.folder / FOLDER


def test_a_synced_folder_runs(pdkernel: Shell, synced: Path, kiosk: Kiosk) -> None:
    """Picked options are their values (with labels if the prop requires them); added props and requests are evaluated."""
    body = json.dumps({"name": "Ada", "age": 36})

    ran = pdkernel(
        "run", FOLDER, "--body", body, "--external-user", "ada", "--egress", f"stand-in={kiosk.url}", "--json"
    )

    assert ran.status == 0, ran.stdout + ran.stderr
    returned = {step["name"]: step["exports"].get("$return_value") for step in ran.json["steps"]}
    assert returned == {
        "add_row": {
            "sheet": "12",
            "folder": {"label": "My folder", "value": "f_1"},
            "tags": ["r", "b"],
            "cells": {"col_0000": "Ada", "col_0001": 36},
        },
        "send": {"method": "POST", "got": {"id": "hook_1"}},
        "code": {"choice": {"label": "First", "value": "one"}, "many": ["a", "b"], "got": {"id": "hook_1"}},
        "check": [KEY[-4:], 7],
    }
    assert kiosk.asked == [
        ("POST", "/rows?age=36", {"sheet": "12", "cells": {"col_0000": "Ada", "col_0001": 36}}),
        ("GET", "/hook_1", None),
    ]
    assert kiosk.keys == {"Bearer kiosk-token-90ab12", None}


def test_an_edited_value_has_no_old_label(pdkernel: Shell, synced: Path) -> None:
    """An unchanged file is written unchanged; an edited value is written and passed to the step without the old label."""
    workflow = read_folder_workflow(synced, assumed_account="own")
    code = workflow.steps[2]
    edited = replace(code, props={**code.props, "choice": "two"})

    same = plan_files(workflow)[0]
    other = plan_files(replace(workflow, steps=(*workflow.steps[:2], edited, workflow.steps[3])))[0]

    assert same.text == WORKFLOW
    assert "label: First" in same.text
    assert "    choice: two\n" in other.text
    assert list(code.picked_options) == ["choice", "many"]
    assert list(edited.picked_options) == ["many"]
