"""Starts the kernel; the kernelspec runs this module."""

from __future__ import annotations

from pdkernel.kernel.app import launch

if __name__ == "__main__":
    launch()
