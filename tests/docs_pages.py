"""
Pages of the documentation: their code blocks, and a reader who follows a page from top to bottom in an empty folder.

Values that differ from run to run (ids, ports, times) are compared by their kind. Where a page shows such an id, the
reader's commands use the id of the reader's own run instead.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from ruamel.yaml import YAML
from traitlets.config import Config

from pdkernel import load_ipython_extension, unload_ipython_extension
from pdkernel.cli import pdkernel
from pdkernel.common.blocking import FORBID_VARIABLE
from tests.cli.fork_server import ForkServer
from tests.notebook_files import notebook_of
from tests.notebooks import scrub
from tests.ports import free_port

PORT = "8765"
"""The port of `pdkernel serve` on every page; the reader's server listens on a free port."""
DATABASE_URL = "postgresql://pdkernel@db.example.com/pdkernel"
"""The database on every page; the reader's database is on this machine."""
NOTEBOOK = "greet.ipynb"
"""The notebook that the cells of a page belong to."""
KILL_SERVER = 'kill -9 $(pgrep -f "pdkernel serve")'
"""The command by which a page kills its server; the reader kills the server that it has started last."""
OUTPUT_TIMEOUT_S = 60
_POLICY_MAGIC = "%pdegress "
_SAVED_CELLS = ("%%pd", _POLICY_MAGIC)
"""Beginnings of the cells that are put into the notebook."""
WITH_OUTPUT = ("cell", "python")
"""Kinds of blocks whose output is the `text` block below."""

_FENCE = re.compile(
    r"(?:^<!-- (?P<comment>[^\n]*) -->\n+)?^(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_CODE_BLOCK = re.compile(r"\{code-block\} \w+$")
_CAPTION = re.compile(r"(?::caption: (?P<path>\S+)\n)?(?::\w[^\n]*\n)*\n?")
_NOT_RUN = "not run: "
_COMMAND = re.compile(r"^\$ (?P<command>.*(?:\n> .*)*)\n?(?P<output>(?:(?!\$ ).*\n?)*)", re.MULTILINE)
_IDS = re.compile(
    r"\b(?:eo\w{16}|(?:apn|proj|ctok|pdc|pds|dc|whsec|batch)_[\w-]{6,}|(?=\w*[a-z])(?=\w*[A-Z])\w{27})(?![\w-])"
)
"""Ids that pdkernel generates: endpoints, accounts, projects, tokens, clients, deployed triggers, workflows, runs."""
_POLICY = "allow=no-page.invalid"
"""The outbound policy of the pages' commands: no page reaches another machine, and data stores are written as under `live`."""
_POLICY_FOR_TESTS = re.compile(
    rf"\s+·\s+outbound\s+policy\s+{re.escape(_POLICY)}\s+\(PDKERNEL_EGRESS\)"
    rf'|,\n  "outbound_policy": \{{\n    "policy": "{re.escape(_POLICY)}",\n    "origin": "PDKERNEL_EGRESS"\n  \}}'
)
"""What a reader, whose policy is the default, does not see."""
_LINE_FOR_ROOT = re.compile(r"^This server runs as root.*\n?", re.MULTILINE)  # readers of the pages are not root
_SCRUBBED = (
    (_IDS.pattern, "<id>"),
    (r"\bin \d+\.\d+s\b", "in <duration>"),
    (r"(?<=\"duration_ms\": )[\d.]+", "<duration>"),
    (r"(?<=127\.0\.0\.1:)\d+", "<port>"),
)


@dataclass(frozen=True)
class Block:
    """
    A fenced block of a page.

    Attributes:
        kind: `console`, `cell`, `output` (the text below a cell or Python code), `file`, or the language of the block.
        text: The text inside the fence.
        line: Line of the page with the first line of the text.
        start: Offset of the text in the page.
        reason: Why the block is not run, or None.
        path: For a file: where the reader saves it.
    """

    kind: str
    text: str
    line: int
    start: int
    reason: str | None = None
    path: str | None = None


def read_blocks(page: str) -> list[Block]:
    """The code blocks of a page; directives of Sphinx other than `{code-block}` are not code."""
    blocks: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(page):
        info, text, start = fence["info"].strip(), fence["text"], fence.start("text")
        comment = fence["comment"] or ""
        reason = comment.removeprefix(_NOT_RUN) if comment.startswith(_NOT_RUN) else None
        path = None
        if _CODE_BLOCK.match(info):
            options = _CAPTION.match(text)
            assert options is not None
            kind, path = "file", options["path"]
            text, start = text[options.end() :], start + options.end()
        elif info.startswith("{"):
            continue
        elif info == "text" and blocks and blocks[-1].kind in WITH_OUTPUT and not page[end : fence.start()].strip():
            kind = "output"
        else:
            kind = info
        blocks.append(Block(kind, text, page.count("\n", 0, start) + 1, start, reason, path))
        end = fence.end()
    return blocks


def normalise(text: str) -> str:
    """*text* without the values that differ from run to run, and without blanks at the ends of lines."""
    text = scrub(text)
    for pattern, replacement in _SCRUBBED:
        text = re.sub(pattern, replacement, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def matches(shown: str, actual: str) -> bool:
    """Whether *actual* is the output *shown*: `...` is any text in its line, and a line `...` is any number of lines."""
    pattern = ""
    for line in normalise(shown).splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split("...")) + r"\n"
    return re.fullmatch(pattern, f"{normalise(actual)}\n" if actual.strip() else "") is not None


def merge(shown: str, actual: str) -> str:
    """*actual* with the `...` lines of *shown* where they were; all of *actual* if that is not its output."""
    before, after = shown.splitlines(), actual.rstrip().splitlines()
    lines: list[str] = []
    compared = SequenceMatcher(None, [normalise(each) for each in before], [normalise(each) for each in after], False)
    for kind, start, end, first, last in compared.get_opcodes():
        old, new = before[start:end], after[first:last]
        if kind == "equal":
            lines += old
        elif "..." in old:
            head = old.index("...")
            tail = len(old) - 1 - max(place for place, line in enumerate(old) if line == "...")
            lines += [*new[:head], "...", *new[max(head, len(new) - tail) :]]
        else:
            lines += new
    merged = "\n".join(lines) + "\n" if lines else ""
    return merged if matches(merged, actual) else ensure_newline(actual)


class Reader:
    """Follows a page in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, fork_server: ForkServer) -> None:
        self.folder = folder
        self.status = 0
        self._ids: dict[str, str] = {}
        self._servers: list[_Server] = []
        self._port: str | None = None
        self._has_policy_cell = False
        self._state = folder.with_name(f"{folder.name}.state")
        self._shell: Any = None
        self._monkeypatch = monkeypatch
        self._fork_server = fork_server
        self._names: dict[str, Any] = {"__name__": "page"}
        self._set_environment()

    def _set_environment(self) -> None:
        for name in [each for each in os.environ if each.startswith(("PDKERNEL_", "PIPEDREAM_", "PYTEST_ADDOPTS"))]:
            self._monkeypatch.delenv(name)
        programs = str(Path(sys.executable).parent)
        for name, value in {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder.parent),
            "COLUMNS": "100",
            "PDKERNEL_EGRESS": _POLICY,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a reader has pytest alone
            "PYTEST_DEBUG_TEMPROOT": str(self.folder.parent),  # else pytest removes the folders of earlier test runs
            "PYTHONPATH": str(Path(__file__).parents[1]),
            FORBID_VARIABLE: "1",
        }.items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.chdir(self.folder)

    def use_database(self, url: str) -> None:
        """Use the database at *url* where the page has `DATABASE_URL`."""
        self._ids[DATABASE_URL] = url

    def close(self) -> None:
        """End what the page started."""
        for server in self._servers:
            server.close()
        if self._shell is not None:
            unload_ipython_extension(self._shell)
            InteractiveShell.clear_instance()

    def follow(self, block: Block) -> str:
        """Do what *block* shows; the text that this block, or the `text` block below it, shows."""
        match block.kind:
            case "console":
                return self._follow_console(block.text)
            case "cell":
                return self._run_cell(self._own(block.text))
            case "file":
                self._save(block)
            case "python":
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(compile(self._own(block.text), f"line {block.line}", "exec"), self._names)
                return self._as_shown(printed.getvalue())
            case "json":
                json.loads(block.text)
            case "yaml":
                YAML(typ="safe").load(block.text)
            case _:
                raise ValueError(f"line {block.line}: {block.kind or 'a block without a language'} is not run")
        return block.text

    def remember(self, shown: str, actual: str) -> None:
        """Use the ids of *actual* from now on where the page has those of *shown*."""
        here, there = _IDS.findall(shown), _IDS.findall(actual)
        if len(here) == len(there):
            self._ids.update(zip(here, there, strict=True))

    def _own(self, text: str) -> str:
        for shown, own in self._ids.items():
            text = text.replace(shown, own)
        return text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self._port or PORT}")

    def _as_shown(self, text: str) -> str:
        """*text* with the ids, the folders and the port of the page, and without what only a test sees."""
        text = _POLICY_FOR_TESTS.sub("", _LINE_FOR_ROOT.sub("", text))
        for shown, own in self._ids.items():
            text = text.replace(own, shown)
        folders = ((str(self.folder), "/home/you/work"), (str(self.folder.parent), "/home/you"))
        for own, shown in (*folders, (self._port or PORT, PORT)):
            text = text.replace(own, shown)
        return text

    def _save(self, block: Block) -> None:
        if block.path is not None:
            path = self.folder / block.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._own(block.text), encoding="utf-8")

    def _follow_console(self, text: str) -> str:
        lines = []
        for found in _COMMAND.finditer(text):
            command, shown = found["command"], found["output"]
            output = self._run_command(self._own(command.replace("\n> ", "\n")), shown)
            self.remember(shown, output)
            output = self._as_shown(output)
            lines.append(f"$ {command}\n{shown if matches(shown, output) else merge(shown, output)}")
        return "".join(lines)

    def _run_command(self, command: str, shown: str) -> str:
        if command.startswith("pdkernel serve"):
            return self._serve(command, shown)
        if command == KILL_SERVER:  # the servers of other readers must not end
            self._servers[-1].kill()
            return ""
        given, piped, rest = command.rpartition(" | ")
        typed = _plain_words(given) if piped else []
        words = _plain_words(rest if typed[:1] == ["echo"] else command)
        words, file = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)
        # the variable would decide instead of the notebook's cell; and a replay refuses calls unless it names a policy
        if words[:2] == ["pdkernel", "runs"] or self._has_policy_cell:
            self._monkeypatch.delenv("PDKERNEL_EGRESS", raising=False)
        if words[:1] == ["pdkernel"]:  # in this process: a process of its own takes a second to start
            done = CliRunner().invoke(
                pdkernel, words[1:], input=" ".join(typed[1:]) + "\n" if typed else None, prog_name="pdkernel"
            )
            if done.exception is not None and not isinstance(done.exception, SystemExit):
                raise done.exception
            self.status = done.exit_code
            self._monkeypatch.setenv("PDKERNEL_EGRESS", _POLICY)
            if file is None:
                return done.output
            Path(file).write_bytes(done.stdout_bytes)
            return done.stderr
        script = f'(exit {self.status})\n{command}\nstatus=$?\n{{ pwd; env -0; }} > "{self._state}"\nexit $status'
        ended = subprocess.run(
            ["bash", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.status = ended.returncode
        folder, _, variables = self._state.read_text().partition("\n")
        self._monkeypatch.chdir(folder)
        for variable in variables.rstrip("\0").split("\0"):
            name, _, value = variable.partition("=")
            self._monkeypatch.setenv(name, value)
        return ended.stdout

    def _serve(self, command: str, shown: str) -> str:
        self._port = str(free_port())
        server = _Server(self._fork_server, [*shlex.split(command)[1:], "--port", self._port])
        self._servers.append(server)
        output, self.status = server.read_until(lambda text: matches(shown, self._as_shown(text)) if shown else None)
        return output

    def _run_cell(self, text: str) -> str:
        text = text.rstrip("\n")
        notebook = self.folder / NOTEBOOK
        if text.startswith(_SAVED_CELLS):
            _save_cell(notebook, text)
        self._has_policy_cell |= text.startswith(_POLICY_MAGIC)
        if self._shell is None:
            self._monkeypatch.setenv("PDKERNEL_NOTEBOOK", str(notebook))
            InteractiveShell.clear_instance()
            self._shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
            load_ipython_extension(self._shell)
        with capture_output() as captured:
            self._shell.run_cell(text, store_history=True)
        displays: dict[Any, str] = {}
        for number, output in enumerate(captured.outputs):  # an update takes the place of its display
            displays[(output.transient or {}).get("display_id", number)] = output.data.get("text/plain", "")
        return self._as_shown(
            ensure_newline("\n".join(filter(None, [*displays.values(), captured.stdout, captured.stderr])))
        )


class _Server:
    """`pdkernel serve` in the background."""

    def __init__(self, fork_server: ForkServer, args: list[str]) -> None:
        reads, writes = os.pipe()
        self._process = fork_server.open(args, folder=Path.cwd(), environ=os.environ, stdout=writes, stderr=writes)
        os.close(writes)
        self._lines = os.fdopen(reads, encoding="utf-8")
        self._output = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._lines:
            for line in self._lines:
                self._output += line

    def read_until(self, is_shown: Callable[[str], bool | None]) -> tuple[str, int]:
        """
        Wait for output, and return the output with the exit status so far.

        Args:
            is_shown: Whether the page shows this output; None if the page shows none, which any started server fits.
        """
        deadline = time.monotonic() + OUTPUT_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            fits = is_shown(self._output)
            if (self._has_started() if fits is None else fits) and not self._has_failed():
                return self._output, 0
            time.sleep(0.05)
        self._thread.join(5)
        return self._output, self._process.poll() or 0

    def _has_started(self) -> bool:
        return "stops)" in self._output and "/eo" in self._output and self._output.endswith("\n")

    def _has_failed(self) -> bool:
        """The server reports an error and will exit with a status."""
        return any(line.startswith("Error: ") for line in self._output.splitlines())

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the server and wait for its end."""
        self._process.terminate()
        with contextlib.suppress(TimeoutError):
            self._process.wait(15)
        self._process.kill()
        self._process.wait()
        self._thread.join(5)


@contextlib.contextmanager
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch, fork_server: ForkServer) -> Iterator[Reader]:
    """A reader at the start of a page."""
    following = Reader(folder, monkeypatch, fork_server)
    try:
        yield following
    finally:
        following.close()


def ensure_newline(text: str) -> str:
    """*text* with one newline at its end, unless it is empty."""
    return f"{text.rstrip()}\n" if text.strip() else ""


def _plain_words(command: str) -> list[str]:
    """The words of a command, which may end with `> FILE`; none if a shell has to read the command."""
    if re.search(r"[|<>;&$`*]", re.sub(r"'[^']*'| > [\w.]+$", "", command)):
        return []
    return shlex.split(command.replace("\\\n", " "))


def _save_cell(notebook: Path, text: str) -> None:
    """Put a cell into the notebook, in the place of the cell of the same step or header."""
    cells = []
    if notebook.exists():
        saved = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        cells = ["".join(cell["source"]) for cell in saved if cell["cell_type"] == "code"]
    names = [cell.split()[:2] if cell.startswith("%%pdstep") else cell.split()[:1] for cell in cells]
    name = text.split()[:2] if text.startswith("%%pdstep") else text.split()[:1]
    if name in names:
        cells[names.index(name)] = text
    else:
        cells.append(text)
    notebook_of(notebook, *cells)
