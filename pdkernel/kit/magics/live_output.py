"""Outputs that are drawn again when the session changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from IPython.display import DisplayHandle, display

from pdkernel.errors import PdkernelError
from pdkernel.kit.magics.notebook_context import get_cell_metadata, get_session
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from pdkernel.kit.session import Session

MAX_LIVE_OUTPUTS = 30
"""Number of outputs that are drawn again; older outputs stay as they are."""

_ATTRIBUTE = "_pdkernel_live_outputs"


class LiveOutputs:
    """The outputs that are drawn again when one session changes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._outputs: dict[str, Callable[[], None]] = {}
        session.add_listener(self._draw_again)

    def add(self, key: str, redraw: Callable[[], None]) -> None:
        """Call *redraw* after every change; replaces an earlier output of the same *key*."""
        self._outputs.pop(key, None)
        self._outputs[key] = redraw
        for old in list(self._outputs)[:-MAX_LIVE_OUTPUTS]:
            del self._outputs[old]

    def _draw_again(self) -> None:
        for draw_again in list(self._outputs.values()):
            with suppress(PdkernelError):  # an invalid workflow is reported by its own cell
                draw_again()


class LiveLine:
    """A short output that is drawn by *draw*, now and after every change of the session."""

    def __init__(self, draw: Callable[[], RichOutput]) -> None:
        self._draw = draw
        self._view = draw()
        self._handle: DisplayHandle | None = display(self._view, display_id=True)

    def redraw(self) -> None:
        """Draw the output again if it has changed."""
        view = self._draw()
        if view != self._view and self._handle is not None:
            self._view = view
            self._handle.update(view)


def keep_updated(shell: Any, magic_name: str, redraw: Callable[[], None]) -> None:
    """Call *redraw*, for the output of *magic_name* in the running cell, after each change of *shell*'s session."""
    session = get_session(shell)
    live_outputs = getattr(shell, _ATTRIBUTE, None)
    if not isinstance(live_outputs, LiveOutputs) or live_outputs.session is not session:
        live_outputs = LiveOutputs(session)
        setattr(shell, _ATTRIBUTE, live_outputs)
    cell = get_cell_metadata(shell).get("cellId") or f"execution {getattr(shell, 'execution_count', 0)}"
    live_outputs.add(f"{cell} {magic_name}", redraw)
