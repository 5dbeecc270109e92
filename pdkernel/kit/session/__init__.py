"""
A notebook's session: the draft workflow, the chosen settings and the results of runs.

    session         the session object that magics and widgets use
    notebook_state  its state: draft, settings of runs, last results; an execution as the notebook shows it
    draft           cells to workflow, in the notebook's order; the cells that a front end shows
    step_results    last results, stale results, and the latest runs
    state_store     state that survives a restart of the kernel
    lazy_project    the local project, opened at first use
    actions         pre-built actions: search, description, options
    debugger        steps with --debug, run in the kernel's main thread
    engine_thread   the engine's thread: one run at a time
    paused_runs     paused runs, and what continues them
    notebook_server the draft behind an HTTP endpoint
    connect_links   links where a person connects an account
"""

from pdkernel.kit.session.draft import LiveNotebook
from pdkernel.kit.session.notebook_state import RESUME_LINE, render_timeline
from pdkernel.kit.session.session import Session

__all__ = ["RESUME_LINE", "LiveNotebook", "Session", "render_timeline"]
