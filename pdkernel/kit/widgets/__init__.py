"""
Forms of a notebook: ipywidgets that show and change the session.

    user_picker         environment, external user and accounts, with a lookup preview
    account_forms       connect and remove an external user's accounts
    link_button         buttons that open a Connect Link page, and the console
    event_composer      the test event: write, load, save, send
    event_fields        fields for method, path, query, headers and client address
    event_field_text    an event as texts of fields, and back
    body_editor         the editor of the body
    action_form         find an action, fill in its props, write its cell
    action_search       the search for actions
    action_props        the fields of a chosen action, with what they load
    action_fields       the field of a prop, by its type
    background_run      a run in the background, with a live timeline; the latest of several calls
    request_buttons     buttons for requests to the served draft
    pause_buttons       buttons for a paused run
    output_buttons      buttons beside an output: save a run as a test, prove an export, run stale steps again
    form                the base class of forms
    saved_output        the output that stays readable without a kernel
    components          small components: messages, copyable text, secret field

A form calls the session and listens to it. Its only state of its own is unsaved input.
"""

from pdkernel.kit.widgets.action_form import ActionForm
from pdkernel.kit.widgets.event_composer import EventComposer
from pdkernel.kit.widgets.output_buttons import ProveExportButton, SaveTestButton, StaleStepsButton
from pdkernel.kit.widgets.pause_buttons import PauseButtons
from pdkernel.kit.widgets.user_picker import UserPicker

__all__ = [
    "ActionForm",
    "EventComposer",
    "PauseButtons",
    "ProveExportButton",
    "SaveTestButton",
    "StaleStepsButton",
    "UserPicker",
]
