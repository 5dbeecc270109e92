"""
Notebooks run without a browser, and their outputs compared with the saved outputs.

`PDKERNEL_UPDATE=1 pytest tests/product/test_notebooks.py` writes the new outputs into the notebooks.
"""

from __future__ import annotations

import copy
import difflib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from pdkernel.storage import Project
from tests.golden import write_golden
from tests.lab_files import private_environment, short_folder

TOKEN = "xoxb-planted-in-a-notebook"
"""A credential that the test's own setup stores; a notebook must not show it."""
READER = "you"
"""The name of the system user in saved outputs instead of that of the person who runs the tests."""
CELL_TIMEOUT_S = 100
"""Time limit of a cell in seconds: the first cell of a new project may install packages."""
KEPT_FORMATS = ("text/html", "text/plain")
"""Output formats that are saved. A saved widget would lack its model, so its text is saved instead."""

SCRUBBED = (
    (r"\x1b\[[0-9;]*m", ""),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z)", "<time>"),
    (r"(?<=answer of )\d\d:\d\d", "<time>"),
    (r"\b\d[\d,]*(\.\d+)? (ms|s|min)\b", "<duration>"),
    (r"(?<=\[pdkernel\] installed ).*(?= in )", "<packages>"),
    (r"(?:(?<=%pdserve use )|(?<= success  )|(?<= error  ))\w{27}\b", "<id>"),
    (r"(?i:(?<=\brun )|(?<=resume )|(?<=show )|(?<=queued as ))(?=\w*[A-Z])\w{27}\b", "<id>"),
    (r"(?<=127\.0\.0\.1:)\d+", "<port>"),
    (r"\bapn_(?!Ada|Grace|OpenAI|Postgr)\w{7}\b", "apn_<id>"),
    (r"\b(proj_|eo(?=\w{16}\b))\w+", r"\1<id>"),
    (r" *<duration>(  \|[█ ]+\|)?", " <duration>"),
    (r"\b(margin-left|width):\d+(\.\d+)?%", r"\1:<bar>"),
)
"""Patterns of values that differ between runs, and their replacements for comparisons."""


def run(
    notebook: Path,
    folder: Path,
    prepare: Callable[[Project], None] = lambda project: None,
) -> Any:
    """
    Run all cells of *notebook* in a copy of its folder.

    Args:
        notebook: The file of the notebook; `events/` beside it is copied too.
        folder: The folder of the copy.
        prepare: Adds the accounts and other data that the notebook requires, and does not create, to its project.
    """
    copied = folder / "work" / notebook.name
    shutil.copytree(
        notebook.parent, copied.parent, ignore=shutil.ignore_patterns(".pdkernel", ".ipynb_checkpoints", "exported")
    )
    for event in (copied.parent / "events").glob("*.json"):
        shutil.copystat(copied, event)  # which event is the newest depends on the moments of the checkout
    with Project.open(copied.parent / ".pdkernel") as project:
        prepare(project)
    environment = {
        **private_environment(folder),
        "PDKERNEL_NOTEBOOK": str(copied),
        "COLUMNS": "80",
        "LOGNAME": READER,  # outputs name the user who resumes a run
    }
    specs = KernelSpecManager(kernel_dirs=[str(folder / "share" / "kernels")])
    ran = nbformat.read(copied, as_version=4)
    with short_folder() as sockets:
        client = NotebookClient(
            ran,
            km=AsyncKernelManager(
                kernel_name="pdkernel",
                kernel_spec_manager=specs,
                transport="ipc",
                connection_file=f"{sockets}/kernel.json",
            ),
            resources={"metadata": {"path": str(copied.parent)}},
            store_widget_state=False,
            record_timing=False,
            timeout=CELL_TIMEOUT_S,
        )
        client.execute(env=environment, cleanup_kc=True)  # nbclient does not stop a manager that a caller has passed
    for cell in ran.cells:
        if cell.cell_type == "code":
            cell.outputs = [_for_readers(each) for each in _merged(cell.outputs) if not _is_wait_message(each)]
    return ran


def read(notebook: Path) -> Any:
    """The saved notebook."""
    return nbformat.read(notebook, as_version=4)


def differences(saved: Any, ran: Any) -> str:
    """The diff of the outputs of two runs of one notebook, without the values that always differ."""
    found: list[str] = []
    for before, after in zip(saved.cells, ran.cells, strict=True):
        if before.cell_type == "code":
            found += difflib.unified_diff(
                _lines(before.outputs),
                _lines(after.outputs),
                f"{before.id}, saved",
                f"{after.id}, run now",
                "",
                "",
                1,
                "",
            )
    return "\n".join(found)


def update(notebook: Path, ran: Any) -> None:
    """Save all outputs of *ran* in *notebook*, so that they are of one run; unchanged if only values differ that always differ."""
    saved = read(notebook)
    if counts(saved) == counts(ran) and differences(saved, ran) == "":
        return
    for before, after in zip(saved.cells, ran.cells, strict=True):
        if before.cell_type == "code":
            before.execution_count, before.outputs = after.execution_count, copy.deepcopy(after.outputs)
    write_golden(notebook, nbformat.writes(saved) + "\n")


def counts(notebook: Any) -> list[int | None]:
    """The execution counts of the code cells, in order."""
    return [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: Any) -> Iterator[tuple[str, str]]:
    """Each text of the outputs with the id of its cell: every format, streams and errors."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield from ((cell.id, text) for text in output.get("data", {}).values() if isinstance(text, str))
            yield cell.id, "\n".join([output.get("text", ""), output.get("evalue", ""), *output.get("traceback", ())])


def scrub(text: str) -> str:
    """*text* without the values that differ between runs."""
    for pattern, replacement in SCRUBBED:
        text = re.sub(pattern, replacement, text)
    return text


def _lines(outputs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Outputs as scrubbed lines."""
    lines: list[str] = []
    for output in _merged(outputs):
        kind = output["output_type"]
        if kind == "stream":
            lines += [f"[{output['name']}]", *scrub(output["text"]).splitlines()]
        elif kind == "error":
            lines += ["[error]", *scrub("\n".join(output["traceback"])).splitlines()]
        elif any(output["data"].get(format_) for format_ in KEPT_FORMATS):  # not the empty rest of a progress note
            for format_ in KEPT_FORMATS:
                lines += [f"[{kind} {format_}]", *scrub(output["data"].get(format_, "")).splitlines()]
    return lines


def _merged(outputs: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Outputs with neighbouring pieces of one stream joined, since they are split at random."""
    merged: list[Any] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if (
            output["output_type"] == "stream"
            and last
            and last["output_type"] == "stream"
            and last["name"] == output["name"]
        ):
            merged[-1] = nbformat.from_dict({**last, "text": last["text"] + output["text"]})
        else:
            merged.append(output)
    return merged


def _is_wait_message(output: Any) -> bool:
    """Whether *output* reports that an installation is not finished: a slow machine shows it, a fast one does not."""
    return str(output.get("data", {}).get("text/plain", "")).startswith("still installing ")


def _for_readers(output: Any) -> Any:
    """An output without the formats that need a running kernel."""
    if "data" in output:
        output = nbformat.from_dict({**output, "data": {f: t for f, t in output.data.items() if f in KEPT_FORMATS}})
    return output
