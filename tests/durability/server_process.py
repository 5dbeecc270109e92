"""A server in a process that a test kills and starts again, and what the test reads of it: journal, log of steps, messages."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pdkernel.accounts import LocalDirectory
from pdkernel.common.blocking import FORBID_VARIABLE
from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.storage import Project
from tests.cli.fork_server import ROOT, ForkServer
from tests.notebook_files import notebook_of
from tests.ports import free_port
from tests.waiting import LIMIT_S, T, wait_until

ENDED = "select 1 where not exists (select 1 from runs where ended is null)"
"""A query with a row as soon as every run has ended."""


@dataclass(frozen=True)
class Began:
    """
    A step that has begun, as the step itself writes it.

    Attributes:
        run: The run's id.
        step: The step's name.
        attempt: `$.context.attempt`, or 1.
        at: Seconds since 1970.
        event: The number in the event's body, or what else a test logs, or None.
    """

    run: str
    step: str
    attempt: int
    at: float
    event: Any = None


def logging_step(
    name: str, log: Path, body: str = "return 1", *, options: str = "", number: str = 'body.get("n")'
) -> str:
    """The cell of a Python step that appends a line, with the value of the expression *number*, to *log* before *body*."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return f"""%%pdstep {name} {options}
import hashlib, json, os, time
def handler(pd):
    trigger, attempt = pd.steps["trigger"], pd.context.get("attempt", 1)
    body = trigger["event"].get("body") or {{}}
    line = [trigger["context"]["id"], "{name}", attempt, time.time(), {number}]
    log = os.open({str(log)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, (json.dumps(line) + "\\n").encode())
    os.close(log)
{indented}
"""


@dataclass
class Answer:
    """The status, the text and the header `Retry-After` of a response; status 0 if there was no response."""

    status: int
    text: str = ""
    retry_after: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


@dataclass
class ServerProcess:
    """
    `pdkernel serve` of the notebook `flow.ipynb` in *folder*, forked from *fork_server*, always on the same port.

    Attributes:
        database_url: The project's database on PostgreSQL, or None for SQLite.
        key_file: The project's key, or None for the folder's own.
        more: Other notebooks that it serves.
        said: The output of the last start: one line as JSON, or an error.
        take_overs: For each start after which runs of a dead process went on, the seconds from the start's first answer.
        starts_s: Seconds of each start, until the server accepts requests.
    """

    fork_server: ForkServer
    folder: Path
    log: Path
    port: int
    database_url: str | None = None
    key_file: Path | None = None
    pid: int = 0
    endpoint: str = ""
    said: str = ""
    take_overs: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    more: tuple[str, ...] = ()
    _handle: int | None = None

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        """The project's database."""
        return self.folder / ".pdkernel" / "project.db"

    def start(self, *before: object) -> bool:
        """Start the server; return False if it died before it accepted requests. *before* is as in `ForkServer.start`."""
        assert not self.is_alive
        began = time.monotonic()
        reads, writes = os.pipe()
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT), FORBID_VARIABLE: "1"}
        environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
        environ[STEP_PATHS_VARIABLE] = os.environ[STEP_PATHS_VARIABLE]  # steps write logs beside the project
        if self.database_url is not None:
            environ["PDKERNEL_DATABASE"] = self.database_url
        if self.key_file is not None:
            environ["PDKERNEL_KEY_FILE"] = str(self.key_file)
        args = ("serve", "flow.ipynb", *self.more, "--port", str(self.port), "--json")
        with Path(os.devnull).open() as nothing, self.log.with_suffix(".errors").open("a") as errors:
            streams = (nothing.fileno(), writes, errors.fileno())
            self.pid = self.fork_server.start(args, folder=self.folder, environ=environ, streams=streams, before=before)
        os.close(writes)
        self._handle = os.pidfd_open(self.pid)
        ready, _, _ = select.select([reads, self._handle], [], [], LIMIT_S)
        with os.fdopen(reads) as lines:
            self.said = lines.readline() if reads in ready else ""
            if not self.said.startswith('{"url"'):  # it died, or refused to start
                self.wait_until_ended()
                self.said += lines.read()
                return False
        self.starts_s.append(time.monotonic() - began)
        self.endpoint = json.loads(self.said)["workflows"][0]["url"]
        return True

    def restart(self) -> None:
        """Start the server after its death, and measure until runs of the dead process go on."""
        has_runs = self.rows("select 1 from sqlite_master where name = 'runs'")
        left = self.rows("select id, fence from runs where status = 'running'") if has_runs else []
        assert self.start(), self.errors
        began, goes_on = time.monotonic(), "select 1 from runs where id = ? and (fence > ? or status <> 'running')"
        self.wait_until(lambda: all(self.rows(goes_on, *each) for each in left))
        if left:
            self.take_overs.append(time.monotonic() - began)

    @property
    def errors(self) -> str:
        """The log of all processes so far."""
        return self.log.with_suffix(".errors").read_text()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._handle is not None and not select.select([self._handle], [], [], 0)[0]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._handle is not None
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def wait_until_ended(self, limit_s: float = LIMIT_S) -> float:
        """Wait until the process has ended; return the seconds."""
        began = time.monotonic()
        assert self._handle is not None
        assert select.select([self._handle], [], [], limit_s)[0], f"the server did not end: {self.errors}"
        os.close(self._handle)
        self._handle = None
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill the process, and wait until it has ended."""
        if self._handle is not None:
            self.send_signal(signal.SIGKILL)
            self.wait_until_ended()

    def get(self, path: str) -> Answer:
        """Send a GET."""
        return self._request("GET", path)

    def post(self, url: str, body: Any = None, **headers: str) -> Answer:
        """Send a POST to the URL, or to its path if its port is an earlier one."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        path = "/" + url.split("://", 1)[1].split("/", 1)[1]
        return self._request("POST", path, json.dumps(body), {"content-type": "application/json", **names})

    def _request(self, *request: Any) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)) as connection:
            try:
                connection.request(*request)
                answer = connection.getresponse()
                return Answer(answer.status, answer.read().decode(), answer.headers["retry-after"])
            except (OSError, http.client.HTTPException):
                return Answer(0)

    def accept(self, body: Any = None, **headers: str) -> str:
        """The run of a new event of `flow.ipynb`, which the server accepts."""
        answer = self.post(self.endpoint, body or {}, **headers)
        assert answer.is_accepted, (answer, self.errors)
        run: str = json.loads(answer.text)["event_id"]
        return run

    @property
    def urls(self) -> dict[str, str]:
        """The URL of each workflow by its name, without a suffix."""
        return {each["name"].partition(".")[0]: each["url"] for each in json.loads(self.said)["workflows"]}

    def rows(self, query: str, *values: object) -> list[Any]:
        """The rows of a query of the project's database."""
        if self.database_url is not None:
            return postgres_rows(self.database_url, query, *values)
        with closing(sqlite3.connect(f"file:{self.database}?mode=rw", uri=True, timeout=20)) as connection:
            return connection.execute(query, values).fetchall()

    def wait_for(self, query: str, *values: object, limit_s: float = LIMIT_S) -> list[Any]:
        """The rows of a query, as soon as there are any."""
        return self.wait_until(lambda: self.rows(query, *values), limit_s)

    def wait_until(self, condition: Callable[[], T], limit_s: float = LIMIT_S) -> T:
        """What *condition* returns, as soon as it is true; fails with the log."""
        return wait_until(condition, limit_s, report=lambda: self.errors)

    def wait_until_begun(self, count: int = 1, step: str = "") -> None:
        """Wait until so many steps, or runs of that *step*, have begun."""
        self.wait_until(lambda: sum(each.step == (step or each.step) for each in self.begun()) >= count)

    def begun(self) -> list[Began]:
        """The steps that have begun, in order."""
        if not self.log.exists():
            return []
        whole, _, _ = self.log.read_text().rpartition("\n")  # the last line may be in the middle of its write
        return [Began(*json.loads(line)) for line in whole.splitlines()]

    def files_with(self, *secrets: str) -> list[str]:
        """The names of the project's files that contain one of *secrets*."""
        found = []
        for file in (self.folder / ".pdkernel").rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                content = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
                found += [f"{file.name}: {secret}" for secret in secrets if secret.encode() in content]
        return found


def postgres_rows(url: str, query: str, *values: object) -> list[Any]:
    """The rows of a query with `?` for each value; a server that starts again is waited for."""
    import psycopg  # an extra

    ends = time.monotonic() + LIMIT_S
    while True:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                done = connection.execute(cast("Any", query.replace("?", "%s")), values or None)
                return done.fetchall() if done.description else []
        except psycopg.OperationalError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def new_project(folder: Path, cells: Sequence[str], *, token: str | None = None, **notebooks: Sequence[str]) -> None:
    """Make a project in *folder* with `flow.ipynb` and other notebooks; ada has a slack account with *token*."""
    folder.mkdir(exist_ok=True)
    for name, given in {"flow": cells, **notebooks}.items():
        notebook_of(folder / f"{name}.ipynb", *given)
    with Project.open(folder / ".pdkernel") as project:
        if token is not None:
            LocalDirectory(project).add_account(
                external_user_id="ada", app="slack", credentials={"oauth_access_token": token}
            )


@contextmanager
def server_of(fork_server: ForkServer, folder: Path, *, template: Path | None = None) -> Iterator[ServerProcess]:
    """A server in *folder*, not started, which is killed at last; the folder is a copy of *template*."""
    if template is not None:
        shutil.copytree(template, folder)
    server = ServerProcess(fork_server, folder, folder.parent / f"{folder.name}.log", free_port())
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Counts:
    """
    The counts that every test of this package checks.

    Attributes:
        accepted: Events that got a 2xx response.
        finished: Accepted events whose run has ended with success, or whose record gives the reason why not.
        begun_again: Attempts that began after the commit of their step, or that have the number of an earlier attempt.
        approved_twice: Runs that more than one call has resumed in one step.
        take_overs: As in `ServerProcess`.
    """

    accepted: int
    finished: int
    begun_again: int
    approved_twice: int
    take_overs: Sequence[float]

    def check(self, title: str) -> None:
        """Print the counts, and check them."""
        print(
            f"{title}: {self.accepted} events accepted, {self.finished} finished, {self.accepted - self.finished} lost, "
            f"{self.begun_again} attempts begun after their step's commit, {self.approved_twice} approvals given twice, "
            f"{len(self.take_overs)} take-overs, the longest {max(self.take_overs, default=0):.2f} s"
        )
        assert (self.accepted - self.finished, self.begun_again, self.approved_twice) == (0, 0, 0)


def count_outcomes(server: ServerProcess, accepted: Sequence[str], resumed: Sequence[str] = ()) -> Counts:
    """
    Count what happened to the runs of *accepted* events.

    Args:
        server: The server.
        accepted: The ids of the runs.
        resumed: Run and step of each call that resumed a run, as `RUN/STEP`.
    """
    ended = dict(server.rows("select id, status from runs where ended is not null"))
    notified = {
        run for (run,) in server.rows("select id from runs where status = 'error' and output like '%\"message\":%'")
    }
    finished = [run for run in accepted if ended.get(run) in ("success", "exited", "cancelled") or run in notified]
    return Counts(
        len(accepted),
        len(finished),
        len(find_begun_again(server)),
        len(resumed) - len(set(resumed)),
        list(server.take_overs),
    )


def find_begun_again(server: ServerProcess, *, reruns: frozenset[str] = frozenset({"flaky"})) -> list[Began]:
    """
    The attempts that began after the commit of their step, or that have the number of an earlier attempt.

    Args:
        server: The server.
        reruns: Steps that run several times by themselves; their attempts are not compared with one another.
    """
    committed = {(run, step): at for run, step, at in server.rows("select run_id, name, at from steps")}
    wrong, latest = [], dict[tuple[str, str], int]()
    for began in server.begun():
        key = (began.run, began.step)
        late = key in committed and began.at > committed[key]
        if late or (began.step not in reruns and began.attempt <= latest.get(key, 0)):
            wrong.append(began)
        latest[key] = began.attempt
    return wrong
