"""A server that is killed while a step waits for the workflows that it triggers: the repeated step gets the results of its own calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import ENDED, logging_step, new_project, server_of

TRIGGER = (
    "def ask(name, n): return pd.flow.trigger(name, {{'n': n, 'caller': '{0}', 'token': 'sk-live-0123456789abcdef'}})\n"
)
HANG = "if attempt == 1: time.sleep(600)\n"


CALLS = [("charge", 1), ("charge", 1)]


@dataclass(frozen=True)
class Told:
    """The status and the output of a run whose server was killed, what its step returned, and the runs that it has triggered."""

    status: str
    output: str
    result: Any
    children: Sequence[list[Any]]


def tell(fork_server: ForkServer, folder: Path, bodies: Mapping[str, str], *, children: int) -> dict[str, Told]:
    """
    Run a step with each body; kill the server when as many *children* have ended, and start it again.

    The workflows `charge` and `lookup` return their own name with the number of their event.
    """
    with server_of(fork_server, folder) as server:
        returned = "return ['{0}', trigger['event']['n']]"
        number = "[pd.steps['trigger']['event']['caller'], '{0}', pd.steps['trigger']['event']['n']]"
        cells = {
            name: [logging_step(name, server.log, returned.format(name), number=number.format(name))]
            for name in ("charge", "lookup")
        }
        for name, body in bodies.items():
            cells[name] = [logging_step("call", server.log, TRIGGER.format(name) + body)]
        new_project(folder, ["%%pdstep none\ndef handler(pd): pass"], token=None, **cells)
        server.more = tuple(f"{name}.ipynb" for name in cells)
        server.start()
        for name in bodies:
            assert server.post(server.urls[name], {}).is_accepted
        server.wait_for(
            "select 1 where (select count(*) from runs where parent is not null and ended is not null) = ?", children
        )
        server.kill()
        server.restart()
        server.wait_for(ENDED)
        told = {}
        for name in bodies:
            query = "select status, output, data from runs join steps on run_id = id where workflow like ?"
            [(status, output, data)] = server.rows(query, f"{name}%")
            begun = [each.event[1:] for each in server.begun() if each.step != "call" and each.event[0] == name]
            told[name] = Told(status, output, json.loads(data)["exports"].get("$return_value"), sorted(begun))
        return told


def test_a_repeated_step_has_the_results_of_its_own_calls(fork_server: ForkServer, tmp_path: Path) -> None:
    """
    A repeated step that first triggers a workflow to look what was done gets its result, and then that of its earlier call.

    One that triggers in another order gets the result of each of its calls. No workflow runs twice for one call.
    """
    looks = "found = ask('lookup', {payload}) if attempt > 1 else None\ncharged = ask('charge', 1)\n{hang}return [found, charged]"
    turns = (
        "calls = {calls}[::1 if attempt == 1 else -1]\nresults = [ask(*each) for each in calls]\n{hang}return results"
    )
    orders = {"same": [*CALLS, ("charge", 2)], "other": [*CALLS, ("lookup", 2)]}
    bodies = {f"looks{payload}": looks.format(payload=payload, hang=HANG) for payload in (1, 2)}
    bodies |= {name: turns.format(calls=calls, hang=HANG) for name, calls in orders.items()}

    told = tell(fork_server, tmp_path / "project", bodies, children=8)

    assert {each.status for each in told.values()} == {"success"}
    for payload in (1, 2):
        assert told[f"looks{payload}"].result == [["lookup", payload], ["charge", 1]]
        assert told[f"looks{payload}"].children == [["charge", 1], ["lookup", payload]]
    for name, calls in orders.items():
        assert told[name].result == [list(each) for each in reversed(calls)]
        assert told[name].children == sorted(map(list, calls))


def test_a_call_that_differs_fails_the_step(fork_server: ForkServer, tmp_path: Path) -> None:
    """A repeated step whose payload differs from that of its earlier call fails; the message names the run, not the values."""
    body = f"result = ask('charge', 41 + attempt)\n{HANG}return result"

    told = tell(fork_server, tmp_path / "project", {"differs": body}, children=1)["differs"]

    assert (told.status, told.children) == ("error", [["charge", 42]])
    assert "started it with a different payload, as run " in told.output
    assert "sk-live" not in json.loads(told.output)["error"]["message"]


def test_runs_that_wait_for_each_other(fork_server: ForkServer, tmp_path: Path) -> None:
    """Two workflows of `concurrency: 1` whose runs start each other: one call fails and names the circle, the other one ends."""
    with server_of(fork_server, tmp_path / "project") as server:
        settings = "%%pdworkflow\nname: {name}\nsettings: {{concurrency: 1}}\n"

        def call(other: str) -> str:
            return (
                "%%pdstep call --timeout 300\nimport time\ndef handler(pd):\n"
                "    if not pd.steps['trigger']['event'].get('headers'): return 'leaf'\n"
                f"    time.sleep(1)\n    return pd.flow.trigger({other!r}, {{'n': 1}})\n"
            )

        cells = [settings.format(name="flow"), call("other")]
        new_project(server.folder, cells, other=[settings.format(name="other"), call("flow")])
        server.more = ("other.ipynb",)
        server.start()
        for url in server.urls.values():
            assert server.post(url, {}).is_accepted
        server.wait_for(ENDED)
        ended = server.rows("select status, output from runs where parent is null")

    assert sorted(status for status, _ in ended) == ["error", "success"]
    assert "wait for each other" in next(output for status, output in ended if status == "error")
