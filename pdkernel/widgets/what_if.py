"""
"What if" for another external user or environment: how their accounts would be looked up. Runs no code.

Knows the form's fields. What it shows is `%pduser ID --environment E --what-if`'s.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import ipywidgets as ipw

from pdkernel.errors import PdkernelError
from pdkernel.identity import ENVIRONMENTS, check_external_user_id, parse_environment
from pdkernel.readiness import what_if
from pdkernel.render import lookup
from pdkernel.session import Session
from pdkernel.widgets.parts import BESIDE, DESCRIPTION, ROW, copy_html, field, note, row, say, say_html, set_value, show

ASK = "What if …"
LOOK = "Look up"


class WhatIf:
    """
    The fields, hidden until they are asked for, and the look-up below them.

    Args:
        session: Whose workflow; its own choice stays as it is.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.user = ipw.Combobox(
            description="external user",
            placeholder="an id; empty for a caller who names nobody",
            tooltip="Whose accounts would be looked up; nobody is chosen, and no step runs",
            style=DESCRIPTION,
            layout=field(420, least=260),
        )
        self.environment = ipw.Dropdown(
            options=ENVIRONMENTS, description="environment", style=DESCRIPTION, layout=field(300)
        )
        self._look = ipw.Button(
            description=LOOK, tooltip="Explain how each account is found, or the first link that fails"
        )
        self._look.on_click(lambda _: self.look())
        self.user.on_msg(lambda _, content, __: self.look() if content.get("event") == "submit" else None)
        self._found = note()
        self._looked: tuple[str, str] | None = None
        self._fields = ipw.VBox(
            [
                row(self.user, self.environment, self._look),
                ipw.VBox([self._found], layout={"margin": BESIDE}),
            ],
            layout={"display": "none"},
        )
        self._ask = ipw.Button(
            description=ASK,
            tooltip="How would the accounts of another external user, or of the other environment, be looked up?",
            layout={"width": "auto"},
        )
        self._ask.on_click(lambda _: self._toggle())
        self.view = ipw.VBox([ipw.HBox([self._ask], layout=ROW), self._fields])

    def show(self, users: Sequence[str]) -> None:
        """Offer these users; what was looked up is looked up again."""
        if tuple(self.user.options) != tuple(users):
            self.user.options = tuple(users)
        if self._looked:
            self._explain(*self._looked)

    def look(self) -> None:
        """Look up, and explain."""
        self._looked = (self.user.value.strip(), self.environment.value)
        self._explain(*self._looked)

    def _explain(self, user: str, environment: str) -> None:
        try:
            found = what_if(
                self._session.workflow,
                directory=self._session.directory,
                catalog=self._session.catalog,
                environment=parse_environment(environment),
                external_user_id=check_external_user_id(user) if user else None,
            )
        except PdkernelError as fault:
            say(self._found, str(fault), kind="error")
            return
        line = f"%pduser {f'{shlex.quote(user)} ' if user else ''}--environment {environment} --what-if"
        say_html(self._found, f"{lookup.view(found.lookup).html}<small>as a line: {copy_html(line)}</small>")

    def _toggle(self) -> None:
        hidden = self._fields.layout.display == "none"
        if hidden:
            set_value(self.user, self._session.external_user_id or "")
            set_value(self.environment, self._session.environment)
        show(self._fields, visible=hidden)
