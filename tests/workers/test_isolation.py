"""What this machine permits, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.workers.isolation import Isolation

EVERYTHING = Isolation(namespaces=True, landlock=True)
WHY = (("namespaces", "Operation not permitted"), ("landlock", "the kernel does not provide it"), ("user", "not root"))


def test_report_of_a_zygote() -> None:
    """What a zygote reports becomes the protections, and the reasons for those that are missing."""
    report = b'{"namespaces": "Operation not permitted", "landlock": 1, "user_ids": null}'

    assert Isolation.parse(b'{"namespaces": null, "landlock": 4, "user_ids": 2000000000}') == Isolation(
        namespaces=True, landlock=True, first_uid=2_000_000_000
    )
    assert dict(Isolation.parse(report).reasons)["landlock"] == "the kernel is too old"
    assert Isolation.parse(report).namespaces is False


@pytest.mark.parametrize(
    ("isolation", "number"),
    [
        (EVERYTHING, 0),
        (replace(EVERYTHING, landlock=False, first_uid=2_000_000_000), 0),
        (Isolation(landlock=True, reasons=WHY), 1),
        (Isolation(reasons=WHY), 2),
    ],
)
def test_gaps(isolation: Isolation, number: int) -> None:
    """Each missing protection that lets a run reach another one is a sentence with its reason."""
    assert len(isolation.gaps) == number
    assert all("Operation not permitted" in gap and gap.endswith(".") for gap in isolation.gaps)
