"""
Attacks of one user's run on the runs of others: what an attack is, and the runs that show whether it works.

The attacks of a language are one workflow of one step, whose event names what to do. A run plants attacks, works as any step does
(`WORK`), and looks for what was planted, also by attacks on other runs.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import textwrap
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdkernel import runtimes
from pdkernel.accounts import LocalDirectory
from pdkernel.common.identity import Environment
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.model import Language, Step
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event
from tests.http_servers import AnsweringServer
from tests.ports import free_ports

WRITABLE = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")
"""Folders of the machine that every program may write."""
TOKEN = re.compile(r"tok-[a-z]+-[0-9a-f]{8}")


@dataclass(frozen=True)
class Attack:
    """
    An attack that leaves something behind for the next run.

    Attributes:
        name: What is left behind.
        plant: Statements that leave it; `token` is the token of the run.
        check: An expression, or statements with `return`: what the run sees of it, or a false value.
        group: Attacks of one group are planted in one run; the group of one that disturbs others is its own.
    """

    name: str
    plant: str
    check: str
    group: str = "state"


@dataclass(frozen=True)
class Attempt:
    """
    An access to something that no step may reach.

    Attributes:
        name: What is accessed.
        access: An expression, or statements with `return`, that accesses `place`; a false value or an exception if it cannot.
        own: An expression for a place of the run itself, to which the same access succeeds.
        other: An expression for the place that is out of reach, mostly of `targets`.
        is_available: Whether steps have the system call at all; otherwise the access to the place of the run itself fails, too.
    """

    name: str
    access: str
    own: str
    other: str
    is_available: bool = True


@dataclass
class Sight:
    """
    What runs saw of an attack; a false value is nothing.

    Attributes:
        own: The run that planted it, right afterwards.
        others: Later runs, by who they belong to: another user with a warm worker, a user with a new worker, none, and the same
            user of another environment.
        again: The next run of the user who planted it.
    """

    own: str | None = None
    others: dict[str, str | None] = field(default_factory=dict)
    again: str | None = None

    @property
    def reached(self) -> dict[str, str]:
        """Those who saw something, and what they saw."""
        return {who: seen for who, seen in self.others.items() if seen}


@dataclass
class Report:
    """
    What a series of runs showed.

    Attributes:
        sights: By the name of the attack.
        wrong: What later runs did not do right, with the group of attacks before them.
        stray: Tokens of others that appear anywhere in the record of a run.
        left: Processes of a run that it left, by group.
        failed: Errors of attacks in the runs that planted them, by group.
    """

    sights: dict[str, Sight] = field(default_factory=lambda: defaultdict(Sight))
    wrong: list[tuple[str, str, Any]] = field(default_factory=list)
    stray: list[tuple[str, str, str]] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackLanguage:
    """
    How a step is built of attacks.

    Attributes:
        language: The language.
        source: The step, with the markers `FUNCTIONS` and `NAMES`; its return value is an object with `work` and `seen`.
        function: The text of a function with the keys `kind`, `number` and `body`.
        expected: What `work` returns in a run that no other run disturbs, with `TOKEN` for the run's token.
        entry: How `NAMES` lists the function `NAME`.
    """

    language: Language
    source: str
    function: str
    expected: Mapping[str, Any]
    entry: str = "NAME"

    def step(self, attacks: Sequence[Attack | Attempt]) -> Step:
        """The step with *attacks*."""
        functions, names = [], []
        for number, attack in enumerate(attacks):
            parts = (
                {"plant": attack.plant, "check": attack.check}
                if isinstance(attack, Attack)
                else {"own": attack.own, "other": attack.other, "access": attack.access}
            )
            for kind, text in parts.items():
                body = textwrap.dedent(text).strip("\n")
                if kind != "plant" and "return" not in body and self.language != "bash":
                    body = f"return {body}"
                names.append(self.entry.replace("NAME", f"{kind}_{number}"))
                functions.append(
                    self.function.replace("KIND", kind)
                    .replace("NUMBER", str(number))
                    .replace("BODY", textwrap.indent(body, "    "))
                )
        source = self.source.replace("FUNCTIONS", "\n".join(functions), 1).replace("NAMES", ", ".join(names))
        return Step("attack", self.language, source)


class Attackers:
    """
    Runs attacks in one engine.

    Attributes:
        targets: What steps receive about the machine: ports, folders and processes, by name.
    """

    def __init__(
        self, engine: WorkflowEngine, directory: LocalDirectory, folder: Path, targets: dict[str, Any]
    ) -> None:
        self.targets = targets
        self._engine = engine
        self._directory = directory
        self._folder = folder
        self._users: set[tuple[str, Environment]] = set()

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        receiver: AnsweringServer,
        *,
        database_url: str | None = None,
        python: Path | None = None,
        spares: int = 0,
    ) -> AsyncIterator[Attackers]:
        """
        Attackers on a project in *folder*, which is not below `/tmp`; *receiver* answers requests of steps.

        The Python steps have the packages of the interpreter *python*; *spares* is as for `WorkflowEngine.start`.
        """
        project = Project.open(folder / "project" / ".pdkernel", database_url=database_url)
        directory = LocalDirectory(project)
        targets: dict[str, Any] = {
            "url": receiver.url,
            "server": os.getpid(),
            "project": str(project.folder),
            "key_file": str(project.key_file),
            "folder": str(folder / "project"),
            "runtimes": runtimes.__path__[0],
            "home": str(Path.home()),
            "pid_namespace": str(Path("/proc/self/ns/pid").readlink()),
            "mark": secrets.token_hex(4),  # in every name that other programs of the machine could use, too
            "key": 0x5EC00000 + secrets.randbelow(1 << 16) * 16,  # of System V
            "ports": free_ports(8),
        }
        async with await WorkflowEngine.start(
            project, directory, origin="serve", python_executable=python, spares=spares
        ) as engine:
            with socket.socket(socket.AF_UNIX) as service, ExitStack() as opened:
                address = Path("/run" if os.access("/run", os.W_OK) else "/tmp", f"{targets['mark']}.sock")
                service.bind(str(address))
                opened.callback(address.unlink, missing_ok=True)
                address.chmod(0o666)
                service.listen()
                terminal = os.openpty()
                for descriptor in terminal:
                    opened.callback(os.close, descriptor)
                targets |= {
                    "service": str(address),
                    "terminal": [os.ttyname(terminal[1]), os.fstat(terminal[1]).st_dev],
                }
                opened.callback(_clean_up, targets["mark"], targets["key"])
                yield cls(engine, directory, folder / "project", targets)
        project.close()

    async def run(
        self,
        steps: Step | Sequence[Step],
        user: str | None,
        body: Mapping[str, Any],
        environment: Environment = "development",
    ) -> Execution:
        """Run a step, or some, as *user* of *environment* with *body* in the event."""
        if user is not None and (user, environment) not in self._users:
            self._users.add((user, environment))
            self._directory.add_account(
                external_user_id=user,
                environment=environment,
                app="slack",
                credentials={"oauth_access_token": f"xoxb-{user}-0123456789"},
            )
        request = RunRequest(
            a_workflow(*([steps] if isinstance(steps, Step) else steps), name="Attacked", listen=self.targets["ports"]),
            an_event({**body, "targets": self.targets}),
            parse_policy("live"),
            external_user_id=user,
            environment=environment,
            folder=self._folder,
            test=False,
        )
        return await self._engine.run(request)

    async def attack(self, language: AttackLanguage, attacks: Sequence[Attack | Attempt]) -> Report:
        """Run the attacks of each group by a user of their own, each followed by runs of others."""
        step, report = language.step(attacks), Report()
        runs = _Runs(self, step, language, report)
        await runs.look("before", "warm", "bob", [])
        await runs.look("before", "none", None, [])
        numbered = list(enumerate(attacks))
        for number, (name, grouped) in enumerate(itertools.groupby(sorted(numbered, key=_group), key=_group)):
            group = list(grouped)
            mallory = f"mallory{number}"
            await runs.plant(name, mallory, group)
            await runs.look(name, "warm", "bob", group)
            await runs.look(name, "new", f"carol{number}", group)
            await runs.look(name, "none", None, group)
            await runs.look(name, "production", mallory, group)
            await runs.look(name, "again", mallory, group)
        return report


@dataclass
class _Runs:
    """The runs of a series, and what they show."""

    attackers: Attackers
    step: Step
    language: AttackLanguage
    report: Report

    async def plant(self, group: str, user: str, attacks: Sequence[tuple[int, Attack | Attempt]]) -> None:
        """Plant the attacks, and see that they work in the run itself."""
        token = new_token(user)
        attempts = [number for number, attack in attacks if isinstance(attack, Attempt)]
        planted = [number for number, attack in attacks if isinstance(attack, Attack)]
        result, _ = await self._run(group, user, token, plant=planted, attempt=attempts)
        self.report.failed[group] = result["failed"]
        reached = result.get("reached", {})
        if any(reached.get(str(number)) for number in attempts):
            # in its namespace, a thread of the step can have the number of the server, but not in two runs
            again, _ = await self._run(group, f"{user}again", new_token(user), plant=[], attempt=attempts)
            reached = {number: seen for number, seen in reached.items() if again["reached"].get(number)}
        for number, attack in attacks:
            sight = self.report.sights[attack.name]
            sight.own = result["seen"].get(str(number))
            if isinstance(attack, Attempt):
                sight.others["place"] = reached.get(str(number))
        for _ in range(1200):  # the system ends the processes of a namespace one after the other
            self.report.left[group] = [*processes_with(token).values()]
            if not self.report.left[group]:
                break
            await asyncio.sleep(0.05)

    async def look(
        self, group: str, who: str, user: str | None, attacks: Sequence[tuple[int, Attack | Attempt]]
    ) -> None:
        """Work, and look for what an earlier run has planted."""
        token = new_token(f"{user}{who}" if who == "production" else user or "none")
        looked = [(number, attack) for number, attack in attacks if isinstance(attack, Attack)]
        environment: Environment = "production" if who == "production" else "development"
        checked = [number for number, _ in looked]
        result, record = await self._run(group, user, token, environment, plant=[], check=checked)
        stray = sorted(set(TOKEN.findall(record)) - {token})
        if who == "again":
            stray = [found for found in stray if not found.startswith(f"tok-{letters(user)}-")]
        else:
            expected = json.loads(json.dumps(self.language.expected).replace("TOKEN", token))
            if result["work"] != expected:
                self.report.wrong.append((group, who, result["work"]))
        self.report.stray += [(group, who, found) for found in stray]
        for number, attack in looked:
            seen = result["seen"].get(str(number), "the run failed")
            if who == "again":
                self.report.sights[attack.name].again = seen
            else:
                self.report.sights[attack.name].others[who] = seen

    async def _run(
        self,
        group: str,
        user: str | None,
        token: str,
        environment: Environment = "development",
        *,
        plant: Sequence[int],
        **parts: Sequence[int],
    ) -> tuple[dict[str, Any], str]:
        body = {"token": token, "plant": plant, "check": plant, "attempt": [], "wait": group.endswith("later"), **parts}
        execution = await self.attackers.run(self.step, user, body, environment)
        [step] = execution.steps
        record = json.dumps([dict(step.exports), [log.text for log in step.logs], str(step.error)])
        result = step.exports.get("$return_value")
        if not isinstance(result, dict):
            if plant or parts.get("attempt"):
                raise AssertionError(f"The run that plants {group} failed: {execution.error} {record[:1500]}")
            result = {"seen": {}, "work": str(step.error)}
        return result, record


def new_token(user: str) -> str:
    """A new token of *user*."""
    return f"tok-{letters(user)}-{secrets.token_hex(4)}"


def letters(user: str | None) -> str:
    """The name of *user* without digits, which a token may have."""
    return "".join(chr(ord("g") + int(each)) if each.isdigit() else each for each in user or "none")


def processes_with(text: str) -> dict[int, str]:
    """The processes of this machine with *text* in their arguments: number and arguments."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended
                arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in arguments:
                    found[int(process.name)] = arguments
    return found


def names(attacks: Sequence[Attack | Attempt]) -> list[str]:
    """The names of *attacks*, for `parametrize`."""
    return [attack.name for attack in attacks]


def _clean_up(mark: str, key: int) -> None:
    """End the processes of attacks that succeeded, and remove what they left on the machine."""
    for pid in processes_with(mark):
        with suppress(ProcessLookupError):  # it has ended
            os.kill(pid, signal.SIGKILL)
    for folder in map(Path, WRITABLE):
        for left in folder.glob(f"*{mark}*"):
            left.unlink(missing_ok=True)
    for option in ("-M", "-S", "-Q"):
        for each in (key, key + 1):
            subprocess.run(["ipcrm", option, hex(each)], stderr=subprocess.DEVNULL, check=False)


def _group(numbered: tuple[int, Attack | Attempt]) -> str:
    return numbered[1].group if isinstance(numbered[1], Attack) else "attempts"
