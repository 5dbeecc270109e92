"""
Forms of a notebook: core ipywidgets, each a view of the session.

    user_picker     whose accounts steps use: environment, external user, accounts
    event_composer  the test event: write, load, save, send
    action_props    the props of a step that uses a pre-built action
    form            what they are: follow the session, keep a readable output beside the form
    accounts        connecting and removing an external user's accounts
    event_texts     event <-> the texts of the form, losing nothing
    body            the editor of the body
    save_run        the button that saves a run as a test
    prove_export    the button that proves an export
    running         a run in the background, drawn as it grows
    kept            the output that survives the kernel
    parts           small pieces: messages, texts to copy, the field for a secret

A form calls the session and listens to it; it holds nothing of its own but what is being typed.
"""

from pdkernel.widgets.action_form import ActionForm
from pdkernel.widgets.event_composer import EventComposer
from pdkernel.widgets.prove_export_button import ProveExportButton
from pdkernel.widgets.save_test_button import SaveTestButton
from pdkernel.widgets.user_picker import UserPicker

__all__ = ["ActionForm", "EventComposer", "ProveExportButton", "SaveTestButton", "UserPicker"]
