"""
Finding the version of a package that holds a version of a component, in few looks and without missing any.

Knows how versions of components and packages go together. Looking is its caller's work.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.actions.keys import version_order


class VersionSearch:
    """
    Which package version to look at next for a version of a component: the newest, then by halves, then the others.

    A component's version grows with its package's, so that halves find it in a few looks. Where a component was taken
    out for a while they may go the wrong way; then those between the neighbours that were seen come first.

    Args:
        wanted: The version of the component; None takes any, and a component that halves do not meet is none.
        versions: Of the package, oldest first.

    Attributes:
        seen: The component's version by place among *versions*, where it was there.
    """

    def __init__(self, wanted: str | None, versions: Sequence[str]) -> None:
        self._wanted = wanted
        self._versions = versions
        self._low, self._high = 0, len(versions) - 1
        self._left = set(range(len(versions)))
        self._at: int | None = self._high
        self.seen: dict[int, str] = {}

    @property
    def next(self) -> str | None:
        """The package version to look at; None when there is no more."""
        return None if self._at is None else self._versions[self._at]

    @property
    def left(self) -> int:
        """How many may be looked at after this one."""
        return len(self._left) - 1

    def saw(self, there: str | None) -> None:
        """The component is in the package version at hand in version *there*, or not at all."""
        assert self._at is not None
        at = self._at
        self._left.discard(at)
        if there is not None:
            self.seen[at] = there
        # one that is missing in the newest was taken out, else it was added later
        if self._is_newer(there) or (there is None and at == len(self._versions) - 1):
            self._high = min(self._high, at - 1)
        else:
            self._low = max(self._low, at + 1)
        middle = (self._low + self._high) // 2
        if self._low <= self._high and middle in self._left:
            self._at = middle
        else:
            self._at = self._rest() if self._wanted is not None else None

    def _is_newer(self, there: str | None) -> bool:
        return there is not None and self._wanted is not None and version_order(there) > version_order(self._wanted)

    def _rest(self) -> int | None:
        """The newest that is left between those that hold older and newer versions; the newest that is left at all."""
        self._low, self._high = 1, 0  # halves are over
        below = max((at for at, there in self.seen.items() if not self._is_newer(there)), default=-1)
        above = min((at for at, there in self.seen.items() if self._is_newer(there)), default=len(self._versions))
        return max(self._left, key=lambda at: (below < at < above, at), default=None)
