"""The commands that start workers, and the code cache of the Node.js runtime."""

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
from pdkernel.workers import find_bash, find_node
from pdkernel.workers.worker_command import build_worker_command, find_code_cache

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
