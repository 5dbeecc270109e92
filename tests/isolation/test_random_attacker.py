"""Random attacks: no planted token is seen, no planted file changes, and the runs of others work, whatever a hostile user tries."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from tests.http_servers import AnsweringServer
from tests.isolation.attacks import Attackers
from tests.isolation.random_attacker import Findings, RandomWorld, choose_seed

SHORT, LONG = 240, 10_000
"""How many random actions."""


def attack(base: Path, receiver: AnsweringServer, rounds: int, *, database_url: str | None = None) -> Findings:
    """Attack *rounds* times; prints the seed, with which `PDKERNEL_SEED` repeats the choices."""
    seed = choose_seed()
    print(f"PDKERNEL_SEED={seed}")

    async def run() -> Findings:
        async with Attackers.start(base, receiver, database_url=database_url) as attackers:
            return await RandomWorld(attackers, base, seed).run(rounds)

    scratch = base / "scratch"
    scratch.mkdir(parents=True)
    scratch.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))  # the folders of the runs, which attackers know
        findings = asyncio.run(run())
    findings.left += map(str, scratch.iterdir())
    print(f"{findings.rounds} rounds; longest stop of the loop {findings.longest_stop_s:.2f} s")
    print(findings.done, findings.errors.most_common(9), sep="\n")
    return findings


def test_random_attacks_break_nothing(base: Path, receiver: AnsweringServer) -> None:
    """Some hundred actions of two hostile users, beside runs of others."""
    assert attack(base / "short", receiver, SHORT).broken == {}


def test_random_attacks_on_postgres_break_nothing(base: Path, receiver: AnsweringServer, postgres_url: str) -> None:
    """The same with the project's database on PostgreSQL."""
    assert attack(base / "postgres", receiver, SHORT // 2, database_url=postgres_url).broken == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_attacks_break_nothing(base: Path, receiver: AnsweringServer) -> None:
    """Ten thousand actions."""
    assert attack(base / "long", receiver, LONG).broken == {}
