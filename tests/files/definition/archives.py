"""Archives of exported workflows, built from the documented words: no real archive is public."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CODE = "export default defineComponent({\n  async run({ steps, $ }) {\n    return steps.trigger.event;\n  },\n});\n"
PYTHON = 'def handler(pd: "pipedream"):\n    return {"n": 1}\n'
HTTP = {"id": "hi_1", "key": "eo1", "endpoint_url": "https://eo1.m.pipedream.net", "custom_response": False}


def step(name: str, code: str | None = CODE, *, props: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A step as the REST API has it, with its code in `savedComponent`."""
    component = {
        "id": f"sc_{name}",
        "configurableProps": [],
        "version": "",
        **({"code": code} if code is not None else {}),
    }
    return {
        "id": f"c_{name}",
        "type": "CodeCell",
        "namespace": name,
        "disabled": False,
        "lang": "nodejs20.x",
        "appConnections": [],
        "component": True,
        "savedComponent": component,
        "component_key": None,
        "component_owner_id": "o_1",
        "configured_props_json": json.dumps(props or {}),
        **more,
    }


def action(name: str, key: str, version: str, *, props: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A step that uses a pre-built action."""
    component = {"id": "sc_1", "key": key, "version": version, "configurableProps": []}
    return {**step(name, None, props=props), "component_key": key, "savedComponent": component}


def workflow(name: str, steps: Sequence[Any], *, workflow_id: str | None = None, **more: Any) -> dict[str, Any]:
    """The JSON of a workflow with an HTTP trigger."""
    return {
        **({"id": workflow_id} if workflow_id is not None else {}),
        "name": name,
        "triggers": [HTTP],
        "steps": list(steps),
        **more,
    }


def manifest(*workflows: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The documented fields of `manifest.json`."""
    return {
        "schema": "project-export/2026.01",
        "workflows": list(workflows),
        "truncated": False,
        "truncated_reason": None,
        "limits": {"workflows": 500, "bytes": 268435456},
        "warnings": [],
        **more,
    }


def pack(path: Path, files: Mapping[str, Any], **listed: Any) -> Path:
    """Write an archive of *files*: JSON, or bytes as they are; *listed* is its manifest, if it has one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in {**files, **({"manifest.json": listed["listed"]} if "listed" in listed else {})}.items():
            packed.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return path
