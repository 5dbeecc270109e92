"""Fixtures: a project outside of `/tmp`, so that steps have a private one, and a server that steps call."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pdkernel.workers.zygote import ZYGOTES
from tests.http_servers import AnsweringServer, serve
from tests.isolation.attacks import Attack, Attackers, AttackLanguage, Attempt, Report

RunAttacks = Callable[[AttackLanguage, Sequence[Attack | Attempt]], Report]


@pytest.fixture(scope="module", autouse=True)
def require_isolation() -> None:
    """These tests need a system that permits what keeps runs apart."""
    if gaps := ZYGOTES.isolation().gaps:
        pytest.skip(f"NOT RUN: {' '.join(gaps)}")


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A folder outside of `/tmp`."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def receiver() -> Iterator[AnsweringServer]:
    """A server that answers every request with the value of the header `x-token`."""
    with serve(AnsweringServer(lambda request: (200, {"token": request.headers.get("x-token")}))) as server:
        yield server


@pytest.fixture(scope="module")
def run_attacks(base: Path, receiver: AnsweringServer, go_cache: Path) -> RunAttacks:
    """Runs attacks in a new engine."""

    async def attack(language: AttackLanguage, attacks: Sequence[Attack | Attempt]) -> Report:
        folder = base / language.language
        if language.language == "go":
            cache = folder / "project" / ".pdkernel" / "cache"
            cache.mkdir(parents=True)
            (cache / "go").symlink_to(go_cache)
        async with Attackers.start(folder, receiver) as attackers:
            return await attackers.attack(language, attacks)

    return lambda language, attacks: asyncio.run(attack(language, attacks))
