"""The languages of a fact."""

from __future__ import annotations

ALL = ("node", "python", "bash", "go")
WITH_RETURN = ("node", "python")
"""Those whose steps return, respond, pause, have props and accounts on the platform."""
FILES = ("bash", "go")
"""Those that speak through files."""
