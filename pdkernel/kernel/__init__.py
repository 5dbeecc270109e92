"""
The Jupyter kernel "Pipedream workflow": an IPython kernel with pdkernel loaded.

`python -m pdkernel.kernel -f CONNECTION_FILE` starts it. `kernelspec/` and `labextension/` are copied to
`share/jupyter` when the package is installed. The IPython extension implements all behaviour: a `python3` kernel with `%load_ext
pdkernel` behaves in the same way.
"""

from __future__ import annotations
