"""A server that is killed while a step waits for the workflows that it triggers: the repeated step gets the results of its own calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import logging_step, new_project, server_of

ENDED = "select 1 where not exists (select 1 from runs where ended is null)"
TRIGGER = "def ask(name, n): return pd.flow.trigger(name, {'n': n, 'token': 'sk-live-0123456789abcdef'})\n"
HANG = "if attempt == 1: time.sleep(600)\n"


@dataclass(frozen=True)
class Told:
    """
    What happened to a run whose server was killed.

    Attributes:
        status: The run's status.
        output: The run's output: its error, if it failed.
        result: The return value of the step that triggers, or None.
        begun: The steps of the triggered workflows that have begun.
    """

    status: str
    output: str
    result: Any
    begun: Sequence[str]


def tell(fork_server: ForkServer, folder: Path, body: str, *, children: int) -> Told:
    """
    Run a step with *body*; kill the server when as many *children* have ended, and start it again.

    The workflows `charge` and `lookup` return their own name with the number of their event.
    """
    with server_of(fork_server, folder) as server:
        cells = {
            name: [logging_step(name, server.log, f"return ['{name}', trigger['event']['n']]")]
            for name in ("charge", "lookup")
        }
        caller = [logging_step("call", server.log, TRIGGER + body)]
        new_project(folder, caller, charge=cells["charge"], lookup=cells["lookup"])
        server.more = ("charge.ipynb", "lookup.ipynb")
        server.start()
        server.post(server.endpoint, {})
        server.wait_for(
            "select 1 where (select count(*) from runs where parent is not null and ended is not null) = ?", children
        )
        server.kill()
        server.restart()
        server.wait_for(ENDED)
        [(status, output)] = server.rows("select status, output from runs where parent is null")
        [(data,)] = server.rows("select data from steps where name = 'call'")
        begun = sorted(each.step for each in server.begun() if each.step != "call")
        return Told(status, output, json.loads(data)["exports"].get("$return_value"), begun)


@pytest.mark.parametrize("payload", [1, 2])
def test_a_lookup_of_a_repeated_step_has_its_own_result(fork_server: ForkServer, tmp_path: Path, payload: int) -> None:
    """A repeated step that first triggers a workflow to look what was done gets its result, and then that of its earlier call."""
    body = f"found = ask('lookup', {payload}) if attempt > 1 else None\ncharged = ask('charge', 1)\n{HANG}return [found, charged]"

    told = tell(fork_server, tmp_path / "project", body, children=1)

    assert (told.status, told.result) == ("success", [["lookup", payload], ["charge", 1]])
    assert told.begun == ["charge", "lookup"]


@pytest.mark.parametrize("name", ["charge", "lookup"])
def test_calls_in_another_order_have_their_own_results(fork_server: ForkServer, tmp_path: Path, name: str) -> None:
    """A repeated step that triggers in another order gets the result of each of its calls; no workflow runs twice."""
    calls = [("charge", 1), ("charge", 1), (name, 2)]
    body = (
        f"calls = {calls}[::1 if attempt == 1 else -1]\nresults = [ask(*each) for each in calls]\n{HANG}return results"
    )

    told = tell(fork_server, tmp_path / "project", body, children=3)

    assert (told.status, told.result) == ("success", [list(each) for each in reversed(calls)])
    assert told.begun == sorted(each for each, _ in calls)


def test_a_call_that_differs_fails_the_step(fork_server: ForkServer, tmp_path: Path) -> None:
    """A repeated step whose payload differs from that of its earlier call fails; the message names the run, not the values."""
    body = f"result = ask('charge', 41 + attempt)\n{HANG}return result"

    told = tell(fork_server, tmp_path / "project", body, children=1)

    assert (told.status, told.begun) == ("error", ["charge"])
    assert "started it with a different payload, as run " in told.output
    assert "sk-live" not in json.loads(told.output)["error"]["message"]
