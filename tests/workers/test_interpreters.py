"""Finding interpreters, and the commands that start workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pdkernel import runtimes
from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.errors import InterpreterMissingError
from pdkernel.workers import find_bash, find_go, find_node
from pdkernel.workers.interpreters import build_worker_command, find_code_cache


def program(path: Path, output: str) -> Path:
    """Write a program that prints *output*."""
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


def test_node_is_found() -> None:
    """Node.js of the wheel, or Node.js on PATH, is found."""
    assert find_node().name == "node"


def test_pdkernel_node_has_precedence(tmp_path: Path) -> None:
    """PDKERNEL_NODE has precedence over the wheel, and the wheel over PATH; version 20 is enough."""
    node = program(tmp_path / "mynode", "v20.0.0")
    on_path = program(tmp_path / "node", "v99.0.0")

    assert find_node({"PDKERNEL_NODE": str(node), "PATH": ""}) == node
    assert find_node({"PATH": str(tmp_path)}) == find_node({"PATH": ""}) != on_path


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("v18.20.1", r"its version is 18\.20\.1, and steps need Node\.js 20 or newer"),
        ("hello", "this program is not Node"),
    ],
)
def test_unusable_pdkernel_node_is_refused(tmp_path: Path, answer: str, why: str) -> None:
    """A chosen program must print a version from 20 on; the error has the reason and the command that installs another."""
    node = program(tmp_path / "old", answer)

    with pytest.raises(InterpreterMissingError, match=why) as caught:
        find_node({"PDKERNEL_NODE": str(node)})

    assert caught.value.fix == INSTALL_COMMANDS["node"]


def test_missing_bash_is_an_error(tmp_path: Path) -> None:
    """A PATH without bash is an error."""
    with pytest.raises(InterpreterMissingError, match="bash is not on PATH"):
        find_bash({"PATH": str(tmp_path)})


def go(path: Path, version: str) -> Path:
    """A program that answers as the Go of *version*."""
    path.parent.mkdir(exist_ok=True)
    return program(path, f'{{"GOROOT": "{path.parent}", "GOVERSION": "{version}"}}')


def test_go_of_the_wheel_is_found() -> None:
    """If PATH has no Go, the compiler of the wheel is found, not its script."""
    found = find_go({"PATH": ""})

    assert found.command == found.root / "bin" / "go"
    assert found.version.startswith("go1.")


def test_go_on_path_has_precedence_over_the_wheel(tmp_path: Path) -> None:
    """Go on PATH has precedence over the wheel, and PDKERNEL_GO over both."""
    on_path = go(tmp_path / "bin" / "go", "go1.99.1")
    chosen = go(tmp_path / "mine", "go1.21")

    assert find_go({"PATH": str(on_path.parent)}).version == "go1.99.1"
    assert find_go({"PATH": str(on_path.parent), "PDKERNEL_GO": str(chosen)}).version == "go1.21"


def test_a_script_that_calls_go_is_replaced_by_go(tmp_path: Path) -> None:
    """If the chosen program is a script, the compiler in its root folder is used."""
    own = program(tmp_path / "go", "")
    own.parent.joinpath("bin").mkdir()
    own = own.rename(tmp_path / "bin" / "go")

    assert find_go({"PDKERNEL_GO": str(go(tmp_path / "script", "go1.22.1"))}).command == own


def test_wheel_replaces_an_old_go_on_path(tmp_path: Path) -> None:
    """If Go on PATH is too old, Go of the wheel is used."""
    old = go(tmp_path / "bin" / "go", "go1.20.14")

    assert find_go({"PATH": str(old.parent)}).command != old


@pytest.mark.parametrize(
    ("answer", "why"),
    [("go1.20.14", r"its version is go1\.20\.14, and steps need Go 1\.21 or newer"), ("tip", "steps need Go 1.21")],
)
def test_unusable_pdkernel_go_is_refused(tmp_path: Path, answer: str, why: str) -> None:
    """The error has the reason and the command that installs Go."""
    with pytest.raises(InterpreterMissingError, match=why) as caught:
        find_go({"PDKERNEL_GO": str(go(tmp_path / "go", answer))})

    assert caught.value.fix == INSTALL_COMMANDS["go"]


def test_program_that_is_not_go_is_refused(tmp_path: Path) -> None:
    """A chosen program must answer as Go does."""
    for name, answer in (("odd", "hello"), ("json", "{}")):
        with pytest.raises(InterpreterMissingError, match="this program is not Go"):
            find_go({"PDKERNEL_GO": str(program(tmp_path / name, answer))})


FLAGS = ["--experimental-vm-modules", "--experimental-import-meta-resolve", "--no-warnings"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the runtime without a code cache."""
    source = Path(runtimes.__file__).parent / "node"
    return Path(shutil.copytree(source, tmp_path / "node", ignore=shutil.ignore_patterns("__pycache__")))


def write_cache(folder: Path) -> Path:
    """The code cache of *folder*, when it is written."""
    for _ in range(1000):
        cache = find_code_cache(find_node(), folder)
        if cache is not None:
            return cache
        time.sleep(0.02)
    raise AssertionError("no cache was written")


def first_line(folder: Path, cache: Path | None, hidden: str = "") -> str:
    """The first reply of a worker that *folder* starts; *hidden* is a module whose file is removed before."""
    if hidden:
        (folder / hidden).unlink()
    requests, request_end = os.pipe()
    reply_end, replies = os.pipe()
    program = [str(find_bash()), "-c", f'exec "$@" 3<&{requests} 4>&{replies}', "bash", str(find_node()), *FLAGS]
    worker = subprocess.Popen(
        [*program, str(folder / "start.mjs"), *([str(cache)] if cache else [])], pass_fds=(requests, replies)
    )
    os.close(requests)
    os.close(replies)
    with os.fdopen(reply_end) as stream:
        line = stream.readline()
        os.close(request_end)
        worker.wait(60)
    return line


def test_cache_is_written_once_and_used(folder: Path) -> None:
    """The first call writes the cache; a worker with the cache needs no source file."""
    assert find_code_cache(find_node(), folder) is None
    cache = write_cache(folder)

    assert first_line(folder, cache, hidden="props.mjs") == '0 {"t":"ready"}\n'


def test_worker_starts_without_a_usable_cache(folder: Path) -> None:
    """A worker whose cache is damaged or missing starts from the sources."""
    cache = write_cache(folder)
    data = cache.read_bytes()
    cache.write_bytes(data[: len(data) // 2])

    assert [first_line(folder, each) for each in (cache, folder / "missing", None)] == ['0 {"t":"ready"}\n'] * 3


def test_changed_source_gets_a_new_cache(folder: Path) -> None:
    """A cache of other sources is not used, and is replaced, although the sources have the same size."""
    cache = write_cache(folder)
    stamp = json.loads(cache.read_bytes().partition(b"\n")[0])["stamp"]
    changed = folder / "props.mjs"
    changed.write_text(changed.read_text()[:-1] + " ")
    find_code_cache.cache_clear()

    assert find_code_cache(find_node(), folder) is None
    assert json.loads(write_cache(folder).read_bytes().partition(b"\n")[0])["stamp"] != stamp


def test_cache_that_cannot_be_written_is_not_used(folder: Path) -> None:
    """If the cache cannot be written, workers start without a cache, and no later worker writes it."""
    (folder / "__pycache__").write_text("a file")

    assert find_code_cache(find_node(), folder) is None
    hits = find_code_cache.cache_info().hits
    assert find_code_cache(find_node(), folder) is None
    assert find_code_cache.cache_info().hits == hits + 1


def test_program_that_writes_no_cache_is_started_once(folder: Path, tmp_path: Path) -> None:
    """If Node.js cannot write the cache, no later worker tries again."""
    node, starts = tmp_path / "node.sh", tmp_path / "starts"
    node.write_text(f"#!/bin/sh\necho x >> {starts}\nexit 1\n")
    node.chmod(0o755)

    for _ in range(3):
        assert find_code_cache(node, folder) is None
        for thread in threading.enumerate():
            if "_write_code_cache" in thread.name:
                thread.join(60)

    assert starts.read_text() == "x\n"


def test_command_of_a_node_worker() -> None:
    """A worker is started by `start.mjs`, with the cache if there is one."""
    command = build_worker_command("node", python=None, node=None)

    assert command.argv[:5] == [str(find_node()), *FLAGS, str(Path(runtimes.__file__).parent / "node" / "start.mjs")]
    assert not command.is_forked


@pytest.mark.parametrize("ignores", [True, False])
def test_command_of_a_python_worker(ignores: bool) -> None:
    """A worker whose environment fixes the order of sets is executed, not forked: the zygote has another order."""
    command = build_worker_command("python", python=Path("/env/bin/python"), node=None, ignore_environment=ignores)

    assert command.argv[0] == "/env/bin/python"
    assert ("-I" in command.argv, command.is_forked) == (ignores, ignores)
