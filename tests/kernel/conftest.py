"""The real kernel of this checkout, spoken to as a front end does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.lab_files import private_environment

TIMEOUT_S = 60


@dataclass
class RunningKernel:
    """A kernel and its client."""

    manager: Any
    client: Any

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell; the contents of what it printed, showed and raised, each with its message type under `type`."""
        seen: list[dict[str, Any]] = []

        def keep(message: dict[str, Any]) -> None:
            if message["msg_type"] not in {"status", "execute_input"}:
                seen.append({"type": message["msg_type"], **message["content"]})

        self.client.execute_interactive(code, timeout=TIMEOUT_S, output_hook=keep)
        return seen

    def complete(self, code: str) -> tuple[int, list[str]]:
        """Press Tab at the end of *code*: where the replacement starts, and the matches."""
        content = self.client.complete(code, reply=True, timeout=TIMEOUT_S)["content"]
        return content["cursor_start"], content["matches"]


@pytest.fixture
def start_kernel(tmp_path: Path) -> Iterator[Callable[[str], RunningKernel]]:
    """Start a kernel by its name, from its kernelspec."""
    environment = private_environment(tmp_path)
    running: list[RunningKernel] = []

    def start(name: str) -> RunningKernel:
        specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "share" / "kernels")])
        manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
        manager.connection_file = str(tmp_path / f"{name}.json")
        # Over TCP on this machine only; the kernel warns of it at each start.
        manager.start_kernel(env=environment, extra_arguments=["--log-level=ERROR"], cwd=str(tmp_path))
        client = BlockingKernelClient(connection_file=manager.connection_file)
        client.load_connection_file()
        client.start_channels()
        running.append(RunningKernel(manager, client))
        client.wait_for_ready(timeout=TIMEOUT_S)
        return running[-1]

    yield start
    for kernel in running:
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel(now=True)
