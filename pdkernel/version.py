"""
This package's version: the one place where it stands.

Knows nothing else; it is a module of its own so that every floor may ask, without reading installed metadata.
"""

from __future__ import annotations

VERSION = "0.1.0"
