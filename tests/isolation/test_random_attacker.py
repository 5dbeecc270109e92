"""Random attacks: no planted token is seen, no planted file changes, and the runs of others work, whatever a hostile user tries."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.http_servers import AnsweringServer
from tests.isolation.attacks import Attackers, new_token
from tests.isolation.findings import Findings
from tests.isolation.random_attacker import RandomWorld, choose_seed, plant_packages
from tests.isolation.random_caller import CallerWorld

SHORT, LONG = 240, 10_000
"""How many random actions."""


def attack(base: Path, receiver: AnsweringServer, rounds: int, *, database_url: str | None = None) -> Findings:
    """
    Attack *rounds* times; prints the seed, with which `PDKERNEL_SEED` repeats the choices.

    Requests to a server are among the attacks, unless the project's database is at *database_url*.
    """
    seed, findings = choose_seed(), Findings()
    print(f"PDKERNEL_SEED={seed}")

    async def run() -> None:
        packages = plant_packages(base)
        python = packages.parents[2] / "bin" / "python"
        async with AsyncExitStack() as opened:
            attackers = await opened.enter_async_context(
                Attackers.start(base, receiver, database_url=database_url, python=python, spares=1)
            )
            callers = None
            if database_url is None:
                callers = await opened.enter_async_context(CallerWorld.start(base, receiver, findings, seed))
            await RandomWorld(attackers, base, packages, findings, seed, callers).run(rounds)

    scratch = base / "scratch"
    shutil.rmtree(base, ignore_errors=True)  # of an earlier try
    scratch.mkdir(parents=True)
    scratch.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))  # the folders of the runs, which attackers know
        asyncio.run(run())
    findings.left += map(str, scratch.iterdir())
    print(f"{findings.rounds} rounds; longest stop of the loop {findings.longest_stop_s:.2f} s")
    print(findings.done, findings.errors.most_common(9), sep="\n")
    return findings


def test_random_attacks_break_nothing(base: Path, receiver: AnsweringServer) -> None:
    """Some hundred actions of two hostile users and their packages, beside runs of others, also by requests to a server."""
    assert attack(base / "short", receiver, SHORT).broken == {}


def test_random_attacks_on_postgres_break_nothing(base: Path, receiver: AnsweringServer, postgres_url: str) -> None:
    """The same with the project's database on PostgreSQL."""
    assert attack(base / "postgres", receiver, SHORT // 2, database_url=postgres_url).broken == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_attacks_break_nothing(base: Path, receiver: AnsweringServer) -> None:
    """Ten thousand actions."""
    assert attack(base / "long", receiver, LONG).broken == {}


async def test_a_run_that_a_request_starts_for_another_user_is_found(base: Path, receiver: AnsweringServer) -> None:
    """The check of the runs works: here the request does not come from a step, so it may name any user."""
    findings = Findings()
    (base / "caller").mkdir()
    async with CallerWorld.start(base / "caller", receiver, findings, 1) as callers:
        await callers.work("ada")
        await callers.check_runs()
        before = findings.broken
        await callers.start_run("ada", token=new_token("mallorya"))
        await callers.check_runs()

    assert before == {}
    assert [who for who, _ in findings.runs] == ["mallorya"]
