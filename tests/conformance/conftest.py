"""One project, served in other processes for all releases of the SDKs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.driving import Outcome, drive
from tests.conformance.sdks import GATE, Sdk
from tests.conformance.site import Site, site


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The project."""
    with site(tmp_path_factory.mktemp("conformance")) as served:
        yield served


@pytest.fixture(scope="package")
def driven(served: Site) -> Iterator[Callable[[Sdk], Mapping[str, Outcome]]]:
    """The results of a release; all releases run their checks at once, and each does so once for all tests."""
    with ThreadPoolExecutor(len(GATE)) as threads:  # the releases wait for the server most of the time
        running = {sdk: threads.submit(_install_and_drive, sdk, served) for sdk in GATE}
        yield lambda sdk: running[sdk].result()


def _install_and_drive(sdk: Sdk, served: Site) -> Mapping[str, Outcome]:
    sdk.install()
    return drive(sdk, served)
