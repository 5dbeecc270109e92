"""
The ways through a piece of code, as far as its HTTP response goes: sent or not, at every place where it may end.

Knows how ways join. Knows no language.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

Answers = Literal["always", "sometimes", "never", "unknown"]
"""Whether a step sends an HTTP response on every way through it, on some, on none; or that cannot be told."""

Places = dict[bool, int]
"""Whether a response is sent by then: both may be; each with a line where it is so."""


class UnknownWaysError(Exception):
    """The code does something with what sends responses that cannot be followed."""


@dataclass(frozen=True, slots=True)
class Ways:
    """
    Where code may be after a piece of it.

    Attributes:
        on: It goes on below.
        back: It has returned.
        out: It has ended the workflow.
        broken: It leaves the loop around it.
    """

    on: Places = field(default_factory=dict)
    back: Places = field(default_factory=dict)
    out: Places = field(default_factory=dict)
    broken: Places = field(default_factory=dict)

    def __or__(self, other: Self) -> Ways:
        """Either this or the other."""
        return Ways(
            {**other.on, **self.on},
            {**other.back, **self.back},
            {**other.out, **self.out},
            {**other.broken, **self.broken},
        )

    def then(self, following: Ways) -> Ways:
        """This, and what follows where it goes on; *following* starts from `on`."""
        return Ways(
            following.on,
            {**following.back, **self.back},
            {**following.out, **self.out},
            {**following.broken, **self.broken},
        )

    def all_sent(self) -> Ways:
        """The same ways, with a response sent on each."""
        return Ways(*(({True: min(places.values())} if places else {}) for places in self.parts))

    @property
    def parts(self) -> tuple[Places, Places, Places, Places]:
        """The four kinds of places."""
        return self.on, self.back, self.out, self.broken


@dataclass(frozen=True, slots=True)
class Answering:
    """
    How a step answers.

    Attributes:
        answers: On which of the ways that go on to the next step.
        silent_line: A line of the source at which such a way ends without a response, or None.
        leaves: Whether some way without a response ends the whole workflow.
        leaving_line: The line of the source where it does, or None.
    """

    answers: Answers
    silent_line: int | None = None
    leaves: bool = False
    leaving_line: int | None = None


UNKNOWN = Answering("unknown")
NEVER = Answering("never")


def answering(ways: Ways) -> Answering:
    """What *ways*, those through a whole step, come to."""
    ends: Places = {**ways.on, **ways.back}
    leaving = ways.out.get(False)
    # Where no way goes on, none goes on without a response.
    answers: Answers = "always" if False not in ends else "sometimes" if True in ends else "never"
    return Answering(answers, ends.get(False), leaving is not None, leaving)
