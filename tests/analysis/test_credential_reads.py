"""The fields that components read from `$auth`, in each form that they use."""

from __future__ import annotations

import pytest

from pdkernel.analysis.credential_reads import find_credential_reads


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
