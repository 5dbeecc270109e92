"""The measure of the sweep: a component is started if V8 has counted a call of its `run`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.sweep.apps import APPS
from tests.sweep.sweep import Row, entry_points, sweep_package

ENTERED = 'export default { key: "desk-a", version: "1", type: "action", props: {}, async run({ $ }) { return 1 } }'
FAILS = 'export default { key: "desk-b", version: "1", type: "action", run() { throw new Error("at once") } }'
STUCK = 'export default { key: "desk-c", version: "1", type: "action", async run() { await new Promise(() => setInterval(() => {}, 9)) } }'
NEVER = (
    'const other = { run() {} }; other.run();\nexport default { key: "desk-d", version: "1", type: "action", '
    'get props() { return { timer: "$.interface.timer" } }, async run() { return "not reached" } }'
)
BROKEN = 'import "not-there";\nexport default { key: "desk-e", version: "1", type: "action", run() {} }'


async def test_entered_components_are_counted_by_v8(tmp_path: Path) -> None:
    """Runs that end, fail or hang are entered; a run that is refused for an unsupported feature is not."""
    package = tmp_path / "node_modules" / "@sample" / "desk"
    for name, text in {"a": ENTERED, "b": FAILS, "c": STUCK, "d": NEVER, "e": BROKEN}.items():
        folder = package / "actions" / name
        folder.mkdir(parents=True)
        folder.joinpath(f"{name}.mjs").write_text(text)
    package.joinpath("package.json").write_text(json.dumps({"name": "@sample/desk"}))

    row = await sweep_package(Row("desk"), package, tmp_path, step_s=2.5)

    assert (row.importable, row.described, row.entered) == (4, 4, 3)
    assert len(row.lacking) == 1
    assert row.lacking[0].startswith("desk-d: A prop of type $.interface.timer")
    assert row.trouble[0].startswith("desk-d was not entered")


def test_shared_modules_are_not_components(tmp_path: Path) -> None:
    """A module without a key is left out, and a module that cannot be imported is listed with its error."""
    for name, text in {"common": "export default {}", "e": BROKEN}.items():
        folder = tmp_path / "actions" / name
        folder.mkdir(parents=True)
        folder.joinpath(f"{name}.mjs").write_text(text)

    found = entry_points(tmp_path)

    assert len(found) == 1
    assert "not-there" in found[0]["error"]


def test_the_number_of_apps_and_components() -> None:
    """The sweep has 370 actions and 137 sources of 26 apps."""
    assert len(APPS) == 26
    assert (sum(app.actions for app in APPS.values()), sum(app.sources for app in APPS.values())) == (370, 137)
