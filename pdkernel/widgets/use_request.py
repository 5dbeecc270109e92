"""
The button "Use the latest request as the test event" below a draft that is served.

Knows what it is given to do. Its line form is `%pdserve use`.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.widgets.parts import say

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
