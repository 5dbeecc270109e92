"""
A program that runs a Python, a Bash and a Node.js step of one project and prints what each can do: `python isolated_runs.py BASE [UID PYTHON]`.

It opens the pool as user UID with the interpreter PYTHON, if they are given. BASE holds the project.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - the other user may not be able to import it later
import ctypes
import json
import os
import sys
from pathlib import Path

import psutil  # noqa: F401 - likewise, where the interpreter is in a folder that only root reads

from pdkernel.model import Language, Step
from pdkernel.workers import RunSetup, StepAccess, StepCall, StepRecorder, WorkerPool

STEPS: dict[Language, str] = {
    "python": """
import os
import pwd
def handler(pd):
    users = {each.pw_uid: each.pw_name for each in pwd.getpwall()}
    found = {"uid": os.getuid(), "tmp": os.getcwd(), "user": users.get(os.getuid())}
    for name, path in (("key", "KEY"), ("code", "CODE"), ("environment", "/proc/SERVER/environ")):
        try:
            found[name] = bool(open(path).read())
        except OSError:
            found[name] = False
    return found
""",
    "node": """
import fs from "fs";
import os from "os";
export default { run() {
  const found = { uid: process.getuid(), tmp: process.cwd(), user: null };
  try { found.user = os.userInfo().username; } catch { /* without mounts, the user of the step has no name */ }
  for (const [name, path] of [["key", "KEY"], ["code", "CODE"], ["environment", "/proc/SERVER/environ"]]) {
    try { found[name] = Boolean(fs.readFileSync(path, "utf8")); } catch { found[name] = false; }
  }
  return found;
} };
""",
    "bash": """
try() { if grep -q . "$1" 2> /dev/null; then echo true; else echo false; fi; }
echo "\\$return_value:json={\\"uid\\": $(id -u), \\"tmp\\": \\"$PWD\\", \\"user\\": \\"$(id -un)\\", \\"key\\": $(try KEY), \\"code\\": $(try CODE), \\"environment\\": $(try /proc/SERVER/environ)}" >> $PIPEDREAM_EXPORTS
""",
}


async def main(base: Path, uid: int | None, python: str) -> None:
    """Run the steps, and print their return values."""
    if uid is not None:
        sys.executable = python
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # its children may read its /proc entries
    project = base / "project"
    access = StepAccess(read=frozenset({project}), hide=frozenset({project / ".pdkernel"}))
    pool = WorkerPool(access=access)
    run = await pool.open_run(RunSetup("run", "demo", {"event": {}, "context": {}}, {}, project))
    found = {}
    for language, text in STEPS.items():
        names = {"KEY": project / ".pdkernel" / "key", "CODE": project / "code.js", "SERVER": os.getpid()}
        for name, value in names.items():
            text = text.replace(name, str(value))
        outcome = await run.run_step(StepCall(Step(language, language, text)), StepRecorder(language))
        found[language] = outcome.exports.get("$return_value") or str(outcome.error)
    await run.release()
    await pool.close()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None, sys.argv[-1]))
