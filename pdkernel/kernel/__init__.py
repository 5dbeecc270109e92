"""
The Jupyter kernel "Pipedream workflow": an IPython kernel with pdkernel loaded.

`python -m pdkernel.kernel -f CONNECTION_FILE` starts it. `kernelspec/` and `labextension/` are copied to
`share/jupyter` when the package is installed. All behaviour is the IPython extension's; a plain `python3` kernel with
`%load_ext pdkernel` does the same.
"""

from __future__ import annotations
