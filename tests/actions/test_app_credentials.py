"""The credentials that an app's modules read from `$auth`: in each form that they use, and from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.actions.app_credentials import AppCredentials, find_credential_reads, order_form_fields


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
