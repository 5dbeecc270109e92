"""Fake values that replace secrets in a saved test."""

from __future__ import annotations

import pytest

from pdkernel.annex.snapshot_tests.run_inputs import build_fake_secret


@pytest.mark.parametrize(
    ("value", "fake"),
    [
        ("xoxb-1-2", "made-up-token"),
        ("https://api.acme.test", "https://token.made-up.example"),
        ("https://hooks.acme.test/a/secret?key=1", "https://token.made-up.example/made-up"),
        ("ada@acme.test", "token@made-up.example"),
        ("http://[::1", "made-up-token"),
        ("5432", "1000000007"),
        ("wss://hooks.acme.test/", "wss://token.made-up.example/"),
        (
            '{"auth": {"key": "secret"}, "keys": ["one", {"n": null}]}',
            '{"auth": {"key": "made-up-key"}, "keys": ["made-up-keys", {"n": null}]}',
        ),
        pytest.param('{"a":' * 100_000, "made-up-token", id="deep"),
        ('{"private_key": "secret", "n": 1}', '{"private_key": "made-up-private-key", "n": 1}'),
    ],
)
def test_a_fake_value_has_the_kind_of_the_real_value(value: str, fake: str) -> None:
    """A fake value has the kind of the real value and none of its text."""
    assert build_fake_secret("token", value) == fake
