"""Facts about Node.js steps."""

from __future__ import annotations

from pathlib import Path

from pdkernel.files.source import WorkflowSource
from tests.builders import a_workflow, python_step
from tests.checklist.conftest import Check
from tests.npm_registry import NpmRegistry


async def test_define_component_is_a_global(check: Check) -> None:
    """`defineComponent` needs no import and returns its argument; a plain object is a component too."""
    await check("define-component", "node")


async def test_the_methods_of_dollar(check: Check) -> None:
    """`$` has export, respond, send, flow and files; flow has trigger besides the six methods of the published types."""
    await check("dollar", "node")


async def test_an_import_names_the_version(check: Check, npm: NpmRegistry) -> None:
    """`pkg@1.0.0`, `pkg@~1.1.0`, `pkg@^1.0.0`; without a version the latest; steps may use different versions."""
    for version in ("1.0.0", "1.1.3", "1.4.0", "2.0.0"):
        npm.publish("tiny", version)
    await check("pinned-imports", "node")


async def test_import_or_require(check: Check) -> None:
    """A step that mixes `import` and `require` fails with `require is not defined`."""
    await check("import-or-require", "node")


async def test_code_that_is_not_awaited(check: Check) -> None:
    """Code that is not awaited is stopped, with the message "Code was still running when the step ended"."""
    await check("not-awaited", "node")


async def test_a_configuration_error(check: Check, npm: NpmRegistry) -> None:
    """`ConfigurationError` of `@pipedream/platform` keeps its name."""
    source = (
        "export class ConfigurationError extends Error {\n"
        "  constructor(message) { super(message); this.name = 'ConfigurationError'; }\n}\n"
    )
    npm.publish("@pipedream/platform", "3.0.0", {"index.mjs": source}, exports="./index.mjs")
    await check("configuration-error", "node")


async def test_another_workflow_is_called(check: Check, tmp_path: Path) -> None:
    """`$.flow.trigger` returns the other workflow's result, or with `all_exports` its steps' exports and a null `$context`."""
    double = python_step("double", 'pd.export("named", 1)\nreturn pd.steps["trigger"]["event"]["n"] * 2')
    other = WorkflowSource(tmp_path / "other.ipynb", "notebook", a_workflow(double, name="Other"))
    await check("trigger-workflow", "node", find_workflow=lambda name, _: {"p_other01": other}.get(name))
