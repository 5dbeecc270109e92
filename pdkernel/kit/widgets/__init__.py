"""
Forms of a notebook: ipywidgets that show and change the session.

    user_picker     environment, external user and accounts, with the search for users and a lookup preview
    account_forms   connect and remove an external user's accounts
    event_composer  the test event: write, load, save, send
    body_editor     an event as texts of fields, and back; the editor of the body
    action_form     find an action, fill in its props, write its cell
    action_props    the fields of a chosen action, with what they load
    buttons         buttons below an output
    form            the base class of forms; runs in the background
    components      small components: messages, copyable text, secret field, saved output

A form calls the session and listens to it. Its only state of its own is unsaved input.
"""

from pdkernel.kit.widgets.action_form import ActionForm
from pdkernel.kit.widgets.buttons import PauseButtons, ProveExportButton, SaveTestButton, StaleStepsButton
from pdkernel.kit.widgets.event_composer import EventComposer
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
