"""
The search order for the package version that contains a given version of a component.

The caller downloads the package versions and reports the results.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.actions.action_reference import version_sort_key


class VersionSearch:
    """
    The package version to examine next: the newest, then by binary search, then the remaining versions.

    The version of a component grows with the version of its package, so a binary search needs few downloads. If the
    component was removed for some versions, the binary search may fail. Then the versions between the nearest older and
    newer results come first.

    Args:
        wanted: The version of the component. None accepts any version and ends after the binary search.
        versions: The versions of the package, oldest first.

    Attributes:
        found_versions: The version of the component by index in *versions*, for versions that contain the component.
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
        """The package version to examine; None at the end of the search."""
        return None if self._position is None else self._versions[self._position]

    @property
    def remaining_count(self) -> int:
        """The maximum number of versions to examine after this one."""
        return len(self._unsearched) - 1

    def add_result(self, version: str | None) -> None:
        """Report the version of the component in `next_version`, or None if that package version does not contain it."""
        assert self._position is not None
        at = self._position
        self._unsearched.discard(at)
        if version is not None:
            self.found_versions[at] = version
        # a component that is missing in the newest version was removed; missing in another, it was added later
        if self._is_newer(version) or (version is None and at == len(self._versions) - 1):
            self._high = min(self._high, at - 1)
        else:
            self._low = max(self._low, at + 1)
        middle = (self._low + self._high) // 2
        if self._low <= self._high and middle in self._unsearched:
            self._position = middle
        else:
            self._position = self._next_unsearched() if self._wanted is not None else None

    def _is_newer(self, version: str | None) -> bool:
        return (
            version is not None
            and self._wanted is not None
            and version_sort_key(version) > version_sort_key(self._wanted)
        )

    def _next_unsearched(self) -> int | None:
        """The newest unsearched version between the nearest older and newer results, else the newest unsearched version."""
        self._low, self._high = 1, 0  # the binary search is finished
        below = max((at for at, version in self.found_versions.items() if not self._is_newer(version)), default=-1)
        above = min(
            (at for at, version in self.found_versions.items() if self._is_newer(version)), default=len(self._versions)
        )
        return max(self._unsearched, key=lambda at: (below < at < above, at), default=None)
