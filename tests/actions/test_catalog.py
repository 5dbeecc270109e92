"""The catalogue of actions: sources, versions, licence; packages come from a local registry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.actions import ActionReference, Catalog, suggest_step_name
from pdkernel.actions.catalog import AppCredentials, find_credential_reads, order_form_fields
from pdkernel.actions.component import parse_header
from pdkernel.actions.npm_source import LOCK_NAME, ActionsLock, NpmSource
from pdkernel.actions.source_lookup import load_builtin_actions
from pdkernel.actions.source_settings import ActionSettings, EmptySettings
from pdkernel.errors import (
    ActionNotFoundError,
    ActionSourceError,
    ActionVersionError,
    LicenceError,
    RequestError,
)
from pdkernel.storage import Login, Project
from tests.actions.checkout import write_checkout
from tests.actions.registry_server import HeldPackages, PackageServer, archive, depot, serving

PACKAGE = "@pipedream/depot"
VERSIONS = {"0.1.0": "0.0.9", "0.9.0": "0.1.1", "0.10.0": "0.1.2"}
"""Versions of the package, each with the version of its action."""


@pytest.fixture
def registry() -> Iterator[PackageServer]:
    """A registry with three versions of the package."""
    packed = {package: archive(PACKAGE, package, depot(action)) for package, action in VERSIONS.items()}
    with serving({PACKAGE: packed}) as server:
        yield server


def npm_environ(tmp_path: Path, url: str) -> dict[str, str]:
    """An environment whose npm uses the registry at *url*."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "npm_config_registry": url}


@pytest.fixture
def catalog(project: Project, registry: PackageServer, tmp_path: Path) -> Catalog:
    """The catalogue of a project with npm as the source of actions."""
    made = Catalog.for_project(project, environ=npm_environ(tmp_path, registry.url))
    made.settings.accept_licence()
    made.settings.set_sources(["npm"], base=tmp_path)
    return made


@pytest.fixture
def held(project: Project, tmp_path: Path) -> Catalog:
    """The same catalogue with a registry in memory, whose package has the versions 1.0.0, 1.1.0 and 1.2.0."""
    packages = HeldPackages(tmp_path / "installed", list(VERSIONS.values()))
    lock = ActionsLock(tmp_path / LOCK_NAME)
    made = Catalog(project.settings, tmp_path / "components", lock=lock, packages=packages, login=project_login)
    made.settings.accept_licence()
    made.settings.set_sources(["npm"], base=tmp_path)
    return made


def project_login() -> Login:
    """The login of a project at Pipedream."""
    return Login("client-1", "secret-1", "proj_1")


async def test_a_version_of_an_action_is_found_on_npm(catalog: Catalog) -> None:
    """The package version with the requested version of an action is found and installed."""
    component = await catalog.resolve_or_install(ActionReference("depot-put-thing", "0.0.9"))

    assert component.source == f"npm {PACKAGE} 0.1.0"
    assert component.file is not None
    assert component.file.path.is_file()


@pytest.mark.parametrize("version", [None, "0.1.2"])
async def test_the_newest_version_of_an_action(held: Catalog, version: str | None) -> None:
    """Without a version, and with that of the newest package, the newest package is installed."""
    component = await held.resolve_or_install(ActionReference("depot-put-thing", version))

    assert component.source == f"npm {PACKAGE} 1.2.0"


async def test_two_versions_side_by_side(held: Catalog) -> None:
    """Two versions of one action are installed beside one another."""
    old = await held.resolve_or_install(ActionReference("depot-put-thing", "0.0.9"))
    new = await held.resolve_or_install(ActionReference("depot-put-thing", "0.1.2"))

    assert (old.version, new.version) == ("0.0.9", "0.1.2")
    assert held.resolve("depot-put-thing", "0.0.9").file == old.file


async def test_a_missing_version_on_npm(held: Catalog) -> None:
    """The message names the versions in the packages, and the command that chooses another version."""
    with pytest.raises(ActionVersionError) as caught:
        await held.resolve_or_install(ActionReference("depot-put-thing", "0.1.7"))

    assert "0.1.2" in caught.value.message
    assert "pdkernel actions add depot-put-thing@0.1.2 --instead-of depot-put-thing@0.1.7" in caught.value.fix


def source_of(tmp_path: Path, *held: str | None, max_downloads: int = 60) -> tuple[NpmSource, HeldPackages]:
    """The source of components of a project whose registry has the versions *held*, and that registry."""
    packages = HeldPackages(tmp_path / "installed", held)
    lock = ActionsLock(tmp_path / LOCK_NAME)
    return NpmSource(tmp_path / "components", packages, lock, max_downloads=max_downloads), packages


@pytest.mark.parametrize(
    ("held", "package"),
    [
        (["0.0.1", "0.0.2", None, None, None, None, None, "0.0.8"], "1.1.0"),
        (["0.0.1", "0.0.2", None, None, None, "0.0.6", "0.0.7", None], "1.1.0"),
        ([None, None, None, "0.0.2", None, None, None, None], "1.3.0"),
        ([None, "0.0.2", "0.0.3", None, "0.0.5", None, None, "0.0.9"], "1.1.0"),
        (["0.0.5", "0.0.1", "0.0.2", "0.0.9", "0.0.3", "0.0.1", "0.0.4", "0.0.1"], "1.2.0"),
    ],
)
async def test_a_version_is_found_at_any_position_in_the_history(
    tmp_path: Path, held: list[str | None], package: str
) -> None:
    """The version is found if the action was removed for a while or for good, or if its versions do not grow."""
    source, _ = source_of(tmp_path, *held)

    component = await source.install_component(ActionReference("depot-put-thing", "0.0.2"), lambda _: None)

    assert component.source == f"npm {PACKAGE} {package}"


async def test_a_missing_version_is_searched_in_every_package(tmp_path: Path) -> None:
    """Each package is downloaded once, with a progress message, and the error names all existing versions."""
    source, packages = source_of(tmp_path, "0.0.1", None, None, "0.0.4", None, "0.0.10")
    messages: list[str] = []

    with pytest.raises(ActionVersionError) as caught:
        await source.install_component(ActionReference("depot-put-thing", "0.0.2"), messages.append)

    assert sorted(packages.downloads) == [f"1.{minor}.0" for minor in range(6)]
    assert "Packages contain depot-put-thing in 0.0.1, 0.0.4, 0.0.10." in caught.value.message
    assert messages[-1] == f"Searching npm for depot-put-thing@0.0.2: {PACKAGE} 1.4.0 (at most 0 left)"


async def test_a_search_is_limited_and_continues_next_time(tmp_path: Path) -> None:
    """The error names the number of searched versions; indexed packages are not downloaded again."""
    source, packages = source_of(tmp_path, None, "0.0.2", *[None] * 4, max_downloads=3)

    with pytest.raises(ActionNotFoundError) as caught:
        await source.install_component(ActionReference("depot-put-thing", "0.0.2"), lambda _: None)
    searched = list(packages.downloads)
    found = await source.install_component(ActionReference("depot-put-thing", "0.0.2"), lambda _: None)

    assert len(searched) == 3
    assert not {*searched} & {*packages.downloads[3:]}
    assert "not in the 3 of 6 searched versions of @pipedream/depot" in caught.value.message
    assert caught.value.fix == "To continue the search, run: pdkernel actions add depot-put-thing@0.0.2"
    assert found.source == f"npm {PACKAGE} 1.1.0"


async def test_a_long_history_is_searched_in_few_steps(tmp_path: Path) -> None:
    """If versions grow, the binary search finds the version."""
    source, packages = source_of(tmp_path, *(f"0.0.{minor}" for minor in range(30)))

    component = await source.install_component(ActionReference("depot-put-thing", "0.0.11"), lambda _: None)

    assert component.source == f"npm {PACKAGE} 1.11.0"
    assert len({*packages.downloads}) <= 6


async def test_a_missing_action_in_a_package(held: Catalog) -> None:
    """The error for a key that is not in the package names similar keys."""
    with pytest.raises(ActionNotFoundError) as caught:
        await held.resolve_or_install(ActionReference("depot-put-things", None))

    assert "depot-put-thing@0.1.2" in caught.value.message


async def test_a_missing_package_on_npm(catalog: Catalog) -> None:
    """The error for an app without a package names the other sources."""
    with pytest.raises(ActionNotFoundError) as caught:
        await catalog.resolve_or_install(ActionReference("hangar-open", "0.0.1"))

    assert "@pipedream/hangar" in caught.value.message
    assert "a folder with the layout of a components checkout" in caught.value.fix


async def test_installed_once(catalog: Catalog, registry: PackageServer) -> None:
    """An installed component is found without a request to the registry."""
    await catalog.resolve_or_install(ActionReference("depot-put-thing", "0.1.2"))
    registry.asked.clear()

    again = await catalog.resolve_or_install(ActionReference("depot-put-thing", "0.1.2"))

    assert again.file is not None
    assert registry.asked == []


async def test_no_install(catalog: Catalog, registry: PackageServer) -> None:
    """If installations are forbidden, the message names the command, and no request is sent."""
    with pytest.raises(ActionNotFoundError) as caught:
        await catalog.resolve_or_install(ActionReference("depot-put-thing", "0.1.2"), install=False)

    assert "pdkernel actions add depot-put-thing@0.1.2" in caught.value.fix
    assert registry.asked == []


async def test_no_network(project: Project, tmp_path: Path) -> None:
    """An unreachable registry has another error than a missing action."""
    catalog = Catalog.for_project(project, environ=npm_environ(tmp_path, "http://127.0.0.1:1/"))
    catalog.settings.accept_licence()
    catalog.settings.set_sources(["npm"], base=tmp_path)

    with pytest.raises(ActionSourceError):
        await catalog.resolve_or_install(ActionReference("depot-put-thing", "0.1.2"))


async def test_search_on_npm(held: Catalog) -> None:
    """A search with an app finds its actions on npm, without its event sources."""
    found = await held.search("thing", app="depot")

    assert [component.uses for component in found] == ["depot-put-thing@0.1.2"]


async def test_search_among_the_built_in(project: Project) -> None:
    """Every word must match; a match in the name comes before a match in the description."""
    found = await Catalog.for_project(project, environ={}).search("record")

    assert all("record" in f"{each.key} {each.name} {each.description}".lower() for each in found)
    assert "data_stores-get-record@0.0.10" in [each.uses for each in found]


def test_npm_requires_its_licence(project: Project, tmp_path: Path) -> None:
    """The source npm is refused until its licence is accepted; the message names the command."""
    with pytest.raises(LicenceError) as caught:
        ActionSettings(project.settings).set_sources(["npm"], base=tmp_path)

    assert "pdkernel project set actions npm --accept-licence" in caught.value.fix


def test_a_folder_without_components(project: Project, tmp_path: Path) -> None:
    """A folder without components is refused."""
    with pytest.raises(RequestError):
        ActionSettings(project.settings).set_sources(["."], base=tmp_path)


def test_a_checkout_or_its_components(project: Project, tmp_path: Path) -> None:
    """The source folder may be a checkout, or its `components` folder."""
    write_checkout(tmp_path / "checkout")
    catalog = Catalog.for_project(project, environ={})
    found = []

    for text in ("checkout", "checkout/components"):
        catalog.settings.set_sources([text], base=tmp_path)
        found.append(catalog.resolve("depot-put-thing", "0.1.2").uses)

    assert found == ["depot-put-thing@0.1.2"] * 2


@pytest.mark.parametrize("kind", ["folder", "fifo", "link outside", "link to itself"])
def test_a_module_that_is_not_a_file_of_the_checkout(project: Project, tmp_path: Path, kind: str) -> None:
    """A module that is not a file, or leads out of the app's folder, is not an action; the others are found."""
    write_checkout(tmp_path / "checkout")
    odd = tmp_path / "checkout/components/depot/actions/odd/odd.mjs"
    odd.parent.mkdir()
    outside = tmp_path / "outside.mjs"
    outside.write_text('export default { key: "depot-odd", name: "Odd", version: "0.1.2", type: "action" };')
    if kind == "folder":
        odd.mkdir()
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to(outside if kind == "link outside" else odd)
    catalog = Catalog.for_project(project, environ={})
    catalog.settings.set_sources(["checkout"], base=tmp_path)

    assert catalog.resolve("depot-put-thing", "0.1.2").uses == "depot-put-thing@0.1.2"
    with pytest.raises(ActionNotFoundError):
        catalog.resolve("depot-odd", "0.1.2")


def test_an_edited_component_is_read_again(project: Project, tmp_path: Path) -> None:
    """A change in a folder of components takes effect at once: an edit, a removal, and an older module that is moved there."""
    write_checkout(tmp_path / "checkout")
    catalog = Catalog.for_project(project, environ={})
    catalog.settings.set_sources(["checkout"], base=tmp_path)
    catalog.resolve("depot-put-thing", "0.1.2")

    changed = (
        write_checkout(tmp_path / "checkout", version="0.1.3") / "components/depot/actions/put-thing/put-thing.mjs"
    )
    os.utime(changed, (2e9, 2e9))

    assert catalog.resolve("depot-put-thing", None).version == "0.1.3"
    moved = changed.parents[1] / "odd" / "odd.mjs"
    moved.parent.mkdir()
    moved.write_text('export default { key: "depot-odd", name: "Odd", version: "0.0.1", type: "action" };')
    os.utime(moved, (1e9, 1e9))
    assert catalog.resolve("depot-odd", None).version == "0.0.1"
    moved.unlink()
    with pytest.raises(ActionNotFoundError):
        catalog.resolve("depot-odd", None)


@pytest.mark.parametrize("version", ["0.0.1", "0.0.99", None])
def test_built_in_versions(project: Project, version: str | None) -> None:
    """A built-in action runs for every version of its major version, and the record names its own version."""
    component = Catalog.for_project(project, environ={}).resolve("filter-continue-based-on-condition", version)

    assert component.version == "0.0.2"
    assert version is None or version in component.source_summary


def test_built_in_other_version(project: Project) -> None:
    """Another major version is refused: its props may differ."""
    with pytest.raises(ActionVersionError):
        Catalog.for_project(project, environ={}).resolve("http-custom-request", "0.2.0")


def test_every_built_in_action_is_complete() -> None:
    """Each built-in component has a name and a description, and its key is the name of its file."""
    own = load_builtin_actions()

    assert len(own) == 25
    for key, component in own.items():
        assert component.name
        assert component.description
        assert component.file is not None
        assert component.file.path.stem == key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("slack-send-message-public-channel", "send_message_public_channel"),
        ("http-custom-request", "custom_request"),
        ("filter-end-based-on-condition", "end_based_on_condition"),
        ("app-2-things", "step_2_things"),
    ],
)
def test_default_step_name(key: str, name: str) -> None:
    """The suggested step name is the name that the platform's builder chooses."""
    assert suggest_step_name(key) == name


@pytest.mark.parametrize("text", ["slack", "slack-send@x", "@0.0.1", "Slack-send@0.0.1", ""])
def test_not_a_key(text: str) -> None:
    """A text that is not a key is refused, with an example."""
    with pytest.raises(RequestError):
        ActionReference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        'export default { key: "a-b", version: "1.0.0", type: "action" };',
        'export default defineComponent({ key: "a-b", version: "1.0.0", type: "action" });',
        'const it = { key: "a-b", version: "1.0.0", type: "action" };\nexport default it;',
        'import x from "y";\nexport default { ...x, key: "a-b", version: "1.0.0", type: "action", run() {} };',
    ],
)
def test_header_without_running(text: str) -> None:
    """Key and version are read from the module's text, however it exports its component."""
    header = parse_header(text)

    assert header is not None
    assert (header.key, header.version, header.kind) == ("a-b", "1.0.0", "action")


@pytest.mark.parametrize(
    "text", ["export const a = 1;", "export default { key: name, version: '1.0.0' };", "export default {"]
)
def test_not_a_component(text: str) -> None:
    """A module without a literal key is not a component."""
    assert parse_header(text) is None


# ── every action of real synced workflows ───────────────────────────────────────────────────────────────


RUNS = [
    "data_stores-add-update-record@0.0.9",
    "data_stores-get-record-or-create@0.0.10",
    "email-send-email-to-self@0.4.4",
    "filter-continue-based-on-condition@0.0.2",
    "filter-end-based-on-condition@0.0.1",
    "helper_functions-download-file-to-tmp@0.3.0",
    "helper_functions-random-item-from-list@0.0.3",
    "http-custom-request@1.1.1",
    "http-get-request@1.1.1",
    "http-post-request@1.1.2",
]
NAMED = [
    ("google_sheets-add-single-row@2.1.2", "pdkernel project set actions connect"),
    ("helper_functions-delay@0.0.1", "@pipedream/helper_functions"),
    ("slack-send-message-public-channel@0.2.17", "@pipedream/slack"),
]


@pytest.mark.parametrize("uses", RUNS)
def test_built_in(project: Project, uses: str) -> None:
    """The action is built in."""
    wanted = ActionReference.parse(uses)

    assert Catalog.for_project(project, environ={}).resolve(wanted.key, wanted.version).source == "built in"


@pytest.mark.parametrize(("uses", "source"), NAMED)
def test_not_built_in(project: Project, uses: str, source: str) -> None:
    """The action is not built in, and the message names a source that can run it."""
    wanted = ActionReference.parse(uses)

    with pytest.raises(ActionNotFoundError) as caught:
        Catalog.for_project(project, environ={}).resolve(wanted.key, wanted.version)

    assert source in caught.value.fix


def test_a_new_login_is_used(tmp_path: Path) -> None:
    """After a login of another project, also by another process, actions run there; otherwise a token serves several calls."""
    logins = [Login("client-1", "secret-1", "proj_1"), Login("client-2", "secret-2", "proj_2")]
    packages = HeldPackages(tmp_path / "installed", ())
    catalog = Catalog(
        EmptySettings(), tmp_path, lock=ActionsLock(tmp_path / LOCK_NAME), packages=packages, login=lambda: logins[0]
    )
    first, again = catalog.connect_source, catalog.connect_source

    del logins[0]
    other = catalog.connect_source

    assert again is first
    assert (first.login.project_id, other.login.project_id) == ("proj_1", "proj_2")


async def test_a_search_returns_at_most_the_limit(catalog: Catalog) -> None:
    """Of the actions on this machine that match, the best ones are returned."""
    every = await catalog.search("record")

    assert await catalog.search("record", limit=2) == every[:2]
    assert len(every) > 2


@pytest.mark.parametrize(("sources", "version"), [(["first", "second"], "0.1.2"), (["second", "first"], "0.1.3")])
async def test_the_component_of_the_first_source_is_listed(
    project: Project, tmp_path: Path, sources: list[str], version: str
) -> None:
    """If two folders have an action, the one of the first folder is listed and found, as it would be run."""
    write_checkout(tmp_path / "first")
    write_checkout(tmp_path / "second", version="0.1.3")
    catalog = Catalog.for_project(project, environ={})
    catalog.settings.set_sources(sources, base=tmp_path)

    [listed] = [each for each in catalog.list_components("depot") if each.key == "depot-put-thing"]
    [found] = [each for each in await catalog.search("put thing", app="depot") if each.key == "depot-put-thing"]

    assert (listed.version, found.version, catalog.resolve("depot-put-thing", None).version) == (version,) * 3
    assert listed.setting == found.setting == catalog.settings.sources[0]


def write(folder: Path, name: str, text: str) -> Path:
    """Write a module of the app."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_modules_of_an_app_are_read(tmp_path: Path) -> None:
    """The app's own module comes first, also one in TypeScript; packages and tests are not read; the access token comes first."""
    write(tmp_path, "actions/a/a.mjs", "this.x.$auth.instance")
    write(tmp_path, "app/x.app.ts", "this.$auth.domain + this.$auth.oauth_access_token")
    write(tmp_path, "node_modules/p/p.js", "this.$auth.nothing")
    write(tmp_path, "test/t.mjs", "this.$auth.nothing")

    reads = AppCredentials().find(tmp_path)

    assert reads.fields == ("domain", "oauth_access_token", "instance")
    assert order_form_fields(reads) == ("oauth_access_token", "domain", "instance")


def test_a_changed_module_is_read_again(tmp_path: Path) -> None:
    """After a change of a module, its fields change."""
    module = write(tmp_path, "x.app.mjs", "this.$auth.old")
    credentials = AppCredentials()
    before = credentials.find(tmp_path).fields

    module.write_text("this.$auth.newer")

    assert (before, credentials.find(tmp_path).fields) == (("old",), ("newer",))


def test_links_and_missing_folders(tmp_path: Path) -> None:
    """A link is not followed, and a folder that does not exist has no modules."""
    other = write(tmp_path, "other/secret.mjs", "this.$auth.secret")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "x.app.mjs").symlink_to(other)

    assert AppCredentials().find(tmp_path / "app").fields == ()
    assert AppCredentials().find(tmp_path / "none").fields == ()


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("key() { return this.$auth.api_key; }", ["api_key"]),
        ("key() { return this.app.$auth?.token ?? this.$auth['other-key']; }", ["token", "other-key"]),
        ("url() { return `https://${this.$auth.domain}.example`; }", ["domain"]),
        ("const { host, port: p, user = 'x' } = this.$auth;", ["host", "port", "user"]),
        ("const { a }: Credentials = this.app.$auth as any;", ["a"]),
        ("const { a } = this.$auth || this.app.$auth;", ["a"]),
        ("const auth = this.$auth; f(auth.user); const { b } = auth;", ["user", "b"]),
        ("const { $auth } = this.app; f($auth.account_name);", ["account_name"]),
        ("const { $auth: { api_key: key } } = this;", ["api_key"]),
        ("auth() { return this.$auth; }, url() { const { x } = this.auth(); return this.auth().y; }", ["x", "y"]),
        ("const { a, ...rest } = this.$auth; f(rest.b);", ["a", "b"]),
        ("authKeys() { console.log(Object.keys(this.$auth)); }", []),
        ("debug() { console.log((this.$auth)); }", []),
        ("// this.$auth.old\n/* this.$auth.older */ f('https://x.example', this.$auth.new)", ["new"]),
        ("throw new Error('`locationId` is missing from `$auth`')", []),
    ],
)
def test_fields_are_found(text: str, fields: list[str]) -> None:
    """Member access, destructuring, and both of a variable, a rest or a method that stands for `$auth` name fields."""
    reads = find_credential_reads({"x.app.mjs": text})

    assert (list(reads.fields), reads.unclear) == (fields, ())


@pytest.mark.parametrize(
    "text", ["\nrun() { return send(this.$auth); }", "\nconst { a, ...b } = this.$auth; f({ ...b });"]
)
def test_use_as_a_whole_is_unclear(text: str) -> None:
    """A use whose fields are not known is listed with its line."""
    assert find_credential_reads({"x.app.mjs": text}).unclear == (("x.app.mjs", 2),)


def test_methods_are_used_in_other_modules() -> None:
    """A method of the app that returns `$auth` is read in the modules of actions, too; a variable only in its own module."""
    texts = {
        "x.app.mjs": "getAuth() { return this.$auth; }, f() { const auth = this.$auth; }",
        "actions/a/a.mjs": "run() { this.x.getAuth().region; auth.nothing; }",
    }

    assert find_credential_reads(texts).fields == ("region",)
