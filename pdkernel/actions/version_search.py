"""
Finding the version of a package that holds a version of a component, in few looks and without missing any.

Knows how versions of components and packages go together. Looking is its caller's work.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.actions.action_reference import version_sort_key


class VersionSearch:
    """
    Which package version to look at next for a version of a component: the newest, then by halves, then the others.

    A component's version grows with its package's, so that halves find it in a few looks. Where a component was taken
    out for a while they may go the wrong way; then those between the neighbours that were seen come first.

    Args:
        wanted: The version of the component; None takes any, and a component that halves do not meet is none.
        versions: Of the package, oldest first.

    Attributes:
        found_versions: The component's version by place among *versions*, where it was there.
    """

    def __init__(self, wanted: str | None, versions: Sequence[str]) -> None:
        self._wanted = wanted
        self._versions = versions
        self._low, self._high = 0, len(versions) - 1
        self._unsearched = set(range(len(versions)))
        self._position: int | None = self._high
        self.found_versions: dict[int, str] = {}

    @property
    def next_version(self) -> str | None:
        """The package version to look at; None when there is no more."""
        return None if self._position is None else self._versions[self._position]

    @property
    def remaining_count(self) -> int:
        """How many may be looked at after this one."""
        return len(self._unsearched) - 1

    def add_result(self, component_version: str | None) -> None:
        """The component is in the package version at hand in version *component_version*, or not at all."""
        assert self._position is not None
        at = self._position
        self._unsearched.discard(at)
        if component_version is not None:
            self.found_versions[at] = component_version
        # one that is missing in the newest was taken out, else it was added later
        if self._is_newer(component_version) or (component_version is None and at == len(self._versions) - 1):
            self._high = min(self._high, at - 1)
        else:
            self._low = max(self._low, at + 1)
        middle = (self._low + self._high) // 2
        if self._low <= self._high and middle in self._unsearched:
            self._position = middle
        else:
            self._position = self._next_unsearched() if self._wanted is not None else None

    def _is_newer(self, there: str | None) -> bool:
        return (
            there is not None and self._wanted is not None and version_sort_key(there) > version_sort_key(self._wanted)
        )

    def _next_unsearched(self) -> int | None:
        """The newest that is left between those that hold older and newer versions; the newest that is left at all."""
        self._low, self._high = 1, 0  # halves are over
        below = max((at for at, there in self.found_versions.items() if not self._is_newer(there)), default=-1)
        above = min(
            (at for at, there in self.found_versions.items() if self._is_newer(there)), default=len(self._versions)
        )
        return max(self._unsearched, key=lambda at: (below < at < above, at), default=None)
