"""The official SDKs, unmodified, against `pdkernel serve` in another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conformance.driving import CHECKS, ERRORS, Outcome, table
from tests.conformance.sdks import GATE, Sdk

pytestmark = pytest.mark.network

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "sdks.md"
ABSENT = {
    ("@pipedream/sdk", "1.8.0"): {"users", "private_key"},
    ("@pipedream/sdk", "3.1.6"): {"private_key"},
    ("pipedream", "1.1.12"): {"private_key"},
}
"""Checks for which a release has no call."""


@pytest.mark.parametrize("sdk", GATE, ids=str)
@pytest.mark.timeout(300)
def test_sdk(driven: Callable[[Sdk], Mapping[str, Outcome]], sdk: Sdk) -> None:
    """Every call of the SDK behaves as on the platform."""
    outcomes = driven(sdk)

    absent = ABSENT.get((sdk.package, sdk.version), set())
    assert {name: outcome.detail for name, outcome in outcomes.items() if outcome.ok is False} == {}
    assert {name for name, outcome in outcomes.items() if outcome.ok is None} == absent
    assert list(outcomes) == list(CHECKS)


def test_the_documentation_has_the_table() -> None:
    """The documentation states the same results as the test."""
    results = [(sdk, {name: _promised(sdk, name) for name in CHECKS}) for sdk in GATE]

    assert table(results) in PAGE.read_text(encoding="utf-8")


def _promised(sdk: Sdk, name: str) -> Outcome:
    absent = name in ABSENT.get((sdk.package, sdk.version), set())
    return Outcome(None if absent else True, "", status_only=name in ERRORS and sdk.drops_bodies)
