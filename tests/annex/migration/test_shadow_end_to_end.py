"""
A project shadowed offline, while a server plays the platform.

A workflow with a parallel block and a module beside it, and the workflow that its errors start, have pasted recording steps. The
moved project, with one seeded difference, is compared with their records as they arrive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from pdkernel.annex.migration.collection import get_write_token
from pdkernel.annex.migration.record_steps import RecordSettings, iter_pasted_steps
from pdkernel.storage import Project
from tests.cli.conftest import Shell, pdkernel
from tests.cli.test_migrate_record import receiving, wait_for
from tests.notebook_files import notebook_of
from tests.serve_process import serving

__all__ = ["pdkernel"]

PRICES = "def price_of(item):\n    return {'pen': 2, 'desk': 300}[item]\n"
SUM = """%%pdstep sum
from prices import price_of

def handler(pd):
    return {"total": sum(price_of(item) for item in pd.steps["trigger"]["event"]["body"]["items"])}
"""
TELL = "%%pdparallel tell\nbig: steps.sum.$return_value.total > 100\nall: always\n"
WARN = "%%pdstep warn --in tell.big\ndef handler(pd):\n    return 'big'\n"
NOTE = "%%pdstep note --in tell.all\ndef handler(pd):\n    return 'note ' + str(pd.steps['sum']['$return_value']['total'])\n"
CLOSE = "%%pdstep close\ndef handler(pd):\n    return pd.steps['tell']['$return_value']\n"
SAY = "%%pdstep say\ndef handler(pd):\n    return pd.steps['trigger']['event']['error']['code']\n"
HEADERS = {
    "orders-p_Orders1": "%%pdworkflow\nname: Orders\ntrigger: {type: http}\n",
    "alarm-p_Alarm01": "%%pdworkflow\nname: Alarm\ntrigger: {type: errors}\n",
}
ORDERS = ((["pen"], 200), (["desk", "pen"], 200), (["boat"], 200), (["desk"], 200))


def write_old(folder: Path, url: str, token: str) -> None:
    """The workflows with the recording steps where a person pastes them."""

    def paste(workflow_id: str, *branches: str) -> list[str]:
        settings = RecordSettings(url=url, token=token)
        places = {f"pd_record_{branch}": f" --in tell.{branch}" for branch in branches}
        return [
            f"%%pdstep {name} --lang node{places.get(name, '')}\n{code}"
            for name, _, code in iter_pasted_steps(settings, workflow_id=workflow_id, branches=branches)
        ]

    start, big, every, end = paste("p_Orders1", "big", "all")
    (folder / "there").mkdir()
    (folder / "there" / "prices.py").write_text(PRICES)
    orders = folder / "there" / "orders-p_Orders1.ipynb"
    notebook_of(orders, HEADERS["orders-p_Orders1"], start, SUM, TELL, WARN, big, NOTE, every, CLOSE, end)
    start, end = paste("p_Alarm01")
    notebook_of(folder / "there" / "alarm-p_Alarm01.ipynb", HEADERS["alarm-p_Alarm01"], start, SAY, end)


def write_moved(folder: Path, note: str) -> None:
    """The moved workflows."""
    (folder / "moved").mkdir(exist_ok=True)
    (folder / "moved" / "prices.py").write_text(PRICES)
    orders = folder / "moved" / "orders-p_Orders1.ipynb"
    notebook_of(orders, HEADERS["orders-p_Orders1"], SUM, TELL, WARN, note, CLOSE)
    notebook_of(folder / "moved" / "alarm-p_Alarm01.ipynb", HEADERS["alarm-p_Alarm01"], SAY)


def words(report: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """The verdicts by workflow and step, without those that there are not."""
    return {
        workflow["workflow"]: {
            step["step"]: {word: count for word, count in step["words"].items() if count} for step in workflow["steps"]
        }
        for workflow in report["workflows"]
    }


def list_statuses(pdkernel: Shell) -> list[str]:
    """The statuses of all runs, sorted."""
    return sorted(run["status"] for run in pdkernel("runs", "list", "--json").json)


def test_a_project_with_blocks_errors_and_modules_is_shadowed(pdkernel: Shell) -> None:
    """The seeded difference is found in its branch only; the workflow of errors is the same, and the failed run waits for its end."""
    with Project.open(pdkernel.folder / ".pdkernel") as project:
        token = get_write_token(project)
    write_moved(pdkernel.folder, NOTE.replace("'note '", "'Note '"))
    with receiving(pdkernel.folder) as url:
        write_old(pdkernel.folder, url, token)
        assert pdkernel("triggers", "enable", "there/alarm-p_Alarm01.ipynb").status == 0
        with serving(pdkernel.folder, "there") as (server, _):
            (orders,) = (each["url"] for each in server["workflows"] if each["name"] == "Orders")
            for items, status in ORDERS:
                assert httpx.post(orders, json={"items": items}, timeout=60).status_code == status
            assert wait_for(lambda: list_statuses(pdkernel) == ["error", *["success"] * 4]), pdkernel(
                "runs", "list"
            ).stdout

    found = pdkernel("migrate", "shadow", "moved", "--once", "--json")
    write_moved(pdkernel.folder, NOTE)
    corrected = pdkernel("migrate", "shadow", "moved", "--once", "--again", "--json")

    assert (found.status, corrected.status) == (1, 0), (found.stdout, corrected.stdout)
    assert words(found.json) == {
        "Alarm": {"say": {"same": 1}},
        "Orders": {
            "sum": {"same": 3},
            "warn": {"same": 2, "not exercised": 1},
            "note": {"differs": 3},
            "close": {"same": 3},
        },
    }
    assert words(corrected.json)["Orders"]["note"] == {"same": 3}
    assert found.json["workflows"][1]["waiting"] == 1
