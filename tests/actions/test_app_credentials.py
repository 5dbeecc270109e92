"""The credentials that an app's modules in a folder read."""

from __future__ import annotations

from pathlib import Path

from pdkernel.actions.app_credentials import AppCredentials, order_form_fields


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
