"""
A notebook's session: the draft workflow, the chosen settings and the results of runs.

    session         the session object that magics and widgets use
    draft           cells to workflow, in the notebook's order; the cells that a front end shows
    state           the settings of runs, and the state that survives a restart of the kernel
    step_results    last results, stale results, and the latest runs
    engine_thread   the project and the engine, opened at first use; one run at a time, and paused runs
    timeline        an execution as the notebook shows it
    actions         pre-built actions: search, description, options
    debugger        steps with --debug, run in the kernel's main thread
    notebook_server the draft behind an HTTP endpoint
    connect_links   links where a person connects an account
"""

from pdkernel.kit.session.draft import LiveNotebook
from pdkernel.kit.session.session import Session

__all__ = ["LiveNotebook", "Session"]
