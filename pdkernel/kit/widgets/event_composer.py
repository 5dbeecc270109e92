"""
The form behind `%pdevent`: write, load, save and send a test event.

Unsaved input belongs to the form until it is sent, saved or used. If another event is chosen elsewhere, the form shows
that event at once, or a notice if there is unsaved input.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw

from pdkernel.errors import DefinitionError, EventError, PdkernelError
from pdkernel.event import ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER, JSON_POST, Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.body_editor import (
    ABSENT,
    Absent,
    BodyEditor,
    EventFieldTexts,
    describe_event_fields,
    find_lost_headers,
    find_masked_headers,
    find_uneditable_keys,
    format_event_fields,
    is_same_event,
    parse_event_fields,
    remove_identity_headers,
)
from pdkernel.kit.widgets.buttons import PauseButtons, SaveTestButton
from pdkernel.kit.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_LEFT_MARGIN,
    FIELD_MARGIN,
    ROW_LAYOUT,
    WIDE_LAYOUT,
    ConfirmButton,
    build_field_layout,
    build_field_row,
    build_line_output,
    build_named_field,
    create_message,
    format_message_html,
    on_enter,
    press,
    quote_magic_argument,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.kit.widgets.form import BackgroundRunner, SessionForm
from pdkernel.language.analysis.contract import Contract, build_example_event, compare_event, derive_contract
from pdkernel.model import JSON
from pdkernel.render.contract import describe_violations
from pdkernel.render.markup import RichOutput

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


class EventFields:
    """
    The event's fields.

    Args:
        edited: Called after the user edited a field.
        entered: Called after Enter in a field of one line.
    """

    def __init__(self, edited: Callable[[object], None], entered: Callable[[], None]) -> None:
        self.method = ipw.Dropdown(
            options=_methods(""),
            value="",
            description="method",
            tooltip="The HTTP method",
            style=DESCRIPTION_STYLE,
            layout={"width": "240px"},
        )
        self.path = ipw.Text(
            description="path",
            tooltip="The path of the request",
            style={"description_width": "40px"},
            layout=build_field_layout(490, min_width_px=180),
        )
        self.query = _lines("query", "page: 2", "Parameters of the query, one `name: value` per line", rows=2)
        self.headers = _lines(
            "headers", "content-type: application/json", "Headers, one `name: value` per line", rows=5
        )
        self.client_ip = ipw.Text(
            description="client_ip",
            placeholder="optional",
            tooltip="The caller's address; optional",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(380),
        )
        for each in self._all:
            each.observe(edited, "value")
        on_enter(self.path, entered)
        on_enter(self.client_ip, entered)
        self.identity = ipw.HTML(layout={"margin": f"2px 2px 2px {FIELD_LEFT_MARGIN}"})
        self.view = ipw.VBox(
            [
                build_field_row(self.method, self.path),
                self.query,
                self.headers,
                self.identity,
                self.client_ip,
            ]
        )

    @property
    def field_texts(self) -> EventFieldTexts:
        """The texts of the fields."""
        return EventFieldTexts(*(each.value for each in self._all))

    def set_texts(self, texts: EventFieldTexts) -> None:
        """Set the texts of the fields."""
        if texts.method not in dict(self.method.options).values():
            self.method.options = _methods(texts.method)
        for each, text in zip(
            self._all, (texts.method, texts.path, texts.query, texts.headers, texts.client_ip), strict=True
        ):
            set_value(each, text)

    def show_identity(self, external_user_id: str | None, environment: str) -> None:
        """Show the two headers that the session sets, as text: a disabled field would be hard to read."""
        headers = {ENVIRONMENT_HEADER: environment}
        if external_user_id is not None:
            headers[EXTERNAL_USER_HEADER] = external_user_id
        no_user = "" if external_user_id is not None else f"No {EXTERNAL_USER_HEADER}: no external user is picked. "
        lines = "".join(f"<code>{html.escape(f'{name}: {value}')}</code><br>" for name, value in headers.items())
        note = format_message_html(f"{no_user}Sent with the headers above; %pduser sets them.")
        set_value(self.identity, f'<div style="line-height: 1.5">{lines}{note}</div>')

    @property
    def _all(self) -> tuple[Any, ...]:
        """The fields, in the order of `EventFieldTexts`."""
        return (self.method, self.path, self.query, self.headers, self.client_ip)


def _methods(extra: str) -> list[tuple[str, str]]:
    more = [] if not extra or extra in METHODS else [(extra, extra)]
    return [("(none)", ""), *((method, method) for method in METHODS), *more]


def _lines(name: str, example: str, tooltip: str, *, rows: int) -> Any:
    return ipw.Textarea(
        description=name,
        placeholder=example,
        tooltip=tooltip,
        rows=rows,
        style=DESCRIPTION_STYLE,
        layout=dict(WIDE_LAYOUT),
    )


def build_notes_html(data: Mapping[str, JSON]) -> str:
    """Return the notes about the parts of the event *data* that the fields hide or do not show."""
    notes = []
    if masked := find_lost_headers(data):
        notes.append(
            format_message_html(
                f"{', '.join(masked)}: the value was masked when this event was saved, and steps get ***. "
                "If a step reads the header, write a value.",
                kind="warn",
            )
        )
    if hidden := find_masked_headers(data):
        notes.append(
            format_message_html(f"{', '.join(hidden)}: the value is hidden here and saved as ***; steps get the value.")
        )
    if kept := find_uneditable_keys(data):
        notes.append(format_message_html(f"Other keys of the event, kept unchanged: {', '.join(kept)}."))
    return "".join(notes)


NEW_EVENT = "new event"
"""The name of an event that is not saved."""
_CHANGED = " (changed)"
MAX_CONTRACT_MESSAGES = 6
"""Number of contract messages shown; `%pdshape --contract` shows all."""


class EventComposer(SessionForm):
    """
    The form that edits the test event and runs the workflow on it.

    Args:
        session: The session of the test event.
    """

    _title = "Test event"

    def __init__(self, session: Session) -> None:
        self._contract: Contract | None = None  # the contract of the current draft
        self._saved_events: Mapping[str, Mapping[str, JSON]] = {}
        self._loaded_data: Mapping[str, JSON] = {}  # the event that the fields were filled from
        self._seen: Mapping[str, JSON] | None = None  # the session's event at the last refresh
        self._event_name = NEW_EVENT
        self._listed_name: str | None = None  # the session's event that the list of saved events was set to
        self._sent: tuple[RichOutput, RichOutput] | None = None  # the sent event, and the output of its run
        self._runner = BackgroundRunner(session, draw=self._show_run, changed=self.refresh)
        self.fields = EventFields(self._edited, lambda: press(self.send_button, unless=self._runner.is_running))
        self.body = BodyEditor(lambda: self._edited(None))
        self._make_library()
        self._make_buttons()
        self._faults, self._contract_note, self._notes, self._status = (create_message() for _ in range(4))
        self.pause_buttons = PauseButtons(session)
        self.pause_buttons.layout.margin = FIELD_MARGIN
        self.save_test_button = SaveTestButton(session)
        self.save_test_button.layout = {"margin": FIELD_MARGIN, "display": "none"}
        super().__init__(
            session,
            [
                build_field_row(
                    self.library,
                    self.load_button.view,
                    ipw.HBox([self.save_name, self.save_button.view], layout=ROW_LAYOUT),
                ),
                self.fields.view,
                self._faults,
                self.body.view,
                ipw.VBox([self._contract_note, self.example_button.view, self._notes], layout={"margin": FIELD_MARGIN}),
                ipw.HBox(
                    [self.send_button, self.use_button, self.skip_waits, self.show_button],
                    layout={**ROW_LAYOUT, "margin": "6px 0 0 118px"},
                ),
                ipw.VBox([self._status], layout={"margin": FIELD_MARGIN}),
                self.pause_buttons,
                self.save_test_button,
            ],
        )

    def _make_library(self) -> None:
        self.library = ipw.Dropdown(
            options=[("choose one", "")],
            value="",
            description="saved events",
            tooltip="Events in events/ beside the notebook",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(380, min_width_px=240),
        )
        self.save_name = ipw.Text(tooltip="The name to save the event as", **build_named_field("save as", 260))
        self.load_button = ConfirmButton(
            "Load",
            act=self._user_handler(self._load),
            question=lambda: "Discard the changes?" if self.is_modified and self.library.value else "",
            field=self.library,
            tooltip="Show and use the saved event",
            layout={"width": "auto"},
        )
        self.save_button = ConfirmButton(
            "Save",
            act=self._user_handler(self._save),
            question=self._overwrite_question,
            field=self.save_name,
            tooltip="Save and use the event; the file is in events/ beside the notebook, with masked secret headers",
            layout={"width": "auto"},
        )

    def _make_buttons(self) -> None:
        self.send_button = ipw.Button(
            description="Send",
            button_style="primary",
            tooltip="Use this event and run the whole workflow on it",
        )
        self.use_button = ipw.Button(
            description="Use as the event",
            tooltip="Use this event for later runs, without running a step now",
            layout={"width": "150px"},
        )
        self.skip_waits = ipw.Checkbox(description="skip waits", indent=False, layout={"width": "110px"})
        self.skip_waits.tooltip = "Go on at once where the workflow pauses ($.flow.delay, suspend, rerun)"
        self.skip_waits.observe(lambda _: self._edited(None), "value")
        self.show_button = ipw.Button(
            description="Show the chosen event",
            tooltip="Discard the changes here and show the event that was chosen elsewhere",
            layout={"width": "190px", "display": "none"},
        )
        self.example_button = ConfirmButton(
            "Write the example",
            act=self._user_handler(self._write_example),
            question=lambda: "Discard the body?" if self.body.is_modified else "",
            tooltip="Write a body with every field that the steps read",
            layout={"width": "160px", "display": "none"},
        )
        self.send_button.on_click(self._user_handler(self._send_or_stop))
        self.use_button.on_click(self._user_handler(lambda: self._choose(self._name_now())))
        self.show_button.on_click(self._user_handler(self._show_chosen))

    # ── the event ──────────────────────────────────────────────────────────────

    @property
    def is_modified(self) -> bool:
        """Whether the event was edited since the fields were filled."""
        return self.body.is_modified or self.fields.field_texts != format_event_fields(self._loaded_data)

    @property
    def magic_line(self) -> str:
        """The magic line that sends the event without the form; names the event if it is saved."""
        saved = not self.is_modified and self._event_name in self._session.events.names()
        line = f"%pdevent {quote_magic_argument(self._event_name)} --send" if saved else "%pdevent --send"
        return f"{line} --skip-waits" if self.skip_waits.value else line

    def build_event(self) -> Event:
        """
        Return the event of the form, without the external user's headers.

        Raises:
            EventError: A field is invalid.
        """
        data = parse_event_fields(self.fields.field_texts, self._loaded_data)
        body = self.body.read_body()
        if not isinstance(body, Absent):
            data["body"] = body
        ordered = {key: data[key] for key in dict.fromkeys([*self._loaded_data, *data]) if key in data}
        chosen = self._session.event
        return Event(ordered, is_http=chosen is None or chosen.is_http)

    def wait(self, timeout_s: float = 60) -> None:
        """Wait up to *timeout_s* seconds for the end of the run."""
        self._runner.wait(timeout_s)

    # ── actions of the user ───────────────────────────────────────────────────────

    def _load(self) -> None:
        name = self.library.value
        if not name:
            raise EventError("No saved event is chosen.", fix="Choose an event in the list.")
        self._session.load_event(name)
        self._show_chosen()

    def _save(self) -> None:
        name = self._wanted_name()
        if not name:
            raise EventError("The event has no name.", fix="Write a name beside Save.")
        self._choose(self._name_now())
        self._session.save_event(name)

    def _send_or_stop(self) -> None:
        if self._runner.is_running:
            self._runner.stop()
        else:
            self._choose(self._name_now())
            before, self._sent = self._sent, (self._sentence("Sent"), RichOutput("", ""))
            try:
                self._runner.start(skips_waits=self.skip_waits.value)
            except PdkernelError:
                self._sent = before
                raise
        self.refresh()

    def _choose(self, name: str) -> None:
        """Make the form's event the session's test event."""
        event = self.build_event()
        with self._filling():
            if self.is_modified or not is_same_event(event.data, self._loaded_data):
                self._load_data(event.data, name)
        self._session.choose_event(event, name)

    def _show_chosen(self) -> None:
        """Discard unsaved input and show the session's event."""
        with self._filling():
            self._load_data({}, NEW_EVENT)
            self._seen = None
        self.refresh()

    def _write_example(self) -> None:
        """Write a body with the fields of the contract; the session's event does not change."""
        if self._contract is None:
            return
        example = build_example_event(self._contract, list(self._saved_events.values()))
        with self._filling():
            self.body.replace_value(example.get("body", {}))
        self._edited(None)

    def _overwrite_question(self) -> str:
        name = self._wanted_name()
        another = name != self._event_name.removesuffix(_CHANGED)
        return f"Overwrite {name}?" if another and name in self._session.events.names() else ""

    def _wanted_name(self) -> str:
        name: str = self.save_name.value.strip()
        return name.removesuffix(".json")

    def _name_now(self) -> str:
        if not self.is_modified or self._event_name == NEW_EVENT:
            return self._event_name
        return self._event_name.removesuffix(_CHANGED) + _CHANGED

    def _edited(self, _: object) -> None:
        if self._is_filling:
            return
        with self._filling():
            self.load_button.reset()
            self.save_button.reset()
            self.example_button.reset()
            self._show_state()

    # ── refresh from the session ──────────────────────────────────────────────────────

    def _update_widgets(self) -> None:
        self.fields.show_identity(self._session.external_user_id, self._session.environment)
        names = self._session.events.names()
        options = [("choose one" if names else "none yet", ""), *((name, name) for name in names)]
        if list(self.library.options) != options:
            before = self.library.value
            self.library.options = options
            set_value(self.library, before if before in names else "")
        if self._session.event_name != self._listed_name:  # another event was chosen: the list shows it
            self._listed_name = self._session.event_name
            set_value(self.library, self._listed_name if self._listed_name in names else "")
        try:
            workflow = self._session.workflow
        except DefinitionError:
            self._contract, self._saved_events = None, {}
        else:
            self._contract = derive_contract(workflow)
            self._saved_events = self._session.events.load_newest(http=workflow.trigger.type == "http")
        event = self._session.event
        chosen = remove_identity_headers(event.data) if event is not None else None
        name = self._session.event_name or NEW_EVENT
        if chosen is None:
            if self._seen is None and not self.is_modified:
                self._load_data(JSON_POST, NEW_EVENT)
        elif is_same_event(chosen, self._loaded_data):
            self._event_name = name
        elif not self.is_modified:
            self._load_data(chosen, name)
        self._seen = chosen
        self._show_state()

    def _load_data(self, data: Mapping[str, JSON], name: str) -> None:
        """Fill the fields from *data*."""
        self._event_name = name
        self._loaded_data = data
        self.fields.set_texts(format_event_fields(data))
        self.body.load(data.get("body", ABSENT), empty_kind="json" if data is JSON_POST else "none")

    def _show_state(self) -> None:
        fault = self._fault()
        show_message(self._faults, fault, kind="error")
        wrong = bool(fault or self.body.error_message)
        running, stopping = self._runner.is_running, self._runner.is_stopping
        self.send_button.description = "Stopping" if stopping else "Stop" if running else "Send"
        self.send_button.button_style = "danger" if running else "primary"
        self.send_button.disabled = stopping or (wrong and not running)
        self.use_button.disabled = self.save_button.view.disabled = wrong
        elsewhere = self._seen is not None and self.is_modified and not is_same_event(self._seen, self._loaded_data)
        set_visible(self.show_button, visible=elsewhere)
        show_message(self._status, self._state(elsewhere=elsewhere))
        self._show_contract(wrong=wrong)
        show_message_html(self._notes, build_notes_html(self._loaded_data))
        self._show_line(self.magic_line)
        self.pause_buttons.set_execution(self._runner.paused_execution)
        last = self._runner.last_execution
        if last is not None:
            self.save_test_button.set_execution(last)
        set_visible(self.save_test_button, visible=last is not None and not running and SaveTestButton.can_save(last))

    def _show_contract(self, *, wrong: bool) -> None:
        """Show the contract fields that the event lacks, or that differ from the saved events."""
        messages: list[str] = []
        if self._contract is not None and not wrong:
            data = self.build_event().data
            messages = describe_violations(
                compare_event(self._contract, self._event_name.removesuffix(_CHANGED), data, self._saved_events)
            )
        more = (
            [f"… {len(messages) - MAX_CONTRACT_MESSAGES} more: %pdshape --contract"]
            if len(messages) > MAX_CONTRACT_MESSAGES
            else []
        )
        show_message(self._contract_note, "\n".join([*messages[:MAX_CONTRACT_MESSAGES], *more]), kind="warn")
        set_visible(self.example_button.view, visible=any(" is missing" in line for line in messages))

    def _fault(self) -> str:
        try:
            parse_event_fields(self.fields.field_texts, self._loaded_data)
        except EventError as error:
            return str(error)
        return ""

    def _state(self, *, elsewhere: bool) -> str:
        if elsewhere:
            return f"The chosen event is now {self._session.event_name}; the changes here are not used."
        if self._seen is None:
            return "No event is chosen yet: send or use this event."
        if self.is_modified:
            return "Changed and not used yet: send or use this event."
        return f"The chosen event: {self._event_name}."

    # ── saved output ────────────────────────────────────────────────────────

    def _build_saved_output(self) -> RichOutput:
        now = self._sentence("Event")
        if self._sent is None:
            return now
        sent, outcome = self._sent
        same = sent.text.partition(" ")[2] == now.text.partition(" ")[2]
        return (now if same else now + sent) + outcome

    def _sentence(self, verb: str) -> RichOutput:
        event = self._session.event
        if event is None:
            return build_line_output("No event is chosen yet.", "%pdevent FILE")
        user, environment = self._session.external_user_id, self._session.environment
        who = f"as {user} in {environment}" if user is not None else f"without an external user, in {environment}"
        name = self._session.event_name or NEW_EVENT
        saved = name in self._session.events.names()
        line = f"%pdevent {quote_magic_argument(name)} --send" if saved else "%pdevent --send"
        fields = [("event", name), *describe_event_fields(event.data)]
        return build_line_output(f"{verb} {name}: {event.summary()}, {who}.", line, fields)

    def _show_run(self, outcome: RichOutput) -> None:
        with self._guard:
            if self._sent is not None:
                self._sent = (self._sent[0], outcome)
            self._saved_output.update(self._build_saved_output())

    def _release(self) -> None:
        self._runner.stop()
