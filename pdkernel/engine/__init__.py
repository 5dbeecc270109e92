"""
Runs a workflow on an event and records the result of every step.

Clock, ids, directory, journal and worker pool are arguments.

    workflow_engine      the parts of one process, assembled
    run_request          the choices of a caller
    interpreter          a run from its request to its execution
    preflight_checks     checks before the first step
    step_actions         the actions of a run, and the apps that its steps use
    step_packages        packages that steps import, installed before the first step
    run_packages         the packages of one run, and their lock
    account_lookup       the account of each app prop, or the end-user error
    account_resolution   accounts with their credentials and secrets
    step_executor        one step of a run: pinned, executed, rerun, paused
    outbound_calls       outbound calls of a step, and the effect of a refused call
    run_record           the record of a run, and its rows in the journal
    deliveries           delivery of `$.send` after the last step
    event_sources        runs of event sources
    variables            environment variables and secret props for steps
"""
