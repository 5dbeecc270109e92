"""
A notebook's session: the draft workflow, the person's choices, and what has happened.

    session   the one mutable object
    draft     cells -> workflow, in the notebook's order
    events    test events and their library
    results   last results and which are stale
    kept      what is remembered over a restart
    debugging steps with --debug, run in the kernel's main thread
    loop      the thread in which runs run
    picture   an execution as the notebook shows it
    secrets   everything secret that the project holds
"""

from pdkernel.session.events import EventLibrary, TestEvent
from pdkernel.session.picture import picture
from pdkernel.session.secrets import project_redactor
from pdkernel.session.session import Session

__all__ = ["EventLibrary", "Session", "TestEvent", "picture", "project_redactor"]
