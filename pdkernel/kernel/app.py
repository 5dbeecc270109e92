"""The kernel's class and its start. The IPython extension has all behaviour."""

from __future__ import annotations

from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp

import pdkernel


class PdKernel(IPythonKernel):
    """
    An IPython kernel with pdkernel loaded.

    `language_info` stays Python's: notebook tools use it to choose export, formatter and highlighting.
    """

    implementation = "pdkernel"
    implementation_version = pdkernel.__version__

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Not `extension_manager.load_extension`: after it, the `%load_ext pdkernel` that a notebook carries for
        # plain Python kernels would print a message that the extension is already loaded.
        pdkernel.load_ipython_extension(self.shell)

    @property
    def banner(self) -> str:
        """The first output of a console."""
        return f"Pipedream workflow (pdkernel {pdkernel.__version__}). Each cell is a step: %%pdstep NAME\n"


def launch() -> None:
    """Run a kernel until its front end shuts it down; takes ipykernel's command line."""
    IPKernelApp.launch_instance(kernel_class=PdKernel)
