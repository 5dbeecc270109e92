"""Fixtures: a project outside of `/tmp`, so that steps have a private one, and a server that steps call."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from pdkernel.workers.zygote import ZYGOTES
from tests.http_servers import AnsweringServer, serve
from tests.isolation.attacks import Attack, Attackers, AttackLanguage, Attempt, Report, names

RunAttacks = Callable[[AttackLanguage, Sequence[Attack | Attempt]], Report]


@pytest.fixture(scope="module", autouse=True)
def require_isolation() -> None:
    """These tests need a system that permits what keeps runs apart."""
    if missing := ZYGOTES.isolation().describe_missing_walls():
        pytest.skip(f"NOT RUN: {' '.join(missing)}")


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


@pytest.fixture(scope="class")
def report(request: pytest.FixtureRequest, run_attacks: RunAttacks) -> Report:
    """What the attacks of a class showed."""
    return run_attacks(request.cls.language, request.cls.attacks)


class AttackTests:
    """The tests of the *attacks* of a *language*; each language has a subclass."""

    language: ClassVar[AttackLanguage]
    attacks: ClassVar[Sequence[Attack | Attempt]]

    def test_attacks_work_in_their_own_run(self, report: Report) -> None:
        """A run that attacks sees what it has left, and has access to places of its own, unless steps have no such system call."""
        unavailable = {each.name for each in self.attacks if isinstance(each, Attempt) and not each.is_available}

        assert [
            attack for attack in names(self.attacks) if bool(report.sights[attack].own) == (attack in unavailable)
        ] == [], report.failed

    def test_attacks_reach_no_other_run(self, report: Report) -> None:
        """Runs of another user and of no user see nothing of an attack, and an attempt has no access."""
        reached = {attack: report.sights[attack].reached for attack in names(self.attacks)}

        assert {attack: what for attack, what in reached.items() if what} == {}

    def test_runs_of_others_work_right(self, report: Report) -> None:
        """After each group of attacks, runs of others have the results that they have without attacks."""
        assert report.wrong == []

    def test_records_have_no_token_of_others(self, report: Report) -> None:
        """Exports, logs and errors of a run hold no token of another user: nothing was kept, passed on or printed."""
        assert report.stray == []

    def test_no_process_outlives_its_run(self, report: Report) -> None:
        """When a run is over, none of the processes that it started is left, daemons included."""
        assert {group: left for group, left in report.left.items() if left} == {}
