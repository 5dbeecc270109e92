"""
What a form is: a box that follows the session, and a readable output beside it.

Knows how a change made here is told from one that comes from the session, from whichever thread, and how a form
ends. Knows nothing of users or events.

Two rules keep threads apart: the form's lock is held while the form is filled from the session, and never while the
session is told something (its listeners would take other forms' locks).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as ipw
from IPython.display import display

from pdkernel.errors import PdkernelError
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session
from pdkernel.widgets.components import (
    build_copyable_html,
    close_tree,
    create_message,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.widgets.saved_output import SavedOutput

VIEW_TYPE = "application/vnd.jupyter.widget-view+json"


class SessionForm(ipw.VBox):
    """
    A form that shows a session and changes it.

    Subclasses fill the widgets in `_update_widgets`, say in `_build_saved_output` what a reader without a kernel sees, and wrap every
    handler in `_user_handler`.
    """

    _title = "A form"

    def __init__(self, session: Session, children: Iterable[Any]) -> None:
        self._session = session
        self._guard = threading.RLock()
        self._filler: int | None = None
        self._is_closed = False
        self._has_error = False
        self._saved_output = SavedOutput()
        self._problem = create_message()
        self._line = ipw.HTML()
        super().__init__(
            children=(*children, self._problem, self._line), layout={"width": "100%", "max_width": "1100px"}
        )
        self.refresh()
        self._unlisten = session.add_listener(self.refresh)

    @property
    def saved_output(self) -> RichOutput:
        """What the saved notebook shows of the form."""
        return self._saved_output.output

    def refresh(self) -> None:
        """Show the session as it is now; from any thread. A fault is shown in the form."""
        with self._filling():
            if self._is_closed:
                return
            try:
                self._update_widgets()
                self._saved_output.update(self._build_saved_output())
            except PdkernelError as fault:
                self._has_error = True
                self._show_error(fault)
                return
            if self._has_error:
                self._has_error = False
                show_message(self._problem, "")

    def close(self) -> None:
        """Stop following the session and take the form off the screen."""
        if not getattr(self, "_is_closed", True):
            self._is_closed = True
            self._unlisten()
            self._release()
            for child in self.children:
                close_tree(child)
            self.layout.close()
        super().close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self._saved_output.output.text}"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**options)
        return {**bundle, "text/plain": self.saved_output.text, "text/html": self.saved_output.html}

    def _ipython_display_(self, **_: Any) -> None:
        # without a kernel the form cannot be read, and the output below it can: so the form's own says only what it is
        bare = f"{self._title}: a form, which needs a running kernel. What was chosen stands below."
        bundle = super()._repr_mimebundle_()
        set_visible(self._line, visible=False)  # it stands in the output below
        display({**bundle, "text/plain": bare, "text/html": f"<small>{bare}</small>"}, raw=True)
        self._saved_output.display()

    def _update_widgets(self) -> None:
        """Set every widget from the session."""

    def _build_saved_output(self) -> RichOutput:
        """What is chosen now, for a reader."""
        return RichOutput("", "")

    def _show_line(self, line: str) -> None:
        """Show the line that does the same as the form."""
        set_value(self._line, f"<small>as a line: {build_copyable_html(line)}</small>")

    def _release(self) -> None:
        """Let go of what the form holds beside widgets."""

    @contextmanager
    def _filling(self) -> Iterator[None]:
        """While this thread sets widgets that no person has touched; no other thread does then."""
        with self._guard:
            filler, self._filler = self._filler, threading.get_ident()
            try:
                yield
            finally:
                self._filler = filler

    @property
    def _is_filling(self) -> bool:
        """Whether a change of a widget is this thread's own filling."""
        return self._filler == threading.get_ident()

    def _user_handler(self, act: Callable[[], None]) -> Callable[..., None]:
        """*act* as a handler: not called for changes that `_update_widgets` makes, its faults shown in the form."""

        @functools.wraps(act)
        def handle(*_: object) -> None:
            if self._is_filling:
                return
            show_message(self._problem, "")
            try:
                act()
            except PdkernelError as fault:
                self._show_error(fault)

        return handle

    def _show_error(self, fault: PdkernelError) -> None:
        show_message(self._problem, str(fault), kind="error")
