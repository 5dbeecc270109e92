"""The folder name of a workflow, by the platform's rule as observed in synced repositories."""

from __future__ import annotations

import re


def slugify(name: str) -> str:
    """
    *name* in lower case, spaces as dashes, punctuation dropped, underscores kept; `workflow` if nothing is left.

    "Random Album Cover (Mastodon)" is `random-album-cover-mastodon`.
    """
    words = re.sub(r"[^a-z0-9_\s-]", "", name.lower())
    return re.sub(r"[\s-]+", "-", words).strip("-") or "workflow"
