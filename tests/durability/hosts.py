"""Hosts of one project on PostgreSQL: `pdkernel serve` in separate folders."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cli.fork_server import ForkServer
from tests.durability.faults import ALL_OF, SHORTEN_LEASE
from tests.durability.server_process import ENDED, ServerProcess
from tests.notebook_files import notebook_of
from tests.ports import free_port
from tests.waiting import LIMIT_S

LEASE_S = 3.0
"""The lease of the hosts: after 1.5 leases at most, the others continue the runs of a dead one."""
BEAT_S = 0.3


@dataclass
class Hosts:
    """
    Hosts on one database.

    Attributes:
        servers: The server of each host.
        take_overs: The seconds after a fault in which others continued the runs of a host.
        executor_of: The executor of each server when it started, by its port.
    """

    servers: list[ServerProcess]
    take_overs: list[float] = field(default_factory=list)
    executor_of: dict[int, str] = field(default_factory=dict)

    @property
    def reader(self) -> ServerProcess:
        """Reads the database and the log of steps, which all hosts share."""
        self.servers[0].take_overs = self.take_overs
        return self.servers[0]

    def start(self, server: ServerProcess, lease_s: float = LEASE_S, *faults: Sequence[object]) -> None:
        """Start a host with a short lease, and with other *faults* as for `faults.all_of`."""
        entered = server.folder / "executor"
        shorten = (SHORTEN_LEASE, lease_s, lease_s * BEAT_S / LEASE_S, str(entered))
        assert server.start(ALL_OF, shorten, *faults), (server.said, server.errors)
        self.executor_of[server.port] = entered.read_text()

    def executors(self) -> set[str]:
        """The executors of all hosts."""
        if not self.reader.rows("select 1 where to_regclass('executors') is not null"):
            return set()
        return {executor for (executor,) in self.reader.rows("select id from executors where origin = 'serve'")}

    def wait_until_taken_over(self, server: ServerProcess, since: float) -> None:
        """Wait until other hosts have taken the runs that *server* had at a fault; record the seconds."""
        owner = self.executor_of[server.port]
        self.reader.wait_for("select 1 where not exists (select 1 from runs where owner = ?)", owner)
        self.take_overs.append(time.monotonic() - since)

    def wait_until_finished(self) -> None:
        """Wait until every run has ended."""
        self.reader.wait_for(ENDED, limit_s=2 * LIMIT_S)


@contextmanager
def hosts_of(
    fork_server: ForkServer,
    folder: Path,
    urls: Sequence[str],
    cells: Sequence[str],
    *,
    options: tuple[str, ...] = (),
    lease_s: float = LEASE_S,
    faults: Sequence[Sequence[object]] = (),
    **notebooks: Sequence[str],
) -> Iterator[Hosts]:
    """
    Hosts that are started, and killed at last.

    Args:
        fork_server: Forks the servers.
        folder: The folder of the hosts.
        urls: The URL of the database for each host.
        cells: The cells of `flow.ipynb`.
        options: More options of `serve`.
        lease_s: The lease of the hosts.
        faults: Calls of `faults` in each host.
        notebooks: Other notebooks.
    """
    with ExitStack() as ending:
        hosts = Hosts([])
        for number, url in enumerate(urls):
            place = folder / f"host{number}"
            place.mkdir()
            for name, given in {"flow": cells, **notebooks}.items():
                notebook_of(place / f"{name}.ipynb", *given)
            server = ServerProcess(
                fork_server, place, folder / "steps.log", free_port(), url, folder / "key", more=options
            )
            ending.callback(server.kill)
            hosts.servers.append(server)
        for server in hosts.servers:
            hosts.start(server, lease_s, *faults)
        yield hosts
