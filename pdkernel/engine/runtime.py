"""
The parts that one process needs to run workflows, assembled and taken apart in one place.

Knows which part needs which. Knows nothing of who asks for a run: a notebook's session, the command line,
a test and later the server all start one of these.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pdkernel.actions import Catalog
from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, Ids
from pdkernel.egress import Gateway
from pdkernel.engine.action_forms import ActionForms
from pdkernel.engine.interpreter import Interpreter
from pdkernel.engine.journal import Journal, SqliteJournal
from pdkernel.engine.mail import mail_of
from pdkernel.engine.packages import Packages, go_programs
from pdkernel.engine.request import RunRequest
from pdkernel.engine.sources import Sources
from pdkernel.errors import ProjectError
from pdkernel.execution import Execution
from pdkernel.guests.file_tree import remove_tree
from pdkernel.hosts import WARDEN, Hosts, scratch_folder
from pdkernel.identity import Directory
from pdkernel.project import Project


class Runtime:
    """Everything between a request to run and its execution. Make it with `start`, inside a running loop."""

    def __init__(
        self,
        interpreter: Interpreter,
        *,
        catalog: Catalog,
        forms: ActionForms,
        sources: Sources,
        hosts: Hosts,
        gateway: Gateway,
        journal: Journal,
        scratch: Path,
        shared: bool = False,
    ) -> None:
        self._interpreter = interpreter
        self._shared = shared
        self._hosts = hosts
        self._journal = journal
        self._scratch = scratch
        self.catalog = catalog
        self.forms = forms
        self.sources = sources
        self.gateway = gateway
        self.journal = journal

    @classmethod
    async def start(
        cls,
        project: Project,
        directory: Directory,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = RANDOM_IDS,
        size: int = 8,
        gateway: Gateway | None = None,
        hosts: Hosts | None = None,
        environ: Mapping[str, str] | None = None,
        packages: Packages | None = None,
        python: Path | None = None,
    ) -> Self:
        """
        Open the journal and the gateway; processes for steps start when the first step needs them.

        Args:
            project: Whose journal and key are used.
            directory: Users and accounts.
            clock: For every time stamp.
            ids: For run ids.
            size: Runs that execute at once.
            gateway: One made elsewhere (tests give it a loopback outside), or None for a new one.
            hosts: Processes that another runtime uses, too, with their gateway; both stay when this one closes.
            environ: The environment of what installs packages; `os.environ` by default.
            packages: Those of another project, or None for the project's own.
            python: An interpreter for all Python steps, with the packages that it has; None for an environment of
                each workflow's own.
        """
        journal = _open_journal(project, clock, ids)
        gateway = gateway or await Gateway.start(project.folder / "egress", clock=clock)
        scratch = scratch_folder("pdkernel-")
        WARDEN.register_folder(scratch)  # a notebook's kernel is often ended without being asked
        environ = os.environ if environ is None else environ
        shared = hosts is not None
        hosts = hosts or Hosts(
            gateway=gateway,
            size=size,
            python=python,
            go=go_programs(project.folder, environ),
            kept=(project.folder,),
        )
        catalog = Catalog.of(project, environ=environ)
        interpreter = Interpreter(
            directory=directory,
            stores=project.stores,
            hosts=hosts,
            catalog=catalog,
            packages=packages or Packages.of(project.folder, environ, python=python),
            journal=journal,
            clock=clock,
            ids=ids,
            vault=project.vault,
            scratch=scratch,
            files=project.folder / "files",
            mail=lambda: mail_of(project.settings.all(), project.variables.values()),
        )
        forms = ActionForms(directory=directory, hosts=hosts, catalog=catalog, scratch=scratch)
        sources = Sources(
            directory=directory,
            hosts=hosts,
            catalog=catalog,
            states=project.source_states,
            clock=clock,
            scratch=scratch,
        )
        return cls(
            interpreter,
            catalog=catalog,
            forms=forms,
            sources=sources,
            hosts=hosts,
            gateway=gateway,
            journal=journal,
            scratch=scratch,
            shared=shared,
        )

    async def run(self, request: RunRequest) -> Execution:
        """Run *request*; see `Interpreter.run`."""
        return await self._interpreter.run(request)

    async def close(self) -> None:
        """End every process and close the gateway, unless they are shared; close the journal, remove temporary files."""
        if not self._shared:
            await self._hosts.close()
            await self.gateway.close()
        await self._journal.close()
        await asyncio.to_thread(remove_tree, self._scratch)
        WARDEN.unregister_folder(self._scratch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _open_journal(project: Project, clock: Clock, ids: Ids) -> Journal:
    if project.sqlite_path is None:
        raise ProjectError(
            "This version keeps its journal on SQLite only.", fix="Leave --database out, or give sqlite:///FILE."
        )
    return SqliteJournal.open(project.sqlite_path, clock=clock, ids=ids)
