"""The look-up of actions in several sources: their order, the lock file, and the messages; packages come from a local registry."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import ActionReference, Catalog
from pdkernel.actions.connect_source import resolve_connect_login
from pdkernel.actions.npm_source import LOCK_NAME, ActionsLock
from pdkernel.actions.source_lookup import FolderSource
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ActionNotFoundError, ActionVersionError, LicenceError
from pdkernel.storage import Project
from tests.actions.checkout import write_app, write_checkout
from tests.actions.connect_server import connect_api
from tests.actions.registry_server import HeldPackages, PackageServer, archive, depot, serving
from tests.actions.test_builtin import action
from tests.actions.test_catalog import npm_environ
from tests.builders import a_workflow, an_event

PACKAGE = "@pipedream/depot"
PUT = ActionReference("depot-put-thing", "0.1.2")
FILL = ActionReference("depot-fill-form", "0.0.1")
WEIGH = "@acme/weigh_thing@0.0.3"
PRIVATE = """
export default {
  key: "weigh_thing",
  name: "Weigh a Thing",
  version: "0.0.3",
  type: "action",
  props: { thing: { type: "string" } },
  async run() {
    return { grams: this.thing.length };
  },
};
"""
OpenCatalog = Callable[..., Catalog]


@pytest.fixture
def registry() -> Iterator[PackageServer]:
    """A registry with one version of the package."""
    with serving({PACKAGE: {"0.10.0": archive(PACKAGE, "0.10.0", depot("0.1.2"))}}) as server:
        yield server


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder of components with a private action only."""
    module = tmp_path / "private" / "components" / "acme" / "actions" / "weigh_thing" / "weigh_thing.mjs"
    module.parent.mkdir(parents=True)
    module.write_text(PRIVATE)
    return tmp_path / "private"


@pytest.fixture
def packages(tmp_path: Path) -> HeldPackages:
    """The packages on npm, in memory."""
    return HeldPackages(tmp_path / "installed", ["0.1.2"])


@pytest.fixture
def open_catalog(project: Project, packages: HeldPackages, private: Path, tmp_path: Path) -> OpenCatalog:
    """Opens the catalogue of a project with the given sources, in this order."""

    def opened(*sources: str, licence: bool = True, environ: Mapping[str, str] | None = None) -> Catalog:
        catalog = Catalog(
            project.settings,
            tmp_path / "components",
            lock=ActionsLock(tmp_path / LOCK_NAME),
            packages=packages,
            login=lambda: resolve_connect_login(project, environ or {}),
        )
        if licence:
            catalog.settings.accept_licence()
        return catalog.with_sources(sources, base=tmp_path)

    return opened


def locked_sources(project: Project) -> object:
    """The sources in the project's lock file."""
    path = project.folder.parent / LOCK_NAME
    return json.loads(path.read_text()).get("sources") if path.exists() else None


async def test_one_workflow_combines_private_and_public_actions(
    project: Project,
    directory: LocalDirectory,
    registry: PackageServer,
    private: Path,
    tmp_path: Path,
    connect: Callable[..., str],
) -> None:
    """A run executes a private action of a folder and a public action of npm; the lock file names the source of each."""
    connect("ada", app="depot", credentials={"api_key": "key-0123456789"})
    environ = npm_environ(tmp_path, registry.url)
    workflow = a_workflow(
        action(WEIGH, "thing: box\n", name="weigh"),
        action(str(PUT), "shelf: s1\nthing: '{{ steps.weigh.$return_value.grams }}'\n", name="put"),
    )
    async with await WorkflowEngine.start(project, directory, environ=environ) as engine:
        engine.catalog.settings.accept_licence()
        execution = await engine.run(
            RunRequest(
                workflow,
                an_event(),
                parse_policy("deny"),
                external_user_id="ada",
                folder=tmp_path,
                action_sources=("private", "npm"),
            )
        )

    assert execution.status == "success", execution.error
    assert [step.source for step in execution.steps] == ["folder components/acme", f"npm {PACKAGE} 0.10.0"]
    put = execution.step("put").return_value
    assert isinstance(put, dict)
    assert put["thing"] == 3
    assert locked_sources(project) == {WEIGH: "./private", str(PUT): "npm"}


@pytest.mark.parametrize(
    ("order", "source"),
    [(("checkout", "npm"), "folder components/depot"), (("npm", "checkout"), f"npm {PACKAGE} 1.0.0")],
)
async def test_the_first_source_with_the_action_wins(
    open_catalog: OpenCatalog, tmp_path: Path, order: tuple[str, ...], source: str
) -> None:
    """Of two sources with the same action and version, the first one is used."""
    write_checkout(tmp_path / "checkout")

    found = await open_catalog(*order).resolve_or_install(PUT)

    assert found.source == source


async def test_the_locked_source_comes_first(open_catalog: OpenCatalog, project: Project, tmp_path: Path) -> None:
    """An action keeps its locked source if the order changes, and gets another one if that source is removed."""
    write_checkout(tmp_path / "checkout")
    await open_catalog("checkout", "npm").resolve_or_install(PUT)

    reversed_order = await open_catalog("npm", "checkout").resolve_or_install(PUT)
    without = await open_catalog("npm", "private").resolve_or_install(PUT)

    assert reversed_order.source == "folder components/depot"
    assert without.source == f"npm {PACKAGE} 1.0.0"
    assert locked_sources(project) == {str(PUT): "npm"}


async def test_a_run_keeps_the_source_with_which_it_began(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """A component is restored from its own source, although the lock file names another one by now."""
    for name in ("checkout", "other"):
        write_checkout(tmp_path / name)
    catalog = open_catalog("checkout", "other")
    began = await catalog.resolve_or_install(PUT)
    locked = catalog.describe_lock(began)
    catalog.lock.lock_source(str(PUT), "./other")

    restored = await catalog.restore(locked)
    anew = await catalog.resolve_or_install(PUT)

    files = [each.file.path.relative_to(tmp_path).parts[0] for each in (began, restored, anew) if each.file is not None]
    assert (locked.source, files) == ("./checkout", ["checkout", "checkout", "other"])


async def test_a_locked_folder_is_used_without_the_registry(
    open_catalog: OpenCatalog, packages: HeldPackages, tmp_path: Path
) -> None:
    """An action that only the second source has is searched on npm once."""
    write_checkout(tmp_path / "checkout")
    module = tmp_path / "checkout/components/depot/actions/only/only.mjs"
    module.parent.mkdir()
    module.write_text(PRIVATE.replace("weigh_thing", "depot-only"))
    only = ActionReference("depot-only", "0.0.3")

    await open_catalog("npm", "checkout").resolve_or_install(only)
    downloads = list(packages.downloads)
    found = await open_catalog("npm", "checkout").resolve_or_install(only)

    assert downloads == ["1.0.0"]
    assert packages.downloads == downloads
    assert found.source == "folder components/depot"


async def test_one_source_is_in_the_lock_of_a_run_only(open_catalog: OpenCatalog, project: Project) -> None:
    """With one source, the lock file has no sources; the lock of a run names it, because there may be others when the run goes on."""
    catalog = open_catalog("private")

    found = await catalog.resolve_or_install(ActionReference.parse(WEIGH))

    assert locked_sources(project) is None
    assert catalog.describe_lock(found).source == "./private"


async def test_a_run_goes_on_with_its_source(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """A component is restored from the source that the run's lock names, whatever comes first now."""
    write_checkout(tmp_path / "first")
    write_checkout(tmp_path / "second")
    catalog = open_catalog("second", "first")
    locked = catalog.describe_lock(await catalog.resolve_or_install(PUT))
    (tmp_path / LOCK_NAME).unlink()

    found = await open_catalog("first", "second").restore(locked)

    assert locked.source == "./second"
    assert found.file is not None
    assert found.file.path.is_relative_to(tmp_path / "second")


async def test_a_run_goes_on_with_an_action_without_version(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """The record of a restored component says, like the first one, that the step names no version."""
    write_checkout(tmp_path / "first")
    catalog = open_catalog("first")
    unversioned = ActionReference("depot-put-thing", None)
    began = catalog.lock_version(unversioned, await catalog.resolve_or_install(unversioned))

    found = await open_catalog("first").restore(catalog.describe_lock(began))

    assert "because the step names none" in began.source_summary
    assert found.source_summary == began.source_summary


async def test_a_run_does_not_go_on_with_npm(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """A component of a folder that is gone is not restored from npm, although npm has an action of that key and version."""
    write_checkout(tmp_path / "first")
    catalog = open_catalog("first", "npm")
    locked = catalog.describe_lock(await catalog.resolve_or_install(PUT))
    assert (await open_catalog("npm").resolve_or_install(PUT)).file is not None
    shutil.rmtree(tmp_path / "first/components/depot/actions/put-thing")

    with pytest.raises(ActionNotFoundError):
        await open_catalog("first", "npm").restore(locked)


async def test_a_built_in_action_is_not_locked(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """A step without a version locks the version of an action of a folder, but not of a built-in action."""
    write_checkout(tmp_path / "first")
    catalog, versions = open_catalog("first"), []
    for reference in (ActionReference("http-custom-request", None), ActionReference(PUT.key, None)):
        found = catalog.lock_version(reference, await catalog.resolve_or_install(reference))
        versions.append((found.requested_version, dict(catalog.lock.version_overrides)))

    assert versions == [("", {}), ("", {PUT.key: PUT.version})]


async def test_a_missing_action_names_all_sources(open_catalog: OpenCatalog) -> None:
    """The message names the sources in the order in which they were tried, and why each does not have the action."""
    with pytest.raises(ActionNotFoundError) as caught:
        await open_catalog("private", "npm").resolve_or_install(ActionReference("depot-absent", "0.0.1"))

    message = caught.value.message
    assert "Sources that were tried, in this order: the folder private, npm." in message
    assert f"{PACKAGE} on npm has no component depot-absent." in message


@pytest.mark.parametrize("uses", ["@acme/absent@0.0.1", "depot-put-thing@7.0.0"])
async def test_the_message_of_a_private_action_or_another_version(open_catalog: OpenCatalog, uses: str) -> None:
    """A missing private action, and a missing version, name all sources too."""
    with pytest.raises(ActionNotFoundError) as caught:
        await open_catalog("private", "npm").resolve_or_install(ActionReference.parse(uses))

    assert "in this order: the folder private, npm." in caught.value.message
    assert caught.value.fix


async def test_another_version_in_the_folder_does_not_hide_npm(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """If the first source has only another version, the next source is used; without a next one, the message names the version."""
    write_checkout(tmp_path / "checkout", version="0.2.0")

    found = await open_catalog("checkout", "npm").resolve_or_install(PUT)
    with pytest.raises(ActionVersionError) as caught:
        open_catalog("checkout", "private").resolve(PUT.key, PUT.version)

    assert found.source == f"npm {PACKAGE} 1.0.0"
    assert "has version 0.2.0" in caught.value.message
    assert "in this order: the folder checkout, the folder private." in caught.value.message


async def test_without_the_licence_the_folder_is_still_used(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """The licence of npm is required only for an action that no other source has."""
    write_checkout(tmp_path / "checkout")
    catalog = open_catalog("npm", "checkout", licence=False)

    found = await catalog.resolve_or_install(PUT)
    with pytest.raises(LicenceError) as caught:
        await catalog.resolve_or_install(ActionReference("slack-send-message", "0.0.1"))

    assert found.source == "folder components/depot"
    assert "is not in the folder checkout; npm may have it" in caught.value.message


async def test_a_private_action_needs_no_licence(open_catalog: OpenCatalog) -> None:
    """A private action is never on npm, so its absence has nothing to do with the licence."""
    catalog = open_catalog("npm", "private", licence=False)
    absent = ActionReference.parse("@acme/absent@0.0.1")

    with pytest.raises(ActionNotFoundError, match="absent"):
        catalog.resolve(absent.key, absent.version)
    with pytest.raises(ActionNotFoundError, match="absent"):
        await catalog.resolve_or_install(absent)

    assert (await catalog.resolve_or_install(ActionReference.parse(WEIGH))).uses == WEIGH
    with_licence = open_catalog("npm")
    assert [list(map(str, with_licence.find_remote_sources(each))) for each in (absent, PUT)] == [[], ["npm"]]


async def test_no_install_uses_what_is_on_this_machine(
    project: Project, registry: PackageServer, private: Path, tmp_path: Path
) -> None:
    """`--no-install` skips npm if another source has the action, and names the command if none has."""
    write_checkout(tmp_path / "checkout")
    catalog = Catalog.for_project(project, environ=npm_environ(tmp_path, registry.url))
    catalog.settings.accept_licence()

    found = await catalog.with_sources(["npm", "checkout"], base=tmp_path).resolve_or_install(PUT, install=False)
    with pytest.raises(ActionNotFoundError) as caught:
        await catalog.with_sources(["npm", "private"], base=tmp_path).resolve_or_install(FILL, install=False)

    assert found.source == "folder components/depot"
    assert "pdkernel actions add depot-fill-form@0.0.1" in caught.value.fix
    assert registry.asked == []


async def test_pipedream_after_a_folder(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """An action that the folder does not have runs at Pipedream; a search lists the component of the first source."""
    with connect_api() as api:
        write_app(tmp_path / "own" / "hangar")
        module = tmp_path / "own/hangar/actions/open-door/open-door.mjs"
        module.parent.mkdir()
        module.write_text(PRIVATE.replace("weigh_thing", "hangar-open-door"))
        catalog = open_catalog("own", "connect", environ=api.environ)

        own = await catalog.resolve_or_install(ActionReference("hangar-open-door", "0.0.3"))
        remote = await catalog.resolve_or_install(ActionReference("hangar-open-door", "1.2.3"))
        found = await catalog.search("door", app="hangar")
        listed = {each.key: each.version for each in found}
        other_order = open_catalog("connect", "own", environ=api.environ)
        remote_first = {each.key: each.version for each in await other_order.search("door", app="hangar")}

    assert own.file is not None
    assert remote.file is None
    assert len(found) == len(listed)
    assert listed["hangar-open-door"] == "0.0.3"
    assert "hangar-close-door" in listed
    assert remote_first["hangar-open-door"] == "1.2.3"


@pytest.mark.parametrize(("limit", "keys"), [(1, ["hangar-lock-door"]), (2, ["hangar-lock-door", "hangar-open-door"])])
async def test_a_limited_search_counts_the_actions_of_all_sources(
    open_catalog: OpenCatalog, tmp_path: Path, limit: int, keys: list[str]
) -> None:
    """A search with a limit finds no more actions than that, from the folder and from Pipedream together."""
    write_app(tmp_path / "own" / "hangar")
    module = tmp_path / "own/hangar/actions/lock-door/lock-door.mjs"
    module.parent.mkdir()
    module.write_text(PRIVATE.replace("weigh_thing", "hangar-lock-door"))
    with connect_api() as api:
        found = await open_catalog("own", "connect", environ=api.environ).search("door", app="hangar", limit=limit)

    assert [each.key for each in found] == keys


def test_sources_that_may_have_an_action(open_catalog: OpenCatalog) -> None:
    """A public action may come from npm or Pipedream; no source has a private or a built-in action besides its folder."""
    catalog = open_catalog("private", "npm", "connect")
    remote = [
        [each.source for each in catalog.find_remote_sources(ActionReference.parse(uses))]
        for uses in (str(PUT), WEIGH, "filter-continue-based-on-condition@7.0.0")
    ]

    assert remote == [["npm", "connect"], [], []]


async def test_a_switch_of_the_source_leaves_no_version_locked(open_catalog: OpenCatalog, tmp_path: Path) -> None:
    """A step without a version runs the new source's version, and not the one that the lock file has of the source before."""
    write_checkout(tmp_path / "first", version="9.9.9")
    unversioned = ActionReference("depot-put-thing", None)
    before = open_catalog("first")
    locked = before.lock_version(unversioned, await before.resolve_or_install(unversioned))

    found = await open_catalog("npm").resolve_or_install(unversioned)
    again = await open_catalog("first").resolve_or_install(unversioned)

    assert (locked.version, found.version, again.version) == ("9.9.9", "0.1.2", "9.9.9")


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


def test_an_index_is_kept_for_the_next_process(tmp_path: Path) -> None:
    """A kept index is read again where an app, a component or a module is new, changed or gone; the rest is not read."""
    (tmp_path / "project/packages/components").mkdir(parents=True)
    cache = tmp_path / "project/packages/components/folders"
    same, changed, gone = (write(tmp_path, f"{app}/actions/go/go.mjs", f"{app}-go") for app in ("a", "b", "c"))
    for folder in (tmp_path / "components").rglob("*"):
        if folder.is_dir():
            os.utime(folder, (1, 1))  # a folder that has just changed is always read
    assert FolderSource(tmp_path, cache).list_keys() == {"a-go": "a", "b-go": "b", "c-go": "c"}
    mark = same.stat()

    same.write_text(same.read_text().replace("a-go", "x-go"))
    os.utime(same, ns=(mark.st_atime_ns, mark.st_mtime_ns))
    changed.write_text(changed.read_text().replace("b-go", "b-went"))
    gone.unlink()
    write(tmp_path, "b/sources/new/new.ts", "b-new")
    write(tmp_path, "d/actions/go/go.mjs", "d-go")

    assert FolderSource(tmp_path, cache).list_keys() == {"a-go": "a", "b-went": "b", "b-new": "b", "d-go": "d"}


def test_an_index_that_cannot_be_kept(tmp_path: Path) -> None:
    """Without a project, no folder is made; a damaged index is made again."""
    write(tmp_path, "one/actions/go/go.mjs", "one-go")
    cache = tmp_path / "project/packages/components/folders"
    FolderSource(tmp_path, cache).list_keys()
    assert not (tmp_path / "project").exists()

    (tmp_path / "project").mkdir()
    FolderSource(tmp_path, cache).list_keys()
    (file,) = cache.iterdir()
    file.write_text("{")

    assert FolderSource(tmp_path, cache).list_keys() == {"one-go": "one"}


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
