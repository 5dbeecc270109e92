"""
A notebook's session: the draft workflow, the person's choices, and what has happened.

    session       the one mutable object
    draft         cells -> workflow, in the notebook's order
    choices       event, external user, outside calls and pins, as the person has chosen them
    events        test events and their library
    requests      the choices -> what the engine is asked to do
    results       last results and which are stale
    latest        the latest runs, which can still be saved as tests
    kept          what is remembered over a restart
    local         the local project, opened at the first need
    actions       pre-built actions: searching, forms
    debugging     steps with --debug, run in the kernel's main thread
    engine_thread the engine: one run at a time
    loop          the thread in which runs run
    serving       the draft behind an endpoint of its own
    picture       an execution as the notebook shows it
    secrets       everything secret that the project holds
"""

from pdkernel.session.event_library import EventLibrary, TestEvent
from pdkernel.session.session import Session
from pdkernel.session.timeline_output import render_timeline

__all__ = ["EventLibrary", "Session", "TestEvent", "render_timeline"]
