"""The real kernel of this checkout, with the messages of a front end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.lab_files import private_environment, short_folder

TIMEOUT_S = 100
NOT_SHOWN = {"status", "execute_input"}


@dataclass
class RunningKernel:
    """A kernel and its client."""

    manager: Any
    client: Any

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell; return its printed, displayed and raised contents, each with its message type under `type`."""
        return list(self.answers(self.client.execute(code)))

    def answers(self, cell: str) -> Iterator[dict[str, Any]]:
        """The messages of *cell* (the id of its request), in order, until its end."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            if message["msg_type"] not in NOT_SHOWN:
                yield {"type": message["msg_type"], **message["content"]}

    def complete(self, code: str) -> tuple[int, list[str]]:
        """Press Tab at the end of *code*: where the replacement starts, and the matches."""
        content = self.client.complete(code, reply=True, timeout=TIMEOUT_S)["content"]
        return content["cursor_start"], content["matches"]


def text_of(content: Mapping[str, Any]) -> str:
    """A message as plain text."""
    if content["type"] == "error":
        return "\n".join(content["traceback"])
    return str(content.get("text") or content.get("data", {}).get("text/plain", ""))


@contextmanager
def running_kernels(folder: Path) -> Iterator[Callable[..., RunningKernel]]:
    """Start kernels by name and environment variables, from their kernelspecs, in *folder*; stop them afterwards."""
    environment = private_environment(folder)
    running: list[RunningKernel] = []

    def start(name: str, **environ: str) -> RunningKernel:
        specs = KernelSpecManager(kernel_dirs=[str(folder / "share" / "kernels")])
        manager = KernelManager(
            kernel_name=name,
            kernel_spec_manager=specs,
            # Not TCP: between choosing a port and taking it, another program may take it.
            transport="ipc",
            connection_file=f"{sockets}/{len(running)}.json",
        )
        manager.start_kernel(env={**environment, **environ}, cwd=str(folder))
        # With its manager, which checks the process: a heartbeat may be late on a busy machine.
        client = BlockingKernelClient(connection_file=manager.connection_file, parent=manager)
        client.load_connection_file()
        client.start_channels()
        running.append(RunningKernel(manager, client))
        client.wait_for_ready(timeout=TIMEOUT_S)
        return running[-1]

    with short_folder() as sockets:
        try:
            yield start
        finally:
            for kernel in running:
                kernel.client.stop_channels()
                kernel.manager.shutdown_kernel(now=True)


@pytest.fixture
def start_kernel(tmp_path: Path) -> Iterator[Callable[..., RunningKernel]]:
    """Start a kernel by its name and with variables, from its kernelspec."""
    with running_kernels(tmp_path) as start:
        yield start
