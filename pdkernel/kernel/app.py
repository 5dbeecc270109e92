"""
The kernel's class and its start.

Knows ipykernel. Knows nothing of steps; loads the extension and is otherwise an IPython kernel.
"""

from __future__ import annotations

from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp

import pdkernel


class PdKernel(IPythonKernel):
    """
    An IPython kernel with pdkernel loaded.

    `language_info` stays Python's: notebook tools choose their export, their formatter and their colours by it.
    """

    implementation = "pdkernel"
    implementation_version = pdkernel.__version__

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Not `extension_manager.load_extension`: after it, the `%load_ext pdkernel` that a notebook carries for
        # plain Python kernels would print that the extension is loaded already, into the saved notebook.
        pdkernel.load_ipython_extension(self.shell)

    @property
    def banner(self) -> str:
        """What a console shows first."""
        return f"Pipedream workflow (pdkernel {pdkernel.__version__}). One cell, one step: %%pdstep NAME\n"


def launch() -> None:
    """Run a kernel until its front end ends it; the command line is ipykernel's."""
    IPKernelApp.launch_instance(kernel_class=PdKernel)
