"""
Runs a workflow on an event and records what every step did.

Knows the order of things: check the end user, resolve accounts, evaluate props, run the step, record, go on.
Clock, ids, directory, journal and the processes that run steps are arguments. Knows nothing of notebooks,
HTTP servers or how an execution is shown.

    request       what a run is asked to do
    context       `steps.trigger.context`
    lookup        the account look-up: the four end-user errors, and whose account each step gets
    facts         what a directory says about users and accounts, asked once
    end_users     the accounts of a run, with what its steps are given
    app_props     the apps that steps use
    packages      what steps import, installed before the first step
    checks        what refuses a run before any step
    record        one run's record, and its rows in the journal
    recorder      one step's record while it runs: redacted, in order
    interpreter   the order of a run
    run_state     what the steps of a run share
    step_run      one step's turn: pinned, run, run again, paused
    attempt       one attempt at a step: what it is given, what is said of what it did
    outside_calls how a step's outside calls are treated, and what a refusal means for it
    journal/      the record on disk
    runtime       the parts of one process, assembled
"""
