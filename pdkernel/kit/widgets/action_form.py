"""
The form behind `%pdactions`: finds a pre-built action, shows its props as fields, and writes the cell of a step.

The search has fields for an app and words, and lists the actions that match. With the Lab extension the button writes the
cell into the notebook; elsewhere the person copies the cell from the output.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from functools import partial

import ipywidgets as ipw

from pdkernel.actions import Component
from pdkernel.actions.component import ACCOUNTLESS_APPS
from pdkernel.errors import PdkernelError, StepNameError, format_count
from pdkernel.kit.session import Session, actions
from pdkernel.kit.widgets.action_props import (
    FIELD_MARGIN,
    LABEL_STYLE,
    NAME_PX,
    TYPING_S,
    AccountField,
    ActionProps,
    ChosenAction,
    FormHooks,
    PropField,
    create_field_message,
)
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    ROW_LAYOUT,
    build_copyable_block_html,
    build_copyable_html,
    build_field_layout,
    build_field_row,
    build_picture,
    close_tree,
    create_message,
    format_message_html,
    on_enter,
    quote_magic_argument,
    set_children,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.kit.widgets.form import LatestCall, SessionForm
from pdkernel.language.directive import format_step_cell
from pdkernel.model import STEP_NAME, AppBinding, Step, check_step_name, get_app_slug
from pdkernel.operations.actions import ActionSearch
from pdkernel.render.actions import format_first_paragraph
from pdkernel.render.apps import app_icon, format_app_name
from pdkernel.render.markup import Html, RichOutput, tag

_PAGE_ROWS = 8
_MAX_RESULTS = 50


def build_action_heading(component: Component, *others: str) -> Html:
    """Return the title, app, key and version of an action with *others* on a line, its description below."""
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


WRITE_LABEL = "Write cell"
BACK_LABEL = "Another action"


class ActionForm(SessionForm):
    """
    The form that finds an action and writes the cell of a step that uses the action.

    Args:
        session: The session; options are loaded with its external user's account.
        chosen: A step of the workflow, or the key of an action; None to search.
        app: The slug of the app to search, or empty.
        words: The words to search for.

    Raises:
        PdkernelError: There is no such step or action, the step is code, or its action is unavailable.
    """

    _title = "Actions"

    def __init__(self, session: Session, chosen: str | None = None, *, app: str = "", words: str = "") -> None:
        self._props: ActionProps | None = None
        self._is_in_workflow = False
        self._written = 0
        self.search = ActionSearchBox(
            session, choose=self._choose, changed=self._update_saved_output, app=app, words=words
        )
        self._head = ipw.HTML()
        self.name = ipw.Text(
            description="step name *",
            tooltip="The step's name, as in steps.NAME",
            style=LABEL_STYLE,
            layout=build_field_layout(NAME_PX + 450, min_width_px=NAME_PX + 180),
        )
        self._name_message = create_field_message()
        self._props_box = ipw.VBox()
        write = ipw.Button(
            description=WRITE_LABEL,
            button_style="primary",
            tooltip="Write the step's cell below this form, or into the cell that the step has",
            layout={"width": "auto"},
        )
        back = ipw.Button(
            description=BACK_LABEL, tooltip="Go back to the search, without a cell", layout={"width": "auto"}
        )
        self._result = create_field_message()
        self._chosen_box = ipw.VBox(
            [
                self._head,
                build_field_row(self.name, name_px=NAME_PX),
                self._name_message,
                self._props_box,
                ipw.HBox([write, back], layout={**ROW_LAYOUT, "margin": FIELD_MARGIN}),
                self._result,
            ]
        )
        # the Lab extension finds the button and the fields by these classes
        write.add_class("pd-write")
        self._chosen_box.add_class("pd-write-fields")
        self._hooks = FormHooks(
            handler=self._user_handler,
            filling=self._filling,
            changed=self._changed,
            redraw=self.refresh,
            entered=self.write,
        )
        found = None if chosen is None else _find_action(session, chosen)
        super().__init__(session, [self.search.view, self._chosen_box])
        self.name.observe(self._user_handler(self._changed), "value")
        on_enter(self.name, self.write)
        write.on_click(lambda _: self.write())
        back.on_click(self._user_handler(self._go_back))
        if found is None:
            self.search.start(delay_s=0, install=False)
        else:
            self._show_action(found, is_in_workflow=STEP_NAME.match(chosen or "") is not None)

    @property
    def magic_line(self) -> str:
        """The magic line that shows the same form."""
        if self._props is not None:
            chosen = self._props.chosen
            return f"%pdactions --form {chosen.step.name if self._is_in_workflow else chosen.component.uses}"
        app, words = self.search.app_slug, str(self.search.words.value).strip()
        return " ".join(["%pdactions", *(["--app", quote_magic_argument(app)] if app else []), *words.split()])

    @property
    def cell_source(self) -> str:
        """The source of the step's cell with the values of the form. An invalid value is left out."""
        assert self._props is not None
        return format_step_cell(self._props.build_step(str(self.name.value).strip()))

    @property
    def fields(self) -> Sequence[PropField]:
        """The fields of the chosen action's props, in order."""
        return self._props.fields if self._props is not None else ()

    def get_field(self, prop: str) -> PropField:
        """Return the field of *prop*. Raises `KeyError`."""
        assert self._props is not None
        return self._props.get_field(prop)

    def get_account_field(self, prop: str) -> AccountField:
        """Return the field of the app prop *prop*. Raises `KeyError`."""
        assert self._props is not None
        return self._props.get_account_field(prop)

    def wait(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for what the form loads in the background."""
        self.search.wait(timeout_s)
        if self._props is not None:
            self._props.wait(timeout_s)

    def write(self) -> None:
        """Check the values, and write the cell. Without the Lab extension, ask the person to copy the cell."""
        if self._props is None:
            return
        problems = self._show_name_problem() + self._props.show_problems()
        if problems:
            show_message(self._result, f"No cell was written: correct {format_count(problems, 'field')}.", kind="error")
            return
        self._written += 1
        self._is_in_workflow = True
        source = html.escape(self.cell_source)
        done = format_message_html("The cell is written. Run it with Shift+Enter.", kind="success")
        todo = format_message_html("Copy the cell that is shown below into a new cell, and run it.")
        show_message_html(
            self._result,
            f'<div class="pd-new-cell" data-number="{self._written}"><code style="display:none">{source}</code>'
            f'<div class="pd-if-written" style="display:none">{done}</div><div class="pd-if-not-written">{todo}</div></div>',
        )

    def _choose(self, component: Component) -> None:
        self.search.load(f"Loading {component.uses} ...", partial(self._load_action, component.uses))

    def _load_action(self, uses: str, is_latest: Callable[[], bool]) -> None:
        found = _find_action(self._session, uses)
        if is_latest():
            show_message(self.search.message, "")
            self._show_action(found, is_in_workflow=False)

    def _show_action(self, found: ChosenAction, *, is_in_workflow: bool) -> None:
        with self._filling():
            self._close_props()
            self._is_in_workflow = is_in_workflow
            self._props = ActionProps(self._session, found, self._hooks)
            set_children(self._props_box, [self._props.view])
            set_value(self._head, build_action_heading(found.component, found.component.source_summary))
            set_value(self.name, found.step.name)
            set_value(self.name, is_in_workflow, "disabled")
            self.refresh()
        self._props.start()

    def _go_back(self) -> None:
        with self._filling():
            self._close_props()
            self.refresh()
        self.search.start(delay_s=0, install=False)

    def _close_props(self) -> None:
        props, self._props = self._props, None
        set_children(self._props_box, ())
        show_message(self._name_message, "")
        show_message(self._result, "")
        if props is not None:
            props.close()

    def _update_widgets(self) -> None:
        set_visible(self.search.view, visible=self._props is None)
        set_visible(self._chosen_box, visible=self._props is not None)
        self._show_line(self.magic_line)
        if self._props is not None:
            self._props.update()

    def _changed(self) -> None:
        show_message(self._result, "")
        self._update_saved_output()

    def _update_saved_output(self) -> None:
        with self._filling():
            self._show_line(self.magic_line)
            self._saved_output.update(self._build_saved_output())

    def _build_saved_output(self) -> RichOutput:
        line, props = self.magic_line, self._props
        if props is None:
            found = self.search.components
            rows = [(each.uses, f"{each.name}\n{format_first_paragraph(each.description)}".strip()) for each in found]
            text = self.search.advice or f"{format_count(len(found), 'action')}."
            listed = "".join(f"{each.uses}  {each.name}\n" for each in found)
            shown = f"<div>{html.escape(text)} {build_copyable_html(line)}</div>{build_picture(rows)}"
            return RichOutput(f"{listed}{text}\n{line}", shown)
        text = f"Step {str(self.name.value).strip()} uses {props.chosen.component.uses}."
        fields = [(field.label, "" if field.prop.definition.get("secret") else field.text) for field in self.fields]
        cell = self.cell_source
        shown = f"<div>{html.escape(text)} {build_copyable_html(line)}</div>{build_copyable_block_html(cell)}"
        return RichOutput(f"{text} Its cell:\n{cell}\n{line}", f"{shown}{build_picture(fields)}")

    def _show_name_problem(self) -> int:
        """Show why the step cannot have the name of the field; returns 1 if there is a reason, else 0."""
        name, text = str(self.name.value).strip(), ""
        try:
            check_step_name(name)
            if not self._is_in_workflow and name in {step.name for step in self._session.workflow.steps}:
                text = f"The workflow has a step {name}: type another name."
        except StepNameError as fault:
            text = str(fault)
        except PdkernelError:
            pass  # another cell is invalid, which does not concern this cell
        show_message(self._name_message, text, kind="error")
        return int(bool(text))

    def _release(self) -> None:
        self.search.close()
        if self._props is not None:
            self._props.close()


def _find_action(session: Session, chosen: str) -> ChosenAction:
    """Return the action of the step of the workflow, or with the key, that *chosen* names; for a key, with a new step."""
    if STEP_NAME.match(chosen):
        step = session.workflow.step(chosen)
        component, description = actions.describe(session, step.uses or chosen)
        return ChosenAction(component, description, step)
    component, description = actions.describe(session, chosen)
    # the directive names the slug alone: the step finds a prop with another name by its app
    apps = dict.fromkeys(AppBinding(app.app, app.app) for app in description.apps if app.app not in ACCOUNTLESS_APPS)
    name = actions.suggest_step_name(session, component.key)
    return ChosenAction(component, description, Step(name, "node", uses=component.uses, apps=tuple(apps)))
