"""The limit of unsent responses: which connection is closed, and when."""

from __future__ import annotations

from dataclasses import dataclass

from pdkernel.server.unsent_responses import YOUNG_S, UnsentResponses


@dataclass(eq=False)
class Client:
    """A connection with settable sizes."""

    unsent_bytes: int = 0
    read_bytes: int = 0
    is_closed: bool = False

    def abort(self) -> None:
        """Close the connection."""
        self.is_closed = True


class Time:
    """A settable time in seconds."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def _clients(*sizes: int) -> tuple[Time, UnsentResponses, list[Client]]:
    """Connections with unsent bytes of *sizes* under a limit of 100 bytes, and a time at which none is young."""
    time, clients = Time(), [Client(size) for size in sizes]
    unsent = UnsentResponses(100, now=time)
    for client in clients:
        unsent.update(client, is_new=True)
    time.now = 10 * YOUNG_S
    return time, unsent, clients


def test_responses_below_the_limit_stay() -> None:
    """No connection is closed while the sum is at most the limit."""
    _, _, clients = _clients(50, 50)

    assert not any(client.is_closed for client in clients)


def test_the_client_that_reads_the_slowest_is_closed() -> None:
    """Above the limit, the connection with the lowest rate is closed, and no other."""
    _, unsent, clients = _clients(40, 40, 20)
    for client, read in zip(clients, (500, 30, 90), strict=True):
        client.read_bytes = read

    unsent.update(newcomer := Client(30), is_new=True)

    assert [client.is_closed for client in (*clients, newcomer)] == [False, True, False, False]


def test_several_are_closed_until_the_rest_fits() -> None:
    """A large response closes as many slow connections as its size needs."""
    _, unsent, clients = _clients(30, 30, 40)
    for client, read in zip(clients, (1, 2, 3), strict=True):
        client.read_bytes = read

    unsent.update(Client(50), is_new=True)

    assert [client.is_closed for client in clients] == [True, True, False]


def test_a_single_response_may_be_larger() -> None:
    """The only response of a process is sent, whatever its size."""
    _, unsent, _ = _clients()

    unsent.update(client := Client(1000), is_new=True)

    assert not client.is_closed


def test_what_clients_have_read_meanwhile_does_not_count() -> None:
    """The sizes are measured again before a connection is closed."""
    _, unsent, clients = _clients(50, 50)
    for client in clients:
        client.unsent_bytes = 0

    unsent.update(Client(60), is_new=True)

    assert not any(client.is_closed for client in clients)


def test_a_closed_connection_does_not_count() -> None:
    """A removed connection makes room."""
    _, unsent, clients = _clients(50, 50)

    unsent.remove(clients[0])
    unsent.update(newcomer := Client(50), is_new=True)

    assert not clients[1].is_closed
    assert not newcomer.is_closed
