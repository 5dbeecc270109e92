"""Runs of npm, and its failures in words."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from pathlib import Path

import pytest

from pdkernel.errors import InterpreterMissingError
from pdkernel.packages.npm_command import NpmFailedError, build_disk_error, explain_failure, find_npm, run_npm
from tests.process_states import has_ended

MISSING = "'zodd@*' is not in this registry."


def a_node(folder: Path, script: str) -> Path:
    """A Node.js whose npm is the shell script *script*."""
    npm = folder / "lib/node_modules/npm/bin/npm-cli.js"
    npm.parent.mkdir(parents=True)
    npm.write_text(script)
    node = folder / "bin/node"
    node.parent.mkdir()
    node.symlink_to("/bin/sh")
    return node


def explained(code: str, *wanted: str, summary: str = "", detail: str = "") -> tuple[str, str, str | None]:
    """Message, fix and package of the error for a person."""
    error = explain_failure(NpmFailedError(code, summary, detail), wanted or ("zodd",), lambda name: f"Near {name}.")
    return error.message, error.fix, error.package


async def test_npm_runs_in_the_folder_without_scripts(tmp_path: Path) -> None:
    """Npm runs no scripts of packages, installs none for development, and gets no variable of pdkernel."""
    node = a_node(tmp_path, 'printf "%s\\n" "$PWD" "$*" "$KEPT" "$PDKERNEL_KEY"')

    output = await run_npm(
        "install", tmp_path, arguments=["zod"], node=node, environ={"KEPT": "yes", "PDKERNEL_KEY": "secret"}
    )

    folder, arguments, kept, hidden = output.decode().split("\n")[:4]
    assert (folder, kept, hidden) == (str(tmp_path), "yes", "")
    assert arguments.startswith("install zod ")
    assert {"--ignore-scripts", "--omit=dev", "--json"} <= {*arguments.split()}


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ('echo \'{"error": {"code": "E404", "summary": "No.", "detail": "x"}}\'; exit 1', ("E404", "No")),
        ('echo \'{"error": "text"}\'; exit 1', ("", "")),
        ("echo '[1]'; exit 1", ("", "")),
        ("echo '{\"err'; exit 1", ("", "")),
        ("kill -9 $$", ("", "")),
    ],
)
async def test_a_failure_of_npm(tmp_path: Path, script: str, found: tuple[str, str]) -> None:
    """Npm's JSON has the code and the summary; an npm that was killed has neither."""
    with pytest.raises(NpmFailedError) as failed:
        await run_npm("install", tmp_path, node=a_node(tmp_path, script), environ={})

    assert (failed.value.code, failed.value.summary) == found


async def test_a_cancelled_installation_ends_npm(tmp_path: Path) -> None:
    """The processes that npm has started end with the task."""
    pid = tmp_path / "pid"
    node = a_node(tmp_path, f"sleep 600 & echo $! > {pid}; wait")
    task = asyncio.ensure_future(run_npm("install", tmp_path, node=node, environ={"PATH": "/usr/bin:/bin"}))
    async with asyncio.timeout(60):
        while not pid.is_file() or not pid.read_text():
            await asyncio.sleep(0.01)
        for _ in range(100):  # until the pipe of npm is connected
            await asyncio.sleep(0)
        child = int(pid.read_text())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not has_ended(child):
            await asyncio.sleep(0.01)


def test_npm_is_that_of_the_node(tmp_path: Path) -> None:
    """Npm beside Node.js comes first, also of the target of a link; then the npm on PATH, if it is a script of Node.js."""
    node = a_node(tmp_path / "real", "")
    (tmp_path / "link").mkdir()
    link = tmp_path / "link/node"
    link.symlink_to(tmp_path / "other")
    path = tmp_path / "path"
    path.mkdir()
    (tmp_path / "npm-cli.js").write_text("")
    (tmp_path / "npm-cli.js").chmod(0o755)

    def found(environ: Mapping[str, str]) -> Path:
        return find_npm(link, environ)

    assert find_npm(node, {}) == tmp_path / "real/lib/node_modules/npm/bin/npm-cli.js"
    (path / "npm").write_text("#!/bin/sh\n")
    (path / "npm").chmod(0o755)
    with pytest.raises(InterpreterMissingError, match=r"has no npm"):
        found({"PATH": str(path)})
    (path / "npm").unlink()
    (path / "npm").symlink_to(tmp_path / "npm-cli.js")
    assert found({"PATH": str(path)}) == tmp_path / "npm-cli.js"
    beside = tmp_path / "link/npm"
    (tmp_path / "own.js").write_text("")
    (tmp_path / "own.js").chmod(0o755)
    beside.symlink_to(tmp_path / "own.js")
    assert found({"PATH": str(path)}) == tmp_path / "own.js"


def test_npm_of_a_link_to_node_is_that_of_its_target(tmp_path: Path) -> None:
    """A link to Node.js in another folder has the npm of the installation."""
    installed = tmp_path / "installed"
    npm = installed / "lib/node_modules/npm/bin/npm-cli.js"
    npm.parent.mkdir(parents=True)
    npm.touch()
    (installed / "bin").mkdir()
    (installed / "bin/node").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/node").symlink_to(installed / "bin/node")

    assert find_npm(tmp_path / "bin/node", {"PATH": ""}) == npm


def test_a_package_that_does_not_exist() -> None:
    """A package that code imports is named with a suggestion; a dependency is named with the packages that need it."""
    assert explained("E404", "zodd", "axios", detail=MISSING) == ("There is no npm package zodd.", "Near zodd.", "zodd")
    assert explained("E404", "zodd@2", detail=MISSING)[2] == "zodd@2"
    message, fix, package = explained("E404", "zodder", detail=MISSING)
    assert message == "zodder cannot be installed: there is no npm package zodd, which is a dependency."
    assert (fix, package) == ("Import another version of the package.", None)
    assert "npm failed with E404: Gone" in explained("E404", summary="Gone.")[0]


@pytest.mark.parametrize("code", ["ETARGET", "ENOVERSIONS"])
def test_a_version_that_does_not_exist(code: str) -> None:
    """The version is named as written; of several versions of a package, the one that npm names is to blame."""
    summary = "No matching version found for zod@^99."

    message, fix, package = explained(code, "zod@1", "zod@^99", summary=summary)

    assert message == "There is no version of the npm package zod that is ^99."
    assert (fix, package) == ("`npm view zod versions` lists the versions.", "zod@^99")
    assert explained(code, "axios", summary=summary)[0].endswith("that is ^99: axios cannot be installed.")
    assert explained(code, "zod", summary="No versions available for zod")[0].endswith("zod that is usable.")
    assert explained(code, "@a/b@2", summary="No matching version found for @a/b@2.")[0].endswith("@a/b that is 2.")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ERESOLVE", "their dependencies conflict"),
        ("EINTEGRITY", "does not match the hash in the lock file"),
        ("ECONNREFUSED", "does not respond (ECONNREFUSED)"),
        ("ECONNRESET", "does not respond (ECONNRESET)"),
        ("ENOTFOUND", "does not respond (ENOTFOUND)"),
        ("E401", "refuses access (E401)"),
        ("E403", "refuses access (E403)"),
        ("CERT_HAS_EXPIRED", "certificate is not trusted"),
        ("SELF_SIGNED_CERT_IN_CHAIN", "certificate is not trusted"),
        ("DEPTH_ZERO_SELF_SIGNED", "certificate is not trusted"),
        ("UNABLE_TO_GET_ISSUER", "certificate is not trusted"),
        ("ENOSPC", "the disk is full"),
        ("EDQUOT", "the disk is full"),
        ("EACCES", "is denied (EACCES)"),
        ("EROFS", "is denied (EROFS)"),
        ("EODD", "npm failed with EODD."),
        ("", "npm failed."),
    ],
)
def test_each_code_has_its_cause(code: str, words: str) -> None:
    """The code of npm or of the system decides what to check."""
    assert words in explained(code)[0]


def test_a_summary_has_one_line_without_addresses() -> None:
    """An address can have a password, and a summary can be long."""
    summary = f"Failed at https://user:pass@r.example/x {'y' * 500}\nsecond line."

    shown = NpmFailedError("EODD", summary, "").summary

    assert "pass" not in shown
    assert "second" not in shown
    assert len(shown) == 300


def test_a_disk_that_is_full() -> None:
    """A fault of the file system has its cause, or the name of the file."""
    for code in (errno.ENOSPC, errno.EDQUOT):
        assert build_disk_error(OSError(code, "No space"), ["zod"]).message.endswith("the disk is full.")
    assert build_disk_error(OSError(errno.EISDIR, "Is a directory", "/x"), ["zod"]).message == (
        "zod cannot be installed: /x: is a directory."
    )
