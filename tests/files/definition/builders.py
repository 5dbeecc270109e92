"""Workflows and folders for tests of definitions."""

from __future__ import annotations

from pathlib import Path

from pdkernel.files.definition import DefinitionFile
from pdkernel.files.definition.workflow_document import WorkflowDocument
from pdkernel.language.directive import parse_yaml
from pdkernel.model import AppBinding, Step, Trigger, Workflow

PYTHON = 'def handler(pd):\n    return {"text": "hi"}'
GO = (
    'package main\n\nimport "github.com/PipedreamHQ/pipedream-go"\n\n'
    'func main() {\n\tpd.Respond(200, nil, pd.Accounts["slack"]["oauth_access_token"])\n}\n'
)
NODE = 'export default defineComponent({\n  props: { slack: { type: "app", app: "slack" } },\n  async run({ steps }) {}\n})'


def quickstart() -> Workflow:
    """A small workflow with the four steps of the quickstart."""
    return Workflow(
        "Open issue to Slack",
        triggers=(Trigger(auth="oauth", response="custom"),),
        settings={"lambda_timeout": 40},
        steps=(
            Step("check", source=PYTHON),
            Step("build", "node", "export default {}"),
            Step("count", "bash", "echo n=1 >> $PIPEDREAM_EXPORTS\necho $LIMIT"),
            Step("send", "node", NODE, apps=(AppBinding("slack", "slack"),), notes="Says it"),
        ),
    )


def text_of(files: tuple[DefinitionFile, ...], path: str) -> str:
    """The text of the planned file *path*."""
    return next(file.text for file in files if file.path == path)


def synced(folder: Path, workflow_yaml: str, **files: str) -> Path:
    """A synced folder; keys of *files* have `__` for a slash and `_DOT_` for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workflow.yaml").write_text(workflow_yaml)
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def document_of(workflow_yaml: str, folder: Path = Path("flow-p_1"), **attributes: str) -> WorkflowDocument:
    """The document with the text *workflow_yaml*; *attributes* are `id` and `byte_order_mark`."""
    located = parse_yaml(workflow_yaml, allow_expressions=False, as_psych=True)
    return WorkflowDocument(folder, workflow_yaml, located=located, **{"byte_order_mark": "", **attributes})
