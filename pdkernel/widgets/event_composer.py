"""
The form behind `%pdevent`: write a test event, load and save it, send it.

Knows the session's event, its library and its runs. Knows nothing of accounts: who an event is for is the picker's.

What is being typed is the form's own until it is sent, saved or used. An event that is chosen elsewhere meanwhile is
shown at once if nothing was typed, and announced if something was.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import ipywidgets as ipw

from pdkernel.analysis import Contract, compare_event
from pdkernel.errors import EventError, PdkernelError
from pdkernel.event import Event
from pdkernel.model import JSON
from pdkernel.render.contract import describe_violations
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session
from pdkernel.session.event_contract import build_contract, build_contract_example, load_saved_events
from pdkernel.widgets.background_run import BackgroundRunner
from pdkernel.widgets.body_editor import ABSENT, Absent, BodyEditor
from pdkernel.widgets.components import (
    DESCRIPTION_STYLE,
    FIELD_MARGIN,
    ROW_LAYOUT,
    ConfirmButton,
    build_field_layout,
    build_field_row,
    create_message,
    format_message_html,
    set_value,
    set_visible,
    show_message,
    show_message_html,
)
from pdkernel.widgets.event_field_text import (
    STARTER_EVENT,
    find_lost_headers,
    find_masked_headers,
    find_uneditable_keys,
    format_event_fields,
    is_same_event,
    parse_event_fields,
    remove_identity_headers,
)
from pdkernel.widgets.event_fields import EventFields
from pdkernel.widgets.form import SessionForm
from pdkernel.widgets.save_test_button import SaveTestButton
from pdkernel.widgets.saved_output import build_line_output

NEW_EVENT = "new event"
"""What an event is called that was written here and not saved."""
_CHANGED = " (changed)"
MAX_CONTRACT_MESSAGES = 6
"""Sentences about what the steps read; `%pdshape --contract` shows all."""


class EventComposer(SessionForm):
    """
    Writes the test event and runs the workflow on it.

    Args:
        session: Whose event it shows and chooses.
    """

    _title = "Test event"

    def __init__(self, session: Session) -> None:
        self._contract: Contract | None = None  # what the steps read, as the notebook is now
        self._saved_events: Mapping[str, Mapping[str, JSON]] = {}
        self._loaded_data: Mapping[str, JSON] = {}  # what the fields were filled from
        self._seen: Mapping[str, JSON] | None = None  # the session's event, when it was last looked at
        self._event_name = NEW_EVENT
        self._sent: tuple[RichOutput, RichOutput] | None = None  # what was sent, and what became of it
        self._runner = BackgroundRunner(session, draw=self._show_run, ended=self.refresh)
        self.fields = EventFields(self._edited)
        self.body = BodyEditor(lambda: self._edited(None))
        self._make_library()
        self._make_buttons()
        self._faults = create_message()
        self._contract_note = create_message()
        self._notes = create_message()
        self._status = create_message()
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
                    [self.send_button, self.use_button, self.show_button],
                    layout={**ROW_LAYOUT, "margin": "6px 0 0 118px"},
                ),
                ipw.VBox([self._status], layout={"margin": FIELD_MARGIN}),
                self.save_test_button,
            ],
        )

    def _make_library(self) -> None:
        self.library = ipw.Dropdown(
            options=[("choose one", "")],
            value="",
            description="saved events",
            tooltip="Events kept in events/ beside the notebook",
            style=DESCRIPTION_STYLE,
            layout=build_field_layout(380, min_width_px=240),
        )
        self.save_name = ipw.Text(
            placeholder="a name to save it as", tooltip="The name to save the event as", layout={"width": "220px"}
        )
        self.load_button = ConfirmButton(
            "Load",
            act=self._user_handler(self._load),
            question=lambda: "Drop the changes?" if self.is_modified and self.library.value else "",
            tooltip="Show the saved event and use it",
            layout={"width": "auto"},
        )
        self.save_button = ConfirmButton(
            "Save",
            act=self._user_handler(self._save),
            question=self._overwrite_question,
            tooltip="Save and use the event; it is kept in events/ beside the notebook, secret headers masked",
            layout={"width": "auto"},
        )
        self.library.observe(lambda _: self.load_button.reset(), "value")
        self.save_name.observe(lambda _: self.save_button.reset(), "value")

    def _make_buttons(self) -> None:
        self.send_button = ipw.Button(
            description="Send",
            button_style="primary",
            tooltip="Use this event and run the whole workflow on it",
        )
        self.use_button = ipw.Button(
            description="Use as the event",
            tooltip="Use this event for the steps that you run; nothing runs now",
            layout={"width": "150px"},
        )
        self.show_button = ipw.Button(
            description="Show the chosen event",
            tooltip="Drop what was typed here and show the event that was chosen elsewhere",
            layout={"width": "190px", "display": "none"},
        )
        self.example_button = ConfirmButton(
            "Write the example",
            act=self._user_handler(self._write_example),
            question=lambda: "Drop the body?" if self.body.is_modified else "",
            tooltip="Write a body with every field that the steps count on",
            layout={"width": "160px", "display": "none"},
        )
        self.send_button.on_click(self._user_handler(self._send_or_stop))
        self.use_button.on_click(self._user_handler(lambda: self._choose(self._name_now())))
        self.show_button.on_click(self._user_handler(self._show_chosen))

    # ── what it holds ──────────────────────────────────────────────────────────────

    @property
    def is_modified(self) -> bool:
        """Whether something was typed since the fields were filled."""
        return self.body.is_modified or self.fields.field_texts != format_event_fields(self._loaded_data)

    @property
    def magic_line(self) -> str:
        """The line that does the same without the form; without a name it is about the chosen event."""
        saved = not self.is_modified and self._event_name in self._session.events.names()
        return f"%pdevent {shlex.quote(self._event_name)} --send" if saved else "%pdevent --send"

    def build_event(self) -> Event:
        """
        The event that the form says, without the headers that follow the session.

        Raises:
            EventError: A field cannot be read.
        """
        data = parse_event_fields(self.fields.field_texts, self._loaded_data)
        body = self.body.read_body()
        if not isinstance(body, Absent):
            data["body"] = body
        ordered = {key: data[key] for key in dict.fromkeys([*self._loaded_data, *data]) if key in data}
        chosen = self._session.event
        return Event(ordered, is_http=chosen is None or chosen.is_http)

    def wait(self, timeout_s: float = 60) -> None:
        """Wait for the end of a run that was sent here."""
        self._runner.wait(timeout_s)

    # ── what the person does ───────────────────────────────────────────────────────

    def _load(self) -> None:
        name = self.library.value
        if not name:
            raise EventError("No saved event is chosen.", fix="Choose one in the list.")
        self._session.load_event(name)
        self._show_chosen()

    def _save(self) -> None:
        name = self._wanted_name()
        if not name:
            raise EventError("The event has no name yet.", fix="Write one beside Save.")
        self._choose(self._name_now())
        self._session.save_event(name)

    def _send_or_stop(self) -> None:
        if self._runner.is_running:
            self._runner.stop()
        else:
            self._choose(self._name_now())
            before, self._sent = self._sent, (self._sentence("Sent"), RichOutput("", ""))
            try:
                self._runner.start()
            except PdkernelError:
                self._sent = before
                raise
        self.refresh()

    def _choose(self, name: str) -> None:
        """Make what the form says the session's event."""
        event = self.build_event()
        with self._filling():
            if self.is_modified or not is_same_event(event.data, self._loaded_data):
                self._load_data(event.data, name)
        self._session.choose_event(event, name)

    def _show_chosen(self) -> None:
        """Drop what was typed and show the session's event."""
        with self._filling():
            self._load_data({}, NEW_EVENT)
            self._seen = None
        self.refresh()

    def _write_example(self) -> None:
        """Write a body that has what the steps count on; nothing is chosen yet."""
        made = build_contract_example(self._session) or {}
        with self._filling():
            self.body.replace_value(made.get("body", {}))
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

    # ── what the session says ──────────────────────────────────────────────────────

    def _update_widgets(self) -> None:
        self.fields.show_identity(self._session.external_user_id, self._session.environment)
        names = self._session.events.names()
        options = [("choose one" if names else "none yet", ""), *((name, name) for name in names)]
        if list(self.library.options) != options:
            before = self.library.value
            self.library.options = options
            set_value(self.library, before if before in names else "")
        self._contract = build_contract(self._session)
        self._saved_events = load_saved_events(self._session.events)
        event = self._session.event
        chosen = remove_identity_headers(event.data) if event is not None else None
        name = self._session.event_name or NEW_EVENT
        if chosen is None:
            if self._seen is None and not self.is_modified:
                self._load_data(STARTER_EVENT, NEW_EVENT)
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
        self.body.load(data.get("body", ABSENT), empty_kind="json" if data is STARTER_EVENT else "none")

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
        show_message_html(self._notes, _notes_html(self._loaded_data))
        self._show_line(self.magic_line)
        last = self._runner.last_execution
        if last is not None:
            self.save_test_button.set_execution(last)
        set_visible(self.save_test_button, visible=last is not None and not running and SaveTestButton.can_save(last))

    def _show_contract(self, *, wrong: bool) -> None:
        """Name what the steps read and this event lacks, or has otherwise than the saved events."""
        said: list[str] = []
        if self._contract is not None and not wrong:
            data = self.build_event().data
            said = describe_violations(
                compare_event(self._contract, self._event_name.removesuffix(_CHANGED), data, self._saved_events)
            )
        more = (
            [f"… {len(said) - MAX_CONTRACT_MESSAGES} more: %pdshape --contract"]
            if len(said) > MAX_CONTRACT_MESSAGES
            else []
        )
        show_message(self._contract_note, "\n".join([*said[:MAX_CONTRACT_MESSAGES], *more]), kind="warn")
        set_visible(self.example_button.view, visible=any(" is missing" in line for line in said))

    def _fault(self) -> str:
        try:
            parse_event_fields(self.fields.field_texts, self._loaded_data)
        except EventError as error:
            return str(error)
        return ""

    def _state(self, *, elsewhere: bool) -> str:
        if elsewhere:
            return f"The chosen event is now {self._session.event_name}; what you typed here is not."
        if self._seen is None:
            return "No event is chosen yet: Send, or use this one."
        if self.is_modified:
            return "Changed, and not yet used: Send, or use it as the event."
        return f"The chosen event: {self._event_name}."

    # ── what a reader keeps ────────────────────────────────────────────────────────

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
        who = f"as {user} in {environment}" if user is not None else f"on nobody's behalf, in {environment}"
        name = self._session.event_name or NEW_EVENT
        saved = name in self._session.events.names()
        line = f"%pdevent {shlex.quote(name)} --send" if saved else "%pdevent --send"
        return build_line_output(f"{verb} {name}: {event.summary()}, {who}.", line)

    def _show_run(self, outcome: RichOutput) -> None:
        with self._guard:
            if self._sent is not None:
                self._sent = (self._sent[0], outcome)
            self._saved_output.update(self._build_saved_output())

    def _release(self) -> None:
        self._runner.stop()


def _notes_html(data: Mapping[str, JSON]) -> str:
    notes = []
    if masked := find_lost_headers(data):
        notes.append(
            format_message_html(
                f"{', '.join(masked)}: the value was masked when this event was saved, and steps get ***. "
                "Write a value there if a step looks at it.",
                kind="warn",
            )
        )
    if hidden := find_masked_headers(data):
        notes.append(
            format_message_html(f"{', '.join(hidden)}: the value is not shown; steps get it. It is saved as ***.")
        )
    if kept := find_uneditable_keys(data):
        notes.append(format_message_html(f"Also in the event, and kept as it is: {', '.join(kept)}."))
    return "".join(notes)
