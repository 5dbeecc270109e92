"""
The memory of an idle kernel with warm Python and Node.js workers, compared with a bare ipykernel.

Proportional set sizes (memory that processes share is counted once) of the kernel and all its children, from Linux's
`/proc`. Prints figures of one run. Other Python and Node.js processes on the machine share code and lower the figure;
the last line is an upper bound without them. `python tests/benchmarks/bench_memory.py`
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import psutil
from ipykernel.kernelspec import write_kernel_spec

from tests.benchmarks.bench_isolation import has_memory_of_parent
from tests.kernel.conftest import RunningKernel, running_kernels

IDLE_S = 5.0
CELLS = (
    "%load_ext pdkernel",
    "%pdevent hello.json",
    "%%pdstep one\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']\n",
    "%%pdstep two --lang node\nexport default defineComponent({ run({ steps }) { return steps.one; } });\n",
    "%pdrun",
)


def weights(kernel: RunningKernel, measure: str) -> dict[str, float]:
    """Megabytes of the kernel and of each of its children, by a label; *measure* is the name in `/proc`."""
    root = psutil.Process(kernel.manager.provisioner.process.pid)
    found: dict[str, float] = {}
    for process in [root, *(each for each in root.children(recursive=True) if not has_memory_of_parent(each))]:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith(f"{measure}:"))
        command = " ".join(process.cmdline())
        word = "kernel" if process == root else f"{process.pid} {Path(command.split()[0]).name} {command[-40:]}"
        found[word] = kilobytes / 1000
    return found


def main() -> None:
    """Measure and print the figures."""
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("Linux tells how much memory processes share; this system does not.")
    with tempfile.TemporaryDirectory() as name, running_kernels(Path(name)) as start:
        folder = Path(name)
        write_kernel_spec(folder / "share" / "kernels" / "bare")
        (folder / "hello.json").write_text('{"body": {}}')
        bare = start("bare")
        ours = start("pdkernel", PDKERNEL_EGRESS="deny")
        bare.run("1 + 1")
        for cell in CELLS:
            for answer in ours.run(cell):
                if answer["type"] == "error":
                    sys.exit("\n".join(answer["traceback"]))
        time.sleep(IDLE_S)
        plain, loaded = weights(bare, "Pss"), weights(ours, "Pss")
        most = sum(weights(ours, "Rss").values()) - sum(weights(bare, "Rss").values())
    for word, megabytes in loaded.items():
        print(f"  {word:<60} {megabytes:7.1f} MB")
    before, after = sum(plain.values()), sum(loaded.values())
    print(f"bare ipykernel                    {before:7.1f} MB")
    print(f"with a Python and a Node.js step  {after:7.1f} MB   {after - before:+.1f} MB (goal <= +150)")
    print(f"resident sizes, what is shared counted in each   {most:+.1f} MB")


if __name__ == "__main__":
    main()
