"""Start the kernel: the command of the kernelspec."""

from __future__ import annotations

from pdkernel.kernel.app import launch

if __name__ == "__main__":
    launch()
