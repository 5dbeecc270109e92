"""
Outputs that follow the session: drawn again where they stand when what they say has changed.

Knows which outputs are still worth it. What each of them says is its maker's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from IPython.display import DisplayHandle, display

from pdkernel.errors import PdkernelError
from pdkernel.magics.notebook_context import get_cell_metadata, get_session
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session

MAX_LIVE_OUTPUTS = 30
"""Outputs that are drawn again; older ones stay as they are."""

_ATTRIBUTE = "_pdkernel_following"


class LiveOutputs:
    """The outputs of one session that follow it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._outputs: dict[str, Callable[[], None]] = {}
        session.add_listener(self._draw_again)

    def add(self, key: str, redraw: Callable[[], None]) -> None:
        """Call *redraw* after every change; an output of the same *key* is not on the screen any more."""
        self._outputs.pop(key, None)
        self._outputs[key] = redraw
        for old in list(self._outputs)[:-MAX_LIVE_OUTPUTS]:
            del self._outputs[old]

    def _draw_again(self) -> None:
        for draw_again in list(self._outputs.values()):
            with suppress(PdkernelError):  # a workflow that cannot be read is said where it is written
                draw_again()


class LiveLine:
    """A short output that follows: it says what *draw* gives, now and after every change."""

    def __init__(self, draw: Callable[[], RichOutput]) -> None:
        self._draw = draw
        self._view = draw()
        self._handle: DisplayHandle | None = display(self._view, display_id=True)

    def redraw(self) -> None:
        """Show what is true now, if it is something else."""
        view = self._draw()
        if view != self._view and self._handle is not None:
            self._view = view
            self._handle.update(view)


def keep_updated(shell: Any, magic_name: str, redraw: Callable[[], None]) -> None:
    """Have *redraw* called after changes of *shell*'s session: the output of the magic *magic_name* in the running cell."""
    session = get_session(shell)
    following = getattr(shell, _ATTRIBUTE, None)
    if not isinstance(following, LiveOutputs) or following.session is not session:
        following = LiveOutputs(session)
        setattr(shell, _ATTRIBUTE, following)
    cell = get_cell_metadata(shell).get("cellId") or f"execution {getattr(shell, 'execution_count', 0)}"
    following.add(f"{cell} {magic_name}", redraw)
