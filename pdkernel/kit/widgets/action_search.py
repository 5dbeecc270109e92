"""The search for pre-built actions: fields for an app and words, and the actions that match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import ipywidgets as ipw

from pdkernel.actions import Component
from pdkernel.kit.session import Session, actions
from pdkernel.kit.widgets.background_run import LatestCall
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    build_field_layout,
    build_field_row,
    close_tree,
    create_message,
    on_enter,
    set_children,
    set_visible,
    show_message,
)
from pdkernel.model import get_app_slug
from pdkernel.operations.actions import ActionSearch
from pdkernel.render.actions import format_first_paragraph
from pdkernel.render.apps import app_icon, format_app_name
from pdkernel.render.markup import Html, tag

TYPING_S = 0.3
"""Seconds without typing after which a form acts on the typed text."""
_PAGE_ROWS = 8
_MAX_RESULTS = 50


def build_action_heading(component: Component, *others: str) -> Html:
    """Title, app, key and version of an action with *others* on a line, its description below."""
    slug = get_app_slug(component.key)
    return tag(
        "div",
        app_icon(slug) if slug else "",
        " ",
        tag("strong", component.name),
        f" · {format_app_name(slug) or component.source} · ",
        tag("code", component.uses),
        *(f" · {other}" for other in others),
        tag("div", format_first_paragraph(component.description)),
        style="line-height:1.4",
    )


class ActionSearchBox:
    """
    Fields for an app and words, and the actions that match as a list with a button each.

    Args:
        session: The session whose sources are searched.
        choose: Called with the chosen action.
        changed: Called after the results changed, from another thread.
    """

    def __init__(
        self,
        session: Session,
        *,
        choose: Callable[[Component], None],
        changed: Callable[[], None],
        app: str,
        words: str,
    ) -> None:
        self._session = session
        self._choose = choose
        self._changed = changed
        self._call = LatestCall()
        self._search: ActionSearch | None = None
        self._shown_rows = _PAGE_ROWS
        slugs = actions.list_apps(session)
        self._slugs = {format_app_name(slug): slug for slug in slugs}
        self.app = ipw.Combobox(
            value=format_app_name(app) if app in slugs else app,
            options=tuple(sorted(self._slugs)),
            description="app",
            placeholder="every app",
            tooltip="An app's name or slug; empty for every app",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(340, min_width_px=240),
        )
        self.words = ipw.Text(
            value=words,
            description="search",
            placeholder="words of a title, for example send message",
            tooltip="Words that an action's key, title or description contains",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(460, min_width_px=260),
        )
        button = ipw.Button(description="Search", tooltip="Find actions", layout={"width": "auto"})
        button.on_click(lambda _: self.start(delay_s=0, install=True))
        for field in (self.app, self.words):
            field.observe(lambda _: self.start(delay_s=TYPING_S, install=False), "value")
            on_enter(field, lambda: self.start(delay_s=0, install=True))
        self.message = create_message()
        self._rows = ipw.VBox()
        self._more = ipw.Button(
            description="More actions", layout={"width": "auto", "align_self": "flex-start", "display": "none"}
        )
        self._more.on_click(lambda _: self._show_more())
        self.view = ipw.VBox([build_field_row(self.words, self.app, button), self.message, self._rows, self._more])

    @property
    def app_slug(self) -> str:
        """The slug of the app in the field; empty for every app."""
        typed = str(self.app.value).strip()
        return self._slugs.get(typed, typed)

    @property
    def components(self) -> Sequence[Component]:
        """The actions that match."""
        return self._search.components if self._search else ()

    @property
    def advice(self) -> str:
        """Without a match, how to find more; else empty."""
        return self._search.advice if self._search else ""

    def start(self, *, delay_s: float, install: bool) -> None:
        """Search in the background; *install* allows a download of the app's package."""
        words, app = str(self.words.value).strip(), self.app_slug
        self._call.start(partial(self._find, words, app, install), delay_s=delay_s, on_error=self.show_error)

    def load(self, text: str, act: Callable[[Callable[[], bool]], None]) -> None:
        """Show *text*, and call *act* in the background as `LatestCall.start` does, instead of a search that has not ended."""
        show_message(self.message, text)
        self._call.start(act, on_error=self.show_error)

    def wait(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for the end of a search, or of what is loaded."""
        self._call.wait(timeout_s)

    def close(self) -> None:
        """Discard what has not ended."""
        self._call.cancel()

    def _find(self, words: str, app: str, install: bool, is_latest: Callable[[], bool]) -> None:
        if install:
            show_message(self.message, "Searching ...")
        # as typed, an app's name is not complete, so its package is not downloaded
        known = not app or app in self._slugs.values()
        found = (
            actions.search(self._session, words, app=app or None, limit=_MAX_RESULTS, install=install)
            if install or known
            else ActionSearch((), f"To search the app {app}: press Enter.")
        )
        if is_latest():
            self._search = found
            self._shown_rows = _PAGE_ROWS
            show_message(self.message, found.advice)
            self._show_rows()
            self._changed()

    def show_error(self, text: str) -> None:
        """Show the message of an error."""
        show_message(self.message, text, kind="error")

    def _show_more(self) -> None:
        self._shown_rows += _PAGE_ROWS
        self._show_rows()

    def _show_rows(self) -> None:
        before = self._rows.children
        set_children(self._rows, [self._build_row(each) for each in self.components[: self._shown_rows]])
        for row in before:
            close_tree(row)
        set_visible(self._more, visible=len(self.components) > self._shown_rows)

    def _build_row(self, component: Component) -> ipw.HBox:
        use = ipw.Button(description="Use", tooltip=f"Use {component.name}, {component.uses}", layout={"width": "60px"})
        use.on_click(lambda _: self._choose(component))
        text = build_action_heading(component)
        return ipw.HBox([use, ipw.HTML(text, layout={"width": "calc(100% - 72px)"})], layout={"margin": "2px 0"})
