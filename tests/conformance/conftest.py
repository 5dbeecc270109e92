"""One project, served in other processes for all releases of the SDKs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.conformance.driving import Outcome, drive
from tests.conformance.sdks import Sdk
from tests.conformance.site import Site, site


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The project."""
    with site(tmp_path_factory.mktemp("conformance")) as served:
        yield served


@pytest.fixture(scope="package")
def driven(served: Site) -> Callable[[Sdk], Mapping[str, Outcome]]:
    """Runs the checks of a release, once for all tests."""
    known: dict[Sdk, Mapping[str, Outcome]] = {}

    def of(sdk: Sdk) -> Mapping[str, Outcome]:
        if sdk not in known:
            sdk.install()
            known[sdk] = drive(sdk, served)
        return known[sdk]

    return of
