"""
Where the runs of one workflow execute, one at a time: the guests kept warm for them, and their `/tmp`.

Knows which run it is fit for. Guests of one place stay together, because the steps of a run pass files through `/tmp`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.hosts.guest import Guest
from pdkernel.hosts.languages import GuestLanguage
from pdkernel.hosts.private_tmp import PrivateTmp


@dataclass(eq=False)
class Place:
    """
    A place.

    Attributes:
        workflow: Whose runs it serves: name and version.
        guarded: The operating system keeps its guests from going around the gateway.
        public_only: They reach public addresses only.
        tmp: What its processes have as `/tmp`, or None for the machine's own.
        guests: By language.
        python: The interpreter of the environment that its Python guest was started for.
    """

    workflow: str
    guarded: bool
    public_only: bool
    tmp: PrivateTmp | None
    guests: dict[GuestLanguage, Guest] = field(default_factory=dict)
    python: Path | None = None

    def fits(self, workflow: str, needed: frozenset[str] | None, *, guarded: bool, public_only: bool) -> bool:
        """Whether a run of *workflow* that *needed* these names in `/tmp` (None: the machine's own) can execute here."""
        if (self.workflow, self.guarded, self.public_only) != (workflow, guarded, public_only):
            return False
        return needed is None if self.tmp is None else needed is not None and needed <= self.tmp.kept

    def clear(self) -> bool:
        """The run is over: keep what is clean; whether the next one may come."""
        for language, guest in list(self.guests.items()):
            if guest.stale or not guest.usable or not guest.alive:
                self.end(language)
            else:
                guest.forget()
        return self.tmp.empty() if self.tmp is not None else bool(self.guests)

    def end(self, language: GuestLanguage) -> None:
        """End the guest of *language*."""
        guest = self.guests.pop(language, None)
        if guest is not None:
            guest.kill()

    def close(self) -> None:
        """End every guest, and remove the files in `/tmp`."""
        for language in list(self.guests):
            self.end(language)
        if self.tmp is not None:
            self.tmp.close()
            self.tmp = None
