"""Several hosts on one PostgreSQL database: hosts that die, freeze or lose the database, and a database that starts again."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from pdkernel.journal import MAX_DEATHS_ALONE, MAX_INTERRUPTIONS
from pdkernel.runtimes import process_tree
from tests.cli.fork_server import ForkServer
from tests.durability.database_proxy import proxy_of
from tests.durability.hosts import LEASE_S, Hosts, hosts_of
from tests.durability.server_process import Answer, count_outcomes, logging_step
from tests.postgres import PostgresServer

FLOW = "%%pdworkflow\nname: Load\n"


def test_a_frozen_host_that_thaws_does_nothing(fork_server: ForkServer, tmp_path: Path, postgres_url: str) -> None:
    """
    A host that is frozen for 1.5 leases loses its runs. Thawed, it writes nothing, its workers end, no caller gets a 2xx.

    Then it accepts events again.
    """
    log = tmp_path / "steps.log"
    cells = [
        "%%pdworkflow\nname: Load\ntrigger: {type: http, auth: none, response: custom}\n",
        logging_step(
            "pid",
            log,
            f"open({str(tmp_path)!r} + '/worker-' + open('/proc/self/environ').read().split('STEP_PROCESS=')[1][:32], 'w').close()",
        ),
        logging_step("held", log, "if attempt == 1 and body.get('n') == 0: time.sleep(60)"),
        logging_step("answer", log, "pd.respond(status=200, body='done')"),
    ]
    with hosts_of(fork_server, tmp_path, [postgres_url] * 2, cells) as hosts:
        frozen, _ = hosts.servers
        answers: list[Answer] = []
        caller = threading.Thread(target=lambda: answers.append(frozen.post(frozen.endpoint, {"n": 0})))
        caller.start()
        hosts.reader.wait_until_begun(step="held")
        ((run,),) = hosts.reader.rows("select id from runs")
        workers = [file.name.partition("-")[2] for file in tmp_path.glob("worker-*")]
        frozen.send_signal(signal.SIGSTOP)
        hosts.wait_until_taken_over(frozen, time.monotonic())
        hosts.wait_until_finished()
        time.sleep(max(0.0, 1.5 * LEASE_S - hosts.take_overs[0]))
        before = recorded(hosts)
        frozen.send_signal(signal.SIGCONT)
        caller.join()
        frozen.wait_until(lambda: not any(process_tree.find_processes([], [worker]) for worker in workers))
        after = recorded(hosts)
        again = frozen.wait_until(lambda: (answer := frozen.post(frozen.endpoint, {"n": 1})).is_accepted and answer)
        executors = hosts.executors()

        (refused,) = answers
        assert refused.status == 400
        assert "Another server continues the run" in refused.text
        assert workers
        assert after == before
        assert (again or refused).text == "done"
        assert hosts.executor_of[frozen.port] not in executors
        assert len(executors) == 2
        count_outcomes(hosts.reader, [run]).check("a frozen host")


def recorded(hosts: Hosts) -> list[object]:
    """Every row of runs and steps."""
    return [hosts.reader.rows(f"select * from {table} order by 1, 2") for table in ("runs", "steps")]


def beating_step(log: Path, seconds: float) -> str:
    """A step that appends its attempt and the time to *log* again and again for *seconds*, or for one if it is repeated."""
    return f"""%%pdstep beat
import json, time
def handler(pd):
    ends = time.time() + ({seconds} if pd.context.get("attempt", 1) == 1 else 1)
    while time.time() < ends:
        with open({str(log)!r}, "a") as opened:
            opened.write(json.dumps([pd.context.get("attempt", 1), time.time()]) + chr(10))
        time.sleep(0.02)
    return 1
"""


def beats_of(log: Path) -> list[tuple[int, float]]:
    """The attempts and times in the log of `beating_step`."""
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.timeout(300)
def test_a_host_without_its_database_ends_its_step_before_another_begins_it(
    fork_server: ForkServer, tmp_path: Path, postgres: PostgresServer, postgres_url: str
) -> None:
    """A host that gets no answers of its database beside a living one ends its step in the margin of its lease."""
    database, log = postgres_url.partition("@/")[2].partition("?")[0], tmp_path / "beats.log"
    with proxy_of(postgres.sockets, database) as proxy:
        urls = [postgres_url, proxy.url]
        with hosts_of(fork_server, tmp_path, urls, [FLOW, beating_step(log, 4 * LEASE_S)]) as hosts:
            host = hosts.servers[1]
            assert host.post(host.endpoint, {}).is_accepted
            host.wait_until(lambda: beats_of(log))
            proxy.is_held = True
            live = host.get("/-/live")
            hosts.wait_until_taken_over(host, time.monotonic())
            host.wait_until(lambda: {attempt for attempt, _ in beats_of(log)} == {1, 2})
            proxy.cut()
            proxy.heal()
            hosts.wait_until_finished()

        first = [at for attempt, at in beats_of(log) if attempt == 1]
        second = [at for attempt, at in beats_of(log) if attempt == 2]
        assert live.status == 200
        assert max(first) < min(second)


@pytest.mark.timeout(300)
def test_a_silent_database_interrupts_nothing_of_the_only_host(
    fork_server: ForkServer, tmp_path: Path, postgres: PostgresServer, postgres_url: str
) -> None:
    """While the database of the only host is silent for two leases, a step goes on, and its run ends in its first attempt."""
    database, log = postgres_url.partition("@/")[2].partition("?")[0], tmp_path / "beats.log"
    lease_s = LEASE_S / 2  # no other host could take it for dead on a busy machine
    with (
        proxy_of(postgres.sockets, database) as proxy,
        hosts_of(fork_server, tmp_path, [proxy.url], [FLOW, beating_step(log, 3 * lease_s)], lease_s=lease_s) as hosts,
    ):
        host = hosts.servers[0]
        assert host.post(host.endpoint, {}).is_accepted
        host.wait_until(lambda: beats_of(log))
        proxy.is_held = True
        time.sleep(2 * lease_s)
        proxy.cut()
        proxy.heal()
        hosts.wait_until_finished()

        assert {attempt for attempt, _ in beats_of(log)} == {1}
        assert hosts.reader.rows("select status, attempt from runs") == [("success", 1)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_ends_its_hosts_is_given_up(fork_server: ForkServer, tmp_path: Path, postgres_url: str) -> None:
    """A run that ends whichever host executes it ends a bounded number of hosts, and the runs of other events finish."""
    log, poison = tmp_path / "steps.log", tmp_path / "poison"
    body = f"""if body.get("n") == -1:
    open({str(poison)!r}, "a").close()
    time.sleep(60)
return attempt"""
    beside: list[str] = []
    with hosts_of(fork_server, tmp_path, [postgres_url] * 2, [FLOW, logging_step("work", log, body)]) as hosts:
        ending = hosts.servers[0].accept({"n": -1})
        deaths, ends = 0, time.monotonic() + 300
        while not hosts.reader.rows("select 1 from runs where id = ? and status = 'error'", ending):
            assert time.monotonic() < ends, hosts.reader.errors
            time.sleep(0.05)
            if not poison.exists():
                continue
            ((owner,),) = hosts.reader.rows("select owner from runs where id = ?", ending)
            (victim,) = [each for each in hosts.servers if hosts.executor_of[each.port] == owner]
            poison.unlink()
            victim.kill()
            deaths += 1
            answer = next(each for each in hosts.servers if each is not victim)
            accepted = answer.post(answer.endpoint, {"n": deaths})
            if accepted.is_accepted:
                beside.append(json.loads(accepted.text)["event_id"])
            hosts.start(victim)
        hosts.wait_until_finished()

        assert deaths == MAX_INTERRUPTIONS + MAX_DEATHS_ALONE
        count_outcomes(hosts.reader, [ending, *beside]).check(f"{deaths} deaths of 2 hosts")
        assert hosts.reader.rows("select id from runs where status <> 'success'") == [(ending,)]
