"""Bytecode of installed modules: what is compiled, and the cache."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pdkernel.packages.bytecode import BytecodeCompiler

MANY = {f"extra/other{number}.py": "" for number in range(200)}
"""Modules that nothing imports."""


def write_modules(site: Path, modules: Mapping[str, str]) -> None:
    """Write the text of each file in *site*."""
    for name, text in modules.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)


def compiled(site: Path) -> set[str]:
    """The files in *site* that have bytecode."""
    return {f"{file.parents[1].relative_to(site)}/{file.name.partition('.')[0]}" for file in site.rglob("*.pyc")}


def test_what_an_import_loads_is_compiled(tmp_path: Path) -> None:
    """Absolute, relative and class-level imports are followed; those of functions are left for later. No module runs."""
    site, mark = tmp_path / "site", tmp_path / "mark"
    modules = {
        "top/__init__.py": f"open({str(mark)!r}, 'w')\nfrom . import near\nfrom .deep.leaf import value\n",
        "top/near.py": "import single.part as other\nclass A:\n    import inner\ndef f():\n    import late\n",
        "top/deep/__init__.py": "",
        "top/deep/leaf.py": "from ..up import x\nfrom .missing import y\n",
        "top/up.py": "def broken(:\n",
        "single/__init__.py": "",
        "single/part.py": "import json\n",
        "inner.py": "",
        "late.py": "",
    }
    write_modules(site, {**modules, **MANY})

    is_complete = BytecodeCompiler(site, tmp_path / "cache").compile_imported(["top"])

    assert compiled(site) == {
        *("top/__init__", "top/near", "top/deep/__init__", "top/deep/leaf"),
        *("single/__init__", "single/part", "./inner"),
    }
    assert not is_complete
    assert not mark.exists()


def test_few_other_modules_are_compiled_at_once(tmp_path: Path) -> None:
    """A small set of packages is complete after the first call."""
    write_modules(tmp_path / "site", {"top.py": "", "late.py": ""})

    assert BytecodeCompiler(tmp_path / "site", tmp_path / "cache").compile_imported(["top"])
    assert compiled(tmp_path / "site") == {"./top", "./late"}


def test_python_uses_the_bytecode(tmp_path: Path) -> None:
    """An import loads the bytecode of the file as it is, and names the file in a traceback."""
    site = tmp_path / "site"
    write_modules(tmp_path / "earlier", {"top.py": "value = 1 / 0\n"})
    write_modules(site, {"top.py": "value = 1 / 0\n"})
    for folder in (tmp_path / "earlier", site):
        BytecodeCompiler(folder, tmp_path / "cache").compile_all()

    code = f"import sys; sys.path.insert(0, {str(site)!r}); import top"
    done = subprocess.run([sys.executable, "-I", "-v", "-c", code], capture_output=True, text=True, check=False)

    assert f"matches {site / 'top.py'}" in done.stderr
    assert f'File "{site / "top.py"}", line 1' in done.stderr
    assert "earlier" not in done.stderr


@pytest.mark.parametrize("is_damaged", [False, True])
def test_bytecode_of_the_same_source_is_reused(tmp_path: Path, is_damaged: bool) -> None:
    """A second folder gets the cached bytecode; damaged bytecode is compiled again."""
    for name in ("first", "second"):
        write_modules(tmp_path / name, {"top.py": "value = 1\n"})
    BytecodeCompiler(tmp_path / "first", tmp_path / "cache").compile_all()
    (stored,) = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    stored.write_bytes(b"" if is_damaged else marshal.dumps(compile("value = 2", "top.py", "exec")))

    BytecodeCompiler(tmp_path / "second", tmp_path / "cache").compile_all()

    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'second')!r}); import top; print(top.value)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ("1\n" if is_damaged else "2\n")


def test_the_cache_is_limited(tmp_path: Path) -> None:
    """A full folder of the cache loses its oldest files."""
    full = tmp_path / "cache" / "00"
    write_modules(full, {f"{number:03}": "" for number in range(105)})
    for number in range(105):
        os.utime(full / f"{number:03}", (number, number))
    write_modules(tmp_path / "site", {"top.py": ""})

    BytecodeCompiler(tmp_path / "site", tmp_path / "cache").compile_all()

    assert {file.name for file in full.iterdir()} == {f"{number:03}" for number in range(5, 105)}
