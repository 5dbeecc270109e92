"""Components in a folder: which apps and keys it has, and how a component is found among thousands of apps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.actions.folder_source import FolderSource
from tests.actions.checkout import write_checkout


def write(
    folder: Path, place: str, key: str, *, layout: str = 'export default {{ key: "{key}", version: "0.0.1" }};\n'
) -> Path:
    """Write a component with *key* at *place* of the checkout."""
    path = folder / "components" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(layout.format(key=key))
    return path


def test_apps_by_kind(tmp_path: Path) -> None:
    """An app is listed for the kinds of which it has a folder; other folders and files are not apps."""
    write(tmp_path, "one/actions/go/go.mjs", "one-go")
    write(tmp_path, "two/sources/wait/wait.ts", "two-wait")
    write(tmp_path, "three/common/x.mjs", "none")
    (tmp_path / "components" / "README.md").touch()
    source = FolderSource(tmp_path)

    assert (source.list_apps(), source.list_apps("action"), source.list_apps("source")) == (
        ["one", "two"],
        ["one"],
        ["two"],
    )


@pytest.mark.parametrize(
    "layout",
    [
        'export default {{ key: "{key}", version: "0.0.1" }};\n',
        "import x from 'y';\n\nexport default defineComponent({{\n  name: 'A',\n  key: '{key}',\n  version: `0.0.1`,\n}});\n",
        "export default {{\n  'key': '{key}', version: '0.0.1',\n}};\n",
    ],
)
@pytest.mark.parametrize("key", ["weigh_thing", "@acme/weigh_thing"])
def test_private_component_of_any_app(tmp_path: Path, layout: str, key: str) -> None:
    """A private component is found in the folder of any app, by its key with or without the workspace."""
    write_checkout(tmp_path)
    write(tmp_path, "scale/actions/weigh_thing/weigh_thing.mjs", key, layout=layout)

    found = FolderSource(tmp_path).find_component("@acme/weigh_thing")

    assert found is not None
    assert (found.key, found.version, found.app) == ("@acme/weigh_thing", "0.0.1", "scale")


def test_unchanged_modules_are_not_read_again(tmp_path: Path) -> None:
    """A lookup among all apps reads only modules that have changed since the last one."""
    same = write(tmp_path, "one/actions/go/go.mjs", "one-go")
    other = write(tmp_path, "two/actions/go/go.mjs", "two-go")
    source = FolderSource(tmp_path)
    source.list_keys()
    mark = same.stat()

    same.write_text(same.read_text().replace("one-go", "new-go"))
    os.utime(same, ns=(mark.st_atime_ns, mark.st_mtime_ns))
    other.write_text(other.read_text().replace("two-go", "two-went"))

    assert source.list_keys() == {"one-go": "one", "two-went": "two"}


def test_links_out_of_an_app_are_not_followed(tmp_path: Path) -> None:
    """A module, a component's folder or a folder of actions is not read if it is a link out of the app's folder."""
    secret = write(tmp_path, "../outside/actions/go/go.mjs", "one-go")
    for app in ("a", "b", "c"):
        (tmp_path / "components" / app / "actions").mkdir(parents=True)
    (tmp_path / "components/a/actions/go").symlink_to(secret.parent)
    (tmp_path / "components/b/actions/go").mkdir()
    (tmp_path / "components/b/actions/go/go.mjs").symlink_to(secret)
    (tmp_path / "components/c/actions").rmdir()
    (tmp_path / "components/c/actions").symlink_to(secret.parents[1])

    assert FolderSource(tmp_path).list_keys() == {}


def test_typescript_header_above_types(tmp_path: Path) -> None:
    """The header of a component is read although its code has types that JavaScript does not have."""
    write(
        tmp_path,
        "one/actions/go/go.ts",
        "one-go",
        layout="export default defineAction({{\n  key: '{key}',\n  version: '0.0.1',\n  name: 'Go',\n  type: 'action',\n"
        "  props: {{}},\n  methods: {{\n    f(): string | RegExp {{ return <any>this as unknown[]; }},\n  }},\n"
        "  async run({{ $ }}): Promise<void> {{}},\n}});\n",
    )

    assert [each.name for each in FolderSource(tmp_path).load_components("one").values()] == ["Go"]
