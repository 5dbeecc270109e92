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
from pdkernel.readiness import preview_lookup
from pdkernel.render import lookup
from pdkernel.session import Session
from pdkernel.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_MARGIN,
    ROW_LAYOUT,
    build_copyable_html,
    build_field_layout,
    build_field_row,
    create_message,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)

ASK_LABEL = "What if …"
LOOKUP_LABEL = "Look up"


class LookupPreview:
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
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(420, min_width_px=260),
        )
        self.environment = ipw.Dropdown(
            options=ENVIRONMENTS, description="environment", style=DESCRIPTION_STYLE, layout=build_field_layout(300)
        )
        self._look = ipw.Button(
            description=LOOKUP_LABEL, tooltip="Explain how each account is found, or the first link that fails"
        )
        self._look.on_click(lambda _: self.preview())
        self.user.on_msg(lambda _, content, __: self.preview() if content.get("event") == "submit" else None)
        self._found = create_message()
        self._looked: tuple[str, str] | None = None
        self._fields = ipw.VBox(
            [
                build_field_row(self.user, self.environment, self._look),
                ipw.VBox([self._found], layout={"margin": FIELD_MARGIN}),
            ],
            layout={"display": "none"},
        )
        self._ask = ipw.Button(
            description=ASK_LABEL,
            tooltip="How would the accounts of another external user, or of the other environment, be looked up?",
            layout={"width": "auto"},
        )
        self._ask.on_click(lambda _: self._toggle())
        self.view = ipw.VBox([ipw.HBox([self._ask], layout=ROW_LAYOUT), self._fields])

    def set_users(self, users: Sequence[str]) -> None:
        """Offer these users; what was looked up is looked up again."""
        if tuple(self.user.options) != tuple(users):
            self.user.options = tuple(users)
        if self._looked:
            self._explain(*self._looked)

    def preview(self) -> None:
        """Look up, and explain."""
        self._looked = (self.user.value.strip(), self.environment.value)
        self._explain(*self._looked)

    def _explain(self, user: str, environment: str) -> None:
        try:
            found = preview_lookup(
                self._session.workflow,
                directory=self._session.directory,
                catalog=self._session.catalog,
                environment=parse_environment(environment),
                external_user_id=check_external_user_id(user) if user else None,
            )
        except PdkernelError as fault:
            show_message(self._found, str(fault), kind="error")
            return
        line = f"%pduser {f'{shlex.quote(user)} ' if user else ''}--environment {environment} --what-if"
        show_message_html(
            self._found,
            f"{lookup.render_output(found.lookup).html}<small>as a line: {build_copyable_html(line)}</small>",
        )

    def _toggle(self) -> None:
        hidden = self._fields.layout.display == "none"
        if hidden:
            set_value(self.user, self._session.external_user_id or "")
            set_value(self.environment, self._session.environment)
        set_visible(self._fields, visible=hidden)
