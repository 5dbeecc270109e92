"""The promises of a server hold for scenarios that a seed decides; `make sim` runs more of them, and makes a failed one shorter."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.simulation import moments
from tests.simulation.operations import Operation
from tests.simulation.scenario import Scenario, find_failure, make_scenario
from tests.simulation.template import make_template

GROUPS, SEEDS = 20, 10
SHARED_SEEDS = 5
MOMENT_SEEDS = 3


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that each scenario copies."""
    return make_template(tmp_path_factory.mktemp("simulation"))


# the coroutines of a process that has died are thrown away, as the process was
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("group", range(GROUPS))
def test_promises_hold(template: Path, group: int) -> None:
    """Whatever befalls a server, an accepted run ends once and as it should, within its workflow's limits."""
    for seed in range(group * SEEDS, (group + 1) * SEEDS):
        failure = find_failure(make_scenario(seed), template)

        assert failure is None, f"make sim SEEDS='1 {seed}': {failure}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
def test_promises_hold_on_several_hosts(template: Path) -> None:
    """Whatever befalls a host, its way to the database, or the database, each step is active in one host, and no limit is broken."""
    for seed in range(SHARED_SEEDS):
        failure = find_failure(make_scenario(seed, 2), template)

        assert failure is None, f"make sim SEEDS='1 {seed} 1 2': {failure}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("moment", moments.SHARED)
def test_promises_hold_when_a_lease_ends(template: Path, moment: moments.Moment) -> None:
    """Without its lease, a host starts no step and accepts no event, also if it was frozen or nothing is to be written."""
    for seed in range(MOMENT_SEEDS):
        operations = moment(random.Random(seed), 2.0, 2)
        failure = find_failure(Scenario(seed, sorted(operations, key=lambda each: each.at), hosts=2), template)

        assert failure is None, f"seed {seed}: {failure}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("fault", ["silence", "refusal", "outage", "crash"])
def test_a_host_without_its_database_ends_its_steps_and_is_not_ready(template: Path, fault: str) -> None:
    """A step that lasts longer than a lease is not active in two hosts, and no host is ready, while one or all reach no database."""
    operations = [
        Operation(1.0, "event", "Slow", 3),
        Operation(2.0, fault, amount=25),
        Operation(40.0, "event", "Plain"),
    ]

    failure = find_failure(Scenario(0, operations, hosts=2), template)

    assert failure is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
def test_a_step_waits_for_its_called_run_without_the_database(template: Path) -> None:
    """A step does not fail because its host cannot reach the database while a run that it has called waits for its turn."""
    operations = [
        Operation(16.7, "freeze", amount=30),
        Operation(29.6, "event", "Caller", 8),
        Operation(30.1, "silence", amount=10.7, host=1),
        Operation(40.4, "event", "Caller", 2),
    ]

    for seed in range(4):
        failure = find_failure(Scenario(seed, operations, hosts=2), template)

        assert failure is None, f"seed {seed}: {failure}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
def test_an_unstored_run_starts_no_step_after_the_lease(template: Path) -> None:
    """A run that is not stored starts no step after the end of its host's lease, because other hosts then give its turn to another run."""
    operations = [
        Operation(11.356168463441644, "unstored", "Single", 1),
        Operation(12.213365715267049, "event", "Throttled", 2),
        Operation(13.567399187320776, "event", "Cold", 4),
        Operation(14.33043714474854, "silence", amount=12.7607901961779),
        Operation(15.414431116810439, "event", "Throttled", 4),
        Operation(19.06505161332271, "unstored", "Single", 2),
        Operation(24.100860860467847, "unstored", "Single", 2),
        Operation(25.379280108354074, "silence", amount=11.153604173661257, host=1),
        Operation(53.740282005354885, "event", "Single", 2),
    ]

    failure = find_failure(Scenario(3538, operations, hosts=2), template)

    assert failure is None
