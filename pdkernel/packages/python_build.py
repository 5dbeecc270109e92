"""Resolves the packages of a new Python environment, and installs them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from venv import EnvBuilder

from pdkernel.analysis import PythonRequirement
from pdkernel.packages.python_lock import LockBlock, Pin, describe_machine, describe_python, format_requirements
from pdkernel.packages.uv_command import UnsatisfiableError, Uv


@dataclass(frozen=True, slots=True)
class PythonBuild:
    """
    The installation of packages into a new environment.

    Attributes:
        python: The environment's interpreter.
        site: The folder of the environment's packages.
        uv: uv for this installation.
        wanted: The requirements.
        locked: The packages whose versions are used in any case, or None.
    """

    python: Path
    site: Path
    uv: Uv
    wanted: Sequence[PythonRequirement]
    locked: LockBlock | None

    async def install(self, block: LockBlock | None, known: Sequence[Pin]) -> LockBlock:
        """Install *block* if it suits this machine, else what is resolved, if possible in the versions *known*; return its block."""
        try:
            if block is None or not block.rank:
                block = await self._resolve(known)
            await self._install(block.pins)
        except UnsatisfiableError:
            if block is not None and block.machine == describe_machine():
                raise
            # a package has no file for this platform, but perhaps another version does
            block = await self._resolve(block.pins if block is not None else known, is_universal=False)
            await self._install(block.pins)
        return block

    async def _install(self, pins: Sequence[Pin]) -> None:
        """Install *pins* into the environment, emptied first: uv runs its interpreter, which would run code of packages."""
        EnvBuilder(symlinks=True, with_pip=False, clear=True).create(self.python.parents[1])
        await self.uv.install(pins, self.python)

    async def _resolve(self, known: Sequence[Pin], *, is_universal: bool = True) -> LockBlock:
        added = [requirement for requirement in self.wanted if not requirement.module]
        imported = [requirement for requirement in self.wanted if requirement.module]
        if added and imported:
            # a package that a comment names may provide an import: `add-package py-foo` for `import foo`
            first = await self._resolve_some(added, known, is_universal=is_universal)
            await self._install(first.pins)
            imported = [each for each in imported if not _is_provided(self.site, each)]
            if not imported:
                return first
            known = first.pins
        return await self._resolve_some([*added, *imported], known, is_universal=is_universal)

    async def _resolve_some(
        self, some: Sequence[PythonRequirement], known: Sequence[Pin], *, is_universal: bool
    ) -> LockBlock:
        required = self.locked.pins if self.locked is not None else ()
        words = format_requirements(self.wanted)
        if is_universal:
            with contextlib.suppress(UnsatisfiableError):
                pins = await self.uv.resolve(some, preferred=known, required=required, is_universal=True)
                return LockBlock(words, describe_python(), pins)
        pins = await self.uv.resolve(some, preferred=known, required=required, is_universal=False)
        return LockBlock(words, describe_machine(), pins)


def _is_provided(site: Path, requirement: PythonRequirement) -> bool:
    place = site.joinpath(*requirement.module.split("."))
    return place.is_dir() or any(place.parent.glob(f"{place.name}.*"))
