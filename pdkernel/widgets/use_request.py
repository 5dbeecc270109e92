"""
The button "Use the latest request as the test event" below a draft that is served.

Knows what it is given to do. Its line form is `%pdserve use`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
from IPython.display import display

from pdkernel.errors import PdkernelError
from pdkernel.widgets.parts import copy_html, say

USE = "Use the latest request as the test event"


class UseRequest(ipw.VBox):
    """
    The button, and below it what it did.

    Args:
        use: Makes the latest request's event the test event; returns what it is called.
    """

    def __init__(self, use: Callable[[], str]) -> None:
        self._act = use
        self._use = ipw.Button(description=USE, layout=ipw.Layout(width="auto"))
        self._use.on_click(self._pressed)
        self._said = ipw.HTML()
        super().__init__([ipw.HBox([self._use]), self._said])

    def _pressed(self, _: ipw.Button) -> None:
        try:
            say(self._said, f"The test event is now {self._act()}.")
        except PdkernelError as error:
            say(self._said, str(error))

    def _ipython_display_(self, **_: Any) -> None:
        # without a kernel the button cannot be pressed: a reader sees the line that does the same
        line = "%pdserve use"
        bundle = super()._repr_mimebundle_()
        readable = {"text/plain": f"{USE}: {line}", "text/html": f"<small>{USE}: {copy_html(line)}</small>"}
        display({**bundle, **readable}, raw=True)
