"""The languages of a fact."""

from __future__ import annotations

ALL = ("node", "python", "bash", "go")
WITH_RETURN = ("node", "python")
"""Languages whose steps return, respond, pause, and have props and accounts on the platform."""
FILES = ("bash", "go")
"""Languages whose steps exchange data through files."""
