"""Wheels and source archives of a test, and the environment variables that limit pip to them."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


class WheelFolder:
    """A folder of packages in the place of a registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def environ(self, **more: str) -> dict[str, str]:
        """Environment variables for pip."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.folder),
            **more,
        }

    def publish(
        self,
        name: str,
        version: str = "1.0",
        *,
        modules: Mapping[str, str] | None = None,
        requires: Sequence[str] = (),
        scripts: Mapping[str, str] | None = None,
    ) -> Path:
        """
        Write a wheel.

        Args:
            name: The name of the distribution.
            version: The version, also the module's `VERSION`.
            modules: The text of each file; default: one module with the distribution's name.
            requires: The required distributions.
            scripts: The function (`module:function`) of each command.
        """
        tag = name.replace("-", "_")
        files = dict(modules or {f"{tag}.py": f"VERSION = {version!r}\n"})
        info = f"{tag}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        if scripts:
            lines = "".join(f"{command} = {target}\n" for command, target in scripts.items())
            files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
        files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
        wheel = self.folder / f"{tag}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(zipfile.ZipInfo(path), text)
        return wheel

    def publish_source(self, name: str, version: str = "1.0", *, setup: str) -> Path:
        """Write a source archive whose installation runs *setup*."""
        place = self.folder / f"{name}-{version}.tar.gz"
        texts = {"setup.py": setup, "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
        with tarfile.open(place, "w:gz") as archive:
            for path, text in texts.items():
                member = tarfile.TarInfo(f"{name}-{version}/{path}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return place
