"""The package's version, in a separate module so that every layer can import it without reading installed metadata."""

from __future__ import annotations

VERSION = "0.1.0"
