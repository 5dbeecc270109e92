"""The kernel: its class, and its start, for which the kernelspec runs this module."""

from __future__ import annotations

from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp

import pdkernel
from pdkernel.files.notebook.notebook_text import LANGUAGE_INFO


class PdKernel(IPythonKernel):
    """
    An IPython kernel with pdkernel loaded.

    `language_info` is Python's, because notebook tools choose exporter, formatter and highlighting by it.
    """

    implementation = "pdkernel"
    implementation_version = pdkernel.__version__

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.language_info = dict(LANGUAGE_INFO)
        pdkernel.load_ipython_extension(self.shell)

    @property
    def banner(self) -> str:
        """The text that a console shows when the kernel has started."""
        return f"Pipedream workflow (pdkernel {pdkernel.__version__}). Each cell is a step: %%pdstep NAME\n"


def launch() -> None:
    """Run a kernel until its front end shuts it down. The command line is ipykernel's."""
    IPKernelApp.launch_instance(kernel_class=PdKernel)


if __name__ == "__main__":
    launch()
