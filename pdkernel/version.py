"""
This package's version, from its installed metadata.

Knows nothing else; it is a module of its own so that every floor may ask.
"""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("pdkernel")
