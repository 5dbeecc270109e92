"""
A notebook's session: the draft workflow, the chosen settings and the results of runs.

    session         the session object that magics and widgets use
    notebook_state  the part of the session that the modules below read, as a protocol
    draft           cells to workflow, in the notebook's order
    run_settings    chosen event, external user, outbound policy and pins
    run_requests    settings to requests for the engine
    step_results    last results, and which results are stale
    recent_runs     the latest runs, which can be saved as tests
    state_store     state that survives a restart of the kernel
    lazy_project    the local project, opened at first use
    actions         pre-built actions: search, description, options
    debugger        steps with --debug, run in the kernel's main thread
    engine_thread   the engine's thread: one run at a time
    notebook_server the draft behind an HTTP endpoint
    connect_links   links where a person connects an account
    snippet_runner  client snippets, run against an endpoint
    timeline_output an execution as the notebook shows it
    export_proof    proof of an export
    snapshot_test   a run saved as a snapshot test
"""

from pdkernel.session.session import Session
from pdkernel.session.timeline_output import render_timeline

__all__ = ["Session", "render_timeline"]
