"""
What a person can ask for, written once: interfaces parse the arguments, call an operation and print its result.

    actions      pre-built actions: the search, their descriptions, and the data of their forms
    batches      runs of a workflow for each of several external users
    environment  environment variables
    events       saved events, the shape of events, and their check against a workflow's contract
    export       the files that Pipedream deploys, and their proof
    invocation   a call of a workflow's endpoint
    keys         the replacement of the project's keys
    projects     the local project, found and opened
    records      workflows compared with their runs that were recorded at Pipedream
    run_history  recorded runs: listed, cancelled, resumed and removed
    run_replay   recorded events, run again
    runs         requests for runs: steps, external users, pins; options of saved tests
    shared_engine an engine that the runs of one program share
    snippets     programs that call an endpoint, and their runs
    triggers     triggers that fire while a server runs, and event sources
    stores       views of data stores
    users        external users: the connection of an account, and the search
    readiness/   whether workflows can run for external users, without running code
    importer/    synced folders as notebooks

An operation takes a project, a directory or a workflow, and values. It returns values, and raises `PdkernelError`.
"""
