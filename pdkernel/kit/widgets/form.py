"""
The base class of forms: a box that follows the session, and a readable output beside it.

Two rules prevent deadlocks between threads. The form's lock is held while the form is filled from the session. It is
never held during a call to the session, whose listeners take the locks of other forms.
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
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.components import (
    build_copyable_html,
    close_tree,
    create_message,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.kit.widgets.saved_output import SavedOutput, build_fallback_bundle
from pdkernel.render.markup import RichOutput

VIEW_TYPE = "application/vnd.jupyter.widget-view+json"


class SessionForm(ipw.VBox):
    """
    A form that shows and changes a session.

    Subclasses set the widgets in `_update_widgets`, return the output for readers without a kernel in
    `_build_saved_output`, and wrap every handler in `_user_handler`.
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
        self.add_class("pd-form")  # with the title in the line, the Lab extension makes the form a named group
        self.refresh()
        self._unlisten = session.add_listener(self.refresh)

    @property
    def saved_output(self) -> RichOutput:
        """The form's output in the saved notebook."""
        return self._saved_output.output

    def refresh(self) -> None:
        """Show the current state of the session; from any thread. The form shows an error."""
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
        """Stop listening to the session and close the widgets."""
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
        # Without a kernel, the form's own output is a heading of the readable output below.
        bundle = super()._repr_mimebundle_()
        set_visible(self._line, visible=False)  # the output below shows the line
        shown = f"<strong>{self._title}</strong> <small>(saved; run the cell to use the form)</small>"
        display(build_fallback_bundle(bundle, self._title, shown), raw=True)
        self._saved_output.display()

    def _update_widgets(self) -> None:
        """Set every widget from the session."""

    def _build_saved_output(self) -> RichOutput:
        """The current choice, for a reader without a kernel."""
        return RichOutput("", "")

    def _show_line(self, line: str) -> None:
        """Show the magic line that is equivalent to the form."""
        set_value(self._line, f'<small data-form="{self._title}">as a line: {build_copyable_html(line)}</small>')

    def _release(self) -> None:
        """Release resources other than widgets."""

    @contextmanager
    def _filling(self) -> Iterator[None]:
        """Hold the form's lock while this thread sets widgets from the session."""
        with self._guard:
            filler, self._filler = self._filler, threading.get_ident()
            try:
                yield
            finally:
                self._filler = filler

    @property
    def _is_filling(self) -> bool:
        """Whether this thread is setting widgets from the session."""
        return self._filler == threading.get_ident()

    def _user_handler(self, act: Callable[[], None]) -> Callable[..., None]:
        """*act* as a handler: ignores changes of `_update_widgets`, and shows errors in the form."""

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
